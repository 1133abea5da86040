"""Whole trainings that are killed, stopped, crowded, starved of disk or fed NaN: nothing is lost, nothing is silent.

KILLS=all kills one process at every file event (minutes); the suite takes a few of them.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from forked import Child, die_at, fork_training, run_ranks
from test_train import fail, fresh_state, list_arguments, read_metrics, read_timeless_metrics

import train
from tiny import write_corpus, write_wavlm

__all__ = ["fresh_state"]
ROOT = Path(train.__file__).parent
FLAGS = {"epochs": 2, "save_every": "1steps"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), train=20, valid=7)


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory):
    """With dropout, layerdrop and SpecAugment: every kind of draw has to go on."""
    draws = {"hidden_dropout": 0.1, "attention_dropout": 0.1, "layerdrop": 0.3, "apply_spec_augment": True}
    return write_wavlm(tmp_path_factory.mktemp("wavlm"), mask_time_prob=0.3, mask_time_length=2, **draws)


def run_child(arguments, event=0):
    """train.py in a process that is killed at its event-th file event inside --save_root. Returns: its exit code."""

    def work():
        die_at(event, read_root(arguments))
        train.main(arguments)

    return Child(work).wait()


def read_root(arguments):
    (root,) = [word.partition("=")[2] for word in arguments if word.startswith("--save_root=")]
    return root


def assert_same_run(root, whole):
    assert read_timeless_metrics(root) == read_timeless_metrics(whole)
    for name in ("best/model.safetensors", "last/model.safetensors", "last/optimizer.safetensors"):
        assert (root / name).read_bytes() == (whole / name).read_bytes(), name
    for name in ("predictions_valid.csv", "result.json"):
        assert (root / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.fixture(scope="module")
def whole(corpus, wavlm, tmp_path_factory):
    """An uninterrupted run."""
    root = tmp_path_factory.mktemp("whole") / "run"
    assert run_child(list_arguments(corpus, wavlm, root, **FLAGS)) == 0
    return root


def test_saving_inside_an_epoch_changes_nothing(corpus, wavlm, whole, tmp_path):
    assert run_child(list_arguments(corpus, wavlm, tmp_path / "run", epochs=2)) == 0
    assert_same_run(tmp_path / "run", whole)


EVENTS = range(1, 2000) if os.environ.get("KILLS") == "all" else (3, 17, 40, 77, 118, 163, 205, 251)


@pytest.mark.parametrize("offset", [0, 5], ids=["again at the same event", "again at another event"])
def test_killed_twice_it_ends_as_the_uninterrupted_run(corpus, wavlm, whole, tmp_path, offset):
    killed = 0
    for event in EVENTS[offset > 0 :: 2] if len(EVENTS) < 100 else EVENTS:
        root = tmp_path / f"{event}"
        arguments = list_arguments(corpus, wavlm, root, **FLAGS)
        if run_child(arguments, event) != -signal.SIGKILL:
            break
        killed += 1
        run_child([*arguments, "--resume"], event + offset)
        if not (root / "result.json").exists():
            assert run_child([*arguments, "--resume"]) == 0
        assert_same_run(root, whole)
        shutil.rmtree(root)
    assert killed >= 3


def run_two(arguments, event=0):
    """The same in two processes, of which the first is killed. Returns: their exit codes, what the first said."""

    def work():
        if os.environ["RANK"] == "0":
            die_at(event, read_root(arguments))
        train.main(arguments)

    ranks = run_ranks(work, 2)
    return [rank.code for rank in ranks], ranks[0].out + ranks[0].err


def test_two_processes_killed_inside_an_epoch_end_as_the_uninterrupted_ones(corpus, wavlm, tmp_path):
    flags = {**FLAGS, "batch_size": 4}
    codes, said = run_two(list_arguments(corpus, wavlm, tmp_path / "whole", **flags))
    assert codes == [0, 0], said
    assert json.loads((tmp_path / "whole" / "environment.json").read_text())["processes"] == 2
    arguments = list_arguments(corpus, wavlm, tmp_path / "run", **flags)
    codes, said = run_two(arguments, 60)
    assert codes[0] == -signal.SIGKILL, said
    assert codes[1] != 0
    state = json.loads((tmp_path / "run" / "last" / "state.json").read_text())["progress"]
    assert state["batch"] > 0  # inside an epoch
    codes, said = run_two([*arguments, "--resume"])
    assert codes == [0, 0], said
    assert f"Resume after epoch {state['epoch']} and {state['batch']} steps of the next" in said
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# signals


def start(arguments, launcher=()):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, *launcher, str(ROOT / "train.py"), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, env=environment, start_new_session=True, **pipes)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_saves_the_step_and_says_how_to_go_on(corpus, wavlm, tmp_path, sent):
    child = fork_training(
        list_arguments(corpus, wavlm, tmp_path / "run", epochs=500, num_workers=1, save_every="1000min")
    )
    child.wait_for("Epoch: 2 ")
    child.send(sent)  # to the loading processes, too
    assert child.wait() == 128 + sent
    assert "Traceback" not in child.err
    last = child.out.splitlines()[-1]
    assert last.startswith(f"Stopped by {sent.name}; {tmp_path / 'run'} holds epoch ")
    assert last.endswith("the same command with --resume goes on from there")
    progress = json.loads((tmp_path / "run" / "last" / "state.json").read_text())["progress"]
    assert progress["steps"] == 3 * progress["epoch"] + progress["batch"]


def test_sigterm_to_the_launcher_ends_and_saves_the_training(corpus, wavlm, tmp_path, capsys):
    """accelerate's launcher dies of it and tells nobody."""
    arguments = list_arguments(corpus, wavlm, tmp_path / "run", epochs=500)
    process = start(arguments, ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"])
    assert any(line.startswith("Epoch: 2 ") for line in process.stdout), process.stderr.read()
    (child,) = psutil.Process(process.pid).children()
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert child.wait(60) is None
    assert "Stopped by SIGTERM" in output
    second = fork_training([*arguments, "--resume"])
    second.wait_for(f"Epoch: {int(output.split('holds epoch ')[1].split()[0]) + 1} ")
    fail(
        capsys,
        lambda: train.main([*arguments, "--resume"]),
        f"--save_root {tmp_path / 'run'}: another training is at work in this folder",
    )
    second.send(signal.SIGKILL)
    second.wait()


def test_a_signal_before_the_training_is_one_line(corpus, wavlm, tmp_path):
    process = start(list_arguments(corpus, wavlm, tmp_path / "run", epochs=500))
    time.sleep(0.7)  # imports take seconds
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in errors
    assert not (tmp_path / "run" / "last").exists()


# numbers


@pytest.fixture
def poisoned(corpus, tmp_path):
    """Features with one value of 3e38, which no network survives. Call: with the ids. Returns: the folder."""

    def poison(*utt_ids):
        shutil.copytree(corpus / "features", tmp_path / "features")
        for utt_id in utt_ids:
            path = tmp_path / "features" / f"{utt_id}.npy"
            features = np.load(path).astype(np.float32)
            features[1, 2] = 3e38
            np.save(path, features)
        return tmp_path / "features"

    return poison


def test_a_step_without_a_finite_gradient_is_left_out_and_named(corpus, wavlm, tmp_path, poisoned, capfd):
    arguments = list_arguments(corpus, wavlm, tmp_path / "run", video_root=poisoned("train_003"), epochs=4)
    result = train.main(arguments)
    assert 0 < result["ua"] <= 1
    out, _ = capfd.readouterr()
    lines = [line for line in out.splitlines() if "the gradient is not finite, step skipped" in line]
    assert lines
    assert all(line.endswith("no finite logits: train_003") for line in lines)
    metrics = read_metrics(tmp_path / "run")
    assert sum(line.get("bad_steps", 0) for line in metrics) == len(lines)
    assert all(np.isfinite(line["train_loss"]) for line in metrics)
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))


