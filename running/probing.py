"""Does a trained model look at both streams? Its reported list again, with the video or the sound of another utterance.

    run folder -> best/, reported list -> audio states, computed once -> pairs as they are and swapped -> probe.csv

A stream that the model relies on costs accuracy where it comes from an utterance of another emotion; one that it does
not look at costs nothing. A partner of the same emotion tells what the swap costs by itself. Source: Gat et al. 2021,
"Perceptual Score: What Data Modalities Does Your Model Perceive?"; there the partner is drawn whatever its label.
"""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dataloader import build_evaluation_loader, check_utterances, collate, read_features, read_scp
from running.errors import InputError
from running.evaluation import move_inputs
from running.model_folder import find_model, load_model
from running.precision import PRECISIONS, autocast, choose_precision
from running.progress import progress_bar
from running.records import disarm, hash_file, read_json, rearm, write_json, write_text

logger = logging.getLogger("foalnet")

SWAPS = ("video_same", "video_other", "audio_same", "audio_other")  # the stream, and whether of the same emotion
ARGS = "valid_src test_src label_map video_root max_length max_frames batch_size num_workers audio_root".split()
ROUNDING = 0.01  # share of the utterances that other hardware may predict otherwise; one always may be


def probe_run(folder, device, draws=5, seed=0, batch_size=16, mixed_precision="auto"):
    """Leave probe.csv and probe.json in a run folder, unless they are there with the same settings.

    Args:
        folder: of a finished run of audio and video: result.json, args.json, best/, the reported predictions.
        device: torch.device. draws: partners of each utterance and swap, at most. seed: of the partners.
        batch_size: pairs at a time; sounds are encoded in the batches of the training.
        mixed_precision: one of PRECISIONS; `auto` is that of the training where the device has it.
    Returns: bool, whether it was probed now.
    Raises: InputError that names what is missing, or says that best/ does not predict what the run's files say.
    """
    folder = Path(folder)
    result = read_json(folder / "result.json")
    path = folder / f"predictions_{result['reported']}.csv"
    predictions, sha256 = read_predictions(path), hash_file(path)
    settings = {"draws": draws, "seed": seed, "mixed_precision": mixed_precision, "predictions_sha256": sha256}
    if is_probed(folder, settings):
        return False
    args, model = read_args(folder), load_best(folder, result["labels"], device)
    source = args["test_src"] if result["reported"] == "test" else args["valid_src"] or args["test_src"]
    utterances = read_reported(source, path, args, predictions, model)
    precision = pick_precision(folder, mixed_precision, device, model.config.width)
    partners = draw_partners([utterance.label for utterance in utterances], draws, seed)
    with torch.inference_mode():
        audio = encode_sounds(model, utterances, args, device, precision)
        video = [np.array(read_features(utterance.features, args["max_frames"])) for utterance in utterances]
        predict = partial(predict_pairs, model, audio, video, device, precision, batch_size)
        intact = predict(np.arange(len(utterances)), np.arange(len(utterances)))
        differing = compare_intact(path, predictions, [model.config.labels[i] for i in intact])
        swapped = predict_swaps(predict, partners)
    table = tabulate(utterances, intact, partners, swapped, model.config.labels)
    (folder / "probe.json").unlink(missing_ok=True)  # written last: it tells that the table is whole, and of what
    write_text(folder / "probe.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_json(
        folder / "probe.json", {**settings, "precision": precision, "device": device.type, "differing": differing}
    )
    return True


def is_probed(folder, settings):
    """Whether a run has a probe.csv of these settings and of its present predictions."""
    try:
        before = read_json(folder / "probe.json")
    except InputError:
        return False
    return (folder / "probe.csv").is_file() and settings.items() <= before.items()


def read_predictions(path):
    """utt_id, label and prediction of a run, as texts. Raises: InputError that names the file."""
    columns = ["utt_id", "label", "prediction"]
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, usecols=columns)[columns].map(rearm)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: no table with utt_id,label,prediction: {reason}") from error


def read_args(folder):
    """The flags of a training, as far as they say what its list is. Raises: InputError for those that lack."""
    args = read_json(folder / "args.json")
    if absent := [name for name in ARGS if name not in args]:
        raise InputError(f"{folder / 'args.json'}: has no {', '.join(absent)}")
    return args


