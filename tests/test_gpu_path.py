"""The path of a GPU, on a pretended one: same gradients and predictions as the CPU's, and where the host waits."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pretended_gpu import CUDA, OnGpu, PretendedGpu, move_parameters

import train
from optims import build_optimizer
from running.evaluation import move_inputs
from running.watching import Totals
from tiny import build_model, make_batch

SPEC = {"apply_spec_augment": True, "mask_time_prob": 0.3, "mask_time_length": 4, "mask_feature_prob": 0.2}
SPEC |= {"mask_feature_length": 4, "layerdrop": 0.3, "num_hidden_layers": 4}
ROWS = {
    "audio": {"modality": "a"},
    "video": {"modality": "v"},
    "baseline": {"avel_weight": 0.0, "mem_weight": 0.0},
    "avel": {"mem_weight": 0.0},
    "mem": {"avel_weight": 0.0},
    "both": {},
}


@pytest.fixture(autouse=True)
def generators_on_the_host(monkeypatch):
    """A generator can't pretend."""
    real = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda *_: real())


@pytest.fixture(autouse=True)
def recomputation_without_a_look_at_devices(monkeypatch):
    """torch compares the device of what it saved, seen from below the mode, with that of what it computed again."""
    monkeypatch.setitem(torch.utils.checkpoint._allowed_determinism_checks_to_fns, "default", lambda x: x.shape)


def backward(loss):
    """As Tensor.backward, whose own torch function would meet the mode."""
    run = torch.autograd.Variable._execution_engine.run_backward
    run((loss,), (torch.ones_like(loss),), False, False, (), True, True)


def take_step(device, **config):
    """One train_step. Returns: gradients that the optimizer got, means of the losses, waits."""
    np.random.seed(0)
    torch.manual_seed(0)
    model, gradients, totals = build_model(wavlm=SPEC, **config).train(), {}, Totals()
    if device.type == "cuda":
        move_parameters(model)
    optimizer = build_optimizer(model, 1e-3, 0.01)

    def keep(*_):
        gradients.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    optimizer.register_step_pre_hook(keep)
    accelerator = SimpleNamespace(
        device=device,
        backward=backward,
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
        optimizer_step_was_skipped=False,
        scaler=None,
    )
    run = SimpleNamespace(
        args=SimpleNamespace(seed=0, max_grad_norm=1.0),
        accelerator=accelerator,
        model=model,
        scheduler=SimpleNamespace(step=lambda: None),
        progress=SimpleNamespace(steps=0),
        optimizer=optimizer,
        train_loader=SimpleNamespace(batch_sampler=SimpleNamespace(first_row=lambda size: 0)),
    )
    with PretendedGpu() as gpu:
        train.train_step(run, make_batch([0, 1, 2, 1]), 4, totals)
    plain = {name: gradient.as_subclass(torch.Tensor) for name, gradient in gradients.items()}
    return plain, {name: pair.as_subclass(torch.Tensor) for name, pair in totals.pairs.items()}, gpu.waits


@pytest.mark.parametrize("row", list(ROWS))
def test_a_training_step_gives_the_gradients_of_the_cpu_and_the_host_never_waits(row):
    (gradients, totals, none), (found, sums, waits) = (
        take_step(torch.device(x), **ROWS[row]) for x in ("cpu", "cuda:0")
    )
    assert not none
    assert waits == set()
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for name, pair in totals.items():
        torch.testing.assert_close(sums[name], pair, rtol=1e-4, atol=1e-5)


def test_a_prediction_is_that_of_the_cpu_and_the_host_never_waits():
    batch = make_batch([0, 1, 2, 1])
    logits = build_model().eval()(**{k: v for k, v in batch.items() if k != "labels"}).logits
    model = move_parameters(build_model().eval())
    with PretendedGpu() as gpu, torch.no_grad():
        inputs = move_inputs(batch, CUDA)
        del inputs["labels"]
        found = model(**inputs).logits
    assert isinstance(found, OnGpu)
    assert gpu.waits == set()
    torch.testing.assert_close(found.as_subclass(torch.Tensor), logits, rtol=1e-4, atol=1e-5)


def test_the_pretended_gpu_sees_each_kind_of_wait():
    """Written where the mode looks: a module of the project."""
    source = "\n".join(["def wait(x, mask, host, device):", "    x.sum().item()", "    x[mask]", "    host.to(device)"])
    space = {}
    exec(compile(source, str(train.__file__), "exec"), space)
    with PretendedGpu() as gpu:
        x = torch.ones(3, device=CUDA)
        space["wait"](x, x > 0, torch.ones(3), CUDA)
        with pytest.raises(AssertionError, match="two devices"):
            x + torch.ones(3)
    assert {wait.split(" ", 1)[1] for wait in gpu.waits} == {"item", "boolean index", "copy that is waited for"}
