"""WA, UA and their relatives: the numbers that train.py selects by and scripts/report prints.

WA (weighted accuracy) is the accuracy over all utterances; UA (unweighted accuracy) is the mean of the recalls
of the classes that occur. Everything derives from one confusion matrix, so pooled figures are sums of matrices.
"""

import numpy as np
from sklearn.metrics import confusion_matrix


def count_confusion(labels, predictions, n_classes):
    """Confusion matrix, (n_classes, n_classes) int: rows are labels, columns predictions."""
    return confusion_matrix(labels, predictions, labels=range(n_classes))


def summarize_confusion(confusion, names):
    """WA, UA, macro F1 and the recall of each class.

    Args:
        confusion: (C, C) int, rows labels, columns predictions, at least one utterance.
        names: the C label names.
    Returns: dict with `wa`, `ua`, `macro_f1` (fractions of 1), `recall` by name (None for a class that does not occur),
        `confusion` as lists and the number of `utterances`. Macro F1 is the mean over classes that occur or are
        predicted, as in scikit-learn.
    """
    confusion = np.asarray(confusion)
    hits, support, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    recall = {name: float(hit / n) if n else None for name, hit, n in zip(names, hits, support, strict=True)}
    seen = support + predicted > 0
    return {
        "wa": float(hits.sum() / confusion.sum()),
        "ua": float(np.mean([value for value in recall.values() if value is not None])),
        "macro_f1": float(np.mean(2 * hits[seen] / (support + predicted)[seen])),
        "recall": recall,
        "confusion": confusion.tolist(),
        "utterances": int(confusion.sum()),
    }
