"""The arms of `train`, `options` and `eval`: steps of one model on one random batch, the release's way and ours."""

import argparse
import contextlib

import numpy as np
import torch
import torch.nn.functional as F

from benchmark.stock import MAX_FRAMES, MAX_LENGTH, StockFoalNet
from benchmark.timing import Arm
from dataloader import SAMPLE_RATE, collate
from encoders import find_holder
from model import FoalNet, FoalNetConfig
from optims import build_optimizer
from running.precision import choose_precision

WORKLOADS = ("train", "options", "eval")
FRAME_RATE = 30
TRAINED_LAYERS, LORA_RANK = 6, 8  # of --train_layers and --lora_rank
SIZES = {  # fields of WavLMConfig; large and base are the published shapes
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "conv_dim": [64] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    },
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
SHARED = {  # of microsoft/wavlm-large
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "activation_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,  # the published 0.1 skips layers at random, which is noise in a timing
    "mask_time_prob": 0.075,
}


def parse_lengths(text):
    """`iemocap`, or seconds: `fixed` is the 6 s that the release pads to."""
    seconds = text if text == "iemocap" else float({"fixed": MAX_LENGTH}.get(text, text))
    if seconds != "iemocap" and not 0.5 <= seconds <= MAX_LENGTH:
        raise argparse.ArgumentTypeError(f"{text}: iemocap, fixed, or 0.5 to 6 seconds")
    return seconds


def draw_durations(lengths, n, seed):
    """Seconds of n utterances: IEMOCAP's (log-normal, median 3.58, sigma of the log 0.69, cut at 6) or all the same."""
    if lengths != "iemocap":
        return np.full(n, lengths)
    return np.clip(3.58 * np.exp(0.69 * np.random.default_rng(seed).standard_normal(n)), 0.58, MAX_LENGTH)


def draw_batch(durations, video_dim, fixed, device):
    """A random batch of these durations (seconds), padded to the longest or, `fixed`, to 6 s and 180 frames."""
    rng = np.random.default_rng(0)
    items = [
        {
            "utt_id": str(i),
            "label": i % 4,
            "input_values": rng.standard_normal(round(seconds * SAMPLE_RATE), dtype=np.float32) * 0.1,
            "video_features": rng.standard_normal((max(1, round(seconds * FRAME_RATE)), video_dim), dtype=np.float32),
        }
        for i, seconds in enumerate(durations)
    ]
    batch = collate(items)
    if fixed:
        samples, frames = round(MAX_LENGTH * SAMPLE_RATE), MAX_FRAMES
        for name, length in (("input_values", samples), ("attention_mask", samples), ("video_mask", frames)):
            batch[name] = F.pad(batch[name], (0, length - batch[name].shape[1]))
        batch["video_features"] = F.pad(batch["video_features"], (0, 0, 0, frames - batch["video_features"].shape[1]))
    batch.pop("utt_ids")
    return {name: tensor.to(device) for name, tensor in batch.items()}


def build_model_arms(workload, size, video_dim, durations, device):
    """Arms of one of WORKLOADS at one batch size; one set of weights for all, to fit in memory.

    Args:
        workload: of WORKLOADS. size: of SIZES. video_dim: width of the video features.
        durations: seconds of each utterance of the batch. device: torch.device.
    """
    torch.manual_seed(0)
    model = FoalNet(FoalNetConfig(wavlm={**SHARED, **SIZES[size]}, video_dim=video_dim)).to(device)
    stock_inputs = draw_batch(durations, video_dim, True, device)
    inputs = draw_batch(durations, video_dim, False, device)
    auto = choose_precision("auto", device.type, SIZES[size]["hidden_size"])
    ways = [
        ("stock", StockFoalNet, stock_inputs, "fp16" if device.type == "cuda" else "no"),
        ("ours, fp32", FoalNet, inputs, "no"),
    ]
    if auto != "no":
        ways.append((f"ours, {auto}", FoalNet, inputs, auto))
    weights = count_weights(model)
    if workload == "eval":
        return [Arm(name, make_eval(model, *way, device), way[-1], weights=weights) for name, *way in ways]
    ours = build_optimizer(model, 1e-5, 0.01)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = {StockFoalNet: torch.optim.AdamW(trainable, lr=1e-5), FoalNet: ours}
    arms = [
        Arm(name, make_train(model, *way, device, optimizer), way[-1], optimizer.state.clear, weights)
        for name, *way in ways
        for optimizer in [optimizers[way[0]]]
    ]
    return arms if workload == "train" else build_option_arms(arms[0], model, size, inputs, auto, device, ours)


