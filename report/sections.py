"""The sections of an experiment: main tables, scores by fold, confusion matrices, learning curves.

Each function returns the blocks of its section; `prefix` begins the names of its pictures. The paired tests, the
embeddings and the groups have files of their own.
"""

import pandas as pd

from report.explanations import explain_protocol, explain_table, warn_of_speakers
from report.numbers import percent
from report.page import Details, Gallery, Heading, Table, Text
from report.paper import find_paper
from report.pictures import draw, plot_comparison, plot_scores
from report.tables import build_tables, find_chance
from running.pictures import plot_confusion, plot_mean_curves


def show_main(experiment, scores, speakers, prefix):
    """The blocks of the main tables and their picture."""
    rows = {}
    for system in experiment.systems:
        row = scores[system.name]
        low, high = row["ua_by_fold"]
        rows[system.name] = {"folds": list(100 * row["ua"]), "mean": 100 * row["ua"].mean()}
        rows[system.name].update(low=100 * low, high=100 * high, paper=find_paper(system)[0])
    text = f"UA of each system, {experiment.protocol} protocol: folds, their mean with its 95 % t interval, chance."
    chance, axis = 100 * find_chance(experiment)["ua"], f"UA, %, {experiment.protocol} protocol"
    return [
        Text(explain_protocol(experiment)),
        *build_tables(experiment, scores),
        *warn_of_speakers(experiment, speakers),
        explain_table(experiment, speakers),
        draw(f"{prefix}scores.png", text, plot_scores, rows, chance, width=760, title=axis),
    ]


def show_folds(experiment):
    """The blocks of the scores by fold."""
    rows = [
        {
            f"UA / WA by fold, {experiment.protocol} protocol": s.name,
            **{f: " / ".join(percent(s.by_fold(m).get(f)) for m in ("ua", "wa")) for f in experiment.folds},
        }
        for s in experiment.systems
    ]
    return [Heading("Folds", 3), Table(pd.DataFrame(rows))]


def show_confusions(experiment, prefix):
    """The blocks of the pooled confusion matrices."""
    pictures = []
    for i, system in enumerate(experiment.systems):
        pooled = system.pooled
        title = f"{system.name}: UA {percent(pooled['ua'])}, WA {percent(pooled['wa'])} ({experiment.protocol})"
        text = f"Confusion of {system.name}, {experiment.protocol} protocol, pooled over folds" + " and seeds" * (
            len(system.seeds) > 1
        )
        content = pooled["confusion"], experiment.labels
        pictures.append(
            draw(f"{prefix}confusion_{i}.png", f"{text}.", plot_confusion, *content, width=360, title=title)
        )
    recalls = [
        {
            f"recall, {experiment.protocol} protocol": s.name,
            **{name: percent(value) for name, value in s.pooled["recall"].items()},
        }
        for s in experiment.systems
    ]
    return [Heading("Confusion", 3), Table(pd.DataFrame(recalls)), Gallery(pictures)]


def show_curves(experiment, prefix):
    """The blocks of the learning curves: all systems together, then each on its own."""
    histories = {system.name: [run.history for run in system.runs if run.history] for system in experiment.systems}
    histories = {name: runs for name, runs in histories.items() if runs}
    if not histories:
        return []
    text = "UA on the list that chooses the epoch: mean over the runs, band of one standard deviation."
    blocks = [
        Heading("Learning curves", 3),
        draw(f"{prefix}curves.png", text, plot_comparison, histories, width=760),
    ]
    for i, (name, runs) in enumerate(histories.items()):
        text = f"{name}: mean and standard deviation over {len(runs)} run{'s' * (len(runs) > 1)}."
        blocks.append(Details(f"All curves of {name}", [draw(f"{prefix}curves_{i}.png", text, plot_mean_curves, runs)]))
    return blocks
