"""How fast is Foal-Net, against what the release does and against what the machine can do.

    python -m scripts.benchmark --workloads train eval data extract start --size large --batch 8

The arms run in turn, A B A B ..., and only ratios of their medians are claims. `stock` is what the release does,
written with the same modules: transformers' WavLM as it is, everything padded to 6 s and 180 frames, real pairs fused
twice, negatives drawn row by row, evaluation with all the losses, fp32 on a CPU and fp16 on a GPU. `ours` is what
train.py runs. Each arm also shows its share of the machine's own ceiling: the rate of a large matrix product of its
precision, timed in the same run. benchmark.json holds all of it with the machine and the versions, to be sent back
from a machine that we do not have.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from benchmark.file_workloads import CLIP_SIZES
from benchmark.model_workloads import SIZES, parse_lengths
from benchmark.tables import format_table, plot_costs, write_record
from benchmark.timing import measure_ceilings
from benchmark.workloads import WORKLOADS, run_workload
from running.errors import command


def build_parser():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--size", default="large", choices=SIZES, help="shape of WavLM")
    parser.add_argument("--video_dim", type=int, default=768, help="width of the video features")
    parser.add_argument(
        "--lengths",
        nargs="+",
        type=parse_lengths,
        default=["iemocap"],
        help="iemocap, fixed (6 s), or seconds up to 6",
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[8], help="utterances a step, several for a plot")
    parser.add_argument("--clip_size", default="base", choices=CLIP_SIZES, help="shape of CLIP for extract")
    parser.add_argument("--video_seconds", type=float, default=12.0, help="length of the two videos of extract")
    parser.add_argument("--frames_batch", type=int, default=32, help="frames through CLIP at a time")
    parser.add_argument("--utterances", type=int, default=100_000, help="of start, each a sound and features on disk")
    parser.add_argument("--rounds", type=int, default=3, help="counted runs of each arm")
    parser.add_argument("--profile", action="store_true", help="print the operations of train, options and eval")
    parser.add_argument("--seed", type=int, default=1234, help="seed of durations, weights and pictures")
    parser.add_argument("--out", default="runs/benchmark", help="folder for benchmark.csv, .txt, .png and .json")
    return parser


@command
def main(argv=None):
    """Time the workloads. Returns: the table, a DataFrame."""
    args = build_parser().parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ceilings = measure_ceilings(device)
    rows, out = [], Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for workload in args.workloads:
        rows += run_workload(workload, args, ceilings, device)
        table = pd.DataFrame(rows)
        table.to_csv(out / "benchmark.csv", index=False)  # what is measured stays, whatever comes
    write_record(out / "benchmark.json", rows, ceilings, vars(args))
    text = format_table(table, ceilings, device)
    (out / "benchmark.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    if {"train", "eval"} & set(args.workloads):
        plot_costs(table, out / "benchmark.png")
    return table


if __name__ == "__main__":
    main()
