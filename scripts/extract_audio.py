"""Audio features: lists or a manifest + a speech encoder -> one `<utt_id>.npy` per utterance and `features.json`.

    python -m scripts.extract_audio --lists folds/paper/session1_*.scp --out data/audio_features
    python -m scripts.extract_audio --manifest manifest.csv --audio_model facebook/hubert-large-ll60k --out data/hubert

Each file holds (steps, dim) float32, 50 steps a second: what `train.py --freeze_encoder` computes by the same code, and
`train.py --audio_root` takes, as it takes features of any other origin. Finished utterances whose sound is the same are
skipped: start it again and it goes on. Give it the --max_length, --normalize_audio and --batch_size of the training.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from accelerate import PartialState

from corpus.manifest import read_manifest
from dataloader import Utterance, check_utterances, read_scp_lines
from features.speech import SpeechEncoder, extract_audio
from running.building import parse_layer
from running.errors import InputError, command
from running.flags import BOOLEAN, HelpFormatter, require
from running.launch import configure_logging, join_processes, start_processes
from running.precision import PRECISIONS


def build_parser():
    parser = argparse.ArgumentParser(
        prog="python -m scripts.extract_audio",
        description="States of a speech encoder for every utterance of some lists or of a manifest.",
        formatter_class=HelpFormatter,
    )
    data = parser.add_argument_group("data")
    source = data.add_mutually_exclusive_group(required=True)
    source.add_argument("--lists", nargs="+", metavar="LIST", help="scp lists; their labels do not matter")
    source.add_argument("--manifest", help="csv table of utterances (see corpus/manifest.py)")
    data.add_argument("--out", required=True, help="folder for <utt_id>.npy and features.json")
    data.add_argument("--max_length", type=float, default=6.0, help="seconds of sound used of each utterance")
    data.add_argument("--normalize_audio", **BOOLEAN, help="zero mean and unit variance for each waveform")
    model = parser.add_argument_group("model")
    model.add_argument("--audio_model", default="microsoft/wavlm-large", help="speech encoder, folder or hub id")
    model.add_argument("--audio_layer", type=parse_layer, default="last", help="last, the output of layer K, or mean")
    model.add_argument("--mixed_precision", default="auto", choices=PRECISIONS, help="precision of matrix products")
    run = parser.add_argument_group("run")
    run.add_argument("--batch_size", type=int, default=16, help="utterances at a time")
    run.add_argument("--num_workers", type=int, default=4, help="data loading processes a process")
    return parser


def read_sounds(args):
    """The utterances whose sounds are to be encoded. Raises: InputError."""
    if args.lists:
        lines = [line for path in args.lists for line in read_scp_lines(path)]
        return [Utterance(utt_id, path, 0) for _, utt_id, path, _ in lines]
    table = read_manifest(args.manifest)
    parts = table[(table["path"] == table["video"]) & (table["start"].notna() | table["end"].notna())]
    if len(parts):
        raise InputError(
            f"{args.manifest}: {len(parts)} utterances such as {parts['id'].iloc[0]} are parts of longer files; "
            "scripts.make_folds cuts them out, and --lists takes its lists"
        )
    return [Utterance(row.id, row.path, 0) for row in table.itertuples()]


@command
def main(argv=None):
    """Compute what is not there yet."""
    args = build_parser().parse_args(argv)
    require(args, "batch_size max_length", "be greater than 0", lambda value: value > 0)
    require(args, "num_workers", "not be negative", lambda value: value >= 0)
    join_processes()
    state = PartialState()
    configure_logging(state)
    utterances = read_sounds(args)
    utterances, _ = check_utterances(utterances, "a", None, args.max_length, progress=state.is_local_main_process)
    encoder = SpeechEncoder(args.audio_model, args.audio_layer, state.device, args.mixed_precision, args.max_length)
    extract_audio(args.out, encoder, utterances, state, args.normalize_audio, args.batch_size, args.num_workers)


if __name__ == "__main__":
    start_processes([__file__, *sys.argv[1:]], take_all=True)  # the result is that of one
    main()
