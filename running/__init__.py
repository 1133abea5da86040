"""What every long run needs: its folder, resume, precision, launch, errors, evaluation. Nothing of a corpus."""
