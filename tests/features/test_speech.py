"""Training on cached states of a frozen encoder: the same numbers as through the encoder, computed once."""

import logging
import shutil

import numpy as np
import pytest
import soundfile as sf
import torch
from accelerate.state import AcceleratorState, GradientState
from transformers import WavLMModel

import train
from model import FoalNet
from running.errors import InputError
from running.records import read_json
from tiny import build_model, make_batch, write_corpus, write_wavlm
from wavlm import encode


@pytest.fixture(autouse=True)
def fresh_state():
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    logging.getLogger("foalnet").handlers.clear()


def test_states_take_the_place_of_the_waveform():
    model = build_model(freeze_encoder=True).train()
    batch = make_batch([0, 1, 2, 0, 1])
    states, mask = encode(model.wavlm, batch["input_values"], batch["attention_mask"].sum(1).tolist())
    cached = {key: batch[key] for key in ("video_features", "video_mask", "labels")}
    losses = []
    for inputs in (batch, {**cached, "audio_states": states, "audio_mask": mask}):
        model.zero_grad()
        loss = model(**inputs, seed=0).loss
        loss.backward()
        losses.append((loss.detach(), model.a2v[0].w_k.weight.grad.clone()))
        assert all(parameter.grad is None for parameter in model.wavlm.parameters())
    torch.testing.assert_close(losses[0], losses[1])


def test_one_pass_serves_every_run_of_the_same_encoder(tmp_path, monkeypatch):
    corpus, wavlm = write_corpus(tmp_path / "corpus"), write_wavlm(tmp_path / "wavlm")
    encoded = []
    monkeypatch.setattr("features.states.encode", lambda *args: encoded.append(len(args[1])) or encode(*args))

    def run(name, *flags):
        fresh = [f"--train_src={corpus}/train.scp", f"--valid_src={corpus}/valid.scp", f"--audio_model={wavlm}"]
        fresh += [f"--video_root={corpus}/features", f"--states_root={tmp_path}/states", "--num_workers=0"]
        result = train.main([*fresh, f"--save_root={tmp_path}/{name}", "--epochs=2", "--freeze_encoder", *flags])
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        return result

    first = run("first")
    assert sum(encoded) == 36 + 11
    second = run("second")
    assert sum(encoded) == 36 + 11, "the second run encoded again"
    assert first["confusion"] == second["confusion"]
    assert first["loss"] == second["loss"]
    before = WavLMModel.from_pretrained(wavlm).state_dict()
    after = FoalNet.from_pretrained(tmp_path / "first" / "best").wavlm.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the frozen encoder moved"
    assert np.load(next((tmp_path / "states").glob("*.npy"))).dtype == np.float32
    assert read_json(tmp_path / "states" / "states.json")["audio_model"] == wavlm
    with pytest.raises(SystemExit) as stop:
        run("third", "--normalize_audio")
    assert stop.value.code == 2
    assert isinstance(stop.value.__cause__, InputError)
    assert "normalize_audio was False and is True" in str(stop.value.__cause__)


def test_replaced_sounds_are_not_predicted_from_their_old_states(tmp_path, capsys):
    corpus, wavlm = write_corpus(tmp_path / "corpus", train=8, valid=4), write_wavlm(tmp_path / "wavlm")

    def run(name):
        flags = [f"--train_src={corpus}/train.scp", f"--valid_src={corpus}/valid.scp", f"--audio_model={wavlm}"]
        flags += [f"--video_root={corpus}/features", "--num_workers=0", "--epochs=1", "--freeze_encoder"]
        result = train.main([*flags, f"--states_root={tmp_path}/states", f"--save_root={tmp_path}/{name}"])
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        return result["loss"]

    first = run("first")
    for number, path in enumerate(sorted((corpus / "wav").glob("[tv][ra]*.wav"))):
        sf.write(path, np.random.default_rng(number).uniform(-0.9, 0.9, sf.info(path).frames), sf.info(path).samplerate)
    capsys.readouterr()
    second = run("second")
    assert "the sounds of 12 states have changed since" in capsys.readouterr().out
    assert second != first
    shutil.rmtree(tmp_path / "states")
    assert run("third") == second

    path = tmp_path / "states" / "valid_001.npy"
    np.save(path, np.full_like(np.load(path), np.nan))
    with pytest.raises(SystemExit) as stop:
        run("fourth")
    assert stop.value.code == 2
    assert f"error: {path}: row 0 holds NaN or infinity" in capsys.readouterr().err
