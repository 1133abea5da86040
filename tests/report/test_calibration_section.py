"""The section of the probabilities: no temperature sees what it is judged on, and what can't be said is not shown."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax

from report.calibration import calibrate, show_calibration
from report.page import render_markdown
from report.runs import find_runs
from run_folders import LABELS, draw_labels, load, write_ablation, write_run
from running.calibration import fit_temperature
from running.errors import InputError

COLUMNS = [f"prob_{name}" for name in LABELS]


def read(path):
    """Logits and labels of a file of predictions."""
    table = pd.read_csv(path)
    return np.log(table[COLUMNS].to_numpy()), table["label"].map(LABELS.index).to_numpy()


def fit(paths):
    logits, labels = (np.concatenate(parts) for parts in zip(*map(read, paths), strict=True))
    return fit_temperature(logits, labels)


def relabel(path):
    """Make every prediction of a file wrong."""
    table = pd.read_csv(path)
    table["label"] = [LABELS[(LABELS.index(name) + 1) % 4] for name in table["prediction"]]
    table.to_csv(path, index=False)


def temperatures(root):
    (experiment,), _ = load(root)
    return calibrate(experiment.systems[0]).temperatures


def make(root):
    """The section alone, as Markdown."""
    (experiment,), _ = load(root)
    return render_markdown("title", show_calibration(experiment, "", 0))


def read_row(text, name):
    """The cells of a system in the section of the probabilities."""
    section = text[text.index("Can the probabilities be believed?") :]
    line = next(line for line in section.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_fold_of_the_paper_protocol_takes_the_other_folds_of_its_seed(tmp_path):
    root = write_ablation(tmp_path, ["+ AVEL"], folds=3, seeds=(1, 2))
    files = {seed: sorted(root.glob(f"avel/seed{seed}/*/predictions_valid.csv")) for seed in (1, 2)}
    expected = [fit(paths[:k] + paths[k + 1 :]) for paths in files.values() for k in range(3)]
    assert len(set(expected)) == 6
    assert temperatures(root) == pytest.approx(expected, rel=1e-6)


def test_an_utterance_of_two_folds_fits_neither_of_them(tmp_path):
    for fold, ids in {"a": range(40), "b": range(30, 70), "c": range(60, 100)}.items():
        utt_ids = [f"u{i}" for i in ids]
        labels = draw_labels(utt_ids)
        write_run(tmp_path / fold, utt_ids, labels, np.where(np.arange(40) % 3, labels, 3 - labels), seed=5)
    a, b, c = (read(tmp_path / fold / "predictions_valid.csv") for fold in "abc")
    parts = [((b, slice(10, 40)), (c, slice(0, 40))), ((a, slice(0, 30)), (c, slice(10, 40)))]
    parts.append(((a, slice(0, 40)), (b, slice(0, 30))))
    expected = [
        fit_temperature(*(np.concatenate([part[k][rows] for part, rows in pair]) for k in (0, 1))) for pair in parts
    ]
    assert temperatures(tmp_path) == pytest.approx(expected, rel=1e-6)


def test_the_strict_protocol_takes_the_list_that_chose_the_epoch(tmp_path):
    root = write_ablation(tmp_path, ["+ AVEL"], folds=2, protocol="strict", reported="test")
    expected = [fit([path]) for path in sorted(root.glob("avel/*/*/predictions_valid.csv"))]
    assert temperatures(root) == pytest.approx(expected, rel=1e-6)
    relabel(sorted(root.glob("avel/*/*/predictions_valid.csv"))[0])
    assert temperatures(root)[0] > 1.5 * expected[0]
    assert temperatures(root)[1] == pytest.approx(expected[1], rel=1e-6)
    text = make(root)
    assert "fitted on the list that chose its epoch" in text


def test_the_table_equals_a_count_by_hand(ablation):
    text = (ablation / "report" / "report.md").read_text(encoding="utf-8")
    files = sorted(ablation.glob("both/*/*/predictions_valid.csv"))
    fitted = [fit(files[:k] + files[k + 1 :]) for k in range(5)]
    cells = read_row(text, "+ AVEL + MEM")
    for number, divisors in ((0, [1] * 5), (1, fitted)):
        errors, losses, squares = {}, [], []
        for path, t in zip(files, divisors, strict=True):
            logits, labels = read(path)
            logs = log_softmax(logits / t, axis=1)
            for row, label in zip(logs, labels, strict=True):
                p = np.exp(row)
                errors.setdefault(int(np.ceil(p.max() * 15)), []).append(float(p.argmax() == label) - p.max())
                losses.append(-row[label])
                squares.append(sum((p[c] - (c == label)) ** 2 for c in range(4)))
        ece = sum(abs(sum(gaps)) for gaps in errors.values()) / 150
        assert float(cells[1 + number]) == pytest.approx(100 * ece, abs=0.006)
        assert float(cells[4 + number]) == pytest.approx(np.mean(losses), abs=6e-4)
        assert float(cells[6 + number]) == pytest.approx(np.mean(squares), abs=6e-4)
    assert cells[8] == f"{np.mean(fitted):.2f} [{min(fitted):.2f}, {max(fitted):.2f}]"
    assert text.count("(pictures/reliability_") == 6
    assert "on the reported utterances of the other folds with its seed and never on its own" in text


def test_one_fold_has_no_temperature(tmp_path):
    text = make(write_ablation(tmp_path, ["+ AVEL"], folds=1))
    assert "+ AVEL: no temperature, since a fold takes it from the other folds of its seed" in text
    cells = read_row(text, "+ AVEL")
    assert [cells[i] for i in (2, 5, 7, 8)] == ["–"] * 4
    assert float(cells[1]) > 0
    assert "reliability_0.png" in text


def test_a_strict_run_without_its_other_list_has_no_temperature(tmp_path):
    root = write_ablation(tmp_path, ["+ AVEL"], folds=2, protocol="strict", reported="test")
    next(root.rglob("predictions_valid.csv")).unlink()
    assert "+ AVEL: no temperature, a run has no probabilities of the list that chose its epoch" in make(root)


def drop_column(table):
    return table.drop(columns="prob_sad")


def make_one_hot(table):
    return table.assign(**{f"prob_{name}": (table["prediction"] == name).astype(float) for name in LABELS})


@pytest.mark.parametrize(
    ("change", "reason"), [(drop_column, "lack a prob_ column"), (make_one_hot, "hold no probability but 0 and 1")]
)
def test_without_probabilities_nothing_is_shown(tmp_path, change, reason):
    root = write_ablation(tmp_path, ["audio only", "+ AVEL"], folds=2)
    path = next(root.rglob("avel/*/*/predictions_valid.csv"))
    change(pd.read_csv(path)).to_csv(path, index=False)
    text = make(root)
    assert f"+ AVEL: its predictions {reason}" in text
    assert text.count("(pictures/reliability_") == 1
    assert read_row(text, "audio only")
    for other in root.rglob("audio/*/*/predictions_valid.csv"):
        change(pd.read_csv(other)).to_csv(other, index=False)
    text = make(root)
    assert text.count("(pictures/reliability_") == 0
    assert reason in text


@pytest.mark.parametrize(("value", "message"), [("x", "is not a number"), ("0.9", "sum to"), ("nan", "sum to nan")])
def test_damaged_probabilities_are_named(tmp_path, value, message):
    root = write_ablation(tmp_path, ["+ AVEL"], folds=1)
    path = next(root.rglob("predictions_valid.csv"))
    table = pd.read_csv(path, dtype=str)
    table.loc[3, "prob_sad"] = value
    table.to_csv(path, index=False)
    with pytest.raises(InputError, match=f"predictions_valid.csv: .*{message}"):
        find_runs(root)
