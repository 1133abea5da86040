"""Speech encoders against transformers' own forward, layers, adapters and partly trained encoders."""

import re

import numpy as np
import peft
import pytest
import torch
from transformers import AutoConfig, AutoModel, WhisperFeatureExtractor, WhisperModel

from encoders import count_frames, encode, find_adapters, load_encoder
from features.preprocessing import Preprocessing
from model import FoalNet, FoalNetConfig
from running.model_folder import load_model, write_model
from running.records import checksum_weights
from tiny import LABELS, NO_DROPOUT, VIDEO_DIM, WAVLM, make_batch, write_wavlm

LARGE, BASE = {}, {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
DATA2VEC = {name: value for name, value in WAVLM.items() if name not in ("feat_extract_norm", "do_stable_layer_norm")}
DATA2VEC |= {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}
WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "num_mel_bins": 80,
    "max_source_positions": 100,  # 2 s
    "vocab_size": 99,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "decoder_start_token_id": 1,
    "init_std": 0.2,
}
FAMILIES = {
    "wavlm": ("wavlm", LARGE),
    "wavlm, base": ("wavlm", BASE),
    "hubert": ("hubert", LARGE),
    "hubert, base": ("hubert", BASE),
    "hubert, no norm": ("hubert", {**LARGE, "feat_proj_layer_norm": False}),
    "wav2vec2": ("wav2vec2", LARGE),
    "wav2vec2, base": ("wav2vec2", BASE),
    "unispeech": ("unispeech", LARGE),
    "unispeech-sat": ("unispeech-sat", LARGE),
    "data2vec-audio": ("data2vec-audio", DATA2VEC),
    "whisper": ("whisper", WHISPER),
}
SAMPLES = [6400, 2500, 5301]


def write_encoder(folder, family, seed=0, **more):
    """Save a random speech encoder of FAMILIES without dropout as a checkpoint folder."""
    kind, fields = FAMILIES[family]
    shared = {} if kind == "whisper" else {**(DATA2VEC if kind == "data2vec-audio" else WAVLM), **NO_DROPOUT}
    torch.manual_seed(seed)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **{**shared, **fields, **more}))
    if kind == "data2vec-audio":
        model.apply(
            lambda module: torch.nn.init.normal_(module.weight, std=0.1) if hasattr(module, "kernel_size") else None
        )
    model.save_pretrained(folder)
    return str(folder)


def draw_sounds(samples=SAMPLES, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=n).astype(np.float32) for n in samples]


def pad_sounds(sounds):
    padded = torch.zeros(len(sounds), max(map(len, sounds)))
    for row, sound in zip(padded, sounds, strict=True):
        row[: len(sound)] = torch.from_numpy(sound)
    return padded


