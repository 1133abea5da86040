"""Intervals and p values against hand computation and plain loops."""

import numpy as np
import pytest

from running.significance import (
    compare_mcnemar,
    count_hits,
    percentile_interval,
    resample_scores,
    score_counts,
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
