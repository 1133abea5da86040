"""Tiny encoders for a machine without GPU or pretrained weights.

They have the architecture of WavLM, HuBERT, wav2vec 2.0, Whisper and CLIP at a few hundred thousand weights, all of
them RANDOM: nothing was learnt. First layers that stay frozen are drawn as random band filters rather than white noise,
because frozen random filters are then of more use; the rest is initialised at random too.
"""

import math

import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel, WhisperConfig, WhisperModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging as transformers_logging

from dataloader import SAMPLE_RATE

CLIP_VISION = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "patch_size": 16,
    "projection_dim": 128,
}
CLIP_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 8,
    "max_position_embeddings": 8,
    "projection_dim": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


SPEECH_KINDS = ("wavlm", "hubert", "wav2vec2")
SPEECH = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (64,) * 7,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.1,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "vocab_size": 32,
}
POSITION_BIAS = {"num_buckets": 32, "max_bucket_distance": 80}
WHISPER = {
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_layers": 1,
    "decoder_attention_heads": 1,
    "decoder_ffn_dim": 8,
    "max_source_positions": 300,
    "max_target_positions": 4,
    "vocab_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "init_std": 0.1,
}


def make_encoders(folder, seed=0):
    """Write all encoders into a pathlib folder, by their names; the same seed gives the same files."""
    transformers_logging.disable_progress_bar()
    for kind in SPEECH_KINDS:
        make_speech_encoder(folder / kind, kind, seed)
    make_whisper(folder / "whisper", seed)
    make_clip(folder / "clip", seed)
    transformers_logging.enable_progress_bar()


def make_speech_encoder(folder, kind, seed=0):
    """Write a random speech encoder: width 64, two layers, layer-norm variant, the usual 320-sample stride.

    The convolutions stay frozen in training, so they are drawn to pass something on: the first layer holds random band
    filters, half of the channels behind it are averaged over time and the other half mixed at random; the
    normalisation behind them is centred and scaled on random noise. SpecAugment, layerdrop and the dropouts inside are
    off: they are made for large pretrained models.

    Args: folder: to write to. kind: `wavlm`, `hubert` or `wav2vec2`.
    """
    torch.manual_seed(seed)
    fields = {**SPEECH, **(POSITION_BIAS if kind == "wavlm" else {})}
    model = AutoModel.from_config(AutoConfig.for_model(kind, **fields)).eval()
    _spread_audio(model)
    model.save_pretrained(folder)


def make_whisper(folder, seed=0):
    """Write a random Whisper of width 64 that takes 6 s of sound; its decoder is as small as can be, and not used."""
    torch.manual_seed(seed)
    WhisperModel(WhisperConfig(**WHISPER)).save_pretrained(folder)


@torch.no_grad()
def _spread_audio(model):
    """Draw the convolutions anew as `make_speech_encoder` describes."""
    first, *others = model.feature_extractor.conv_layers
    channels, _, length = first.conv.weight.shape
    hertz = torch.exp(torch.empty(channels, 1).uniform_(math.log(100), math.log(6000)))
    steps = (torch.arange(length) - (length - 1) / 2) / SAMPLE_RATE
    waves = torch.cos(2 * math.pi * (hertz * steps + torch.rand(channels, 1)))
    waves *= torch.hann_window(length + 2, periodic=False)[1:-1]
    first.conv.weight.copy_((waves / waves.norm(dim=1, keepdim=True))[:, None])
    first.conv.bias.uniform_(-1, 1)
    for layer in others:
        weight, half = layer.conv.weight, channels // 2
        window = torch.hann_window(weight.shape[2] + 2, periodic=False)[1:-1]
        weight[:half] = 0
        weight[range(half), range(half)] = 2 * window / window.sum()
        layer.conv.bias.uniform_(-1, 1)
    tilt = torch.arange(1, 8002) ** -torch.linspace(0, 1, 16)[:, None]
    noise = torch.fft.irfft(torch.fft.rfft(torch.randn(16, SAMPLE_RATE)) * tilt)
    noise = (noise - noise.mean(1, keepdim=True)) / noise.std(1, keepdim=True)
    norm = model.feature_projection.layer_norm
    response = norm(model.feature_extractor(noise).transpose(1, 2)).flatten(0, 1)  # (sounds * steps, channels)
    deviation = response.std(0).clamp(min=0.05)
    norm.bias.copy_(-response.mean(0) / deviation)
    norm.weight.copy_(1 / deviation)


def make_clip(folder, seed=0, image_size=64):
    """Write a random CLIP with its image processor: 64x64 pictures, patches of 16, embeddings of 128.

    Untrained weights at their usual size give every picture nearly the same embedding. These are random too, but drawn
    so that a linear layer can use what they see: smooth grey patch filters without a mean (blind to brightness and
    colour), large position embeddings and queries (each head looks somewhere else), and an output that is centred and
    scaled on pictures of noise. No picture of the corpus is seen.
    """
    torch.manual_seed(seed)
    model = CLIPModel(
        CLIPConfig(vision_config=CLIP_VISION | {"image_size": image_size}, text_config=CLIP_TEXT, projection_dim=128)
    ).eval()
    _spread_vision(model, gain=30.0)
    model.save_pretrained(folder)
    size = {"height": image_size, "width": image_size}
    CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=size).save_pretrained(folder)


@torch.no_grad()
def _spread_vision(model, gain):
    """Draw the image tower anew as `make_clip` describes; `gain` multiplies the projection."""
    tower = model.vision_model
    filters = tower.embeddings.patch_embedding.weight.normal_()  # (hidden, 3, patch, patch)
    binomial = torch.tensor([1.0, 2.0, 1.0])
    kernel = (binomial[:, None] * binomial / 16)[None, None]
    grey = functional.pad(filters.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    grey = functional.conv2d(grey, kernel)
    grey -= grey.mean((2, 3), keepdim=True)
    filters.copy_(grey / (grey.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * math.sqrt(3)))
    tower.embeddings.position_embedding.weight.normal_(std=2.0)
    for layer in tower.encoder.layers:
        for name, module in layer.named_modules():
            if name.endswith(("q_proj", "k_proj")):
                module.weight.mul_(2.0)
            elif name.endswith(("v_proj", "out_proj", "fc1", "fc2")):
                module.weight.mul_(0.7)
    noise = functional.interpolate(torch.randn(64, 3, 8, 8), tower.config.image_size, mode="bicubic")
    states = tower(pixel_values=noise.clamp(-2, 2) * 0.6).pooler_output
    tower.post_layernorm.bias.sub_(states.mean(0))
    model.visual_projection.weight.mul_(gain)
