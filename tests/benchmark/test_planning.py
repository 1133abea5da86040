"""A plan is counted on fake tensors, so it is held to what real ones take: bytes kept, gradients, peaks."""

import numpy as np
import pytest
import torch

import wavlm
from benchmark.fake_gpu import FakeGpu
from benchmark.planning import COPIES, Corpus, Rehearsal, count_needs, read_config, suggest
from benchmark.timing import measure_peak
from model import FoalNet
from scripts import plan
from tiny import build_model, make_batch, write_corpus, write_wavlm
from wavlm import Packing

WIDE = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
STEPS, FRAMES, WIDTH = 96, 64, 128  # whole blocks of the allocator, no step of padding
SECONDS = (400 + 320 * (STEPS - 1)) / 16000  # of so many steps


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Config of a WavLM wide enough that small tensors don't count."""
    return read_config(write_wavlm(tmp_path_factory.mktemp("wide"), **WIDE, conv_dim=[16] * 7))


def make_args(*flags):
    return plan.parse_args(["--dropout=0", "--mixed_precision=no", *flags])


def make_corpus(n=64, seconds=SECONDS):
    lengths = np.tile([seconds, FRAMES], (n, 1))
    return Corpus(lengths, {"valid": lengths}, np.arange(n) % 4, WIDTH, 0, "")


def count(wide, *flags, rows=4, seconds=SECONDS):
    corpus = make_corpus(seconds=seconds)
    return count_needs(make_args(*flags), wide, corpus, corpus.train[:rows])


@pytest.fixture
def as_on_gpu(monkeypatch):
    """WavLM takes all sequences together, as it does on a GPU only."""
    monkeypatch.setattr(wavlm, "Packing", lambda lengths, device, together: Packing(lengths, device, True))


def build_real(wide, flags):
    """The model of these flags with values, and a batch of four utterances."""
    model = FoalNet(Rehearsal(make_args(*flags), wide, WIDTH).model.config).train()
    if "--gradient_checkpointing" in flags:
        model.wavlm.activation_checkpointing_enable()
    batch = {"input_values": torch.zeros(4, round(SECONDS * 16000)), "video_features": torch.zeros(4, FRAMES, WIDTH)}
    return model, {**batch, "labels": torch.arange(4)}


@pytest.mark.parametrize("flags", [[], ["--gradient_checkpointing"], ["--modality=a"]], ids=" ".join)
def test_counted_peak_is_that_of_a_real_step(wide, as_on_gpu, flags):
    model, batch = build_real(wide, flags)
    if "--modality=a" in flags:
        del batch["video_features"]
    real = measure_peak(lambda: model(**batch).loss.backward(), torch.device("cpu"))
    needs = count(wide, *flags)
    assert needs.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert needs.step["weights"] == pytest.approx(needs.weights, rel=0.05)  # in blocks
    assert needs.step["moments"] == pytest.approx(2 * needs.trained, rel=0.1)
    counted = needs.step.total() - sum(needs.step[part] for part in ("weights", "moments", "batch"))
    assert counted == pytest.approx(real, rel=0.1)


def test_activations_are_what_a_real_forward_pass_keeps(wide, as_on_gpu):
    model, batch = build_real(wide, [])
    kept, known = {}, {x.untyped_storage().data_ptr() for x in (*model.parameters(), *batch.values())}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**batch).loss
    real = sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in known)
    rehearsal = Rehearsal(make_args(), wide, WIDTH)
    with rehearsal.gpu as gpu:
        rehearsal.model.train()
        loss = rehearsal.model(**rehearsal.draw_inputs(make_corpus().train[:4])).loss
        counted = gpu.live["activations"] + gpu.live["attention bias"]
    assert loss.is_cuda
    assert counted == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_backward_gives_the_gradients_of_torchs_engine(passes, checkpointing):
    model, batch = build_model().train(), make_batch([0, 1, 2, 3, 0])
    model.encoder_passes = passes
    if checkpointing:
        model.wavlm.activation_checkpointing_enable()
    model(**batch, seed=1).loss.backward()
    gradients = {}

    def accumulate(parameter, gradient):
        gradients[parameter] = gradients.get(parameter, 0) + gradient

    FakeGpu().backward([model(**batch, seed=1).loss], accumulate)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(gradients) == len(trained)
    for parameter in trained:
        torch.testing.assert_close(gradients[parameter], parameter.grad)


def test_parts_grow_as_they_must(wide):
    short, long = (count(wide, seconds=SECONDS + 0.02 * more) for more in (288, 672))  # 384 and 768 steps
    assert long.step["attention bias"] == pytest.approx(4 * short.step["attention bias"], rel=0.01)
    assert short.step["attention bias"] >= 4 * 4 * 384**2 * 4
    assert 1.5 * short.step["activations"] < long.step["activations"] < 2.5 * short.step["activations"]
    assert short.step[COPIES] == 0
    half = count(wide, "--mixed_precision=bf16", rows=16)
    assert half.step[COPIES] == pytest.approx(half.trained / 2, rel=0.1)


