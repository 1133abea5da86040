"""Speech encoders: any of transformers' that takes a waveform and gives hidden states.

    folder or hub id -> load_encoder -> module -> encode -> states (B, Ta, Da) at 50 Hz and their mask

WavLM and its relatives run on valid steps only (wavlm.py). Whisper's encoder runs as transformers has it: it was
trained on 30 s, padded with silence that its attention looks at, so no cheaper way gives the same states; those of the
padding are left out behind it.

Sources: Baevski et al. 2020 (wav2vec 2.0), Hsu et al. 2021 (HuBERT), Baevski et al. 2022 (data2vec), Radford et al.
2023 (Whisper), Yang et al. 2021 (SUPERB: a learnt mix of layers), Hu et al. 2022 (LoRA).
"""

import pickle
import re
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn as nn
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModel,
    FeatureExtractionMixin,
    PreTrainedConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import logging as transformers_logging

from wavlm import encode as encode_packed
from wavlm import has_norm_before

try:
    import peft
except ImportError:  # a checkpoint without an adapter loads where there is none
    peft = None

PACKED = ("wavlm", "hubert", "wav2vec2", "data2vec-audio", "unispeech", "unispeech-sat")  # model types, of wavlm.py
TYPES = (*PACKED, "whisper")  # those whose states do not depend on how far others in a batch are padded
PRODUCTS = ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense", "fc1", "fc2")  # of a layer
FRAME_RATE = 50  # states a second, of all of them
ADAPTERS, ADAPTER_FILE = "adapter", "adapter_model.safetensors"  # of a saved model; the names are peft's
# What transformers raises for a checkpoint that is damaged or of another kind, beside OSError and ValueError.
UNLOADABLE = (SafetensorError, StrictDataclassError, EOFError, LookupError, TypeError, AttributeError, RuntimeError)


def is_packed(config):
    """Whether an encoder of this configuration runs on valid steps only, layer by layer as we like."""
    return config.model_type in PACKED


def build_encoder(config, layer="last"):
    """An encoder with random weights.

    Args:
        config: transformers configuration of a type of TYPES.
        layer: as in `check_layer`; layers and a last norm that it does not need are left out.
    """
    if config.model_type == "whisper":
        config.encoder_layerdrop = 0.0  # its own forward would drop other layers in each process
    encoder = WhisperEncoder(config) if config.model_type == "whisper" else AutoModel.from_config(config)
    cut_encoder(encoder, layer)
    return encoder


def cut_encoder(encoder, layer):
    """Take away the layers, and the last norm, that a layer of `check_layer` does not need; 0 keeps one layer."""
    holder, n = find_holder(encoder), encoder.config.num_hidden_layers
    if isinstance(layer, int):
        holder.layers = holder.layers[: max(1, layer)]
    if encoder.config.model_type == "whisper":  # the last of its hidden_states is behind the norm; of others it is not
        normed = layer in ("last", "mean", "weighted", n)
    else:
        normed = layer == "last" or not has_norm_before(encoder.config)
    if not normed:
        holder.layer_norm = nn.Identity()


def choose_mix(encoder, layer):
    """The `mix` that `encode` takes for a layer of a cut encoder; `weighted` has learnt ones."""
    if layer not in ("mean", 0):
        return None
    weights = next(encoder.parameters()).new_ones(len(find_holder(encoder).layers) + 1, dtype=torch.float32)
    if layer == 0:
        weights[1:] = 0
    return weights / weights.sum()


def read_config(name):
    """The configuration of a checkpoint. Raises: ValueError or OSError for one of a type that is not run here."""
    _check_type(name)
    return AutoConfig.from_pretrained(name)


def wants_normalized(name):
    """Whether a checkpoint says that its waveforms are to have zero mean and unit variance."""
    try:
        return bool(FeatureExtractionMixin.get_feature_extractor_dict(name)[0].get("do_normalize"))
    except OSError:
        return False


def check_length(seconds, config):
    """Raise ValueError for more sound than an encoder takes. Args: seconds: used of an utterance, at most."""
    if config.model_type == "whisper" and seconds * FRAME_RATE > config.max_source_positions:
        raise ValueError(f"takes {config.max_source_positions / FRAME_RATE:g} s of sound, --max_length is {seconds:g}")


def find_holder(encoder):
    """The part of an encoder that has its layers."""
    return encoder if isinstance(encoder, WhisperEncoder) else encoder.encoder


def check_layer(layer, config):
    """Raise ValueError where there is no such layer.

    Args:
        layer: `last`: the last hidden state; k: transformers' `hidden_states[k]`, the output of layer k; `mean` of all
            of these; `weighted`: their learnt mix.
    """
    if layer not in ("last", "mean", "weighted") and not (
        isinstance(layer, int) and 0 < layer <= config.num_hidden_layers
    ):
        raise ValueError(
            f"audio_layer {layer}: last, mean, weighted, or a number from 1 to {config.num_hidden_layers} is expected"
        )


