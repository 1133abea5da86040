"""What a run leaves in its folder: written whole or not at all, and saying where it comes from."""

import contextlib
import csv
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

PACKAGES = ("torch", "torchaudio", "transformers", "accelerate", "numpy", "pandas", "scipy", "scikit-learn")
PACKAGES += ("soundfile", "av", "librosa", "matplotlib")


def write_json(path, content):
    """Write JSON so that a reader finds the old file or the new one, never half of it."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path, text):
    """Write UTF-8 text so that a reader finds the old file or the new one, never half of it."""
    new = Path(f"{path}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def write_array(path, array):
    """Write a .npy file, whole or not at all; what is unfinished has a hidden name."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


@contextlib.contextmanager
def replace_folder(folder, accelerator):
    """Fill the folder that this yields, in all processes; it then takes the place of `folder`, whole or not at all."""
    folder, new, old = Path(folder), Path(f"{folder}.new"), Path(f"{folder}.old")
    if accelerator.is_main_process:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
    accelerator.wait_for_everyone()
    yield new
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def find_folder(folder):
    """The folder that `replace_folder` last completed, or None."""
    return next((path for path in (Path(folder), Path(f"{folder}.old")) if path.is_dir()), None)


def write_predictions(path, utt_ids, labels, probabilities, names):
    """One line an utterance: utt_id,label,prediction,prob_<name>...; label and prediction are names.

    Args:
        labels: (n,) int; probabilities: (n, C) float; names: the C class names.
    """
    new = Path(f"{path}.new")
    with open(new, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["utt_id", "label", "prediction", *(f"prob_{name}" for name in names)])
        for utt_id, label, row in zip(utt_ids, labels, probabilities, strict=True):
            writer.writerow([utt_id, names[label], names[row.argmax()], *(f"{p:.6f}" for p in row)])
    os.replace(new, path)


def hash_file(path):
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_weights(model):
    """CRC-32 of all weights, eight hexadecimal digits: tells two checkpoints at one path apart."""
    crc = 0
    for _, value in sorted(model.state_dict().items()):
        crc = zlib.crc32(value.contiguous().cpu().numpy(), crc)
    return f"{crc:08x}"


def describe_environment(lists, **more):
    """Versions, commit, hardware, command and the hash of each list: what a reviewer asks for."""
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "git_commit": _git_commit(),
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


def _git_commit():
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
