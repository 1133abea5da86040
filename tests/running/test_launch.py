"""How many processes train: told, not told, on two machines, and ways that are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState, PartialState
from forked import find_port

from optims import build_optimizer
from running.errors import InputError
from running.launch import UNSUPPORTED, join_processes, parse_launch_flags
from tiny import build_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh_state():
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    PartialState._reset_state()


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("train.py --num_processes 3", {}),
        ("--num-processes=2 --cpu train.py --lr 1", {"num_processes": "2", "cpu": True}),
        (
            "--multi_gpu --num_processes 4 -m scripts.extract_clip",
            {"multi_gpu": True, "num_processes": "4", "m": "scripts.extract_clip"},
        ),
    ],
)
def test_the_flags_of_the_launcher_end_where_the_script_begins(words, flags):
    assert parse_launch_flags(words.split()) == flags


WORKER = """
import os, sys, torch
from running import launch
launch.stay_alone(FLAGS, has_config=CONFIG)
state = launch.join_processes(cpu=True)
word = "alone" if state.num_processes == 1 else "together"
os.write(1, f"{word} {os.environ.get('WORLD_SIZE')}{chr(10)}".encode())  # whole, though two write
"""


@pytest.mark.parametrize(
    ("flags", "config", "expected"),
    [
        ({"main_process_port": "29600"}, False, ["alone None"]),
        ({"num_processes": "2"}, False, ["together 2"] * 2),
        ({"main_process_port": "29600"}, True, ["together 2"] * 2),
        ({}, False, ["alone None"]),
        (None, False, ["together 2"] * 2),
    ],
    ids=["nobody asked", "asked", "a configuration", "no flag at all", "another launcher"],
)
def test_one_process_unless_told_otherwise(tmp_path, flags, config, expected):
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER.replace("FLAGS", repr(flags)).replace("CONFIG", repr(config)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--master_port={find_port()}", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, worker], env=environment, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.split("\n")[:-1] == expected
    assert ("2 GPUs are here and one is used: accelerate launch --num_processes 2" in done.stderr) == (
        len(expected) == 1
    )


MACHINE = """
import sys
from running.launch import join_processes, start_processes
start_processes(sys.argv)
state = join_processes()
print(state.process_index, state.num_processes, flush=True)
state.destroy_process_group()
"""


def test_two_machines_join_each_other(tmp_path):
    """Each in a launcher of its own with its rank and the first one's address."""
    script, port = tmp_path / "machine.py", find_port()
    script.write_text(MACHINE)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines=2", "--num_processes=2"]
    launcher += ["--main_process_ip=127.0.0.1", f"--main_process_port={port}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    machines = [
        subprocess.Popen(
            [*launcher, f"--machine_rank={rank}", script], env=environment, text=True, stdout=subprocess.PIPE
        )
        for rank in (0, 1)
    ]
    assert sorted(machine.communicate(timeout=240)[0] for machine in machines) == ["0 2\n", "1 2\n"]


@pytest.mark.parametrize("variable", UNSUPPORTED)
def test_ways_that_split_the_model_are_refused_in_one_line(monkeypatch, variable):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(InputError, match=rf"{UNSUPPORTED[variable]} is not supported.*--num_processes N") as error:
        join_processes()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("fused", "told"), [(False, True), (True, False)])
def test_only_the_plain_optimizer_tells_that_a_step_was_skipped(fused, told):
    """Why train.py takes the plain one for fp16: the schedule would run on while the weights stand still."""
    Accelerator(cpu=True)
    model = build_model(modality="v")
    optimizer = AcceleratedOptimizer(build_optimizer(model, 1e-3, 0.0, fused=fused), scaler=torch.amp.GradScaler("cpu"))
    optimizer.scaler.scale(model.cls_head.weight.sum() * torch.inf).backward()
    before = model.cls_head.weight.clone()
    optimizer.step()
    assert torch.equal(model.cls_head.weight, before)
    assert optimizer.step_was_skipped == told
