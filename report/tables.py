"""The main tables of the systems, as texts beside the paper's figures, and as numbers for a spreadsheet."""

import pandas as pd

from report.numbers import interval, mean_std, percent
from report.page import Table
from report.paper import explain_paper, find_paper
from running.records import disarm


def build_tables(experiment, scores):
    """The two tables of the systems as texts: over folds, and pooled over utterances.

    Args:
        scores: {name: dict of `score_system`}.
    """
    return [build_fold_table(experiment, scores), build_pooled_table(experiment, scores)]


def build_fold_table(experiment, scores):
    """Mean and spread over folds (and seeds), beside the paper's figures where they belong there."""
    several = any(len(system.seeds) > 1 for system in experiment.systems)
    paper = explain_paper(experiment) is None
    rows = [build_chance(experiment)]
    for system in experiment.systems:
        row = scores[system.name]
        cells = {"system": system.name, "protocol": experiment.protocol}
        for metric in ("ua", "wa"):
            cells[f"{metric.upper()}, mean ± std"] = mean_std(row[metric])
        if several:
            cells["UA ± std over seeds"] = mean_std(row["ua_by_seed"])
        if paper:
            for metric, value in zip(("UA", "WA"), find_paper(system), strict=True):
                cells[f"paper's {metric} (paper protocol)"] = "–" if value is None else f"{value:.2f}"
        cells["folds"] = len(system.folds)
        if several:
            cells["seeds"] = len(system.seeds)
        rows.append({**cells, "utterances": row["utterances"]})
    rows[0] = {name: rows[0].get(name, "–") for name in rows[-1]}
    return Table(pd.DataFrame(rows))


def build_pooled_table(experiment, scores):
    """The scores of all utterances together, with their intervals."""
    rows = []
    for system in experiment.systems:
        row = scores[system.name]
        cells = {"pooled": system.name, "protocol": experiment.protocol}
        for metric in ("ua", "wa"):
            cells[metric.upper()] = percent(row["pooled"][metric])
            cells[f"{metric.upper()} 95 %"] = interval(row[f"{metric}_by_utterance"])
            if f"{metric}_by_speaker" in row:
                cells[f"{metric.upper()} 95 % by speaker"] = interval(row[f"{metric}_by_speaker"])
        rows.append({**cells, "macro F1": percent(row["pooled"]["macro_f1"])})
    return Table(pd.DataFrame(rows))


def build_chance(experiment):
    """The row of guessing: every class as often (UA), always the most frequent label (WA)."""
    most = experiment.systems[0].utterances["label"].value_counts(normalize=True).max()
    return {"system": "chance", "UA, mean ± std": percent(1 / len(experiment.labels)), "WA, mean ± std": percent(most)}


def build_csv(experiments, scores):
    """One line a row of a table, numbers in %. Args: scores: list parallel to experiments of {name: scores}."""
    pairs = zip(experiments, scores, strict=True)
    return pd.DataFrame([_build_line(e, system, by_name[system.name]) for e, by_name in pairs for system in e.systems])


def _build_line(experiment, system, row):
    line = {"system": system.name}  # begins with one of our names, of which `+ AVEL` is no formula and stays as it is
    line.update(protocol=disarm(experiment.protocol), labels=disarm(" ".join(experiment.labels)))
    line.update(folds=len(system.folds), seeds=len(system.seeds), utterances=row["utterances"])
    for metric in ("ua", "wa", "macro_f1"):
        values = row[metric]
        line[f"{metric}_mean"] = 100 * values.mean()
        line[f"{metric}_std_folds"] = 100 * values.std(ddof=1)
        line[f"{metric}_std_seeds"] = 100 * row[f"{metric}_by_seed"].std(ddof=1)
        line[f"{metric}_pooled"] = 100 * row["pooled"][metric]
        for unit in ("utterance", "speaker"):
            if f"{metric}_by_{unit}" in row:
                low, high = row[f"{metric}_by_{unit}"]
                line[f"{metric}_low_by_{unit}"], line[f"{metric}_high_by_{unit}"] = 100 * low, 100 * high
    for name, value in row["pooled"]["recall"].items():
        line[f"recall_{name}"] = None if value is None else 100 * value
    line["paper_ua"], line["paper_wa"] = find_paper(system)
    return {**line, "folder": disarm(str(system.folder))}