def encode(encoder, input_values, samples, passes=1, draws=None, mix=None):
    """The states of a batch.

    Args:
        encoder: of `build_encoder` or `load_encoder`. input_values: (B, Na) float, waveform at 16 kHz.
        samples: list of B int, the valid samples, which come first.
        passes, draws: see wavlm.encode; only WavLM and its relatives draw by `draws`.
        mix: (layers + 1,) weights of transformers' `hidden_states`, whose sum is wanted; None: the last hidden state.
    Returns: (B, Ta, D) states, zero where padded, and (B, Ta) bool mask.
    """
    if is_packed(encoder.config):
        return encode_packed(encoder, input_values, samples, passes, draws, mix)
    size, parts = -(-len(samples) // passes) if torch.is_grad_enabled() else len(samples), []
    for first in range(0, len(samples), size):
        part = encoder, input_values[first : first + size], mix
        again = size < len(samples)
        parts.append(checkpoint(_run_whisper, *part, use_reentrant=False) if again else _run_whisper(*part))
    states = torch.cat(parts)
    lengths = count_frames(encoder, samples)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(states.device, non_blocking=True)
    return states[:, : max(lengths)] * mask[..., None].to(states.dtype), mask


def _run_whisper(encoder, input_values, mix):
    """Whisper's encoder on sounds that silence fills up: (B, T, D), the steps of that silence too."""
    output = encoder(compute_log_mel(input_values, encoder.config), output_hidden_states=mix is not None)
    if mix is None:
        return output.last_hidden_state
    return sum(weight * states for weight, states in zip(mix, output.hidden_states, strict=True))


def count_frames(encoder, samples):
    """Valid frames of sounds, list of int. Args: samples: list of int."""
    if encoder.config.model_type == "whisper":
        hop = 2 * 160  # samples of a frame
        return [min(-(-n // hop), encoder.config.max_source_positions) for n in samples]
    return encoder._get_feat_extract_output_lengths(torch.tensor(samples)).tolist()


def compute_log_mel(input_values, config):
    """Whisper's input, as its feature extractor makes it, on the device of the sound.

    Args:
        input_values: (B, Na) float32, 16 kHz, zero padded. config: WhisperConfig.
    Returns: (B, mels, 2 * max_source_positions) float32, the silence to 30 s included.
    """
    extractor = _build_extractor(config.num_mel_bins)
    steps = 2 * config.max_source_positions * extractor.hop_length
    with torch.autocast(input_values.device.type, enabled=False):
        sound = nn.functional.pad(input_values.float(), (0, steps - input_values.shape[1]))  # negative: cuts
        window = torch.hann_window(extractor.n_fft, device=sound.device)
        spectrum = torch.stft(sound, extractor.n_fft, extractor.hop_length, window=window, return_complex=True)
        filters = torch.from_numpy(extractor.mel_filters).to(sound.device, torch.float32)
        mel = (filters.T @ (spectrum[..., :-1].abs() ** 2)).clamp(min=1e-10).log10()
        loudest = mel.amax((1, 2), keepdim=True)
        return (torch.maximum(mel, loudest - 8.0) + 4.0) / 4.0


@lru_cache
def _build_extractor(mels):
    return WhisperFeatureExtractor(feature_size=mels)


def load_encoder(name):
    """A speech encoder with every weight that its configuration asks for, none left over, all finite; runs no pickle.

    Args:
        name: folder or hub id.
    Raises: ValueError or OSError whose first line says what is wrong with the checkpoint.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its reports of many lines say what is said here in one
    try:
        kind = WhisperModel if _check_type(name) == "whisper" else AutoModel
        loading = {"output_loading_info": True, "weights_only": True, "ignore_mismatched_sizes": True}
        encoder, info = kind.from_pretrained(name, dtype=torch.float32, **loading)
    except pickle.UnpicklingError as error:
        raise ValueError(
            "its pytorch_model.bin is damaged or holds more than tensors, and nothing else of a pickle is ever run; "
            "where you trust it, save its tensors with safetensors.torch.save_file as model.safetensors"
        ) from error
    except (OSError, *UNLOADABLE) as error:
        if isinstance(error, OSError) and error.errno is None:  # transformers' own sentence
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"its config.json or weights are damaged: {reason}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    if kind is WhisperModel:
        encoder = encoder.encoder
        info = {
            key: [n for n in map(str, info[key]) if "encoder." in n] if "keys" in key else info[key] for key in info
        }
    _check_weights(encoder, info)
    return encoder


def _check_type(name):
    """The model type of a checkpoint. Raises: ValueError where config.json is missing or of a type we can't run."""
    if Path(name).is_file():
        raise ValueError("is a file; the folder of a speech encoder or a hub id is expected")
    if Path(name).is_dir() and not Path(name, "config.json").is_file():
        raise ValueError("the folder holds no config.json; config.json and model.safetensors are needed")
    config = PreTrainedConfig.get_config_dict(name)[0]
    if config.get("model_type") not in TYPES:
        raise ValueError(
            f"its config.json says model_type {config.get('model_type')!r}; accepted are {', '.join(TYPES)}"
        )
    for field in ("add_adapter", "adapter_attn_dim", "conv_pos_batch_norm"):
        if config.get(field):
            raise ValueError(
                f"its config.json says {field} {config[field]}; encoders with such a part are not run here"
            )
    return config["model_type"]


def _check_weights(encoder, info):
    """Raise ValueError for weights that are missing, of another shape, left over or not finite."""
    if missing := sorted(set(info["missing_keys"]) - {"masked_spec_embed"}):
        raise ValueError(
            f"no {encoder.config.model_type} checkpoint, it lacks {len(missing)} weights such as {missing[0]}"
        )
    if mismatched := sorted(info["mismatched_keys"]):
        name, found, expected = mismatched[0]
        raise ValueError(
            f"{len(mismatched)} weights do not have the shape that config.json says, such as {name}: "
            f"{tuple(found)} where {tuple(expected)} is expected"
        )
    stacked = re.compile(r"(encoder\.layers|feature_extractor\.conv_layers)\.")  # heads on top may be left over
    if extra := sorted(name for name in info["unexpected_keys"] if stacked.search(name)):
        raise ValueError(f"holds {len(extra)} weights of layers that its config.json does not have, such as {extra[0]}")
    if broken := [name for name, weight in encoder.state_dict().items() if not weight.isfinite().all()]:
        raise ValueError(f"{len(broken)} of its weights hold NaN or infinity, such as {broken[0]}")


def freeze(encoder, train_layers=None, adapted=False):
    """Take what is not to be trained out of training.

    Args:
        train_layers: layers that are trained, the last ones, and the norm behind them; None: all but what the method
            freezes, WavLM's convolutions. adapted: only the adapters of the trained layers.
    """
    if is_packed(encoder.config):
        encoder.feature_extractor._freeze_parameters()  # as freeze_feature_encoder, which HuBERT lacks
    else:
        encoder.embed_positions.requires_grad_(False)  # a table of sines
    config, holder = encoder.config, find_holder(encoder)
    masks = getattr(config, "apply_spec_augment", False) and config.mask_time_prob > 0
    if hasattr(encoder, "masked_spec_embed") and not masks:
        encoder.masked_spec_embed.requires_grad_(False)
    if train_layers is not None:
        encoder.requires_grad_(False)
        holder.layers[len(holder.layers) - train_layers :].requires_grad_(True)
        if has_norm_before(config):
            holder.layer_norm.requires_grad_(True)
    if adapted:
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and ".lora_" in name)


def add_adapters(encoder, rank, train_layers=None):
    """LoRA on the products of attention and feed-forward parts, by peft; scaled by 2, no change at first.

    Args: rank: of the updates. train_layers: the last layers that get them; None: all.
    Raises: ValueError where peft is not installed.
    """
    if peft is None:
        raise ValueError("its adapters need the package peft")
    n = len(find_holder(encoder).layers)
    chosen = None if train_layers is None else list(range(n - train_layers, n))
    where = {"target_modules": list(PRODUCTS), "layers_to_transform": chosen}
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=2 * rank, **where), encoder)


def find_adapters(encoder):
    """The adapted products of an encoder, [(name, module)]."""
    return [(name, module) for name, module in encoder.named_modules() if hasattr(module, "lora_A")]


def write_adapters(encoder, folder, weights, base):
    """Leave the adapters in a folder, as peft does: `PeftModel.from_pretrained(encoder, folder)` takes them up.

    Args:
        encoder: with adapters. weights: {name in the encoder: tensor} of theirs. base: name of the checkpoint below.
    """
    config = encoder.peft_config["default"]
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(folder)
    names = {name: f"base_model.model.{name.replace('.default', '')}" for name in weights}
    save_file({names[name]: w.contiguous() for name, w in weights.items()}, Path(folder, ADAPTER_FILE))


def read_adapters(checkpoint):
    """The adapters beside a model, {name in the encoder: tensor}. Args: checkpoint: its folder, or a hub id."""
    place = Path(checkpoint, ADAPTERS, ADAPTER_FILE)
    if not Path(checkpoint).is_dir():
        place = hf_hub_download(str(checkpoint), f"{ADAPTERS}/{ADAPTER_FILE}")
    weights = load_file(place)
    return {re.sub(r"(lora_[AB])", r"\1.default", n.removeprefix("base_model.model.")): w for n, w in weights.items()}


def find_checkpoint(name, near):
    """A recorded checkpoint: where it was, seen from here or from a folder above `near`, else a hub id."""
    above = [Path(near).resolve(), *Path(near).resolve().parents] if name and near else []
    places = [Path(name or "")] + [folder / name for folder in above]
    return next((str(place) for place in places if name and place.is_dir()), name)


def merge_adapters(encoder):
    """Add the updates to the weights that they are of, and take the adapters away."""
    for name, module in find_adapters(encoder):
        module.merge()
        parent, _, child = name.rpartition(".")
        setattr(encoder.get_submodule(parent), child, module.get_base_layer())
