"""A trained checkpoint -> one ONNX file that ONNX Runtime runs without torch.

    python -m scripts.export_onnx runs/session1/best foalnet.onnx
    python -m scripts.export_onnx runs/session1/best foalnet.onnx --int8 --test_src session1_test.scp

Inputs, with batch, samples and frames free: input_values and attention_mask, video_features and video_mask, those of
the streams that there are; outputs: logits and probabilities. The metadata holds labels, units, lengths and versions.
The file gets its name only where it agrees with PyTorch to 1e-4 on noise of other lengths than it was traced with.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from dataloader import parse_label_map
from inference.onnx_graph import export_checkpoint
from running.errors import InputError, command


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.export_onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="folder of a trained model, such as RUN/best")
    parser.add_argument("out", help="file to write, NAME.onnx")
    parser.add_argument(
        "--modality",
        choices=("av", "a", "v"),
        help="streams of the graph (default: those of the model); one of two where training had --modality_dropout",
    )
    parser.add_argument("--int8", action="store_true", help="matrix products in int8: a smaller file, other answers")
    parser.add_argument("--test_src", help="scp list; with --int8 prints the UA of both precisions on it")
    parser.add_argument(
        "--video_root", default="data/features", help="folder of the list's video features (default: %(default)s)"
    )
    parser.add_argument("--audio_root", help="folder of its audio features, for a model of such")
    parser.add_argument("--label_map", default="", help="names of the list to merge first, exc=hap,fru=ang")
    args = parser.parse_args(argv)
    if args.test_src and not args.int8:
        raise InputError("--test_src: compares int8 with fp32; give --int8 too")
    if Path(args.out).suffix != ".onnx" or Path(args.out).is_dir():
        raise InputError(f"{args.out}: a file name that ends in .onnx is expected")
    if not Path(args.out).absolute().parent.is_dir():
        raise InputError(f"{args.out}: no such folder, {Path(args.out).parent}")
    args.label_map = parse_label_map(args.label_map)
    return args


@command
def main(argv=None):
    """Write the file and print what was found. Returns: inference.onnx_graph.GraphExport."""
    args = parse_args(argv)
    what = args.checkpoint, args.out, args.modality, args.int8
    export = export_checkpoint(*what, args.test_src, args.video_root, args.audio_root, args.label_map)
    print(export)
    return export


if __name__ == "__main__":
    main()
