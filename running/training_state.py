"""What a training is between two steps, as files and back: weights, moments, schedule, position, random states.

    model.safetensors       weights                     state.json       progress, schedule, loss scale, groups
    optimizer.safetensors   AdamW's moments             rank_<r>.npz     random states and sums of the epoch so far

The first process writes the first three, which are the same in all. Nothing of it is pickled.
"""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from running.errors import InputError
from running.records import read_json
from running.watching import Totals


@dataclass
class Progress:
    """How far a run is."""

    epoch: int = 0  # finished
    batch: int = 0  # finished of the epoch after it
    steps: int = 0  # of the optimizer so far, the seed of the next hard negatives
    bad_steps: int = 0  # in a row, the last ones
    best_epoch: int = 0
    best_score: float = -1.0  # UA or WA of that epoch, as --choose_by says
    history: list = field(default_factory=list)  # the lines of metrics.jsonl


@dataclass
class TrainingState:
    """The parts of a training that change with its steps.

    model: FoalNet, not wrapped. optimizer, scheduler: of torch or accelerate. save_model: function of a folder and a
    state dict that writes the model.
    """

    accelerator: object
    model: torch.nn.Module
    optimizer: object
    scheduler: object
    save_model: object
    progress: Progress = field(default_factory=Progress)
    best: dict | None = None  # weights of the best epoch on the host, in the first process, until they are written
    best_is_new: bool = False
    totals: Totals = field(default_factory=Totals)  # of the epoch that is being trained

    def keep_best(self):
        """Hold on to the weights of this moment, which are the best so far, until the next save."""
        self.best_is_new = True
        if self.accelerator.is_main_process:
            self.best = {
                name: value.detach().to("cpu", copy=True) for name, value in self.model.own_state_dict().items()
            }

    def write_best(self, folder):
        """Write the best model into a folder, whole but for its card."""
        if self.accelerator.is_main_process:
            self.save_model(folder, self.best)
            self.best = None

    def write(self, folder):
        """Write this process's files into a folder; the first process writes those of all."""
        rank = self.accelerator.process_index
        np.savez(folder / f"rank_{rank}.npz", **_random_states(self.accelerator.device), **self.totals.to_arrays())
        if not self.accelerator.is_main_process:
            return
        moments = self.optimizer.state_dict()
        save_file({k: v.contiguous() for k, v in self.model.own_state_dict().items()}, folder / "model.safetensors")
        tensors = {f"{i}.{name}": value for i, values in moments["state"].items() for name, value in values.items()}
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "optimizer.safetensors")
        scaler = self.accelerator.scaler
        content = {
            "progress": self.progress.__dict__,
            "scheduler": self.scheduler.state_dict(),
            "groups": moments["param_groups"],
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        (folder / "state.json").write_text(json.dumps(content, allow_nan=False), encoding="utf-8")

    def read(self, folder):
        """Take everything up again. Raises: InputError that names the file."""
        folder, device = Path(folder), self.accelerator.device
        path = folder / "model.safetensors"
        try:
            self.model.load_own_state_dict(load_file(path))
            path = folder / "optimizer.safetensors"
            moments, content = {}, read_json(folder / "state.json")
            for name, value in load_file(path).items():
                i, key = name.split(".")
                moments.setdefault(int(i), {})[key] = value
            groups = [{**group, "betas": tuple(group["betas"])} for group in content["groups"]]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
            path = folder / "state.json"
            self.scheduler.load_state_dict(content["scheduler"])
            self.progress.__dict__.update(content["progress"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(content["scaler"])
            path = folder / f"rank_{self.accelerator.process_index}.npz"
            with np.load(path, allow_pickle=False) as arrays:
                self.totals.from_arrays(arrays, device)
                _take_up_random_states(arrays, device)
        except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: does not fit this training: {reason}") from error


def _random_states(device):
    """The random states of this process, {name: array}."""
    _, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    states = {"python": np.array(numbers, np.uint32), "python_gauss": np.array(np.nan if gauss is None else gauss)}
    states |= {"numpy": keys, "numpy_rest": np.array([position, has_gauss, cached], np.float64)}
    states |= {"torch": torch.get_rng_state().numpy()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device).numpy()
    return states


def _take_up_random_states(arrays, device):
    gauss = float(arrays["python_gauss"])
    random.setstate((3, tuple(arrays["python"].tolist()), None if np.isnan(gauss) else gauss))
    position, has_gauss, cached = arrays["numpy_rest"].tolist()
    np.random.set_state(("MT19937", arrays["numpy"], int(position), int(has_gauss), cached))
    torch.set_rng_state(torch.from_numpy(arrays["torch"]))
    if device.type == "cuda":
        torch.cuda.set_rng_state(torch.from_numpy(arrays["cuda"]), device)