def load_best(folder, labels, device):
    """The FoalNet of a run, ready to predict. Raises: InputError where it is not there, damaged or of other labels."""
    model, _ = load_model(find_model(folder / "best"))
    if model.config.labels != labels:
        found = " ".join(model.config.labels)
        raise InputError(f"{folder}: best/ has the labels {found}, result.json {' '.join(labels)}")
    return model.to(device)


def read_reported(source, path, args, predictions, model):
    """The reported utterances in the order of their predictions, with features and duration.

    Args:
        source: the list. path: of the predictions. args: of the training. predictions: of `read_predictions`.
        model: FoalNet.
    Raises: InputError where list, features and predictions are not of each other.
    """
    config, audio_root = model.config, args["audio_root"] if model.encoder is None else None
    if not Path(source).is_file():
        raise InputError(f"{source}: no such file; {path.parent} names its reported list so, from where it was trained")
    listed = {u.utt_id: u for u in read_scp(source, config.labels, args["label_map"])}
    for utt_id, label in zip(predictions["utt_id"], predictions["label"], strict=True):
        found = config.labels[listed[utt_id].label] if utt_id in listed else "missing"
        if found != label:
            raise InputError(f"{source}: {utt_id} is {found} there and {label} in {path}; the list has changed")
    utterances = [listed[utt_id] for utt_id in predictions["utt_id"]]
    sizes = {"max_length": args["max_length"], "max_frames": args["max_frames"]}
    utterances, dims = check_utterances(utterances, "av", args["video_root"], **sizes, audio_root=audio_root)
    for stream, width in dims.items():
        if width != (trained := getattr(config, f"{stream}_dim")):
            raise InputError(f"{args[f'{stream}_root']}: features of width {width}; best/ was trained on {trained}")
    return utterances


def pick_precision(folder, requested, device, width):
    """The precision to compute in; `auto` is that of the training, where the device has it."""
    path = folder / "environment.json"
    trained = read_json(path).get("mixed_precision") if path.is_file() else None
    if requested == "auto" and trained in PRECISIONS and not (trained == "fp16" and device.type == "cpu"):
        return trained
    precision = choose_precision(requested, device.type, width)
    if precision == "fp16" and device.type == "cpu":
        raise InputError("--mixed_precision fp16: needs a GPU; a CPU computes in no or bf16")
    return precision


def draw_partners(labels, draws, seed):
    """Whose stream each utterance gets, drawn for it alone, so that no order or batch matters.

    Args:
        labels: (n,) int. draws: partners of each utterance and swap, all different; fewer where there are fewer.
        seed: of the draws.
    Returns: {swap of SWAPS: list of n int arrays of rows}.
    """
    labels, partners = np.asarray(labels), {swap: [] for swap in SWAPS}
    for i, label in enumerate(labels):
        rng = np.random.default_rng([seed, i])
        for swap, rows in partners.items():
            alike = labels == label if swap.endswith("_same") else labels != label
            alike[i] = False
            candidates = np.flatnonzero(alike)
            rows.append(rng.choice(candidates, min(draws, len(candidates)), replace=False))
    return partners


def encode_sounds(model, utterances, args, device, precision):
    """The audio states of every utterance: list of (Ta, Da) arrays, float32, or float16 where computed in halves.

    The batches are those in which the training evaluated: of a WavLM with group norm the states depend on them.
    """
    options = {"max_length": args["max_length"], "normalize_audio": model.config.normalize_audio}
    options["audio_root"] = args["audio_root"] if model.encoder is None else None
    loader = build_evaluation_loader(utterances, args["batch_size"], args["num_workers"], modality="a", **options)
    dtype, states = np.float32 if precision == "no" else np.float16, {}
    for batch in progress_bar(loader, desc="Encode", leave=False):
        inputs = move_inputs(batch, device)
        rows, mask = inputs.get("audio_features"), inputs.get("audio_mask")
        if rows is None:
            with autocast(device.type, precision):
                rows, mask = model.encode_audio(inputs["input_values"], samples=inputs["samples"])
        for utt_id, row, valid in zip(batch["utt_ids"], rows.float().cpu(), mask.cpu(), strict=True):
            states[utt_id] = row[valid].numpy().astype(dtype)
    return [states[utterance.utt_id] for utterance in utterances]