def build_option_arms(stock, model, size, inputs, precision, device, optimizer):
    """The training step with the flags of train.py that trade time for memory, or the encoder for time; first stock.

    Args: stock: Arm. size: of SIZES. The others of the default arm.
    """
    default = (model, FoalNet, inputs, precision, device, optimizer)
    arms = [stock, Arm("default", make_train(*default), precision, optimizer.state.clear, count_weights(model))]
    for name, options in (("checkpointing", {"checkpointing": True}), ("accumulation_steps 4", {"passes": 4})):
        run = make_train(*default, **options)
        arms.append(Arm(f"--gradient_{name}", run, precision, optimizer.state.clear, count_weights(model)))
    layers = min(TRAINED_LAYERS, SIZES[size]["num_hidden_layers"])
    ready = encode_batch(model, inputs)
    below = {"audio_states" if name == "audio_features" else name: value for name, value in ready.items()}
    for name, fields, batch in (
        (f"--lora_rank {LORA_RANK}", {"lora_rank": LORA_RANK}, inputs),
        (f"--train_layers {layers}", {"train_layers": layers}, below),
        ("--freeze_encoder", {"wavlm": None, "audio_dim": model.config.audio_dim}, ready),
    ):
        fields = {"wavlm": {**SHARED, **SIZES[size]}, "video_dim": model.config.video_dim, **fields}
        variant = FoalNet(FoalNetConfig(**fields)).to(device)
        share_weights(variant, model)
        own = build_optimizer(variant, 1e-5, 0.01)
        run = make_train(variant, FoalNet, batch, precision, device, own)
        arms.append(Arm(name, run, precision, own.state.clear, count_weights(variant)))
    return arms


def share_weights(variant, model):
    """Let a model hold the tensors of another one where it has the same, so that memory holds them once."""
    weights, names = model.state_dict(), [name for name in variant.state_dict() if ".lora_" not in name]
    shared = {name: weights[name.replace(".base_layer", "")] for name in names}
    variant.load_state_dict(shared, strict=False, assign=True)  # adapters are not in it


def count_weights(model):
    return sum(parameter.nbytes for parameter in model.parameters())


@torch.no_grad()
def encode_batch(model, inputs):
    """The batch with WavLM's states in the place of the waveform."""
    states, mask = model.encode_audio(inputs["input_values"], inputs["attention_mask"])
    video = {name: inputs[name] for name in ("video_features", "video_mask", "labels")}
    return {"audio_features": states, "audio_mask": mask, **video}


def autocast(precision, device):
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()


def make_train(model, kind, batch, precision, device, optimizer, checkpointing=False, passes=1):
    """Forward, backward and AdamW step of the model as a StockFoalNet or FoalNet."""
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def run():
        model.__class__ = kind
        model.encoder_passes = passes
        if model.encoder is not None:
            find_holder(model.encoder).gradient_checkpointing = checkpointing
        model.train()
        with autocast(precision, device):
            loss = model(**batch).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return run


def make_eval(model, kind, batch, precision, device):
    """Prediction; the release computes every loss on the way."""
    inputs = {k: v for k, v in batch.items() if k != "labels" or kind is StockFoalNet}

    def run():
        model.__class__ = kind
        model.eval()
        with torch.no_grad(), autocast(precision, device):
            model(**inputs)

    return run
