"""Which sound each state on disk was made of, and what is wrong with a state that is there.

`sounds.txt` in the folder of the states holds a line `bytes nanoseconds sha256 utt_id` an utterance: size, modification
time and content of its sound. Size and time say that a sound is the same, or that it must be looked into; its content
decides then, so that a corpus may be copied or touched and nothing is computed again.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloader import read_features
from running.errors import InputError
from running.records import hash_file, write_text

INDEX_FILE = "sounds.txt"
PLAIN_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': \((\d+), (\d+)\), } *\n"
)
MISSING, CHANGED, UNKNOWN, DAMAGED = "missing", "changed", "unknown", "damaged"


@dataclass(frozen=True)
class Sound:
    """A sound file as it was when its state was computed."""

    size: int  # bytes
    time: int  # of its last modification, ns
    sha256: str


@dataclass(frozen=True)
class Verdict:
    """What is to be done about the state of an utterance: `reason` is None where it may be used as it is."""

    utt_id: str
    reason: str | None
    sound: Sound  # as it is now
    detail: str = ""  # of DAMAGED


def read_sounds(root):
    """The index of a folder of states, {utt_id: Sound}; empty where there is none. Raises: InputError."""
    path, sounds = Path(root, INDEX_FILE), {}
    if not path.is_file():
        return sounds
    hint = "remove it and the states are computed again"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error}; {hint}") from error
    for number, line in enumerate(lines, start=1):
        try:
            size, time, sha256, utt_id = line.split()
            sounds[utt_id] = Sound(int(size), int(time), sha256)
        except ValueError as error:
            raise InputError(
                f"{path}: line {number}: {line[:80]!r} is not `bytes nanoseconds sha256 utt_id`; {hint}"
            ) from error
    return sounds


def write_sounds(root, sounds):
    """Write the index of a folder of states, whole or not at all. Args: sounds: {utt_id: Sound}."""
    lines = (f"{sound.size} {sound.time} {sound.sha256} {utt_id}\n" for utt_id, sound in sorted(sounds.items()))
    write_text(Path(root, INDEX_FILE), "".join(lines))


def judge_states(root, utterances, width):
    """Hold the states of a folder against the sounds they were made of.

    Args:
        root: folder of the states.
        utterances: list of Utterance.
        width: of the encoder.
    Returns: list of Verdict, parallel.
    Raises: InputError for an index that can't be read.
    """
    known = read_sounds(root)
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda item: _judge(root, item, known.get(item.utt_id), width), utterances))


def _judge(root, utterance, known, width):
    try:
        stat = Path(utterance.path).stat()
        state = Path(root, f"{utterance.utt_id}.npy")
        there = state.is_file()
        if there and known and (known.size, known.time) == (stat.st_size, stat.st_mtime_ns):
            sound = known
        else:
            sound = Sound(stat.st_size, stat.st_mtime_ns, hash_file(utterance.path))
    except OSError as error:
        raise InputError(f"{utterance.path}: cannot be read: {error.strerror}") from error
    if not there:
        return Verdict(utterance.utt_id, MISSING, sound)
    if known is None:
        return Verdict(utterance.utt_id, UNKNOWN, sound)
    if (known.size, known.sha256) != (sound.size, sound.sha256):
        return Verdict(utterance.utt_id, CHANGED, sound)
    fault = find_fault(state, width)
    return Verdict(utterance.utt_id, DAMAGED if fault else None, sound, fault or "")


def find_fault(path, width):
    """What the header and the size of a state tell of damage, a sentence, or None."""
    with open(path, "rb") as file:
        start, size = file.read(128), os.fstat(file.fileno()).st_size
    header = PLAIN_HEADER.fullmatch(start)  # reads a hundred thousand headers in seconds; numpy explains the others
    if header and int(header[2]) == width and size == 128 + 4 * width * int(header[1]) > 128:
        return None
    try:
        states = read_features(path)
    except InputError as error:
        return str(error)
    if states.shape[1] != width or states.dtype != np.float32:
        return f"{path}: dim {states.shape[1]}, {states.dtype}; the encoder gives {width}, float32"
    return None
