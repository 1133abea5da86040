"""The sentences beside the tables are there exactly when they are true."""

import pytest

from report.explanations import explain_table
from run_folders import load, write_ablation
from scripts import report

SENTENCE = "The encoder of these runs is frozen."
FROZEN, TRAINED = {"freeze_encoder": True}, {"freeze_encoder": False}


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ({"fusion baseline": FROZEN, "+ AVEL": FROZEN}, True),
        ({"fusion baseline": FROZEN, "+ AVEL": FROZEN, "+ MEM": TRAINED}, True),
        ({"fusion baseline": FROZEN, "+ AVEL": TRAINED}, False),
        ({"fusion baseline": TRAINED, "+ AVEL": FROZEN}, False),
        ({"fusion baseline": {}, "+ AVEL": {}}, False),
        ({"fusion baseline": FROZEN, "+ AVEL + MEM": FROZEN}, False),
        ({"+ AVEL": FROZEN, "+ MEM": FROZEN}, False),
    ],
)
def test_equal_rows_of_a_frozen_encoder_are_explained(tmp_path, rows, shown):
    for name, flags in rows.items():
        write_ablation(tmp_path, [name], folds=2, size=12, flags=flags)
    (experiment,), _ = load(tmp_path)
    assert (SENTENCE in explain_table(experiment, None).text) == shown


def test_the_explanation_is_on_the_page(tmp_path):
    write_ablation(tmp_path, ["fusion baseline", "+ AVEL"], folds=2, size=12, flags=FROZEN)
    report.main([str(tmp_path), "--resamples", "100", "--tsne_points", "0"])
    for name in ("report.md", "report.html"):
        assert SENTENCE in (tmp_path / "report" / name).read_text(encoding="utf-8")


def test_one_fold_that_trained_the_encoder_is_enough(tmp_path):
    write_ablation(tmp_path, ["fusion baseline", "+ AVEL"], folds=2, size=12, flags=FROZEN)
    args = tmp_path / "avel" / "seed1234" / "session2" / "args.json"
    args.write_text(args.read_text().replace('"freeze_encoder": true', '"freeze_encoder": false'))
    (experiment,), _ = load(tmp_path)
    assert SENTENCE not in explain_table(experiment, None).text
