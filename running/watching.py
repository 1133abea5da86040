"""What is watched while a FoalNet trains: means over an epoch, and what each loss does to the encoder.

The names are those of metrics.jsonl. Nothing here waits for the device inside a step.
"""

import copy

import torch

from running.evaluation import move_inputs

LOSSES = ("loss", "loss_cls", "loss_avel", "loss_mem")


class Totals:
    """Sums and counts of an epoch, kept on the device until the epoch ends."""

    def __init__(self):
        self.pairs = {}  # {name: (2,) float32 tensor, sum and count}

    def _add(self, name, total, count):
        numbers = [x if torch.is_tensor(x) else torch.full((), x, device=total.device) for x in (total, count)]
        pair = torch.stack([number.float() for number in numbers])
        self.pairs[name] = self.pairs[name] + pair if name in self.pairs else pair

    @torch.no_grad()
    def add(self, output, labels, size):
        """Add what a batch says.

        Args:
            output: FoalNetOutput. labels: (B,) int64 of this process. size: utterances over all processes.
        """
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
        return {f"train_{name}" if name in LOSSES else name: a / n if n else None for name, (a, n) in reduced.items()}


def measure_gradients(accelerator, model, loader, seed):
    """What each loss does to the encoder: the norm of the gradient that it sends into WavLM's last layer.

    The batch is the first one of epoch 0, which is never trained on; no dropout, fp32, weighted as in the loss.

    Args:
        model: FoalNet, not wrapped for distributed training.
        loader: the training list's, of `build_dataloaders`.
        seed: of the draws of negatives.
    Returns: {"gradient_cls", "gradient_avel", "gradient_mem": float}, of the losses that are computed; empty without
        a trained WavLM.
    """
    if "a" not in model.config.modality or model.config.freeze_encoder:
        return {}
    sampler = copy.copy(loader.batch_sampler)
    sampler.set_epoch(0)
    inputs = move_inputs(loader.collate_fn([loader.dataset[i] for i in next(iter(sampler))]), accelerator.device)
    trained, last = [p for p in model.parameters() if p.requires_grad], model.wavlm.encoder.layers[-1]
    model.eval().requires_grad_(False)
    last.requires_grad_(True)  # no graph below it, so little memory
    output, norms = model(**inputs, seed=seed), {}
    for name, weight in (("cls", 1.0), ("avel", model.config.avel_weight), ("mem", model.config.mem_weight)):
        if f"loss_{name}" in output:
            loss = weight * output[f"loss_{name}"]
            gradients = torch.autograd.grad(loss, list(last.parameters()), retain_graph=True)
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            norms[f"gradient_{name}"] = accelerator.reduce(flat, "mean").norm().item()
    for parameter in trained:
        parameter.requires_grad_(True)
    return norms
