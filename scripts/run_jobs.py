"""Run a list of train.py commands, several at a time; finished ones are skipped.

    bash scripts/cross_validate.sh --print data/folds/paper runs/corpus | python -m scripts.run_jobs --jobs 4

running/jobs.py says how the list is read.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from running.errors import command
from running.jobs import read_jobs, run_jobs


@command
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default: 1)")
    args = parser.parse_args(argv)
    sys.exit(run_jobs(read_jobs(os.fsdecode(sys.stdin.buffer.read())), args.jobs))


if __name__ == "__main__":
    main()
