"""The verdict on the paper: do our figures on IEMOCAP agree with the published ones, row by row?

Two questions, which are not one: does the published figure lie within the 95 % interval of ours, and is ours shown to
be within ±1 point of it? The first is answered yes by few and noisy runs, too; the second by precise ones alone.
Sources: Schuirmann 1987 (two one-sided tests), Lakens 2017; the figures of report/paper.py.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.stats.weightstats import DescrStatsW

from report.page import Heading, Table, Text
from report.paper import PAPER_UTTERANCES, explain_paper, find_paper
from running.records import write_json

MARGIN = 1.0  # points
LEVEL = 0.05  # of each of the two one-sided tests, and 1 - that of the interval
TITLE = "The verdict on the paper"
HARDWARE = ("machine", "processor", "cores", "gpus")
NOT_SETTINGS = ("seed", "avel_weight", "mem_weight")  # what a row or a repetition differs in
CHOICES = {
    "audio_model": ("microsoft/wavlm-large", "microsoft/wavlm-base-plus", "microsoft/wavlm-base"),
    "scheduler": ("cosine", "step", "constant", "none"),
    "choose_by": ("ua", "wa"),
    "pooling_model": ("mean", "max"),
}


def judge_rows(experiment):
    """Ours against the published figures, of every row that has one and of UA and WA.

    Args:
        experiment: Experiment; without IEMOCAP's labels and counts no row is judged.
    Returns: list of dicts, in points: `name` of the system; `row`, `metric`, `paper`, `values` of ours, their `unit`
        (`seed` with at least two seeds that have every fold, else `session`), `n`, `mean`; the interval `low`, `high`,
        `within`, the `p` of the two one-sided tests and `equivalent`, None where n is 1.
    """
    rows = []
    for system in experiment.systems:
        for metric, paper in zip(("ua", "wa"), find_paper(system), strict=True):
            unit, values = find_values(system, metric)
            if paper is not None and values:
                about = {"name": system.name, "row": system.kind, "metric": metric, "paper": paper}
                rows.append({**about, "unit": unit, "n": len(values), "values": values, **judge(values, paper)})
    return rows


def find_values(system, metric):
    """The scores that a verdict is over, of the seeds that have every fold of the system.

    Returns: `seed` and each seed's mean over the folds; of a single seed `session` and the score of each fold. Lists
        of points, empty where no seed has every fold.
    """
    table = pd.DataFrame([(run.seed, run.fold, 100 * run.result[metric]) for run in system.runs])
    table = table.pivot(index=0, columns=1, values=2).dropna()  # (seeds, folds)
    if len(table) > 1:
        return "seed", table.mean(axis=1).tolist()
    return "session", table.to_numpy().ravel().tolist()


def judge(values, paper):
    """Interval and equivalence of some values and a published figure. Args: points. Returns: dict, see `judge_rows`."""
    verdict = {"mean": float(np.mean(values)), **dict.fromkeys(("low", "high", "within", "p", "equivalent"))}
    if len(values) < 2:
        return verdict
    ours = DescrStatsW(np.array(values))
    with np.errstate(divide="ignore", invalid="ignore"):  # without any spread
        low, high = map(float, ours.tconfint_mean(LEVEL))
        p = float(ours.ttost_mean(paper - MARGIN, paper + MARGIN)[0])
    return {**verdict, "low": low, "high": high, "within": low <= paper <= high, "p": p, "equivalent": p < LEVEL}


def show_verdict(experiment):
    """The blocks of the verdict; none where the paper's figures don't belong beside these runs."""
    if explain_paper(experiment) is not None:
        return []
    rows, notes = judge_rows(experiment), explain_left_out(experiment)
    if not rows:
        return [Heading(TITLE, 3), Text(notes, note=True)]
    table = Table(pd.DataFrame([build_cells(row, experiment.protocol) for row in rows]))
    return [Heading(TITLE, 3), Text(summarize(rows)), table, Text(f"{explain(experiment)} {notes}".strip(), note=True)]


def build_cells(row, protocol):
    known = row["low"] is not None
    return {
        f"ours, {protocol} protocol": row["name"],
        "score": row["metric"].upper(),
        "paper's": f"{row['paper']:.2f}",
        "mean": f"{row['mean']:.2f}",
        "95 %": f"[{row['low']:.2f}, {row['high']:.2f}]" if known else "–",
        "over": f"{row['n']} {row['unit']}{'s' * (row['n'] > 1)}",
        "paper's within": {True: "yes", False: "no", None: "not testable"}[row["within"]],
        f"within ±{MARGIN:g} point": {True: "shown", False: "not shown", None: "not testable"}[row["equivalent"]],
        "p": f"{row['p']:.4f}" if known else "–",
    }


def summarize(rows):
    """The verdict in a sentence, of UA."""
    rows = [row for row in rows if row["metric"] == "ua"]
    agree, contain = (sum(row[key] is True for row in rows) for key in ("equivalent", "within"))
    return (
        f"UA of {len(rows)} rows: {agree} shown to be within ±{MARGIN:g} point of the paper's, {contain} with the "
        "paper's figure in the interval."
    )


def explain(experiment):
    """How to read the table."""
    text = (
        "95 %: t interval of the mean over seeds, each the mean of its folds; with a single seed over sessions, whose "
        f"unlike difficulty makes it wide. Within ±{MARGIN:g} point: two one-sided t tests, each at {LEVEL:.0%}, over "
        "the same values. Not shown is no proof of a difference, nor a figure in a wide interval one of agreement. The "
        "paper's figures have a training noise of their own, which is not known. The authors' train.py prints "
        "accuracy as UA and mean recall as WA: if their table came from it, its two columns are swapped."
    )
    if experiment.protocol != "paper":
        text += (
            f" These runs are of the {experiment.protocol} protocol; the paper chose its epochs on the reported list, "
            "so a lower score here is no failed reproduction."
        )
    return text


def explain_left_out(experiment):
    """The rows and seeds that the verdict is not over, as a text."""
    notes = []
    for system in experiment.systems:
        partial = sorted({run.seed for run in system.left_out})
        if find_paper(system)[0] is None:
            notes.append(f"{system.name}: not judged, no published figure belongs beside it.")
        elif partial:
            notes.append(f"{system.name}: seed {', '.join(map(str, partial))} left out, some folds are missing.")
    return " ".join(notes)


def write_verdict(experiments, path):
    """Write the verdict as JSON for others to collect; it holds no folder, path, command, utterance or speaker.

    Args:
        experiments: list of Experiment. path: of the file, which is removed where there is nothing to judge.
    Returns: whether there is a verdict.
    """
    judged = [experiment for experiment in experiments if explain_paper(experiment) is None]
    verdicts = [verdict for verdict in map(describe_verdict, judged) if verdict["rows"]]
    if not verdicts:
        Path(path).unlink(missing_ok=True)
        return False
    write_json(path, {"about": "Foal-Net on IEMOCAP", "margin": MARGIN, "level": LEVEL, "verdicts": verdicts})
    return True


def describe_verdict(experiment):
    """The rows of an experiment and where they come from, without what could tell who trained them."""
    rows = [{key: _round(value) for key, value in row.items() if key != "name"} for row in judge_rows(experiment)]
    runs = [run for system in experiment.systems for run in system.runs if find_paper(system)[0] is not None]
    environments = [run.environment for run in runs]
    return {
        "protocol": experiment.protocol,
        "utterances": PAPER_UTTERANCES,
        "rows": rows,
        "commits": _distinct(_read_commit(e) for e in environments),
        "versions": _distinct({"python": e.get("python"), **e.get("versions", {})} for e in environments),
        "hardware": _distinct({k: e.get("hardware", {}).get(k) for k in HARDWARE} for e in environments),
        "mixed_precision": _distinct(e.get("mixed_precision") for e in environments),
        "processes": _distinct(e.get("processes") for e in environments),
        "settings": _distinct(_read_settings(run.args) for run in runs),
    }


def _read_commit(environment):
    """A commit, with `-dirty` where it was; None for whatever else stands there."""
    commit = str(environment.get("git_commit"))
    return commit if re.fullmatch(r"[0-9a-f]{7,64}(-dirty)?", commit) else None


def _read_settings(args):
    """The flags that decide a result and are a number or one of a list; any other text says `other`."""
    settings = {k: v for k, v in args.items() if isinstance(v, int | float) and k not in NOT_SETTINGS}
    return settings | {k: args[k] if args[k] in known else "other" for k, known in CHOICES.items() if k in args}


def _distinct(values):
    """Every different value once, in the order of their first."""
    found = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _round(value):
    if isinstance(value, list):
        return [_round(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value
