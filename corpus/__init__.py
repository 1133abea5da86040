"""What a corpus is and where it comes from: manifest, fold lists, one file a corpus, checks. Nothing of models."""
