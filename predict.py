"""Answer for clips with a trained model.

    python predict.py runs/session1/best clip.mp4
    python predict.py runs/session1/best recordings/ "more/*.wav" --out answers.csv
    python predict.py runs/session1/best interview.mp4 --out interview.vtt --plot pictures

CHECKPOINT is a run folder, its best/, or a hub id. SOURCE is a sound or video, a folder, a glob, an scp list, a
manifest, or `-` for a list on stdin. A source that is longer than the model takes is answered window by window, and as
a whole by their mean. A source that can't be read is named and skipped; then the exit code is 1. In Python:
FoalPredictor.
"""

import argparse
import logging
import signal
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until all is imported: no traceback out of imports

from features.folder import FeatureFolder
from features.preparing import parse_rows
from inference.answers import FORMATS, check_out, format_table, write_predictions
from inference.predictor import FoalPredictor
from inference.segments import WAYS
from inference.sources import find_sources, show_text
from running.errors import InputError, command
from running.flags import HelpFormatter, require
from running.precision import PRECISIONS
from running.progress import progress_bar

__all__ = ["FoalPredictor", "main"]
logger = logging.getLogger("foalnet")
MOST_NAMED = 20  # sources named in one warning


def build_parser():
    parser = argparse.ArgumentParser(
        description="Answer for clips with a trained model.",
        formatter_class=HelpFormatter,
        epilog="Exit codes: 0 all answered, 1 some skipped, 2 bad input.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="run folder, its best/, or hub id")
    parser.add_argument(
        "sources", metavar="SOURCE", nargs="+", help="sounds, videos, folders, globs, scp lists, manifests, - for stdin"
    )
    answers = parser.add_argument_group("answers")
    answers.add_argument("--out", help=f"file of all answers, by its ending: {' '.join(FORMATS)}")
    answers.add_argument("--topk", type=int, help="classes shown of each source, the likeliest (default: all)")
    answers.add_argument("--plot", metavar="DIR", help="folder for a picture of each source")
    answers.add_argument("--raw", action="store_true", help="probabilities without the calibration temperature")

    data = parser.add_argument_group("data")
    data.add_argument(
        "--long",
        default="windows",
        choices=WAYS,
        help="how a source is cut that is longer than the model takes: into windows, speech between pauses, or its "
        "beginning alone, as in training",
    )
    data.add_argument("--overlap", type=float, default=0.5, help="share of a window that the next one shows again")
    data.add_argument("--strict", action="store_true", help="refuse a source that lacks a stream of the model")
    data.add_argument("--video_root", help="folder of ready video features, <name of the source>.npy")
    data.add_argument("--rows", default="", metavar="A:B", help="picture rows A <= row < B (default: as in training)")
    data.add_argument("--crop", choices=("full", "left", "right"), help="part of the picture (default: as in training)")
    data.add_argument(
        "--image_model",
        "--clip_model",
        help="folder or hub id of the picture encoder of the training (default: the recorded one)",
    )
    data.add_argument("--audio_model", help="the same of the speech encoder, for a model of its ready features")

    run = parser.add_argument_group("run")
    run.add_argument("--batch_size", type=int, default=16, help="windows through the network at a time")
    run.add_argument("--num_workers", type=int, default=0, help="processes that decode videos")
    run.add_argument("--mixed_precision", default="auto", choices=PRECISIONS, help="precision of matrix products")
    run.add_argument("--cpu", action="store_true", help="use no GPU")
    return parser


def parse_args(argv=None):
    args = build_parser().parse_args(argv)
    require(args, "batch_size topk", "be at least 1", lambda value: value >= 1)
    require(args, "num_workers", "not be negative", lambda value: value >= 0)
    require(args, "overlap", "be at least 0 and less than 1", lambda value: 0 <= value < 1)
    args.rows = parse_rows(args.rows)
    if args.out is not None:
        check_out(args.out)
    if args.plot:
        make_folder(args.plot)
    return args


def make_folder(plot):
    """Raise InputError where --plot names no folder that can be made, before the work."""
    try:
        Path(plot).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--plot {plot}: no folder can be made there: {error.strerror}") from error


def add_features(sources, video_root):
    """Give every source its ready features, where there are some."""
    index = FeatureFolder(video_root)
    found = [replace(s, features=index.get(s.name) or index.get(Path(s.name).stem)) for s in sources]
    taken = {}
    for source in found:
        if source.features and taken.setdefault(source.features, source) is not source:
            first = taken[source.features].name
            raise InputError(
                f"--video_root {video_root}: {first} and {source.name} would take the same {source.features}"
            )
    if not any(source.features for source in found):
        raise InputError(f"--video_root {video_root}: holds features of none of the {len(sources)} sources")
    return found


def say_notes(predictor, predictions):
    """Warn, in a line for each kind, of what the answers lack."""
    names = defaultdict(list)
    for prediction in predictions:
        for note in prediction.notes if prediction.error is None else ():
            names[note].append(prediction.source)
    for note, sources in names.items():
        listed = ", ".join(sources[:MOST_NAMED]) + ", ..." * (len(sources) > MOST_NAMED)
        absent = next((name for name in ("picture", "sound") if note.startswith(f"has no {name}")), None)
        logger.warning(f"{show_text(note)}: {listed}" + (f"; {predictor.explain_absence(absent)}" if absent else ""))


@command
def main(argv=None):
    """Answer for all sources. Returns: 0, or 1 where some were skipped."""
    args = parse_args(argv)
    sources, bad = find_sources(args.sources)
    if args.out and Path(args.out).suffix.lower() in (".srt", ".vtt") and len(sources) > 1:
        raise InputError(f"--out {args.out}: subtitles are of one source, {len(sources)} are given")
    if args.video_root:
        sources = add_features(sources, args.video_root)
    predictor = FoalPredictor.from_pretrained(
        args.checkpoint,
        image_model=args.image_model,
        audio_model=args.audio_model,
        rows=args.rows,
        crop=args.crop,
        way=args.long,
        overlap=args.overlap,
        strict=args.strict,
        calibrated=not args.raw,
        mixed_precision=args.mixed_precision,
        num_workers=args.num_workers,
        cpu=args.cpu,
    )
    with progress_bar(total=len(sources), desc="Predict", unit="source") as bar:
        predictions = predictor.predict(sources, args.batch_size, skip_bad=True, progress=bar.update)
    if predictor.loader.assumed:
        logger.info(predictor.assumptions.explain())
    if said := predictor.loader.explain_faces():
        logger.info(said)
    say_notes(predictor, predictions)
    print(format_table(predictions, args.topk))
    if args.out:
        write_predictions(args.out, predictions, args.topk)
    if args.plot:
        from inference.pictures import plot_sources  # takes a second

        plot_sources(predictor, sources, predictions, args.plot)
    bad += [prediction.error for prediction in predictions if prediction.error is not None]
    for error in bad:
        print(f"error: {show_text(error)}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
