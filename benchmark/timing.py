"""Arms run in turn, A B A B ...: seconds, FLOPs and peak memory of each, and the machine's own ceilings."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, shape_wrapper

from running.precision import choose_precision
from running.progress import progress_bar


@dataclass
class Arm:
    """One way of doing a workload: `run()` does it once, and what it costs is collected here."""

    name: str
    run: callable
    precision: str = "no"
    forget: callable = None  # drops what `run` keeps, the moments of an optimizer
    weights: int = 0  # bytes
    flops: float = 0.0  # of one run
    peak_bytes: int = 0  # weights and what `run` allocates
    seconds: list = None


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_peak(run, device):
    """The most bytes of tensors that `run` holds at a time beyond those that were there, as the allocator reports."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True, acc_events=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(np.cumsum([event.nbytes() for event in events]), default=0)


@shape_wrapper
def count_convolution_backward(gradient, states, weight, *options, out_shape=None, **_):
    """FLOPs of a convolution's gradients; torch's own formula forgets the groups."""
    transposed, wanted = options[4], options[-1]
    return sum(wanted[:2]) * conv_flop_count(states, weight, gradient, transposed=transposed)


count_convolution_backward._get_raw = True  # what torch's counter wants to know of a formula
FORMULAS = {torch.ops.aten.convolution_backward: count_convolution_backward}


def time_arms(arms, rounds, device):
    """Run the arms in turn: a first round fills in `flops`, a second one `peak_bytes`, the others `seconds`."""
    for arm in arms:
        with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
            arm.run()
        arm.flops, arm.seconds = counter.get_total_flops(), []
        if arm.forget is not None:
            arm.forget()
    for arm in arms:
        if arm.weights:
            arm.peak_bytes = arm.weights + measure_peak(arm.run, device)
            if arm.forget is not None:
                arm.forget()
    for _ in progress_bar(range(rounds), desc=" / ".join(arm.name for arm in arms), leave=False):
        for arm in arms:
            synchronize(device)
            started = time.perf_counter()
            arm.run()
            synchronize(device)
            arm.seconds.append(time.perf_counter() - started)


def measure_ceilings(device, rounds=5):
    """The machine at its best: FLOP/s of a large matrix product by precision, and `bytes`, bytes/s of a copy."""
    n, ceilings = 8192 if device.type == "cuda" else 2048, {}
    for name, dtype in (("no", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if device.type == "cpu" and name not in ("no", choose_precision("auto", "cpu", n)):
            continue  # emulated, and slow beyond patience
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        ceilings[name] = 2 * n**3 / best_time(lambda a=a, b=b: a @ b, rounds, device)
    source = torch.randn(64 * 2**20, device=device)
    target = torch.empty_like(source)
    ceilings["bytes"] = 2 * source.nbytes / best_time(lambda: target.copy_(source), rounds, device)
    return ceilings


def best_time(function, rounds, device):
    times = []
    for _ in range(rounds + 1):
        synchronize(device)
        started = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def profile_arm(arm, kinds=14):
    """Which operations an arm spends its time in: text, a line each with its share of the time on the CPU (or GPU)."""
    with torch.profiler.profile(acc_events=True) as profiler:
        arm.run()
    on_gpu = any(event.self_device_time_total for event in profiler.key_averages())
    times = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    total = sum(times.values())
    largest = sorted(times, key=times.get, reverse=True)[:kinds]
    return "\n".join([arm.name, *(f"{100 * times[key] / total:6.1f} %  {key}" for key in largest)])
