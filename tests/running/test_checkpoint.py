"""Checkpoints killed at every file event, damaged in every file, mixed, replaced: whole, or refused by name."""

import os
import pickle
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from forked import die_at

from running.checkpoint import MANIFEST, adopt, find_version, read_manifest, verify, write_manifest, write_version
from running.errors import InputError
from running.training_state import TrainingState

ALONE = SimpleNamespace(
    is_main_process=True,
    process_index=0,
    num_processes=1,
    device=torch.device("cpu"),
    scaler=None,
    wait_for_everyone=lambda: None,
)


class Little(torch.nn.Sequential):
    """A network that saves all its weights."""

    own_state_dict, load_own_state_dict = torch.nn.Module.state_dict, torch.nn.Module.load_state_dict


def build_state(seed=0):
    """A little training that has made three steps."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = Little(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    state = TrainingState(ALONE, model, optimizer, scheduler, save_model=None)
    for _ in range(3):
        step(state)
    return state


def step(state):
    state.model(torch.randn(5, 3) + np.random.rand()).square().sum().backward()
    state.optimizer.step()
    state.scheduler.step()
    state.optimizer.zero_grad()
    state.progress.steps += 1
    pair = state.model[0].weight.detach().sum() * torch.ones(2)
    state.totals.pairs["loss"] = state.totals.pairs.get("loss", torch.zeros(2)) + pair


def save(state, path):
    write_version(path, ALONE, state.write, {"epoch": state.progress.steps // 10, "step": state.progress.steps})


def weights(state):
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


def test_a_state_goes_on_to_the_last_bit(tmp_path):
    state = build_state()
    save(state, tmp_path / "last")
    for _ in range(4):
        step(state)
    drawn = np.random.rand()
    again = build_state(seed=1)
    again.read(tmp_path / "last")
    assert again.progress.steps == 3
    for _ in range(4):
        step(again)
    assert torch.equal(weights(again), weights(state))
    assert torch.equal(again.totals.pairs["loss"], state.totals.pairs["loss"])
    assert again.scheduler.get_last_lr() == state.scheduler.get_last_lr()
    assert np.random.rand() == drawn


def kill_at(event, root, work):
    """Do `work` in a child that is killed (SIGKILL) at its event-th file event under root. Returns: whether it was."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    die_at(event, root)
    try:
        work()
    finally:
        os._exit(0)


def load(path):
    """Go on from what is there, as a resumed run does. Returns: steps of the state."""
    folder, _ = find_version(path)
    adopt(path, folder)
    state = build_state(seed=9)
    state.read(path)
    assert read_manifest(path)["step"] == state.progress.steps
    return state


def test_killed_at_every_file_event_twice_in_a_row_it_loses_nothing(tmp_path):
    """Steps 3 and 4 are saved; a resumption and its save are killed at event n, the one after it at event m."""
    torch.set_num_threads(1)
    events = 0
    for n in range(1, 200):
        root = tmp_path / str(n)
        state = build_state()
        save(state, root / "last")
        step(state)
        save(state, root / "last")

        def go_on(root=root):
            resumed = load(root / "last")
            step(resumed)
            save(resumed, root / "last")

        if not kill_at(n, root, go_on):
            break
        events = n
        kill_at((7 * n) % 40 + 1, root, go_on)
        survived = load(root / "last")
        assert survived.progress.steps in (4, 5, 6)
        while survived.progress.steps < 8:
            step(survived)
        reference = build_state()
        for _ in range(5):
            step(reference)
        assert torch.equal(weights(survived), weights(reference))
        shutil.rmtree(root)
    assert events > 20  # with fewer the hook has not seen the save


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder with `last` of step 4 and `last.old` of step 3."""
    root = tmp_path_factory.mktemp("saved")
    state = build_state()
    save(state, root / "last")
    step(state)
    save(state, root / "last")
    return root


class Canary:
    def __reduce__(self):
        return os.system, (f"touch {os.environ.get('CANARY', '/dev/null')}",)


def truncate(share):
    def damage(file, other):
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])

    return damage


def flip(file, other):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_last_byte(file, other):
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES = {
    "empty": truncate(0),
    "a quarter": truncate(0.25),
    "half": truncate(0.5),
    "one byte short": cut_last_byte,
    "flipped": flip,
    "removed": lambda file, other: file.unlink(),
    "of another step": lambda file, other: shutil.copy(other, file),
    "canary": lambda file, other: file.write_bytes(pickle.dumps(Canary())),
}
FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "rank_0.npz", MANIFEST)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_and_the_one_before_is_used(saved, tmp_path, monkeypatch, name, damage):
    monkeypatch.setenv("CANARY", str(tmp_path / "sang"))
    shutil.copytree(saved, tmp_path / "run")
    DAMAGES[damage](tmp_path / "run" / "last" / name, tmp_path / "run" / "last.old" / name)
    folder, problems = find_version(tmp_path / "run" / "last")
    assert folder == tmp_path / "run" / "last.old"
    assert len(problems) == 1
    assert str(tmp_path / "run" / "last") in problems[0]
    assert load(tmp_path / "run" / "last").progress.steps == 3
    assert not (tmp_path / "sang").exists()


def test_a_manifest_that_says_another_step_is_not_believed(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    path = tmp_path / "run" / "last" / MANIFEST
    path.write_text(path.read_text().replace('"step": 4', '"step": 5'))
    assert find_version(tmp_path / "run" / "last")[1] == [f"{path}: is not what was written"]


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_canary_with_a_manifest_of_its_own_is_refused_and_does_not_sing(saved, tmp_path, monkeypatch, name):
    monkeypatch.setenv("CANARY", str(tmp_path / "sang"))
    shutil.copytree(saved / "last", tmp_path / "last")
    (tmp_path / "last" / name).write_bytes(pickle.dumps(Canary()))
    (tmp_path / "last" / MANIFEST).unlink()
    write_manifest(tmp_path / "last", {"epoch": 0, "step": 4})
    verify(tmp_path / "last")
    with pytest.raises(InputError, match=str(tmp_path / "last" / name)):
        build_state().read(tmp_path / "last")
    assert not (tmp_path / "sang").exists()
    pickle.loads(pickle.dumps(Canary()))  # it would have
    assert (tmp_path / "sang").exists()


def test_where_nothing_is_whole_it_is_refused_in_one_line(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    for folder in ("last", "last.old"):
        (tmp_path / "run" / folder / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"last.state\.json: 2 bytes where .*last\.old.state\.json: 2 bytes where"):
        find_version(tmp_path / "run" / "last")


def test_best_of_another_epoch_is_not_taken(tmp_path):
    state = build_state()
    for steps in (10, 20):
        state.progress.steps = steps
        save(state, tmp_path / "best")
    assert find_version(tmp_path / "best", epoch=1)[0] == tmp_path / "best.old"
    with pytest.raises(InputError, match="is of epoch 2, not 7"):
        find_version(tmp_path / "best", epoch=7)


def test_weights_of_another_shape_are_one_line(saved, tmp_path):
    shutil.copytree(saved / "last", tmp_path / "last")
    state = build_state()
    state.model[0] = torch.nn.Linear(5, 4)
    with pytest.raises(InputError, match=r"model\.safetensors: does not fit this training") as caught:
        state.read(tmp_path / "last")
    assert "\n" not in str(caught.value)
    assert Path(tmp_path).exists()
