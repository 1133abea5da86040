"""Intervals and p values against hand computation and plain loops."""

import numpy as np
import pytest
from scipy import stats

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


def test_mcnemar_equals_a_hand_count():
    first = np.array([1, 1, 1, 1, 1, 1, 1, 0, 1, 0], bool)
    second = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 0], bool)
    # 6 against 1 of 7: p = 2 * (C(7,0) + C(7,1)) / 2^7
    assert compare_mcnemar(first, second) == (6, 1, pytest.approx(2 * (1 + 7) / 128))
    assert compare_mcnemar(first, first) == (0, 0, 1.0)


def test_the_bootstrap_interval_covers():
    """The interval of 95 % holds the true UA in about 95 of 100 experiments."""
    rng, covered, truth = np.random.default_rng(0), 0, (0.9 + 0.6 + 0.7) / 3
    for i in range(200):
        labels = rng.choice(3, 150, p=[0.5, 0.3, 0.2])
        hits = rng.random(150) < np.array([0.9, 0.6, 0.7])[labels]
        low, high = percentile_interval(resample_scores(count_hits(labels, hits, range(150), 3), 400, i)[:, 0])
        covered += low <= truth <= high
    assert 180 <= covered <= 200


def test_the_bootstrap_draws_utterances():
    """Drawing kinds of utterances equals drawing utterances: same mean and spread of UA as a plain loop."""
    rng = np.random.default_rng(1)
    labels, hits = rng.integers(3, size=60), rng.random(60) < 0.6
    fast = resample_scores(count_hits(labels, hits, range(60), 3), 4000)[:, 0]
    slow = []
    for _ in range(4000):
        chosen = rng.integers(60, size=60)
        slow.append(score_counts(count_hits(labels[chosen], hits[chosen], np.zeros(60), 3))[0, 0])
    assert fast.mean() == pytest.approx(np.mean(slow), abs=0.005)
    assert fast.std() == pytest.approx(np.std(slow), rel=0.08)


def test_speakers_are_drawn_whole():
    labels, speakers = np.zeros(40, int), np.repeat([0, 1, 2, 3], 10)
    sampled = resample_scores(count_hits(labels, speakers < 2, speakers, 1), 300)[:, 0]
    assert set(np.round(4 * sampled, 6)) <= {0, 1, 2, 3, 4}


def test_no_stratified_sample_loses_a_class_and_a_plain_loop_gives_the_same():
    labels, hits = np.array([0] * 40 + [1] * 19 + [2]), np.random.default_rng(1).random(60) < 0.6
    hits[-1] = True
    counts = count_hits(labels, hits, range(60), 3)
    fast = resample_scores(counts, 4000, stratified=True)
    plain = resample_scores(counts, 4000)
    members, rng, slow = [np.flatnonzero(labels == c) for c in range(3)], np.random.default_rng(2), []
    for _ in range(4000):
        chosen = np.concatenate([rng.choice(m, len(m)) for m in members])
        slow.append([np.mean([hits[chosen][labels[chosen] == c].mean() for c in range(3)]), hits[chosen].mean()])
    assert fast.mean(0) == pytest.approx(np.mean(slow, 0), abs=0.005)
    assert fast.std(0) == pytest.approx(np.std(slow, 0), rel=0.08)
    # a sample without the only, always right utterance of class 2 loses a third of the UA: not the sampling of recalls
    assert plain[:, 0].std() > 1.3 * fast[:, 0].std()


def test_t_equals_scipy():
    values = np.random.default_rng(0).normal(0.3, 1, 7)
    expected = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert t_interval(values) == pytest.approx((values.mean(), *expected))
    assert t_test_p(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert np.isnan(t_interval([0.4])).tolist() == [False, True, True]
    assert np.isnan(t_interval([])).all()
    assert t_test_p([0, 0, 1e-17]) == 1
    assert np.isnan([t_test_p([0.1]), t_test_p([0.1, 0.1, 0.1])]).all()


def test_the_interval_of_few_units_is_wider_by_its_formula():
    low, high = widen_interval(0.6, 0.75, 0.7, 10)
    factor = np.sqrt(10 / 9) * stats.t.ppf(0.975, 9) / 1.959964
    assert (0.7 - low, high - 0.7) == (pytest.approx(0.1 * factor), pytest.approx(0.05 * factor))
    assert widen_interval(0.6, 0.75, 0.7, 10**6) == pytest.approx((0.6, 0.75), abs=1e-6)
    assert np.isnan(widen_interval(0.6, 0.75, 0.7, 1)).all()


def draw_people(rng, people, size):
    """Labels, hits and people (n,), of people who differ: the recall of each moves by a shift of std 0.25 probits."""
    person = np.repeat(range(people), size)
    labels = rng.choice(4, people * size, p=[0.3, 0.3, 0.2, 0.2])
    margin = stats.norm.ppf([0.78, 0.72, 0.82, 0.80])[labels] + rng.normal(0, 0.25, people)[person]
    return labels, rng.normal(size=len(labels)) < margin, person


TRUE_UA = stats.norm.cdf(stats.norm.ppf([0.78, 0.72, 0.82, 0.80]) / np.sqrt(1 + 0.25**2)).mean()


def test_the_t_interval_over_five_sessions_covers():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        counts = count_hits(*draw_people(rng, 5, 100), 4)
        _, low, high = t_interval(score_counts(counts)[:, 0])
        covered += low <= TRUE_UA <= high
    assert 0.90 <= covered / 1000 <= 0.98


def test_the_widened_interval_of_ten_speakers_covers_and_the_plain_one_does_not():
    rng, plain, widened = np.random.default_rng(0), 0, 0
    for i in range(500):
        counts = count_hits(*draw_people(rng, 10, 100), 4)
        low, high = percentile_interval(resample_scores(counts, 400, i)[:, 0])
        plain += low <= TRUE_UA <= high
        low, high = widen_interval(low, high, score_counts(counts.sum(0))[0], 10)
        widened += low <= TRUE_UA <= high
    assert 0.90 <= widened / 500 <= 0.98
    assert plain + 10 < widened


def test_the_smallest_p_of_the_bootstrap():
    assert bootstrap_p(np.ones(4999)) == pytest.approx(0.0004)
