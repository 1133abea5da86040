"""The paired tests of two rows against a count by hand."""

import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from report.comparison import compare_systems
from run_folders import load, read_predictions


def test_the_paired_tests_of_the_report(ablation):
    (experiment,), _ = load(ablation)
    first, second = (next(s for s in experiment.systems if s.name == name) for name in ("video only", "+ AVEL + MEM"))
    found = compare_systems(first, second, None, 500, 0)
    a, b = (pd.concat(read_predictions(ablation, folder)).set_index("utt_id") for folder in ("video", "both"))
    hits = (a["label"] == a["prediction"]), (b["label"] == b["prediction"]).reindex(a.index)
    assert found["only_second"] == (~hits[0] & hits[1]).sum()
    assert found["only_first"] == (hits[0] & ~hits[1]).sum()
    ua = [balanced_accuracy_score(t["label"], t["prediction"]) for t in (a, b)]
    assert found["difference"] == pytest.approx(ua[1] - ua[0])
    assert found["by_utterance"][0] < found["difference"] < found["by_utterance"][1]
    assert found["bootstrap_p"] < 0.01
    same = compare_systems(first, first, None, 500, 0)
    assert (same["difference"], same["by_utterance"], same["bootstrap_p"]) == (0, (0, 0), 1)
