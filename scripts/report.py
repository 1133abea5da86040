"""A folder of runs -> the table, and a report that holds everything a reviewer asks for.

    python -m scripts.report runs/table2 --manifest data/iemocap/manifest.csv    # report.html, .md, .csv
    python -m scripts.report runs/table2 --summary                               # the table alone, to stdout

Every folder with a result.json, at any depth, is a run; its name is the fold. Runs of the same system become a row,
runs of different protocols or labels never share a table. What is missing or mixed stands on top of everything.
report.html holds its pictures and needs no network; report.md finds them in pictures/.
"""

import argparse
import io
import logging
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from document import (
    Alarm,
    Code,
    Details,
    Gallery,
    Heading,
    Picture,
    Table,
    Text,
    find_pictures,
    render_html,
    render_markdown,
)
from errors import InputError, command
from folds import parse_iemocap_id
from manifest import read_manifest
from plots import plot_comparison, plot_confusion, plot_embeddings, plot_mean_curves, plot_scores
from results import SYSTEMS, find_problems, find_runs, group_runs, natural_order
from significance import (
    adjust_holm,
    bootstrap_p,
    compare_mcnemar,
    count_hits,
    percentile_interval,
    resample_scores,
    score_counts,
)

logger = logging.getLogger("foalnet")

