"""WavLM states on disk: with a frozen encoder they never change, so they are computed once.

`--freeze_encoder` trains everything behind WavLM on these files: one extraction pass, then epochs without WavLM in
them, for people without a GPU. One folder serves all folds and seeds of the same encoder.
"""

from pathlib import Path

import torch

from dataloader import build_evaluation_loader
from running.errors import InputError
from running.evaluation import move_inputs
from running.progress import progress_bar
from running.records import read_json, write_array, write_json
from wavlm import encode


@torch.no_grad()
def cache_states(root, wavlm, utterances, settings, accelerator, batch_size, num_workers, **dataset_options):
    """Write `<root>/<utt_id>.npy`, (Ta, Da) float32, for every utterance that has none yet.

    Args:
        root: folder; `states.json` in it says what the states were made with.
        wavlm: WavLMModel, on the device.
        utterances: list of Utterance.
        settings: dict of what the states depend on (encoder, seconds, normalisation).
    Raises: InputError when the folder holds states of other settings.
    """
    root, wanted = Path(root), {utterance.utt_id: utterance for utterance in utterances}
    record = root / "states.json"
    before = read_json(record) if record.is_file() else settings
    if before != settings:
        changed = [key for key in settings if before.get(key) != settings[key]]
        differences = ", ".join(f"{key} was {before.get(key)!r} and is {settings[key]!r}" for key in changed)
        raise InputError(f"{root}: holds states of another encoder: {differences}; name another --states_root")
    missing = [utterance for utt_id, utterance in wanted.items() if not (root / f"{utt_id}.npy").is_file()]
    accelerator.wait_for_everyone()  # all have looked before anyone writes
    root.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        write_json(record, settings)
    loader = build_evaluation_loader(
        missing,
        batch_size,
        num_workers,
        accelerator.process_index,
        accelerator.num_processes,
        modality="a",
        **dataset_options,
    )
    wavlm.eval()
    for batch in progress_bar(
        loader, desc="WavLM states", disable=not accelerator.is_local_main_process or not missing
    ):
        inputs = move_inputs(batch, accelerator.device)
        with accelerator.autocast():
            states, mask = encode(wavlm, inputs["input_values"], inputs["samples"])
        for utt_id, row, valid in zip(batch["utt_ids"], states.float().cpu(), mask.cpu(), strict=True):
            write_array(root / f"{utt_id}.npy", row[valid].numpy())
    accelerator.wait_for_everyone()
