"""Finished run folders, read back and grouped: runs (a fold and a seed) -> systems (a row) -> experiments (a table).

Only runs that may be averaged share a system, only systems that may be compared share an experiment: the protocol and
the labels are the same throughout. What is missing or mixed is told by `find_problems`.
"""

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from corpus.folds import natural_order
from running.errors import InputError, join_problems
from running.metrics import count_confusion, summarize_confusion

SYSTEMS = ("audio only", "video only", "fusion baseline", "+ AVEL", "+ MEM", "+ AVEL + MEM")
DEFAULT_WEIGHTS = {"AVEL": 1.0, "MEM": 0.1}
RESULT_KEYS = "protocol reported modality labels avel_weight mem_weight seed confusion best_epoch epochs".split()
ROW_FLAGS = ("modality", "avel_weight", "mem_weight")  # what makes a row
FOLD_FLAGS = ("train_src", "valid_src", "test_src", "save_root", "seed")  # what differs within a row
IDLE_FLAGS = ("resume", "num_workers", "report_to")  # what changes no number


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


@dataclass
class System:
    """One row of a table: the folds and seeds of one model."""

    kind: str  # of `name_system`
    folder: Path  # above the seeds and folds
    runs: list
    name: str = ""  # the kind, with the folder where several systems are of that kind

    @property
    def labels(self):
        return self.runs[0].result["labels"]

    @property
    def protocol(self):
        return self.runs[0].result["protocol"]

    @property
    def folds(self):
        return list(dict.fromkeys(run.fold for run in self.runs))

    @property
    def seeds(self):
        return sorted({run.seed for run in self.runs})

    @property
    def frozen(self):
        """Whether WavLM was not trained."""
        return any(run.args.get("freeze_encoder") for run in self.runs)

    @cached_property
    def predictions(self):
        """utt_id, label, prediction, hit, seed, fold of every reported utterance of every run."""
        parts = [run.predictions.assign(seed=run.seed, fold=run.fold) for run in self.runs]
        table = pd.concat(parts, ignore_index=True)
        return table.assign(hit=table["label"] == table["prediction"])

    @cached_property
    def utterances(self):
        """label and hit (share of the seeds that were right) by utt_id."""
        return self.predictions.groupby("utt_id").agg(label=("label", "first"), hit=("hit", "mean"))

    @property
    def pooled(self):
        """WA, UA and the rest over all utterances (and seeds): the folds' confusion matrices summed."""
        return summarize_confusion(sum(np.asarray(run.result["confusion"]) for run in self.runs), self.labels)

    def by_fold(self, metric):
        """A metric by fold, the mean over its seeds: pandas.Series."""
        values = pd.DataFrame([(run.fold, run.result[metric]) for run in self.runs], columns=["fold", metric])
        return values.groupby("fold", sort=False)[metric].mean()

    def by_seed(self, metric):
        """The mean over the folds of a metric, by seed: pandas.Series."""
        values = pd.DataFrame([(run.seed, run.result[metric]) for run in self.runs], columns=["seed", metric])
        return values.groupby("seed")[metric].mean()


@dataclass
class Experiment:
    """The systems that may be compared: one protocol, one set of labels."""

    protocol: str
    labels: list
    systems: list

    @property
    def folds(self):
        return sorted({fold for system in self.systems for fold in system.folds}, key=natural_order)


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


def name_system(result):
    """The name of a row: one of SYSTEMS, followed by the weights where they aren't the paper's."""
    if result["modality"] != "av":
        return SYSTEMS[0] if result["modality"] == "a" else SYSTEMS[1]
    weights = {"AVEL": result["avel_weight"], "MEM": result["mem_weight"]}
    name = " ".join(f"+ {task}" for task, weight in weights.items() if weight > 0) or SYSTEMS[2]
    unusual = [f"{task} x {weight:g}" for task, weight in weights.items() if weight not in (0, DEFAULT_WEIGHTS[task])]
    return f"{name} ({', '.join(unusual)})" if unusual else name


