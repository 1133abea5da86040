"""A trained checkpoint applied: clips in, emotions out, with timelines, pictures and exports."""
