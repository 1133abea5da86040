"""WavLM on valid steps against transformers' own forward pass, and what is built on it."""

import numpy as np
import pytest
import torch
from transformers import WavLMConfig, WavLMModel

import wavlm as fast

WIDTH = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.2,
    "layerdrop": 0.0,
}
QUIET = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0)
LARGE, BASE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}, {"feat_extract_norm": "group"}


def make_wavlm(**fields):
    torch.manual_seed(0)
    model = WavLMModel(WavLMConfig(**{**WIDTH, **QUIET, **fields})).train()
    model.freeze_feature_encoder()
    return model


def make_batch():
    generator = torch.Generator().manual_seed(1)
    waveform, mask = torch.randn(4, 16000, generator=generator), torch.ones(4, 16000, dtype=torch.long)
    for row, length in ((1, 7000), (3, 12345)):
        waveform[row, length:], mask[row, length:] = 0, 0
    return waveform, mask


def run(model, forward):
    """States of the valid frames, mask and gradients of one pass; SpecAugment draws are the same for all."""
    np.random.seed(0)
    torch.manual_seed(0)
    model.zero_grad()
    states, mask = forward(model, *make_batch())
    steps = int(mask.sum(1).max())  # several sequences together are padded to a multiple of 16
    assert not mask[:, steps:].any()
    states, mask = states[:, :steps], mask[:, :steps]
    (states**3 * mask[..., None]).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return states.detach() * mask[..., None], mask, gradients


def ours(model, waveform, attention_mask, **options):
    return fast.encode(model, waveform, attention_mask.sum(1).tolist(), **options)


def stock(model, waveform, attention_mask):
    states = model(waveform, attention_mask).last_hidden_state
    return states, model._get_feature_vector_attention_mask(states.shape[1], attention_mask)


def assert_same(first, second):
    torch.testing.assert_close(first[0], second[0], rtol=1e-4, atol=2e-5)
    assert torch.equal(first[1], second[1])
    assert first[2].keys() == second[2].keys()
    for name, gradient in first[2].items():
        scale = max(gradient.abs().max().item(), 1e-3)  # the key bias has no gradient but rounding
        assert (gradient - second[2][name]).abs().max().item() <= 1e-4 * scale, name


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
@pytest.mark.parametrize("variant", [LARGE, BASE], ids=["large", "base"])
def test_states_and_gradients_are_those_of_transformers(variant, together, monkeypatch):
    model = make_wavlm(**variant)
    initialise = fast.Packing.__init__

    def grouped(self, lengths, device, *_):
        initialise(self, lengths, device, together=together)

    monkeypatch.setattr(fast.Packing, "__init__", grouped)
    assert_same(run(model, stock), run(model, ours))


def test_layerdrop_skips_the_layers_that_transformers_skips():
    model = make_wavlm(**LARGE, layerdrop=0.5, apply_spec_augment=False)
    assert_same(run(model, stock), run(model, ours))


@pytest.mark.parametrize("variant", [LARGE, BASE], ids=["large", "base"])
def test_passes_change_nothing(variant):
    model = make_wavlm(**variant, mask_feature_prob=0.2, mask_feature_length=4)
    assert_same(run(model, ours), run(model, lambda *inputs: ours(*inputs, passes=3)))


def test_a_pass_is_computed_again_with_the_same_dropout_and_layerdrop(monkeypatch):
    model = make_wavlm(**LARGE, hidden_dropout=0.3, attention_dropout=0.3, layerdrop=0.4)
    again = run(model, lambda *inputs: ours(*inputs, passes=2))
    monkeypatch.setattr(fast, "checkpoint", lambda function, *arguments, use_reentrant: function(*arguments))
    assert_same(again, run(model, lambda *inputs: ours(*inputs, passes=2)))


def test_gradient_checkpointing_changes_nothing_even_with_dropout():
    model = make_wavlm(**LARGE, hidden_dropout=0.1, attention_dropout=0.1)
    plain = run(model, ours)
    model.activation_checkpointing_enable()
    calls = []
    original = fast.checkpoint
    fast.checkpoint = lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
    try:
        assert_same(plain, run(model, ours))
    finally:
        fast.checkpoint = original
    assert len(calls) == WIDTH["num_hidden_layers"]


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_attention_one_by_one_is_softmax_attention_and_has_its_gradients(p):
    """Forward against torch's own kernel, sequence by sequence; gradients against finite differences in float64."""
    torch.manual_seed(0)
    lengths, heads, width = [3, 5, 1], 2, 6
    q, k, v = (torch.randn(9, width, dtype=torch.float64, requires_grad=True) for _ in range(3))
    gate = torch.rand(9, heads, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(heads, 7, 7, dtype=torch.float64, requires_grad=True)

    def attend(*tensors):
        torch.manual_seed(1)
        return fast._AttentionOneByOne.apply(*tensors, lengths, p, heads)

    assert torch.autograd.gradcheck(attend, (q, k, v, gate, bias))
    if p == 0:
        parts = zip(*(x.split(lengths) for x in (attend(q, k, v, gate, bias), q, k, v, gate)), strict=True)
        for found, *streams, g in parts:
            t, heads_first = len(g), [x.unflatten(1, (heads, -1)).transpose(0, 1)[None] for x in streams]
            mask = g.T[None, ..., None] * bias[None, :, :t, :t]
            expected = torch.nn.functional.scaled_dot_product_attention(*heads_first, mask, scale=1.0)
            torch.testing.assert_close(found, expected[0].transpose(0, 1).flatten(1))


def test_the_positions_of_a_sequence_do_not_depend_on_its_neighbours():
    model = make_wavlm(**LARGE).eval()
    states = torch.randn(40, 32)
    alone = fast.embed_positions(model.encoder.pos_conv_embed, states[17:], fast.Packing([23], states.device))
    packed = fast.embed_positions(model.encoder.pos_conv_embed, states, fast.Packing([17, 23], states.device))
    torch.testing.assert_close(packed[17:], alone, rtol=1e-5, atol=1e-6)


def test_dropout_keeps_the_share_the_mean_and_the_gradient():
    torch.manual_seed(0)
    states = torch.ones(1000, 999, requires_grad=True)
    dropped = fast.dropout(states, 0.1, True)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.1, abs=0.002)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.002)
    dropped.sum().backward()
    assert torch.equal(states.grad, dropped.detach())
    columns = (dropped == 0).float()
    assert abs(torch.corrcoef(columns[:, :2].T)[0, 1].item()) < 0.15  # neighbours share a draw of 64 bits
    assert fast.dropout(states, 0.1, False) is states


def test_packing_round_trip():
    packing = fast.Packing([3, 5, 1], torch.device("cpu"), together=False)
    packed = torch.randn(9, 2)
    padded = packing.unpack(packed)
    assert padded.shape == (3, 5, 2)
    assert torch.equal(packing.pack(padded), packed)
    assert torch.equal(padded[~packing.mask], torch.zeros(6, 2))
