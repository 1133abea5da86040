"""The section of the paired tests: every two systems of an experiment, with p values adjusted for all of the pairs."""

from itertools import combinations

import pandas as pd

from report.comparison import compare_systems
from report.numbers import interval, show_p
from report.page import Alarm, Heading, Table, Text
from report.significance import adjust_holm


def show_tests(experiment, speakers, resamples, seed):
    """The blocks of the paired tests.

    Args:
        speakers: pandas.Series by utt_id, or None. resamples, seed: of the bootstrap.
    """
    pairs = list(combinations(experiment.systems, 2))
    found = [(a, b, compare_systems(a, b, speakers, resamples, seed)) for a, b in pairs]
    apart = [f"{a.name} and {b.name}" for a, b, test in found if test is None]
    alarm = [Alarm([f"no shared seed or utterance, not compared: {', '.join(apart)}"])] if apart else []
    found = [entry for entry in found if entry[2] is not None]
    if not found:
        return alarm
    bootstrap, mcnemar = (adjust_holm([test[kind] for *_, test in found]) for kind in ("bootstrap_p", "mcnemar_p"))
    rows = [_build_row(*entry, *adjusted) for entry, *adjusted in zip(found, bootstrap, mcnemar, strict=True)]
    note = Text(_explain(experiment, resamples, len(rows)), note=True)
    return [Heading("Paired tests", 3), Table(pd.DataFrame(rows)), note, *alarm]


def _build_row(first, second, test, bootstrap_adjusted, mcnemar_adjusted):
    cells = {
        "pair": f"{second.name} vs. {first.name}",
        "UA difference": f"{100 * test['difference']:+.2f}",
        "95 %": interval(test["by_utterance"]),
    }
    if "by_speaker" in test:
        cells["95 % by speaker"] = interval(test["by_speaker"])
    cells["bootstrap p"] = show_p(test["bootstrap_p"])
    cells["Holm"] = show_p(bootstrap_adjusted)
    cells["only first right"], cells["only second right"] = test["only_second"], test["only_first"]
    cells["McNemar p"] = show_p(test["mcnemar_p"])
    cells["Holm "] = show_p(mcnemar_adjusted)
    return {**cells, "n": test["utterances"]}


def _explain(experiment, resamples, comparisons):
    several = any(len(system.seeds) > 1 for system in experiment.systems)
    return (
        f"Pooled over the utterances that both systems of a pair predicted ({experiment.protocol} protocol). "
        f"Difference: first system minus second, in points of UA; interval and two-sided p from {resamples} "
        "paired bootstrap samples. McNemar: exact, two-sided, on the utterances that one of the two alone "
        "got right, so it tests WA"
        + (" (of the first shared seed; the bootstrap takes the mean over the shared seeds)" if several else "")
        + f". Holm: the p before it, adjusted for {comparisons} comparisons. Training noise is not in these tests: "
        "several seeds show it."
    )
