"""A workload by its name: build its arms, time them, describe them."""

import gc
import tempfile

import torch

from benchmark import file_workloads, model_workloads
from benchmark.file_workloads import build_data_arms, build_extract_arms
from benchmark.model_workloads import build_model_arms, draw_durations
from benchmark.start import time_starts, write_corpus
from benchmark.tables import describe_arms
from benchmark.timing import profile_arm, time_arms

WORKLOADS = (*model_workloads.WORKLOADS, *file_workloads.WORKLOADS, "start")


def run_workload(workload, args, ceilings, device):
    """Rows of the table of one workload.

    Args:
        workload: of WORKLOADS. args: the flags of scripts/benchmark.py. ceilings: of `measure_ceilings`.
        device: torch.device; `data` needs none.
    Returns: list of dicts, one an arm and case.
    """
    if workload in model_workloads.WORKLOADS:
        return _run_model_workload(workload, args, ceilings, device)
    if workload == "start":
        return _run_start(args)
    return _run_file_workload(workload, args, ceilings, device)


def _run_start(args):
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(folder, args.utterances, args.seed)
        case = {"workload": "start", "size": f"{args.utterances} utterances"}
        return [{**case, **row, "items/s": args.utterances / row["seconds"]} for row in time_starts(folder)]


def _run_model_workload(workload, args, ceilings, device):
    rows = []
    for lengths in args.lengths:
        for batch_size in args.batch:
            durations = draw_durations(lengths, batch_size, args.seed)
            arms = build_model_arms(workload, args.size, args.video_dim, durations, device)
            time_arms(arms, args.rounds, device)
            case = {"workload": workload, "size": args.size, "lengths": lengths, "batch": batch_size}
            rows += describe_arms(case, arms, ceilings)
            if args.profile:
                print("\n\n".join(profile_arm(arm) for arm in arms), end="\n\n")
            del arms
            gc.collect()
    return rows


def _run_file_workload(workload, args, ceilings, device):
    with tempfile.TemporaryDirectory() as folder:
        if workload == "data":
            size, device = "6 s + 180 frames", torch.device("cpu")
            arms, count = build_data_arms(folder, args.video_dim, args.seed)
        else:
            size = f"CLIP {args.clip_size}"
            arms, count = build_extract_arms(
                folder, args.clip_size, args.video_seconds, args.frames_batch, args.seed, device
            )
        time_arms(arms, args.rounds, device)
    rows = describe_arms({"workload": workload, "size": size}, arms, ceilings)
    return [{**row, "items/s": count / row["seconds"]} for row in rows]
