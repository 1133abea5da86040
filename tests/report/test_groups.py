"""The UA by group against scikit-learn."""

import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score

from run_folders import read_predictions, write_ablation
from scripts import report


def test_groups_equal_scikit_learn(tmp_path):
    root = write_ablation(tmp_path / "runs", ["audio only", "+ AVEL"], folds=2)
    table = pd.concat(read_predictions(root, "avel"), ignore_index=True)
    rng = np.random.default_rng(0)
    manifest = pd.DataFrame({"id": table["utt_id"], "path": "a.wav", "label": table["label"]})
    manifest["speaker"], manifest["session"] = table["utt_id"].str[:5], table["utt_id"].str[:5]
    manifest["duration"], manifest["room"] = (
        rng.uniform(1, 8, len(table)).round(2),
        rng.choice(["big", "small"], len(table)),
    )
    manifest.to_csv(tmp_path / "manifest.csv", index=False)
    report.main([str(root), "--manifest", str(tmp_path / "manifest.csv"), "--resamples", "100", "--tsne_points", "0"])
    lines = (root / "report" / "report.md").read_text(encoding="utf-8").splitlines()
    cells = {
        tuple(cell.strip() for cell in line.strip("|").split("|"))[0]: line for line in lines if line.startswith("|")
    }
    rooms = table[manifest["room"] == "big"]
    short = table[manifest["duration"] < 2]
    for name, part in (("big", rooms), ("under 2 s", short)):
        ua = 100 * balanced_accuracy_score(part["label"], part["prediction"])
        assert [cell.strip() for cell in cells[name].strip("|").split("|")][1:4:2] == [str(len(part)), f"{ua:.2f}"]
