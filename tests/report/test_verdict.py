"""The verdict on the paper: intervals and equivalence against scipy, what is left out, and what people send back."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from corpus.iemocap_counts import RELEASE_COUNTS
from report.page import Table, Text
from report.paper import PAPER
from report.verdict import judge, judge_rows, show_verdict, write_verdict
from run_folders import draw_predictions, load, write_ablation, write_run

ROOT = Path(__file__).parents[2]
ACCURACY = {"video only": 0.45, "+ AVEL": 0.79, "+ AVEL + MEM": 0.80}
FOLDERS = {"video only": "video", "+ AVEL": "avel", "+ AVEL + MEM": "both"}


def write_iemocap(root, systems, seeds, folds=(1, 2, 3, 4, 5), **more):
    """Runs with IEMOCAP's counts in every session and class, right about as often as the paper."""
    counts = RELEASE_COUNTS.assign(hap=RELEASE_COUNTS["hap"] + RELEASE_COUNTS["exc"])[["hap", "neu", "sad", "ang"]]
    for system in systems:
        for seed in seeds:
            for fold in folds:
                labels = np.repeat(range(4), counts.loc[f"session{fold}"])
                utt_ids = [f"Ses0{fold}F_impro01_F{i:04d}" for i in range(len(labels))]
                rng = np.random.default_rng([seed, fold, len(system)])
                predictions = draw_predictions(labels, ACCURACY[system], 4, rng)
                folder = root / "secret" / FOLDERS[system] / f"seed{seed}" / f"session{fold}"
                write_run(folder, utt_ids, labels, predictions, system, seed=seed, **more)
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """+ AVEL + MEM with three seeds, the third without a fold; + AVEL with one seed; both whole otherwise."""
    root = write_iemocap(tmp_path_factory.mktemp("someone"), ["+ AVEL + MEM"], (1, 2))
    write_iemocap(root, ["+ AVEL + MEM"], (3,), folds=(1, 2, 3, 4))
    return write_iemocap(root, ["+ AVEL"], (1,))


@pytest.fixture(scope="module")
def experiment(runs):
    (experiment,), _ = load(runs)
    return experiment


def read_results(root, folder, metric):
    """{seed: scores by fold, points}."""
    found = {}
    for path in sorted((root / "secret" / folder).rglob("result.json")):
        result = json.loads(path.read_text())
        found.setdefault(result["seed"], []).append(100 * result[metric])
    return found


def check(row, values, paper):
    """By scipy, and by the rule that ±1 is shown where the 90 % interval lies within it."""
    n, mean, error = len(values), np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
    low, high = mean - t.ppf(0.975, n - 1) * error, mean + t.ppf(0.975, n - 1) * error
    p = max(
        ttest_1samp(values, paper - 1, alternative="greater").pvalue,
        ttest_1samp(values, paper + 1, alternative="less").pvalue,
    )
    inner = mean - t.ppf(0.95, n - 1) * error > paper - 1 and mean + t.ppf(0.95, n - 1) * error < paper + 1
    assert [row[key] for key in ("mean", "low", "high", "p")] == pytest.approx([mean, low, high, p])
    assert (row["within"], row["equivalent"]) == (low <= paper <= high, inner)


@pytest.mark.parametrize(("metric", "column"), [("ua", 0), ("wa", 1)])
def test_the_verdict_is_over_seeds_or_else_over_sessions(runs, experiment, metric, column):
    rows = {row["row"]: row for row in judge_rows(experiment) if row["metric"] == metric}
    assert list(rows) == ["+ AVEL", "+ AVEL + MEM"]
    seeds = read_results(runs, "both", metric)
    means = [np.mean(seeds[1]), np.mean(seeds[2])]  # the third lacks a fold
    (sessions,) = read_results(runs, "avel", metric).values()
    for name, unit, values in (("+ AVEL + MEM", "seed", means), ("+ AVEL", "session", sessions)):
        assert (rows[name]["unit"], rows[name]["n"]) == (unit, len(values))
        assert rows[name]["values"] == pytest.approx(values)
        assert rows[name]["paper"] == PAPER[name][column]
        check(rows[name], values, PAPER[name][column])


@pytest.mark.parametrize("spread", [0.1, 0.5, 3])
@pytest.mark.parametrize("shift", [-1.5, -0.7, 0, 0.3, 1])
def test_all_four_answers_equal_scipy(spread, shift):
    for n in (2, 3, 5, 10):
        values = 80 + shift + spread * np.random.default_rng(n).normal(size=n)
        check(judge(list(values), 80.0), values, 80.0)


