"""The run folder by itself: begun, saved, resumed, refused and finished, without any training."""

import json
import logging

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from running import folder as folder_module
from running.errors import InputError
from running.evaluation import Evaluation
from running.folder import Progress, RunFolder


@pytest.fixture(autouse=True)
def fresh_state():
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    for handler in logging.getLogger("foalnet").handlers:
        handler.close()
    logging.getLogger("foalnet").handlers.clear()


class Model(torch.nn.Linear):
    """What a RunFolder needs of a model."""

    def save_pretrained(self, folder):
        torch.save(self.state_dict(), folder / "model.pt")


class Training:
    """A model whose weight says the epoch, in a run folder."""

    def __init__(self, root, lists):
        self.accelerator, self.progress = Accelerator(cpu=True), Progress()
        self.model = self.accelerator.prepare(Model(1, 1, bias=False))
        self.accelerator.register_for_checkpointing(self.progress)
        self.folder, self.lists = RunFolder(root, self.accelerator, self.progress), lists

    def open(self, **flags):
        self.folder.open({"resume": False, "lr": 1e-4, "seed": 1, "num_workers": 0, **flags}, self.lists)

    def finish_epoch(self, is_best=True):
        self.progress.epoch += 1
        self.progress.history.append({"epoch": self.progress.epoch, "train_loss": 1.0, "valid_ua": 0.5})
        self.model.weight.data.fill_(self.progress.epoch)
        self.folder.save(self.model, is_best)


@pytest.fixture
def begin(tmp_path):
    (tmp_path / "train.scp").write_text("a a.wav hap\n")

    def call(**flags):
        AcceleratorState._reset_state(True)
        training = Training(tmp_path / "run", [tmp_path / "train.scp"])
        training.open(**flags)
        return training

    return call


def test_a_resumed_folder_knows_the_epoch_the_weights_and_the_history(begin, tmp_path):
    training = begin()
    training.finish_epoch()
    training.finish_epoch(is_best=False)
    (tmp_path / "run" / "metrics.jsonl").unlink()  # as if the power had gone between last/ and this
    again = begin(resume=True)
    assert again.progress.epoch == 2
    assert again.model.weight.item() == 2
    assert torch.load(again.folder.best / "model.pt")["weight"].item() == 1
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_a_begun_folder_is_not_begun_again(begin):
    begin().finish_epoch()
    with pytest.raises(InputError, match="holds a run already; --resume"):
        begin()


def test_resume_in_an_empty_folder_begins(begin):
    assert begin(resume=True).progress.epoch == 0


@pytest.mark.parametrize("flag", [{"lr": 1e-3}, {"seed": 2}])
def test_changed_flags_are_refused_with_both_values(begin, flag):
    begin().finish_epoch()
    ((name, value),) = flag.items()
    with pytest.raises(InputError, match=rf"--{name} was .* and is {value}"):
        begin(resume=True, **flag)


def test_flags_that_leave_the_mathematics_alone_may_change(begin):
    begin().finish_epoch()
    assert begin(resume=True, num_workers=3).progress.epoch == 1


def test_changed_lists_are_refused(begin, tmp_path):
    begin().finish_epoch()
    (tmp_path / "train.scp").write_text("a a.wav neu\n")
    with pytest.raises(InputError, match=r"SHA-256 of .*train\.scp was"):
        begin(resume=True)


@pytest.mark.parametrize("call", range(1, 6))
def test_a_crash_at_any_rename_leaves_the_epoch_before_or_the_whole_new_one(begin, monkeypatch, call):
    training = begin()
    training.finish_epoch()
    calls, real = [], folder_module.Path.rename

    def rename(path, target):
        calls.append(path)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rename", rename)
        if call <= 4:
            with pytest.raises(KeyboardInterrupt):
                training.finish_epoch()
        else:
            training.finish_epoch()
    again = begin(resume=True)
    assert again.model.weight.item() == again.progress.epoch == len(again.progress.history)
    assert again.progress.epoch in (1, 2)
    assert torch.load(again.folder.best / "model.pt")["weight"].item() in (1, 2)


def test_a_finished_folder_holds_predictions_embeddings_picture_and_result(begin, tmp_path):
    training, root = begin(), tmp_path / "run"
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], np.float32)
    evaluation = Evaluation(["a", "b", "c"], np.array([0, 1, 1]), logits, {"fused": np.ones((3, 2), np.float32)})
    summary = evaluation.summarize(["x", "y"])
    training.folder.write_evaluation("valid", evaluation, summary, ["x", "y"], "title")
    training.folder.finish({"ua": summary["ua"]})
    assert [line.split(",")[:3] for line in (root / "predictions_valid.csv").read_text().splitlines()[1:]] == [
        ["a", "x", "x"],
        ["b", "y", "y"],
        ["c", "y", "x"],
    ]
    with np.load(root / "embeddings_valid.npz") as arrays:
        assert arrays["fused"].dtype == np.float16
    assert (root / "confusion_valid.png").stat().st_size > 1000
    assert json.loads((root / "result.json").read_text()) == {"ua": 0.75}
