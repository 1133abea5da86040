"""Pictures of runs with gaps."""

from pathlib import Path

import numpy as np

from running.pictures import plot_confusion, plot_curves


def test_pictures_take_absent_classes_and_keys(tmp_path):
    plot_confusion(np.array([[3, 1], [0, 0]]), ["a$b", "c$d"], tmp_path / "c.png", title="t")
    plot_curves([{"epoch": 1, "train_loss": 1.0, "valid_recall": {"a": None, "b": 0.5}}], tmp_path / "k.png")
    for name in ("c.png", "k.png"):
        assert Path(tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.new"))