def run_transformers(folder, family, sounds):
    """What transformers alone gives for each sound: [hidden_states of valid frames, ..., last_hidden_state]."""
    kind, found = FAMILIES[family][0], []
    with torch.no_grad():
        if kind == "whisper":
            model = WhisperModel.from_pretrained(folder).eval().encoder
            positions = model.config.max_source_positions
            extractor = WhisperFeatureExtractor(chunk_length=positions // 50)
            for sound in sounds:
                inputs = extractor(sound, sampling_rate=16000, return_tensors="pt").input_features
                output = model(inputs, output_hidden_states=True)
                frames = -(-len(sound) // 320)
                found.append([h[0, :frames] for h in (*output.hidden_states, output.last_hidden_state)])
            return found
        model = AutoModel.from_pretrained(folder).eval()
        if "base" in family:  # the norm of the first convolution takes the padding in, there as here
            mask = torch.tensor([[1] * len(s) + [0] * (max(map(len, sounds)) - len(s)) for s in sounds])
            output = model(pad_sounds(sounds), mask, output_hidden_states=True)
            frames = model._get_feat_extract_output_lengths(mask.sum(1)).tolist()
            states = *output.hidden_states, output.last_hidden_state
            return [[h[i, :n] for h in states] for i, n in enumerate(frames)]
        for sound in sounds:
            output = model(torch.from_numpy(sound)[None], output_hidden_states=True)
            found.append([h[0] for h in (*output.hidden_states, output.last_hidden_state)])
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_transformers(family, tmp_path):
    folder, sounds = write_encoder(tmp_path, family), draw_sounds()
    expected = run_transformers(folder, family, sounds)
    encoder = load_encoder(folder).eval()
    mixes = {"last": (None, lambda h: h[-1]), "mean": (torch.full((3,), 1 / 3), lambda h: sum(h[:3]) / 3)}
    mixes["first"] = torch.tensor([0.0, 1.0, 0.0]), lambda h: h[1]
    for name, (mix, choose) in mixes.items():
        with torch.no_grad():
            states, mask = encode(encoder, pad_sounds(sounds), SAMPLES, mix=mix)
        assert mask.sum(1).tolist() == [len(h[-1]) for h in expected] == count_frames(encoder, SAMPLES)
        for row, valid, hidden in zip(states, mask, expected, strict=True):
            torch.testing.assert_close(row[valid], choose(hidden), atol=2e-5, rtol=1e-4, msg=f"{family}, {name}")
            assert not row[~valid].any()


@pytest.mark.parametrize("family", ["hubert", "data2vec-audio", "whisper"])
def test_gradients_are_those_of_transformers(family, tmp_path):
    """Of one sound, where no padding is in the way."""
    folder, (sound, *_) = write_encoder(tmp_path, family), draw_sounds()
    ours, theirs = load_encoder(folder).eval(), load_encoder(folder).eval()
    states, _ = encode(ours, torch.from_numpy(sound)[None], [len(sound)])
    torch.manual_seed(0)
    weights = torch.randn_like(states)
    (states * weights).sum().backward()
    if family == "whisper":
        inputs = WhisperFeatureExtractor(chunk_length=2)(sound, sampling_rate=16000, return_tensors="pt").input_features
        output = theirs(inputs).last_hidden_state[:, : states.shape[1]]
    else:
        output = theirs(torch.from_numpy(sound)[None]).last_hidden_state
    (output * weights).sum().backward()
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    assert len(found) > 30
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4 * max(1, gradient.abs().max()), rtol=1e-3, msg=name)


@pytest.mark.parametrize("family", ["hubert", "whisper"])
def test_parts_of_a_batch_have_the_gradients_of_the_whole(family, tmp_path):
    folder, sounds, gradients = write_encoder(tmp_path, family), draw_sounds(), []
    for passes in (1, 3):
        encoder = load_encoder(folder)
        encode(encoder, pad_sounds(sounds), SAMPLES, passes)[0].square().sum().backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-3, rtol=1e-3, msg=name)


def build(folder, seed=3, **config):
    torch.manual_seed(seed)
    fields = {"video_dim": VIDEO_DIM, "embed_dim": 16, "fusion_dropout": 0.0, "projection_dropout": 0.0, **config}
    return FoalNet.from_encoder(folder, **fields)


@pytest.mark.parametrize("family", ["hubert", "wav2vec2, base", "data2vec-audio", "whisper"])
@pytest.mark.parametrize("layer", ["last", 1, "mean", "weighted"])
def test_model_on_any_encoder_trains_and_comes_back(family, layer, tmp_path):
    """The whole loss has a gradient in every trained weight, and a saved model answers as before."""
    model = build(write_encoder(tmp_path / "encoder", family), audio_layer=layer)
    batch = make_batch([0, 1, 2, 0], samples=(2400, 6400))
    output = model(**batch, seed=1)
    output.loss.backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent
    write_model(tmp_path / "best", model.eval(), Preprocessing())
    again, _ = load_model(tmp_path / "best")
    batch.pop("labels")
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, model(**batch).logits, atol=0, rtol=0)


