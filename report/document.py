"""The whole report: a folder of runs in, the summary and the files out.

runs -> systems -> scores -> tables, sections -> blocks -> report.html, report.md with pictures/, report.csv,
comparisons.csv and, where the runs are IEMOCAP's, verdict.json
"""

import logging
from pathlib import Path

from report.calibration import show_calibration
from report.comparison import compare_all, score_system
from report.embeddings import show_embeddings
from report.epoch_luck import show_epoch_luck
from report.groups import read_groups, show_groups
from report.page import Alarm, Heading, find_pictures, render_html, render_markdown
from report.paired_tests import show_tests
from report.probing import show_probing
from report.problems import find_problems
from report.provenance import show_provenance
from report.runs import find_runs
from report.sections import show_confusions, show_curves, show_folds, show_main
from report.systems import group_runs
from report.tables import build_comparison_csv, build_csv, build_tables
from report.verdict import show_verdict, write_verdict

logger = logging.getLogger("foalnet")


def make_report(root, out=None, manifest=None, title="Foal-Net: results", resamples=5000, tsne_points=500, seed=0):
    """Read every finished run below a folder and report it.

    Args:
        root: folder of runs. out: folder of the report; None writes nothing.
        manifest: path of manifest.csv, or None. title: of the report.
        resamples: bootstrap samples. tsne_points: utterances in a t-SNE, 0 draws none. seed: of bootstrap and t-SNE.
    Returns: the main tables as Markdown.
    Raises: InputError as `find_runs`, `group_runs` and `read_groups`.
    """
    runs, unfinished = find_runs(root)
    experiments = group_runs(runs, root)
    groups = read_groups(manifest, sorted({utt_id for run in runs for utt_id in run.predictions["utt_id"]}))
    problems = find_problems(experiments, unfinished)
    for problem in problems:
        logger.warning("warning: %s", problem)
    speakers = groups.get("speaker")
    scores = [{s.name: score_system(s, speakers, resamples, seed) for s in e.systems} for e in experiments]
    if out is not None:
        compared = [compare_all(experiment, resamples, seed) for experiment in experiments]
        blocks = [Alarm(problems)] if problems else []
        for i, experiment in enumerate(experiments):
            prefix, found = f"{i}_" if len(experiments) > 1 else "", (scores[i], *compared[i])
            blocks += show_experiment(experiment, *found, groups, prefix, resamples, tsne_points, seed)
        pairs = build_comparison_csv(experiments, [comparisons for comparisons, _ in compared])
        tables = {"report.csv": (build_csv(experiments, scores), "%.2f"), "comparisons.csv": (pairs, "%.6g")}
        write_report(Path(out), title, [*blocks, *show_provenance(experiments)], tables)
        write_verdict(experiments, Path(out) / "verdict.json")
    tables = [table for pair in zip(experiments, scores, strict=True) for table in build_tables(*pair)]
    return "\n\n".join(table.markdown for table in tables)


def show_experiment(experiment, scores, comparisons, apart, groups, prefix, resamples, tsne_points, seed):
    """The blocks of one protocol and set of labels, in the order of the page."""
    speakers, names = groups.get("speaker"), " ".join(experiment.labels)
    return [
        Heading(f"{experiment.protocol.capitalize()} protocol, {len(experiment.labels)} classes: {names}"),
        *show_main(experiment, scores, speakers, prefix),
        *show_folds(experiment),
        *show_epoch_luck(experiment),
        *show_tests(experiment, comparisons, apart, resamples),
        *show_verdict(experiment),
        *show_confusions(experiment, prefix),
        *show_calibration(experiment, prefix, seed),
        *show_probing(experiment, prefix, resamples, seed),
        *show_curves(experiment, prefix),
        *(show_embeddings(experiment, tsne_points, seed, prefix) if tsne_points else []),
        *show_groups(experiment, groups),
    ]


def write_report(out, title, blocks, tables):
    """Write report.html, report.md with pictures/, and tables. Args: tables: {file name: (DataFrame, float format)}."""
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for old in (out / "pictures").glob("*.png"):
        old.unlink()
    for picture in find_pictures(blocks):
        (out / "pictures" / picture.name).write_bytes(picture.png)
    for name, (table, digits) in tables.items():
        table.to_csv(out / name, index=False, float_format=digits, lineterminator="\n")
    (out / "report.md").write_text(render_markdown(title, blocks), encoding="utf-8")
    (out / "report.html").write_text(render_html(title, blocks), encoding="utf-8")
    logger.info("wrote %s", out / "report.html")
