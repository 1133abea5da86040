"""The section of the swapped streams: drops against a count by hand, intervals that cover, what is not probed."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from report.page import render_markdown
from report.probing import SWAPS, read_probe, score_probes, score_swap, show_probing
from report.runs import find_runs
from run_folders import load, write_ablation, write_probe
from running.errors import InputError
from running.probing import SWAPS as COLUMNS

RELIES = {"video": 0.1, "audio": 0.6}


def probe_all(root, folders="*"):
    runs = sorted(path.parent for path in root.rglob(f"{folders}/*/*/result.json"))
    for i, run in enumerate(runs):
        write_probe(run, RELIES, seed=i)
    return runs


def make(root):
    """The section alone, as Markdown."""
    (experiment,), _ = load(root)
    return render_markdown("title", show_probing(experiment, "", 200, 0))


def read_tables(runs):
    return pd.concat(pd.read_csv(run / "probe.csv") for run in runs)


def test_columns_are_those_that_are_written():
    assert tuple(SWAPS) == COLUMNS


def test_drops_equal_a_count_by_hand(tmp_path):
    root = write_ablation(tmp_path, ["+ AVEL"], folds=3, seeds=(1, 2))
    runs = probe_all(root)
    table, cells = read_tables(runs), {}
    for line in make(root).splitlines():
        if line.startswith("| + AVEL: "):
            name, *cells[line.split("|")[1].strip()] = [cell.strip() for cell in line.strip("|").split("|")]
    assert list(cells) == [f"+ AVEL: {name}" for name in SWAPS.values()]
    intact = 100 * balanced_accuracy_score(table["label"], table["intact"])
    for swap, name in SWAPS.items():
        swapped = 100 * table.groupby("label")[swap].mean().mean()  # every utterance is there once a seed
        found = cells[f"+ AVEL: {name}"]
        assert [float(x) for x in found[:3]] == pytest.approx([intact, swapped, intact - swapped], abs=0.0051)
        low, high = json.loads(found[3])
        assert low <= intact - swapped <= high
        follows = f"{100 * table[f'{swap}_follows'].mean():.2f}" if swap.endswith("other") else "–"
        assert found[4:] == [follows, "90"]


def test_an_utterance_without_a_partner_counts_on_neither_side(tmp_path):
    root = write_ablation(tmp_path, ["+ AVEL"], folds=1)
    (run,) = probe_all(root)
    table = pd.read_csv(run / "probe.csv")
    absent = table["label"] == "sad"
    table.loc[absent, ["video_same", "audio_same"]] = np.nan
    table["audio_other"] = np.nan
    table.to_csv(run / "probe.csv", index=False)
    (experiment,), _ = load(root)
    scores = score_probes(experiment, 100)["+ AVEL"]
    kept = table[~absent]
    assert list(scores) == ["video_same", "video_other", "audio_same"]
    assert scores["video_same"]["utterances"] == len(kept)
    assert scores["video_same"]["intact"] == pytest.approx(balanced_accuracy_score(kept["label"], kept["intact"]))
    assert scores["video_same"]["swapped"] == pytest.approx(kept.groupby("label")["video_same"].mean().mean())
    assert scores["video_other"]["utterances"] == len(table)
    assert "drops.png" in make(root)


def test_the_interval_covers():
    """Of 200 lists drawn from one truth about 95 % of the intervals hold its drop: 0.7 - 0.7 * 0.6."""
    covered = 0
    for i in range(200):
        rng = np.random.default_rng(i)
        intact = rng.random(120) < 0.7
        swapped = intact * rng.binomial(5, 0.6, 120) / 5
        table = pd.DataFrame({"utt_id": range(120), "label": np.arange(120) % 3, "intact": intact})
        low, high = score_swap(table.assign(video_same=swapped), "video_same", 3, 300, i)["interval"]
        covered += low <= 0.7 * 0.4 <= high
    assert 180 <= covered <= 199


def test_the_interval_is_that_of_pairs():
    """What both sides share is no doubt about their difference."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"utt_id": range(200), "label": np.arange(200) % 2, "intact": rng.random(200) < 0.5})
    score = score_swap(table.assign(video_same=table["intact"] * 1.0), "video_same", 2, 300, 0)
    assert (score["drop"], score["interval"]) == (0, (0, 0))


def test_what_is_not_probed_is_said(tmp_path, ablation):
    text = (ablation / "report" / "report.md").read_text(encoding="utf-8")
    assert "Does it look at both?\n\npython -m scripts.probe RUNS gives each utterance" in text
    assert "drops.png" not in text
    root = write_ablation(tmp_path, ["audio only", "fusion baseline", "+ AVEL"], folds=2)
    assert len(probe_all(root, "baseline")) == 2
    write_probe(root / "avel" / "seed1234" / "session1", RELIES)
    text = make(root)
    assert "+ AVEL: 1 of 2 runs are not probed (python -m scripts.probe RUNS)." in text
    assert "fusion baseline: 1" not in text
    assert "audio only" not in text
    assert text.count("| fusion baseline: ") == 4


def test_nothing_is_said_without_a_model_of_both(tmp_path):
    assert "Does it look at both?" not in make(write_ablation(tmp_path, ["audio only", "video only"], folds=2, size=12))


def test_a_probe_of_other_predictions_counts_as_none(tmp_path):
    root = write_ablation(tmp_path, ["+ AVEL"], folds=1)
    (folder,) = probe_all(root)
    (run,), _ = find_runs(root)
    assert read_probe(run) is not None
    (folder / "predictions_valid.csv").write_bytes((folder / "predictions_valid.csv").read_bytes() + b"\n")
    assert read_probe(run) is None
    assert "drops.png" not in make(root)


@pytest.mark.parametrize("damage", ["video_same", "more", "word"])
def test_a_damaged_probe_is_named(tmp_path, damage):
    (folder,) = probe_all(write_ablation(tmp_path, ["+ AVEL"], folds=1))
    table = pd.read_csv(folder / "probe.csv", dtype=str)
    if damage == "more":
        table = pd.concat([table, table.tail(1)])
    elif damage == "word":
        table.loc[0, "audio_other"] = "x"
    else:
        table = table.drop(columns=damage)
    table.to_csv(folder / "probe.csv", index=False)
    (run,), _ = find_runs(tmp_path)
    with pytest.raises(InputError, match="probe.csv: .*remove it and probe again"):
        read_probe(run)
