"""What a reader must know before comparing rows: what is missing, mixed or different."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd

from corpus.folds import natural_order

ROW_FLAGS = ("modality", "avel_weight", "mem_weight")  # what makes a row
FOLD_FLAGS = ("train_src", "valid_src", "test_src", "save_root", "seed")  # what differs within a row
IDLE_FLAGS = ("resume", "num_workers", "report_to")  # what changes no number


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
