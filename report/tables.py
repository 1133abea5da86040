"""The main tables of the systems, as texts beside the paper's figures, and as numbers for a spreadsheet."""

import numpy as np
import pandas as pd

from report.numbers import interval, mean_std, percent
from report.page import Table
from report.paper import explain_paper, find_paper
from running.records import disarm

COMPARISON_COLUMNS = "first second unit metric difference low high p n".split()


def build_tables(experiment, scores):
    """The two tables of the systems as texts: over folds, and pooled over utterances.

    Args:
        scores: {name: dict of `score_system`}.
    """
    return [build_fold_table(experiment, scores), build_pooled_table(experiment, scores)]


def build_fold_table(experiment, scores):
    """Mean, spread and t interval over folds (and seeds), beside the paper's figures where they belong there."""
    several = any(len(system.seeds) > 1 for system in experiment.systems)
    paper = explain_paper(experiment) is None
    rows = [build_chance(experiment)]
    for system in experiment.systems:
        row = scores[system.name]
        cells = {"system": system.name, "protocol": experiment.protocol}
        cells["UA, mean ± std"] = mean_std(row["ua"])
        cells["UA 95 %"] = interval(row["ua_by_fold"])
        cells["WA, mean ± std"] = mean_std(row["wa"])
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
    rows, chance = [], find_chance(experiment)
    cells = {
        "pooled": "chance",
        "protocol": "–",
        "UA": percent(chance["ua_pooled"]),
        "WA": percent(chance["wa_pooled"]),
    }
    rows.append(cells)
    for system in experiment.systems:
        row = scores[system.name]
        cells = {"pooled": system.name, "protocol": experiment.protocol}
        for metric in ("ua", "wa"):
            name = metric.upper()
            cells[name] = percent(row["pooled"][metric])
            if f"{metric}_by_speaker" in row:
                cells[f"{name} 95 % by speaker"] = interval(row[f"{metric}_by_speaker"])
            cells[f"{name} 95 %, these utterances only"] = interval(row[f"{metric}_by_utterance"])
        if "speakers" in row:
            cells["speakers"] = row["speakers"]
        rows.append({**cells, "macro F1": percent(row["pooled"]["macro_f1"])})
    rows[0] = {name: rows[0].get(name, "–") for name in rows[-1]}
    return Table(pd.DataFrame(rows))


def build_chance(experiment):
    """The row of guessing in the table of the folds."""
    chance = find_chance(experiment)
    return {"system": "chance", "UA, mean ± std": percent(chance["ua"]), "WA, mean ± std": percent(chance["wa"])}


def find_chance(experiment):
    """The scores of always the same answer: UA 1 / classes that occur, WA the share of the most frequent label.

    Returns: dict of fractions of 1 with `ua` and `wa`, means over the folds, and `ua_pooled` and `wa_pooled`.
    """
    counts = np.array(list(experiment.count_labels().values()))  # (folds, C)
    pooled = counts.sum(0)
    shares = counts[:, pooled.argmax()] / counts.sum(1)
    return {
        "ua": float((1 / (counts > 0).sum(1)).mean()),
        "wa": float(shares.mean()),
        "ua_pooled": float(1 / (pooled > 0).sum()),
        "wa_pooled": float(pooled.max() / pooled.sum()),
    }


def build_csv(experiments, scores):
    """One line a row of a table, numbers in %. Args: scores: list parallel to experiments of {name: scores}."""
    pairs = zip(experiments, scores, strict=True)
    return pd.DataFrame([_build_line(e, system, by_name[system.name]) for e, by_name in pairs for system in e.systems])


def build_comparison_csv(experiments, comparisons):
    """One line a pair, unit and score: the difference second - first in points, its interval, p and n.

    Where there are several experiments their protocol and labels stand behind each line, else the names alone tell.

    Args:
        comparisons: list parallel to experiments of lists of Comparison.
    Returns: pandas.DataFrame of numbers rounded to what they hold.
    """
    lines = []
    for experiment, pairs in zip(experiments, comparisons, strict=True):
        where = {"protocol": disarm(experiment.protocol), "labels": disarm(" ".join(experiment.labels))}
        for pair in pairs:
            for (unit, metric), found in pair.differences.items():
                line = {"first": pair.first.name, "second": pair.second.name, "unit": unit, "metric": metric}
                for name, value in zip(("difference", "low", "high"), (found.mean, found.low, found.high), strict=True):
                    line[name] = round(100 * value, 4) + 0
                line.update(p=float(f"{found.p:.4g}"), n=found.n)
                lines.append(line | (where if len(experiments) > 1 else {}))
    return pd.DataFrame(lines, columns=[*COMPARISON_COLUMNS, *(where if len(experiments) > 1 else [])])


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
        for unit in ("fold", "speaker", "utterance"):
            if f"{metric}_by_{unit}" in row:
                low, high = row[f"{metric}_by_{unit}"]
                line[f"{metric}_low_by_{unit}"], line[f"{metric}_high_by_{unit}"] = 100 * low, 100 * high
    for name, value in row["pooled"]["recall"].items():
        line[f"recall_{name}"] = None if value is None else 100 * value
    line["paper_ua"], line["paper_wa"] = find_paper(system)
    return {**line, "folder": disarm(str(system.folder))}
