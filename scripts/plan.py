"""Will it fit? GPU memory, disk and time of a training, counted from the shapes and the lengths alone, without a GPU.

    python -m scripts.plan --train_src session1_train.scp --test_src session1_valid.scp --gpu_memory 24

takes the flags of train.py and trains nothing: it runs one step on fake tensors. `--audio_model` may be a folder or
hub id, of which config.json alone is read, or `large` or `base`. Without --train_src the lengths are IEMOCAP's.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

import train
from benchmark.planning import IEMOCAP, RATES, format_plan, format_verdict, plan_training, read_config, read_corpus
from running.errors import InputError, command
from running.flags import HelpFormatter, require


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a flag in one line."""

    def error(self, message):
        raise InputError(message)


def build_parser(parents=()):
    """The flags of this script alone, or after those of its parents."""
    parser = Parser(
        description=__doc__.split("\n")[0],
        parents=parents,
        conflict_handler="resolve",
        add_help=bool(parents),
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    group = parser.add_argument_group("plan")
    group.add_argument("--gpu_memory", type=float, help="GiB of the GPU; says whether it fits, or what would")
    rates = ", ".join(f"{rate:g} in {name}" for name, rate in RATES.items())
    group.add_argument("--rate", type=float, help=f"TFLOP/s that training keeps up; cautious ones by default: {rates}")
    return parser


def parse_args(argv):
    """The flags of train.py, checked as there, and those of this script. Raises: InputError."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not any(word.split("=")[0] == "--train_src" for word in argv):
        argv += [f"--train_src={IEMOCAP}", f"--valid_src={IEMOCAP}"]
    build_parser([train.build_parser()]).parse_args(argv)
    own, others = build_parser().parse_known_args(argv)
    require(own, "gpu_memory rate", "be a finite number greater than 0", lambda value: 0 < value < float("inf"))
    return argparse.Namespace(**vars(train.parse_args(others)), **vars(own))


@command
def main(argv=None):
    """Print the plan. Returns: benchmark.planning.Plan."""
    args = parse_args(argv)
    config, corpus = read_config(args.audio_model), read_corpus(args)
    plan = plan_training(args, config, corpus)
    print(format_plan(args, plan, corpus.origin, 1e12 * (args.rate or RATES[plan.typical.precision])))
    if args.gpu_memory is not None:
        print("\n" + format_verdict(args, config, corpus, plan))
    return plan


if __name__ == "__main__":
    main()
