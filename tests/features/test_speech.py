"""Training on cached states of a frozen encoder: the same numbers as through the encoder, computed once."""

import logging
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from forked import forget_accelerate
from safetensors.torch import load_file
from test_encoders import FAMILIES, SAMPLES, draw_sounds, pad_sounds, run_transformers, write_encoder
from transformers import WavLMModel

import train
from dataloader import read_audio, read_scp_lines
from encoders import encode
from features.speech import SpeechEncoder
from inference.predictor import FoalPredictor
from inference.sources import Source
from model import FoalNet
from running.errors import InputError
from running.model_folder import load_model
from running.records import read_json
from scripts import extract_audio, merge_adapters
from tiny import make_batch, write_corpus, write_wavlm


@pytest.fixture(autouse=True)
def fresh_state():
    yield
    forget_accelerate()
    logging.getLogger("foalnet").handlers.clear()


def flags_of(corpus, *flags):
    lists = [f"--train_src={corpus}/train.scp", f"--valid_src={corpus}/valid.scp", f"--video_root={corpus}/features"]
    return [*lists, "--num_workers=0", "--epochs=2", *flags]


def run(corpus, *flags):
    result = train.main(flags_of(corpus, *flags))
    forget_accelerate()
    return result


LAYERS = {0: lambda h: h[0], 1: lambda h: h[1], 2: lambda h: h[2], "last": lambda h: h[-1]}
LAYERS["mean"] = lambda h: sum(h[:3]) / 3
CASES = [(family, k) for family in ("wavlm", "wavlm, base", "whisper") for k in LAYERS if (family, k) != ("whisper", 0)]


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_states_of_every_layer_are_those_of_transformers(family, layer, tmp_path):
    """Of a cut encoder; 0 is what --train_layers keeps where it trains every layer, which Whisper does not."""
    folder, sounds = write_encoder(tmp_path, family), draw_sounds()
    states, mask = SpeechEncoder(folder, layer, max_length=2.0)(pad_sounds(sounds), SAMPLES)
    for row, valid, hidden in zip(states, mask, run_transformers(folder, family, sounds), strict=True):
        torch.testing.assert_close(row[valid], LAYERS[layer](hidden), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["wavlm", "hubert, base", "whisper"])
def test_ready_features_are_the_frozen_encoder_to_the_last_bit(family, tmp_path, monkeypatch):
    """scripts.extract_audio and --audio_root, in one folder, and --freeze_encoder in another."""
    corpus, encoder = write_corpus(tmp_path / "corpus", train=12, valid=5), write_encoder(tmp_path / "encoder", family)
    shared = [f"--audio_model={encoder}", "--max_length=0.25", "--audio_layer=mean"]
    frozen = run(corpus, *shared, "--freeze_encoder", f"--audio_root={tmp_path}/a", f"--save_root={tmp_path}/frozen")
    lists = [f"{corpus}/train.scp", f"{corpus}/valid.scp"]
    extract_audio.main(["--lists", *lists, "--out", f"{tmp_path}/b", *shared, "--num_workers=0"])
    forget_accelerate()
    alone = SpeechEncoder(encoder, "mean", max_length=0.25)
    for _, utt_id, sound, _ in read_scp_lines(corpus / "train.scp"):
        path, waveform = tmp_path / "a" / f"{utt_id}.npy", torch.from_numpy(read_audio(sound, 0.25))
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        states, _ = alone(waveform[None], [len(waveform)])  # group norm would look at what others are padded with
        torch.testing.assert_close(torch.from_numpy(np.load(path)), states[0], atol=1e-5, rtol=1e-4)
    assert read_json(tmp_path / "a" / "features.json") == read_json(tmp_path / "b" / "features.json")
    ready = run(corpus, f"--audio_root={tmp_path}/b", "--max_length=0.25", f"--save_root={tmp_path}/ready")
    names = {"predictions_valid.csv", "best/model.safetensors", "best/preprocessor_config.json"}
    for name in names:
        assert (tmp_path / "frozen" / name).read_bytes() == (tmp_path / "ready" / name).read_bytes(), name
    assert frozen["loss"] == ready["loss"]
    card = (tmp_path / "ready" / "best" / "README.md").read_text()
    assert f"as states (layer mean) of `{encoder}`" in card
    assert f"- {FAMILIES[family][0]}\n" in card
    assert "- wavlm\n" not in card or family == "wavlm"
    assert not any(key.startswith("wavlm") for key in FoalNet.from_pretrained(tmp_path / "ready" / "best").state_dict())


