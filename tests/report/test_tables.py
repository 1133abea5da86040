"""The main tables: numbers against scikit-learn, the paper's where they belong, cells that no spreadsheet runs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from report.runs import read_run
from run_folders import SYSTEMS, draw_labels, draw_predictions, read_predictions, write_ablation, write_run
from running.records import disarm, rearm
from scripts import report


def test_the_table_equals_scikit_learn(ablation):
    table = pd.read_csv(ablation / "report" / "report.csv").set_index("system")
    assert list(table.index) == list(SYSTEMS)
    for system, (folder, *_) in SYSTEMS.items():
        folds = read_predictions(ablation, folder)
        together = pd.concat(folds)
        ua = [100 * balanced_accuracy_score(fold["label"], fold["prediction"]) for fold in folds]
        wa = [100 * accuracy_score(fold["label"], fold["prediction"]) for fold in folds]
        f1 = 100 * f1_score(together["label"], together["prediction"], average="macro")
        row = table.loc[system]
        expected = [np.mean(ua), np.std(ua, ddof=1), np.mean(wa), np.std(wa, ddof=1), f1]
        found = row[["ua_mean", "ua_std_folds", "wa_mean", "wa_std_folds", "macro_f1_pooled"]]
        assert found.tolist() == pytest.approx(expected, abs=0.006)
        pooled = 100 * balanced_accuracy_score(together["label"], together["prediction"])
        assert row["ua_pooled"] == pytest.approx(pooled, abs=0.006)
        assert row["ua_low_by_utterance"] < row["ua_pooled"] < row["ua_high_by_utterance"]
        text = f"{np.mean(ua):.2f} ± {np.std(ua, ddof=1):.2f}"
        for name in ("report.md", "report.html"):
            assert text in (ablation / "report" / name).read_text(encoding="utf-8")


def test_seeds_are_averaged_before_the_std_over_folds(tmp_path):
    root = write_ablation(tmp_path, ["+ AVEL"], folds=3, seeds=(1, 2))
    report.main([str(root), "--out", str(tmp_path / "out"), "--resamples", "100", "--tsne_points", "0"])
    row = pd.read_csv(tmp_path / "out" / "report.csv").iloc[0]
    ua = np.array(
        [
            [
                100 * balanced_accuracy_score(fold["label"], fold["prediction"])
                for fold in read_predictions(root, "avel", s)
            ]
            for s in (1, 2)
        ]
    )
    assert (row["ua_mean"], row["seeds"], row["folds"]) == (pytest.approx(ua.mean(), abs=0.006), 2, 3)
    assert row["ua_std_folds"] == pytest.approx(ua.mean(0).std(ddof=1), abs=0.006)
    assert row["ua_std_seeds"] == pytest.approx(ua.mean(1).std(ddof=1), abs=0.006)
    assert row["utterances"] == 90  # each once, not once a seed


def test_the_paper_stands_beside_iemocap_alone(tmp_path, ablation):
    assert (
        "The paper's figures are not shown: these are 150 utterances" in (ablation / "report" / "report.md").read_text()
    )
    utt_ids = [f"u{i}" for i in range(5531)]
    labels = draw_labels(utt_ids)
    predictions = draw_predictions(labels, 0.7, 4, np.random.default_rng(0))
    write_run(tmp_path / "r" / "session1", utt_ids, labels, predictions)
    report.main([str(tmp_path / "r"), "--resamples", "100", "--tsne_points", "0"])
    text = (tmp_path / "r" / "report" / "report.md").read_text(encoding="utf-8")
    assert "paper's UA (paper protocol)" in text
    assert "80.10" in text
    assert "79.45" in text


def test_what_people_typed_is_no_formula(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, names in (
        ("=1+1", ["=hap", "neu"]),
        ("@sum", ["-2", "x"]),
        ("+3", ["+a", "-b"]),
        ("fine", ["a", "=b"]),
    ):
        write_ablation(Path(folder), ["+ AVEL"], folds=2, size=12, names=names)
        report.main([folder, "--resamples", "100", "--tsne_points", "0"])
        row = pd.read_csv(Path(folder) / "report" / "report.csv", dtype=str).iloc[0]
        assert row["system"] == "+ AVEL"
        typed = {"labels": " ".join(names), "folder": f"{folder}/avel"}
        ahead = "" if folder == "fine" else "'"
        assert row[list(typed)].to_dict() == {name: ahead + text for name, text in typed.items()}
        assert not [cell for cell in row.drop("system").dropna() if cell[0] in "=+-@"]


TEXTS = ["=1+1", "'=1+1", "''=1", "-3g5yACwYnA", "+a", "@a", "a", "'a", "'", "", "\t=1", "ang"]


@pytest.mark.parametrize("text", TEXTS)
def test_no_text_runs_in_a_spreadsheet_and_none_is_lost(text):
    assert not disarm(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert rearm(disarm(text)) == text


def test_disarmed_predictions_are_read_back_as_they_were(tmp_path):
    utt_ids, labels = [f"=1+{i}" for i in range(8)], np.arange(8) % 2
    plain = write_run(tmp_path / "plain" / "s", utt_ids, labels, labels, "+ AVEL", ["-neu", "ang"])
    safe = write_run(tmp_path / "safe" / "s", utt_ids, labels, labels, "+ AVEL", ["-neu", "ang"])
    path = safe / "predictions_valid.csv"
    cells = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("".join(",".join([disarm(cell) for cell in row[:3]] + row[3:]) + "\n" for row in cells))
    assert "\n'=1+0,'-neu,'-neu," in path.read_text()
    pd.testing.assert_frame_equal(read_run(plain).predictions, read_run(safe).predictions)
