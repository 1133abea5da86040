"""Is a finished run the one that is asked for now? Its folder says with which flags of train.py it was trained."""

import json
import os
import re
import shlex
from pathlib import Path

from running.errors import InputError

FREE_ON_RESUME = (  # flags that leave the mathematics alone
    *("resume", "num_workers", "report_to", "save_root"),
    *("save_every", "max_bad_steps", "accept_changes", "data_license"),
)


def may_train_longer(before, flags):
    """Whether a run may go on for more epochs than it began with: where its learning rate does not know their number.

    Args: before, flags: dict of the flags of train.py, as the run began and now.
    """
    return before.get("scheduler") == flags["scheduler"] == "none" and flags["epochs"] > before.get("epochs", 0)


def explain_refusal(changed):
    """Why more epochs are refused, the end of a sentence; empty where they are not. Args: changed: list of texts."""
    if not any(text.startswith("--epochs") for text in changed):
        return ""
    return " (a schedule ends with the epochs, so a longer run is another run; --scheduler none may go on)"


def check_finished(folder, command):
    """Refuse a command whose run is finished already, but with other flags.

    What was given then is in environment.json, what it meant in args.json; either may be absent from the folder.

    Args:
        folder: Path of a run with a result.json. command: list of str, the words `... train.py --lr 1e-4 ...`.
    Raises: InputError that names the folder and the first flag that differs.
    """
    args = _read(folder / "args.json")
    then = read_flags(shlex.split(_read(folder / "environment.json").get("command", "")), args)
    now = read_flags(command, args)
    for name in [name for name in {**now, **then} if name in args and name not in FREE_ON_RESUME]:
        if name == "epochs" and args.get("debug"):
            continue  # --debug has cut them
        if name in now and agrees(args[name], now[name]):
            continue
        asked = f"with --{name} {' '.join(now[name] or ['True'])}" if name in now else f"without --{name}"
        raise InputError(
            f"{folder}: finished before {_describe(name, args[name])}, now asked for {asked}; "
            "name another SAVE_ROOT, or remove this folder to train it again"
        )


def read_flags(command, names):
    """The flags of a train.py command line: {name: list of the words after it}, the last of several, as argparse does.

    Args:
        command: list of str; what stands before train.py is the launcher's. names: to complete abbreviations by.
    """
    flags, words = {}, []
    start = next((i + 1 for i, word in enumerate(command) if Path(word).name == "train.py"), 0)
    for word in command[start:]:
        if not re.match("--[a-z]", word):
            words.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        longer = [full for full in names if full.startswith(name)]
        name = longer[0] if len(longer) == 1 and name not in names else name
        words = flags[name] = [value] if equals else []
    return flags


def agrees(recorded, words):
    """Whether the words after a flag mean the value that args.json holds for it."""
    text = words[-1] if words else "True"
    if isinstance(recorded, bool):
        return text.lower() in (("true", "yes", "1", "on") if recorded else ("false", "no", "0", "off"))
    if isinstance(recorded, (int, float)):
        try:
            return float(text) == recorded
        except ValueError:
            return False
    if isinstance(recorded, list):
        return recorded == words
    if isinstance(recorded, dict):  # of --label_map
        return text.replace(" ", "").strip(",") == _join(recorded)
    return recorded is not None and os.path.abspath(text) == os.path.abspath(recorded)  # most texts are paths


def _describe(name, value):
    if value is None:
        return f"without --{name}"
    text = _join(value) if isinstance(value, dict) else " ".join(value) if isinstance(value, list) else value
    return f"with --{name} {text}"


def _join(mapping):
    return ",".join(f"{old}={new}" for old, new in mapping.items())


def _read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
