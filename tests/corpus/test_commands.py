"""The commands of this room start by their path from any folder, beside `python -m scripts.X`."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.parametrize("name", ["prepare_iemocap", "prepare_corpus", "make_demo", "check_corpus", "make_folds"])
def test_a_command_starts_by_its_path(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"python -m scripts.{name}" in done.stdout