def group_runs(runs, root):
    """Runs -> experiments of systems. Runs of different folders are different systems, `seedS` folders aside.

    Args:
        runs: list of Run, not empty. root: the folder they were found in; names what would else be ambiguous.
    Returns: list of Experiment.
    Raises: InputError when a fold and seed of one system is there twice.
    """
    systems = {}
    for run in runs:
        parent = run.folder.parent
        folder = parent.parent if parent.name == f"seed{run.seed}" else parent
        key = (run.result["protocol"], tuple(run.result["labels"]), name_system(run.result), folder)
        systems.setdefault(key, []).append(run)
    for (*_, name, folder), members in systems.items():
        for (seed, fold), n in Counter((run.seed, run.fold) for run in members).items():
            if n > 1:
                raise InputError(f"{folder}: {name}: fold {fold} with seed {seed} is there {n} times")
    experiments = {}
    for (protocol, labels, name, folder), members in systems.items():
        experiments.setdefault((protocol, labels), []).append(System(name, folder, members, name))
    for members in experiments.values():
        members.sort(key=lambda system: (_rank(system.kind), system.kind, natural_order(system.folder)))
        names = Counter(system.name for system in members)
        for system in members:
            if names[system.name] > 1:
                system.name += f" ({system.folder.relative_to(root)})" if system.folder != Path(root) else " (.)"
    return [Experiment(protocol, list(labels), members) for (protocol, labels), members in experiments.items()]


def _rank(name):
    plain = name.split(" (")[0]
    return SYSTEMS.index(plain) if plain in SYSTEMS else len(SYSTEMS)


def find_problems(experiments, unfinished=()):
    """What a reader must know before comparing: everything missing, mixed or different. Returns: list of sentences."""
    problems = []
    if len(experiments) > 1:
        kinds = ", ".join(f"{e.protocol} protocol with {' '.join(e.labels)}" for e in experiments)
        problems.append(f"different protocols or labels, in separate tables and never averaged: {kinds}")
    problems += [f"{folder} is not finished and not counted" for folder in unfinished]
    for experiment in experiments:
        prefix = f"{experiment.protocol} protocol: " if len(experiments) > 1 else ""
        problems += [prefix + text for text in _find_missing_folds(experiment) + _find_differences(experiment)]
    return problems


def _find_missing_folds(experiment):
    expected = set(experiment.folds).union(*[_listed_folds(run) for s in experiment.systems for run in s.runs])
    seeds = {seed for system in experiment.systems for seed in system.seeds}
    problems = []
    for system in experiment.systems:
        for seed in sorted(seeds):
            missing = sorted(expected - {run.fold for run in system.runs if run.seed == seed}, key=natural_order)
            if len(missing) == len(expected):
                problems.append(f"{system.name}: no run with seed {seed}, which other rows have")
            elif missing:
                problems.append(f"{system.name}, seed {seed}: no fold {', '.join(missing)}; means are over the others")
    return problems


def _listed_folds(run):
    """The folds whose lists lie beside the training list of a run, as far as that folder is still there."""
    path = Path(run.result.get("train_src") or "")
    if path.name != f"{run.fold}_train.scp":
        return set()
    return {other.name.removesuffix("_train.scp") for other in path.parent.glob("*_train.scp")}


def _find_differences(experiment):
    problems = []
    for system in experiment.systems:
        for flag, text in _differing_flags(system.runs, FOLD_FLAGS).items():
            problems.append(f"{system.name}: runs with different --{flag} in one row: {text}")
        repeated = system.predictions.duplicated(["utt_id", "seed"])
        if repeated.any():
            problems.append(f"{system.name}: {repeated.sum()} utterances are in several folds, and count several times")
        if any(run.args.get("debug") for run in system.runs):
            problems.append(f"{system.name}: --debug runs, a part of the data only")
    within = {flag for system in experiment.systems for flag in _differing_flags(system.runs, FOLD_FLAGS)}
    runs = [run for system in experiment.systems for run in system.runs]
    for flag, text in _differing_flags(runs, FOLD_FLAGS + ROW_FLAGS).items():
        if flag not in within:
            problems.append(f"rows differ in --{flag} too: {text}")
    sets = {frozenset(system.utterances.index) for system in experiment.systems}
    if len(sets) > 1:
        counts = ", ".join(f"{system.name} {len(system.utterances)}" for system in experiment.systems)
        problems.append(f"rows report different utterances, their scores are not comparable: {counts}")
    labels = pd.concat([system.utterances["label"] for system in experiment.systems]).groupby(level=0).nunique()
    if (labels > 1).any():
        problems.append(
            f"{(labels > 1).sum()} utterances have different labels in different rows, e.g. {labels.idxmax()}"
        )
    commits = {str(run.environment.get("git_commit"))[:12] for run in runs}
    if len(commits) > 1:
        problems.append(f"runs of different commits: {', '.join(sorted(commits))}")
    return problems


def _differing_flags(runs, free):
    """{flag: `value (folds)`} of flags that differ between runs, those of `free` and those without effect aside."""
    found = {}
    for flag in dict.fromkeys(flag for run in runs for flag in run.args):
        if flag in free or flag in IDLE_FLAGS:
            continue
        values = Counter(json.dumps(run.args[flag]) for run in runs if flag in run.args)
        if len(values) > 1:
            found[flag] = ", ".join(f"{value} in {n} runs" for value, n in values.items())
    return found
