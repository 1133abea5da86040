"""manifest.csv -> leave-one-session-out scp lists of both protocols.

    python -m scripts.make_folds --manifest data/mine/manifest.csv --out data/mine/folds

writes `<out>/paper/session1_train.scp`, `session1_valid.scp`, ... and `<out>/strict/session1_train.scp`,
`session1_valid.scp`, `session1_test.scp`, ...; see corpus/folds.py for which session goes where. Utterances whose sound
is only a part (`start`, `end`) of a longer file are cut to 16 kHz mono wav files first.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from corpus.cutting import cut_audio
from corpus.folds import check_folds, select_labels, write_folds
from corpus.manifest import read_manifest
from dataloader import LABELS, parse_label_map, parse_labels
from running.errors import command


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.make_folds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", required=True, help="the table to read, see corpus/manifest.py for its columns")
    parser.add_argument("--out", required=True, help="folder of the lists")
    parser.add_argument(
        "--labels",
        nargs="+",
        default=list(LABELS),
        help=f"classes; rows of other labels are left out (default: {' '.join(LABELS)})",
    )
    parser.add_argument(
        "--label_map", default="", help="labels to merge first, for example exc=hap,fru=ang (default: none)"
    )
    parser.add_argument(
        "--audio_root", help="folder of the sounds that are cut out of longer files (default: <out>/audio)"
    )
    args = parser.parse_args(argv)
    args.labels = parse_labels(args.labels)
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    table = select_labels(read_manifest(args.manifest), args.labels, parse_label_map(args.label_map))
    check_folds(table)  # before the slow part
    write_folds(cut_audio(table, args.audio_root or Path(args.out) / "audio"), args.out)


if __name__ == "__main__":
    main()
