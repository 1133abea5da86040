"""Runs with gaps: seeds without a fold, classes that are absent, many speakers, rows that are the same."""

import re

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.power import TTestPower

from report.comparison import score_system
from report.groups import read_groups
from report.tables import find_chance
from run_folders import LABELS, draw_labels, draw_predictions, load, write_ablation, write_run
from scripts import report


def write_fold(root, seed, fold, labels, predictions, system="+ AVEL", flags=()):
    utt_ids = [f"u{fold}_{i:03d}" for i in range(len(labels))]
    folder = root / system.strip("+ ").replace(" ", "") / f"seed{seed}" / f"s{fold}"
    return write_run(folder, utt_ids, labels, predictions, system, seed=seed, flags=flags)


def read_report(root, *arguments):
    """report.md and report.csv of a folder of runs."""
    report.main([str(root), "--resamples", "200", "--tsne_points", "0", *map(str, arguments)])
    return (root / "report" / "report.md").read_text(encoding="utf-8"), pd.read_csv(root / "report" / "report.csv")


@pytest.fixture
def unequal(tmp_path):
    """An easy fold of two seeds and a hard one of the first seed alone, of two rows."""
    rng = np.random.default_rng(0)
    easy, hard = rng.integers(0, 4, 100), rng.integers(0, 4, 60)
    for system, lift in (("fusion baseline", 0), ("+ AVEL", 0.03)):
        for seed, fold, labels, accuracy in ((1, 1, easy, 0.9), (1, 2, hard, 0.4), (2, 1, easy, 0.9)):
            write_fold(tmp_path, seed, fold, labels, draw_predictions(labels, accuracy + lift, 4, rng), system)
    return tmp_path


def test_seeds_without_a_fold_are_left_out_and_named(unequal):
    (experiment,), problems = load(unequal)
    for system in experiment.systems:
        assert (system.seeds, system.folds, len(system.left_out)) == ([1], ["s1", "s2"], 1)
        scores = score_system(system, None, 500, 0)
        for metric in ("ua", "wa"):
            low, high = scores[f"{metric}_by_utterance"]
            assert low <= scores["pooled"][metric] <= high
            assert scores[f"{metric}_by_seed"].tolist() == pytest.approx([scores[metric].mean()])
        assert any(f"{system.name}, seed 2: no fold s2; this seed is left out" in text for text in problems)
    _, csv = read_report(unequal)
    assert csv["seeds"].tolist() == [1, 1]
    assert (csv["ua_low_by_utterance"] <= csv["ua_pooled"]).all()
    assert (csv["ua_pooled"] <= csv["ua_high_by_utterance"]).all()


def test_of_seeds_that_all_lack_a_fold_the_largest_like_ones_count(tmp_path):
    labels = np.arange(20) % 4
    for seed, folds in ((1, (1,)), (2, (1, 2)), (3, (1, 2)), (4, (2, 3))):
        for fold in folds:
            write_fold(tmp_path, seed, fold, labels, labels)
    (experiment,), problems = load(tmp_path)
    assert experiment.systems[0].seeds == [2, 3]
    assert [text for text in problems if "no fold" in text] == [
        "+ AVEL, seed 1: no fold s2, s3; this seed is left out of every number",
        "+ AVEL, seed 2: no fold s3; means are over the others",
        "+ AVEL, seed 3: no fold s3; means are over the others",
        "+ AVEL, seed 4: no fold s1; this seed is left out of every number",
    ]


def test_a_constant_answer_scores_chance_where_classes_are_absent(tmp_path):
    """Two classes in a fold: always one of them has a UA of 50, which is no merit."""
    folds = {1: np.repeat([0, 1, 2, 3], [4, 9, 4, 3]), 2: np.repeat([0, 1], [5, 15]), 3: np.repeat([0, 1, 2], 8)}
    for fold, labels in folds.items():
        write_fold(tmp_path, 1, fold, labels, np.ones_like(labels))
    (experiment,), problems = load(tmp_path)
    scores, chance = score_system(experiment.systems[0], None, 200, 0), find_chance(experiment)
    assert scores["ua"].tolist() == pytest.approx([1 / 4, 1 / 2, 1 / 3])
    assert chance == pytest.approx(
        {
            "ua": scores["ua"].mean(),
            "wa": scores["wa"].mean(),
            "ua_pooled": scores["pooled"]["ua"],
            "wa_pooled": scores["pooled"]["wa"],
        }
    )
    assert scores["ua_by_utterance"] == (0.25, 0.25)  # no sample loses the class of three
    assert any("fold s2: no utterance of sad, ang" in text for text in problems)
    assert any("fold s3: no utterance of ang" in text for text in problems)
    assert not any("fold s1" in text for text in problems)
    text, _ = read_report(tmp_path)
    assert re.search(r"\| chance \| +– \| +36\.11 \|", text)
    assert re.search(r"\| chance \| +– \| +25\.00 \|", text)