def test_too_many_of_them_in_a_row_end_the_run_with_code_3(corpus, wavlm, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(list_arguments(corpus, wavlm, tmp_path / "run", lr=1e30, batch_size=2, max_bad_steps=3, epochs=9))
    assert caught.value.code == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert "3 steps in a row without a finite gradient" in line
    assert not (tmp_path / "run" / "best").exists()
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_value_too_large_in_the_valid_list_is_named_and_scores_nothing(corpus, wavlm, tmp_path, poisoned, capsys):
    arguments = list_arguments(corpus, wavlm, tmp_path / "run", video_root=poisoned("valid_002"))
    fail(capsys, lambda: train.main(arguments), "1 of 7 utterances have logits that are NaN or infinite", "valid_002")


# the machine


@pytest.mark.parametrize("size", [4_000, 60_000, 400_000])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(corpus, wavlm, whole, tmp_path, size):
    """Files that may not grow beyond a size (EFBIG) stand in for a disk that is full (ENOSPC)."""
    arguments = list_arguments(corpus, wavlm, tmp_path / "run", **FLAGS)

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        train.main(arguments)

    child = Child(work)
    assert child.wait() == 2, child.err
    assert "Traceback" not in child.err
    assert len([line for line in child.err.splitlines() if line.startswith("error: ")]) == 1
    assert "File too large" in child.err
    assert run_child([*arguments, "--resume"]) == 0
    assert_same_run(tmp_path / "run", whole)


def test_a_folder_that_cannot_be_written_is_one_line(corpus, wavlm, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    fail(
        capsys, lambda: train.main(list_arguments(corpus, wavlm, tmp_path / "file" / "run")), "--save_root", "file/run"
    )
