"""Two processes give the losses, gradients and evaluations of one; a whole run of them goes through the launcher."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rows_worker
import step_worker
import torch
from forked import find_port, run_ranks

from tiny import write_corpus, write_wavlm

TESTS = Path(__file__).parent
ROOT = TESTS.parent


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """37 utterances to train on: the last batch of 10 is uneven. 97 and 99 to evaluate."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), train=37, valid=97, test=99)


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory):
    return write_wavlm(tmp_path_factory.mktemp("wavlm"))


def launch_two(flags):
    """train.py in two processes of accelerate's launcher. Returns: CompletedProcess."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2"]
    launcher += [f"--main_process_port={find_port()}", str(ROOT / "train.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, *flags], env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def run_whole_ranks(work, processes):
    for rank in run_ranks(work, processes):
        assert rank.code == 0, rank.err


def list_flags(corpus, wavlm, batch_size, **flags):
    flags = {
        "train_src": corpus / "train.scp",
        "valid_src": corpus / "valid.scp",
        "test_src": corpus / "test.scp",
        "video_root": corpus / "features",
        "audio_model": wavlm,
        "batch_size": batch_size,
        "num_workers": 0,
        "dropout": 0,
        **flags,
    }
    return [f"--{name}={value}" for name, value in flags.items()]


def take_step(tmp_path, processes, arguments):
    out = tmp_path / f"{processes}"
    out.mkdir()
    run_whole_ranks(lambda: step_worker.main(out, [f"--save_root={out}/run", *arguments]), processes)
    parts = [torch.load(out / f"{rank}.pt") for rank in range(processes)]
    assert not (out / f"{processes}.pt").exists()
    assert all(part["processes"] == processes for part in parts)
    return parts


@pytest.fixture(scope="module", params=[(5, 1), (4, 2)], ids=["one pass", "two passes"])
def steps(request, corpus, wavlm, tmp_path_factory):
    """What one process sees with a whole and an uneven batch, and what two see that share it, in passes of WavLM."""
    folder, (batch_size, passes) = tmp_path_factory.mktemp("steps"), request.param
    (one,) = take_step(folder, 1, list_flags(corpus, wavlm, 2 * batch_size * passes))
    more = {"gradient_accumulation_steps": passes}
    return one, take_step(folder, 2, list_flags(corpus, wavlm, batch_size, **more))


def test_two_processes_share_the_batches_of_one(steps):
    one, two = steps
    assert [len(batch) for batch in one["utt_ids"]] in ([10, 7], [16, 5])
    for k, batch in enumerate(one["utt_ids"]):
        assert sorted(two[0]["utt_ids"][k] + two[1]["utt_ids"][k]) == sorted(batch)
        assert len(two[0]["utt_ids"][k]) - len(two[1]["utt_ids"][k]) in (0, 1)


def test_losses_equal_those_of_one_process(steps):
    one, two = steps
    for k, losses in enumerate(one["losses"]):
        assert set(losses) >= {"loss", "loss_cls", "loss_avel", "loss_mem", "mem_accuracy"}
        for part in two:
            for name in ("loss", "loss_cls", "loss_avel", "loss_mem", "mem_accuracy"):
                assert part["losses"][k][name] == pytest.approx(losses[name], rel=1e-5), name


def test_gradients_equal_those_of_one_process(steps):
    one, two = steps
    for k, gradients in enumerate(one["gradients"]):
        largest = max(gradient.abs().max() for gradient in gradients.values())
        for part in two:
            assert set(part["gradients"][k]) == set(gradients)
            for name, gradient in gradients.items():
                error = (part["gradients"][k][name] - gradient).abs().max()
                assert error <= 1e-4 * max(gradient.abs().max(), 0.01 * largest), name


def test_processes_hold_the_same_weights_after_their_steps(steps):
    _, (first, second) = steps
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())


def test_each_utterance_is_evaluated_once_and_alike(corpus, steps):
    one, two = steps
    for k, (name, size) in enumerate([("valid", 97), ("test", 99)]):
        listed = [line.split()[0] for line in (corpus / f"{name}.scp").read_text().splitlines()]
        for part in (one, *two):
            assert part["evaluated"][k][0] == listed
            assert len(part["evaluated"][k][1]) == size
        torch.testing.assert_close(two[0]["evaluated"][k][1], two[1]["evaluated"][k][1], rtol=0, atol=0)


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory):
    """A whole run of two processes, with dropout, SpecAugment and batches shorter than its spans."""
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"), train=37, valid=82)
    dropout = {"hidden_dropout": 0.1, "apply_spec_augment": True, "mask_time_length": 12, "mask_time_prob": 0.3}
    wavlm = write_wavlm(tmp_path_factory.mktemp("wavlm"), **dropout)
    root = tmp_path_factory.mktemp("runs") / "run"
    flags = list_flags(corpus, wavlm, 4, save_root=root, epochs=2, dropout=0.1, num_workers=1)
    flags = [flag for flag in flags if not flag.startswith("--valid_src")]
    flags = [flag.replace("test.scp", "valid.scp") for flag in flags]
    done = launch_two(flags)
    assert done.returncode == 0, done.stderr
    return root, done, flags


def test_a_run_of_two_processes_writes_one_of_everything(run_of_two):
    root, done, _ = run_of_two
    result = json.loads((root / "result.json").read_text())
    assert result["utterances"] == 82
    assert len((root / "predictions_valid.csv").read_text().splitlines()) == 83
    assert len((root / "metrics.jsonl").read_text().splitlines()) == 2
    assert done.stdout.count("Epoch: 1 |") == 1
    assert done.stdout.count("Best-UA") == 1
    assert json.loads((root / "environment.json").read_text())["processes"] == 2


def test_bad_input_of_two_processes_is_one_line(run_of_two):
    _, _, flags = run_of_two
    done = launch_two(flags)
    assert done.returncode != 0
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert "holds a run already" in done.stderr


STEPS = int(os.environ.get("STEPS", "8"))
LAYERDROP = float(os.environ.get("LAYERDROP", "0.5"))


@pytest.fixture(scope="module")
def rows(corpus, tmp_path_factory):
    """Losses of some steps of every row of the ablation: one process with 10 utterances a batch, two with 5 each."""
    spec = {"apply_spec_augment": True, "mask_time_prob": 0.3, "mask_time_length": 3, "num_hidden_layers": 4}
    wavlm = write_wavlm(tmp_path_factory.mktemp("wavlm"), layerdrop=LAYERDROP, **spec)
    found = []
    for processes in (1, 2):
        out = tmp_path_factory.mktemp(f"rows{processes}")
        flags = list_flags(corpus, wavlm, 10 // processes, save_root=out / "run", lr=1e-4)
        run_whole_ranks(lambda out=out, flags=flags: rows_worker.main(out, STEPS, flags), processes)
        parts = [json.loads((out / f"{rank}.json").read_text()) for rank in range(processes)]
        assert all(part["processes"] == processes for part in parts)
        found.append(parts[0]["losses"])
    return found


def test_many_steps_of_every_row_are_those_of_one_process(rows):
    """Layers and streams dropped, frames masked alike on all processes; else collectives would cross."""
    one, two = rows
    dropped = {"baseline, streams dropped", "both, streams dropped"}
    assert set(one) == {"audio", "video", "baseline", "avel", "mem", "both"} | dropped
    for row, steps in one.items():
        assert len(steps) == len(two[row]) == STEPS
        for k, losses in enumerate(steps):
            for name, loss in losses.items():
                assert two[row][k][name] == pytest.approx(loss, rel=1e-4), (row, k, name)


def test_the_collectives_of_a_step_have_one_order_on_every_rank():
    """For every row of the ablation and pattern of dropped layers, whatever lies in a rank's batch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{TESTS}"}
    worker = [sys.executable, str(TESTS / "order_worker.py")]
    done = subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    orders = json.loads(done.stdout)
    assert len(orders) == 4 * 4
    for case, (first, second) in orders.items():
        assert first == second, case
        assert sum(name.startswith("bucket") for name in first) > 3, case
    patterns = {tuple(first) for case, (first, _) in orders.items() if case.startswith("mem ")}
    assert len(patterns) > 1  # the order does depend on the pattern, so all ranks must draw the same


def test_dropped_layers_do_not_depend_on_the_rank():
    from wavlm import SharedDraws

    draws = [SharedDraws(7, first_row).keep_layers(24, 0.1) for first_row in (0, 16)]
    assert draws[0] == draws[1]
    rates = [SharedDraws(seed).keep_layers(24, 0.1).count(False) for seed in range(400)]
    assert sum(rates) / (400 * 23) == pytest.approx(0.1, abs=0.01)
    assert all(SharedDraws(seed).keep_layers(24, 0.99)[0] for seed in range(20))