def test_a_class_that_occurs_nowhere_is_named_once(tmp_path):
    for fold in (1, 2):
        labels = np.arange(20) % 3
        write_fold(tmp_path, 1, fold, labels, labels)
    (experiment,), problems = load(tmp_path)
    assert [text for text in problems if "no utterance" in text] == [
        "no utterance of ang anywhere: UA is over the other classes"
    ]
    assert find_chance(experiment)["ua"] == find_chance(experiment)["ua_pooled"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("speakers", "table", "warned"), [(10, True, True), (41, False, False)])
def test_the_intervals_by_speaker_are_there_of_many_speakers_too(tmp_path, speakers, table, warned):
    rng, lines = np.random.default_rng(0), []
    for fold in (1, 2):
        labels = np.arange(3 * 41) % 4
        write_fold(tmp_path, 1, fold, labels, draw_predictions(labels, 0.7, 4, rng))
        for i, k in enumerate(labels):
            lines.append((f"u{fold}_{i:03d}", "a.wav", LABELS[k], f"p{i % speakers:02d}", f"s{fold}"))
    path = tmp_path / "manifest.csv"
    pd.DataFrame(lines, columns=["id", "path", "label", "speaker", "session"]).to_csv(path, index=False)
    groups = read_groups(path, [line[0] for line in lines])
    assert groups["speaker"].nunique() == speakers
    text, csv = read_report(tmp_path, "--manifest", path)
    assert csv["ua_low_by_speaker"].notna().all()
    assert "UA 95 % by speaker" in text
    assert (f"speaker ({speakers} values)" not in text) == table
    assert ("\n| p07 " in text) == table
    assert (f"Only {speakers} speakers" in text) == warned


def test_rows_of_the_same_predictions_are_an_alarm_unless_explained(tmp_path):
    labels = draw_labels([f"u1_{i:03d}" for i in range(40)])
    predictions = draw_predictions(labels, 0.7, 4, np.random.default_rng(0))
    alarm = "fusion baseline and + AVEL agree in every prediction"
    for name, frozen in (("explained", True), ("copied", False)):
        for system in ("fusion baseline", "+ AVEL"):
            for seed in range(5):
                flags = {"freeze_encoder": frozen}
                write_fold(tmp_path / name, seed, 1, labels, predictions, system, flags)
        text, _ = read_report(tmp_path / name)
        assert (alarm in text) == (not frozen)
        assert ("same classifier by construction" in text) == frozen
        assert "same predictions" in text


@pytest.mark.parametrize(("seeds", "shown"), [((1,), "1 seed "), ((1, 2, 3), r"3 seeds; \d+ needed ")])
def test_few_seeds_are_not_tested(tmp_path, seeds, shown):
    text, _ = read_report(write_ablation(tmp_path, ["fusion baseline", "+ AVEL"], folds=2, seeds=seeds))
    assert re.search(rf"\| not testable with {shown}\|", text)
    line = next(line for line in text.splitlines() if line.startswith("Minimum detectable effect"))
    assert ("Assumed, not measured" in line) == (len(seeds) == 1)
    if len(seeds) == 1:
        effect = TTestPower().solve_power(nobs=5, power=0.8, alpha=0.05)
        assert f" {effect * np.sqrt(2) * 0.8:.2f} points with 5," in line
    csv = pd.read_csv(tmp_path / "report" / "comparisons.csv")
    assert csv.query("unit == 'seed'")[["p"]].isna().all(axis=None)
    assert csv.query("unit == 'seed'")["n"].tolist() == [len(seeds)] * 2
    assert csv.query("unit != 'seed'")["p"].between(0, 1).all()


def test_flags_that_change_no_number_are_no_difference(tmp_path):
    labels = np.arange(20) % 4
    for fold, flags in ((1, {"save_every": "5min", "lr": 1e-4}), (2, {"save_every": "1min", "lr": 2e-4})):
        write_fold(tmp_path, 1, fold, labels, labels, flags=flags)
    _, problems = load(tmp_path)
    assert any("--lr" in text for text in problems)
    assert not any("--save_every" in text for text in problems)


def test_comparisons_of_several_protocols_say_which(tmp_path):
    for name, more in (("a", {}), ("b", {"protocol": "strict", "reported": "test"})):
        write_ablation(tmp_path / name, ["fusion baseline", "+ AVEL"], folds=2, **more)
    read_report(tmp_path)
    csv = pd.read_csv(tmp_path / "report" / "comparisons.csv")
    assert list(csv)[-2:] == ["protocol", "labels"]
    assert csv["protocol"].value_counts().to_dict() == {"paper": 6, "strict": 6}
