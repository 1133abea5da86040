"""What a reader must know before comparing rows: what is missing, mixed or different."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import pandas as pd

from corpus.folds import natural_order
from report.explanations import explain_equality, have_same_predictions
from running.finished import FREE_ON_RESUME

ROW_FLAGS = ("modality", "avel_weight", "mem_weight")  # what makes a row
FOLD_FLAGS = ("train_src", "valid_src", "test_src", "save_root", "seed")  # what differs within a row
IDLE_FLAGS = FREE_ON_RESUME  # what changes no number


def find_problems(experiments, unfinished=()):
    """What a reader must know before comparing: everything missing, mixed or different. Returns: list of sentences."""
    problems = []
    if len(experiments) > 1:
        kinds = ", ".join(f"{e.protocol} protocol with {' '.join(e.labels)}" for e in experiments)
        problems.append(f"different protocols or labels, in separate tables and never averaged: {kinds}")
    problems += [f"{folder} is not finished and not counted" for folder in unfinished]
    for experiment in experiments:
        prefix = f"{experiment.protocol} protocol: " if len(experiments) > 1 else ""
        found = [f(experiment) for f in (_find_missing_folds, _find_absent_classes, _find_differences, _find_copies)]
        problems += [prefix + text for texts in found for text in texts]
    return problems


def _find_missing_folds(experiment):
    expected = set(experiment.folds).union(*[_listed_folds(run) for s in experiment.systems for run in s.runs])
    expected |= {run.fold for system in experiment.systems for run in system.left_out}
    seeds = {run.seed for system in experiment.systems for run in system.all_runs}
    problems = []
    for system in experiment.systems:
        for seed in sorted(seeds):
            missing = sorted(expected - {run.fold for run in system.all_runs if run.seed == seed}, key=natural_order)
            if len(missing) == len(expected):
                problems.append(f"{system.name}: no run with seed {seed}, which other rows have")
            elif missing:
                what = "means are over the others" if seed in system.seeds else "this seed is left out of every number"
                problems.append(f"{system.name}, seed {seed}: no fold {', '.join(missing)}; {what}")
    return problems


def _find_absent_classes(experiment):
    """Folds whose UA is over fewer classes than the labels, and classes that occur nowhere."""
    counts = experiment.count_labels()
    absent = {
        fold: [name for name, n in zip(experiment.labels, labels, strict=True) if n == 0]
        for fold, labels in counts.items()
    }
    nowhere = [name for name in experiment.labels if all(name in names for names in absent.values())]
    problems = [f"no utterance of {', '.join(nowhere)} anywhere: UA is over the other classes"] if nowhere else []
    for fold, names in absent.items():
        if names := [name for name in names if name not in nowhere]:
            problems.append(
                f"fold {fold}: no utterance of {', '.join(names)}; its UA is over the other classes, "
                "unlike that of the folds that it is averaged with"
            )
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


def _find_copies(experiment):
    """Rows that agree to the last prediction, though nothing makes them."""
    return [
        f"{first.name} and {second.name} agree in every prediction: a copy, or a flag without effect?"
        for first, second in combinations(experiment.systems, 2)
        if have_same_predictions(first, second) and not explain_equality(first, second)
    ]


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
