"""Finished run folders, read back; a run is one fold and one seed.

What the files of a folder say of each other is checked here, so that everything after may trust it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from corpus.folds import natural_order
from running.errors import InputError, join_problems
from running.metrics import count_confusion
from running.records import rearm

RESULT_KEYS = "protocol reported modality labels avel_weight mem_weight seed confusion best_epoch epochs".split()


@dataclass
class Run:
    """One finished training: a fold and a seed."""

    folder: Path
    result: dict
    args: dict
    environment: dict
    history: list  # dicts of metrics.jsonl
    predictions: pd.DataFrame  # utt_id, label, prediction; indexes of classes

    @property
    def fold(self):
        return self.folder.name

    @property
    def seed(self):
        return self.result["seed"]


def find_runs(root):
    """Read every finished run below a folder.

    Args:
        root: folder; each folder in it, at any depth, that holds a result.json is a run.
    Returns: list of Run in natural order, and the list of run folders that aren't finished.
    Raises: InputError that names every unreadable file.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; a folder of runs is needed")
    finished = sorted((path.parent for path in root.rglob("result.json")), key=natural_order)
    started = sorted((path.parent for path in root.rglob("args.json")), key=natural_order)
    if not finished:
        state = f"; {len(started)} runs in it are not finished" if started else ""
        raise InputError(f"{root}: holds no result.json, so no finished run{state}")
    runs, problems = [], []
    for folder in finished:
        try:
            runs.append(read_run(folder))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(join_problems(problems))
    return runs, [folder for folder in started if folder not in set(finished)]


def read_run(folder):
    """Read one finished run folder. Raises: InputError when a file is missing or they contradict each other."""
    folder = Path(folder)
    result = _read_json(folder / "result.json")
    absent = [key for key in RESULT_KEYS if key not in result]
    if absent:
        raise InputError(f"{folder / 'result.json'}: has no {', '.join(absent)}")
    optional = [
        _read_json(path) if path.is_file() else {} for path in (folder / "args.json", folder / "environment.json")
    ]
    history = []
    if (folder / "metrics.jsonl").is_file():
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        history = [_parse_json(line, f"{folder / 'metrics.jsonl'}: line {i}") for i, line in enumerate(lines, start=1)]
    predictions = _read_predictions(folder / f"predictions_{result['reported']}.csv", result)
    return Run(folder, result, *optional, history, predictions)


def _read_predictions(path, result):
    if not path.is_file():
        raise InputError(f"{path}: no such file, though result.json reports it")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=["utt_id", "label", "prediction"])
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a table with utt_id,label,prediction: {error}") from error
    table = table.map(rearm)
    index = {name: i for i, name in enumerate(result["labels"])}
    unknown = sorted((set(table["label"]) | set(table["prediction"])) - set(index))
    if unknown:
        raise InputError(f"{path}: {', '.join(unknown)}: not among the labels {' '.join(index)} of result.json")
    if table["utt_id"].duplicated().any():
        raise InputError(f"{path}: {table['utt_id'][table['utt_id'].duplicated()].iloc[0]} stands there twice")
    table[["label", "prediction"]] = table[["label", "prediction"]].map(index.get)
    if (count_confusion(table["label"], table["prediction"], len(index)) != np.array(result["confusion"])).any():
        raise InputError(f"{path}: does not give the confusion matrix of result.json; are they of the same run?")
    return table


def _read_json(path):
    return _parse_json(path.read_text(encoding="utf-8"), path)


def _parse_json(text, where):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error}") from error