def test_a_model_of_ready_features_answers_for_sounds_when_it_knows_their_encoder(tmp_path):
    """predict.py computes the features by the recorded encoder; for those of unknown origin it says why it can't."""
    corpus, encoder = write_corpus(tmp_path / "corpus", train=12, valid=5), write_encoder(tmp_path / "hubert", "hubert")
    shared = [f"--audio_model={encoder}", "--normalize_audio", "--audio_layer=1", f"--audio_root={tmp_path}/states"]
    run(corpus, *shared, "--freeze_encoder", f"--save_root={tmp_path}/run")
    table = pd.read_csv(tmp_path / "run" / "predictions_valid.csv")
    sources = [
        Source(utt_id, path, features=str(corpus / "features" / f"{utt_id}.npy"))
        for _, utt_id, path, _ in read_scp_lines(corpus / "valid.scp")
    ]
    predictor = FoalPredictor.from_pretrained(tmp_path / "run", cpu=True)
    answers = predictor.predict(sources)
    expected = table[[f"prob_{name}" for name in predictor.labels]].to_numpy()
    np.testing.assert_allclose([answer.probabilities for answer in answers], expected, atol=2e-6)

    write_encoder(tmp_path / "hubert", "hubert", seed=1)
    with pytest.raises(InputError, match=r"--audio_model .*hubert: its weights have the CRC-32"):
        FoalPredictor.from_pretrained(tmp_path / "run", cpu=True).predict(sources)
    (tmp_path / "states" / "features.json").unlink()
    run(corpus, "--normalize_audio", f"--audio_root={tmp_path}/states", f"--save_root={tmp_path}/unknown")
    with pytest.raises(InputError, match="do not say how they were made, so it can't answer for sounds"):
        FoalPredictor.from_pretrained(tmp_path / "unknown", cpu=True).predict(sources)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_of_any_origin_width_and_rate(dtype, tmp_path):
    """No sound is there at all; the model's audio stream is as wide as the features."""
    corpus, rng = write_corpus(tmp_path / "corpus", train=12, valid=5), np.random.default_rng(0)
    shutil.rmtree(corpus / "wav")
    (corpus / "emotion2vec").mkdir()
    for path in (corpus / "features").glob("*.npy"):
        np.save(corpus / "emotion2vec" / path.name, rng.normal(size=(rng.integers(1, 30), 20)).astype(dtype))
    result = run(corpus, f"--audio_root={corpus}/emotion2vec", f"--save_root={tmp_path}/run")
    model = FoalNet.from_pretrained(tmp_path / "run" / "best")
    assert model.config.audio_dim == 20
    assert model.encoder is None
    assert result["utterances"] == 5
    bad = corpus / "emotion2vec" / "valid_001.npy"
    np.save(bad, np.full((4, 20), np.nan, dtype))
    with pytest.raises(SystemExit) as stop:
        run(corpus, f"--audio_root={corpus}/emotion2vec", f"--save_root={tmp_path}/other")
    assert f"{bad}: row 0 holds NaN or infinity" in str(stop.value.__cause__)
    bad.unlink()
    with pytest.raises(SystemExit) as stop:
        run(corpus, f"--audio_root={corpus}/emotion2vec", f"--save_root={tmp_path}/other")
    assert "no features of valid_001" in str(stop.value.__cause__)


def test_train_layers_trains_on_kept_states_and_leaves_a_whole_model(tmp_path):
    corpus, encoder = write_corpus(tmp_path / "corpus", train=12, valid=5), write_wavlm(tmp_path / "encoder")
    shared = [f"--audio_model={encoder}", "--train_layers=1", f"--audio_root={tmp_path}/states"]
    run(corpus, *shared, f"--save_root={tmp_path}/run")
    assert read_json(tmp_path / "states" / "features.json")["layer"] == 1
    model, _ = load_model(tmp_path / "run" / "best")
    before = WavLMModel.from_pretrained(encoder).state_dict()
    moved = {name for name, w in model.encoder.state_dict().items() if not torch.equal(w, before[name])}
    assert moved
    assert all(name.startswith(("encoder.layers.1.", "encoder.layer_norm.")) for name in moved)
    waveform = read_audio(read_scp_lines(corpus / "valid.scp")[0][2])
    features = torch.from_numpy(np.load(corpus / "features" / "valid_000.npy").astype(np.float32))
    with torch.no_grad():
        logits = model(torch.from_numpy(waveform)[None], video_features=features[None]).logits
    first = pd.read_csv(tmp_path / "run" / "predictions_valid.csv").iloc[0]
    expected = first[[f"prob_{name}" for name in model.config.labels]].to_numpy(float)
    np.testing.assert_allclose(logits.softmax(-1)[0].numpy(), expected, atol=1e-5)


