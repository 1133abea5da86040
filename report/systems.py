"""Runs grouped for the tables: runs (a fold and a seed) -> systems (a row) -> experiments (a table).

Only runs that may be averaged share a system, only systems that may be compared share an experiment: the protocol and
the labels are the same throughout. Only seeds that have every fold count: a mean over folds and seeds, a pooled score
and an interval are then over the same runs, and a seed that lacks a hard fold does not look like a better one.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from corpus.folds import natural_order
from running.errors import InputError
from running.metrics import summarize_confusion

SYSTEMS = ("audio only", "video only", "fusion baseline", "+ AVEL", "+ MEM", "+ AVEL + MEM")
DEFAULT_WEIGHTS = {"AVEL": 1.0, "MEM": 0.1}


@dataclass
class System:
    """One row of a table: the folds and seeds of one model."""

    kind: str  # of `name_system`
    folder: Path  # above the seeds and folds
    runs: list  # those that count, see `choose_complete`
    name: str = ""  # the kind, with the folder where several systems are of that kind
    left_out: list = field(default_factory=list)  # runs of seeds that lack a fold

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
    def all_runs(self):
        """Those that count and those that don't."""
        return [*self.runs, *self.left_out]

    @property
    def frozen(self):
        """Whether WavLM was trained in none of the runs."""
        return all(run.args.get("freeze_encoder") for run in self.runs)

    @cached_property
    def predictions(self):
        """utt_id, label, prediction, hit, seed, fold of every reported utterance of every run."""
        parts = [run.predictions.assign(seed=run.seed, fold=run.fold) for run in self.runs]
        table = pd.concat(parts, ignore_index=True)
        return table.assign(hit=table["label"] == table["prediction"])

    @cached_property
    def utterances(self):
        """label and hit (share of the seeds that were right) by utt_id: pandas.DataFrame."""
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

    def count_labels(self):
        """Utterances of each class, (C,) int, by fold in order; of the first system that has a fold."""
        counts = {}
        for fold in self.folds:
            run = next(run for system in self.systems for run in system.runs if run.fold == fold)
            counts[fold] = np.asarray(run.result["confusion"]).sum(1)
        return counts


def name_system(result):
    """The name of a row: one of SYSTEMS and the weights where they aren't the paper's; else the modality as it is."""
    if result["modality"] != "av":
        modality = str(result["modality"])
        return {"a": SYSTEMS[0], "v": SYSTEMS[1]}.get(modality, f"modality {modality}")
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
        runs, left_out = choose_complete(members)
        experiments.setdefault((protocol, labels), []).append(System(name, folder, runs, name, left_out))
    for members in experiments.values():
        members.sort(key=lambda system: (_rank(system.kind), system.kind, natural_order(system.folder)))
        names = Counter(system.name for system in members)
        for system in members:
            if names[system.name] > 1:
                system.name += f" ({system.folder.relative_to(root)})" if system.folder != Path(root) else " (.)"
    return [Experiment(protocol, list(labels), members) for (protocol, labels), members in experiments.items()]


def choose_complete(runs):
    """Those of the seeds that have every fold; where no seed has, those with the largest set of folds.

    Args:
        runs: list of Run, of one system.
    Returns: two lists of Run: those that count, those that are left out.
    """
    folds = {}
    for run in runs:
        folds.setdefault(run.seed, set()).add(run.fold)
    most = max(folds.values(), key=len)
    return [r for r in runs if folds[r.seed] == most], [r for r in runs if folds[r.seed] != most]


def _rank(name):
    plain = name.split(" (")[0]
    return SYSTEMS.index(plain) if plain in SYSTEMS else len(SYSTEMS)
