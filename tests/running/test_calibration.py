"""The temperature and the calibration error against plain loops, a grid, scikit-learn, torchmetrics and netcal."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from running.calibration import (
    TEMPERATURES,
    brier_score,
    calibration_error,
    cross_entropy,
    exact_errors,
    fit_temperature,
    recover_logits,
    reliability,
)


def draw(n=400, seed=0):
    """Logits (n, 4) and labels that they say something of."""
    rng = np.random.default_rng(seed)
    logits = 1.2 * rng.normal(size=(n, 4))
    return logits, (logits + rng.normal(size=(n, 4))).argmax(1)


def loop_error(probabilities, labels, bins):
    """Guo et al., equation 3, an utterance at a time; also the tables of the bins."""
    groups = [[] for _ in range(bins)]
    for row, label in zip(probabilities, labels, strict=True):
        for m in range(bins):
            if m / bins < max(row) <= (m + 1) / bins:
                groups[m].append((max(row), int(np.argmax(row) == label)))
    means = [tuple(np.mean(group, 0)) if group else (np.nan, np.nan) for group in groups]
    gaps = [len(group) * abs(a - c) for group, (c, a) in zip(groups, means, strict=True) if group]
    return sum(gaps) / len(labels), means, [len(group) for group in groups]


@pytest.mark.parametrize("bins", [1, 4, 10, 15])
def test_the_error_equals_a_loop(bins):
    logits, labels = draw()
    probabilities = softmax(logits, axis=1)
    probabilities[:3] = [[0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]]  # on edges of bins
    expected, means, counts = loop_error(probabilities, labels, bins)
    assert calibration_error(probabilities, labels, bins) == pytest.approx(expected, abs=1e-12)
    table = reliability(probabilities, labels, bins)
    np.testing.assert_allclose(np.transpose([table.confidence, table.accuracy]), means, atol=1e-12)
    assert table.count.tolist() == counts


@pytest.mark.parametrize(("bins", "expected"), [(5, 0.04510703304997), (15, 0.04784153905901), (40, 0.09040028510561)])
def test_the_error_is_that_of_others(bins, expected):
    """netcal 1.4.0 gives these numbers for `draw()`; torchmetrics 1.9.0 the same in float32."""
    logits, labels = draw()
    assert calibration_error(softmax(logits, axis=1), labels, bins) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("scale", [0.4, 1.0, 5.0])
def test_the_temperature_is_the_best_of_a_grid(scale):
    logits, labels = draw(seed=1)
    found = fit_temperature(scale * logits, labels)
    grid = np.exp(np.linspace(*np.log(TEMPERATURES), 4001))
    losses = [-log_softmax(scale * logits / t, axis=1)[np.arange(len(labels)), labels].mean() for t in grid]
    assert found == pytest.approx(grid[np.argmin(losses)], rel=1.6e-3)  # the grid's step
    assert cross_entropy(scale * logits / found, labels) <= min(losses) + 1e-12
    assert fit_temperature(scale * logits, labels) == found


def test_the_temperature_is_that_of_scikit_learn():
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(300, 6))
    labels = (inputs[:, :4] + rng.normal(size=(300, 4))).argmax(1)
    classifier = LogisticRegression(C=100).fit(inputs[:40], labels[:40])
    calibrated = CalibratedClassifierCV(FrozenEstimator(classifier), method="temperature").fit(inputs, labels)
    logits = classifier.decision_function(inputs)
    found = fit_temperature(logits, labels)
    assert found > 1.2
    np.testing.assert_allclose(softmax(logits / found, axis=1), calibrated.predict_proba(inputs), atol=1e-6)


def test_the_temperature_that_labels_were_drawn_with_is_found():
    rng = np.random.default_rng(3)
    logits = 3 * rng.normal(size=(20000, 4))
    labels = (logits / 2.5 + rng.gumbel(size=logits.shape)).argmax(1)
    assert fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.03)
    probabilities = softmax(logits / fit_temperature(logits, labels), axis=1)
    assert calibration_error(softmax(logits, axis=1), labels) > 0.1 > 0.01 > calibration_error(probabilities, labels)


def test_the_temperature_minds_no_constant_and_keeps_to_its_bounds():
    logits, labels = draw()
    shifted = logits + np.random.default_rng(0).normal(size=(len(logits), 1))
    assert fit_temperature(shifted, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-6)
    assert fit_temperature(logits, logits.argmax(1)) == pytest.approx(TEMPERATURES[0], rel=1e-4)
    assert fit_temperature(logits, logits.argmin(1)) == pytest.approx(TEMPERATURES[1], rel=1e-4)


def test_scores_equal_scikit_learn():
    logits, labels = draw()
    probabilities = softmax(logits, axis=1)
    assert cross_entropy(logits, labels) == pytest.approx(log_loss(labels, probabilities))
    assert brier_score(probabilities, labels) == pytest.approx(brier_score_loss(labels, probabilities))


@pytest.mark.parametrize(("scale", "digits", "tolerance"), [(10, ".9g", 1e-6), (4, ".6f", 0.02)])
def test_the_temperature_comes_back_from_files_of_any_digits(scale, digits, tolerance):
    logits, labels = draw()
    logits *= scale
    texts = [[format(p, digits) for p in row] for row in softmax(logits.astype(np.float32), axis=1)]
    assert min(float(p) for row in texts for p in row) < 1e-20
    back = recover_logits(np.array(texts, float))
    assert np.isfinite(back).all()
    assert fit_temperature(back, labels) == pytest.approx(fit_temperature(logits, labels), rel=tolerance)


def test_a_zero_is_less_than_the_digits_of_its_file():
    assert recover_logits([[1.0, 0.0]])[0, 1] == pytest.approx(np.log(5e-7))
    assert recover_logits([[0.999999, 1e-6], [1, 0]])[1, 1] == pytest.approx(np.log(5e-7))
    assert recover_logits([[1.0, 1e-30], [1, 0]])[:, 1] == pytest.approx(np.log([1e-30, 5e-31]))
    assert recover_logits([[1.0, 1e-45], [1, 0]])[1, 1] == pytest.approx(np.log(1e-38))


def test_exact_probabilities_have_the_error_that_chance_gives():
    """Labels drawn from the probabilities: 95 of 100 errors lie where `exact_errors` says."""
    rng, inside = np.random.default_rng(4), 0
    probabilities = softmax(2 * rng.normal(size=(150, 4)), axis=1)
    low, high = np.quantile(exact_errors(probabilities, draws=1000), [0.025, 0.975])
    assert low > 0.02
    for _ in range(400):
        labels = (np.log(probabilities) + rng.gumbel(size=probabilities.shape)).argmax(1)
        inside += low <= calibration_error(probabilities, labels) <= high
    assert 366 <= inside <= 394
