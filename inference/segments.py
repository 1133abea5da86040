"""A long recording cut into what the model was trained on: utterances of a few seconds."""

import librosa
import numpy as np

from dataloader import SAMPLE_RATE

WAYS = ("windows", "speech", "first")
SLACK = 0.02  # of a window that a source may be longer and still is one
TOP_DB = 35  # below its loudest moment a recording counts as silent
GAP = 0.3  # seconds of silence that do not end a speech segment
SHORTEST = 0.3  # seconds of speech worth an answer


def cut_source(seconds, max_length, way="windows", overlap=0.5, samples=None):
    """The parts of a source that are answered for.

    Args:
        seconds: length of the source. max_length: seconds that the model takes at a time.
        way: of cutting a longer one: `windows`, as long as the model takes; `speech`, between pauses; `first`, its
            beginning alone, as in training.
        overlap: share of a window that the next one shows again, at least 0 and less than 1.
        samples: (n,) float at 16 kHz, for `speech`; None: windows.
    Returns: list of (start, end) in seconds, at least one.
    """
    if seconds <= max_length * (1 + SLACK):
        return [(0.0, seconds)]
    if way == "first":
        return [(0.0, max_length)]
    found = find_speech(samples, max_length) if way == "speech" and samples is not None else []
    return found or cut_windows(seconds, max_length, overlap)


def cut_windows(seconds, length, overlap):
    """Windows of equal length, the last one flush with the end."""
    step = length * (1 - overlap)
    n = 1 + int(np.ceil((seconds - length) / step - 1e-9))
    starts = [min(i * step, seconds - length) for i in range(n)]
    return [(start, start + length) for start in starts]


def find_speech(samples, max_length):
    """Stretches that are louder than the pauses (librosa.effects.split), none longer than max_length; may be none."""
    stretches = []
    for start, end in librosa.effects.split(samples, top_db=TOP_DB) / SAMPLE_RATE:
        if stretches and start - stretches[-1][1] <= GAP:
            stretches[-1][1] = end
        else:
            stretches.append([start, end])
    parts = []
    for start, end in stretches:
        if end - start >= SHORTEST:
            edges = np.linspace(start, end, 1 + int(np.ceil((end - start) / max_length)))
            parts += list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    return parts
