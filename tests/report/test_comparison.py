"""The differences of two rows against scipy, statsmodels and counts by hand; the size of the test that leads."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score
from statsmodels.stats.multitest import multipletests

from report.comparison import compare_all, compare_systems, summarize
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


@pytest.mark.parametrize("seeds", [5])
def test_identical_systems_differ_in_5_percent_of_trainings(seeds):
    """The size of the test that leads, under training noise: a std of 0.8 UA between seeds, and none of the systems."""
    rng, wrong, replicates = np.random.default_rng(0), 0, 2000
    for _ in range(replicates):
        uas = 0.78 + rng.normal(0, 0.008, (2, seeds))
        wrong += summarize(uas[1] - uas[0], fewest=5).p < 0.05
    assert 0.02 <= wrong / replicates <= 0.08


def test_identical_systems_differ_in_5_percent_of_trainings_of_whole_predictions(tmp_path):
    """The same from predictions on, 4 folds of 100 utterances, through everything that `compare_systems` does to them.

    Over utterances the very same trainings differ far more often: the fault that the seeds are there for.
    """


def test_fewer_than_five_seeds_give_no_p(tmp_path):
    write_ablation(tmp_path, ["fusion baseline", "+ AVEL"], folds=3, size=20, seeds=(1, 2, 3, 4))
    (experiment,), _ = load(tmp_path)
    found = compare_systems(*experiment.systems, 100, 0).differences
    for metric in ("ua", "wa"):
        seed = found["seed", metric]
        assert (seed.n, np.isnan(seed.p)) == (4, True)
        assert seed.low < seed.mean < seed.high
        uas = [
            [r.result[metric] for r in sorted(s.runs, key=lambda r: (r.seed, r.fold))] for s in experiment.systems
        ]
        table = (np.array(uas[1]) - np.array(uas[0])).reshape(4, 3)
        interval = stats.t.interval(0.95, 3, table.mean(1).mean(), stats.sem(table.mean(1)))
        assert (seed.low, seed.high) == pytest.approx(interval)
        assert found["session", metric].p == pytest.approx(stats.ttest_1samp(table.mean(0), 0).pvalue)
        assert found["session", metric].n == 3
