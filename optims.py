"""AdamW's parameter groups and the learning rate schedules.

Every schedule is a torch LambdaLR over optimizer steps (not epochs, not batches), so it is saved with the optimizer
and means the same with gradient accumulation. Source of the shapes: LAVIS' linear warmup + cosine / step schedules,
which the release builds and then does not use.
"""

import math

import torch
from torch.optim.lr_scheduler import LambdaLR

SCHEDULERS = ("cosine", "step", "constant", "none")


def build_optimizer(model, lr, weight_decay, encoder_lr=None, decay_all=True, fused=True):
    """AdamW over the trainable parameters.

    Args:
        model: FoalNet.
        lr: learning rate of everything but, with `encoder_lr`, the speech encoder.
        weight_decay: AdamW's.
        encoder_lr: learning rate of the speech encoder; None = lr.
        fused: torch's fused kernel.
        decay_all: False takes biases, norms and other one-dimensional parameters out of the decay.
    Returns: AdamW; the encoder's groups come first.
    """
    groups, encoder = {}, f"{model.encoder_name}."
    for name, parameter in sorted(model.named_parameters(), key=lambda item: not item[0].startswith(encoder)):
        if not parameter.requires_grad:
            continue
        group_lr = encoder_lr if encoder_lr is not None and name.startswith(encoder) else lr
        decay = weight_decay if decay_all or parameter.ndim > 1 else 0.0
        groups.setdefault((group_lr, decay), []).append(parameter)
    groups = [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
    return torch.optim.AdamW(groups, fused=fused)


def build_scheduler(
    name, optimizer, steps, warmup_ratio=0.1, warmup_start_lr=1e-6, min_lr=1e-5, decay_rate=0.1, decay_every=1 / 3
):
    """A schedule over `steps` optimizer steps.

    Args:
        name: `cosine`: warmup, then half a cosine from lr to min_lr. `step`: warmup, then lr times decay_rate after
            every decay_every of the remaining steps, at least min_lr. `constant`: warmup, then lr. `none`: lr
            throughout, which is what the release really does.
        optimizer: its groups' learning rates are the peaks.
        warmup_ratio: share of the steps in which the rate rises linearly from warmup_start_lr to lr.
    Returns: LambdaLR; call `step()` once after each optimizer step.
    """
    warmup = 0 if name == "none" else round(warmup_ratio * steps)

    def schedule(peak):
        start, floor = min(warmup_start_lr, peak), min(min_lr, peak)

        def rate(step):
            if step < warmup:
                return start + (peak - start) * step / warmup
            progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
            if name == "cosine":
                return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))
            if name == "step":
                return max(floor, peak * decay_rate ** int(progress / decay_every + 1e-9))
            return peak

        return lambda step: rate(step) / (peak or 1.0)

    return LambdaLR(optimizer, [schedule(group["lr"]) for group in optimizer.param_groups])
