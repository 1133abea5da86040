"""The order of the collectives of one step, for every row of the ablation and pattern of dropped layers; as JSON.

A fake process group of two stands in for the other process: nothing is exchanged, only the order counts.
"""

import itertools
import json
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

import wavlm
from tiny import build_model, make_batch

LAYERS = 3
ROWS = {
    "baseline": {"avel_weight": 0.0, "mem_weight": 0.0},
    "avel": {"mem_weight": 0.0},
    "mem": {"avel_weight": 0.0},
    "both": {},
}


def record(log):
    """Note every collective of the project in `log`."""
    for name in ("all_reduce", "all_gather"):
        real = getattr(dist, name)

        def logged(*args, real=real, name=name, **kwargs):
            log.append(name)
            return real(*args, **kwargs)

        setattr(dist, name, logged)


def take_step(rank, row, pattern, log):
    """The collectives of one step of this rank."""
    model = build_model(wavlm={"num_hidden_layers": LAYERS, "layerdrop": 0.1}, **ROWS[row]).train()
    ddp = DistributedDataParallel(model, find_unused_parameters=True, bucket_cap_mb=0.005)

    def hook(state, bucket):
        log.append(f"bucket {bucket.index()}")
        done = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    ddp.register_comm_hook(None, hook)
    wavlm.SharedDraws.keep_layers = lambda *_: pattern
    log.clear()
    ddp(**make_batch([0, 1, 2][: 2 + rank], seed=rank), seed=7).loss.backward()
    return list(log)


def main():
    log, orders = [], {}
    record(log)
    for rank in (0, 1):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=2)
        for row, dropped in itertools.product(ROWS, itertools.product([True, False], repeat=LAYERS - 1)):
            pattern = [True, *dropped]
            orders.setdefault(f"{row} {pattern}", []).append(take_step(rank, row, pattern, log))
        dist.destroy_process_group()
    json.dump(orders, sys.stdout)


if __name__ == "__main__":
    main()
