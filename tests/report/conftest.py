"""Runs and their report, written once for the tests of this room."""

import pytest

from run_folders import write_ablation
from scripts import report


@pytest.fixture(scope="session")
def ablation(tmp_path_factory):
    """Six systems, five folds, and their report."""
    root = write_ablation(tmp_path_factory.mktemp("runs"))
    report.main([str(root), "--resamples", "500", "--tsne_points", "20"])
    return root
