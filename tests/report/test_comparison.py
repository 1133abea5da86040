"""The differences of two rows against scipy, statsmodels and counts by hand; the size of the test that leads."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score
from statsmodels.stats.multitest import multipletests

from report.comparison import FEWEST_SEEDS, compare_all, compare_systems, compare_utterances, summarize
from report.paired_tests import adjust_holm
from run_folders import load, read_predictions, write_ablation


def find(experiment, *names):
    return (next(s for s in experiment.systems if s.name == name) for name in names)


def test_the_paired_tests_of_the_report(ablation):
    (experiment,), _ = load(ablation)
    first, second = find(experiment, "video only", "+ AVEL + MEM")
    found = compare_systems(first, second, 500, 0)
    a, b = (pd.concat(read_predictions(ablation, folder)).set_index("utt_id") for folder in ("video", "both"))
    hits = (a["label"] == a["prediction"]), (b["label"] == b["prediction"]).reindex(a.index)
    assert (found.only_second, found.only_first) == ((~hits[0] & hits[1]).sum(), (hits[0] & ~hits[1]).sum())
    ua = [balanced_accuracy_score(t["label"], t["prediction"]) for t in (a, b)]
    by_utterance = found.differences["utterance", "ua"]
    assert by_utterance.mean == pytest.approx(ua[1] - ua[0])
    assert by_utterance.low < by_utterance.mean < by_utterance.high
    assert by_utterance.p < 0.01
    same = compare_systems(first, first, 500, 0)
    for (unit, _), difference in same.differences.items():
        assert difference.mean == 0
        assert difference.p == pytest.approx(1) or unit == "seed"
    assert np.isnan(same.differences["seed", "ua"].p)  # of one seed


def test_holm_equals_statsmodels_and_leaves_out_what_is_no_test():
    p = [0.01, np.nan, 0.04, 0.03, np.nan]
    assert adjust_holm(p)[[0, 2, 3]].tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert adjust_holm(p)[[0, 2, 3]].tolist() == pytest.approx(multipletests([0.01, 0.04, 0.03], method="holm")[1])
    assert np.isnan(adjust_holm(p)[[1, 4]]).all()
    assert np.isnan(adjust_holm([np.nan])).all()


def test_planned_pairs_are_those_with_the_baseline_and_with_the_full_model(ablation):
    (experiment,), _ = load(ablation)
    pairs, apart = compare_all(experiment, 100, 0)
    assert (len(pairs), apart) == (15, [])
    planned = {(pair.second.name, pair.first.name) for pair in pairs if pair.planned}
    others = ["audio only", "video only", "+ AVEL", "+ MEM"]
    full, baseline = "+ AVEL + MEM", "fusion baseline"
    assert planned == {(full, baseline), *((name, baseline) for name in others), *((full, name) for name in others)}


def test_identical_systems_differ_in_5_percent_of_trainings():
    """The size of the test that leads: a std of 0.8 UA between seeds, five seeds, no difference of the systems."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(2000):
        uas = rng.normal(0.78, 0.008, (2, 5))
        wrong += summarize(uas[1] - uas[0], FEWEST_SEEDS).p < 0.05
    assert 0.02 <= wrong / 2000 <= 0.08


def test_the_size_holds_from_predictions_on_where_that_over_utterances_does_not():
    """The same of 5531 utterances in 5 folds, whose latent margins move by training: why seeds lead."""
    rng, wrong, wrong_over_utterances, some = np.random.default_rng(1), 0, 0, 60
    labels = np.repeat(range(4), [1636, 1708, 1084, 1103])
    fold, edge = np.arange(5531) % 5, stats.norm.ppf([0.78, 0.72, 0.82, 0.80])
    weights = 1 / np.bincount(labels * 5 + fold)[labels * 5 + fold] / 20  # of a hit in the UA, mean over the folds
    noise = 0.008 * np.sqrt(5) / stats.norm.pdf(edge).mean()  # probits, of a fold: 0.8 points of the mean of five
    for i in range(400):
        easy, moved = rng.normal(0, np.sqrt(0.95), 5531), rng.normal(0, noise, (2, 5, 5))
        margin = easy + rng.normal(0, np.sqrt(0.05), (2, 5, 5531)).astype(np.float32)
        hits = margin < edge[labels] + moved[:, :, fold]  # (systems, seeds, utterances)
        uas = hits @ weights
        wrong += summarize(uas[1] - uas[0], FEWEST_SEEDS).p < 0.05
        if i < some:
            both = pd.DataFrame({"utt_id": np.tile(range(5531), 5), "label": np.tile(labels, 5)})
            both["hit_first"], both["hit_second"] = hits.reshape(2, -1)
            wrong_over_utterances += compare_utterances(both, 4, 300, i)[0].p < 0.05
    assert 0.02 <= wrong / 400 <= 0.08
    assert wrong_over_utterances / some > 0.2


def test_fewer_than_five_seeds_give_no_p(tmp_path):
    write_ablation(tmp_path, ["fusion baseline", "+ AVEL"], folds=3, size=20, seeds=(1, 2, 3, 4))
    (experiment,), _ = load(tmp_path)
    found = compare_systems(*experiment.systems, 100, 0).differences
    for metric in ("ua", "wa"):
        seed = found["seed", metric]
        assert (seed.n, np.isnan(seed.p)) == (4, True)
        assert seed.low < seed.mean < seed.high
        uas = [[r.result[metric] for r in sorted(s.runs, key=lambda r: (r.seed, r.fold))] for s in experiment.systems]
        table = (np.array(uas[1]) - np.array(uas[0])).reshape(4, 3)
        interval = stats.t.interval(0.95, 3, table.mean(1).mean(), stats.sem(table.mean(1)))
        assert (seed.low, seed.high) == pytest.approx(interval)
        assert found["session", metric].p == pytest.approx(stats.ttest_1samp(table.mean(0), 0).pvalue)
        assert found["session", metric].n == 3
