"""The section of the epoch: how much of a score of the paper's protocol is luck of the epoch.

That protocol reports the epoch that was best on the reported list. Two choices that know nothing of that list stand
beside it: the last epoch, and the epoch that is best on average over the other folds of the same system and seed.
"""

import numpy as np
import pandas as pd

from report.numbers import mean_std
from report.page import Alarm, Heading, Table, Text

AGREEMENT = 1e-6  # of the chosen epoch in metrics.jsonl and result.json
COLUMNS = ["fold", "seed", "chosen", "last", "other_folds"]


def honest_scores(system):
    """The UA of each run at the chosen epoch, at the last one, and at the one that the other folds choose.

    The other folds choose by the score that `--choose_by` named, the largest mean of it, of ties the earliest; `last`
    and `other_folds` are over the epochs that all runs of a seed have.

    Args:
        system: System; runs without a history are left out.
    Returns: pandas.DataFrame of `fold`, `seed` and the fractions of 1 `chosen`, `last`, `other_folds` (nan where a
        seed has one fold only).
    """
    rows = []
    for seed in system.seeds:
        histories = [(run, read_history(run)) for run in system.runs if run.seed == seed]
        histories = [(run, history) for run, history in histories if len(history)]
        if not histories:
            continue
        scores = pd.concat({run.fold: h["score"] for run, h in histories}, axis=1, join="inner").sort_index()
        for run, history in histories if len(scores) else []:
            others = scores.drop(columns=run.fold).mean(axis=1).round(12)  # sums of the same numbers tie in any order
            honest = history["ua"][others.idxmax()] if len(histories) > 1 else np.nan
            rows.append((run.fold, seed, run.result["ua"], history["ua"][scores.index[-1]], honest))
    return pd.DataFrame(rows, columns=COLUMNS)


def read_history(run):
    """What a run's history says of the list that chose the epoch: pandas.DataFrame by epoch, fractions of 1.

    `ua`, and `score`, that by which `--choose_by` chose; it is empty where epochs have no such numbers.
    """
    names = {"ua": "valid_ua", "score": f"valid_{run.result.get('choose_by', 'ua')}"}
    table = pd.DataFrame(
        {column: {line["epoch"]: line.get(name) for line in run.history} for column, name in names.items()}
    )
    return table.astype(float).dropna()


def show_epoch_luck(experiment):
    """The blocks of the chosen epoch beside the two that know nothing of the reported list."""
    heading = Heading("How much is luck of the epoch", 3)
    if experiment.protocol != "paper":
        text = f"{experiment.protocol.capitalize()} protocol: the reported list chose no epoch, so none of it is."
        return [heading, Text(text, note=True)]
    scores = {system.name: honest_scores(system) for system in experiment.systems}
    rows = [build_row(name, table) for name, table in scores.items() if len(table)]
    wrong = [text for system in experiment.systems for run in system.runs if (text := explain_disagreement(run))]
    alarm = [Alarm(wrong)] if wrong else []
    notes = [text for system in experiment.systems if (text := explain_gaps(system, scores[system.name]))]
    if not rows:
        return [heading, Text(" ".join(notes), note=True), *alarm]
    return [heading, Table(pd.DataFrame(rows)), Text(" ".join([explain(), *notes]), note=True), *alarm]


def build_row(name, scores):
    """Means over folds, each the mean of its seeds, and what the choice flatters, points. Args: of `honest_scores`."""
    some = scores.dropna() if scores["other_folds"].notna().any() else scores
    chosen, last, others = (some.groupby("fold")[column].mean() for column in COLUMNS[2:])
    cells = {"UA, paper protocol": name, "best epoch of the fold": mean_std(chosen)}
    for title, honest in (("of the other folds", others), ("last epoch", last)):
        known = honest.notna().all()
        cells[title] = mean_std(honest) if known else "–"
        cells[f"flattered, {title}"] = f"{100 * (chosen - honest).mean():+.2f}" if known else "–"
    return {**cells, "runs": len(some)}


def explain():
    return (
        "Best epoch of the fold: the reported score, of the epoch that was best on the reported list itself. Of the "
        "other folds: the same run at the epoch with the largest mean score over the other folds of its seed; the "
        "reported list has no say in it, though those folds trained on it. Last epoch: no list has any say. Flattered: "
        "points of UA by which the reported score is above that one. Means over folds, ± their std (n − 1)."
    )


def explain_gaps(system, scores):
    """What of a system is missing in the table or cut short, a sentence; empty where nothing is."""
    lengths = [len(read_history(run)) for run in system.runs]
    gaps = []
    if 0 in lengths:
        gaps.append(f"{lengths.count(0)} of {len(lengths)} runs have no metrics.jsonl with the score of each epoch")
    if len(different := sorted(set(lengths) - {0})) > 1:
        gaps.append(
            f"histories of {', '.join(map(str, different))} epochs, compared over those that all of a seed have"
        )
    if scores["other_folds"].isna().any():
        gaps.append("a seed with one fold only has no other fold that could choose")
    return f"{system.name}: {'; '.join(gaps)}." if gaps else ""


def explain_disagreement(run):
    """What is wrong where the history of a run does not hold the reported score at its best epoch; else None."""
    ua, epoch, reported = read_history(run)["ua"], run.result["best_epoch"], run.result["ua"]
    if ua.empty or abs(ua.get(epoch, np.inf) - reported) <= AGREEMENT:
        return None
    found = f"a UA of {100 * ua[epoch]:.4f}" if epoch in ua else "no UA"
    return f"{run.folder}: metrics.jsonl has {found} at the best epoch {epoch}, result.json {100 * reported:.4f}"
