"""Is a train/valid/test set sound? One report over the lists, the sounds and the features.

    python -m scripts.check_corpus --train_src folds/strict/session1_train.scp \\
        --valid_src folds/strict/session1_valid.scp --test_src folds/strict/session1_test.scp \\
        --manifest manifest.csv --video_root features

- leakage: a speaker, a dialogue, an utterance or the same content (sound or features, by hash) in two lists;
- errors: sounds and features that are missing or can't be read, which train.py would refuse;
- warnings: silent or clipped sounds, features whose frame count does not fit the duration, duplicates within a list,
  labels without an utterance.

Exit code 0: sound, perhaps with warnings. 1: leakage. 2: errors, bad lists or arguments.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from corpus.checks import check_corpus
from dataloader import LABELS, parse_label_map, parse_labels
from running.errors import command


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.check_corpus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train_src", required=True, help="scp list that is trained on")
    parser.add_argument("--valid_src", help="scp list that the epoch is chosen on")
    parser.add_argument("--test_src", help="scp list that is reported")
    parser.add_argument("--video_root", help="folder of the video features (default: features are not looked at)")
    parser.add_argument(
        "--manifest",
        help="table that knows speaker, dialogue and times (default: speaker and dialogue from IEMOCAP ids)",
    )
    parser.add_argument(
        "--labels", nargs="+", default=list(LABELS), help=f"classes in index order (default: {' '.join(LABELS)})"
    )
    parser.add_argument("--label_map", default="", help="labels to merge first, for example exc=hap (default: none)")
    parser.add_argument(
        "--max_lines", type=int, default=20, help="lines shown for each kind of finding; 0: all (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    args.labels = parse_labels(args.labels)
    if not (args.valid_src or args.test_src):
        parser.error("--valid_src or --test_src is needed")
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    lists = {"train": args.train_src, "valid": args.valid_src, "test": args.test_src}
    label_map = parse_label_map(args.label_map)
    return check_corpus(lists, args.labels, label_map, args.video_root, args.manifest, args.max_lines)


if __name__ == "__main__":
    raise SystemExit(main())
