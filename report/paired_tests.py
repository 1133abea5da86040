"""The section of the paired tests: first what generalises, over seeds and sessions, then what holds of these models.

Planned comparisons, each row with the fusion baseline and the full model with each row, share one family whose p values
over seeds are corrected by Holm (1979). All other pairs are exploratory: uncorrected, and shown on demand.
"""

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from report.comparison import BASELINE, FEWEST_SEEDS
from report.explanations import have_same_predictions
from report.numbers import interval, points, show_p
from report.page import Alarm, Details, Heading, Table, Text
from report.power import difference_std, minimum_detectable_effect, seeds_needed

ASSUMED_STD = 0.8  # points of UA of one system between seeds, where the runs don't tell
DESIGNS = (3, 5, 10)  # seeds


def show_tests(experiment, comparisons, apart, resamples):
    """The blocks of the paired tests.

    Args:
        comparisons, apart: of `compare_all`. resamples: of its bootstrap.
    """
    alarm = [Alarm([f"no shared seed or utterance, not compared: {', '.join(apart)}"])] if apart else []
    if not comparisons:
        return alarm
    planned = sorted([pair for pair in comparisons if pair.planned], key=lambda pair: pair.first.kind != BASELINE)
    others = [pair for pair in comparisons if not pair.planned]
    blocks = [Heading("Does one differ from another?", 3)]
    if planned:
        adjusted = adjust_holm([pair.differences["seed", "ua"].p for pair in planned])
        rows = [build_row(pair, p) for pair, p in zip(planned, adjusted, strict=True)]
        blocks += [Table(pd.DataFrame(rows)), Text(explain(experiment, adjusted), note=True)]
    blocks += [Text(describe_design(comparisons))]
    if others:
        table = Table(pd.DataFrame([build_row(pair) for pair in others]))
        text = "Not planned before anyone looked: each p stands alone, and the smallest of many is small by chance."
        blocks.append(
            Details(
                f"Exploratory, uncorrected: {len(others)} other pair{'s' * (len(others) > 1)}",
                [Text(text, note=True), table],
            )
        )
    table = Table(pd.DataFrame([build_model_row(pair, resamples) for pair in comparisons]))
    notes = Text(explain_models(experiment, resamples), note=True)
    return [*blocks, Details("These trained models only: tests over utterances, uncorrected", [table, notes]), *alarm]


def adjust_holm(p_values):
    """Holm's step-down adjustment of a family, in the order given; a nan is no test and stays nan."""
    p_values = np.asarray(p_values, float)
    tested, adjusted = ~np.isnan(p_values), np.full(len(p_values), np.nan)
    if tested.any():
        adjusted[tested] = multipletests(p_values[tested], method="holm")[1]
    return adjusted


def build_row(pair, adjusted=None):
    """What seeds and sessions say of a pair. Args: pair: Comparison. adjusted: p by Holm, None for no column of it."""
    seeds, sessions = pair.differences["seed", "ua"], pair.differences["session", "ua"]
    known = seeds.n > 1
    effect = seeds.mean / seeds.std if known and seeds.std > 0 else np.nan
    smallest = 100 * minimum_detectable_effect(seeds.n, seeds.std)
    cells = {
        "pair": f"{pair.second.name} vs. {pair.first.name}",
        "UA gain": points(seeds.mean),
        "95 % over seeds": interval((seeds.low, seeds.high)),
        "gain / std": "–" if np.isnan(effect) else f"{effect:+.2f}",
        "seeds won": f"{(seeds.values > 0).sum()} of {seeds.n}",
        "p over seeds": "same predictions" if have_same_predictions(pair.first, pair.second) else show_test(seeds),
    }
    if adjusted is not None:
        cells["Holm"] = show_p(adjusted)
    cells["detectable gain"] = "–" if np.isnan(smallest) else f"{smallest:.2f}"
    return {**cells, "95 % over sessions": interval((sessions.low, sessions.high)), "sessions": sessions.n}