def test_the_four_answers():
    answers = {
        "precise": [80.0, 80.1, 79.9, 80.05],
        "noisy": [76.0, 84.0, 79.0, 81.0],
        "near": [80.5, 80.51, 80.52, 80.5],
        "apart": [83.0, 83.1, 82.9, 83.2],
    }
    found = {name: judge(values, 80.0) for name, values in answers.items()}
    found = {name: (verdict["within"], verdict["equivalent"]) for name, verdict in found.items()}
    assert found == {"precise": (True, True), "noisy": (True, False), "near": (False, True), "apart": (False, False)}


def test_without_spread_and_with_one_value():
    verdict = judge([80.5, 80.5, 80.5], 80.0)
    assert (verdict["low"], verdict["high"], verdict["within"], verdict["equivalent"]) == (80.5, 80.5, False, True)
    assert judge([82.0, 82.0], 80.0)["equivalent"] is False
    assert judge([81.0, 81.0], 80.0)["equivalent"] is False
    alone = judge([80.0], 80.0)
    assert alone == {"mean": 80.0, "low": None, "high": None, "within": None, "p": None, "equivalent": None}


def test_one_value_is_not_testable(tmp_path):
    utt_ids, labels = [f"u{i}" for i in range(5531)], np.arange(5531) % 4
    write_run(tmp_path / "r" / "session1", utt_ids, labels, labels)
    (experiment,), _ = load(tmp_path)
    (table,) = (block for block in show_verdict(experiment) if isinstance(block, Table))
    cells = table.frame.iloc[0]
    assert cells[["mean", "95 %", "over", "paper's within", "within ±1 point", "p"]].tolist() == [
        *("100.00", "–", "1 session", "not testable", "not testable", "–")
    ]
    assert write_verdict([experiment], tmp_path / "verdict.json")


def test_the_blocks_say_what_the_rows_say(experiment):
    heading, summary, table, note = show_verdict(experiment)
    rows = judge_rows(experiment)
    assert heading.text == "The verdict on the paper"
    agree, contain = (sum(row[key] for row in rows if row["metric"] == "ua") for key in ("equivalent", "within"))
    assert summary.text.startswith(f"UA of 2 rows: {agree} shown to be within ±1 point of the paper's, {contain} with")
    assert len(table.frame) == len(rows) == 4
    for row, (_, cells) in zip(rows, table.frame.iterrows(), strict=True):
        assert cells["ours, paper protocol"] == row["name"]
        assert cells["95 %"] == f"[{row['low']:.2f}, {row['high']:.2f}]"
        assert cells["over"] == f"{row['n']} {row['unit']}s"
        assert cells["paper's within"] == ("yes" if row["within"] else "no")
        assert cells["within ±1 point"] == ("shown" if row["equivalent"] else "not shown")
    assert "+ AVEL + MEM: seed 3 left out" in note.text
    assert "+ AVEL: seed" not in note.text
    assert "protocol" not in note.text


def test_only_iemocap_is_judged(tmp_path):
    write_ablation(tmp_path, ["+ AVEL"], folds=2, size=12)
    (experiment,), _ = load(tmp_path)
    assert judge_rows(experiment) == []
    assert show_verdict(experiment) == []
    path = tmp_path / "verdict.json"
    path.write_text("of an earlier report")
    assert not write_verdict([experiment], path)
    assert not path.exists()


def test_another_protocol_and_weights_are_said(tmp_path):
    utt_ids, labels = [f"u{i}" for i in range(5531)], np.arange(5531) % 4
    strict = {"protocol": "strict", "reported": "test"}
    write_run(tmp_path / "a" / "session1", utt_ids, labels, labels, **strict)
    write_run(tmp_path / "b" / "session1", utt_ids, labels, labels, **strict, mem_weight=0.5)
    (experiment,), _ = load(tmp_path)
    note = [block for block in show_verdict(experiment) if isinstance(block, Text)][-1].text
    assert "of the strict protocol" in note
    assert "+ AVEL + MEM (MEM x 0.5): not judged" in note


def test_what_people_send_back_tells_nothing_of_them(runs, experiment, tmp_path):
    path = tmp_path / "verdict.json"
    assert write_verdict([experiment], path)
    content = json.loads(path.read_text(encoding="utf-8"))
    (verdict,) = content["verdicts"]
    assert (content["margin"], content["level"]) == (1.0, 0.05)
    assert (verdict["protocol"], verdict["utterances"]) == ("paper", 5531)
    for row, judged in zip(verdict["rows"], judge_rows(experiment), strict=True):
        assert row == {k: v for k, v in judged.items() if k != "name"} | {
            k: pytest.approx(judged[k], abs=1e-4) for k in ("mean", "low", "high", "p", "values")
        }
    assert verdict["commits"] == ["0123456789abcdef"]
    assert verdict["versions"] == [{"python": "3.11.7", "torch": "2.11.0"}]
    assert verdict["hardware"] == [{"machine": None, "processor": "any", "cores": 2, "gpus": []}]
    assert verdict["settings"] == [{"lr": 1e-4, "epochs": 3}]
    for private in ("secret", "someone", str(runs), "/", "Ses0", "session1", ".scp", "train.py"):
        assert private not in path.read_text(encoding="utf-8")


