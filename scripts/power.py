"""How many seeds does it take to see a gain, and what gain can some seeds show?

    python -m scripts.power --gain 1.46                          # at a std of 0.6, 0.8, 1.0 points between seeds
    python -m scripts.power --gain 1.46 --std 0.7 --seeds 3 5    # std of ONE system's UA between seeds
    python -m scripts.power runs/table2 --gain 1.46              # the std seen between the seeds of these runs

The test meant is the two-sided paired t test over seeds: of each seed the difference of two systems' UA, means over
folds. Two trainings are taken for independent, so the std of their difference is sqrt(2) times that of one. With RUNS
the std is that of the differences seen, of seeds that are complete in both rows; few seeds leave it uncertain, which
the brackets show (95 %, differences taken for normal). The worst of k comparisons corrected by Holm: --alpha 0.05/k.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from report.power import build_pair_table, build_std_table, find_pairs
from report.runs import find_runs
from report.systems import group_runs
from running.errors import InputError, command
from running.flags import require

logger = logging.getLogger("foalnet")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.power", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    spread = parser.add_mutually_exclusive_group()
    spread.add_argument("runs", nargs="?", help="folder of runs, at any depth: the std is theirs")
    spread.add_argument(
        "--std", type=float, nargs="+", help="of one system's UA between seeds, points (default: 0.6 0.8 1.0)"
    )
    parser.add_argument("--gain", type=float, help="UA points to be seen (default: says only what --seeds see)")
    parser.add_argument("--first", help="row of RUNS to compare with (default: fusion baseline)")
    parser.add_argument("--second", help="row of RUNS to compare (default: every other one)")
    parser.add_argument("--power", type=float, default=0.8, help="chance of seeing it (default: %(default)s)")
    parser.add_argument("--alpha", type=float, default=0.05, help="level of the test (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10], help="designs (default: 3 5 10)")
    args = parser.parse_args(argv)
    require(args, "alpha", "lie between 0 and 1", lambda value: 0 < value < 1)
    require(args, "power", "lie between --alpha and 1", lambda value: args.alpha < value < 1)
    require(args, "gain", "be a number other than 0", lambda value: 0 < abs(value) < float("inf"))
    require(args, "std", "be above 0", lambda values: all(0 < value < float("inf") for value in values))
    require(args, "seeds", "be at least 2", lambda values: min(values) >= 2)
    if args.runs is None and (args.first or args.second):
        raise InputError("--first and --second name rows of a folder of runs: give RUNS, too")
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    design = args.gain, args.seeds, args.power, args.alpha
    if args.runs is None:
        table = build_std_table(args.std or [0.6, 0.8, 1.0], *design)
    else:
        experiments = group_runs(find_runs(args.runs)[0], args.runs)
        pairs, problems = find_pairs(experiments, args.first or "fusion baseline", args.second)
        for problem in problems:
            logger.warning("warning: %s", problem)
        table = build_pair_table(pairs, *design)
    print(table.markdown)
    print(f"\nPoints of UA, paired t test over seeds, two-sided at {args.alpha:g}, power {args.power:g}.")
    print("Under `n seeds`: the smallest gain that so many see.")


if __name__ == "__main__":
    main()
