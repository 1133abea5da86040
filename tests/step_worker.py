"""One train_step and one evaluation by the parts of train.py; every process leaves what it saw. For test_distributed.

Called as `step_worker.py OUT [flags of train.py]`: writes OUT/<rank>.pt.
"""

import sys
from pathlib import Path

import torch

import train
from evaluation import evaluate


def step(run):
    """Means of the losses over all processes, and the gradients that the optimizer gets."""
    gradients, totals = {}, {}
    model = run.accelerator.unwrap_model(run.model)
    real = run.optimizer.step

    def keep(*args, **kwargs):
        gradients.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        return real(*args, **kwargs)

    run.optimizer.step = keep
    run.model.train()
    run.train_loader.batch_sampler.set_epoch(1)
    sizes = run.train_loader.batch_sampler.global_sizes
    wanted = run.args.gradient_accumulation_steps
    batches = list(run.train_loader)[-wanted:]  # the last one is the uneven one
    train.train_step(run, batches, sizes[-wanted:], totals)
    totals = {name: run.accelerator.reduce(pair, "sum") for name, pair in totals.items()}
    return {name: (pair[0] / pair[1]).item() for name, pair in totals.items()}, gradients, batches


def main():
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    run = train.build_run(train.parse_args(sys.argv[2:]))
    model = run.accelerator.unwrap_model(run.model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    losses, gradients, batches = step(run)
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


if __name__ == "__main__":
    train.start_cpu_processes(sys.argv)
    main()
