"""Does a model look at both streams? Finished runs again, with the video or the sound of another utterance.

    python -m scripts.probe runs/table2    # a run, or a folder of runs at any depth

For every run of audio and video: its reported list as it is, then each utterance with the video, and with the sound, of
--draws others of the same emotion and of another one. Writes probe.csv into the run folder, which scripts.report shows,
and prints what each swap costs. Needs the sounds and features where the training found them: start it from the same
folder. What is probed already is skipped, so after an interruption the same command goes on.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from report.probing import build_drop_table, score_probes
from report.runs import find_runs
from report.systems import group_runs
from running.errors import InputError, command
from running.flags import require
from running.launch import join_processes
from running.precision import PRECISIONS
from running.probing import probe_run

logger = logging.getLogger("foalnet")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", help="a run folder, or a folder of runs at any depth")
    parser.add_argument("--draws", type=int, default=5, help="partners an utterance and swap (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of partners and bootstrap (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=16, help="pairs a pass (default: %(default)s)")
    parser.add_argument(
        "--mixed_precision",
        default="auto",
        choices=PRECISIONS,
        help="precision of matrix products; auto: that of the training where the device has it (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    require(args, "draws batch_size", "be at least 1", lambda value: value >= 1)
    require(args, "seed", "not be negative", lambda value: value >= 0)
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    runs = [run for run in find_runs(args.runs)[0] if run.result["modality"] == "av"]
    if not runs:
        raise InputError(f"{args.runs}: holds no finished run of audio and video (--modality av)")
    device = join_processes().device
    for number, run in enumerate(runs, start=1):
        probed = probe_run(run.folder, device, args.draws, args.seed, args.batch_size, args.mixed_precision)
        logger.info("%s: %s (%d of %d)", run.folder, "probed" if probed else "was probed before", number, len(runs))
    for experiment in group_runs(runs, args.runs):
        scores = score_probes(experiment, seed=args.seed)
        print(f"{build_drop_table(experiment, scores).markdown}\n")


if __name__ == "__main__":
    main()
