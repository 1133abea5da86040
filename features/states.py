"""WavLM states on disk: with a frozen encoder they never change, so they are computed once.

`--freeze_encoder` trains everything behind WavLM on these files: one extraction pass, then epochs without WavLM in
them, for people without a GPU. One folder serves all folds and seeds of the same encoder, also at the same time: one
job at a time computes in it. States whose sound changed are computed again, see sounds.py.
"""

import contextlib
import fcntl
import logging
import time
from collections import defaultdict
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list

from dataloader import build_evaluation_loader
from features.sounds import CHANGED, DAMAGED, UNKNOWN, judge_states, read_sounds, write_sounds
from features.store import remove_unfinished
from running.errors import InputError, join_problems
from running.evaluation import move_inputs
from running.progress import progress_bar
from running.records import read_json, write_array, write_json
from wavlm import encode

logger = logging.getLogger("foalnet.states")

WAIT = 1.0  # seconds between two looks at the lock
RECORD_FILE, LOCK_FILE = "states.json", ".lock"


def cache_states(root, wavlm, utterances, settings, accelerator, batch_size, num_workers, **dataset_options):
    """Write `<root>/<utt_id>.npy`, (Ta, Da) float32, for every utterance that has none of its present sound yet.

    Args:
        root: folder; `states.json` in it says what the states were made with, `sounds.txt` of which sounds.
        wavlm: WavLMModel, on the device.
        utterances: list of Utterance.
        settings: dict of what the states depend on (encoder, seconds, normalisation).
    Raises: InputError when the folder can't be used, holds states of other settings, or an id has two sounds.
    """
    root, wanted = Path(root), list_sounds(utterances)
    width = wavlm.config.hidden_size

    def look():
        make_folder(root)
        compare_settings(root, settings)
        return any(verdict.reason for verdict in judge_states(root, wanted, width))

    if not ask_main(accelerator, look):
        return
    with hold_folder(root, accelerator):
        missing = set(ask_main(accelerator, lambda: clear_folder(root, wanted, settings, width)))
        share = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
        todo = [utterance for utterance in wanted if utterance.utt_id in missing]
        loader = build_evaluation_loader(todo, batch_size, num_workers, **share, modality="a", **dataset_options)
        compute_states(root, wavlm, loader, accelerator, silent=not todo)
        accelerator.wait_for_everyone()


def list_sounds(utterances):
    """Each utterance once. Raises: InputError where an id names two sounds, of which one file can't hold both."""
    wanted, problems = {}, []
    for utterance in utterances:
        first = wanted.setdefault(utterance.utt_id, utterance)
        if first.path != utterance.path:
            problems.append(f"id {utterance.utt_id}: is {first.path} in one list and {utterance.path} in another")
    if problems:
        raise InputError(join_problems(problems))
    return list(wanted.values())


def ask_main(accelerator, function):
    """What a function returns in the main process, in every process; an InputError is raised in all of them."""
    answer = [None]
    if accelerator.is_main_process:
        try:
            answer = [function()]
        except InputError as error:
            answer = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(answer)
    if isinstance(answer[0], InputError):
        raise answer[0]
    return answer[0]


def make_folder(root):
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--states_root {root}: no folder can be made there: {error.strerror}") from error


def compare_settings(root, settings):
    """Raise InputError where the folder holds states of other settings."""
    record = root / RECORD_FILE
    try:
        before = read_json(record) if record.is_file() else settings
    except ValueError as error:
        before = str(error)
    if not isinstance(before, dict):
        raise InputError(
            f"{record}: not a JSON object that says what the states beside it were made with ({before}); "
            "name another --states_root, or remove this folder"
        )
    if before != settings:
        changed = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
        differences = ", ".join(f"{key} was {before.get(key)!r} and is {settings.get(key)!r}" for key in changed)
        raise InputError(f"{root}: holds states of another encoder: {differences}; name another --states_root")


@contextlib.contextmanager
def hold_folder(root, accelerator):
    """Be the one job that computes in a folder; wait for another that does. The kernel frees the lock of a dead one."""
    with contextlib.ExitStack() as stack:
        lock, told = None, False
        if accelerator.is_main_process:
            lock = stack.enter_context(open(root / LOCK_FILE, "a"))
        while not ask_main(accelerator, lambda: _try_lock(lock)):
            if not told:
                logger.info("%s: another job computes states there; this one waits", root)
            told = True
            time.sleep(WAIT)
        try:
            yield
        finally:
            if lock is not None:
                fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough while a data loading process lives


def _try_lock(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.warning("%s: cannot be locked (%s); start no other job on this folder", file.name, error.strerror)
    return True


def clear_folder(root, wanted, settings, width):
    """Take out the states that can't be used, say how many, and record the sounds of those that come in their place.

    A state on disk is at any time one of the sound that the index names, so an interruption loses no finished one.

    Returns: list of the ids whose state is to be computed.
    """
    compare_settings(root, settings)
    verdicts, reasons = judge_states(root, wanted, width), defaultdict(list)
    for verdict in verdicts:
        reasons[verdict.reason].append(verdict)
    for reason, text in (
        (CHANGED, "the sounds of %d states have changed since, such as %s"),
        (UNKNOWN, "%d states do not say which sound they are of, such as that of %s"),
        (DAMAGED, "%d states are damaged, such as %s"),
    ):
        if found := reasons[reason]:
            logger.warning(f"{root}: {text}; they are computed again", len(found), found[0].detail or found[0].utt_id)
    missing = [verdict.utt_id for verdict in verdicts if verdict.reason]
    remove_unfinished(root, age=0)  # nobody else writes here
    try:
        for utt_id in missing:
            (root / f"{utt_id}.npy").unlink(missing_ok=True)
        write_json(root / RECORD_FILE, settings)
        write_sounds(root, {**read_sounds(root), **{verdict.utt_id: verdict.sound for verdict in verdicts}})
    except OSError as error:
        raise InputError(f"--states_root {root}: cannot be written: {error.strerror}") from error
    return missing


@torch.no_grad()
def compute_states(root, wavlm, loader, accelerator, silent):
    """Run the encoder over a loader and write a file an utterance. Raises: InputError that names one with NaN."""
    wavlm.eval()
    for batch in progress_bar(loader, desc="WavLM states", disable=silent or not accelerator.is_local_main_process):
        inputs = move_inputs(batch, accelerator.device)
        with accelerator.autocast():
            states, mask = encode(wavlm, inputs["input_values"], inputs["samples"])
        for utt_id, row, valid in zip(batch["utt_ids"], states.float().cpu(), mask.cpu(), strict=True):
            path, state = root / f"{utt_id}.npy", row[valid]
            if not state.isfinite().all():
                raise InputError(
                    f"{utt_id}: the states of WavLM hold NaN or infinity, so {path} is not written "
                    f"(computed with --mixed_precision {accelerator.mixed_precision})"
                )
            try:
                write_array(path, state.numpy())
            except OSError as error:
                raise InputError(f"{path}: cannot be written: {error.strerror}") from error
