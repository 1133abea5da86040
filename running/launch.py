"""What `accelerate launch --cpu --num_processes N` promises: N processes on the CPU.

accelerate 1.15 starts one process there unless MPI is installed, and says nothing. It does set MASTER_ADDR when more
were asked for, so the one process can tell, and becomes torch's own launcher for all of them.
"""

import logging
import os
import sys

import psutil
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def start_cpu_processes(arguments):
    """Replace this process by torchrun with the number of processes that was asked for, if fewer were started.

    Args:
        arguments: of this program for the Python interpreter: [script, flag, ...] or ["-m", module, flag, ...].
    """
    asked_for_several = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in os.environ
    if not asked_for_several or "LOCAL_RANK" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    words = [part for word in psutil.Process().parent().cmdline() for part in word.split("=", 1)]
    words = ["--num_processes" if word == "--num-processes" else word for word in words]
    if "--num_processes" not in words:
        return
    count = words[words.index("--num_processes") + 1]
    port = os.environ.get("MASTER_PORT", "29500")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", count, "--master_port", port]
    os.execv(sys.executable, [*torchrun, *arguments])


def join_processes(cpu=False, **options):
    """Join the other processes of the launch, on the CPU where asked for or where there is nothing else.

    Args:
        cpu: use the CPU even if there is a GPU.
        options: of accelerate's PartialState.
    Returns: PartialState.
    """
    cpu = cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu, **options)


def configure_logging(state):
    """Lines of the main process to stdout; quiet libraries. Args: state: PartialState."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    parent = logging.getLogger("foalnet")
    parent.handlers = [logging.StreamHandler(sys.stdout)]
    parent.propagate = False
    parent.setLevel(logging.INFO if state.is_main_process else logging.ERROR)
    logging.getLogger("accelerate").setLevel(logging.WARNING)
