"""The section of the swapped streams: what a model loses where it gets the video or the sound of another utterance.

Read from the probe.csv that scripts.probe leaves in a run folder; one of other predictions than the present ones counts
as none.
"""

import numpy as np
import pandas as pd

from report.numbers import interval, percent
from report.page import Heading, Table, Text
from report.pictures import draw, plot_drops
from running.errors import InputError
from running.records import hash_file, read_json, rearm
from running.significance import count_hits, percentile_interval, resample_scores, score_counts

SWAPS = {  # column of probe.csv: its name in the table
    "video_same": "video, same emotion",
    "video_other": "video, other emotion",
    "audio_same": "sound, same emotion",
    "audio_other": "sound, other emotion",
}
HOW = "python -m scripts.probe RUNS"


def show_probing(experiment, prefix, resamples, seed):
    """The blocks of the swapped streams; none where no system has both streams."""
    systems = [system for system in experiment.systems if system.runs[0].result["modality"] == "av"]
    if not systems:
        return []
    heading = Heading("Does it look at both?", 3)
    scores = score_probes(experiment, resamples, seed)
    if not scores:
        text = f"{HOW} gives each utterance the video or the sound of another one; what that costs is then shown here."
        return [heading, Text(text, note=True)]
    notes = [explain(experiment)]
    for system in systems:
        n = sum(read_probe(run) is None for run in system.runs)
        notes += [f"{system.name}: {n} of {len(system.runs)} runs are not probed ({HOW})."] if n else []
    text = f"What a swapped stream costs each system, {experiment.protocol} protocol: drop of UA with 95 % interval."
    axis = f"drop of UA, points, {experiment.protocol} protocol"
    return [
        heading,
        build_drop_table(experiment, scores),
        Text(" ".join(notes), note=True),
        draw(f"{prefix}drops.png", text, plot_drops, scores, SWAPS, width=760, title=axis),
    ]


def score_probes(experiment, resamples=5000, seed=0):
    """What each swap costs each system that has been probed.

    Args:
        experiment: Experiment. resamples, seed: of the bootstrap.
    Returns: {system: {swap of SWAPS: dict of `score_swap`}}; a swap that no utterance has a partner for is left out.
    """
    scores = {}
    for system in experiment.systems:
        tables = [table for run in system.runs if (table := read_probe(run)) is not None]
        if tables:
            table, n_classes = pd.concat(tables), len(system.labels)
            found = {swap: score_swap(table, swap, n_classes, resamples, seed) for swap in SWAPS}
            scores[system.name] = {swap: score for swap, score in found.items() if score}
    return scores


def read_probe(run):
    """utt_id, label (int), intact (bool, right as it is) and the swaps' columns; None for a run that isn't probed.

    Raises: InputError for a probe.csv that is damaged.
    """
    path, about = run.folder / "probe.csv", run.folder / "probe.json"
    if not path.is_file() or not about.is_file():
        return None
    sha256 = hash_file(run.folder / f"predictions_{run.result['reported']}.csv")
    if read_json(about).get("predictions_sha256") != sha256:
        return None
    columns = [*SWAPS, *(f"{swap}_follows" for swap in SWAPS if swap.endswith("_other"))]
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(("utt_id", "label", "intact"), str), keep_default_na=False)
        table[columns] = table[columns].replace("", np.nan).astype(float)
        table[["utt_id", "intact"]] = table[["utt_id", "intact"]].map(rearm)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: damaged, remove it and probe again: {error}") from error
    if table["utt_id"].tolist() != run.predictions["utt_id"].tolist():
        raise InputError(f"{path}: has other utterances than the predictions beside it; remove it and probe again")
    table["label"] = run.predictions["label"]
    table["intact"] = table["intact"] == np.array(run.result["labels"])[table["label"]]
    return table[["utt_id", "label", "intact", *columns]]


def score_swap(table, swap, n_classes, resamples, seed):
    """UA as it is and with a swap, and their difference, on the utterances that have a partner for it.

    Args:
        table: of `read_probe`, of several folds and seeds. swap: its column. resamples, seed: of the bootstrap.
    Returns: dict of fractions of 1 with `intact`, `swapped`, `drop`, `interval` (95 %, paired, over utterances) and
        `follows` (None for a swap of the same emotion), and the number of `utterances`; None where there is none.
    """
    table = table[table[swap].notna()]
    if table.empty:
        return None
    means = table.groupby("utt_id").agg(label=("label", "first"), intact=("intact", "mean"), swapped=(swap, "mean"))
    counts = [count_hits(means["label"], means[name], means.index, n_classes) for name in ("intact", "swapped")]
    counts = np.stack(counts, 1)  # (utterances, 2, 2, C)
    intact, swapped = score_counts(counts.sum(0))[:, 0]
    sampled = resample_scores(counts, resamples, seed, stratified=True)[..., 0]
    score = {"intact": intact, "swapped": swapped, "drop": intact - swapped, "utterances": len(means)}
    score["interval"] = percentile_interval(sampled[:, 0] - sampled[:, 1])
    return {**score, "follows": table[f"{swap}_follows"].mean() if swap.endswith("_other") else None}


def build_drop_table(experiment, scores):
    """One row a system and swap. Args: scores: of `score_probes`."""
    rows = [
        {
            f"swapped, {experiment.protocol} protocol": f"{name}: {SWAPS[swap]}",
            "UA as it is": percent(score["intact"]),
            "UA swapped": percent(score["swapped"]),
            "drop": f"{round(100 * score['drop'], 2) + 0:.2f}",
            "95 %": interval(score["interval"]),
            "follows, %": percent(score["follows"]),
            "utterances": score["utterances"],
        }
        for name, swaps in scores.items()
        for swap, score in swaps.items()
    ]
    return Table(pd.DataFrame(rows))


def explain(experiment):
    """How to read the table."""
    return (
        f"{experiment.protocol.capitalize()} protocol, all folds and seeds pooled. One stream of each utterance is "
        "exchanged for that of others of the reported list, the label stays that of the stream that stays. Drop: "
        "points of UA lost, mean over the partners; interval: paired bootstrap over the utterances, partners as drawn. "
        "A stream of the same emotion should cost little: what it costs is owed to speakers, words and streams that do "
        "not belong together. One of another emotion costs as much as the model relies on that stream; a drop near 0 "
        "means that it does not look at it. Follows: share of the answers that are the emotion of the exchanged one. "
        "This is what the model uses, not what the stream could tell."
    )