def predict_swaps(predict, partners):
    """The class of each pair. Args: predict: function of the rows of sounds and videos. partners: of `draw_partners`.

    Returns: {swap: (pairs,) int}, the pairs in the order of their utterances.
    """
    pairs = {}
    for swap, rows in partners.items():
        own, other = np.arange(len(rows)).repeat([len(row) for row in rows]), np.concatenate(rows)
        pairs[swap] = (own, other) if swap.startswith("video") else (other, own)
    found = predict(*[np.concatenate(rows) for rows in zip(*pairs.values(), strict=True)])
    ends = np.cumsum([len(rows) for rows, _ in pairs.values()])
    return dict(zip(pairs, np.split(found, ends[:-1]), strict=True))


def predict_pairs(model, audio, video, device, precision, batch_size, audio_rows, video_rows):
    """The class of each pair, (m,) int.

    Args:
        audio: list of (Ta, Da) arrays. video: list of (Tv, Dv) arrays. audio_rows, video_rows: (m,) int, the pairs.
    Raises: InputError for logits that are not finite.
    """
    found = np.zeros(len(audio_rows), int)
    order = np.argsort([-len(audio[i]) for i in audio_rows], kind="stable")  # padding is wasted work
    bar = progress_bar(range(0, len(order), batch_size), desc="Probe", leave=False)
    for chosen in (order[first : first + batch_size] for first in bar):
        pairs = zip(audio_rows[chosen], video_rows[chosen], strict=True)
        items = [{"utt_id": "", "label": 0, "audio_features": audio[i], "video_features": video[j]} for i, j in pairs]
        inputs = move_inputs(collate(items), device)
        inputs.pop("labels")
        with autocast(device.type, precision):
            logits = model(**inputs).logits.float().cpu()
        if not logits.isfinite().all():
            raise InputError("the model's logits hold NaN or infinity; --mixed_precision no has the widest range")
        found[chosen] = logits.argmax(1).numpy()
    return found


def compare_intact(path, predictions, intact):
    """The number of utterances that are predicted otherwise than when the run was finished.

    Args:
        path: of the predictions. predictions: of `read_predictions`. intact: list of names.
    Raises: InputError where rounding does not explain it.
    """
    differs = (predictions["prediction"] != intact).to_numpy()
    n, number = len(differs), int(differs.sum())
    if not number:
        return 0
    first = predictions["utt_id"][differs.argmax()]
    found = f"{path}: best/ predicts {number} of {n} utterances otherwise, such as {first}"
    if number > max(1, ROUNDING * n):
        raise InputError(
            f"{found}; more than rounding: are sounds, features and --mixed_precision those of the training?"
        )
    logger.warning(f"{found}; put down to rounding")
    return number


def tabulate(utterances, intact, partners, swapped, names):
    """probe.csv: a line an utterance.

    Args:
        utterances: list of n Utterance. intact: (n,) int. partners: of `draw_partners`. swapped: of `predict_swaps`.
        names: of the classes.
    Returns: pandas.DataFrame with utt_id, label, intact (`disarm`ed names) and for each swap the share of its pairs
        that were right; `<swap>_follows`: the share that got the emotion of the swapped stream. NaN: it has no partner.
    """
    labels = np.array([utterance.label for utterance in utterances])
    table = pd.DataFrame({"utt_id": [disarm(utterance.utt_id) for utterance in utterances]})
    table["label"] = [disarm(names[i]) for i in labels]
    table["intact"] = [disarm(names[i]) for i in intact]
    for swap, rows in partners.items():
        counts = np.array([len(row) for row in rows])
        own, other = np.arange(len(labels)).repeat(counts), np.concatenate(rows)
        answers = {swap: labels[own]}
        if swap.endswith("_other"):
            answers[f"{swap}_follows"] = labels[other]
        for column, answer in answers.items():
            right = np.bincount(own, swapped[swap] == answer, len(labels))
            table[column] = np.divide(right, counts, out=np.full(len(labels), np.nan), where=counts > 0)
    return table
