"""cross_validate.sh and ablation.sh: which folds run with which flags, what is skipped, what stops them."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny import write_corpus, write_wavlm

ROOT = Path(__file__).parents[2]
VENV = str(Path(sys.executable).parent.parent)
STAND_IN = """
import json, os, sys, time
from pathlib import Path
flags = sys.argv[2:]
assert sys.argv[1].endswith("train.py")
value = lambda name: flags[flags.index(name) + 1]
folder = Path(value("--save_root"))
with open("calls.jsonl", "a") as file:
    file.write(json.dumps([flags, os.environ.get("CUDA_VISIBLE_DEVICES"), time.time()]) + "\\n")
print("\\rbar 1\\rbar 2\\r     \\rEpoch: 1 | of", folder, flush=True)
if os.environ.get("BAD") == folder.name:
    sys.exit("something broke")
try:
    time.sleep(float(os.environ.get("SECONDS_EACH", 0)))
except KeyboardInterrupt:
    time.sleep(0.2)
    print("last words", flush=True)
    sys.exit(130)
split, protocol = ("test", "strict") if "--test_src" in flags else ("valid", "paper")
lines = [f"{folder.name}_{i},{name},{name}\\n" for i, name in enumerate(["hap", "sad"] * 4)]
(folder / f"predictions_{split}.csv").write_text("utt_id,label,prediction\\n" + "".join(lines))
result = dict(protocol=protocol, reported=split, modality="av", labels=["hap", "sad"], avel_weight=1.0, mem_weight=0.1)
result.update(seed=int(value("--seed")), confusion=[[4, 0], [0, 4]], best_epoch=1, epochs=1)
result.update(ua=1.0, wa=1.0, macro_f1=1.0)
(folder / "result.json").write_text(json.dumps(result))
"""
NO_REPORT = f"""#!/bin/sh
case "$*" in
  *report.py*) printf '%s\\n' "$*" >>reports.txt ;;
  */train.py*) printf '%s\\n' "$*" >>launches.txt ;;
  *) exec {shlex.quote(sys.executable)} "$@" ;;
