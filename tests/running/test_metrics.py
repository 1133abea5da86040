"""metrics.py against scikit-learn on random confusions, classes missing from labels, predictions or both."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score

from running.metrics import count_confusion, summarize_confusion


def test_every_number_equals_scikit_learn_on_1000_random_confusions():
    rng = np.random.default_rng(0)
    absent = 0
    for _ in range(1000):
        n_classes = rng.integers(2, 7)
        names = [f"class{i}" for i in range(n_classes)]
        occurring, guessed = (rng.choice(n_classes, rng.integers(1, n_classes + 1), replace=False) for _ in range(2))
        size = rng.integers(1, 60)
        labels, predictions = rng.choice(occurring, size), rng.choice(guessed, size)
        absent += len(set(labels)) < n_classes
        found = summarize_confusion(count_confusion(labels, predictions, n_classes), names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns of classes that are only predicted
            assert found["ua"] == pytest.approx(balanced_accuracy_score(labels, predictions))
        assert found["wa"] == pytest.approx(accuracy_score(labels, predictions))
        assert found["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro", zero_division=0))
        recalls = recall_score(labels, predictions, labels=range(n_classes), average=None, zero_division=0)
        for i, name in enumerate(names):
            assert found["recall"][name] == (pytest.approx(recalls[i]) if i in labels else None)
        assert found["utterances"] == size
        assert np.sum(found["confusion"]) == size
    assert absent > 500


def test_rows_of_the_confusion_are_labels():
    assert count_confusion([0, 0, 1], [1, 1, 1], 3).tolist() == [[0, 2, 0], [0, 1, 0], [0, 0, 0]]