def show_test(seeds):
    """The p over seeds, or why there is none and how many seeds would show the gain. Args: seeds: Difference."""
    if seeds.n >= FEWEST_SEEDS:
        return show_p(seeds.p)
    text = f"not testable with {seeds.n} seed{'s' * (seeds.n != 1)}"
    needed = seeds_needed(seeds.mean, seeds.std) if seeds.n > 1 else None
    return text + (f"; {max(needed, FEWEST_SEEDS)} needed" if needed else "")


def build_model_row(pair, resamples):
    """What the utterances say of a pair. Args: pair: Comparison. resamples: of its bootstrap."""
    found, floor = pair.differences["utterance", "ua"], 2 / (resamples + 1)
    return {
        "pair": f"{pair.second.name} vs. {pair.first.name}",
        "pooled UA difference": points(found.mean),
        "95 %": interval((found.low, found.high)),
        "bootstrap p": show_p(found.p, floor),
        "n": found.n,
        "only first right": pair.only_second,
        "only second right": pair.only_first,
        "McNemar p": show_p(pair.mcnemar_p),
        "n ": pair.mcnemar_n,
    }


def describe_design(comparisons):
    """The smallest difference that the design of these runs can show, as a text; of one seed what more would show."""
    seen = [pair.differences["seed", "ua"] for pair in comparisons]
    effects = [100 * minimum_detectable_effect(d.n, d.std) for d in seen if d.n > 1 and d.std > 0]
    start = "Minimum detectable effect (two-sided 5 %, one comparison, 80 % power): "
    if effects:
        numbers = sorted({d.n for d in seen if d.n > 1})
        seeds = " to ".join(str(n) for n in dict.fromkeys((numbers[0], numbers[-1])))
        return (
            f"{start}{min(effects):.2f} to {max(effects):.2f} points of UA with {seeds} seeds at the std of the "
            "differences seen. A smaller gain may be there and not show."
        )
    std = difference_std(ASSUMED_STD)
    designs = ", ".join(f"{minimum_detectable_effect(n, std):.2f} points with {n}" for n in DESIGNS)
    return (
        f"{start}one seed can show no difference between methods, however large. Assumed, not measured: with a std of "
        f"{ASSUMED_STD} points of UA between the seeds of a system it would be {designs} seeds."
    )


def explain(experiment, adjusted):
    """How to read the table of the planned comparisons."""
    tests = int((~np.isnan(adjusted)).sum())
    holm = f", corrected by Holm for the {tests} planned comparisons that have one" if tests else ""
    return (
        f"{experiment.protocol.capitalize()} protocol. Gain: first system minus second, points of UA, mean over the "
        "shared seeds, each the mean over the shared folds. 95 % over seeds: t interval, what another training would "
        f"show. Gain / std: the standardised effect. p over seeds: two-sided paired t test{holm}; with fewer than "
        f"{FEWEST_SEEDS} seeds there is none, and needed is how many would show the gain seen at the std seen, with a "
        "power of 80 %: a rough guess from so few. Detectable gain: the smallest that this many seeds show at this "
        "std, with a power of 80 %. 95 % over sessions: t interval of the differences by fold, each the mean of the "
        "seeds, what other people would show; with one seed the training noise of the folds is in it. Intervals are "
        "uncorrected."
    )


def explain_models(experiment, resamples):
    """How to read the table of the utterances."""
    several = any(len(system.seeds) > 1 for system in experiment.systems)
    return (
        "Whether these trained models differ on utterances of these people, and no more: two trainings of one method "
        "differ like that in a third to half of all cases. Pooled over the utterances that both systems predicted; "
        f"interval and two-sided p from {resamples} paired bootstrap samples within each class"
        + (", of all shared seeds" if several else "")
        + ". McNemar: exact, two-sided, on the utterances that one of the two alone got right, so it tests WA"
        + (", of the first shared seed" if several else "")
        + "."
    )