def test_texts_that_people_typed_are_not_sent_back(tmp_path):
    flags = {"audio_model": "/home/jane/wavlm", "data_license": "Jane's", "scheduler": "cosine", "num_workers": 4}
    utt_ids, labels = [f"u{i}" for i in range(5531)], np.arange(5531) % 4
    for name, model in (("jane", flags["audio_model"]), ("other", "microsoft/wavlm-large")):
        run = write_run(tmp_path / name / "s", utt_ids, labels, labels, flags={**flags, "audio_model": model})
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**environment, "git_commit": "Jane's tree", "host": "jane"}))
    experiments, _ = load(tmp_path)
    assert "jane" in experiments[0].systems[0].name  # two rows of a kind are told apart by their folders
    write_verdict(experiments, tmp_path / "verdict.json")
    text = (tmp_path / "verdict.json").read_text()
    (verdict,) = json.loads(text)["verdicts"]
    assert "jane" not in text.lower()
    assert [settings["audio_model"] for settings in verdict["settings"]] == ["other", "microsoft/wavlm-large"]
    assert {settings["scheduler"] for settings in verdict["settings"]} == {"cosine"}
    assert verdict["commits"] == ["0123456789abcdef", None]


STAND_IN = """#!/bin/sh
printf '%s %s\\n' "$(basename "$0")" "$*" >>"$CALLS"
printf 'MANIFEST=%s\\n' "$MANIFEST" >>"$CALLS"
"""


def reproduce(tmp_path, *arguments, **environment):
    environment = {**os.environ, "VENV": str(tmp_path), "CALLS": str(tmp_path / "calls"), **environment}
    command = ["bash", str(ROOT / "scripts" / "reproduce.sh"), *map(str, arguments)]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)


def write_stand_ins(folder, text):
    (folder / "bin").mkdir()
    for name in ("python", "accelerate"):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)


def test_reproduce_is_the_three_commands_and_the_verdict(tmp_path):
    write_stand_ins(tmp_path, STAND_IN)
    out, root = tmp_path / "my out", tmp_path / "IEMOCAP full"
    for path in (root, out / "iemocap" / "folds" / "paper", out / "runs" / "report"):
        path.mkdir(parents=True)
    for path in ("manifest.csv", "folds/paper/session1_train.scp", "folds/paper/session1_valid.scp"):
        (out / "iemocap" / path).write_text("")
    text = "# R\n\n### Folds\n\nbefore\n\n### The verdict on the paper\n\nit is so\n\n### Confusion\n\nafter\n"
    (out / "runs" / "report" / "report.md").write_text(text)
    process = reproduce(tmp_path, root.name, out.name, ROWS="both", JOBS="3")
    assert process.returncode == 0, process.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[::2] == [
        f"python -m scripts.prepare_iemocap --iemocap_root {root} --out {out}/iemocap",
        f"accelerate launch -m scripts.extract_clip --manifest {out}/iemocap/manifest.csv --rows 112:368 --half "
        f"--out {out}/features",
        f"python {ROOT}/scripts/run_jobs.py --jobs 3",
    ]
    assert calls[-1] == f"MANIFEST={out}/iemocap/manifest.csv"
    assert "\n### The verdict on the paper\n\nit is so\n" in process.stdout
    assert "before" not in process.stdout
    assert "after" not in process.stdout
    assert process.stdout.count("\n$ ") == 3


def test_reproduce_stops_where_a_command_fails(tmp_path):
    write_stand_ins(tmp_path, f"{STAND_IN}exit 3\n")
    process = reproduce(tmp_path, tmp_path, "new/out")
    assert process.returncode == 3
    assert process.stdout.count("\n$ ") == 1
    assert f"--out {tmp_path}/new/out/iemocap" in (tmp_path / "calls").read_text()


def test_reproduce_names_what_is_missing(tmp_path):
    for arguments, message in (((), "usage"), (("nowhere",), "nowhere: no such folder"), (("a", "b", "c"), "usage")):
        process = reproduce(tmp_path, *arguments)
        assert process.returncode == 2
        assert message in process.stderr
    assert not list(tmp_path.iterdir())
