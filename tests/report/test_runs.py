"""Run folders read back: damage is named."""

import pandas as pd
import pytest

from report.runs import find_runs
from run_folders import LABELS, draw_labels, write_run
from running.errors import InputError


def break_nothing(run):
    (run / "result.json").unlink()


def break_json(run):
    (run / "result.json").write_text('{"protocol": ')


def break_predictions(run):
    path = run / "predictions_valid.csv"
    table = pd.read_csv(path)
    table.loc[0, "prediction"] = next(name for name in LABELS if name != table.loc[0, "prediction"])
    table.to_csv(path, index=False)


def break_label(run):
    path = run / "predictions_valid.csv"
    path.write_text(path.read_text().replace(",hap,", ",joy,"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_nothing, "holds no result.json.*1 runs in it are not finished"),
        (break_json, "result.json: not JSON"),
        (break_predictions, "predictions_valid.csv: does not give the confusion matrix"),
        (break_label, "predictions_valid.csv: joy: not among the labels"),
        (lambda run: (run / "predictions_valid.csv").unlink(), "predictions_valid.csv: no such file"),
    ],
)
def test_damaged_runs_are_named(tmp_path, damage, message):
    utt_ids = [f"u{i}" for i in range(12)]
    labels = draw_labels(utt_ids)
    damage(write_run(tmp_path / "session1", utt_ids, labels, labels))
    with pytest.raises(InputError, match=message):
        find_runs(tmp_path)
