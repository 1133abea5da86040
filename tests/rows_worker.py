"""Many steps of every row of the ablation, losses by step; for test_distributed.

Every process of main() writes <out>/<rank>.json. Dropout is off; layerdrop and SpecAugment are what the checkpoint
says. Gradients are reduced in many small buckets, as those of a large model are.
"""

import functools
import json

import torch
from accelerate import PartialState

import train
from running import building
from running.watching import Totals

ROWS = {
    "audio": ["--modality=a"],
    "video": ["--modality=v"],
    "baseline": ["--avel_weight=0", "--mem_weight=0"],
    "avel": ["--mem_weight=0"],
    "mem": ["--avel_weight=0"],
    "both": [],
    "both, streams dropped": ["--modality_dropout=0.6"],
    "baseline, streams dropped": ["--modality_dropout=0.6", "--avel_weight=0", "--mem_weight=0"],
}


def take_steps(steps, flags):
    """The losses of each of some training steps: list of dicts."""
    run, losses, epoch = train.build_run(train.parse_args(flags)), [], 0
    for module in run.plain_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    run.model.train()
    while len(losses) < steps:
        epoch += 1
        sampler = run.train_loader.batch_sampler
        sampler.set_epoch(epoch)
        for batch, size in zip(run.train_loader, sampler.global_sizes, strict=True):
            totals = Totals()
            train.train_step(run, batch, size, totals)
            means = totals.means(run.accelerator)
            losses.append({name: value for name, value in means.items() if name.startswith("train_loss")})
    return losses[:steps]


def main(out, steps, arguments):
    buckets = functools.partial(building.DistributedDataParallelKwargs, bucket_cap_mb=0.01)
    building.DistributedDataParallelKwargs = buckets
    found = {row: take_steps(steps, [*arguments, *flags]) for row, flags in ROWS.items()}
    state = PartialState()
    (out / f"{state.process_index}.json").write_text(json.dumps({"processes": state.num_processes, "losses": found}))
    state.destroy_process_group()
