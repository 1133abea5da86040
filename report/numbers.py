"""Numbers as a reader sees them: scores in % with two decimals, a dash where there is none."""

import numpy as np


def percent(value):
    return "–" if value is None or np.isnan(value) else f"{round(100 * value, 2) + 0:.2f}"


def points(value):
    """A difference with its sign, in points."""
    return "–" if np.isnan(value) else f"{round(100 * value, 2) + 0:+.2f}"


def interval(low_high):
    return "–" if np.isnan(low_high).any() else "[{}, {}]".format(*map(percent, low_high))


def show_p(p, floor=0):
    """A p value; `≤ floor` where it is the smallest that its bootstrap can give."""
    if np.isnan(p):
        return "–"
    if p <= floor:
        return f"≤ {floor:.4f}"
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def mean_std(values):
    """`mean ± std` in %, the sample's standard deviation (n - 1); of a single value the value."""
    text = percent(np.mean(values))
    return f"{text} ± {percent(np.std(values, ddof=1))}" if len(values) > 1 else text
