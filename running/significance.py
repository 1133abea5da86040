"""Intervals and paired tests: how far a score or a difference could be luck.

What is drawn anew decides what an interval speaks of. Seeds: another training. Sessions and speakers: other people.
Utterances: other sentences of the same people, said to the same trained models. Few seeds and sessions get a t
interval; speakers a bootstrap of whole speakers, widened, since with few of them it is too narrow; utterances a
bootstrap within each class, so that no sample loses one. A bootstrap of speakers can't keep the classes: a sample that
loses one is scored over those it has. Every score derives from two counts a unit and class, `hits` and `support`, so a
bootstrap sample is a weighted sum of them.
Sources: Efron and Tibshirani 1993, chapters 13 and 16; Hesterberg 2015 (narrowness of the bootstrap of few units);
McNemar 1947, exact form.
"""

import numpy as np
from scipy.stats import binomtest, norm, ttest_1samp
from scipy.stats import t as student

ROUNDING = 1e-12  # two sums of the same scores differ by less


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


def resample_scores(counts, resamples, seed=0, stratified=False):
    """Scores of bootstrap samples of the units.

    Args:
        counts: (units, ..., 2, C), as of `count_hits`; systems on the middle axes share the samples, which pairs them.
        resamples: number of samples. seed: of the draws.
        stratified: draw as many units of each class as there are; for units of one class each, such as utterances.
    Returns: (resamples, ..., 2) float, UA and WA.
    """
    n, rng = len(counts), np.random.default_rng(seed)
    support = counts[..., 1, :].reshape(n, -1, counts.shape[-1]).sum(1)  # (units, C)
    strata = support.argmax(1) if stratified else np.zeros(n, int)
    total = np.zeros((resamples, counts[0].size))
    for stratum in np.unique(strata):
        members = counts[strata == stratum].reshape((strata == stratum).sum(), -1)
        # Units with the same counts are interchangeable: draw how many of each kind, not which.
        kinds, frequency = np.unique(members, axis=0, return_counts=True)
        total += rng.multinomial(len(members), frequency / len(members), size=resamples) @ kinds
    return score_counts(total.reshape(resamples, *counts.shape[1:]))


def percentile_interval(scores, level=0.95):
    """The central `level` of bootstrap scores along the first axis. Returns: (low, high)."""
    return tuple(np.quantile(scores, [(1 - level) / 2, (1 + level) / 2], axis=0))


def widen_interval(low, high, centre, units, level=0.95):
    """A percentile interval of few units made as wide as it has to be to hold what it claims.

    The bootstrap takes the variance over K units instead of K - 1, and a normal quantile where a t is due; both half
    widths grow by sqrt(K / (K - 1)) t / z.

    Args:
        low, high, centre: the interval and its score, float or arrays. units: K; with one unit there is no interval.
    Returns: (low, high), nan where K is 1.
    """
    if units < 2:
        return centre * np.nan, centre * np.nan
    tail = (1 + level) / 2
    factor = np.sqrt(units / (units - 1)) * student.ppf(tail, units - 1) / norm.ppf(tail)
    return centre - factor * (centre - low), centre + factor * (high - centre)


def t_interval(values, level=0.95):
    """Mean and t interval of a few values, such as scores by fold or differences by seed.

    Args:
        values: (n,) float.
    Returns: (mean, low, high), low and high nan where n is below 2, all nan where it is 0.
    """
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return (float(values[0]) if n else np.nan), np.nan, np.nan
    half = student.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def t_test_p(values):
    """Two-sided p of a one-sample t test of mean 0. Args: values: (n,) float, such as paired differences.

    Returns: float; 1 where all are 0, nan where n is below 2 or all are the same other value, which no t test takes.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return np.nan
    if np.ptp(values) < ROUNDING:
        return 1.0 if abs(values.mean()) < ROUNDING else np.nan
    return float(ttest_1samp(values, 0).pvalue)


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