def test_suggestions_are_what_their_flags_take_and_fit(wide):
    args, corpus = make_args("--batch_size=12"), make_corpus()
    default = count_needs(args, wide, corpus, corpus.train[:12])
    checkpointed = count(wide, "--batch_size=12", "--gradient_checkpointing", rows=12)
    assert checkpointed.step.total() < 0.8 * default.step.total()
    assert checkpointed.flops["step"] > 1.05 * default.flops["step"]
    suggestions = dict(suggest(args, wide, corpus, default, default.bytes - 1))
    halves = "--batch_size 6 --gradient_accumulation_steps 2"
    assert list(suggestions) == ["--gradient_checkpointing", halves, "--lora_rank 8", "--freeze_encoder"]
    assert suggestions["--gradient_checkpointing"] == checkpointed.bytes
    assert max(suggestions.values()) < default.bytes
    smallest, *_, limit, too_large = sorted(suggestions.values())
    tighter = dict(suggest(args, wide, corpus, default, limit))
    assert max(tighter.values()) == limit < too_large
    assert tighter["--freeze_encoder"] == smallest
    assert suggest(args, wide, corpus, default, 1) == [("--freeze_encoder", smallest)]


def test_parts_that_are_not_trained_cost_no_moments_and_their_states_are_counted_once(wide):
    whole, lora, upper = count(wide), count(wide, "--lora_rank=2"), count(wide, "--train_layers=1")
    model = FoalNet(Rehearsal(make_args("--lora_rank=2"), wide, WIDTH).model.config)
    for needs in (lora, upper):
        assert needs.step["moments"] == pytest.approx(2 * needs.trained, rel=0.1)
        assert needs.bytes < whole.bytes
    assert lora.trained == sum(p.nbytes for p in model.parameters() if p.requires_grad) < whole.trained
    assert lora.weights > whole.weights == whole.saved
    assert lora.saved == sum(w.nbytes for w in model.own_state_dict().values()) < lora.weights
    assert upper.weights == whole.weights
    assert upper.flops["step"] < whole.flops["step"] / 1.4
    assert "states of the encoder" in upper.others
    assert "states of the encoder" not in lora.others


def test_a_grouped_convolution_counts_its_groups():
    gpu = FakeGpu()
    with gpu:
        states = torch.empty(1, 32, 100, device="cuda", requires_grad=True)
        weight = torch.empty(32, 2, 5, device="cuda", requires_grad=True)
        loss = [torch.nn.functional.conv1d(states, weight, groups=16).sum()]
        forward = gpu.flops
        gpu.backward(loss, lambda parameter, gradient: None)
    assert forward == 2 * 96 * 32 * 2 * 5
    assert gpu.flops == 3 * forward


def test_command_plans_a_list(tmp_path, tiny_wavlm, capsys):
    corpus = write_corpus(tmp_path / "corpus")
    flags = [f"--train_src={corpus}/train.scp", f"--test_src={corpus}/test.scp", f"--audio_model={tiny_wavlm}"]
    found = plan.main([*flags, f"--video_root={corpus}/features", "--epochs=3", "--gpu_memory=2"])
    out = capsys.readouterr().out
    assert found.steps == 3 * -(-36 // 16)
    lines = [line for name in ("train", "test") for line in (corpus / f"{name}.scp").read_text().splitlines()]
    listed = [f"{line.split()[0]}.npy" for line in lines]
    assert found.disk["video features"] == sum((corpus / "features" / name).stat().st_size for name in listed)
    assert found.longest.bytes >= found.typical.bytes
    for words in (f"lengths of {corpus}/train.scp", "attention bias", "best/", "9 steps", "fits in 2 GiB"):
        assert words in out
    plan.main([*flags, f"--video_root={tmp_path}/none", "--gpu_memory=1", "--freeze_encoder"])
    out = capsys.readouterr().out
    assert "no " + str(tmp_path) + "/none yet" in out
    assert "states of the encoder" in out
    assert "does not fit in 1 GiB" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpu_memory=-3"], "--gpu_memory -3.0: must be a finite number greater than 0"),
        (["--rate=0"], "--rate 0.0: must be a finite number greater than 0"),
        (["--foo=1"], "unrecognized arguments: --foo=1"),
        (["--batch_size=0"], "--batch_size 0: must be a finite number greater than 0"),
        (["--max_length=9"], "--max_length 9.0: without --train_src lengths are known up to 6.0 s"),
        (["--train_src=none.scp", "--test_src=none.scp"], "none.scp: no such file"),
    ],
)
def test_wrong_flags_are_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        plan.main(flags)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_without_a_list_the_lengths_are_iemocaps():
    found = plan.main(["--modality=v"])
    assert found.steps == 40 * -(-4425 // 16)
    assert found.longest.weights == 4 * (768 * 4 + 4)  # one linear layer
