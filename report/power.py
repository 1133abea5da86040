"""How many seeds a gain takes, and what gain some seeds can show: the power of the paired t test over seeds.

The test: of every seed the difference of two systems' scores, each the mean over the folds; is its mean 0? Two systems
trained with one seed are taken for independent, so the std of that difference is sqrt(2) times the std of one system.
Gains and stds are in any one unit; points of UA in the tables.
Source: Cohen 1988, chapter 2. The square of t is an F whose noncentrality is n (gain / std)², which scipy computes
where the noncentral t of `statsmodels.stats.power` gives no number: from an effect of about 2 with 100 seeds.
"""

from bisect import bisect_left

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import chi2, f, ncf

from report.page import Table
from running.errors import InputError

MOST_SEEDS = 100_000  # more are no answer
FEWEST_SEEDS = 2  # a single difference has no std
FAR = 1e15  # a noncentrality with which every test sees the gain; scipy has no number from 1e19 on


def find_power(n, gain, std_of_differences, alpha=0.05):
    """The probability that a two-sided paired t test sees a gain.

    Args:
        n: differences, at least 2. gain, std_of_differences: in one unit; the std is above 0. alpha: level of the test.
    Returns: float.
    """
    noncentrality = min(n * (gain / std_of_differences) ** 2, FAR)
    return float(ncf.sf(f.isf(alpha, 1, n - 1), 1, n - 1, noncentrality))


def seeds_needed(gain, std_of_differences, power=0.8, alpha=0.05):
    """The fewest seeds with which a two-sided paired t test sees a gain with the given power.

    Args:
        gain, std_of_differences: in one unit. power: above alpha. alpha: level of the test.
    Returns: int, at least 2; None where there is no such number: no gain, no std (0 or nan), or above MOST_SEEDS.
    """
    if not std_of_differences > 0:
        return None
    candidates = range(FEWEST_SEEDS, MOST_SEEDS + 1)
    place = bisect_left(candidates, power, key=lambda n: find_power(n, gain, std_of_differences, alpha))
    return candidates[place] if place < len(candidates) else None


def minimum_detectable_effect(n, std_of_differences, power=0.8, alpha=0.05):
    """The smallest gain that a two-sided paired t test over n seeds sees with the given power.

    Args:
        n: seeds. std_of_differences: in the unit of the result. power: above alpha. alpha: level of the test.
    Returns: float; nan with fewer than 2 seeds or without a std.
    """
    if n < FEWEST_SEEDS or not std_of_differences >= 0:
        return np.nan
    enough = 1.0
    while find_power(n, enough, 1, alpha) < power:
        enough *= 2
    return std_of_differences * brentq(lambda effect: find_power(n, effect, 1, alpha) - power, 0, enough)


def difference_std(std):
    """The std of the difference of two independent trainings, of the std of one between seeds."""
    return np.sqrt(2) * std


def std_interval(std, n, level=0.95):
    """The interval of a std that was seen in n values, if those are normal. Returns: (low, high)."""
    low, high = chi2.isf([(1 - level) / 2, (1 + level) / 2], n - 1)
    return std * np.sqrt((n - 1) / low), std * np.sqrt((n - 1) / high)


def pair_seeds(first, second, folds, metric="ua"):
    """The differences second - first of two systems by seed, of the seeds with which both have every fold.

    Args:
        first, second: System. folds: names of all folds.
    Returns: pandas.Series by seed, fractions of 1, and a list that names what is missing for the other seeds.
    """
    scores, missing = [], []
    for system in (first, second):
        table = pd.DataFrame(
            [(run.seed, run.fold, run.result[metric]) for run in system.all_runs], columns=["seed", "fold", metric]
        )
        table = table.pivot(index="seed", columns="fold", values=metric)
        scores.append(
            table.reindex(sorted({run.seed for run in [*first.all_runs, *second.all_runs]})).reindex(columns=folds)
        )
        for seed, row in scores[-1].iterrows():
            if row.isna().any():
                absent = "no run" if row.isna().all() else f"no fold {', '.join(row.index[row.isna()])}"
                missing.append(f"{system.name}, seed {seed}: {absent}")
    return (scores[1].mean(axis=1, skipna=False) - scores[0].mean(axis=1, skipna=False)).dropna(), missing


def find_pairs(experiments, first, second=None):
    """The paired differences of a row and the others, one of them or all.

    Args:
        first, second: names of rows; None: every other row of the table of `first`.
    Returns: {`second vs. first, protocol`: Series of `pair_seeds`} of the pairs with at least 2 complete seeds, and a
        list that names what the others lack.
    Raises: InputError when a row is unknown or no pair has 2 complete seeds.
    """
    names = [[system.name for system in experiment.systems] for experiment in experiments]
    for name in filter(None, (first, second)):
        if not any(name in table for table in names):
            raise InputError(
                f"{name}: no such row; there are {'; '.join(sorted({n for table in names for n in table}))}"
            )
    pairs, problems = {}, []
    for experiment in experiments:
        systems = {system.name: system for system in experiment.systems}
        others = [name for name in systems if name != first and second in (None, name)]
        for other in others if first in systems else []:
            pair = f"{other} vs. {first}, {experiment.protocol}"
            differences, missing = pair_seeds(systems[first], systems[other], experiment.folds)
            if len(differences) >= FEWEST_SEEDS:
                pairs[pair] = differences
            else:
                problems.append(f"{pair}: {len(differences)} complete seeds, 2 are needed")
            problems += missing
    problems = list(dict.fromkeys(problems))
    if not pairs:
        raise InputError("\n".join(problems) or f"{second or 'another row'}: in no table together with {first}")
    return pairs, problems


def build_std_table(stds, gain, seeds, power, alpha):
    """What a std of one system between seeds means for a design: Table. Args: stds, gain: points. seeds: list."""
    rows = [{"std": f"{std:.2f}", **build_cells(difference_std(std), gain, seeds, power, alpha)} for std in stds]
    return Table(pd.DataFrame(rows))


def build_pair_table(pairs, gain, seeds, power, alpha):
    """What the std seen in paired differences means for a design: Table. Args: pairs: of `find_pairs`."""
    rows = []
    for pair, differences in pairs.items():
        std, n = 100 * differences.std(ddof=1), len(differences)
        rows.append({"pair": pair, "n": n, **build_cells(std, gain, seeds, power, alpha, std_interval(std, n))})
    return Table(pd.DataFrame(rows))


def build_cells(std, gain, seeds, power, alpha, bounds=None):
    """A line of the tables. Args: std: of differences. gain: or None. bounds: (low, high) of the std, or None."""
    stds = [std, *(bounds or [])]
    cells = {"of differences": join_bounds([f"{value:.2f}" for value in stds])}
    if gain is not None:
        needed = [seeds_needed(gain, value, power, alpha) for value in stds]
        cells[f"seeds for {abs(gain):g}"] = join_bounds(["–" if n is None else str(n) for n in needed])
    for n in seeds:
        cells[f"{n} seeds"] = f"{minimum_detectable_effect(n, std, power, alpha):.2f}"
    return cells


def join_bounds(texts):
    """`value` or `value [low, high]`."""
    return texts[0] + (f" [{', '.join(texts[1:])}]" if texts[1:] else "")
