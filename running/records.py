"""What a run leaves in its folder: written whole or not at all, and saying where it comes from."""

import contextlib
import csv
import functools
import hashlib
import io
import json
import os
import platform
import shlex
import subprocess
import sys
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from running.errors import InputError

PACKAGES = ("torch", "torchaudio", "transformers", "accelerate", "numpy", "pandas", "scipy", "scikit-learn")
PACKAGES += ("soundfile", "av", "librosa", "matplotlib")
FORMULA = tuple("=+-@\t\r")  # what a spreadsheet takes for the beginning of one


@contextlib.contextmanager
def replace_file(path):
    """Yield a binary file that takes the place of `path` when all is written and flushed to the disk.

    A reader finds the old file or the new one, never half of it; several processes may write one path at a time.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync(path):
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path, content):
    """Write JSON, whole or not at all. Raises: ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path, text):
    """Write UTF-8 text, whole or not at all."""
    with replace_file(path) as file:
        file.write(text.encode())


def write_array(path, array):
    """Write a .npy file, whole or not at all; what is unfinished has a hidden name."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # without a flush: it can be computed again
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)


def read_json(path):
    """Raises: InputError that names a file which is missing or no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def disarm(text):
    """A text that people typed, with an apostrophe ahead where a spreadsheet would run it; `rearm` takes it off."""
    return f"'{text}" if text.lstrip("'").startswith(FORMULA) else text


def rearm(text):
    """The text that `disarm` was given."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(FORMULA) else text


def write_predictions(path, utt_ids, labels, predictions, probabilities, names):
    """One line an utterance: utt_id,label,prediction,prob_<name>...; label and prediction are names, all `disarm`ed.

    Args:
        labels, predictions: (n,) int; probabilities: (n, C) float; names: the C class names.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["utt_id", "label", "prediction", *(f"prob_{name}" for name in names)])
    for utt_id, label, prediction, row in zip(utt_ids, labels, predictions, probabilities, strict=True):
        texts = map(disarm, (utt_id, names[label], names[prediction]))
        writer.writerow([*texts, *(f"{p:.9g}" for p in row)])
    write_text(path, text.getvalue())


def hash_file(path):
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileTable:
    """Size and time of the last change of n files, in 16 bytes a file beside its path.

    Args: paths: list. stats: (n, 2) int64, bytes and ns.
    """

    def __init__(self, paths, stats):
        self.paths, self.stats = paths, stats

    def __len__(self):
        return len(self.paths)

    def items(self):
        """Pairs of a path and its [bytes, ns]."""
        return ((path, row.tolist()) for path, row in zip(self.paths, self.stats, strict=True))

    def write(self, path):
        """Leave a JSON object, a file a line, whole or not at all."""
        with replace_file(path) as file:
            file.write(b"{")
            for i, (name, entry) in enumerate(self.items()):
                file.write(f"{',' * (i > 0)}\n{json.dumps(name, ensure_ascii=False)}: {json.dumps(entry)}".encode())
            file.write(b"\n}\n")


def checksum_weights(model):
    """CRC-32 of all weights, eight hexadecimal digits: tells two checkpoints at one path apart.

    Args: model: module, or {name: tensor}.
    """
    crc = 0
    for _, value in sorted((model if isinstance(model, dict) else model.state_dict()).items()):
        crc = zlib.crc32(value.contiguous().cpu().numpy(), crc)
    return f"{crc:08x}"


def describe_environment(lists, **more):
    """Versions, commit, hardware, command and the hash of each list: what a reviewer asks for."""
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "sha256": {str(path): hash_file(path) for path in lists},
        **more,
    }


@functools.cache
def git_commit():
    """The commit of this code, with `-dirty` for uncommitted changes; None outside a git checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parents[1]),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
