"""model.py against the figures of the authors' own code, on weights and inputs that anyone can draw again.

`oracle/released.json` holds what the released model.py computed (CPU, fp32, evaluation mode, no dropout), the fields of
its WavLMConfig and the name and shape of every parameter. The draws are functions of the names alone, see
`draw_parameter` and `draw_batch`.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WavLMConfig
from transformers.models.wavlm.modeling_wavlm import WavLMPreTrainedModel

from benchmark.stock import StockFoalNet
from model import FoalNet, FoalNetConfig, sample_hard_negatives

ORACLE = json.loads((Path(__file__).parent / "oracle" / "released.json").read_text())
NOISE = 1e-6  # norm below which a gradient is rounding: a bias of the keys moves no softmax


def draw_parameter(name, shape):
    """The oracle's weight of this name."""
    if name == "temp":
        return torch.tensor(math.log(1 / 0.07))
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        x *= 0.5 / math.sqrt(math.prod(shape[1:]))
        if "original0" in name:
            x = np.abs(x) + 0.5
    else:
        x = 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
    return torch.from_numpy(x.astype(np.float32))


def draw_batch(name):
    """The oracle's inputs of this case, with labels."""
    case = ORACLE["cases"][name]
    size, samples, frames = len(case["labels"]), case["samples"], case["frames"]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    batch = {"input_values": 0.1 * rng.standard_normal((size, samples))}
    batch["video_features"] = rng.standard_normal((size, frames, 768))
    batch = {key: torch.from_numpy(value.astype(np.float32)) for key, value in batch.items()}
    valid_samples = torch.tensor([samples, samples // 2, samples - 3000, samples - 7000, 9000, 12345][:size])
    valid_frames = torch.tensor([frames, frames // 2, frames - 5, frames - 11, 9, 17][:size])
    batch["attention_mask"] = torch.arange(samples) < valid_samples[:, None]
    batch["video_mask"] = torch.arange(frames) < valid_frames[:, None]
    batch["input_values"] *= batch["attention_mask"]
    batch["video_features"] *= batch["video_mask"][..., None]
    return {**batch, "labels": torch.tensor(case["labels"])}


@pytest.fixture(scope="module", params=[FoalNet, StockFoalNet])
def model(request):
    """The released weights in our model, and in the benchmark's rewriting of the release, loaded strictly."""
    found = request.param(FoalNetConfig(wavlm=ORACLE["config"]))
    found.load_state_dict({name: draw_parameter(name, shape) for name, shape in ORACLE["shapes"].items()}, strict=True)
    return found.eval()


def test_the_state_dict_has_the_released_names_and_shapes(model):
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == ORACLE["shapes"]


@pytest.mark.parametrize("name", list(ORACLE["cases"]))
def test_logits_and_losses_are_the_released_ones(model, name):
    case, batch = ORACLE["cases"][name], draw_batch(name)
    with torch.no_grad():
        output = model(**batch, seed=0)
        predicted = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    logits = torch.tensor(case["logits"])
    scale = logits.abs().max().item()
    torch.testing.assert_close(output.logits, logits, rtol=1e-5, atol=1e-5 * scale)
    torch.testing.assert_close(predicted, logits, rtol=1e-5, atol=1e-5 * scale)
    assert output.loss_cls.item() == pytest.approx(case["cls"], rel=1e-5)
    assert output.loss_avel.item() == pytest.approx(case["avel"], rel=1e-5)
    if "mem" in case:
        assert output.loss_mem.item() == pytest.approx(case["mem"], rel=1e-5)


def test_gradients_are_the_released_ones(model):
    """Of cross entropy + AVEL + 0.1 MEM; `duo` has one utterance of each emotion, so its negatives are certain."""
    model.zero_grad()
    model(**draw_batch("duo"), seed=0).loss.backward()
    found = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    expected = ORACLE["cases"]["duo"]["grad_norm"]
    wrong = {
        name: (found[name], norm)
        for name, norm in expected.items()
        if found[name] != pytest.approx(norm, rel=1e-4, abs=NOISE)
    }
    assert not wrong
    assert sum(norm > NOISE for norm in expected.values()) > 50


def test_the_draw_of_negatives_follows_the_released_weights():
    """There: softmax over the row with the same emotion at -10000, then torch.multinomial."""
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 0, 2, 1, 3])
    similarities = torch.randn(6, 6)
    weights = similarities.masked_fill(labels[:, None] == labels, -10000).softmax(-1)
    draws = 20000
    counts = torch.zeros(6, 6)
    for _ in range(draws):
        gumbel = -torch.empty(6, 6).exponential_().log()
        counts[torch.arange(6), sample_hard_negatives(similarities, labels, labels, gumbel)] += 1
    assert (counts / draws - weights).abs().max() < 0.02
    assert not counts[weights == 0].any()


class Released(WavLMPreTrainedModel):
    """As the released model comes by its new layers: inside a subclass of transformers' WavLM, whose post_init runs."""

    def __init__(self, config):
        super().__init__(config)
        self.linear = torch.nn.Linear(1024, 512)
        self.ln = torch.nn.LayerNorm(512)
        self.post_init()


def test_new_layers_start_as_transformers_starts_them_in_the_release():
    released, ours = Released(WavLMConfig()), FoalNet(FoalNetConfig(wavlm=ORACLE["config"]))
    layers = {name: m for name, m in ours.named_modules() if not name.startswith("wavlm.")}
    checked = 0
    for name, layer in layers.items():
        if isinstance(layer, torch.nn.Linear):
            assert layer.weight.std().item() == pytest.approx(released.linear.weight.std().item(), rel=0.1), name
            assert abs(layer.weight.mean().item()) < 5e-4 + 0.08 / math.sqrt(layer.weight.numel()), name
            assert layer.weight.abs().max().item() > 2 * 0.02, name  # a uniform draw of this deviation ends at 0.035
            assert layer.bias is None or not layer.bias.any(), name
            checked += 1
        elif isinstance(layer, torch.nn.LayerNorm):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight)), name
            assert not layer.bias.any(), name
    assert checked == 2 * 2 * 4 + 2 * 2 + 3
