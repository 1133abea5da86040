"""What is in the sound and the features of an utterance: length, level, shape, and a hash that knows copies."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dataloader import MIN_SAMPLES, SAMPLE_RATE, read_audio, read_duration, read_features
from running.errors import InputError
from running.progress import progress_bar

SILENCE = 10 ** (-60 / 20)  # peak below -60 dB of full scale
CLIPPED_LEVEL = 0.999  # of full scale
NO_FEATURES = "no features"


@dataclass
class Content:
    """What is in the files of one utterance; None where there is nothing to know."""

    errors: list
    duration: float | None = None  # seconds of sound
    peak: float | None = None  # of full scale
    clipped: float | None = None  # share of the samples at full scale
    sound: str | None = None  # hash of the decoded samples, None for silence
    frames: int | None = None
    dim: int | None = None
    features: str | None = None  # hash of the feature rows, None when they are all the same


def add_content(table, wants_features):
    """Add the fields of Content, reading the files of every different utterance once."""
    keys = list(zip(table["path"], table["features"], strict=True))
    unique = list(dict.fromkeys(keys))
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda key: inspect(*key, wants_features), unique)
        contents = dict(zip(unique, progress_bar(found, total=len(unique), desc="Read", unit="utt"), strict=True))
    fields = pd.DataFrame([vars(contents[key]) for key in keys], index=table.index)
    numbers = ["duration", "peak", "clipped", "frames", "dim"]
    fields = fields.astype(dict.fromkeys(numbers, float))
    return pd.concat([table.drop(columns="features"), fields], axis=1)


def inspect(path, features, wants_features):
    """Read the sound and the features of one utterance: Content."""
    content, parts = Content(errors=[]), [(_inspect_sound, path)]
    if wants_features:
        parts.append((_inspect_features, features))
    for inspect_part, source in parts:
        try:
            inspect_part(content, source)
        except InputError as error:
            content.errors.append(str(error))
    return content


def _inspect_sound(content, path):
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    samples = read_audio(path) if read_duration(path) else ()
    if len(samples) < MIN_SAMPLES:
        raise InputError(f"{path}: {len(samples) / SAMPLE_RATE * 1000:.1f} ms of sound; at least 25 ms are needed")
    if not np.isfinite(samples).all():
        raise InputError(f"{path}: holds NaN or infinity")
    level = np.abs(samples)
    content.duration, content.peak = len(samples) / SAMPLE_RATE, float(level.max())
    content.clipped = float((level >= CLIPPED_LEVEL).mean())
    if content.peak >= SILENCE:
        content.sound = _hash(np.round(samples * 32768).astype("<i4"))


def _inspect_features(content, path):
    if not path:
        raise InputError(NO_FEATURES)
    rows = np.asarray(read_features(path))
    if not np.isfinite(rows).all():
        raise InputError(f"{path}: holds NaN or infinity")
    content.frames, content.dim = rows.shape
    if len(rows) == 1 or (rows != rows[0]).any():
        content.features = _hash(rows.astype("<f4"))


def _hash(array):
    return hashlib.blake2b(np.ascontiguousarray(array), digest_size=16).hexdigest()
