"""optims.py: learning rates at the key steps of each schedule, parameter groups, and going on after a pause."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

from optims import SCHEDULERS, build_optimizer, build_scheduler
from tiny import build_model

PEAK, STEPS = 1e-3, 101  # 10 steps of warmup, then steps 10 to 100


def make_optimizer(*rates):
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or [PEAK]])


def list_rates(name, optimizer=None, steps=STEPS, **options):
    optimizer = optimizer or make_optimizer()
    scheduler = build_scheduler(name, optimizer, steps, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", ["cosine", "step", "constant"])
def test_the_warmup_is_linear_from_its_start_to_the_peak(name):
    rates = list_rates(name)
    for step in range(11):
        assert rates[step] == pytest.approx(1e-6 + (PEAK - 1e-6) * step / 10)


def test_the_cosine_falls_from_the_peak_to_its_floor():
    rates = list_rates("cosine")
    assert rates[10] == max(rates) == pytest.approx(PEAK)
    for step in range(10, 101):
        assert rates[step] == pytest.approx(1e-5 + (PEAK - 1e-5) * (1 + math.cos(math.pi * (step - 10) / 90)) / 2)
    assert rates[-1] == min(rates[10:]) == pytest.approx(1e-5)


def test_the_steps_fall_by_a_tenth_after_each_third():
    rates = list_rates("step")
    assert rates[10:40] == pytest.approx([PEAK] * 30)
    assert rates[40:70] == pytest.approx([PEAK / 10] * 30)
    assert rates[70:100] == pytest.approx([PEAK / 100] * 30)
    assert min(rates[10:]) >= 1e-5 * (1 - 1e-6)


def test_constant_and_none():
    assert list_rates("constant")[10:] == pytest.approx([PEAK] * 91)
    assert list_rates("none") == [PEAK] * STEPS


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.9])
def test_short_runs_have_positive_rates_up_to_the_peak(name, steps, warmup_ratio):
    rates = list_rates(name, steps=steps, warmup_ratio=warmup_ratio)
    assert all(0 < rate <= PEAK * (1 + 1e-9) for rate in rates)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_rate_after_the_last_step_stays_at_the_end(name):
    optimizer = make_optimizer()
    last = list_rates(name, optimizer)[-1]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(last)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("peak", [0.0, 1e-8, 1e-2])
def test_each_group_has_its_own_peak(name, peak):
    optimizer = make_optimizer(peak, PEAK)
    scheduler = build_scheduler(name, optimizer, STEPS)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([peak, PEAK])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_saved_schedule_goes_on_where_it_stopped(name):
    expected = list_rates(name)
    first = make_optimizer()
    scheduler = build_scheduler(name, first, STEPS)
    for _ in range(43):
        first.step()
        scheduler.step()
    second = make_optimizer()
    again = build_scheduler(name, second, STEPS)
    assert isinstance(again, LRScheduler)
    again.load_state_dict(scheduler.state_dict())
    second.load_state_dict(first.state_dict())
    for step in range(43, STEPS):
        assert second.param_groups[0]["lr"] == pytest.approx(expected[step])
        second.step()
        again.step()


def test_every_trainable_parameter_is_in_one_group_and_no_frozen_one():
    model = build_model()
    for options in ({}, {"encoder_lr": 1e-5}, {"decay_all": False}, {"encoder_lr": 1e-5, "decay_all": False}):
        optimizer = build_optimizer(model, 1e-4, 0.01, **options)
        found = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_groups_have_the_rates_and_decays_asked_for():
    model = build_model()
    optimizer = build_optimizer(model, 1e-4, 0.02, encoder_lr=1e-5, decay_all=False)
    settings = {
        id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    for name, p in model.named_parameters():
        if p.requires_grad:
            rate = 1e-5 if name.startswith("wavlm.") else 1e-4
            assert settings[id(p)] == (rate, 0.02 if p.ndim > 1 else 0.0), name
    plain = build_optimizer(model, 1e-4, 0.02)
    assert [(group["lr"], group["weight_decay"]) for group in plain.param_groups] == [(1e-4, 0.02)]
    assert isinstance(plain, torch.optim.AdamW)


@pytest.mark.parametrize("modality", ["av", "a", "v"])
@pytest.mark.parametrize("decay_all", [True, False])
def test_the_last_group_is_the_head(modality, decay_all):
    """Its rate is the `learning_rate` of metrics.jsonl."""
    optimizer = build_optimizer(build_model(modality=modality), 1e-4, 0.01, encoder_lr=1e-5, decay_all=decay_all)
    assert optimizer.param_groups[-1]["lr"] == 1e-4
