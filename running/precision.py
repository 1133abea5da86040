"""Which precision the matrix products run in."""

import contextlib
import os

import torch

PRECISIONS = ("auto", "no", "fp16", "bf16")
NARROW = 256  # below this width casting costs what bf16 products save


def autocast(device_type, precision):
    """A context in which matrix products run in a precision of `choose_precision`."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return contextlib.nullcontext() if dtype is None else torch.autocast(device_type, dtype)


def choose_precision(requested, device_type, width):
    """The precision that `auto` stands for: the fastest one that trains safely.

    bf16 keeps the range of fp32, so it needs no loss scaling; it is taken where the device multiplies it natively.
    Losses, softmaxes and norms stay in fp32. What `accelerate launch --mixed_precision` says comes before `auto`.

    Args:
        requested: one of PRECISIONS.
        device_type: `cpu`, `cuda`, ...
        width: of the widest layers; below NARROW nothing is gained.
    Returns: `no`, `fp16` or `bf16`.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if requested != "auto":
        return requested
    if launched != "no":
        return launched
    if width < NARROW:
        return "no"
    if device_type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device_type == "cpu":
        return "bf16" if torch.cpu.get_capabilities().get("avx512_bf16") else "no"
    return "no"
