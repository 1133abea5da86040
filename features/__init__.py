"""What turns files into .npy streams on disk: decoding, faces, encoders. Nothing of labels or training."""
