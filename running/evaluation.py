"""What a trained FoalNet says of a list: predictions, embeddings, and their summary."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import gather_object

from dataloader import STREAMS
from running.errors import InputError
from running.metrics import count_confusion, summarize_confusion
from running.pictures import plot_confusion
from running.progress import progress_bar
from running.records import replace_file, write_predictions

EMBEDDINGS = ("audio_pooled", "video_pooled", "audio_embeds", "video_embeds", "fused")
MODEL_INPUTS = [*(key for stream in STREAMS.values() for key in stream.keys), "labels"]
MODEL_INPUTS.remove("attention_mask")  # in its place the model takes lengths


def move_inputs(batch, device):
    """The entries of a batch that FoalNet.forward takes, on the device; the lengths of the sounds stay on the host."""
    inputs = {key: batch[key].to(device, non_blocking=True) for key in MODEL_INPUTS if key in batch}
    valid = "attention_mask" if "attention_mask" in batch else "audio_mask"
    if valid in batch:
        inputs["samples"] = batch[valid].sum(1).tolist()
    return inputs


@dataclass
class Evaluation:
    """What a model says of a list, in the order of the list; numpy arrays."""

    utt_ids: list
    labels: np.ndarray  # (n,) int
    logits: np.ndarray  # (n, C) float32
    embeddings: dict  # {name of EMBEDDINGS: (n, D) float32}

    @property
    def predictions(self):
        """(n,) int, by the logits: probabilities of float32 may tie where logits do not."""
        return self.logits.argmax(1)

    @property
    def probabilities(self):
        return self.calibrated(1.0)

    def calibrated(self, temperature):
        """Probabilities (n, C) float32, softmax(logits / temperature)."""
        return torch.from_numpy(self.logits).div(temperature).softmax(-1).numpy()

    def summarize(self, names):
        """WA, UA and the rest of `summarize_confusion`, the cross entropy, and the mean similarities of pairs."""
        confusion = count_confusion(self.labels, self.predictions, len(names))
        loss = F.cross_entropy(torch.from_numpy(self.logits), torch.from_numpy(self.labels)).item()
        return {**summarize_confusion(confusion, names), "loss": loss, **self.compare_streams()}

    def compare_streams(self):
        """Mean cosine of (audio, video) pairs of the same and of different emotions, over all pairs of the list."""
        if "audio_embeds" not in self.embeddings:
            return {}
        classes = np.unique(self.labels)
        audio, video = (
            np.stack([self.embeddings[name][self.labels == c].sum(0, dtype=np.float64) for c in classes])
            for name in ("audio_embeds", "video_embeds")
        )
        sums, counts = audio @ video.T, np.outer(*[np.unique(self.labels, return_counts=True)[1]] * 2)
        other = counts.sum() - counts.trace()
        return {
            "similarity_same": float(sums.trace() / counts.trace()),
            "similarity_other": float((sums.sum() - sums.trace()) / other) if other else None,
        }


def write_evaluation(root, split, evaluation, labels, title):
    """Leave predictions, embeddings and confusion matrix of a list in a folder.

    Args:
        root: the folder. split: `valid` or `test`. evaluation: Evaluation.
        labels: the class names. title: of the picture.
    """
    root, halves = Path(root), {name: states.astype(np.float16) for name, states in evaluation.embeddings.items()}
    content = evaluation.utt_ids, evaluation.labels, evaluation.predictions, evaluation.probabilities
    write_predictions(root / f"predictions_{split}.csv", *content, labels)
    with replace_file(root / f"embeddings_{split}.npz") as file:
        np.savez(file, utt_ids=evaluation.utt_ids, labels=evaluation.labels, **halves)
    confusion = count_confusion(evaluation.labels, evaluation.predictions, len(labels))
    plot_confusion(confusion, labels, root / f"confusion_{split}.png", title=title)


@torch.no_grad()
def evaluate(accelerator, model, loader, keep=("audio_embeds", "video_embeds"), absent=()):
    """Predict a list without looking at its labels; each utterance once, over all processes.

    Args:
        model: FoalNet, not wrapped for distributed training.
        loader: of `build_dataloaders`.
        keep: names of EMBEDDINGS to collect.
        absent: entries of the batches to leave out, the keys of a Stream.
    Returns: Evaluation.
    Raises: InputError for logits that are not finite.
    """
    model.eval()
    rows = []
    for batch in progress_bar(loader, desc="Evaluate", leave=False, disable=not accelerator.is_local_main_process):
        inputs = move_inputs({key: value for key, value in batch.items() if key not in absent}, accelerator.device)
        labels = inputs.pop("labels")
        with accelerator.autocast():
            output = model(**inputs)
        arrays = {name: output[name].float().cpu().numpy() for name in ("logits", *keep) if name in output}
        arrays["labels"] = labels.cpu().numpy()
        rows.append({"utt_ids": batch["utt_ids"], **arrays})
    rows = gather_object(rows)
    order = {utterance.utt_id: i for i, utterance in enumerate(loader.dataset.utterances)}
    utt_ids = [utt_id for row in rows for utt_id in row["utt_ids"]]
    places = np.argsort([order[utt_id] for utt_id in utt_ids])
    arrays = {name: np.concatenate([row[name] for row in rows])[places] for name in rows[0] if name != "utt_ids"}
    utt_ids, logits = [utt_ids[i] for i in places], arrays.pop("logits")
    broken = [utt_id for utt_id, row in zip(utt_ids, logits, strict=True) if not np.isfinite(row).all()]
    if broken:  # or their argmax would pass for the first class
        raise InputError(
            f"{len(broken)} of {len(utt_ids)} utterances have logits that are NaN or infinite, such as {broken[0]}: "
            "the weights have diverged (a smaller --lr, --max_grad_norm 1) or the inputs hold values that are too large"
        )
    return Evaluation(utt_ids, arrays.pop("labels"), logits, arrays)
