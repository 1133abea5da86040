"""A speech encoder's states as ready features: one `<utt_id>.npy`, (Ta, Da) float32, an utterance, computed once.

    list of sounds + encoder -> --audio_root: <utt_id>.npy, features.json, sounds.txt -> training without the encoder

`--freeze_encoder` trains on such a folder, `--train_layers` on the states below the layers that it trains: one pass,
then epochs without what is frozen, for people without a GPU. One folder serves all folds and seeds of the same encoder,
also at the same time: one job at a time computes in it. States whose sound changed are computed again, see sounds.py.
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
from encoders import FRAME_RATE, check_layer, check_length, choose_mix, cut_encoder, encode, load_encoder
from features.sounds import CHANGED, DAMAGED, UNKNOWN, judge_states, read_sounds, write_sounds
from features.store import SETTINGS_FILE, remove_unfinished
from running.errors import InputError, join_problems
from running.evaluation import move_inputs
from running.precision import autocast, choose_precision
from running.progress import progress_bar
from running.records import checksum_weights, read_json, write_array, write_json
from wavlm import has_group_norm

logger = logging.getLogger("foalnet.speech")

WAIT = 1.0  # seconds between two looks at the lock
LOCK_FILE = ".lock"
AUDIO_KEYS = "model model_type weights_crc32 layer dim frame_rate final_dropout max_length normalize_audio".split()
AUDIO_KEYS += ["mixed_precision"]  # of features.json


class SpeechEncoder:
    """A pretrained speech encoder that is not trained, ready for waveforms.

    Args:
        name: folder or hub id.
        layer: see encoders.check_layer, but for `weighted`; 0 is what the first layer takes.
        device: torch.device, None: the CPU. mixed_precision: of `choose_precision`.
        max_length: seconds of sound at most.
    Raises: InputError for a checkpoint or a layer that can't be used.
    """

    def __init__(self, name, layer="last", device=None, mixed_precision="auto", max_length=6.0):
        device = torch.device("cpu") if device is None else device
        try:
            encoder = load_encoder(name)
            if layer == "weighted":
                raise ValueError("audio_layer weighted: is learnt, so it needs an encoder that is in the training")
            if layer != 0:
                check_layer(layer, encoder.config)
            check_length(max_length, encoder.config)
        except (OSError, ValueError) as error:
            raise InputError(f"--audio_model {name}: {str(error).splitlines()[0]}") from error
        self.name, self.layer, self.crc32 = str(name), layer, checksum_weights(encoder)
        self.max_length = max_length
        cut_encoder(encoder, layer)
        self.encoder, self.config = encoder.to(device).eval(), encoder.config
        self.dim, self.device = encoder.config.hidden_size, device
        self.precision = choose_precision(mixed_precision, device.type, self.dim)

    @torch.no_grad()
    def __call__(self, input_values, samples):
        """(B, Na) waveforms at 16 kHz on the device, list of B valid samples -> (B, Ta, dim) float32, (B, Ta) bool."""
        with autocast(self.device.type, self.precision):
            states, mask = encode(self.encoder, input_values, samples, mix=choose_mix(self.encoder, self.layer))
        return states.float(), mask

    def describe(self, normalize_audio):
        """What features.json says of states that it computes: a dict of AUDIO_KEYS."""
        about = self.name, self.config.model_type, self.crc32, self.layer, self.dim, FRAME_RATE
        about += getattr(self.config, "final_dropout", 0.1), self.max_length, normalize_audio, self.precision
        return dict(zip(AUDIO_KEYS, about, strict=True))


def read_audio_record(root):
    """What features.json of a folder says of how its audio features were made: a dict of AUDIO_KEYS, or None."""
    path = Path(root, SETTINGS_FILE)
    record = read_json(path) if path.is_file() else {}
    return {key: record[key] for key in AUDIO_KEYS} if all(key in record for key in AUDIO_KEYS) else None


def extract_audio(root, encoder, utterances, state, normalize_audio=False, batch_size=16, num_workers=0):
    """Write `<root>/<utt_id>.npy` for every utterance that has none of its present sound yet.

    Args:
        root: folder; `features.json` in it says what the states were made with, `sounds.txt` of which sounds.
        encoder: SpeechEncoder. utterances: list of Utterance. state: PartialState.
        normalize_audio: zero mean and unit variance over each.
        batch_size: utterances at a time; one where their norm would take the others in.
    Raises: InputError when the folder can't be used, holds states of other settings, or an id has two sounds.
    """
    root, wanted, settings = Path(root), list_sounds(utterances), encoder.describe(normalize_audio)

    def look():
        make_folder(root)
        compare_settings(root, settings)
        return any(verdict.reason for verdict in judge_states(root, wanted, encoder.dim))

    if not ask_main(state, look):
        return
    with hold_folder(root, state):
        missing = set(ask_main(state, lambda: clear_folder(root, wanted, settings, encoder.dim)))
        share = {"rank": state.process_index, "world_size": state.num_processes}
        todo = [utterance for utterance in wanted if utterance.utt_id in missing]
        cutting = {"max_length": encoder.max_length, "normalize_audio": normalize_audio}
        size = 1 if has_group_norm(encoder.config) else batch_size
        loader = build_evaluation_loader(todo, size, num_workers, **share, modality="a", **cutting)
        compute_states(root, encoder, loader, state, silent=not todo)
        state.wait_for_everyone()


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


def ask_main(state, function):
    """What a function returns in the main process, in every process; an InputError is raised in all of them."""
    answer = [None]
    if state.is_main_process:
        try:
            answer = [function()]
        except InputError as error:
            answer = [error]
    if state.num_processes > 1:
        broadcast_object_list(answer)
    if isinstance(answer[0], InputError):
        raise answer[0]
    return answer[0]


def make_folder(root):
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--audio_root {root}: no folder can be made there: {error.strerror}") from error


def compare_settings(root, settings):
    """Raise InputError where the folder holds states of other settings."""
    record = root / SETTINGS_FILE
    if not record.is_file() and (others := next(root.glob("*.npy"), next(root.glob("*.safetensors"), None))):
        raise InputError(
            f"{others}: {record.name} is missing, so these features may be anybody's, and none are computed beside "
            "them; name another --audio_root"
        )
    try:
        before = read_json(record) if record.is_file() else settings
    except ValueError as error:
        before = str(error)
    if not isinstance(before, dict):
        raise InputError(
            f"{record}: not a JSON object that says what the states beside it were made with ({before}); "
            "name another --audio_root, or remove this folder"
        )
    if before != settings:
        changed = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
        differences = ", ".join(f"{key} was {before.get(key)!r} and is {settings.get(key)!r}" for key in changed)
        raise InputError(f"{root}: holds states of another encoder: {differences}; name another --audio_root")


@contextlib.contextmanager
def hold_folder(root, state):
    """Be the one job that computes in a folder; wait for another that does. The kernel frees the lock of a dead one."""
    with contextlib.ExitStack() as stack:
        lock, told = None, False
        if state.is_main_process:
            lock = stack.enter_context(open(root / LOCK_FILE, "a"))
        while not ask_main(state, lambda: _try_lock(lock)):
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
        write_json(root / SETTINGS_FILE, settings)
        write_sounds(root, {**read_sounds(root), **{verdict.utt_id: verdict.sound for verdict in verdicts}})
    except OSError as error:
        raise InputError(f"--audio_root {root}: cannot be written: {error.strerror}") from error
    return missing


def compute_states(root, encoder, loader, state, silent):
    """Run the encoder over a loader and write a file an utterance. Raises: InputError that names one with NaN."""
    for batch in progress_bar(loader, desc="Speech encoder", disable=silent or not state.is_local_main_process):
        inputs = move_inputs(batch, encoder.device)
        states, mask = encoder(inputs["input_values"], inputs["samples"])
        for utt_id, row, valid in zip(batch["utt_ids"], states.cpu(), mask.cpu(), strict=True):
            path, kept = root / f"{utt_id}.npy", row[valid]
            if not kept.isfinite().all():
                raise InputError(
                    f"{utt_id}: its states hold NaN or infinity, so {path} is not written "
                    f"(computed with --mixed_precision {encoder.precision})"
                )
            try:
                write_array(path, kept.numpy())
            except OSError as error:
                raise InputError(f"{path}: cannot be written: {error.strerror}") from error
