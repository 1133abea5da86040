"""What the tables say of systems, as numbers: the scores of one with intervals, the differences of two.

A difference of two systems is known of three units, which answer three questions. `seed`: would another training of
both show it again? `session`: would other people? `utterance`: do these two trained models differ on these people? Two
systems that are the same differ "significantly" over utterances in a third to half of all trainings (simulated: a std
of 0.6 to 1.0 UA between seeds, IEMOCAP's size), so that one is no claim about methods.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from report.systems import SYSTEMS, System
from running.significance import (
    bootstrap_p,
    compare_mcnemar,
    count_hits,
    percentile_interval,
    resample_scores,
    score_counts,
    t_interval,
    t_test_p,
    widen_interval,
)

METRICS = ("ua", "wa")
BASELINE, FULL = SYSTEMS[2], SYSTEMS[5]
FEWEST_SEEDS = 5  # below, a t test over seeds sees nothing but huge gains, and its std is a guess


@dataclass
class Difference:
    """A difference second - first, fractions of 1; nan for what a unit does not tell."""

    mean: float
    low: float
    high: float
    p: float  # two-sided
    n: int  # units
    values: np.ndarray | None = None  # (n,) by seed or session

    @property
    def std(self):
        return float(self.values.std(ddof=1)) if self.n > 1 else np.nan


@dataclass
class Comparison:
    """Two systems on the seeds, folds and utterances that both have."""

    first: System
    second: System
    differences: dict  # {(unit, metric): Difference}
    only_first: int  # utterances of the first shared seed that the first system alone got right
    only_second: int
    mcnemar_p: float
    mcnemar_n: int  # utterances of that seed

    @property
    def planned(self):
        """Whether it was decided on before anyone looked: with the fusion baseline or with the full model."""
        return bool({self.first.kind, self.second.kind} & {BASELINE, FULL})


def score_system(system, speakers, resamples, seed):
    """Everything about a row as numbers, fractions of 1.

    Args:
        system: System. speakers: pandas.Series of speaker by utt_id, or None. resamples, seed: of the bootstrap.
    Returns: dict.
    """
    table, n_classes = system.predictions, len(system.labels)
    scores = {"utterances": len(system.utterances), "pooled": system.pooled}
    units = {"utterance": table["utt_id"]}
    if speakers is not None:
        units["speaker"] = table["utt_id"].map(speakers)
    for unit, values in units.items():
        counts = count_hits(table["label"], table["hit"], values, n_classes)
        low, high = percentile_interval(resample_scores(counts, resamples, seed, stratified=unit == "utterance"))
        if unit == "speaker":
            scores["speakers"] = len(counts)
            low, high = np.clip(widen_interval(low, high, score_counts(counts.sum(0)), len(counts)), 0, 1)
        scores[f"ua_by_{unit}"], scores[f"wa_by_{unit}"] = zip(low, high, strict=True)
    for metric in ("ua", "wa", "macro_f1"):
        scores[metric] = system.by_fold(metric)
        scores[f"{metric}_by_fold"] = tuple(np.clip(t_interval(scores[metric])[1:], 0, 1))
        scores[f"{metric}_by_seed"] = system.by_seed(metric)
    return scores


def compare_all(experiment, resamples, seed):
    """Every two systems. Returns: list of Comparison, and the names of the pairs that share nothing, as texts."""
    found, apart = [], []
    for first, second in combinations(experiment.systems, 2):
        if BASELINE in (first.kind, second.kind) and first.kind != BASELINE:
            first, second = second, first  # what is added to the baseline is a gain
        if first.kind == FULL != second.kind and second.kind != BASELINE:
            first, second = second, first
        comparison = compare_systems(first, second, resamples, seed)
        if comparison is None:
            apart.append(f"{first.name} and {second.name}")
        else:
            found.append(comparison)
    return found, apart


def compare_systems(first, second, resamples, seed):
    """The differences of two systems: over seeds, over sessions, and over utterances.

    Args:
        first, second: System. resamples, seed: of the bootstrap.
    Returns: Comparison; None when no utterance is shared.
    """
    parts = [system.predictions.drop_duplicates(["utt_id", "seed"]) for system in (first, second)]
    both = parts[0].merge(parts[1], on=["utt_id", "seed", "label"], suffixes=("_first", "_second"))
    if both.empty:
        return None
    differences = {}
    for metric in METRICS:
        table = pair_runs(first, second, metric)
        differences["seed", metric] = summarize(table.mean(axis=1), FEWEST_SEEDS)
        differences["session", metric] = summarize(table.mean(axis=0))
    by_utterance = compare_utterances(both, len(first.labels), resamples, seed)
    differences |= {("utterance", metric): found for metric, found in zip(METRICS, by_utterance, strict=True)}
    one_seed = both[both["seed"] == both["seed"].min()]
    mcnemar = compare_mcnemar(one_seed["hit_first"], one_seed["hit_second"])
    return Comparison(first, second, differences, *mcnemar, len(one_seed))


def pair_runs(first, second, metric):
    """Differences second - first of the runs that both have: pandas.DataFrame, (seeds, folds), without gaps."""
    scores = []
    for system in (first, second):
        runs = {(run.seed, run.fold): run.result[metric] for run in system.runs}
        index = pd.MultiIndex.from_tuples(runs, names=["seed", "fold"])
        scores.append(pd.Series(list(runs.values()), index))
    return (scores[1] - scores[0]).unstack().dropna(axis=0, how="all").dropna(axis=1)


def summarize(values, fewest=2):
    """Mean, t interval and p of paired differences. Args: values: (n,). fewest: units that a p needs."""
    values = np.asarray(values, float)
    p = t_test_p(values) if len(values) >= fewest else np.nan
    return Difference(*t_interval(values), p, len(values), values)


def compare_utterances(both, n_classes, resamples, seed):
    """Paired bootstrap of the utterances of each class. Returns: a Difference of UA and one of WA.

    Args:
        both: pandas.DataFrame of utt_id, label, hit_first and hit_second, a line an utterance and shared seed.
    """
    counts = [count_hits(both["label"], both[name], both["utt_id"], n_classes) for name in ("hit_first", "hit_second")]
    counts = np.stack(counts, 1)  # (utterances, 2 systems, 2, C)
    scores = score_counts(counts.sum(0))
    sampled = resample_scores(counts, resamples, seed, stratified=True)
    means, sampled = scores[1] - scores[0], sampled[:, 1] - sampled[:, 0]  # (2,) and (resamples, 2), UA and WA
    low, high = percentile_interval(sampled)
    return [
        Difference(float(means[i]), float(low[i]), float(high[i]), bootstrap_p(sampled[:, i]), len(counts))
        for i in range(len(METRICS))
    ]