def test_padding_changes_nothing(tmp_path):
    for i, family in enumerate(("hubert", "wav2vec2", "data2vec-audio", "unispeech-sat")):
        encoder = load_encoder(write_encoder(tmp_path / str(i), family)).eval()
        sounds = draw_sounds()
        with torch.no_grad():
            (alone, _), (padded, mask) = (
                encode(encoder, torch.nn.functional.pad(pad_sounds(rows), (0, more)), [len(row) for row in rows])
                for rows, more in ((sounds[1:2], 0), (sounds, 777))
            )
        torch.testing.assert_close(padded[1][mask[1]], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("family", ["wavlm", "wavlm, base", "hubert"])
def test_trained_layers_from_kept_states_are_those_of_the_whole_encoder(family, k, tmp_path):
    """Loss and gradients from the states of the layers below are those from the waveform."""
    model = build(write_encoder(tmp_path, family), train_layers=k)
    batch = make_batch([0, 1, 2, 0])
    samples = batch["attention_mask"].sum(1).tolist()
    lower = load_encoder(str(tmp_path)).eval()
    mix = torch.zeros(3)
    mix[2 - k] = 1.0
    with torch.no_grad():
        states, mask = encode(lower, batch["input_values"], samples, mix=mix)
    found = {}
    for name, inputs in (("waveform", {}), ("states", {"audio_states": states, "audio_mask": mask})):
        model.zero_grad()
        left = {key: batch[key] for key in ("video_features", "video_mask", "labels")} if inputs else batch
        output = model.train()(**left, **inputs, seed=1)
        output.loss.backward()
        found[name] = output.loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert found["states"][0] == pytest.approx(found["waveform"][0], abs=1e-6)
    names = found["states"][1].keys()
    assert names == found["waveform"][1].keys()
    trained = {name for name in names if "encoder" in name}
    assert {name.split(".")[3] for name in trained if "layers" in name} == {str(i) for i in range(2 - k, 2)}
    for name in names:
        torch.testing.assert_close(found["states"][1][name], found["waveform"][1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_layers_that_are_not_trained_are_in_evaluation_mode(tmp_path):
    """No dropout, no SpecAugment below; dropout in the layers that are trained."""
    rates = {"hidden_dropout": 0.3, "attention_dropout": 0.3, "feat_proj_dropout": 0.3, "apply_spec_augment": True}
    folder = write_wavlm(tmp_path, **rates, mask_time_prob=0.5, mask_time_length=2)
    model, batch = build(folder, train_layers=1).train(), make_batch([0, 1])
    assert not model.encoder.training
    assert model.encoder.encoder.layers[1].attention.training
    assert not model.encoder.encoder.layers[0].feed_forward.intermediate_dropout.training
    mix, seen = torch.tensor([0.0, 1.0, 0.0]), []
    with torch.no_grad():
        for _ in range(2):
            seen.append(encode(model.encoder, batch["input_values"], [2400, 2400], mix=mix)[0])
        torch.testing.assert_close(seen[0], seen[1], atol=0, rtol=0)
        last = [encode(model.encoder, batch["input_values"], [2400, 2400])[0] for _ in range(2)]
    assert (last[0] - last[1]).abs().max() > 0.01


@pytest.mark.parametrize("k", [1, 2, 3])
def test_layerdrop_leaves_out_trained_layers_alone(k, tmp_path):
    """The same ones from kept states and from the waveform: never one that is frozen."""
    model = build(write_wavlm(tmp_path, num_hidden_layers=4, layerdrop=0.5), train_layers=k).train()
    batch, mix = make_batch([0, 1, 2, 0]), torch.zeros(5)
    samples = batch["attention_mask"].sum(1).tolist()
    mix[4 - k], seen = 1.0, set()
    with torch.no_grad():
        states, mask = encode(load_encoder(str(tmp_path)).eval(), batch["input_values"], samples, mix=mix)
        kept = {key: batch[key] for key in ("video_features", "video_mask", "labels")}
        kept |= {"audio_states": states, "audio_mask": mask}
        for seed in range(60):
            ours, theirs = model(**kept, seed=seed), model(**batch, seed=seed)
            torch.testing.assert_close(ours.loss, theirs.loss, atol=1e-5, rtol=1e-5)
            seen.add(round(ours.audio_pooled.abs().sum().item(), 3))
    assert len(seen) == 2**k  # every choice of the trained layers, and no other


EXPECTED = {  # names in transformers that are trained
    ("wavlm", ()): r"(?!feature_extractor\.|masked_spec_embed)",
    ("data2vec-audio", ()): r"(?!feature_extractor\.|masked_spec_embed)",
    ("hubert, base", ()): r"(?!feature_extractor\.|masked_spec_embed)",
    ("whisper", ()): r"(?!embed_positions\.)",
    ("wavlm", ("train_layers",)): r"encoder\.layers\.1\.|encoder\.layer_norm\.",
    ("hubert", ("train_layers",)): r"encoder\.layers\.1\.|encoder\.layer_norm\.",
    ("hubert, base", ("train_layers",)): r"encoder\.layers\.1\.",  # its norm is in front
    ("wavlm", ("train_layers", "lora_rank")): r"encoder\.layers\.1\..*\.lora_",
}


@pytest.mark.parametrize(("family", "flags"), EXPECTED)
def test_what_is_trained(family, flags, tmp_path):
    model = build(write_encoder(tmp_path, family), **dict.fromkeys(flags, 1))
    names = {name: parameter.requires_grad for name, parameter in model.encoder.named_parameters()}
    expected = {name: bool(re.match(EXPECTED[family, flags], name)) for name in names}
    assert names == expected
    assert 0 < sum(names.values()) < len(names)


@pytest.mark.parametrize("family", ["wavlm", "hubert", "whisper"])
def test_every_adapter_gets_a_gradient_and_nothing_below_is_trained(family, tmp_path):
    model = build(write_encoder(tmp_path, family), lora_rank=2).train()
    batch = make_batch([0, 1, 2, 0])
    adapters = {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(adapters) == 2 * 6 * 2  # layers, products, A and B
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if name.startswith(f"{model.encoder_name}.")} == adapters
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for _ in range(2):  # at first the gradient of A is 0, since B is
        optimizer.zero_grad()
        model(**batch, seed=1).loss.backward()
        optimizer.step()
    still = {name for name in adapters if not model.get_parameter(name).grad.any()}
    assert not still
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert adapters <= moved
    assert not {name for name in moved - adapters if name.startswith(f"{model.encoder_name}.")}


def train_adapters(folder, **config):
    model = build(folder, lora_rank=2, **config)
    model.config.audio_crc32 = checksum_weights(model.base_weights())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.3)
    return model.eval()


@pytest.mark.parametrize("family", ["wavlm", "hubert", "whisper"])
def test_adapters_come_back_and_merging_them_changes_no_logit(family, tmp_path):
    folder = write_encoder(tmp_path / "encoder", family)
    model, batch = train_adapters(folder), make_batch([0, 1, 2])
    batch.pop("labels")
    write_model(tmp_path / "best", model, Preprocessing())
    size = sum(path.stat().st_size for path in (tmp_path / "best").rglob("*.safetensors"))
    assert size < 0.8 * sum(p.nbytes for p in model.parameters())
    again, _ = load_model(tmp_path / "best")
    plain = build(folder).eval()
    with torch.no_grad():
        logits = model(**batch).logits
        assert (plain(**batch).logits - logits).abs().max() > 1e-3
        torch.testing.assert_close(again(**batch).logits, logits, atol=0, rtol=0)
        again.merge_adapters()
        assert not any(".lora_" in name or "base_layer" in name for name in again.state_dict())
        torch.testing.assert_close(again(**batch).logits, logits, atol=1e-5, rtol=1e-4)
    write_model(tmp_path / "merged", again, Preprocessing())
    merged, _ = load_model(tmp_path / "merged")
    for name, product in find_adapters(model.encoder):  # by hand: W + 2 B A
        a, b, weight = product.lora_A["default"].weight, product.lora_B["default"].weight, product.base_layer.weight
        found = merged.encoder.get_submodule(name).weight
        torch.testing.assert_close(found, weight + 2 * b @ a, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(merged(**batch).logits, logits, atol=1e-5, rtol=1e-4)


def test_adapters_are_those_that_peft_reads(tmp_path):
    """peft itself puts them into transformers' WavLM, merges them, and transformers' own forward gives our states."""
    folder = write_encoder(tmp_path / "encoder", "wavlm")
    model, (sound, *_) = train_adapters(folder), draw_sounds()
    write_model(tmp_path / "best", model, Preprocessing())
    theirs = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(folder), tmp_path / "best" / "adapter")
    theirs = theirs.merge_and_unload().eval()
    with torch.no_grad():
        found = encode(model.encoder, torch.from_numpy(sound)[None], [len(sound)])[0]
        torch.testing.assert_close(found, theirs(torch.from_numpy(sound)[None]).last_hidden_state, atol=2e-5, rtol=1e-4)


def test_adapters_refuse_another_encoder_below(tmp_path):
    folder = write_encoder(tmp_path / "encoder", "wavlm")
    write_model(tmp_path / "best", train_adapters(folder), Preprocessing())
    write_encoder(tmp_path / "encoder", "wavlm", seed=1)
    with pytest.raises(ValueError, match="its adapters are of .*encoder with the CRC-32 .*; found there: "):
        load_model(tmp_path / "best")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"audio_layer": 3}, "audio_layer 3: last, mean, weighted, or a number from 1 to 2"),
        ({"audio_layer": "top"}, "audio_layer top"),
        ({"train_layers": 3}, "train_layers 3: a number from 1 to 2"),
        ({"train_layers": 2, "audio_layer": 1}, "train_layers 2: a number from 1 to 1"),
        ({"train_layers": 1, "audio_layer": "mean"}, "needs the states of every layer"),
    ],
)
def test_fields_that_contradict_each_other(config, words):
    with pytest.raises(ValueError, match=words):
        FoalNetConfig(wavlm=WAVLM, labels=LABELS, **config)


def test_whisper_has_no_layer_to_enter_at():
    with pytest.raises(ValueError, match="a whisper can't be entered at a layer"):
        FoalNetConfig(audio_config={"model_type": "whisper", **WHISPER}, train_layers=1)