PAPER = dict(  # UA, WA in % on IEMOCAP, leave one session out: Li et al., Interspeech 2024, Tables 1 and 2
    zip(
        SYSTEMS,
        [(77.68, 77.25), (47.90, 46.61), (77.85, 77.31), (79.31, 78.20), (78.10, 76.94), (80.10, 79.45)],
        strict=True,
    )
)
PAPER_LABELS, PAPER_UTTERANCES = {"hap", "neu", "sad", "ang"}, 5531
PROTOCOLS = {
    "paper": "Paper protocol: the best epoch of a fold is chosen by UA on the very utterances that are reported, as in "
    "the paper. Such numbers are optimistic: some of each is luck of the epoch.",
    "strict": "Strict protocol: the best epoch of a fold is chosen by UA on a session of its own, and the reported "
    "session is looked at once.",
}
DURATIONS = {"under 2 s": (0, 2), "2 to 4 s": (2, 4), "4 to 6 s": (4, 6), "6 s and more": (6, np.inf)}
NOT_GROUPS = ("id", "path", "label", "video", "start", "end", "crop", "duration")
MOST_GROUPS = 40  # a manifest column with more values is no grouping
FEW_SPEAKERS = 10
EXACT_TSNE = 300  # points up to which the exact gradient is the faster one
EMBEDDINGS = {
    "audio, before": ("audio_pooled",),
    "video, before": ("video_pooled",),
    "audio (dot) and video (cross), projected": ("audio_embeds", "video_embeds"),
    "fused": ("fused",),
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", help="folder of runs, at any depth")
    parser.add_argument("--out", help="folder of the report (default: RUNS/report)")
    parser.add_argument("--manifest", help="manifest.csv; its columns (speaker, style, duration, ...) group the UA")
    parser.add_argument("--title", default="Foal-Net: results", help="title of the report (default: %(default)s)")
    parser.add_argument("--summary", action="store_true", help="print the table and write nothing")
    parser.add_argument("--resamples", type=int, default=5000, help="bootstrap samples (default: %(default)s)")
    parser.add_argument(
        "--tsne_points", type=int, default=500, help="utterances in a t-SNE; 0 draws none (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of bootstrap and t-SNE (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.resamples < 100 or args.tsne_points < 0 or args.seed < 0:
        raise InputError(
            f"--resamples {args.resamples}: at least 100; "
            f"--tsne_points {args.tsne_points}, --seed {args.seed}: not negative"
        )
    return args


def percent(value):
    return "–" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def interval(low_high):
    return "[{}, {}]".format(*map(percent, low_high))


def show_p(p):
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def mean_std(values):
    """`mean ± std` in %, the sample's standard deviation (n - 1); of a single value the value."""
    text = percent(np.mean(values))
    return f"{text} ± {percent(np.std(values, ddof=1))}" if len(values) > 1 else text


def explain_paper(experiment):
    """None where the paper's figures belong beside some of these; else the reason why they don't."""
    if set(experiment.labels) != PAPER_LABELS:
        return f"the labels are {' '.join(experiment.labels)}, the paper's are hap neu sad ang"
    sizes = sorted({len(system.utterances) for system in experiment.systems})
    if PAPER_UTTERANCES not in sizes:
        return f"these are {', '.join(map(str, sizes))} utterances, the paper's are IEMOCAP's {PAPER_UTTERANCES}"
    return None


def find_paper(system):
    """The paper's (UA, WA) of a system in %, (None, None) where they don't belong beside it."""
    alike = set(system.labels) == PAPER_LABELS and len(system.utterances) == PAPER_UTTERANCES
    return PAPER.get(system.kind, (None, None)) if alike else (None, None)


def score_system(system, speakers, resamples, seed):
    """Everything about a row as numbers, fractions of 1.

    Args:
        system: System. speakers: pandas.Series of speaker by utt_id, or None. resamples, seed: of the bootstrap.
    Returns: dict.
    """
    pooled, utterances = system.pooled, system.utterances
    labels, hits = utterances["label"].to_numpy(), utterances["hit"].to_numpy()
    units = {"utterance": utterances.index}
    if speakers is not None:
        units["speaker"] = speakers.reindex(utterances.index)
    scores = {"utterances": len(utterances), "pooled": pooled}
    for unit, values in units.items():
        sampled = resample_scores(count_hits(labels, hits, values, len(system.labels)), resamples, seed)
        low, high = percentile_interval(sampled)
        scores[f"ua_by_{unit}"], scores[f"wa_by_{unit}"] = zip(low, high, strict=True)
    for metric in ("ua", "wa", "macro_f1"):
        scores[metric] = system.by_fold(metric)
        scores[f"{metric}_by_seed"] = system.by_seed(metric)
    return scores


def build_tables(experiment, scores):
    """The two tables of the systems as texts: over folds, beside the paper's figures, and pooled over utterances.

    Args:
        scores: {name: dict of `score_system`}.
    """
    several = any(len(system.seeds) > 1 for system in experiment.systems)
    paper = explain_paper(experiment) is None
    over_folds, pooled = [], []
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
        over_folds.append({**cells, "utterances": row["utterances"]})
        cells = {"pooled": system.name, "protocol": experiment.protocol}
        for metric in ("ua", "wa"):
            cells[metric.upper()] = percent(row["pooled"][metric])
            cells[f"{metric.upper()} 95 %"] = interval(row[f"{metric}_by_utterance"])
            if f"{metric}_by_speaker" in row:
                cells[f"{metric.upper()} 95 % by speaker"] = interval(row[f"{metric}_by_speaker"])
        pooled.append({**cells, "macro F1": percent(row["pooled"]["macro_f1"])})
    return [Table(pd.DataFrame(over_folds)), Table(pd.DataFrame(pooled))]


def build_csv(experiments, scores):
    """One line a row of a table, numbers in %. Args: scores: list parallel to experiments of {name: scores}."""
    rows = []
    for experiment, by_name in zip(experiments, scores, strict=True):
        for system in experiment.systems:
            row = by_name[system.name]
            line = {"system": system.name, "protocol": experiment.protocol, "labels": " ".join(experiment.labels)}
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
            rows.append({**line, "folder": str(system.folder)})
    return pd.DataFrame(rows)


def compare_systems(first, second, speakers, resamples, seed):
    """Paired tests of two systems on the utterances that both predicted, with the seeds that both have.

    Args:
        first, second: System. speakers: pandas.Series by utt_id, or None. resamples, seed: of the bootstrap.
    Returns: dict with the difference second - first in UA, its intervals and the p values; None when nothing is shared.
    """
    parts = [system.predictions.drop_duplicates(["utt_id", "seed"]) for system in (first, second)]
    both = parts[0].merge(parts[1], on=["utt_id", "seed", "label"], suffixes=("_first", "_second"))
    if both.empty:
        return None
    one_seed = both[both["seed"] == both["seed"].min()]
    only_first, only_second, p = compare_mcnemar(one_seed["hit_first"], one_seed["hit_second"])
    means = both.groupby("utt_id").agg(
        label=("label", "first"), first=("hit_first", "mean"), second=("hit_second", "mean")
    )
    found = {"utterances": len(means), "only_first": only_first, "only_second": only_second, "mcnemar_p": p}
    units = {"utterance": means.index}
    if speakers is not None:
        units["speaker"] = speakers.reindex(means.index)
    for unit, values in units.items():
        counts = [count_hits(means["label"], means[name], values, len(first.labels)) for name in ("first", "second")]
        counts = np.stack(counts, 1)  # (units, 2 systems, 2, C)
        sampled = resample_scores(counts, resamples, seed)[..., 0]
        found[f"by_{unit}"] = percentile_interval(sampled[:, 1] - sampled[:, 0])
        if unit == "utterance":
            found["bootstrap_p"] = bootstrap_p(sampled[:, 1] - sampled[:, 0])
            first_ua, second_ua = score_counts(counts.sum(0))[:, 0]
            found["difference"] = second_ua - first_ua
    return found


def show_tests(experiment, speakers, args):
    """The blocks of the paired tests."""
    pairs = list(combinations(experiment.systems, 2))
    found = [(a, b, compare_systems(a, b, speakers, args.resamples, args.seed)) for a, b in pairs]
    apart = [f"{a.name} and {b.name}" for a, b, test in found if test is None]
    found = [entry for entry in found if entry[2] is not None]
    if not found:
        return []
    adjusted = {kind: adjust_holm([test[kind] for *_, test in found]) for kind in ("mcnemar_p", "bootstrap_p")}
    rows = []
    for i, (first, second, test) in enumerate(found):
        cells = {
            "pair": f"{second.name} vs. {first.name}",
            "UA difference": f"{100 * test['difference']:+.2f}",
            "95 %": interval(test["by_utterance"]),
        }
        if "by_speaker" in test:
            cells["95 % by speaker"] = interval(test["by_speaker"])
        cells["bootstrap p"] = show_p(test["bootstrap_p"])
        cells["Holm"] = show_p(adjusted["bootstrap_p"][i])
        cells["only first right"], cells["only second right"] = test["only_second"], test["only_first"]
        cells["McNemar p"] = show_p(test["mcnemar_p"])
        cells["Holm "] = show_p(adjusted["mcnemar_p"][i])
        cells["n"] = test["utterances"]
        rows.append(cells)
    several = any(len(system.seeds) > 1 for system in experiment.systems)
    note = (
        f"Pooled over the utterances that both systems of a pair predicted ({experiment.protocol} protocol). "
        f"Difference: first system minus second, in points of UA; interval and two-sided p from {args.resamples} "
        "paired bootstrap samples. McNemar: exact, two-sided, on the utterances that one of the two alone "
        "got right, so it tests WA"
        + (" (of the first shared seed; the bootstrap takes the mean over the shared seeds)" if several else "")
        + f". Holm: the p before it, adjusted for {len(rows)} comparisons. Training noise is not in these tests: "
        "several seeds show it."
    )
    blocks = [Heading("Paired tests", 3), Table(pd.DataFrame(rows)), Text(note, note=True)]
    return [*blocks, Alarm([f"no shared seed or utterance, not compared: {', '.join(apart)}"])] if apart else blocks


def draw(name, text, function, *content, width=None, **options):
    """A Picture of what a function of plots.py draws."""
    file = io.BytesIO()
    function(*content, file, **options)
    return Picture(file.getvalue(), name, text, width)


def show_main(experiment, scores, speakers, prefix):
    """The blocks of the main table."""
    reason, blocks = explain_paper(experiment), [Text(PROTOCOLS.get(experiment.protocol, experiment.protocol))]
    blocks += build_tables(experiment, scores)
    seeds = max(len(system.seeds) for system in experiment.systems)
    most = max(np.bincount(experiment.systems[0].utterances["label"])) / len(experiment.systems[0].utterances)
    notes = [
        "All scores in %. UA: mean of the recalls of the classes; WA: accuracy. Mean ± std: over the folds"
        + (f", each the mean of its seeds ({seeds})" if seeds > 1 else "")
        + "; std with n − 1. Pooled: one confusion matrix over all utterances. 95 %: percentile bootstrap of the "
        "pooled score over utterances" + (", and over speakers" if speakers is not None else "") + ".",
        f"Chance: UA {100 / len(experiment.labels):.2f}; always the most frequent label: WA {percent(most)}.",
        "The paper's figures: Li et al., Interspeech 2024, IEMOCAP with WavLM-large and CLIP ViT-L/14, epoch chosen on "
        "the reported session." + ("" if experiment.protocol == "paper" else " Ours here: another protocol.")
        if reason is None
        else f"The paper's figures are not shown: {reason}.",
    ]
    if speakers is not None:
        n = speakers.reindex(experiment.systems[0].utterances.index).nunique()
        if n < FEW_SPEAKERS:
            notes.append(f"With {n} speakers the intervals by speaker are rough, most likely too narrow.")
    blocks.append(Text(" ".join(notes), note=True))
    rows = {
        system.name: {
            "folds": list(100 * scores[system.name]["ua"]),
            "pooled": 100 * scores[system.name]["pooled"]["ua"],
            "low": 100 * scores[system.name]["ua_by_utterance"][0],
            "high": 100 * scores[system.name]["ua_by_utterance"][1],
            "paper": find_paper(system)[0],
        }
        for system in experiment.systems
    }
    text = f"UA of each system, {experiment.protocol} protocol: folds, pooled score with 95 % interval, chance."
    chance = 100 / len(experiment.labels)
    return [
        *blocks,
        draw(
            f"{prefix}scores.png",
            text,
            plot_scores,
            rows,
            chance,
            width=760,
            title=f"UA, %, {experiment.protocol} protocol",
        ),
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
        file = io.BytesIO()
        plot_confusion(pooled["confusion"], experiment.labels, file, title=title)
        pictures.append(Picture(file.getvalue(), f"{prefix}confusion_{i}.png", f"{text}.", 360))
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


def project_embeddings(path, points, seed):
    """t-SNE of what embeddings_<split>.npz holds.

    Args:
        path: the file. points: utterances at most. seed: of choice and t-SNE.
    Returns: list of panels as in `plots.plot_embeddings`, and the number of utterances used.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    n = len(arrays["labels"])
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:points])
    labels, panels = arrays["labels"][chosen], []
    for title, names in EMBEDDINGS.items():
        if not all(name in arrays for name in names):
            continue
        states = np.concatenate([arrays[name][chosen].astype(np.float32) for name in names])
        classes, streams = np.tile(labels, len(names)), np.repeat(range(len(names)), len(chosen))
        perplexity = min(30.0, (len(states) - 1) / 3)
        if perplexity < 1 or not np.isfinite(states).all():
            continue
        method = "exact" if len(states) <= EXACT_TSNE else "barnes_hut"
        flat = TSNE(perplexity=perplexity, init="pca", method=method, random_state=seed).fit_transform(states)
        if 1 < len(np.unique(classes)) < len(classes):
            title += f"\nsilhouette {silhouette_score(states, classes, metric='cosine'):+.2f}"
        panels.append((title, flat, classes, streams))
    return panels, len(chosen)


def show_embeddings(experiment, args, prefix):
    """The blocks of the embeddings: the first fold that all systems have, since each fold has a space of its own."""
    shared = set.intersection(*[{(run.seed, run.fold) for run in system.runs} for system in experiment.systems])
    pictures = []
    for i, system in enumerate(experiment.systems):
        if "v" not in system.runs[0].result["modality"] or "a" not in system.runs[0].result["modality"]:
            continue
        runs = [run for run in system.runs if (run.seed, run.fold) in shared] or system.runs
        path = runs[0].folder / f"embeddings_{runs[0].result['reported']}.npz"
        if not path.is_file():
            logger.warning("%s: no such file; no t-SNE of %s", path, system.name)
            continue
        panels, n = project_embeddings(path, args.tsne_points, args.seed)
        if not panels:
            continue
        trained = "trained by AVEL" if system.runs[0].result["avel_weight"] > 0 else "NOT trained, AVEL is off"
        text = f"{system.name}: fold {runs[0].fold}, seed {runs[0].seed}, {n} utterances; the projection is {trained}."
        pictures.append(draw(f"{prefix}tsne_{i}.png", text, plot_embeddings, panels, experiment.labels, width=560))
    if not pictures:
        return []
    text = (
        "t-SNE, one fold, since every fold has a space of its own. Before: masked means of the WavLM states and of the "
        "CLIP features. Projected: both streams in the space of AVEL, in one picture. Fused: what the classifier sees. "
        "Distances between clusters mean nothing; silhouette (cosine, by class, −1 to +1) is of the full space."
    )
    return [Heading("Embeddings before and after AVEL", 3), Text(text, note=True), Gallery(pictures)]


def read_groups(path, utt_ids):
    """What is known of the utterances beside their label.

    Args:
        path: manifest.csv, or None: IEMOCAP's ids say speaker, style and marker wearer. utt_ids: those of the runs.
    Returns: pandas.DataFrame of texts by utt_id with a column a grouping; it may have no column.
    """
    if path is None:
        parsed = [parse_iemocap_id(utt_id) for utt_id in utt_ids]
        if not all(parsed):
            return pd.DataFrame(index=utt_ids)
        rows = [(p.speaker, p.style, p.gender, "yes" if p.wears_markers else "no") for p in parsed]
        return pd.DataFrame(rows, index=utt_ids, columns=["speaker", "style", "gender", "marker_wearer"])
    table = read_manifest(path).set_index("id")
    missing = [utt_id for utt_id in utt_ids if utt_id not in table.index]
    if missing:
        raise InputError(f"{path}: has no id {missing[0]}" + f" and {len(missing) - 1} more" * (len(missing) > 1))
    table = table.loc[utt_ids]
    groups = table.drop(columns=[name for name in NOT_GROUPS if name in table])
    groups = groups[[name for name in groups if 1 < groups[name].nunique() <= MOST_GROUPS]]
    seconds = (
        pd.to_numeric(table["duration"], errors="coerce") if "duration" in table else table["end"] - table["start"]
    )
    if seconds.notna().any():
        edges = [low for low, _ in DURATIONS.values()] + [np.inf]
        groups["duration"] = pd.cut(seconds, edges, right=False, labels=list(DURATIONS)).astype("object")
    return groups


def show_groups(experiment, groups):
    """The blocks of the UA by speaker, style, duration and whatever else the manifest says."""
    if not len(groups.columns):
        return [Heading("Groups", 3), Text("Give --manifest for the UA by speaker, style and duration.", note=True)]
    blocks = [Heading("UA by group", 3)]
    utt_ids = sorted({utt_id for system in experiment.systems for utt_id in system.utterances.index})
    for column in groups:
        values = groups[column].reindex(utt_ids)
        order = (
            [value for value in DURATIONS if (values == value).any()]
            if column == "duration"
            else sorted(values[values != ""].dropna().unique(), key=natural_order)
        )
        if len(order) < 2:
            continue
        rows = []
        for value in order:
            inside = values.index[values == value]
            cells, classes = {column.replace("_", " "): value, "utterances": len(inside)}, set()
            for system in experiment.systems:
                part = system.predictions[system.predictions["utt_id"].isin(inside)]
                classes |= set(part["label"])
                counts = (
                    count_hits(part["label"], part["hit"], np.zeros(len(part)), len(experiment.labels))
                    if len(part)
                    else None
                )
                cells[system.name] = "–" if counts is None else percent(score_counts(counts)[0, 0])
            cells["classes"] = len(classes)
            rows.append(cells)
        blocks.append(Table(pd.DataFrame(rows)))
    text = f"Pooled, in %, {experiment.protocol} protocol. UA is the mean over the classes that occur in a group."
    return [*blocks, Text(text, note=True)]


def show_provenance(experiments):
    """The blocks of where the numbers come from."""
    rows, hashes, commands = [], {}, []
    for experiment in experiments:
        for system in experiment.systems:
            environments = [run.environment for run in system.runs]
            cells = {"system": system.name, "protocol": experiment.protocol, "folder": str(system.folder)}
            cells["runs"] = len(system.runs)
            cells["best epochs"] = " ".join(str(run.result["best_epoch"]) for run in system.runs)
            cells["commit"] = _distinct(
                str(e.get("git_commit"))[:12] + "-dirty" * str(e.get("git_commit")).endswith("-dirty")
                for e in environments
            )
            cells["hardware"] = _distinct(_describe_hardware(e.get("hardware", {})) for e in environments)
            rows.append(cells)
            for run in system.runs:
                hashes.update(dict.fromkeys(run.environment.get("sha256", {}).items()))
                commands.append(f"# {run.folder}\n{run.environment.get('command', 'unknown')}")
    environments = [run.environment for e in experiments for system in e.systems for run in system.runs]
    versions = _distinct(
        ", ".join(f"{k} {v}" for k, v in {"python": e.get("python"), **e.get("versions", {})}.items())
        for e in environments
    )
    lists = pd.DataFrame(list(hashes), columns=["list", "SHA-256"])
    return [
        Heading("Provenance"),
        Table(pd.DataFrame(rows)),
        Text(f"Versions: {versions}.", note=True),
        Details(f"Lists and their hashes ({len(lists)})", [Table(lists)]),
        Details(f"Commands ({len(commands)})", [Code("\n".join(commands))]),
    ]


def _distinct(texts):
    return " and ".join(dict.fromkeys(texts))


def _describe_hardware(hardware):
    gpus = hardware.get("gpus") or []
    return (
        f"{len(gpus)} x {gpus[0]}"
        if gpus
        else f"{hardware.get('cores', '?')} cores {hardware.get('processor', '')}".strip()
    )


def build_report(experiments, scores, problems, groups, args):
    """Every block of the report."""
    speakers = groups.get("speaker")
    blocks = [Alarm(problems)] if problems else []
    for i, experiment in enumerate(experiments):
        prefix = f"{i}_" if len(experiments) > 1 else ""
        names = " ".join(experiment.labels)
        blocks += [Heading(f"{experiment.protocol.capitalize()} protocol, {len(experiment.labels)} classes: {names}")]
        blocks += show_main(experiment, scores[i], speakers, prefix)
        blocks += show_folds(experiment)
        blocks += show_tests(experiment, speakers, args)
        blocks += show_confusions(experiment, prefix)
        blocks += show_curves(experiment, prefix)
        blocks += show_embeddings(experiment, args, prefix) if args.tsne_points else []
        blocks += show_groups(experiment, groups)
    return [*blocks, *show_provenance(experiments)]


def write_report(out, title, blocks, table):
    """Write report.html, report.md with pictures/, and report.csv."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "pictures").mkdir(exist_ok=True)
    for old in (out / "pictures").glob("*.png"):
        old.unlink()
    for picture in find_pictures(blocks):
        (out / "pictures" / picture.name).write_bytes(picture.png)
    table.to_csv(out / "report.csv", index=False, float_format="%.2f", lineterminator="\n")
    (out / "report.md").write_text(render_markdown(title, blocks), encoding="utf-8")
    (out / "report.html").write_text(render_html(title, blocks), encoding="utf-8")


@command
def main(argv=None):
    args = parse_args(argv)
    runs, unfinished = find_runs(args.runs)
    experiments = group_runs(runs, args.runs)
    utt_ids = sorted({utt_id for run in runs for utt_id in run.predictions["utt_id"]})
    groups = read_groups(args.manifest, utt_ids)
    problems = find_problems(experiments, unfinished)
    for problem in problems:
        logger.warning("warning: %s", problem)
    scores = [
        {s.name: score_system(s, groups.get("speaker"), args.resamples, args.seed) for s in e.systems}
        for e in experiments
    ]
    tables = [table for e, s in zip(experiments, scores, strict=True) for table in build_tables(e, s)]
    if not args.summary:
        out = Path(args.out or Path(args.runs) / "report")
        blocks = build_report(experiments, scores, problems, groups, args)
        write_report(out, args.title, blocks, build_csv(experiments, scores))
        logger.info("wrote %s", out / "report.html")
    print("\n\n".join(table.to_markdown() for table in tables))


if __name__ == "__main__":
    main()
