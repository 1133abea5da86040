"""The report: numbers against hand computation, nothing averaged that must not be, one file without a network."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from report.comparison import compare_systems
from report.runs import find_problems, find_runs, group_runs, name_system
from report.significance import (
    adjust_holm,
    compare_mcnemar,
    count_hits,
    percentile_interval,
    resample_scores,
    score_counts,
)
from run_folders import LABELS, SYSTEMS, draw_labels, draw_predictions, write_ablation, write_run
from running.errors import InputError
from running.pictures import plot_confusion, plot_curves
from scripts import report


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """Six systems, five folds, and their report."""
    root = write_ablation(tmp_path_factory.mktemp("runs"))
    report.main([str(root), "--resamples", "500", "--tsne_points", "20"])
    return root


def read_predictions(root, folder, seed="*"):
    files = sorted((root / folder).glob(f"seed{seed}/*/predictions_*.csv"))
    return [pd.read_csv(path) for path in files]


def load(root):
    runs, unfinished = find_runs(root)
    experiments = group_runs(runs, root)
    return experiments, find_problems(experiments, unfinished)


def test_the_table_equals_scikit_learn(ablation):
    table = pd.read_csv(ablation / "report" / "report.csv").set_index("system")
    assert list(table.index) == list(SYSTEMS)
    for system, (folder, *_) in SYSTEMS.items():
        folds = read_predictions(ablation, folder)
        together = pd.concat(folds)
        ua = [100 * balanced_accuracy_score(fold["label"], fold["prediction"]) for fold in folds]
        wa = [100 * accuracy_score(fold["label"], fold["prediction"]) for fold in folds]
        f1 = 100 * f1_score(together["label"], together["prediction"], average="macro")
        row = table.loc[system]
        expected = [np.mean(ua), np.std(ua, ddof=1), np.mean(wa), np.std(wa, ddof=1), f1]
        found = row[["ua_mean", "ua_std_folds", "wa_mean", "wa_std_folds", "macro_f1_pooled"]]
        assert found.tolist() == pytest.approx(expected, abs=0.006)
        pooled = 100 * balanced_accuracy_score(together["label"], together["prediction"])
        assert row["ua_pooled"] == pytest.approx(pooled, abs=0.006)
        assert row["ua_low_by_utterance"] < row["ua_pooled"] < row["ua_high_by_utterance"]
        text = f"{np.mean(ua):.2f} ± {np.std(ua, ddof=1):.2f}"
        for name in ("report.md", "report.html"):
            assert text in (ablation / "report" / name).read_text(encoding="utf-8")


def test_pooled_is_the_sum_of_the_confusions(ablation):
    (experiment,), _ = load(ablation)
    for system in experiment.systems:
        together = pd.concat(read_predictions(ablation, SYSTEMS[system.name][0]))
        expected = confusion_matrix(together["label"], together["prediction"], labels=LABELS)
        assert system.pooled["confusion"] == expected.tolist()


def test_seeds_are_averaged_before_the_std_over_folds(tmp_path):
    root = write_ablation(tmp_path, ["+ AVEL"], folds=3, seeds=(1, 2))
    report.main([str(root), "--out", str(tmp_path / "out"), "--resamples", "100", "--tsne_points", "0"])
    row = pd.read_csv(tmp_path / "out" / "report.csv").iloc[0]
    ua = np.array(
        [
            [
                100 * balanced_accuracy_score(fold["label"], fold["prediction"])
                for fold in read_predictions(root, "avel", s)
            ]
            for s in (1, 2)
        ]
    )
    assert (row["ua_mean"], row["seeds"], row["folds"]) == (pytest.approx(ua.mean(), abs=0.006), 2, 3)
    assert row["ua_std_folds"] == pytest.approx(ua.mean(0).std(ddof=1), abs=0.006)
    assert row["ua_std_seeds"] == pytest.approx(ua.mean(1).std(ddof=1), abs=0.006)
    assert row["utterances"] == 90  # each once, not once a seed


def test_mcnemar_equals_a_hand_count():
    first = np.array([1, 1, 1, 1, 1, 1, 1, 0, 1, 0], bool)
    second = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 0], bool)
    # 6 against 1 of 7: p = 2 * (C(7,0) + C(7,1)) / 2^7
    assert compare_mcnemar(first, second) == (6, 1, pytest.approx(2 * (1 + 7) / 128))
    assert compare_mcnemar(first, first) == (0, 0, 1.0)


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


def test_holm():
    assert adjust_holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert adjust_holm([0.5, 0.9]).tolist() == pytest.approx([1, 1])


def test_the_bootstrap_interval_covers():
    """The interval of 95 % holds the true UA in about 95 of 100 experiments."""
    rng, covered, truth = np.random.default_rng(0), 0, (0.9 + 0.6 + 0.7) / 3
    for i in range(200):
        labels = rng.choice(3, 150, p=[0.5, 0.3, 0.2])
        hits = rng.random(150) < np.array([0.9, 0.6, 0.7])[labels]
        low, high = percentile_interval(resample_scores(count_hits(labels, hits, range(150), 3), 400, i)[:, 0])
        covered += low <= truth <= high
    assert 180 <= covered <= 200


def test_the_bootstrap_draws_utterances():
    """Drawing kinds of utterances equals drawing utterances: same mean and spread of UA as a plain loop."""
    rng = np.random.default_rng(1)
    labels, hits = rng.integers(3, size=60), rng.random(60) < 0.6
    fast = resample_scores(count_hits(labels, hits, range(60), 3), 4000)[:, 0]
    slow = []
    for _ in range(4000):
        chosen = rng.integers(60, size=60)
        slow.append(score_counts(count_hits(labels[chosen], hits[chosen], np.zeros(60), 3))[0, 0])
    assert fast.mean() == pytest.approx(np.mean(slow), abs=0.005)
    assert fast.std() == pytest.approx(np.std(slow), rel=0.08)


def test_speakers_are_drawn_whole():
    labels, speakers = np.zeros(40, int), np.repeat([0, 1, 2, 3], 10)
    sampled = resample_scores(count_hits(labels, speakers < 2, speakers, 1), 300)[:, 0]
    assert set(np.round(4 * sampled, 6)) <= {0, 1, 2, 3, 4}


class Resources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_html_needs_no_network(ablation):
    text = (ablation / "report" / "report.html").read_text(encoding="utf-8")
    parser = Resources()
    parser.feed(text)
    images = [attributes for tag, attributes in parser.tags if tag == "img"]
    assert len(images) >= 6 + 1 + 1 + 6 + 4  # confusions, scores, curves, curves of each, embeddings
    for image in images:
        kind, data = image["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
        assert image["alt"]
    for tag, attributes in parser.tags:
        assert tag not in ("link", "script", "iframe")
        assert not re.match("https?:|//", attributes.get("href", "") or attributes.get("src", ""))
    assert "url(" not in text
    assert "@import" not in text
    markdown = (ablation / "report" / "report.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\((pictures/[^)]+)\)", markdown)
    assert linked
    assert all((ablation / "report" / path).is_file() for path in linked)


def test_names_are_escaped(tmp_path):
    names = ["<b>hap", "neu|x", "sad & co", "ang"]
    root = write_ablation(tmp_path / "runs", ["+ AVEL"], folds=2, size=12, names=names)
    report.main([str(root), "--resamples", "100", "--tsne_points", "0", "--title", "<script>alert(1)</script>"])
    text = (root / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>" not in text
    for line in (root / "report" / "report.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| recall"):
            assert line.replace("\\|", "").count("|") == len(names) + 2


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


def test_what_is_missing_is_said(tmp_path):
    write_ablation(tmp_path / "r", ["audio only", "+ AVEL"], folds=3)
    (tmp_path / "r" / "avel" / "seed1234" / "session2" / "result.json").unlink()
    _, problems = load(tmp_path / "r")
    text = "\n".join(problems)
    assert "session2 is not finished" in text
    assert "+ AVEL, seed 1234: no fold session2" in text
    assert "different utterances" in text


def test_a_fold_that_no_row_has_is_missed_from_its_list(tmp_path):
    for fold in (1, 2, 3):
        (tmp_path / f"session{fold}_train.scp").write_text("")
    utt_ids = [f"u{i}" for i in range(12)]
    labels = draw_labels(utt_ids)
    for fold in (1, 2):
        ids = [f"{fold}{utt_id}" for utt_id in utt_ids]
        source = str(tmp_path / f"session{fold}_train.scp")
        write_run(tmp_path / "runs" / f"session{fold}", ids, labels, labels, train_src=source)
    _, problems = load(tmp_path / "runs")
    assert any("no fold session3" in problem for problem in problems)


def test_differing_flags_and_commits_are_said(tmp_path):
    write_ablation(tmp_path, ["audio only", "+ AVEL"], folds=2)
    path = tmp_path / "avel" / "seed1234" / "session1" / "args.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lr": 3e-4}))
    path = path.with_name("environment.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "git_commit": "fedcba9876543210"}))
    _, problems = load(tmp_path)
    assert any("+ AVEL: runs with different --lr in one row" in problem for problem in problems)
    assert any("different commits" in problem for problem in problems)


def test_runs_of_other_folders_are_other_rows(tmp_path):
    write_ablation(tmp_path / "first", ["+ AVEL"], folds=2)
    write_ablation(tmp_path / "second", ["+ AVEL"], folds=2)
    (experiment,), _ = load(tmp_path)
    assert [system.name for system in experiment.systems] == ["+ AVEL (first/avel)", "+ AVEL (second/avel)"]


def test_the_paper_stands_beside_iemocap_alone(tmp_path, ablation):
    assert (
        "The paper's figures are not shown: these are 150 utterances" in (ablation / "report" / "report.md").read_text()
    )
    utt_ids = [f"u{i}" for i in range(5531)]
    labels = draw_labels(utt_ids)
    predictions = draw_predictions(labels, 0.7, 4, np.random.default_rng(0))
    write_run(tmp_path / "r" / "session1", utt_ids, labels, predictions)
    report.main([str(tmp_path / "r"), "--resamples", "100", "--tsne_points", "0"])
    text = (tmp_path / "r" / "report" / "report.md").read_text(encoding="utf-8")
    assert "paper's UA (paper protocol)" in text
    assert "80.10" in text
    assert "79.45" in text


def test_groups_equal_scikit_learn(tmp_path):
    root = write_ablation(tmp_path / "runs", ["audio only", "+ AVEL"], folds=2)
    table = pd.concat(read_predictions(root, "avel"), ignore_index=True)
    rng = np.random.default_rng(0)
    manifest = pd.DataFrame({"id": table["utt_id"], "path": "a.wav", "label": table["label"]})
    manifest["speaker"], manifest["session"] = table["utt_id"].str[:5], table["utt_id"].str[:5]
    manifest["duration"], manifest["room"] = (
        rng.uniform(1, 8, len(table)).round(2),
        rng.choice(["big", "small"], len(table)),
    )
    manifest.to_csv(tmp_path / "manifest.csv", index=False)
    report.main([str(root), "--manifest", str(tmp_path / "manifest.csv"), "--resamples", "100", "--tsne_points", "0"])
    lines = (root / "report" / "report.md").read_text(encoding="utf-8").splitlines()
    cells = {
        tuple(cell.strip() for cell in line.strip("|").split("|"))[0]: line for line in lines if line.startswith("|")
    }
    rooms = table[manifest["room"] == "big"]
    short = table[manifest["duration"] < 2]
    for name, part in (("big", rooms), ("under 2 s", short)):
        ua = 100 * balanced_accuracy_score(part["label"], part["prediction"])
        assert [cell.strip() for cell in cells[name].strip("|").split("|")][1:4:2] == [str(len(part)), f"{ua:.2f}"]


def test_tsne_is_seeded(ablation):
    path = next((ablation / "both").rglob("embeddings_valid.npz"))
    (first, n), (second, _) = report.project_embeddings(path, 20, 3), report.project_embeddings(path, 20, 3)
    assert (n, len(first)) == (20, 4)
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one[1], other[1])


@pytest.mark.parametrize(
    ("weights", "name"),
    [((1, 0.1), "+ AVEL + MEM"), ((0, 0), "fusion baseline"), ((0.5, 0.1), "+ AVEL + MEM (AVEL x 0.5)")],
)
def test_rows_are_named_by_their_weights(weights, name):
    assert name_system({"modality": "av", "avel_weight": weights[0], "mem_weight": weights[1]}) == name


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


def test_bad_arguments_end_with_code_2(tmp_path, ablation, capsys):
    for arguments, word in (
        ([str(tmp_path / "absent")], "no such folder"),
        ([str(ablation), "--manifest", str(tmp_path / "absent.csv")], "no such file"),
        ([str(ablation), "--resamples", "1"], "--resamples"),
    ):
        with pytest.raises(SystemExit) as end:
            report.main(arguments)
        assert end.value.code == 2
        assert word in capsys.readouterr().err


def test_pictures_take_absent_classes_and_keys(tmp_path):
    plot_confusion(np.array([[3, 1], [0, 0]]), ["a$b", "c$d"], tmp_path / "c.png", title="t")
    plot_curves([{"epoch": 1, "train_loss": 1.0, "valid_recall": {"a": None, "b": 0.5}}], tmp_path / "k.png")
    for name in ("c.png", "k.png"):
        assert Path(tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.new"))
