"""Luck of the epoch: the honest scores against loops over tables, what is missing and what contradicts itself."""

import json

import numpy as np
import pytest

from report.epoch_luck import honest_scores, show_epoch_luck
from report.page import Alarm, Table, Text
from run_folders import load, write_ablation


def write_histories(root, folder, uas, seed=1234, metric="ua", others=None):
    """Histories of a row, and best epochs and scores that agree with them.

    Args:
        uas: (folds, epochs) UA. metric: what chose the epoch. others: (folds, epochs) WA, the UA unless given.
    """
    for fold, ua in enumerate(uas, start=1):
        wa = ua if others is None else others[fold - 1]
        run = root / folder / f"seed{seed}" / f"session{fold}"
        lines = [{"epoch": e, "valid_ua": u, "valid_wa": w} for e, (u, w) in enumerate(zip(ua, wa, strict=True), 1)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        best = int(np.argmax(ua if metric == "ua" else wa))
        change(run, best_epoch=best + 1, ua=ua[best], choose_by=metric)


def change(run, **more):
    path = run / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def brute_force(uas, scores=None):
    """(chosen, last, other_folds) of each fold, in loops over exact integers of 1e-6."""
    scores = np.rint(1e6 * np.array(uas if scores is None else scores)).astype(int).tolist()
    found = []
    for fold, own in enumerate(scores):
        totals = [sum(scores[f][e] for f in range(len(scores)) if f != fold) for e in range(len(own))]
        epoch = totals.index(max(totals))
        found.append((uas[fold][own.index(max(own))], uas[fold][-1], uas[fold][epoch]))
    return found


def draw_uas(seed, folds=5, epochs=7):
    """Coarse, so that epochs tie."""
    return np.random.default_rng(seed).integers(0, 4, (folds, epochs)) / 4 / 5 + 0.3


def write(tmp_path, systems=("+ AVEL",), folds=5, **more):
    return write_ablation(tmp_path, systems, folds=folds, size=12, **more)


def read_cells(experiment, row=0):
    (table,) = (block for block in show_epoch_luck(experiment) if isinstance(block, Table))
    return table.frame.iloc[row]


def read_notes(experiment):
    return " ".join(block.text for block in show_epoch_luck(experiment) if isinstance(block, Text))


def test_the_scores_equal_a_brute_force(tmp_path):
    root = write(tmp_path, seeds=(1, 2, 3))
    uas = {seed: draw_uas(seed) for seed in (1, 2, 3)}
    for seed, table in uas.items():
        write_histories(root, "avel", table, seed)
    (experiment,), _ = load(root)
    scores = honest_scores(experiment.systems[0])
    assert list(scores.columns) == ["fold", "seed", "chosen", "last", "other_folds"]
    for seed, table in uas.items():
        expected = brute_force(table)
        part = scores[scores["seed"] == seed]
        assert part["fold"].tolist() == [f"session{k}" for k in range(1, 6)]
        assert part[["chosen", "last", "other_folds"]].to_numpy() == pytest.approx(np.array(expected))
    means = np.mean([brute_force(table) for table in uas.values()], axis=0)  # (folds, 3)
    cells = read_cells(experiment)
    names = ["best epoch of the fold", "last epoch", "of the other folds"]
    for name, column in zip(names, 100 * means.T, strict=True):
        assert cells[name] == f"{column.mean():.2f} ± {column.std(ddof=1):.2f}"
    flattered = 100 * (means[:, 0] - means[:, 2]).mean(), 100 * (means[:, 0] - means[:, 1]).mean()
    assert flattered[0] > 0
    assert cells["flattered, of the other folds"] == f"{flattered[0]:+.2f}"
    assert cells["flattered, last epoch"] == f"{flattered[1]:+.2f}"
    assert cells["runs"] == 15
    assert not [block for block in show_epoch_luck(experiment) if isinstance(block, Alarm)]


def test_of_epochs_that_tie_the_earliest_is_taken(tmp_path):
    root = write(tmp_path, folds=4)
    write_histories(root, "avel", [[0.5, 0.6, 0.7], [0.2, 0.1, 0.3], [0.3, 0.2, 0.1], [0.1, 0.3, 0.2]])
    (experiment,), _ = load(root)
    assert honest_scores(experiment.systems[0])["other_folds"][0] == 0.5  # 0.2 + 0.3 + 0.1 < 0.1 + 0.2 + 0.3


def test_an_epoch_chosen_by_wa_is_chosen_by_wa_on_the_others(tmp_path):
    root, uas, was = write(tmp_path), draw_uas(4), draw_uas(5)
    write_histories(root, "avel", uas, metric="wa", others=was)
    (experiment,), _ = load(root)
    found = honest_scores(experiment.systems[0])[["chosen", "last", "other_folds"]].to_numpy()
    assert found.tolist() == [list(row) for row in brute_force(uas, was)]
    for column in (0, 2):
        assert found[:, column].tolist() != [row[column] for row in brute_force(uas)]


def test_histories_of_different_length_are_compared_over_what_all_have(tmp_path):
    root, uas = write(tmp_path, folds=3), draw_uas(6, 3, 6)
    write_histories(root, "avel", [uas[0], uas[1][:4], uas[2]])
    (experiment,), _ = load(root)
    scores = honest_scores(experiment.systems[0])
    assert scores["last"].tolist() == uas[:, 3].tolist()
    assert scores["other_folds"].tolist() == [row[2] for row in brute_force(uas[:, :4])]
    assert "+ AVEL: histories of 4, 6 epochs" in read_notes(experiment)


def test_runs_without_a_history_are_said(tmp_path):
    root = write(tmp_path, ["audio only", "+ AVEL"], folds=3)
    write_histories(root, "avel", draw_uas(7, 3))
    for path in (root / "audio").rglob("metrics.jsonl"):
        path.unlink()
    (root / "avel" / "seed1234" / "session2" / "metrics.jsonl").unlink()
    (experiment,), _ = load(root)
    assert honest_scores(experiment.systems[0]).empty
    assert honest_scores(experiment.systems[1])["fold"].tolist() == ["session1", "session3"]
    assert read_cells(experiment)["UA, paper protocol"] == "+ AVEL"
    assert "audio only: 3 of 3 runs have no metrics.jsonl" in read_notes(experiment)
    assert "+ AVEL: 1 of 3 runs have no metrics.jsonl" in read_notes(experiment)
    for path in root.rglob("metrics.jsonl"):
        path.unlink()
    (experiment,), _ = load(root)
    assert not [block for block in show_epoch_luck(experiment) if isinstance(block, Table | Alarm)]
    assert "+ AVEL: 3 of 3 runs" in read_notes(experiment)


def test_a_single_fold_has_no_others(tmp_path):
    root = write(tmp_path, folds=1)
    write_histories(root, "avel", [[0.5, 0.75, 0.25]])
    (experiment,), _ = load(root)
    cells = read_cells(experiment)
    assert cells.tolist() == ["+ AVEL", "75.00", "–", "–", "25.00", "+50.00", 1]
    assert "+ AVEL: a seed with one fold only" in read_notes(experiment)


def test_a_seed_with_a_single_fold_is_left_out_beside_whole_ones(tmp_path):
    root, uas = write(tmp_path, folds=3, seeds=(1, 2)), draw_uas(8, 3)
    for seed in (1, 2):
        write_histories(root, "avel", uas, seed)
    for fold in (2, 3):
        (root / "avel" / "seed2" / f"session{fold}" / "result.json").unlink()
    (experiment,), _ = load(root)
    cells, expected = read_cells(experiment), 100 * np.array(brute_force(uas))
    assert cells["runs"] == 3
    assert cells["of the other folds"] == f"{expected[:, 2].mean():.2f} ± {expected[:, 2].std(ddof=1):.2f}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ua": 0.75001}, "a UA of 75.0000 at the best epoch 2, result.json 75.0010"),
        ({"best_epoch": 9}, "no UA at the best epoch 9, result.json 75.0000"),
    ],
)
def test_a_history_of_another_training_is_alarmed(tmp_path, more, message):
    root = write(tmp_path, folds=2)
    write_histories(root, "avel", [[0.5, 0.75, 0.25], [0.5, 0.5, 0.5]])
    change(root / "avel" / "seed1234" / "session1", **more)
    (experiment,), _ = load(root)
    (alarm,) = (block for block in show_epoch_luck(experiment) if isinstance(block, Alarm))
    (line,) = alarm.lines
    assert line.endswith(f"session1: metrics.jsonl has {message}")


def test_a_last_digit_is_no_contradiction(tmp_path):
    root = write(tmp_path, folds=2)
    write_histories(root, "avel", [[0.5, 0.75, 0.25], [0.5, 0.5, 0.5]])
    change(root / "avel" / "seed1234" / "session1", ua=0.75 + 1e-7)
    (experiment,), _ = load(root)
    assert not [block for block in show_epoch_luck(experiment) if isinstance(block, Alarm)]


def test_the_strict_protocol_has_no_such_luck(tmp_path):
    write(tmp_path, folds=2, protocol="strict", reported="test")
    (experiment,), _ = load(tmp_path)
    blocks = show_epoch_luck(experiment)
    assert [block.kind for block in blocks] == ["heading", "text"]
    assert "the reported list chose no epoch" in blocks[1].text
