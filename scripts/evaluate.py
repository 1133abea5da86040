"""Evaluate a trained model on another list: another corpus, another session, the same list again.

    python -m scripts.evaluate runs/session1 --test_src other/all.scp --video_root other/features --save_root runs/other
    python -m scripts.evaluate runs/session1 --test_src meld.scp --label_map joy=hap,anger=ang --drop_unknown ...

Classes are matched by name. What it leaves is what a training leaves of a list: predictions_test.csv,
embeddings_test.npz, confusion_test.png and result.json, so that scripts.report makes a report of it. Nothing is chosen
on the list.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from running.checkpoint_evaluation import evaluate_checkpoint
from running.errors import command
from running.flags import HelpFormatter, require
from running.launch import start_processes
from running.precision import PRECISIONS


def build_parser():
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evaluate",
        description="Evaluate a trained model on another list.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="run folder, its best/, or hub id")
    parser.add_argument("--test_src", required=True, help="scp list to evaluate on")
    parser.add_argument("--video_root", default="data/features", help="folder of <utt_id>.npy video features")
    parser.add_argument("--audio_root", help="folder of <utt_id>.npy audio features, for a model of such")
    parser.add_argument("--save_root", required=True, help="folder of what it writes; a new one")
    parser.add_argument("--label_map", default="", help="names of the list to names of the model, joy=hap,anger=ang")
    parser.add_argument("--drop_unknown", action="store_true", help="leave out what is of no class of the model")
    parser.add_argument("--batch_size", type=int, default=16, help="utterances a process and pass")
    parser.add_argument("--num_workers", type=int, default=4, help="data loading processes a process")
    parser.add_argument("--mixed_precision", default="auto", choices=PRECISIONS, help="precision of matrix products")
    return parser


@command
def main(argv=None):
    """Evaluate. Returns: the content of result.json."""
    args = build_parser().parse_args(argv)
    require(args, "batch_size", "be at least 1", lambda value: value >= 1)
    require(args, "num_workers", "not be negative", lambda value: value >= 0)
    return evaluate_checkpoint(args)


if __name__ == "__main__":
    start_processes(["-m", "scripts.evaluate", *sys.argv[1:]], take_all=True)
    main()
