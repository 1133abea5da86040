"""IEMOCAP as it is released -> manifest.csv, dropped.csv and the fold lists of both protocols.

    python -m scripts.prepare_iemocap --iemocap_root IEMOCAP_full_release --out data/iemocap

writes `<out>/manifest.csv` (one row an utterance that is used), `<out>/dropped.csv` (every other one and why) and
`<out>/folds/{paper,strict}/session1_train.scp`, ... Excited is merged into happy. The counts of the four-class subset
are compared with those of the release, session by session and before merging; the run stops when they differ.

Beside the columns of corpus/manifest.py the table has `dialogue`, `style` (improvised or scripted), `gender` of the
speaker (F or M), `marker_wearer` (yes when the speaker wears the motion capture markers), `emotion` (the label before
merging) and `duration` of the sound in seconds. The actor with the markers stands in the left half of the picture.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from corpus.iemocap_manifest import prepare_iemocap
from dataloader import LABELS, parse_label_map, parse_labels
from running.errors import command


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.prepare_iemocap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--iemocap_root", required=True, help="the folder that holds Session1 ... Session5")
    parser.add_argument("--out", default="data/iemocap", help="folder to write to (default: %(default)s)")
    parser.add_argument(
        "--labels",
        nargs="+",
        default=list(LABELS),
        help=f"classes to keep, of the label files or of --label_map (default: {' '.join(LABELS)})",
    )
    parser.add_argument(
        "--label_map", default="exc=hap", help="labels to merge first, old=new with commas (default: %(default)s)"
    )
    parser.add_argument("--audio_only", action="store_true", help="the copy has no avi files: write no video columns")
    parser.add_argument(
        "--skip_missing",
        action="store_true",
        help="drop utterances whose wav or avi is missing or unreadable, instead of stopping",
    )
    parser.add_argument(
        "--allow_count_mismatch",
        action="store_true",
        help="go on when the counts differ from those of the release, for a partial copy",
    )
    args = parser.parse_args(argv)
    args.labels = parse_labels(args.labels)
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    prepare_iemocap(
        args.iemocap_root,
        args.out,
        args.labels,
        parse_label_map(args.label_map),
        audio_only=args.audio_only,
        skip_missing=args.skip_missing,
        allow_count_mismatch=args.allow_count_mismatch,
    )


if __name__ == "__main__":
    main()
