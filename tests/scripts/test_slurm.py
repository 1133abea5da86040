"""The sbatch script of folds with stand-ins for Slurm and train.py: told that its time is up, it saves, comes back."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm_folds.sh"
TRAIN = """
import pathlib, signal, sys, time

def stop(*_):
    time.sleep(0.3)
    pathlib.Path("saved").write_text("yes")
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
pathlib.Path("args").write_text(" ".join(sys.argv[1:]))
if "--wait" in sys.argv:
    time.sleep(30)
sys.exit(7 if "--bad" in sys.argv else 0)
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").write_text(f'export PATH="{tmp_path}/bin:$PATH"')
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "$*" >>requeued')
    scontrol.chmod(0o755)
    return tmp_path


def submit(place, *flags):
    environment = {**os.environ, "VENV": str(place), "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "77"}
    return subprocess.Popen(["bash", "scripts/slurm_folds.sh", *flags], cwd=place, env=environment)


def test_told_to_end_it_saves_and_is_requeued(place):
    job = submit(place, "--wait")
    while not (place / "args").exists():
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 143
    assert (place / "saved").exists()
    assert (place / "requeued").read_text() == "requeue 77\n"
    assert "--test_src data/iemocap/folds/strict/session3_test.scp" in (place / "args").read_text()


@pytest.mark.parametrize(("flags", "code"), [((), 0), (("--bad",), 7)])
def test_a_job_that_ends_by_itself_keeps_its_code_and_stays_away(place, flags, code):
    assert submit(place, *flags).wait(20) == code
    assert not (place / "requeued").exists()
