"""Video features: manifest.csv + a picture encoder -> one `<utt_id>.npy` per utterance and `features.json`.

    python -m scripts.extract_clip --manifest manifest.csv --out data/features
    python -m scripts.extract_clip --manifest manifest.csv --out data/features --rows 112:368         # IEMOCAP
    python -m scripts.extract_clip --manifest manifest.csv --out data/faces --rows 112:368 --crop face
    accelerate launch --num_processes 4 -m scripts.extract_clip --manifest manifest.csv --out data/features

Each file holds (frames, dim): the embedding of every frame of the utterance, in order: CLIP's `get_image_features`,
SigLIP's pooled output or DINOv2's class token, not normalised (features/picture_encoders.py). Every video is decoded
once, whatever the number of utterances in it; several processes share the videos. Finished utterances are skipped:
start it again and it goes on.

IEMOCAP's 720x480 videos show the two actors side by side and carry the picture in rows 112 to 368 only, the rest is
black: `--rows 112:368`. With `--crop face` the face is cut out of that half, followed through the utterance; a frame
without one is taken as it is, and counted. The content is in features/.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from features.extraction import extract_features
from features.picture_encoders import DTYPES, FAMILIES
from features.preparing import parse_rows
from running.errors import command
from running.flags import HelpFormatter, require
from running.launch import start_processes


def build_parser():
    parser = argparse.ArgumentParser(
        prog="python -m scripts.extract_clip",
        description="Image embeddings of every utterance of a manifest.",
        formatter_class=HelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument("--manifest", required=True, help="csv table of utterances (see corpus/manifest.py)")
    data.add_argument("--out", required=True, help="folder for <utt_id>.npy and features.json")
    data.add_argument("--rows", default="", metavar="A:B", help="picture rows A <= row < B; 112:368 for IEMOCAP")
    data.add_argument(
        "--crop",
        choices=["manifest", "face"],
        default="manifest",
        help="part of the picture: manifest: as its column crop says; face: the face in that part (needs `make faces`)",
    )
    data.add_argument("--frame_stride", type=int, default=1, help="keep every Nth frame of an utterance")
    data.add_argument("--max_frames", type=int, default=180, help="frames kept of an utterance, the first; 0 = all")
    data.add_argument("--half", action="store_true", help="store float16 instead of float32")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--image_model",
        "--clip_model",
        default="openai/clip-vit-large-patch14",
        help=f"picture encoder, folder or hub id of a checkpoint of type {', '.join(FAMILIES)}",
    )
    model.add_argument(
        "--mixed_precision",
        choices=["auto", *DTYPES],
        default="auto",
        help="precision of the network; auto: fp16 on a GPU, else no",
    )
    run = parser.add_argument_group("run")
    run.add_argument("--batch_size", type=int, default=64, help="frames through the network at a time")
    run.add_argument(
        "--num_workers", type=int, default=8, help="decoding processes of each process, at most one a core; 0 = none"
    )
    run.add_argument("--cpu", action="store_true", help="do not use a GPU")
    return parser


@command
def main(argv=None):
    args = build_parser().parse_args(argv)
    require(args, "frame_stride batch_size", "be at least 1", lambda value: value >= 1)
    require(args, "max_frames num_workers", "be 0 or more", lambda value: value >= 0)
    args.rows = parse_rows(args.rows)
    extract_features(**vars(args))


if __name__ == "__main__":
    start_processes([__file__, *sys.argv[1:]], take_all=True)  # the result is that of one
    main()
