"""train.py in process and through the launcher: what it writes, every flag, bad input, interruption and resumption."""

import csv
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import forget_accelerate, fork_training
from safetensors.torch import load_file

import train
import wavlm as wavlm_module
from model import FoalNet
from running import folder as folder_module
from running.evaluation import evaluate
from running.watching import Totals
from tiny import LABELS, write_corpus, write_wavlm

ROOT = Path(train.__file__).parent
BASE = {"batch_size": 8, "epochs": 1, "num_workers": 0, "lr": 3e-3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory):
    return write_wavlm(tmp_path_factory.mktemp("wavlm"))


@pytest.fixture(autouse=True)
def fresh_state():
    """Each run of a test is a process of its own as far as accelerate and logging know."""
    yield
    reset_state()


def reset_state():
    forget_accelerate()
    for handler in logging.getLogger("foalnet").handlers:
        handler.close()
    logging.getLogger("foalnet").handlers.clear()


def list_arguments(corpus, wavlm, save_root, **flags):
    flags = {
        "train_src": corpus / "train.scp",
        "test_src": corpus / "valid.scp",
        "video_root": corpus / "features",
        "audio_model": wavlm,
        "save_root": save_root,
        **BASE,
        **flags,
    }
    return [f"--{name}={value}" for name, value in flags.items() if value is not None]


@pytest.fixture
def run(corpus, wavlm, tmp_path):
    """Call main with the base flags and more. Returns: (result, the save_root)."""

    def call(save_root="run", **flags):
        reset_state()
        result = train.main(list_arguments(corpus, wavlm, tmp_path / save_root, **flags))
        return result, tmp_path / save_root

    return call


def read_metrics(root):
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]


def read_timeless_metrics(root):
    return [{k: v for k, v in line.items() if k != "utterances_per_second"} for line in read_metrics(root)]


