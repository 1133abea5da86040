"""The run folder by itself: begun, saved, resumed, refused and finished, without any training."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from forked import forget_accelerate

from running.errors import InputError
from running.evaluation import Evaluation, write_evaluation
from running.folder import RunFolder
from running.records import FileTable
from running.training_state import TrainingState


@pytest.fixture(autouse=True)
def fresh_state():
    yield
    forget_accelerate()
    for handler in logging.getLogger("foalnet").handlers:
        handler.close()
    logging.getLogger("foalnet").handlers.clear()


def save_model(folder, state_dict):
    torch.save(state_dict, folder / "model.pt")


class Training:
    """A model whose weight says the epoch, in a run folder."""

    def __init__(self, root, lists):
        accelerator = Accelerator(cpu=True)
        self.model = torch.nn.Linear(1, 1, bias=False)
        self.model.own_state_dict, self.model.load_own_state_dict = self.model.state_dict, self.model.load_state_dict
        optimizer = torch.optim.AdamW(self.model.parameters())
        self.model.weight.grad = torch.ones(1, 1)
        optimizer.step()
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
        self.state = TrainingState(accelerator, self.model, optimizer, scheduler, save_model)
        self.folder, self.lists, self.progress = RunFolder(root, self.state), lists, self.state.progress

    def open(self, data=None, **flags):
        flags = {"resume": False, "lr": 1e-4, "seed": 1, "num_workers": 0, "accept_changes": False, **flags}
        flags = {"epochs": 40, "scheduler": "cosine", **flags}
        data = data or {}
        self.folder.open(flags, self.lists, FileTable([*data], np.array([*data.values()]).reshape(-1, 2)))

    def finish_epoch(self, is_best=True):
        self.progress.epoch += 1
        self.progress.steps += 10
        self.progress.history.append({"epoch": self.progress.epoch, "train_loss": 1.0, "valid_ua": 0.5})
        self.model.weight.data.fill_(self.progress.epoch)
        if is_best:
            self.progress.best_epoch = self.progress.epoch
            self.state.keep_best()
        self.folder.write_history()
        self.folder.save()


@pytest.fixture
def begin(tmp_path):
    (tmp_path / "train.scp").write_text("a a.wav hap\n")

    begun = []

    def call(**flags):
        forget_accelerate()
        while begun:
            begun.pop().folder.close()
        begun.append(Training(tmp_path / "run", [tmp_path / "train.scp"]))
        begun[-1].open(**flags)
        return begun[-1]

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


def test_changed_data_is_refused_unless_it_is_accepted(begin, caplog):
    begin(data={"a.wav": [10, 1], "b.wav": [10, 1]}).finish_epoch()
    with pytest.raises(InputError, match=r"1 of 2 files were written since this run began, such as b\.wav"):
        begin(resume=True, data={"a.wav": [10, 1], "b.wav": [10, 2]})
    with caplog.at_level(logging.WARNING, logger="foalnet"):
        begin(resume=True, data={"a.wav": [10, 1], "b.wav": [10, 2]}, accept_changes=True)
    assert "1 of 2 files were written" in caplog.text


def test_every_start_is_recorded_and_the_first_stays(begin, tmp_path):
    begin().finish_epoch()
    first = (tmp_path / "run" / "environment.json").read_bytes()
    begin(resume=True)
    starts = [json.loads(line) for line in (tmp_path / "run" / "starts.jsonl").read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 10]
    assert (tmp_path / "run" / "environment.json").read_bytes() == first


def test_other_code_is_named(begin, tmp_path, caplog):
    begin().finish_epoch()
    path = tmp_path / "run" / "environment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "git_commit": "0123abc"}))
    with caplog.at_level(logging.WARNING, logger="foalnet"):
        begin(resume=True)
    assert "git_commit was 0123abc and is" in caplog.text


def test_a_second_training_is_kept_out(begin, tmp_path):
    training = begin()
    with pytest.raises(InputError, match="another training is at work"):
        Training(tmp_path / "run", training.lists).open()


def test_a_finished_run_without_last_is_not_trained_again(begin, tmp_path):
    training = begin()
    training.finish_epoch()
    training.folder.finish({"ua": 1.0}, lambda folder: save_model(folder, training.model.state_dict()))
    shutil.rmtree(tmp_path / "run" / "last")
    for resume in (False, True):
        with pytest.raises(InputError, match="holds a finished run"):
            begin(resume=resume)


def test_inside_an_epoch_it_is_saved_by_steps_or_by_the_clock(begin):
    folder = begin().folder
    folder.save_every = (3, "steps")
    due = []
    for _ in range(7):
        folder.progress.steps += 1
        due.append(folder.is_due())
        if due[-1]:
            folder.save()
    assert due == [False, False, True, False, False, True, False]
    folder.save_every = (1.0, "min")
    assert not folder.is_due()
    folder.saved_at -= 61
    assert folder.is_due()
    folder.seconds = 2.0  # more than a fiftieth of 61 seconds
    assert not folder.is_due()


def test_best_weights_wait_for_the_next_save_and_a_kill_between_best_and_last_loses_nothing(
    begin, tmp_path, monkeypatch
):
    training = begin()
    training.finish_epoch()
    training.progress.best_epoch = training.progress.epoch = 2
    training.model.weight.data.fill_(2)
    training.state.keep_best()
    training.model.weight.data.fill_(3)  # goes on, and is saved later
    training.progress.epoch = 3
    monkeypatch.setattr(training.state, "write", lambda folder: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        training.folder.save()
    assert torch.load(tmp_path / "run" / "best" / "model.pt")["weight"].item() == 2
    again = begin(resume=True)  # knows of epoch 1 alone
    assert again.progress.best_epoch == 1
    assert torch.load(again.folder.best / "model.pt")["weight"].item() == 1


def test_a_near_tie_is_predicted_as_the_confusion_matrix_counts_it(tmp_path):
    """Logits that differ by a bit give probabilities that do not; the second class is the larger one."""
    logits = np.array([[0.1, np.nextafter(np.float32(0.1), np.float32(1.0)), -80.0]], np.float32)
    evaluation = Evaluation(["a"], np.array([1]), logits, {})
    write_evaluation(tmp_path, "valid", evaluation, ["x", "y", "z"], "title")
    assert (tmp_path / "predictions_valid.csv").read_text().splitlines()[1].startswith("a,y,y,")
    assert evaluation.summarize(["x", "y", "z"])["confusion"][1][1] == 1


def test_a_finished_folder_holds_predictions_embeddings_picture_and_result(begin, tmp_path):
    training, root = begin(), tmp_path / "run"
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], np.float32)
    evaluation = Evaluation(["a", "b", "c"], np.array([0, 1, 1]), logits, {"fused": np.ones((3, 2), np.float32)})
    summary = evaluation.summarize(["x", "y"])
    write_evaluation(root, "valid", evaluation, ["x", "y"], "title")
    training.folder.finish({"ua": summary["ua"]}, lambda folder: save_model(folder, {}))
    assert [line.split(",")[:3] for line in (root / "predictions_valid.csv").read_text().splitlines()[1:]] == [
        ["a", "x", "x"],
        ["b", "y", "y"],
        ["c", "y", "x"],
    ]
    with np.load(root / "embeddings_valid.npz") as arrays:
        assert arrays["fused"].dtype == np.float16
    assert (root / "confusion_valid.png").stat().st_size > 1000
    assert json.loads((root / "result.json").read_text()) == {"ua": 0.75}
