"""What is watched while a FoalNet trains: means over an epoch, steps without a finite gradient, the losses' shares.

The names are those of metrics.jsonl. Nothing here waits for the device inside a step.
"""

import copy
import logging
import math

import numpy as np
import torch

from encoders import find_holder
from running.errors import Diverged
from running.evaluation import move_inputs

logger = logging.getLogger("foalnet.train")

LOSSES = ("loss", "loss_cls", "loss_avel", "loss_mem")


class Totals:
    """Sums and counts of an epoch, kept on the device until the epoch ends."""

    def __init__(self):
        self.pairs = {}  # {name: (2,) float32 tensor, sum and count}

    def _add(self, name, total, count):
        numbers = [x if torch.is_tensor(x) else torch.full((), x, device=total.device) for x in (total, count)]
        pair = torch.stack([number.float() for number in numbers])
        self.pairs[name] = self.pairs[name] + pair if name in self.pairs else pair

    def to_arrays(self):
        """{"totals.<name>": (2,) float32 array}, for a file."""
        return {f"totals.{name}": pair.cpu().numpy() for name, pair in self.pairs.items()}

    def from_arrays(self, arrays, device):
        """Take up what `to_arrays` gave, out of a mapping that may hold more."""
        names = [name for name in arrays if name.startswith("totals.")]
        self.pairs = {name.removeprefix("totals."): torch.from_numpy(arrays[name]).to(device) for name in names}

    @torch.no_grad()
    def add(self, output, labels, size, bad):
        """Add what a batch says.

        Args:
            output: FoalNetOutput. labels: (B,) int64 of this process. size: utterances over all processes.
            bad: () float32, 1 for a step without a finite gradient, of which nothing else counts.
        """
        before = dict(self.pairs)
        self._add_batch(output, labels, size)
        for name, pair in self.pairs.items():
            self.pairs[name] = torch.where(bad > 0, before.get(name, torch.zeros_like(pair)), pair)
        self._add("bad_steps", bad, 1)

    def _add_batch(self, output, labels, size):
        for name in LOSSES:
            if name in output:
                self._add(name, output[name] * size, size)
        if output.mem_logits_audio is not None:
            right = [
                (logits.argmax(-1) == output.mem_targets) & output.mem_mask
                for logits in (output.mem_logits_audio, output.mem_logits_video)
            ]
            self._add("mem_accuracy", sum(right).sum(), 2 * output.mem_mask.sum())
        if output.audio_embeds is not None:
            similarity = output.audio_embeds @ output.video_embeds.T
            same = labels[:, None] == labels
            self._add("similarity_same", (similarity * same).sum(), same.sum())
            self._add("similarity_other", (similarity * ~same).sum(), (~same).sum())

    def means(self, accelerator):
        """{name: mean over the epoch and all processes, None where nothing counts}; losses get the prefix `train_`."""
        reduced = {name: accelerator.reduce(pair, "sum").tolist() for name, pair in self.pairs.items()}
        bad = reduced.pop("bad_steps", [0])[0] / accelerator.num_processes
        means = {"bad_steps": round(bad)} if bad else {}
        return means | {
            f"train_{name}" if name in LOSSES else name: a / n if n else None for name, (a, n) in reduced.items()
        }


def skip_bad_step(run, parameters, norm=None):
    """Leave the weights and moments alone in the next optimizer step if a gradient holds NaN or infinity.

    The fused AdamW looks at `found_inf` where the gradients are, so the host waits for nothing. Under fp16 the loss
    scaler skips a step that overflows, which is its way of finding the scale; it is bad only when the scale is 1.

    Args:
        run: its optimizer and accelerator. parameters: list, gradients averaged over processes.
        norm: of all gradients, where it is known.
    Returns: () float32, 1 for a bad step, on the device of the gradients.
    """
    if norm is None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    bad = 1.0 - torch.isfinite(norm).float()
    scaler = run.accelerator.scaler
    if scaler is not None:
        return bad * float(scaler.get_scale() <= 1)
    getattr(run.optimizer, "optimizer", run.optimizer).found_inf = bad
    return bad


class BadSteps:
    """Names steps without a finite gradient, and ends a training that has too many of them in a row.

    A step is looked at when the next one is under way, so that the host waits for no step that it has just begun.

    Args:
        limit: in a row. progress: its `bad_steps` counts them.
    """

    def __init__(self, limit, progress):
        self.limit, self.progress, self.pending = limit, progress, None

    def add(self, bad, logits, utt_ids, where):
        """Look at the step before, and keep this one.

        Args:
            bad: () float32 of `find_bad_step`. logits: (B, C) of this process, utt_ids: list of B str.
            where: words that say which step it is.
        Raises: Diverged.
        """
        self.flush()
        self.pending = bad, torch.isfinite(logits.detach()).all(-1), utt_ids, where

    def flush(self):
        """Look at the step that is kept. Raises: Diverged."""
        if self.pending is None:
            return
        bad, finite, utt_ids, where = self.pending
        self.pending = None
        if not bad:
            self.progress.bad_steps = 0
            return
        self.progress.bad_steps += 1
        broken = np.asarray(utt_ids)[~finite.cpu().numpy()].tolist()
        whose = f"no finite logits: {', '.join(broken)}" if broken else f"utterances: {', '.join(utt_ids)}"
        logger.error(f"{where}: the gradient is not finite, step skipped ({self.progress.bad_steps} in a row); {whose}")
        if self.progress.bad_steps >= self.limit:
            raise Diverged(
                f"{where}: {self.limit} steps in a row without a finite gradient: the weights have diverged (a smaller "
                "--lr, --max_grad_norm 1) or the inputs hold values that are too large"
            )


def measure_gradients(accelerator, model, loader, seed):
    """What each loss does to the encoder: the norm of the gradient that it sends into its last layer.

    The batch is the first one of epoch 0, which is never trained on; no dropout, the training's precision, weighted as
    in the loss.

    Args:
        model: FoalNet, not wrapped for distributed training.
        loader: the training list's, of `build_dataloaders`.
        seed: of the draws of negatives.
    Returns: {"gradient_cls", "gradient_avel", "gradient_mem": float}, of the losses that are computed; empty without
        a trained encoder.
    """
    if model.encoder is None:
        return {}
    sampler = copy.copy(loader.batch_sampler)
    sampler.set_epoch(0)
    inputs = move_inputs(loader.collate_fn([loader.dataset[i] for i in next(iter(sampler))]), accelerator.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    last = [p for p in find_holder(model.encoder).layers[-1].parameters() if p.requires_grad]
    model.eval().requires_grad_(False)
    for parameter in last:
        parameter.requires_grad_(True)  # no graph below it, so little memory
    output, norms = model(**inputs, seed=seed), {}
    for name, weight in (("cls", 1.0), ("avel", model.config.avel_weight), ("mem", model.config.mem_weight)):
        if f"loss_{name}" in output:
            loss = weight * output[f"loss_{name}"]
            gradients = torch.autograd.grad(loss, last, retain_graph=True)
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            norm = accelerator.reduce(flat, "mean").norm().item()
            norms[f"gradient_{name}"] = norm if math.isfinite(norm) else None
    for parameter in trained:
        parameter.requires_grad_(True)
    return norms
