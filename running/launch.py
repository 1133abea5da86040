"""How many processes train, where, and in what way: one unless told otherwise.

Two habits of accelerate 1.15 are met here. `accelerate launch` without a number and without a configuration file takes
every GPU; then the first process goes on alone and says so, since the batch would be another one and nobody asked for
it. `accelerate launch --cpu --num_processes N` starts one process unless MPI is installed, and says nothing; it does
set MASTER_ADDR when more were asked for, so the one process can tell, and becomes torch's own launcher for all of them.
"""

import logging
import os
import sys
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import transformers
from accelerate import PartialState
from accelerate.commands.config.config_args import default_config_file
from accelerate.utils import DistributedType, parse_flag_from_env

from running.errors import InputError
from running.parent import die_with_parent

logger = logging.getLogger("foalnet")
PATIENCE = timedelta(hours=2)  # with a process that reads every file of a large corpus for the first time

NUMBERS = ("num_processes", "num_machines", "multi_gpu", "gpu_ids", "config_file")  # flags that tell how many
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
UNSUPPORTED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}
INSTEAD = (
    "plain data parallel processes do: accelerate launch --num_processes N, with --gradient_accumulation_steps or "
)
INSTEAD += "--gradient_checkpointing where memory is short"


def read_launch_flags():
    """The flags of the launcher that started this process, {name: value or True}; None without accelerate's."""
    parent = psutil.Process().parent()
    words = parent.cmdline() if parent else []  # it may be gone
    starts = [i + 1 for i, word in enumerate(words) if word == "launch" or word.endswith("commands.launch")]
    return parse_launch_flags(words[starts[0] :]) if starts else None


def parse_launch_flags(words):
    """What stands before the script: `--num-processes=2 --cpu train.py ...` -> {"num_processes": "2", "cpu": True}."""
    flags, name = {}, None
    for word in words:
        if word.startswith("-"):
            name, _, value = word.lstrip("-").partition("=")
            name = name.replace("-", "_")
            flags[name] = value or True
        elif name is not None and flags[name] is True and not word.endswith(".py"):
            flags[name] = word
        else:
            break
    return flags


def stay_alone(flags, has_config):
    """Go on in one process where nobody asked for several; the others end, at once and well.

    Args:
        flags: of the launcher, None for one that is not accelerate's and was told a number.
        has_config: whether accelerate has a configuration file to take a number from.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not several or flags is None or has_config or any(name in flags for name in NUMBERS):
        return
    count = os.environ["WORLD_SIZE"]
    if os.environ["LOCAL_RANK"] != "0":
        raise SystemExit(0)
    for name in LAUNCHED:
        os.environ.pop(name, None)
    logger.warning(f"{count} GPUs are here and one is used: accelerate launch --num_processes {count} takes them all")


def start_processes(arguments, take_all=False):
    """Be as many processes as were asked for, before anything else; a script calls it first.

    Args:
        take_all: every GPU where nobody said how many; for what comes out the same.
        arguments: of this program for the Python interpreter: [script, flag, ...] or ["-m", module, flag, ...].
    """
    flags = read_launch_flags()
    if flags is not None or "LOCAL_RANK" in os.environ:
        die_with_parent()  # accelerate's launcher does not hand SIGTERM on
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    if not on_cpu and not take_all:
        stay_alone(flags, Path(default_config_file).is_file())
    elif on_cpu and "MASTER_ADDR" in os.environ and "LOCAL_RANK" not in os.environ and "num_processes" in (flags or {}):
        machines, port = int(flags.get("num_machines", 1)), os.environ.get("MASTER_PORT", "29500")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--master_port", port]
        torchrun += ["--nproc_per_node", str(int(flags["num_processes"]) // machines)]
        if machines > 1:
            torchrun += ["--nnodes", str(machines), "--node_rank", flags["machine_rank"]]
            torchrun += ["--master_addr", os.environ["MASTER_ADDR"]]
        os.execv(sys.executable, [*torchrun, *arguments])


def join_processes(cpu=False, **options):
    """Join the other processes of the launch, on the CPU where asked for or where there is nothing else.

    Args:
        cpu: use the CPU even if there is a GPU.
        options: of accelerate's PartialState.
    Returns: PartialState.
    Raises: InputError for ways of training in several processes that the losses do not know.
    """
    for variable, name in UNSUPPORTED.items():
        if parse_flag_from_env(variable):
            raise InputError(f"accelerate launch: {name} is not supported, the losses see one whole model; {INSTEAD}")
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans a kernel for every new shape, and every batch is one
    cpu = cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu, **{"timeout": PATIENCE, **options})
    kind = state.distributed_type
    if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise InputError(f"accelerate launch: {kind.value} is not supported; {INSTEAD}")
    return state


def configure_logging(state):
    """Lines of the main process to stdout; quiet libraries. Args: state: PartialState."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    parent = logging.getLogger("foalnet")
    parent.handlers = [logging.StreamHandler(sys.stdout)]
    parent.propagate = False
    parent.setLevel(logging.INFO if state.is_main_process else logging.ERROR)
    logging.getLogger("accelerate").setLevel(logging.WARNING)
