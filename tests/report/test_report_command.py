"""The command: bad arguments, and starting it by its path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from run_folders import write_ablation
from scripts import report


def test_bad_arguments_end_with_code_2(tmp_path, ablation, capsys):
    for arguments, word in (
        ([str(tmp_path / "absent")], "no such folder"),
        ([str(ablation), "--manifest", str(tmp_path / "absent.csv")], "no such file"),
        ([str(ablation), "--resamples", "1"], "--resamples"),
    ):
        with pytest.raises(SystemExit) as end:
            report.main(arguments)
        assert end.value.code == 2
        assert word in capsys.readouterr().err


def test_the_path_of_the_command_starts_it_anywhere(tmp_path):
    root = write_ablation(tmp_path / "runs", ["+ AVEL"], folds=2)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = [sys.executable, Path(report.__file__).resolve(), root, "--summary", "--resamples", "100"]
    ended = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("| system | protocol |")
    assert not (root / "report").exists()
