"""A page in the browser that answers for a clip: dropped, recorded, or one of a few examples.

    python -m scripts.app runs/session1/best
    python -m scripts.app demo/runs/both/seed1234/session1 --examples demo/iemocap/manifest.csv

It is open to this computer alone, needs no network, keeps nothing, and ends with Ctrl-C.
"""

import argparse
import importlib.util
import logging
import os
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from inference.predictor import FoalPredictor
from running.errors import InputError, command
from running.flags import require
from running.stopping import Stopped, collect_stops

DEMO = "demo/iemocap/manifest.csv"
HOST = "127.0.0.1"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="run folder, its best/, or hub id")
    parser.add_argument("--port", type=int, default=7860, help="of http://127.0.0.1 (default: %(default)s)")
    parser.add_argument("--max_mb", type=int, default=100, help="MB of a clip at most (default: %(default)s)")
    parser.add_argument(
        "--image_model",
        "--clip_model",
        help="folder or hub id of the picture encoder of the training (default: the recorded one)",
    )
    parser.add_argument("--examples", help=f"manifest or folder to offer clips of (default: {DEMO}, if it is there)")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs gradio: make app")
    require(args, "max_mb", "be at least 1", lambda value: value >= 1)
    require(args, "port", "be 1 to 65535", lambda value: 1 <= value <= 65535)
    if args.examples is None:
        args.examples = DEMO if os.path.isfile(DEMO) else None
    elif not os.path.exists(args.examples):
        raise InputError(f"--examples {args.examples}: no such file or folder")
    return args


def serve(args, folder):
    """Load the model, open the page and wait until a signal ends it; all files go to `folder`."""
    tempfile.tempdir = folder
    os.mkdir(offered := os.path.join(folder, "examples"))
    os.environ |= {"GRADIO_TEMP_DIR": os.path.join(folder, "given"), "GRADIO_ANALYTICS_ENABLED": "False"}
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from inference import examples as samples  # now that gradio finds where to write
    from inference import page

    predictor = FoalPredictor.from_pretrained(args.checkpoint, image_model=args.image_model)
    if "v" in predictor.modality:
        predictor.find_faces()  # what is wrong with them is said now, and the first clip does not wait for CLIP
        predictor.find_encoder(None)
    examples = samples.make_examples(args.examples, predictor, offered) if args.examples else ((), ())
    with page.open_page(page.build_page(predictor, examples, args.max_mb), HOST, args.port, args.max_mb) as address:
        print(f"{address} answers until Ctrl-C", flush=True)
        threading.Event().wait()


@command
def main(argv=None):
    """Show the page until a signal comes. Returns: 0."""
    args = parse_args(argv)
    with collect_stops() as stopping, tempfile.TemporaryDirectory(prefix="foalnet_app_") as folder:
        try:
            serve(args, folder)
        except Stopped:
            stopping.patient = True  # nothing is to interrupt the deletion
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
