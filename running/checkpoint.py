"""Checkpoints: folders that are whole or not there, and that say themselves whether they are.

    <name>.new    being written
    <name>        the newest whole one
    <name>.old    the one before it

`manifest.json` in each holds the epoch and step that it is of, the code, and size and SHA-256 of every file. A new one
is written beside the others, flushed to the disk, and then renamed; no copy is removed while it could be the only one.
Nothing in a checkpoint is ever unpickled: weights are safetensors, the rest JSON and .npz without objects.
"""

import hashlib
import json
import shutil
from pathlib import Path

from running.errors import InputError
from running.records import git_commit, hash_file, sync, write_text

MANIFEST = "manifest.json"


def versions(path):
    """The places where a checkpoint may lie: being written, newest, the one before."""
    return [Path(f"{path}.new"), Path(path), Path(f"{path}.old")]


def write_version(path, accelerator, fill, about):
    """Write a checkpoint beside the last one and put it in its place.

    Args:
        path: the folder. accelerator: of accelerate, for its barrier.
        fill: function of a folder, called in every process; files of different processes have different names.
        about: dict, at least `epoch` and `step`; what else the manifest is to hold.
    """
    new, newest, old = versions(path)
    if accelerator.is_main_process:
        shutil.rmtree(new, ignore_errors=True)  # `adopt` has seen to it that this is no whole one
        new.mkdir(parents=True)
    accelerator.wait_for_everyone()
    fill(new)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_manifest(new, about)
        if newest.exists():
            shutil.rmtree(old, ignore_errors=True)
            newest.rename(old)
        new.rename(newest)
        sync(newest.parent)
    accelerator.wait_for_everyone()


def write_manifest(folder, about):
    """Flush every file of a folder to the disk, and record it; `manifest.json` comes last."""
    files = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        sync(file)
        files[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "sha256": hash_file(file)}
    content = {**about, "commit": git_commit(), "files": files}
    write_text(folder / MANIFEST, json.dumps({**content, "sha256": _hash_content(content)}, indent=1, allow_nan=False))
    sync(folder)


def _hash_content(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder):
    """The manifest of a checkpoint. Raises: InputError that names the file."""
    path = Path(folder, MANIFEST)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("sha256") != _hash_content(content):
            raise InputError(f"{path}: is not what was written")
        return content
    except FileNotFoundError:
        raise InputError(f"{folder}: has no {MANIFEST}, it was not finished") from None
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged ({error})") from error


def verify(folder):
    """Read every file of a checkpoint and compare it with the manifest. Raises: InputError that names the file."""
    for name, recorded in read_manifest(folder)["files"].items():
        file = Path(folder, name)
        if not file.is_file():
            raise InputError(f"{file}: is missing")
        if file.stat().st_size != recorded["bytes"]:
            raise InputError(f"{file}: {file.stat().st_size} bytes where {recorded['bytes']} were written")
        if hash_file(file) != recorded["sha256"]:
            raise InputError(f"{file}: is not what was written (SHA-256)")


def find_version(path, epoch=None):
    """The newest checkpoint that is whole.

    Args:
        path: the folder. epoch: take none but this one's.
    Returns: its folder, or None where there is none at all; and a list of what is wrong with newer ones.
    Raises: InputError where there are some, and none is whole.
    """
    found, problems, others = [], [], []
    for folder in filter(Path.is_dir, versions(path)):
        try:
            manifest = read_manifest(folder)
            if epoch is None or manifest["epoch"] == epoch:
                found.append((manifest["step"], folder))
            else:
                others.append(f"{folder}: is of epoch {manifest['epoch']}, not {epoch}")
        except InputError as error:
            if not folder.name.endswith(".new"):  # an interrupted one is no damage
                problems.append(str(error))
    for _, folder in sorted(found, key=lambda item: -item[0]):
        try:
            verify(folder)
            return folder, problems
        except InputError as error:
            problems.append(str(error))
    if problems or others:
        raise InputError("; ".join([*problems, *others]))
    return None, []


def adopt(path, folder):
    """Put the version that `find_version` chose in its place, before anything is written."""
    new, newest, old = versions(path)
    if folder == new:
        if newest.exists():
            shutil.rmtree(old, ignore_errors=True)
            newest.rename(old)
        new.rename(newest)
    elif folder == old:
        shutil.rmtree(newest, ignore_errors=True)
        old.rename(newest)
    shutil.rmtree(new, ignore_errors=True)
    sync(newest.parent)


def forget_older(path):
    """Remove all but the newest version, once nothing will go on from it."""
    new, _, old = versions(path)
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
