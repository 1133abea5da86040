"""Intervals, paired tests and their adjustment for many: how far a score or a difference could be luck.

The unit is an utterance or, because the utterances of one person resemble each other, a speaker. Every score derives
from two counts a unit and class, `hits` and `support`, so a bootstrap sample is a weighted sum of them.
Sources: Efron and Tibshirani 1993, chapters 13 and 16; McNemar 1947, exact form; Holm 1979.
"""

import numpy as np
from scipy.stats import binomtest


def count_hits(labels, hits, units, n_classes):
    """Hits and support by unit and class.

    Args:
        labels: (n,) int. hits: (n,) bool or float in [0, 1], the share of seeds that were right.
        units: (n,) any values; equal ones form a unit.
    Returns: (units, 2, C) float: [:, 0] hits, [:, 1] support.
    """
    _, unit = np.unique(np.asarray(units), return_inverse=True)
    counts = np.zeros((unit.max() + 1, 2, n_classes))
    np.add.at(counts, (unit, 0, labels), hits)
    np.add.at(counts, (unit, 1, labels), 1)
    return counts


def score_counts(counts):
    """UA and WA of counts (..., 2, C), hits and support. Returns: (..., 2) float; UA is over classes that occur."""
    hits, support = counts[..., 0, :], counts[..., 1, :]
    occurs = support > 0
    recall = np.divide(hits, support, out=np.zeros_like(hits, dtype=float), where=occurs)
    return np.stack([recall.sum(-1) / occurs.sum(-1), hits.sum(-1) / support.sum(-1)], -1)


def resample_scores(counts, resamples, seed=0):
    """Scores of bootstrap samples of the units.

    Args:
        counts: (units, ..., 2, C), as of `count_hits`; systems on the middle axes share the samples, which pairs them.
        resamples: number of samples. seed: of the draws.
    Returns: (resamples, ..., 2) float, UA and WA.
    """
    n = len(counts)
    # Units with the same counts are interchangeable: draw how many of each kind, not which.
    kinds, frequency = np.unique(counts.reshape(n, -1), axis=0, return_counts=True)
    weights = np.random.default_rng(seed).multinomial(n, frequency / n, size=resamples)
    return score_counts((weights @ kinds).reshape(resamples, *counts.shape[1:]))


def percentile_interval(scores, level=0.95):
    """The central `level` of bootstrap scores along the first axis. Returns: (low, high)."""
    return tuple(np.quantile(scores, [(1 - level) / 2, (1 + level) / 2], axis=0))


def bootstrap_p(differences):
    """Two-sided p of bootstrap differences, (resamples,): twice the smaller share on a side of 0, never 0 itself."""
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(differences) + 1)))


def compare_mcnemar(first, second):
    """Exact McNemar test.

    Args:
        first, second: (n,) bool, whether each system is right, in the same order.
    Returns: only the first right, only the second right, two-sided p (1 when they never differ).
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    p = binomtest(only_first, discordant, 0.5).pvalue if discordant else 1.0
    return only_first, only_second, float(p)


def adjust_holm(p_values):
    """Holm's step-down adjustment for a family of tests, in the order given."""
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
