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
ROUNDING = 1e-4  # of a probability in a file, at most


@dataclass
class Run:
    """One finished training: a fold and a seed."""

    folder: Path
    result: dict
    args: dict
    environment: dict
    history: list  # dicts of metrics.jsonl
    predictions: pd.DataFrame  # utt_id, label, prediction; indexes of classes
    probabilities: np.ndarray | None = None  # (n, C) of the predictions; None where the file has none
    choosing: tuple | None = None  # the two of the list that chose the epoch, where it is not the reported one

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
    path = folder / f"predictions_{result['reported']}.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such file, though result.json reports it")
    predictions, probabilities = _read_predictions(path, result["labels"])
    confusion = count_confusion(predictions["label"], predictions["prediction"], len(result["labels"]))
    if (confusion != np.array(result["confusion"])).any():
        raise InputError(f"{path}: does not give the confusion matrix of result.json; are they of the same run?")
    path, choosing = folder / "predictions_valid.csv", None
    if result["reported"] != "valid" and path.is_file():
        choosing = _read_predictions(path, result["labels"])
    return Run(folder, result, *optional, history, predictions, probabilities, choosing)


def _read_predictions(path, names):
    """The predictions of a list, and their probabilities (n, C) or None. Raises: InputError."""
    columns = ["utt_id", "label", "prediction"]
    try:
        whole = pd.read_csv(path, dtype=str, keep_default_na=False)
        table = whole[columns].map(rearm)
    except (KeyError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a table with utt_id,label,prediction: {error}") from error
    index = {name: i for i, name in enumerate(names)}
    unknown = sorted((set(table["label"]) | set(table["prediction"])) - set(index))
    if unknown:
        raise InputError(f"{path}: {', '.join(unknown)}: not among the labels {' '.join(index)} of result.json")
    if table["utt_id"].duplicated().any():
        raise InputError(f"{path}: {table['utt_id'][table['utt_id'].duplicated()].iloc[0]} stands there twice")
    table[["label", "prediction"]] = table[["label", "prediction"]].map(index.get)
    return table, _read_probabilities(path, whole, [f"prob_{name}" for name in names])


def _read_probabilities(path, table, columns):
    """(n, C) float64; None where a column is missing. Raises: InputError for what is no probability."""
    if not set(columns) <= set(table):
        return None
    try:
        probabilities = table[columns].to_numpy(float)
    except ValueError as error:
        raise InputError(f"{path}: a probability is not a number: {error}") from error
    sums = probabilities.sum(1)
    bad = ~((probabilities >= 0).all(1) & (abs(sums - 1) < ROUNDING * len(columns)))
    if bad.any():
        found = f"{table['utt_id'][bad.argmax()]} sum to {sums[bad.argmax()]:g}"
        raise InputError(f"{path}: the probabilities of {found}; numbers from 0 that sum to 1 are expected")
    return probabilities


def _read_json(path):
    return _parse_json(path.read_text(encoding="utf-8"), path)


def _parse_json(text, where):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error}") from error
