"""Progress bars where there is no terminal."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(script):
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stderr


def test_a_short_bar_leaves_nothing_in_a_log():
    assert (
        run("from running.progress import progress_bar\nfor _ in progress_bar(range(5000), desc='Epoch 1'): pass") == ""
    )


def test_a_long_bar_leaves_a_line_a_minute_in_a_log():
    script = """
import time
from running import progress
progress.MINUTE = 0.2
for _ in progress.progress_bar(range(100), desc="Epoch 1", leave=False): time.sleep(0.01)
"""
    lines = run(script).splitlines()
    assert 2 <= len(lines) <= 7
    assert all(line.startswith("Epoch 1: ") and "/100" in line and "\r" not in line for line in lines)