def test_adapters_train_resume_and_predict(tmp_path):
    """The saved files are small, --resume ends with the same numbers, and the base is not saved again."""
    corpus = write_corpus(tmp_path / "corpus", train=12, valid=5)
    encoder = write_wavlm(tmp_path / "encoder", num_hidden_layers=8)
    shared = [f"--audio_model={encoder}", "--lora_rank=2", "--batch_size=4", "--mem_weight=0"]
    whole = run(corpus, *shared, f"--save_root={tmp_path}/whole")
    base = (tmp_path / "encoder" / "model.safetensors").stat().st_size
    saved = {p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.safetensors")}
    assert {str(path) for path in saved} >= {"best/model.safetensors", "best/adapter/adapter_model.safetensors"}
    names = {n for n in load_file(tmp_path / "whole" / "last" / "model.safetensors") if n.startswith("wavlm.")}
    assert names
    assert all(".lora_" in name for name in names)
    assert (tmp_path / "whole" / "best" / "adapter" / "adapter_model.safetensors").stat().st_size < base / 3
    model, _ = load_model(tmp_path / "whole" / "best")
    below = WavLMModel.from_pretrained(encoder).state_dict()
    assert all(torch.equal(w, below[name]) for name, w in model.base_weights().items())

    def stop(*args, **options):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.measure_gradients", stop)
        with pytest.raises(KeyboardInterrupt):
            run(corpus, *shared, "--save_every=1steps", f"--save_root={tmp_path}/stopped")
    forget_accelerate()
    again = run(corpus, *shared, "--save_every=1steps", "--resume", f"--save_root={tmp_path}/stopped")
    assert again["loss"] == whole["loss"]
    merge_adapters.main([str(tmp_path / "whole"), str(tmp_path / "merged")])
    merged, _ = load_model(tmp_path / "merged")
    batch = make_batch([0, 1])
    batch.pop("labels")
    with torch.no_grad():
        torch.testing.assert_close(merged(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--freeze_encoder", "--lora_rank=2"], "--freeze_encoder, --lora_rank: contradict"),
        (["--freeze_encoder", "--train_layers=1"], "--freeze_encoder, --train_layers: contradict"),
        (["--audio_root=x", "--lora_rank=2"], "--audio_root, --lora_rank: ready features have no encoder"),
        (["--audio_root=x", "--audio_layer=1"], "--audio_root, --audio_layer: ready features have no encoder"),
        (["--modality=v", "--train_layers=1"], "--train_layers: there is no speech encoder"),
        (["--train_layers=0"], "--train_layers 0: must be"),
        (["--train_layers=3"], "train_layers 3: a number from 1 to 2"),
        (["--train_layers=1", "--audio_layer=weighted"], "needs the states of every layer"),
        (["--audio_layer=9"], "audio_layer 9: last, mean, weighted, or a number from 1 to 2"),
        (["--audio_layer=top"], "audio_layer top: last"),
        (["--freeze_encoder", "--audio_layer=weighted"], "audio_layer weighted: is learnt"),
        (["--freeze_encoder", "--audio_layer=9"], "audio_layer 9: last"),
    ],
)
def test_flags_of_the_encoder_that_contradict_each_other(flags, message, tmp_path):
    corpus, encoder = write_corpus(tmp_path / "corpus", train=8, valid=4), write_wavlm(tmp_path / "encoder")
    more = [f"--audio_root={tmp_path}/states"] if flags[0] in ("--freeze_encoder", "--train_layers=1") else []
    with pytest.raises(SystemExit) as stop:
        run(corpus, f"--audio_model={encoder}", *more, f"--save_root={tmp_path}/run", *flags)
    assert stop.value.code == 2
    assert message in str(stop.value.__cause__)


def test_whisper_takes_no_more_sound_than_it_has_positions_for(tmp_path):
    corpus, encoder = (
        write_corpus(tmp_path / "corpus", train=8, valid=4),
        write_encoder(tmp_path / "encoder", "whisper"),
    )
    for more in ([], ["--freeze_encoder", f"--audio_root={tmp_path}/states"]):
        with pytest.raises(SystemExit) as stop:
            run(corpus, f"--audio_model={encoder}", "--max_length=2.5", f"--save_root={tmp_path}/run", *more)
        assert "takes 2 s of sound, --max_length is 2.5" in str(stop.value.__cause__)
        forget_accelerate()


def test_one_pass_serves_every_run_of_the_same_encoder(tmp_path, monkeypatch):
    corpus, wavlm = write_corpus(tmp_path / "corpus"), write_wavlm(tmp_path / "wavlm")
    encoded = []

    def count(*args, **options):
        encoded.append(len(args[1]))
        return encode(*args, **options)

    monkeypatch.setattr("features.speech.encode", count)

    def run(name, *flags):
        fresh = [f"--train_src={corpus}/train.scp", f"--valid_src={corpus}/valid.scp", f"--audio_model={wavlm}"]
        fresh += [f"--video_root={corpus}/features", f"--audio_root={tmp_path}/states", "--num_workers=0"]
        result = train.main([*fresh, f"--save_root={tmp_path}/{name}", "--epochs=2", "--freeze_encoder", *flags])
        forget_accelerate()
        return result

    first = run("first")
    assert sum(encoded) == 36 + 11
    second = run("second")
    assert sum(encoded) == 36 + 11, "the second run encoded again"
    assert first["confusion"] == second["confusion"]
    assert first["loss"] == second["loss"]
    assert np.load(next((tmp_path / "states").glob("*.npy"))).dtype == np.float32
    assert read_json(tmp_path / "states" / "features.json")["model"] == wavlm
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
        result = train.main([*flags, f"--audio_root={tmp_path}/states", f"--save_root={tmp_path}/{name}"])
        forget_accelerate()
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
