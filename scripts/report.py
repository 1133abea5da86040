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

from corpus.folds import natural_order, parse_iemocap_id
from corpus.manifest import read_manifest
from report.comparison import compare_systems, explain_paper, find_paper, score_system
from report.page import (
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
from report.runs import find_problems, find_runs, group_runs
from report.significance import adjust_holm, count_hits, score_counts
from running.errors import InputError, command
from running.pictures import plot_comparison, plot_confusion, plot_embeddings, plot_mean_curves, plot_scores

logger = logging.getLogger("foalnet")

PROTOCOLS = {
    "paper": "Paper protocol: the best epoch of a fold is chosen by {score} on the very utterances that are reported, "
    "as in the paper. Such numbers are optimistic: some of each is luck of the epoch.",
    "strict": "Strict protocol: the best epoch of a fold is chosen by {score} on a session of its own, and the "
    "reported session is looked at once.",
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


def build_tables(experiment, scores):
    """The two tables of the systems as texts: over folds, beside the paper's figures, and pooled over utterances.

    Args:
        scores: {name: dict of `score_system`}.
    """
    several = any(len(system.seeds) > 1 for system in experiment.systems)
    paper = explain_paper(experiment) is None
    over_folds, pooled = [build_chance(experiment)], []
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
    over_folds[0] = {name: over_folds[0].get(name, "–") for name in over_folds[-1]}
    return [Table(pd.DataFrame(over_folds)), Table(pd.DataFrame(pooled))]


def build_chance(experiment):
    """The row of guessing: every class as often (UA), always the most frequent label (WA)."""
    most = experiment.systems[0].utterances["label"].value_counts(normalize=True).max()
    return {"system": "chance", "UA, mean ± std": percent(1 / len(experiment.labels)), "WA, mean ± std": percent(most)}


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


def show_tests(experiment, speakers, args):
    """The blocks of the paired tests."""
    pairs = list(combinations(experiment.systems, 2))
    found = [(a, b, compare_systems(a, b, speakers, args.resamples, args.seed)) for a, b in pairs]
    apart = [f"{a.name} and {b.name}" for a, b, test in found if test is None]
    alarm = [Alarm([f"no shared seed or utterance, not compared: {', '.join(apart)}"])] if apart else []
    found = [entry for entry in found if entry[2] is not None]
    if not found:
        return alarm
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
    return [Heading("Paired tests", 3), Table(pd.DataFrame(rows)), Text(note, note=True), *alarm]


def draw(name, text, function, *content, width=None, **options):
    """A Picture of what a function of plots.py draws."""
    file = io.BytesIO()
    function(*content, file, **options)
    return Picture(file.getvalue(), name, text, width)


def explain_protocol(experiment):
    """Where the epoch was chosen and by what."""
    scores = {run.result.get("choose_by", "ua").upper() for system in experiment.systems for run in system.runs}
    return PROTOCOLS.get(experiment.protocol, experiment.protocol).format(score=" or ".join(sorted(scores)))


def explain_identity(experiment):
    """Why two rows agree to the last prediction, where the encoder is frozen: a sentence, or None."""
    frozen = {system.kind for system in experiment.systems if system.frozen}
    if not {"fusion baseline", "+ AVEL"} <= frozen:
        return None
    return (
        "The encoder of these runs is frozen. AVEL then trains its own projections and nothing that the classifier "
        "sees, so + AVEL and the fusion baseline are the same classifier by construction; with MEM it chooses the "
        "negatives."
    )


def explain_table(experiment, speakers):
    """What the columns of the main tables mean, in a paragraph."""
    reason, first = explain_paper(experiment), experiment.systems[0].utterances
    seeds = max(len(system.seeds) for system in experiment.systems)
    each = f", each the mean of its seeds ({seeds})" if seeds > 1 else ""
    units = "over utterances" if speakers is None else "over utterances, and over speakers"
    notes = [
        f"All scores in %. UA: mean of the recalls of the classes; WA: accuracy. Mean ± std: over the folds{each}; std "
        f"with n − 1. Pooled: one confusion matrix over all utterances. 95 %: percentile bootstrap of the pooled score "
        f"{units}. Chance: every class as often (UA), always the most frequent label (WA).",
    ]
    if reason is None:
        other = "" if experiment.protocol == "paper" else " Ours: another protocol."
        notes.append("The paper's figures: Li et al., Interspeech 2024, IEMOCAP with WavLM-large and CLIP ViT-L/14,")
        notes.append(f"epoch chosen on the reported session.{other}")
        notes.append("The authors' train.py prints accuracy as UA and mean recall as WA: if their table came from it,")
        notes.append("its two columns are swapped.")
    else:
        notes.append(f"The paper's figures are not shown: {reason}.")
    if identity := explain_identity(experiment):
        notes.append(identity)
    n = None if speakers is None else speakers.reindex(first.index).nunique()
    if n is not None and n < FEW_SPEAKERS:
        notes.append(f"With {n} speakers the intervals by speaker are rough, most likely too narrow.")
    return Text(" ".join(notes), note=True)


def show_main(experiment, scores, speakers, prefix):
    """The blocks of the main tables and their picture."""
    rows = {}
    for system in experiment.systems:
        row = scores[system.name]
        low, high = row["ua_by_utterance"]
        rows[system.name] = {"folds": list(100 * row["ua"]), "pooled": 100 * row["pooled"]["ua"]}
        rows[system.name].update(low=100 * low, high=100 * high, paper=find_paper(system)[0])
    text = f"UA of each system, {experiment.protocol} protocol: folds, pooled score with 95 % interval, chance."
    chance, axis = 100 / len(experiment.labels), f"UA, %, {experiment.protocol} protocol"
    return [
        Text(explain_protocol(experiment)),
        *build_tables(experiment, scores),
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
    text = f"Pooled, in %, {experiment.protocol} protocol. UA is the mean over the classes that occur in a group."
    tables = [build_group_table(experiment, groups[column]) for column in groups]
    return [Heading("UA by group", 3), *(table for table in tables if table), Text(text, note=True)]


def build_group_table(experiment, values):
    """The UA of each system by the values of a column (pandas.Series by utt_id); None where only one value occurs."""
    tables = {s.name: s.predictions.assign(group=s.predictions["utt_id"].map(values)) for s in experiment.systems}
    everything = pd.concat(tables.values())
    found = [value for value in everything["group"].dropna().unique() if value != ""]
    order = list(DURATIONS).index if values.name == "duration" else natural_order
    if len(found) < 2:
        return None
    rows = []
    for value in sorted(found, key=order):
        members = everything[everything["group"] == value]
        cells = {values.name.replace("_", " "): value, "utterances": members["utt_id"].nunique()}
        for name, table in tables.items():
            part = table[table["group"] == value]
            if part.empty:
                cells[name] = "–"
                continue
            counts = count_hits(part["label"], part["hit"], np.zeros(len(part)), len(experiment.labels))
            cells[name] = percent(score_counts(counts)[0, 0])
        rows.append({**cells, "classes": members["label"].nunique()})
    return Table(pd.DataFrame(rows))


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
