"""Two train_steps and the evaluations by the parts of train.py; every process leaves what it saw. For test_distributed.

Every process of main() writes <out>/<rank>.pt.
"""

import torch

import train
from running.evaluation import evaluate
from running.watching import Totals


def step(run, batch, size):
    """One train_step: means of the losses over all processes, and the gradients that the optimizer gets."""
    gradients, totals = {}, Totals()
    model = run.accelerator.unwrap_model(run.model)
    real = run.optimizer.step

    def keep(*args, **kwargs):
        gradients.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        return real(*args, **kwargs)

    run.optimizer.step = keep
    run.model.train()
    train.train_step(run, batch, size, totals)
    run.optimizer.step = real
    means = totals.means(run.accelerator)
    return {name.removeprefix("train_"): value for name, value in means.items()}, gradients


def main(out, flags):
    run = train.build_run(train.parse_args(flags))
    model = run.accelerator.unwrap_model(run.model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    sampler = run.train_loader.batch_sampler
    sampler.set_epoch(1)
    batches = list(run.train_loader)
    batches, sizes = (
        [batches[0], batches[-1]],
        [sampler.global_sizes[0], sampler.global_sizes[-1]],
    )  # the last is uneven
    losses, gradients = zip(*(step(run, *pair) for pair in zip(batches, sizes, strict=True)), strict=True)
    evaluations = [evaluate(run.accelerator, model, loader) for loader in run.evaluation_loaders.values()]
    content = {
        "processes": run.accelerator.num_processes,
        "losses": losses,
        "gradients": gradients,
        "utt_ids": [batch["utt_ids"] for batch in batches],
        "evaluated": [(e.utt_ids, torch.from_numpy(e.logits)) for e in evaluations],
        "weights": {name: p.detach().clone() for name, p in model.named_parameters()},
    }
    torch.save(content, out / f"{run.accelerator.process_index}.pt")
    run.accelerator.end_training()
