"""Utterances cut out of longer sounds, so that each has a file that a list can name."""

import contextlib
import logging
import os
from pathlib import Path

import pandas as pd
import soundfile as sf

from dataloader import MIN_SAMPLES, SAMPLE_RATE, read_audio, read_duration
from running.errors import InputError, join_problems
from running.progress import progress_bar

logger = logging.getLogger("foalnet.cutting")

TOLERANCE = 0.5  # seconds that an end may lie behind the end of its sound without a word


def cut_audio(table, audio_root):
    """Cut the utterances that are a part of a longer file to `<audio_root>/<id>.wav`, 16 kHz mono, 16 bit.

    A row counts when it has `start` or `end` and its sound is in the file of its picture. A finished cut is kept; it
    carries where it was cut from, and is cut again when that has changed.

    Args:
        table: manifest.
        audio_root: folder, made when needed.
    Returns: the manifest with the `path` of these rows set to their cut.
    Raises: InputError that names every utterance whose sound can't be read or is shorter than 25 ms.
    """
    parts = table[(table["path"] == table["video"]) & (table["start"].notna() | table["end"].notna())]
    if parts.empty:
        return table
    audio_root = Path(os.path.abspath(audio_root))
    audio_root.mkdir(parents=True, exist_ok=True)
    warn_past(parts)
    problems, paths = [], table["path"].copy()
    for row in progress_bar(
        parts.sort_values(["path", "start"]).itertuples(), total=len(parts), desc="Cut", unit="utt"
    ):
        paths[row.Index] = str(audio_root / f"{row.id}.wav")
        try:
            cut_one(row.path, row.start, row.end, paths[row.Index])
        except InputError as error:
            problems.append(f"{row.id}: {error}")
    if problems:
        raise InputError(join_problems(problems))
    return table.assign(path=paths)


def warn_past(parts):
    """One line for all utterances that end behind the end of their sound, which cut_one then takes for their end."""
    past = []
    for source, rows in parts.dropna(subset=["end"]).groupby("path"):
        with contextlib.suppress(InputError):  # cut_one names it
            length = read_duration(source)
            past += [
                f"{row.id} ({row.end:.2f} of {length:.2f} s)"
                for row in rows.itertuples()
                if row.end > length + TOLERANCE
            ]
    if past:
        names = ", ".join(past[:3]) + ", ..." * (len(past) > 3)
        logger.warning("%d utterances end past their sound and are cut at its end: %s", len(past), names)


def cut_one(source, start, end, target):
    """Cut seconds start to end (NaN: the whole side) of a sound; the target is there whole or not at all."""
    if not Path(source).is_file():
        raise InputError(f"{source}: no such file")
    start = 0.0 if pd.isna(start) else start
    origin = f"{source} {start:.4f}-{'' if pd.isna(end) else f'{end:.4f}'} of {Path(source).stat().st_size} bytes"
    if _origin(target) == origin:
        return
    if start >= (length := read_duration(source)):
        raise InputError(f"{source}: start {start:.4f} is not before its end at {length:.4f} s")
    samples = read_audio(source, max_length=None if pd.isna(end) else end - start, start=start)
    if len(samples) < MIN_SAMPLES:
        raise InputError(f"{source}: {len(samples)} samples at {start:.4f} s; at least 25 ms are needed")
    unfinished = f"{target}.part"
    with sf.SoundFile(unfinished, "w", SAMPLE_RATE, 1, subtype="PCM_16", format="WAV") as file:
        file.comment = origin
        file.write(samples)
    os.replace(unfinished, target)


def _origin(path):
    try:
        with sf.SoundFile(path) as file:
            return file.comment
    except sf.LibsndfileError:
        return None
