"""A folder of runs -> the table, and a report that holds everything a reviewer asks for.

    python -m scripts.report runs/table2 --manifest data/iemocap/manifest.csv    # report.html, .md, .csv
    python -m scripts.report runs/table2 --summary                               # the table alone, to stdout

Every folder with a result.json, at any depth, is a run; its name is the fold. Runs of the same system become a row,
runs of different protocols or labels never share a table. What is missing or mixed stands on top of everything.
report.html holds its pictures and needs no network; report.md finds them in pictures/. comparisons.csv has the
difference of every two rows over seeds, sessions and utterances.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from report.document import make_report
from running.errors import command
from running.flags import require


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    require(args, "resamples", "be at least 100", lambda value: value >= 100)
    require(args, "tsne_points seed", "not be negative", lambda value: value >= 0)
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    out = None if args.summary else args.out or Path(args.runs) / "report"
    print(make_report(args.runs, out, args.manifest, args.title, args.resamples, args.tsne_points, args.seed))


if __name__ == "__main__":
    main()