def read_predictions(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# one run of each protocol, looked at from all sides


@pytest.fixture(scope="module")
def paper(corpus, wavlm, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "paper"
    reset_state()
    result = train.main(list_arguments(corpus, wavlm, root, epochs=3))
    return result, root


@pytest.fixture(scope="module")
def strict(corpus, wavlm, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "strict"
    reset_state()
    lists = {"valid_src": corpus / "valid.scp", "test_src": corpus / "test.scp"}
    result = train.main(list_arguments(corpus, wavlm, root, epochs=3, **lists))
    return result, root


def check_predictions(path, scp, summary):
    rows = read_predictions(path)
    lines = [line.split() for line in scp.read_text().splitlines()]
    assert [(row["utt_id"], row["label"]) for row in rows] == [(line[0], line[-1]) for line in lines]
    confusion = np.zeros((4, 4), int)
    for row in rows:
        probabilities = [float(row[f"prob_{name}"]) for name in LABELS]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert LABELS[int(np.argmax(probabilities))] == row["prediction"]
        confusion[LABELS.index(row["label"]), LABELS.index(row["prediction"])] += 1
    assert confusion.tolist() == summary["confusion"]
    assert summary["wa"] == pytest.approx(confusion.trace() / confusion.sum())
    recalls = confusion.diagonal() / confusion.sum(1)
    assert summary["ua"] == pytest.approx(recalls.mean())
    assert summary["recall"] == pytest.approx(dict(zip(LABELS, recalls, strict=True)))
    assert summary["utterances"] == len(rows)


def test_the_paper_protocol_reports_the_list_that_chose_the_epoch(corpus, paper):
    result, root = paper
    assert result == json.loads((root / "result.json").read_text())
    assert (result["protocol"], result["reported"]) == ("paper", "valid")
    history = read_metrics(root)
    assert [line["epoch"] for line in history] == [1, 2, 3]
    uas = [line["valid_ua"] for line in history]
    assert result["best_epoch"] == 1 + uas.index(max(uas))
    assert result["ua"] == pytest.approx(max(uas))
    check_predictions(root / "predictions_valid.csv", corpus / "valid.scp", result)
    assert not (root / "predictions_test.csv").exists()


def test_the_strict_protocol_chooses_on_one_list_and_reports_the_other(corpus, strict):
    result, root = strict
    assert (result["protocol"], result["reported"]) == ("strict", "test")
    uas = [line["valid_ua"] for line in read_metrics(root)]
    assert result["best_epoch"] == 1 + uas.index(max(uas))
    assert result["valid"]["ua"] == pytest.approx(max(uas))
    check_predictions(root / "predictions_valid.csv", corpus / "valid.scp", result["valid"])
    check_predictions(root / "predictions_test.csv", corpus / "test.scp", result)
    assert (root / "confusion_test.png").read_bytes().startswith(b"\x89PNG")


def test_the_two_protocols_train_alike(paper, strict):
    assert read_timeless_metrics(paper[1]) == read_timeless_metrics(strict[1])


def test_every_epoch_leaves_its_numbers(paper):
    for line in read_metrics(paper[1]):
        losses = [line[f"train_{name}"] for name in ("loss_cls", "loss_avel", "loss_mem")]
        assert line["train_loss"] == pytest.approx(losses[0] + losses[1] + 0.1 * losses[2], rel=1e-5)
        for name in ("mem_accuracy", "valid_ua", "valid_wa", "valid_macro_f1"):
            assert 0 <= line[name] <= 1
        for name in ("similarity_same", "similarity_other", "valid_similarity_same", "valid_similarity_other"):
            assert -1 <= line[name] <= 1
        assert set(line["valid_recall"]) == set(LABELS)
        assert line["utterances_per_second"] > 0
        assert line["temperature"] > 0
        assert line["learning_rate"] > 0


def test_the_log_keeps_the_released_lines(paper):
    lines = (paper[1] / "train.log").read_text().splitlines()
    epochs = [
        line
        for line in lines
        if re.fullmatch(r"Epoch: \d \| Train_loss: [\d.]+ \| Valid-UA: [\d.]+ \| Valid-WA: [\d.]+", line)
    ]
    assert len(epochs) == 3
    result = paper[0]
    assert lines[-1] == f"Best-UA: {result['ua']:.4f}, Best-WA: {result['wa']:.4f}"
    assert "paper protocol" in lines[-2]


def test_the_run_says_where_it_comes_from(corpus, paper):
    root = paper[1]
    environment = json.loads((root / "environment.json").read_text())
    for name in ("train.scp", "valid.scp"):
        digest = hashlib.sha256((corpus / name).read_bytes()).hexdigest()
        assert environment["sha256"][str(corpus / name)] == digest
    assert (
        environment["versions"]["torch"] == torch.__version__.split("+")[0]
        or environment["versions"]["torch"] == torch.__version__
    )
    assert environment["processes"] == 1
    args = json.loads((root / "args.json").read_text())
    assert args["batch_size"] == 8
    assert args["labels"] == LABELS
    for name in ("curves.png", "confusion_valid.png"):
        assert (root / name).read_bytes().startswith(b"\x89PNG")
    assert not list(root.glob("*.new"))
    assert not list(root.glob("*.old"))


def test_the_best_model_alone_gives_the_reported_predictions(corpus, wavlm, paper, tmp_path):
    model = FoalNet.from_pretrained(paper[1] / "best")
    assert model.config.labels == LABELS
    setup = train.build_run(train.parse_args(list_arguments(corpus, wavlm, tmp_path / "other", batch_size=3)))
    evaluation = evaluate(setup.accelerator, model, setup.evaluation_loaders["valid"])
    rows = read_predictions(paper[1] / "predictions_valid.csv")
    assert evaluation.utt_ids == [row["utt_id"] for row in rows]
    found = [[float(row[f"prob_{name}"]) for name in LABELS] for row in rows]
    np.testing.assert_allclose(evaluation.probabilities, found, atol=2e-6)


def test_embeddings_are_those_of_the_utterances(paper):
    with np.load(paper[1] / "embeddings_valid.npz") as saved:
        assert list(saved["utt_ids"]) == [row["utt_id"] for row in read_predictions(paper[1] / "predictions_valid.csv")]
        assert saved["fused"].shape == (11, 32 + 24)
        np.testing.assert_allclose(np.linalg.norm(saved["audio_embeds"].astype(float), axis=1), 1, atol=1e-2)


def test_the_same_seed_gives_the_same_run(run, paper):
    _, root = run(epochs=3, num_workers=1)
    assert read_timeless_metrics(root) == read_timeless_metrics(paper[1])
    assert (root / "predictions_valid.csv").read_bytes() == (paper[1] / "predictions_valid.csv").read_bytes()


# flags


@pytest.fixture(scope="module")
def base(corpus, wavlm, tmp_path_factory):
    """metrics.jsonl of one epoch with the base flags."""
    root = tmp_path_factory.mktemp("runs") / "base"
    reset_state()
    train.main(list_arguments(corpus, wavlm, root))
    return read_timeless_metrics(root)


ACTING = {
    "lr": 1e-3,
    "encoder_lr": 0,
    "l2": 0.9,
    "decay_all": "False",
    "dropout": 0.4,
    "batch_size": 6,
    "seed": 7,
    "pooling_model": "max",
    "gradient_accumulation_steps": 2,
    "max_length": 0.1,
    "max_frames": 2,
    "normalize_audio": "True",
    "avel_weight": 0.3,
    "mem_weight": 2,
    "temperature": 0.5,
    "scheduler": "none",
    "warmup_ratio": 0.6,
    "max_grad_norm": 0.1,
    "mixed_precision": "bf16",
    "label_map": "hap=neu,neu=hap",
    "labels": "neu,hap,sad,ang",
    "modality": "a",
}


@pytest.mark.parametrize("flag", ACTING)
def test_every_flag_acts(run, base, flag):
    _, root = run(**{flag: ACTING[flag]})
    line = read_timeless_metrics(root)[0]
    assert line["train_loss"] != base[0]["train_loss"]
    assert all(math.isfinite(value) for value in line.values() if isinstance(value, float))


@pytest.mark.parametrize(
    "flags",
    [
        {"fp16": "False"},
        {"mixed_precision": "no"},
        {"debug": "false", "resume": "false"},
        {"n_classes": 4},
        {"report_to": "none"},
        {"labels": "hap,neu,sad,ang"},
    ],
    ids=str,
)
def test_flags_that_say_the_default_change_nothing(run, base, flags):
    assert read_timeless_metrics(run(**flags)[1]) == base


def test_valid_src_alone_is_test_src_alone(corpus, run, base):
    result, root = run(test_src=None, valid_src=corpus / "valid.scp")
    assert result["protocol"] == "paper"
    assert read_timeless_metrics(root) == base


def test_video_only_needs_no_wavlm_and_no_sound(corpus, run):
    result, root = run(modality="v", audio_model="/no/such/folder")
    assert result["modality"] == "v"
    assert set(load_file(root / "best" / "model.safetensors")) == {"cls_head.weight", "cls_head.bias"}


def test_weights_of_zero_leave_the_tasks_out(run):
    line = read_metrics(run(avel_weight=0, mem_weight=0)[1])[0]
    assert "train_loss_avel" not in line
    assert "train_loss_mem" not in line
    assert line["train_loss"] == pytest.approx(line["train_loss_cls"])


def test_n_classes_takes_the_names_from_the_list(corpus, run, tmp_path):
    text = (corpus / "train.scp").read_text().replace(" ang\n", " sad\n")
    (tmp_path / "three.scp").write_text(text)
    result, _ = run(n_classes=3, train_src=tmp_path / "three.scp", label_map="ang=sad")
    assert result["labels"] == ["hap", "neu", "sad"]
    assert np.shape(result["confusion"]) == (3, 3)


def test_debug_is_a_quick_pass(run):
    _, root = run(debug="True", epochs=9, batch_size=32)
    assert [line["epoch"] for line in read_metrics(root)] == [1, 2]
    args = train.parse_args(["--train_src=x", "--test_src=y", "--debug"])
    assert args.epochs == 2


def test_tensorboard_gets_the_numbers(run):
    _, root = run(report_to="tensorboard", epochs=2)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = {path.parent for path in root.rglob("events.out.tfevents*") if "valid_ua" in read_tags(path.parent)}
    events = EventAccumulator(str(folder)).Reload().Scalars("valid_ua")
    assert [event.value for event in events] == pytest.approx([line["valid_ua"] for line in read_metrics(root)])


def read_tags(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload().Tags()["scalars"]


# bad input


def fail(capsys, call, *words):
    """The call ends with code 2 and one error line that holds the words."""
    with pytest.raises(SystemExit) as caught:
        call()
    assert caught.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert all(str(word) in errors[0] for word in words), errors[0]
    assert "Traceback" not in errors[0]


BAD_FLAGS = {
    ("fp16", "True"): ["--mixed_precision", "fp16"],
    ("fp16", "maybe"): ["--fp16", "maybe", "boolean"],
    ("lr", 0): ["--lr 0", "greater than 0"],
    ("encoder_lr", -1): ["--encoder_lr -1"],
    ("batch_size", 0): ["--batch_size 0"],
    ("epochs", -1): ["--epochs -1"],
    ("max_length", 0): ["--max_length"],
    ("max_length", 0.01): ["--max_length"],
    ("gradient_accumulation_steps", 0): ["--gradient_accumulation_steps 0"],
    ("mem_weight", -0.1): ["--mem_weight -0.1"],
    ("dropout", 1): ["--dropout 1"],
    ("warmup_ratio", 1.5): ["--warmup_ratio 1.5"],
    ("lr", "nan"): ["--lr nan"],
    ("temperature", "inf"): ["--temperature inf"],
    ("modality", "va"): ["--modality", "va"],
    ("pooling_model", "median"): ["--pooling_model", "median"],
    ("scheduler", "linear"): ["--scheduler", "linear"],
    ("labels", "hap"): ["--labels hap"],
    ("labels", "hap,neu,hap"): ["--labels"],
    ("n_classes", 7): ["--n_classes 7"],
    ("label_map", "exc"): ["exc=hap"],
    ("train_src", "/nowhere.scp"): ["/nowhere.scp"],
    ("test_src", None): ["--valid_src", "--test_src"],
    ("video_root", "/nowhere"): ["/nowhere", "--video_root"],
    ("audio_model", "/nowhere"): ["--audio_model /nowhere"],
    ("unknown", 3): ["--unknown"],
}


@pytest.mark.parametrize("flag", BAD_FLAGS, ids=str)
def test_a_bad_flag_is_one_line_and_exit_code_2(capsys, run, flag, tmp_path):
    fail(capsys, lambda: run(**dict([flag])), *BAD_FLAGS[flag])
    assert not (tmp_path / "run").exists()


def test_lists_that_share_an_utterance_are_refused(capsys, corpus, run):
    fail(capsys, lambda: run(test_src=corpus / "train.scp"), "train.scp: utterance train_000", "--allow_overlap")
    shared = {"valid_src": corpus / "valid.scp", "test_src": corpus / "valid.scp"}
    fail(capsys, lambda: run(**shared), "utterance valid_000", "valid.scp too")
    assert run(**shared, allow_overlap=True)[0]["protocol"] == "strict"


def test_a_shared_speaker_of_iemocap_is_refused(capsys, corpus, run, tmp_path):
    for split, gender in (("train", "F"), ("valid", "M")):
        lines = (corpus / f"{split}.scp").read_text()
        (tmp_path / f"{split}.scp").write_text(lines.replace(f"{split}_", f"Ses01{gender}_impro01_{gender}", 1))
    mixed = (tmp_path / "valid.scp").read_text().replace("impro01_M", "impro02_F")
    (tmp_path / "valid.scp").write_text(mixed)
    lists = {"train_src": tmp_path / "train.scp", "test_src": tmp_path / "valid.scp"}
    fail(capsys, lambda: run(**lists), "valid.scp: speaker Ses01F", "--allow_overlap")


def test_a_bad_file_is_found_before_training(capsys, corpus, run, tmp_path):
    shutil.copytree(corpus / "features", tmp_path / "features")
    features = np.load(tmp_path / "features" / "valid_003.npy")
    features[1, 2] = np.nan
    np.save(tmp_path / "features" / "valid_003.npy", features)
    fail(capsys, lambda: run(video_root=tmp_path / "features"), "valid_003.npy", "row 1")
    assert not (tmp_path / "run").exists()


def test_a_class_that_is_not_in_the_list_is_refused_and_an_odd_list_is_named(capsys, corpus, run, tmp_path):
    lines = (corpus / "train.scp").read_text().splitlines(keepends=True)
    (tmp_path / "two.scp").write_text("".join(line for line in lines if line.split()[-1] in ("neu", "hap")))
    two = {"train_src": tmp_path / "two.scp"}
    fail(capsys, lambda: run(**two), "two.scp", "no utterance of the class", "--labels")
    valid = (corpus / "valid.scp").read_text().splitlines(keepends=True)
    (tmp_path / "one.scp").write_text("".join(line for line in valid if line.split()[-1] == "hap"))
    run(**two, labels="hap,neu", test_src=tmp_path / "one.scp")
    assert "valid: every utterance is of the class hap" in capsys.readouterr().out


def test_an_empty_checkpoint_folder_is_named(capsys, run, tmp_path):
    (tmp_path / "empty").mkdir()
    fail(capsys, lambda: run(audio_model=tmp_path / "empty"), "--audio_model", tmp_path / "empty")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_sound_that_breaks_after_the_scan_is_one_line(capsys, corpus, run, tmp_path, num_workers, monkeypatch):
    for name in ("train", "valid"):
        text = (corpus / f"{name}.scp").read_text().replace(str(corpus), str(tmp_path))
        (tmp_path / f"{name}.scp").write_text(text)
    shutil.copytree(corpus / "wav", tmp_path / "wav")
    real = train.check_lists

    def load_then_break(*args):
        loaded = real(*args)
        (tmp_path / "wav" / "valid_002 a.wav").write_bytes(b"")
        return loaded

    monkeypatch.setattr(train, "check_lists", load_then_break)
    lists = {"train_src": tmp_path / "train.scp", "test_src": tmp_path / "valid.scp"}
    fail(capsys, lambda: run(num_workers=num_workers, **lists), "valid_002 a.wav")


# accumulation


def take_step(corpus, wavlm, tmp_path, batch_size, passes, **flags):
    """Losses and gradients of one train_step over the first 10 utterances, all losses on, dropout off."""
    reset_state()
    flags = {"batch_size": batch_size, "gradient_accumulation_steps": passes, **flags}
    setup = train.build_run(train.parse_args(list_arguments(corpus, wavlm, tmp_path / "run", **flags)))
    for module in setup.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    dataset, gradients, totals = setup.train_loader.dataset, {}, Totals()
    batch = setup.train_loader.collate_fn([dataset[i] for i in range(10)])
    real = setup.optimizer.step

    def keep():
        gradients.update({n: p.grad.clone() for n, p in setup.model.named_parameters() if p.grad is not None})
        real()

    setup.optimizer.step = keep
    setup.model.train()
    before = setup.scheduler.last_epoch
    train.train_step(setup, batch, 10, totals)
    assert setup.scheduler.last_epoch == before + 1
    assert all(p.grad is None or not p.grad.any() for p in setup.model.parameters())
    return {name: total / count for name, (total, count) in totals.pairs.items()}, gradients


@pytest.fixture(scope="module")
def masking_wavlm(tmp_path_factory):
    """SpecAugment on: its draws are those of the large batch too."""
    spec = {"apply_spec_augment": True, "mask_time_prob": 0.3, "mask_time_length": 3, "mask_feature_prob": 0.2}
    return write_wavlm(tmp_path_factory.mktemp("masking"), mask_feature_length=4, **spec)


@pytest.mark.parametrize(("batch_size", "passes"), [(5, 2), (4, 3), (1, 10)])
def test_accumulation_equals_the_large_batch(corpus, masking_wavlm, tmp_path, monkeypatch, batch_size, passes):
    widths, real = [], wavlm_module.encode_features
    losses, gradients = take_step(corpus, masking_wavlm, tmp_path, 10, 1)
    monkeypatch.setattr(wavlm_module, "encode_features", lambda *x: widths.append(len(x[4].lengths)) or real(*x))
    found_losses, found = take_step(corpus, masking_wavlm, tmp_path, batch_size, passes)
    assert max(widths) == batch_size  # what memory holds at a time
    assert sum(widths) == 20  # each utterance forward, and again in the backward pass
    assert {"loss_cls", "loss_avel", "loss_mem"} <= losses.keys()
    for name, loss in losses.items():
        assert found_losses[name].item() == pytest.approx(loss.item(), rel=1e-5), name
    assert set(found) == set(gradients)
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        error = (found[name] - gradient).abs().max()
        assert error <= 1e-4 * max(gradient.abs().max(), 0.01 * largest), name


def test_clipping_bounds_the_norm_of_the_whole_gradient(corpus, wavlm, tmp_path):
    _, gradients = take_step(corpus, wavlm, tmp_path, 10, 1, max_grad_norm=0.05)
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert norm.item() == pytest.approx(0.05, rel=1e-3)


def test_an_epoch_with_accumulation_is_the_epoch_of_the_large_batch(run):
    flags = {"dropout": 0, "modality": "a"}  # AVEL's projections always have dropout
    large, small = (
        run("large", batch_size=8, **flags)[1],
        run("small", batch_size=4, gradient_accumulation_steps=2, **flags)[1],
    )
    for name in ("train_loss", "valid_loss", "learning_rate"):
        assert read_metrics(small)[0][name] == pytest.approx(read_metrics(large)[0][name], rel=1e-3)


# interruption


class Crash(Exception):
    """What a test raises in the place of a power cut."""


def crash_at(monkeypatch, owner, name, call):
    real, calls = getattr(owner, name), []

    def count(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Crash
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, count)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        *[(pathlib.Path, "rename", call) for call in (1, 2, 3, 4, 5)],
        (train, "train_step", 13),  # in the middle of epoch 3
        (train, "evaluate", 3),
        (folder_module, "write_text", 3),  # last/ is whole, metrics.jsonl lacks the last epoch
        (folder_module, "plot_curves", 1),
        (train, "report", 1),
        (folder_module, "write_json", 3),  # all is written but result.json
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_crash_anywhere_and_resume_give_the_uninterrupted_run(run, paper, owner, name, call):
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, owner, name, call)
        with pytest.raises(Crash):
            run(epochs=3)
    result, root = run(epochs=3, resume="True")
    assert read_timeless_metrics(root) == read_timeless_metrics(paper[1])
    assert (root / "predictions_valid.csv").read_bytes() == (paper[1] / "predictions_valid.csv").read_bytes()
    assert result == paper[0]
    assert (root / "curves.png").stat().st_size > 1000


def test_a_run_is_not_overwritten_and_a_finished_one_can_be_resumed(capsys, run, paper):
    _, root = run(epochs=3)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    fail(capsys, lambda: run(epochs=3), "--save_root", "--resume")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert run(epochs=3, resume="True")[0] == paper[0]


@pytest.mark.parametrize(
    "flag", [("lr", 1e-3), ("epochs", 5), ("seed", 3), ("modality", "v"), ("batch_size", 4)], ids=str
)
def test_resume_with_other_flags_is_refused(capsys, run, flag):
    run()
    fail(capsys, lambda: run(resume="True", **dict([flag])), f"--{flag[0]} was {BASE.get(flag[0], '')}", flag[1])


def start(arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes=1",
        str(ROOT / "train.py"),
    ]
    return subprocess.Popen(
        [*launcher, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_ctrl_c_after_epoch_2_and_resume_give_the_uninterrupted_run(corpus, wavlm, tmp_path):
    flags = {"epochs": 6, "num_workers": 1}
    whole = fork_training(list_arguments(corpus, wavlm, tmp_path / "whole", **flags))
    stopped = start(list_arguments(corpus, wavlm, tmp_path / "stopped", **flags), start_new_session=True)
    for line in stopped.stdout:
        if line.startswith("Epoch: 2 "):
            break
    time.sleep(0.05)
    os.killpg(stopped.pid, signal.SIGINT)  # as a terminal does
    output, _ = stopped.communicate(timeout=60)
    assert stopped.returncode != 0
    assert "--resume" in output
    assert not (tmp_path / "stopped" / "result.json").exists()
    assert 2 <= len(read_metrics(tmp_path / "stopped")) < 6
    resumed = fork_training([*list_arguments(corpus, wavlm, tmp_path / "stopped", **flags), "--resume"])
    assert resumed.wait() == 0, resumed.err
    assert "Resume after epoch" in resumed.out
    assert whole.wait() == 0, whole.err
    assert read_timeless_metrics(tmp_path / "stopped") == read_timeless_metrics(tmp_path / "whole")
    for name in ("predictions_valid.csv", "result.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_gradients_into_wavlm_are_those_of_a_whole_backward_pass(corpus, wavlm, tmp_path):
    """metrics.jsonl against p.grad of each loss, taken by itself with every parameter in the graph."""
    args = train.parse_args(list_arguments(corpus, wavlm, tmp_path / "run", avel_weight=0.5))
    run = train.build_run(args)
    trained = [n for n, p in run.model.named_parameters() if p.requires_grad]
    found = train.measure_gradients(run.accelerator, run.plain_model, run.train_loader, args.seed)
    model = run.accelerator.unwrap_model(run.model).eval()
    sampler = run.train_loader.batch_sampler
    sampler.set_epoch(0)
    inputs = train.move_inputs(
        run.train_loader.collate_fn([run.train_loader.dataset[i] for i in list(sampler)[0]]), "cpu"
    )
    for name, weight in {"cls": 1.0, "avel": 0.5, "mem": 0.1}.items():
        model.zero_grad()
        (weight * model(**inputs, seed=args.seed)[f"loss_{name}"]).backward()
        squares = [p.grad.square().sum() for p in model.wavlm.encoder.layers[-1].parameters()]
        assert found[f"gradient_{name}"] == pytest.approx(sum(squares).sqrt().item(), rel=1e-4), name
        assert found[f"gradient_{name}"] > 0
    assert [n for n, p in model.named_parameters() if p.requires_grad] == trained


def test_a_run_of_nan_ends_without_a_score(capsys, run, tmp_path):
    fail(capsys, lambda: run(lr=1e30), "11 of 11 utterances have logits that are NaN or infinite, such as valid_000")
    assert not (tmp_path / "run" / "best").exists()
    assert not (tmp_path / "run" / "result.json").exists()
