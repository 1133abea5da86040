"""What turns files into .npy streams on disk: decoding, cropping, CLIP, WavLM states. Nothing of labels or training."""