esac
"""


@pytest.fixture
def place(tmp_path):
    """A working directory with a space in its name, lists of three folds and a stand-in for the launcher."""
    folder = tmp_path / "a place"
    folds = folder / "folds"
    folds.mkdir(parents=True)
    for fold in (1, 2, 3):
        for split in ("train", "valid"):
            (folds / f"session{fold}_{split}.scp").write_text("u a.wav hap\n")
    (folder / "stand_in.py").write_text(STAND_IN)
    python = folder / "no report" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(NO_REPORT)
    python.chmod(0o755)
    return folder


def start(place, *arguments, script="cross_validate", **environment):
    environment = {"LAUNCH": f"{sys.executable} stand_in.py", **environment}
    return subprocess.Popen(
        ["bash", str(ROOT / "scripts" / f"{script}.sh"), *map(str, arguments)],
        cwd=place,
        env={**os.environ, "VENV": str(place / "no report"), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(place, *arguments, **environment):
    """Returns: exit code, stdout, stderr."""
    process = start(place, *arguments, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def read_calls(place):
    lines = (place / "calls.jsonl").read_text().splitlines() if (place / "calls.jsonl").exists() else []
    return [json.loads(line) for line in lines]


def test_every_fold_and_seed_runs_and_the_table_is_printed(place):
    code, out, err = run(
        place, "folds", "out put", "--label_map", "exc=hap, fru=ang", "--lr=3e-4", SEEDS="1 2", VENV=VENV
    )
    assert code == 0, err
    calls = [flags for flags, *_ in read_calls(place)]
    expected = [
        ["--train_src", f"folds/session{fold}_train.scp", "--valid_src", f"folds/session{fold}_valid.scp"]
        + [
            "--seed",
            str(seed),
            "--save_root",
            f"out put/seed{seed}/session{fold}",
            "--resume",
            "--label_map",
            "exc=hap, fru=ang",
            "--lr=3e-4",
        ]
        for seed in (1, 2)
        for fold in (1, 2, 3)
    ]
    assert calls == expected
    assert "100.00 ± 0.00" in out
    assert "paper" in out
    assert "Epoch: 1 | of out put/seed2/session3" in err
    assert (place / "out put/seed2/session3/launch.log").read_text() == "Epoch: 1 | of out put/seed2/session3\n"


def test_finished_folds_are_skipped(place):
    assert run(place, "folds", "out")[0] == 0
    (place / "out/seed1234/session2/result.json").unlink()
    (place / "calls.jsonl").unlink()
    code, _, err = run(place, "folds", "out")
    assert code == 0
    assert [Path(flags[flags.index("--save_root") + 1]).name for flags, *_ in read_calls(place)] == ["session2"]
    assert "out/seed1234/session1: finished before, skipped" in err
    assert "out/seed1234/session3: finished before, skipped" in err


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_default_launch_is_one_process_without_a_launcher(place, jobs):
    assert run(place, "folds", "out", LAUNCH="", JOBS=jobs)[0] == 0
    launches = (place / "launches.txt").read_text().splitlines()
    assert [line.startswith(str(ROOT / "train.py")) for line in launches] == [True] * 3


def finish(place, args, command=""):
    """Leave a finished session1 in out/, trained with these args."""
    folder = place / "out/seed1234/session1"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    (folder / "args.json").write_text(json.dumps(args))
    (folder / "environment.json").write_text(json.dumps({"command": command}))


ARGS = {"lr": 1e-4, "epochs": 16, "normalize_audio": True, "modality": "av", "video_root": "data/features"}
ARGS |= {"train_src": "folds/session1_train.scp", "test_src": None, "labels": ["hap", "sad"], "num_workers": 4}
ARGS |= {"freeze_encoder": False, "mixed_precision": "auto", "label_map": {"exc": "hap"}, "encoder_lr": None}


@pytest.mark.parametrize(
    ("flags", "then", "now"),
    [
        (["--lr", "3e-4"], "--lr 0.0001", "--lr 3e-4"),
        (["--lr=3e-4"], "--lr 0.0001", "--lr 3e-4"),
        (["--epoch", "17"], "--epochs 16", "--epochs 17"),
        (["--normalize_audio", "no"], "--normalize_audio True", "--normalize_audio no"),
        (["--freeze_encoder"], "--freeze_encoder False", "--freeze_encoder True"),
        (["--modality", "a"], "--modality av", "--modality a"),
        (["--video_root", "data/others"], "--video_root data/features", "--video_root data/others"),
        (["--labels", "sad", "hap"], "--labels hap sad", "--labels sad hap"),
        (["--label_map", "exc=sad"], "--label_map exc=hap", "--label_map exc=sad"),
        (["--encoder_lr", "1e-5"], "without --encoder_lr", "--encoder_lr 1e-5"),
        (["--lr", "1e-4", "--lr", "x"], "--lr 0.0001", "--lr x"),
    ],
)
def test_a_fold_finished_with_other_flags_is_refused(place, flags, then, now):
    finish(place, ARGS)
    code, out, err = run(place, "folds", "out", *flags)
    assert code == 2
    assert err.splitlines() == [
        f"error: out/seed1234/session1: finished before {'' if then.startswith('without') else 'with '}{then}, "
        f"now asked for with {now}; name another SAVE_ROOT, or remove this folder to train it again"
    ]
    assert not read_calls(place)
    assert out == ""


def test_a_fold_finished_on_another_protocol_is_refused(place):
    finish(place, ARGS)
    for fold in (1, 2, 3):
        (place / "folds" / f"session{fold}_test.scp").write_text("u a.wav hap\n")
    code, _, err = run(place, "folds", "out")
    assert code == 2
    assert "finished before without --test_src, now asked for with --test_src folds/session1_test.scp" in err


def test_a_fold_finished_with_a_flag_that_is_left_out_now_is_refused(place):
    finish(place, ARGS, "python train.py --train_src folds/session1_train.scp --lr 1e-4 --num_workers 2")
    code, _, err = run(place, "folds", "out")
    assert code == 2
    assert "session1: finished before with --lr 0.0001, now asked for without --lr" in err


def test_the_same_flags_in_other_words_are_those_of_the_finished_fold(place):
    finish(place, ARGS, "python train.py --train_src folds/session1_train.scp --lr 1e-4 --normalize_audio")
    same = ["--lr=1E-4", "--epochs", "16", "--normalize_audio", "--video_root", "./data/features/", "--num_workers=0"]
    same += ["--labels", "hap", "sad", "--label_map", " exc = hap ", "--report_to", "none"]
    launch = f"{sys.executable} stand_in.py"
    code, _, err = run(place, "folds/", "out", *same, LAUNCH=launch)
    assert code == 0, err
    assert "out/seed1234/session1: finished before, skipped" in err
    assert len(read_calls(place)) == 2


def test_the_commands_can_be_printed(place):
    script = ROOT / "scripts/cross_validate.sh"
    words = ["bash", script, "--print", "folds", "out put", "--label_map", "exc=hap, fru=ang"]
    lines = subprocess.run(words, cwd=place, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [shlex.split(line)[-7:] for line in lines] == [
        ["--seed", "1234", "--save_root", f"out put/seed1234/session{fold}", "--resume"]
        + ["--label_map", "exc=hap, fru=ang"]
        for fold in (1, 2, 3)
    ]
    assert not (place / "out put").exists()


def test_names_survive_any_locale(place):
    code, _, err = run(place, "folds", "grüße $HOME 'x'", "--label_map", "", LC_ALL="C")
    assert code == 0, err
    assert {flags[flags.index("--save_root") + 1] for flags, *_ in read_calls(place)} == {
        f"grüße $HOME 'x'/seed1234/session{fold}" for fold in (1, 2, 3)
    }
    assert {flags[-1] for flags, *_ in read_calls(place)} == {""}


def test_the_strict_protocol_names_its_test_list(place):
    for fold in (1, 2, 3):
        (place / "folds" / f"session{fold}_test.scp").write_text("u a.wav hap\n")
    assert run(place, "folds", "out")[0] == 0
    for (flags, *_), fold in zip(read_calls(place), (1, 2, 3), strict=True):
        assert flags[flags.index("--test_src") + 1] == f"folds/session{fold}_test.scp"


def test_a_failing_fold_stops_with_its_name_and_log(place):
    code, out, err = run(place, "folds", "out", BAD="session2")
    assert code == 1
    assert "error: out/seed1234/session2 failed with code 1; see out/seed1234/session2/launch.log" in err
    assert "something broke" in (place / "out/seed1234/session2/launch.log").read_text()
    assert len(read_calls(place)) == 2  # no third
    assert out == ""


def test_jobs_share_the_gpus_in_turn(place):
    code, *_ = run(place, "folds", "out", JOBS="2", CUDA_VISIBLE_DEVICES="4,7", SECONDS_EACH="1.5")
    assert code == 0
    calls = sorted(read_calls(place), key=lambda call: call[2])
    assert {device for _, device, _ in calls[:2]} == {"4", "7"}
    assert {device for _, device, _ in calls} == {"4", "7"}
    assert calls[1][2] - calls[0][2] < 1.5 < calls[2][2] - calls[0][2]  # two at a time


def test_one_job_leaves_the_devices_alone(place):
    assert run(place, "folds", "out", CUDA_VISIBLE_DEVICES="4,7")[0] == 0
    assert {device for _, device, _ in read_calls(place)} == {"4,7"}


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("script", ["cross_validate", "ablation"])
def test_an_interrupt_stops_the_folds(place, script, sent, code):
    process = start(place, "folds", "out", script=script, JOBS="2", SECONDS_EACH="60")
    started = time.monotonic()
    while len(read_calls(place)) < 2 and time.monotonic() < started + 30:
        time.sleep(0.1)
    time.sleep(0.3)
    process.send_signal(sent)
    out, err = process.communicate(timeout=30)  # ends only when nothing holds the pipes any more
    assert process.returncode == code
    assert "interrupted; the same command goes on from here" in err
    assert err.count("last words") == (2 if sent == signal.SIGINT else 0)
    assert len(read_calls(place)) == 2


def test_two_drivers_never_share_a_fold(place):
    first = start(place, "folds", "out", SECONDS_EACH="60")
    while not read_calls(place):
        time.sleep(0.1)
    code, _, err = run(place, "folds", "out")
    first.terminate()
    first.communicate(timeout=30)
    assert code == 3
    assert "out/seed1234/session1: another process is at work on this fold" in err


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["folds"], {}, "usage"),
        (["absent", "out"], {}, "absent: holds no *_train.scp"),
        (["folds", "out", "--seed=3"], {}, "use SEEDS"),
        (["folds", "out", "--save_root", "x"], {}, "--save_root: is set for every fold"),
        (["folds", "out"], {"JOBS": "many"}, "JOBS=many"),
        (["folds", "out"], {"SEEDS": "one"}, "SEEDS=one"),
        (["folds", "out"], {"LAUNCH": "no-such-launcher"}, "no-such-launcher: no such command"),
        (["folds", "out", "--modality", "a"], {"script": "ablation"}, "--modality: is set for every row"),
        (["folds", "out"], {"script": "ablation", "ROWS": "audio sound"}, "sound is not one of"),
    ],
)
def test_bad_arguments_start_nothing(place, arguments, environment, message):
    code, _, err = run(place, *arguments, **environment)
    assert code == 2
    assert message in err
    assert not read_calls(place)


def test_lists_of_mixed_protocols_are_refused(place):
    (place / "folds" / "session1_test.scp").write_text("u a.wav hap\n")
    code, _, err = run(place, "folds", "out")
    assert code == 2
    assert "only 1 of 3 folds have a *_test.scp" in err


def test_the_ablation_trains_its_rows_and_reports(place):
    (place / "my manifest.csv").write_text("id\n")
    code, _, err = run(place, "folds", "out", "--lr", "1", script="ablation", MANIFEST="my manifest.csv")
    assert code == 0, err
    rows = {}
    for flags, *_ in read_calls(place):
        row = Path(flags[flags.index("--save_root") + 1]).parts[1]
        rows.setdefault(row, []).append(flags[flags.index("--resume") + 1 :])
    assert rows == {
        "audio": 3 * ["--lr 1 --modality a".split()],
        "video": 3 * ["--lr 1 --modality v".split()],
        "baseline": 3 * ["--lr 1 --avel_weight 0 --mem_weight 0".split()],
        "avel": 3 * ["--lr 1 --mem_weight 0".split()],
        "mem": 3 * ["--lr 1 --avel_weight 0".split()],
        "both": 3 * ["--lr 1".split()],
    }
    reports = (place / "reports.txt").read_text().splitlines()
    assert len(reports) == 7
    assert reports[-1].endswith("scripts/report.py out --out out/report --manifest my manifest.csv")


def test_the_ablation_trains_the_chosen_rows(place):
    assert run(place, "folds", "out", script="ablation", ROWS="both audio")[0] == 0
    assert [line.split()[1] for line in (place / "reports.txt").read_text().splitlines()] == [
        "out/both",
        "out/audio",
        "out",
    ]


def test_the_real_training(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", train=8, valid=5, test=5)
    wavlm = write_wavlm(tmp_path / "wavlm")
    folds = tmp_path / "folds"
    folds.mkdir()
    (folds / "session1_train.scp").write_text((corpus / "train.scp").read_text())
    (folds / "session1_valid.scp").write_text((corpus / "valid.scp").read_text())
    flags = ["--video_root", corpus / "features", "--audio_model", wavlm, "--epochs", 1, "--num_workers", 0]
    launch = f"{Path(sys.executable).parent / 'accelerate'} launch --cpu --num_processes 1"
    code, out, err = run(tmp_path, folds, "runs", *flags, LAUNCH=launch, VENV=VENV)
    assert code == 0, err
    result = json.loads((tmp_path / "runs/seed1234/session1/result.json").read_text())
    assert f" {100 * result['ua']:.2f} |" in out
    assert "Epoch: 1 | Train_loss" in (tmp_path / "runs/seed1234/session1/launch.log").read_text()
