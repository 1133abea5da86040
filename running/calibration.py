"""Whether probabilities can be believed: how far confidence is from accuracy, and the one number that mends it.

Softmax outputs of a network are as a rule too sure of themselves. Dividing the logits by a temperature T > 0, fitted on
utterances that the model was not trained on, changes no prediction and most of that.

Sources: Guo et al. 2017, "On Calibration of Modern Neural Networks" (temperature, calibration error, diagram); Brier
1950; Bröcker and Smith 2007 (the error that exact probabilities would have).
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 15  # of Guo et al.
TEMPERATURES = (0.05, 20.0)  # bounds of the fit; reached where every utterance is right, or the logits say nothing
FLOORS = (1e-38, 5e-7)  # what stands for a zero in files of nine significant digits and in those of six decimals


class Reliability(NamedTuple):
    """What a reliability diagram shows, each (bins,); NaN where a bin is empty."""

    confidence: np.ndarray  # mean probability of the predicted class
    accuracy: np.ndarray
    count: np.ndarray  # int


def recover_logits(probabilities):
    """The logits of probabilities that were read from a file, up to a constant for each utterance.

    Args:
        probabilities: (n, C) float. A zero, which is a number too small for the digits of the file, becomes half of
            the least number in it, within FLOORS.
    Returns: (n, C) float64, all finite.
    """
    probabilities = np.asarray(probabilities, float)
    positive = probabilities[probabilities > 0]
    return np.log(np.maximum(probabilities, np.clip(positive.min(initial=1) / 2, *FLOORS)))


def fit_temperature(logits, labels):
    """The T that minimises the cross entropy of softmax(logits / T), within TEMPERATURES; Guo et al., section 4.2.

    Args:
        logits: (n, C) float, n > 0; a constant added to a row changes nothing. labels: (n,) int.
    Returns: float. The cross entropy is convex in 1 / T, so the minimum is the only one; no draw is involved.
    """
    logits, labels = np.asarray(logits, float), np.asarray(labels)
    found = minimize_scalar(
        lambda log_t: cross_entropy(logits / np.exp(log_t), labels),
        bounds=np.log(TEMPERATURES),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.exp(found.x))


def cross_entropy(logits, labels):
    """Mean negative log likelihood in nats. Args: logits: (n, C) float. labels: (n,) int. Returns: float."""
    return float(-np.take_along_axis(log_softmax(logits, axis=1), np.asarray(labels)[:, None], axis=1).mean())


def brier_score(probabilities, labels):
    """Mean squared distance to the truth, summed over the classes: 0 is best, 2 worst. Args: as `reliability`."""
    return float(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1).mean())


def reliability(probabilities, labels, bins=BINS):
    """Confidence, accuracy and count of the utterances, binned by confidence.

    Args:
        probabilities: (n, C) float. labels: (n,) int. bins: of equal width over 0 to 1, bin m is (m / M, (m + 1) / M].
    Returns: Reliability.
    """
    probabilities = np.asarray(probabilities, float)
    confidence, hits = probabilities.max(1), probabilities.argmax(1) == np.asarray(labels)
    place = find_bins(confidence, bins)
    count = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=values, minlength=bins) for values in (confidence, hits))
    means = (np.divide(total, count, out=np.full(bins, np.nan), where=count > 0) for total in sums)
    return Reliability(*means, count)


def find_bins(confidence, bins):
    """The bin of each confidence. Args: confidence: any shape, float in 0 to 1. Returns: int, 0 to bins - 1."""
    return np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), confidence) - 1, 0, bins - 1)


def calibration_error(probabilities, labels, bins=BINS):
    """Expected calibration error: |accuracy - confidence| of the bins, weighted by their counts; Guo et al., section 2.

    Args: as `reliability`.
    Returns: float, a fraction of 1. It is never below 0 and so above 0 for exact probabilities too, see `exact_errors`.
    """
    table = reliability(probabilities, labels, bins)
    return float(np.nansum(table.count * np.abs(table.accuracy - table.confidence)) / table.count.sum())


def exact_errors(probabilities, bins=BINS, draws=200, seed=0):
    """The calibration errors if the probabilities were exact: whether a prediction is right is drawn with them.

    Args:
        probabilities: (n, C) float. bins: as in `reliability`. draws: of the whole list. seed: of the draws.
    Returns: (draws,) float.
    """
    confidence, rng = np.asarray(probabilities, float).max(1), np.random.default_rng(seed)
    place, errors = find_bins(confidence, bins), []
    for _ in range(draws):
        hits = rng.random(len(confidence)) < confidence
        errors.append(np.abs(np.bincount(place, weights=hits - confidence, minlength=bins)).sum() / len(confidence))
    return np.array(errors)
