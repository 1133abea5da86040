"""Runs into rows and tables: nothing is averaged that must not be."""

import re

import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from report.systems import name_system
from run_folders import LABELS, SYSTEMS, load, read_predictions, write_ablation
from scripts import report


def test_pooled_is_the_sum_of_the_confusions(ablation):
    (experiment,), _ = load(ablation)
    for system in experiment.systems:
        together = pd.concat(read_predictions(ablation, SYSTEMS[system.name][0]))
        expected = confusion_matrix(together["label"], together["prediction"], labels=LABELS)
        assert system.pooled["confusion"] == expected.tolist()


def test_protocols_and_labels_never_share_a_table(tmp_path, capsys):
    write_ablation(tmp_path / "a", ["+ AVEL"], folds=2)
    write_ablation(tmp_path / "b", ["+ AVEL"], folds=2, protocol="strict", reported="test")
    write_ablation(tmp_path / "c", ["+ AVEL"], folds=2, names=["x", "y"])
    experiments, problems = load(tmp_path)
    assert sorted((e.protocol, len(e.labels)) for e in experiments) == [("paper", 2), ("paper", 4), ("strict", 4)]
    assert "never averaged" in problems[0]
    report.main([str(tmp_path), "--summary", "--resamples", "100"])
    assert len(re.findall(r"^\| system", capsys.readouterr().out, re.M)) == 3
    assert not (tmp_path / "report").exists()


def test_runs_of_other_folders_are_other_rows(tmp_path):
    write_ablation(tmp_path / "first", ["+ AVEL"], folds=2)
    write_ablation(tmp_path / "second", ["+ AVEL"], folds=2)
    (experiment,), _ = load(tmp_path)
    assert [system.name for system in experiment.systems] == ["+ AVEL (first/avel)", "+ AVEL (second/avel)"]


@pytest.mark.parametrize(
    ("weights", "name"),
    [((1, 0.1), "+ AVEL + MEM"), ((0, 0), "fusion baseline"), ((0.5, 0.1), "+ AVEL + MEM (AVEL x 0.5)")],
)
def test_rows_are_named_by_their_weights(weights, name):
    assert name_system({"modality": "av", "avel_weight": weights[0], "mem_weight": weights[1]}) == name


@pytest.mark.parametrize("modality", ["va", "av+text", "", None, ["a", "v"], "<script>alert(1)</script>", "=1+1"])
def test_another_modality_is_named_as_it_is(tmp_path, modality, capsys):
    write_ablation(tmp_path, ["audio only", "video only"], folds=2, size=12)
    write_ablation(tmp_path / "other", ["audio only"], folds=2, size=12, modality=modality)
    experiments, _ = load(tmp_path)
    assert [s.name for s in experiments[0].systems] == ["audio only", "video only", f"modality {modality}"]
    whole = modality is None or "<" in modality  # the others print the table alone, to save time
    report.main([str(tmp_path), "--resamples", "100", "--tsne_points", "20", *([] if whole else ["--summary"])])
    assert f"modality {modality}".replace("<", "&lt;").replace("](", "]\\(") in capsys.readouterr().out
    assert not whole or "<script" not in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
