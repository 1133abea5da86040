"""model.py against plain loops written from the paper's formulas: losses, gradients, names, padding, checkpoints.

The loops show that masks, pairs, gathering and fused kernels compute the formulas as we read them. They can't show that
we read them as the authors meant them: that is test_oracle.py's work.
"""

import json
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from transformers import WavLMConfig, WavLMForCTC, WavLMModel

import model as model_module
from model import (
    CrossAttention,
    FoalNet,
    FoalNetConfig,
    avel_losses,
    draw_gumbel,
    masked_max,
    masked_mean,
    sample_hard_negatives,
)
from tiny import NO_DROPOUT, VIDEO_DIM, WAVLM, build_model, make_batch, make_utterances, pad, write_wavlm
from wavlm import dropout

LABELS = [0, 2, 1, 0, 3, 2, 0]


@pytest.fixture
def spy(monkeypatch):
    """Records what sample_hard_negatives is asked and answers, in call order (audio rows, then video rows)."""
    calls, real = [], model_module.sample_hard_negatives

    def record(similarities, *rest):
        negatives = real(similarities, *rest)
        calls.append((similarities.detach(), negatives))
        return negatives

    monkeypatch.setattr(model_module, "sample_hard_negatives", record)
    return calls


def run(model, batch, seed=0):
    return model(**batch, seed=seed)


def collect_gradients(model, loss):
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found, expected, rtol=1e-4):
    """Every gradient within rtol of the largest entry of its tensor (or 1 % of the largest of all), none missing."""
    assert set(found) == set(expected)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        error = (found[name] - gradient).abs().max().item()
        assert error <= rtol * max(gradient.abs().max().item(), 0.01 * largest), name


# names and shapes


def test_names_and_shapes_are_the_released_ones():
    with torch.device("meta"):
        wavlm = {"hidden_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 16, "intermediate_size": 4096}
        state = FoalNet(FoalNetConfig(wavlm=wavlm, video_dim=768)).state_dict()
    expected = {"temp": (), "a2v_head": (2, 1024), "v2a_head": (2, 768), "cls_head": (4, 1792)}
    for i in range(2):
        for name, own, other in ((f"a2v.{i}", 1024, 768), (f"v2a.{i}", 768, 1024)):
            expected[f"{name}.w_q"] = expected[f"{name}.w_concat"] = (own, own)
            expected[f"{name}.w_k"] = expected[f"{name}.w_v"] = (own, other)
            expected[f"{name}.ln"] = (own,)
    shapes = {"temp": expected.pop("temp")}
    for name, shape in expected.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, width in (("audio_project", 1024), ("video_project", 768)):
        shapes |= {f"{name}.linear1.weight": (512, width), f"{name}.linear2.weight": (512, 512)}
        shapes |= {f"{name}.layer_norm.weight": (512,), f"{name}.layer_norm.bias": (512,)}
    found = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.startswith("wavlm.")}
    assert found == shapes
    with torch.device("meta"):
        plain = WavLMModel(WavLMConfig(**wavlm)).state_dict()
    assert {name for name in state if name.startswith("wavlm.")} == {f"wavlm.{name}" for name in plain}


def test_one_stream_models_hold_only_their_stream():
    audio, video = build_model(modality="a"), build_model(modality="v")
    assert {name.split(".")[0] for name in audio.state_dict()} == {"wavlm", "cls_head"}
    assert {name: tuple(p.shape) for name, p in video.named_parameters()} == {
        "cls_head.weight": (4, VIDEO_DIM),
        "cls_head.bias": (4,),
    }


def test_the_temperature_starts_at_the_released_value():
    assert build_model().temp.item() == pytest.approx(math.log(1 / 0.07))
    assert build_model(initial_temperature=0.5).temp.item() == 0.5


def test_the_convolutional_feature_encoder_is_frozen_and_the_rest_is_not():
    frozen = {name for name, p in build_model().named_parameters() if not p.requires_grad}
    assert all(name.startswith("wavlm.feature_extractor.") or name == "wavlm.masked_spec_embed" for name in frozen)
    assert any(name.startswith("wavlm.feature_extractor.") for name in frozen)


@pytest.mark.parametrize("fields", [{"modality": "va"}, {"pooling": "median"}])
def test_a_wrong_config_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields.values()))):
        FoalNetConfig(**fields)


# parts


def test_masked_pooling_equals_a_loop():
    states, mask = torch.randn(4, 6, 5), torch.arange(6) < torch.tensor([6, 1, 3, 5])[:, None]
    for pool, plain in ((masked_mean, lambda x: x.mean(0)), (masked_max, lambda x: x.max(0).values)):
        expected = torch.stack([plain(states[i, : mask[i].sum()]) for i in range(4)])
        torch.testing.assert_close(pool(states, mask), expected)


def loop_avel(similarities, labels, all_labels):
    losses = []
    for row, label in zip(similarities, labels, strict=True):
        total = sum(math.e**s for s in row)
        positives = [s for s, other in zip(row, all_labels, strict=True) if other == label]
        losses.append(sum((torch.log(total) - s for s in positives), torch.zeros_like(total)))
    return torch.stack(losses)


@pytest.mark.parametrize("columns", [7, 11])
def test_avel_equals_a_double_loop_forward_and_gradient(columns):
    torch.manual_seed(0)
    labels, all_labels = torch.tensor(LABELS), torch.randint(4, (columns,))
    found = torch.randn(7, columns, dtype=torch.double, requires_grad=True)
    expected = found.detach().clone().requires_grad_()
    losses, plain = avel_losses(found, labels, all_labels), loop_avel(expected, LABELS, all_labels.tolist())
    torch.testing.assert_close(losses, plain)
    weights = torch.rand(7, dtype=torch.double)
    (losses * weights).sum().backward()
    (plain * weights).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_avel_stays_finite_at_a_tiny_temperature():
    similarities = (torch.randn(7, 7) * 1e4).requires_grad_()
    avel_losses(similarities, torch.tensor(LABELS), torch.tensor(LABELS)).sum().backward()
    assert similarities.grad.isfinite().all()


def test_hard_negatives_are_drawn_from_the_softmax_over_other_emotions():
    torch.manual_seed(0)
    n, columns = 4000, torch.tensor([0, 1, 2, 0, 3, 1])
    similarities = torch.tensor([1.5, -1.0, 0.5, 9.0, 0.0, 2.0])
    gumbel = draw_gumbel(n, "cpu", torch.Generator().manual_seed(1))[:, :6]
    drawn = sample_hard_negatives(similarities.expand(n, 6), torch.zeros(n, dtype=torch.long), columns, gumbel)
    assert (columns[drawn] != 0).all()
    others = columns != 0
    expected = similarities[others].softmax(-1) * n
    assert chisquare(torch.bincount(drawn, minlength=6)[others], expected.double() / expected.sum() * n).pvalue > 1e-3


def test_draws_of_rows_are_independent_and_follow_the_generator():
    first, again = (draw_gumbel(50, "cpu", torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert abs(np.corrcoef(first[0], first[1])[0, 1]) < 0.5
    assert first.mean().item() == pytest.approx(0.5772, abs=0.1)


def plain_attention(state, prefix, x, y, heads=4):
    """One fusion layer for one pair of unpadded sequences x (T, D), y (T', D'), head by head."""
    q, k, v = (
        s @ state[f"{prefix}.{name}.weight"].T + state[f"{prefix}.{name}.bias"]
        for s, name in ((x, "w_q"), (y, "w_k"), (y, "w_v"))
    )
    size, parts = q.shape[1] // heads, []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        weights = (q[:, part] @ k[:, part].T / math.sqrt(size)).exp()
        parts.append((weights / weights.sum(1, keepdim=True)) @ v[:, part])
    output = torch.cat(parts, 1) @ state[f"{prefix}.w_concat.weight"].T + state[f"{prefix}.w_concat.bias"] + x
    centred = output - output.mean(-1, keepdim=True)
    normal = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return normal * state[f"{prefix}.ln.weight"] + state[f"{prefix}.ln.bias"]


def test_cross_attention_equals_a_plain_version_with_masks_and_pairs():
    torch.manual_seed(0)
    layer = CrossAttention(8, 12, 4, 0.0).double()
    state = {f"l.{name}": p for name, p in layer.named_parameters()}
    states, other = torch.randn(2, 5, 8).double(), torch.randn(3, 6, 12).double()
    lengths = [6, 2, 4]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    rows, other_rows = [0, 1, 1, 0], [1, 2, 0, 0]
    found = layer(states, other, mask, torch.tensor(rows), torch.tensor(other_rows))
    expected = torch.stack(
        [plain_attention(state, "l", states[i], other[j, : lengths[j]]) for i, j in zip(rows, other_rows, strict=True)]
    )
    torch.testing.assert_close(found, expected)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="video width 22"):
        build_model(video_dim=22)


# the audio encoder


@pytest.mark.parametrize(
    "layout", [{}, {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}]
)
@pytest.mark.parametrize("training", [False, True])
def test_the_audio_encoder_is_that_of_transformers(layout, training):
    model = build_model(modality="a", wavlm=layout).train(training)
    batch = make_batch([0, 1, 2])
    states, mask = model.encode_audio(batch["input_values"], batch["attention_mask"])
    expected = model.wavlm(batch["input_values"], batch["attention_mask"].long()).last_hidden_state
    lengths = model.wavlm._get_feat_extract_output_lengths(batch["attention_mask"].sum(1))
    assert mask.sum(1).tolist() == lengths.tolist()
    assert not states[~mask].any()
    torch.testing.assert_close(states[mask], expected[:, : mask.shape[1]][mask], rtol=1e-4, atol=1e-5)
    weights = torch.randn(mask.sum(), states.shape[2])
    found = collect_gradients(model, (states[mask] * weights).sum())
    plain = collect_gradients(model, (expected[:, : mask.shape[1]][mask] * weights).sum())
    assert_same_gradients(found, plain, rtol=1e-4)


@pytest.mark.parametrize("field", ["hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"])
def test_every_dropout_of_the_checkpoint_acts_in_training_alone(field):
    model = build_model(modality="a", wavlm={field: 0.5})
    batch = make_batch([0, 1])
    model.train()
    first, second = (model.encode_audio(batch["input_values"], batch["attention_mask"])[0] for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    first, second = (model.encode_audio(batch["input_values"], batch["attention_mask"])[0] for _ in range(2))
    assert torch.equal(first, second)


def test_the_final_dropout_is_that_of_the_checkpoint():
    model = build_model(modality="a", wavlm={"final_dropout": 0.25}).train()
    torch.manual_seed(0)
    dropped = model.encode_audio(torch.randn(1, 32000))[0] == 0
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_of_the_encoder_has_the_right_rate_and_keeps_the_mean(p):
    torch.manual_seed(0)
    states = torch.ones(501, 999, requires_grad=True)
    dropped = dropout(states, p, True)
    dropped.sum().backward()
    assert (dropped == 0).float().mean().item() == pytest.approx(p, abs=3e-3)
    assert dropped.mean().item() == pytest.approx(1, abs=5e-3)
    assert torch.equal(states.grad, dropped.detach())
    kept = (dropped != 0).float().detach()
    assert (kept[:, 1:] * kept[:, :-1]).mean().item() == pytest.approx((1 - p) ** 2, abs=5e-3)  # neighbours independent


def test_layerdrop_skips_layers_in_training_alone():
    model = build_model(modality="a", wavlm={"layerdrop": 0.5, "num_hidden_layers": 4}).train()
    batch = make_batch([0])
    values = {round(model.encode_audio(batch["input_values"])[0].abs().sum().item(), 2) for _ in range(40)}
    assert 4 < len(values) <= 8  # the first layer always runs
    model.eval()
    assert len({model.encode_audio(batch["input_values"])[0].abs().sum().item() for _ in range(5)}) == 1


def test_spec_augment_masks_spans_of_valid_frames_in_training_alone():
    spec = {"apply_spec_augment": True, "mask_time_prob": 0.5, "mask_time_length": 3}
    model = build_model(modality="a", wavlm=spec)
    batch = make_batch([0, 1], samples=(9000, 16000))
    np.random.seed(0)
    model.train()
    first, second = (model.encode_audio(batch["input_values"], batch["attention_mask"])[0] for _ in range(2))
    assert not torch.equal(first, second)
    gradients = collect_gradients(model, first.sum())
    assert gradients["wavlm.masked_spec_embed"].abs().sum() > 0


@pytest.mark.parametrize("samples", [400, 720, 3200])
def test_a_batch_shorter_than_a_span_of_spec_augment_trains(samples):
    model = build_model(wavlm={"apply_spec_augment": True, "mask_time_prob": 0.5, "mask_time_length": 10}).train()
    output = run(model, make_batch([0, 1, 1], samples=(samples, samples + 1), frames=(1, 2)))
    gradients = collect_gradients(model, output.loss)
    assert output.loss.isfinite()
    assert set(gradients) == {name for name, p in model.named_parameters() if p.requires_grad}  # or DDP would wait


# the whole model


def project(state, prefix, pooled):
    first = pooled @ state[f"{prefix}.linear1.weight"].T
    gelu = 0.5 * first * (1 + torch.erf(first / math.sqrt(2)))
    total = first + gelu @ state[f"{prefix}.linear2.weight"].T
    centred = total - total.mean()
    normal = centred / (centred.pow(2).mean() + 1e-5).sqrt()
    projected = normal * state[f"{prefix}.layer_norm.weight"] + state[f"{prefix}.layer_norm.bias"]
    return projected / projected.norm()


def match(state, head, pooled, target):
    logits = pooled @ state[f"{head}.weight"].T + state[f"{head}.bias"]
    return -(logits - logits.exp().sum().log())[target]


def plain_model(model, waves, videos, labels, negative_videos, negative_audios, avel_weight=1.0, mem_weight=0.1):
    """The whole of section 2 of the paper, one utterance and one pair at a time, no padding anywhere."""
    state, n = dict(model.named_parameters()), len(labels)
    audios = [model.wavlm(wave[None]).last_hidden_state[0] for wave in waves]

    def fuse(prefix, x, y):
        for i in range(2):
            x = plain_attention(state, f"{prefix}.{i}", x, y)
        return x.mean(0)

    a = [project(state, "audio_project", x.mean(0)) for x in audios]
    v = [project(state, "video_project", x.mean(0)) for x in videos]
    avel = 0
    for i in range(n):
        for own, others in ((a[i], v), (v[i], a)):
            row = torch.stack([own @ other / state["temp"] for other in others])
            for j in range(n):
                if labels[j] == labels[i]:
                    avel = avel - (row[j] - row.exp().sum().log()) / (2 * n)
    logits, classification, matching = [], 0, []
    for i in range(n):
        audio_out, video_out = fuse("a2v", audios[i], videos[i]), fuse("v2a", videos[i], audios[i])
        row = torch.cat([audio_out, video_out]) @ state["cls_head.weight"].T + state["cls_head.bias"]
        logits.append(row)
        classification = classification - (row - row.exp().sum().log())[labels[i]] / n
        if all(label == labels[i] for label in labels):
            continue
        matching.append(match(state, "a2v_head", audio_out, 1) / 2 + match(state, "v2a_head", video_out, 1) / 2)
        wrong_video = fuse("a2v", audios[i], videos[negative_videos[i]])
        wrong_audio = fuse("v2a", videos[i], audios[negative_audios[i]])
        matching.append(match(state, "a2v_head", wrong_video, 0) / 2 + match(state, "v2a_head", wrong_audio, 0) / 2)
    mem = sum(matching) / len(matching) if matching else torch.zeros(())
    loss = classification + avel_weight * avel + mem_weight * mem
    return {
        "logits": torch.stack(logits),
        "loss_cls": classification,
        "loss_avel": avel,
        "loss_mem": mem,
        "loss": loss,
        "audio_embeds": torch.stack(a),
        "video_embeds": torch.stack(v),
    }


@pytest.mark.parametrize("labels", [[0, 2, 1, 0, 3], [1, 1, 1, 3], [2, 2, 2]])
def test_outputs_losses_and_gradients_equal_the_plain_model(spy, labels):
    model = build_model().train()
    waves, videos = make_utterances(labels)
    output = run(model, pad(waves, videos, labels))
    (_, negative_videos), (_, negative_audios) = spy
    expected = plain_model(model, waves, videos, labels, negative_videos.tolist(), negative_audios.tolist())
    for name, value in expected.items():
        torch.testing.assert_close(output[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    names = ["loss_cls", "loss_avel", "loss_mem", "loss"] if len(set(labels)) > 1 else ["loss_cls", "loss_avel"]
    for name in names:
        found = collect_gradients(model, run(model, pad(waves, videos, labels))[name])
        assert_same_gradients(found, collect_gradients(model, expected[name]))


def test_a_batch_of_one_emotion_has_no_matching_loss_and_finite_gradients():
    model = build_model().train()
    output = run(model, make_batch([2, 2, 2]))
    assert output.loss_mem.item() == 0
    assert not output.mem_mask.any()
    gradients = collect_gradients(model, output.loss)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert not gradients["a2v_head.weight"].any()
    alone = collect_gradients(model, run(model, make_batch([2, 2, 2])).loss_cls + output.loss_avel.detach())
    assert torch.equal(gradients["cls_head.weight"], alone["cls_head.weight"])


def test_a_batch_of_one_utterance_trains():
    model = build_model().train()
    output = run(model, make_batch([1]))
    assert output.loss_avel.item() == pytest.approx(0, abs=1e-6)
    assert output.loss_mem.item() == 0
    assert all(gradient.isfinite().all() for gradient in collect_gradients(model, output.loss).values())


def test_a_negative_never_shares_the_label(spy):
    model = build_model(wavlm={"num_hidden_layers": 1}).eval()
    labels = torch.tensor(LABELS)
    batch = make_batch(LABELS, samples=(400, 900), frames=(1, 3))
    drawn = set()
    with torch.no_grad():
        for seed in range(60):
            run(model, batch, seed)
    for _, negatives in spy:
        assert (labels[negatives] != labels).all()
        drawn.add(tuple(negatives.tolist()))
    assert len(drawn) > 40
    assert any(not torch.equal(first[1], second[1]) for first, second in zip(spy[::2], spy[1::2], strict=True))


def test_the_two_draws_follow_the_similarities_of_their_own_direction(spy):
    output = run(build_model(), make_batch(LABELS))
    assert torch.equal(spy[0][0], output.logits_per_audio)
    assert torch.equal(spy[1][0], output.logits_per_video)
    torch.testing.assert_close(output.logits_per_audio, output.logits_per_video.T)


def test_matching_targets_and_mask(spy):
    output = run(build_model(), make_batch(LABELS))
    assert output.mem_targets.tolist() == [1] * 7 + [0] * 7
    assert output.mem_mask.all()
    assert output.mem_logits_audio.shape == output.mem_logits_video.shape == (14, 2)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_padding_changes_no_logit_and_no_gradient(pooling):
    model = build_model(pooling=pooling).train()
    waves, videos = make_utterances(LABELS)
    tight = run(model, pad(waves, videos, LABELS))
    wide = run(model, pad(waves, videos, LABELS, more_samples=5000, more_frames=7))
    for name in ("logits", "loss", "audio_embeds", "video_embeds", "mem_logits_audio", "mem_logits_video"):
        torch.testing.assert_close(wide[name], tight[name], rtol=1e-5, atol=1e-5)
    assert_same_gradients(collect_gradients(model, wide.loss), collect_gradients(model, tight.loss), rtol=1e-4)
    with torch.no_grad():
        model.eval()
        together = model(**pad(waves, videos, more_samples=777)).logits
        alone = torch.cat(
            [model(wave[None], None, video[None]).logits for wave, video in zip(waves, videos, strict=True)]
        )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_what_stands_in_the_padding_does_not_matter():
    model = build_model().eval()
    batch = make_batch(LABELS)
    dirty = dict(batch)
    for values, mask in (("input_values", "attention_mask"), ("video_features", "video_mask")):
        dirty[values] = torch.where(batch[mask][(...,) + (None,) * (batch[values].dim() - 2)], batch[values], 7.0)
    torch.testing.assert_close(run(model, dirty).loss, run(model, batch).loss, rtol=1e-5, atol=1e-5)


def test_prediction_needs_no_label_and_fuses_only_the_real_pairs(monkeypatch):
    model, batch = build_model().eval(), make_batch(LABELS)
    pairs, real = [], CrossAttention.forward

    def count(self, *args, **kwargs):
        output = real(self, *args, **kwargs)
        pairs.append(len(output))
        return output

    monkeypatch.setattr(CrossAttention, "forward", count)
    with_labels = run(model, batch)
    assert set(pairs) == {14}
    pairs.clear()
    labels = batch.pop("labels")
    predicted = model(**batch)
    assert set(pairs) == {7}
    torch.testing.assert_close(predicted.logits, with_labels.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(predicted.audio_embeds, with_labels.audio_embeds)
    assert predicted.loss is predicted.loss_cls is predicted.loss_avel is predicted.loss_mem is None
    expected = F.cross_entropy(predicted.logits, labels)
    torch.testing.assert_close(with_labels.loss_cls, expected)


@pytest.mark.parametrize(("avel", "mem"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.3), (0.5, 0.3)])
def test_a_task_of_weight_zero_is_not_computed_and_the_others_are_weighed(spy, avel, mem):
    model = build_model(avel_weight=avel, mem_weight=mem).train()
    output = run(model, make_batch(LABELS))
    assert (output.loss_avel is None) == (not avel)
    assert (output.loss_mem is None) == (not mem)
    assert len(spy) == (2 if mem else 0)
    expected = output.loss_cls + avel * (output.loss_avel or 0) + mem * (output.loss_mem or 0)
    torch.testing.assert_close(output.loss, expected)
    gradients = collect_gradients(model, output.loss)
    assert set(gradients) == {name for name, p in model.named_parameters() if p.requires_grad}  # or DDP would wait


@pytest.mark.parametrize("modality", ["a", "v"])
def test_one_stream_models_are_pooling_and_a_linear_layer(modality):
    model, batch = build_model(modality=modality).eval(), make_batch(LABELS)
    used = ("input_values", "attention_mask") if modality == "a" else ("video_features", "video_mask")
    output = model(**{name: batch[name] for name in used}, labels=batch["labels"])
    if modality == "v":
        pooled = torch.stack([x[m].mean(0) for x, m in zip(batch[used[0]], batch[used[1]], strict=True)])
    else:
        waves = [x[m] for x, m in zip(batch[used[0]], batch[used[1]], strict=True)]
        pooled = torch.stack([model.wavlm(wave[None]).last_hidden_state[0].mean(0) for wave in waves])
    torch.testing.assert_close(output.logits, model.cls_head(pooled), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, batch["labels"]))
    assert output.loss_avel is output.loss_mem is None


def test_gradients_reach_both_towers_through_avel_alone():
    model = build_model().train()
    gradients = collect_gradients(model, run(model, make_batch(LABELS)).loss_avel)
    for name in ("audio_project.linear1.weight", "video_project.linear1.weight", "temp"):
        assert gradients[name].abs().sum() > 0
    assert gradients["wavlm.encoder.layers.0.attention.q_proj.weight"].abs().sum() > 0
    assert not any(name.startswith(("a2v", "v2a", "cls_head")) for name in gradients)


def test_gradients_of_mem_reach_the_audio_tower_and_the_fusion_but_not_the_draw():
    model = build_model().train()
    gradients = collect_gradients(model, run(model, make_batch(LABELS)).loss_mem)
    for name in (
        "a2v.0.w_q.weight",
        "a2v.1.w_k.weight",
        "v2a.0.w_v.weight",
        "v2a.1.w_concat.weight",
        "a2v_head.weight",
    ):
        assert gradients[name].abs().sum() > 0
    assert gradients["wavlm.encoder.layers.0.attention.q_proj.weight"].abs().sum() > 0
    assert not any("project" in name or name == "temp" for name in gradients if not name.startswith("wavlm."))


def test_two_forward_passes_may_come_before_one_backward():
    model = build_model().train()
    first, second = run(model, make_batch(LABELS)), run(model, make_batch([1, 3], seed=1))
    both = collect_gradients(model, first.loss + second.loss)
    assert all(gradient.isfinite().all() for gradient in both.values())


def test_the_temperature_stays_positive():
    model = build_model(initial_temperature=0.05).train()
    optimizer = torch.optim.SGD([model.temp], lr=10.0)
    batch = make_batch(LABELS)
    for _ in range(4):
        output = run(model, batch)
        assert model.temp.item() > 0
        assert output.loss.isfinite()
        assert output.logits_per_audio.isfinite().all()
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()


def test_half_precision_features_are_accepted():
    model, batch = build_model().eval(), make_batch(LABELS)
    half = {**batch, "video_features": batch["video_features"].half()}
    rounded = {**batch, "video_features": batch["video_features"].half().float()}
    assert torch.equal(run(model, half).loss, run(model, rounded).loss)


@pytest.mark.parametrize("dtype", [torch.long, torch.float32, torch.bool])
def test_masks_of_any_type_are_accepted(dtype):
    model, batch = build_model().eval(), make_batch(LABELS)
    other = {**batch, **{name: batch[name].to(dtype) for name in ("attention_mask", "video_mask")}}
    assert torch.equal(run(model, other).loss, run(model, batch).loss)


def test_absent_masks_mean_all_valid():
    model, batch = build_model().eval(), make_batch([0, 1], samples=(3000, 3001), frames=(4, 5))
    assert batch["attention_mask"].all()
    with_masks = run(model, batch)
    del batch["attention_mask"], batch["video_mask"]
    assert torch.equal(run(model, batch).loss, with_masks.loss)


def test_autocast_trains_with_losses_in_single_precision():
    model = build_model().train()
    with torch.autocast("cpu", torch.bfloat16):
        output = run(model, make_batch(LABELS))
    assert output.loss.dtype == output.logits_per_audio.dtype == output.audio_embeds.dtype == torch.float32
    full = run(model, make_batch(LABELS))
    assert output.loss_cls.item() == pytest.approx(full.loss_cls.item(), rel=0.1)
    assert all(gradient.isfinite().all() for gradient in collect_gradients(model, output.loss).values())


def test_gradient_checkpointing_changes_nothing():
    model = build_model().train()
    plain = collect_gradients(model, run(model, make_batch(LABELS)).loss)
    model.gradient_checkpointing_enable()
    assert_same_gradients(collect_gradients(model, run(model, make_batch(LABELS)).loss), plain, rtol=1e-5)


# checkpoints


@pytest.mark.parametrize("modality", ["av", "a", "v"])
def test_a_checkpoint_comes_back_whole(tmp_path, modality):
    labels = ["joy", "calm", "grief", "rage", "awe"]
    fields = {"modality": modality, "pooling": "max", "avel_weight": 0.25, "mem_weight": 0.0, "normalize_audio": True}
    model = build_model(labels=labels, **fields).eval()
    model.save_pretrained(tmp_path)
    again, info = FoalNet.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert again.config.labels == labels
    assert again.config.id2label == dict(enumerate(labels))
    assert all(getattr(again.config, name) == value for name, value in fields.items())
    assert not again.training
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    batch = make_batch([0, 1])
    del batch["labels"]
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert set(load_file(tmp_path / "model.safetensors")) <= set(model.state_dict())


def test_a_released_checkpoint_loads_strictly():
    """torch before 2.1 and transformers before 4.31 call the weight normalisation weight_g and weight_v."""
    source, target = build_model(seed=1).eval(), build_model(seed=2).eval()
    state = source.state_dict()
    prefix = "wavlm.encoder.pos_conv_embed.conv"
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        state[f"{prefix}.{old}"] = state.pop(f"{prefix}.parametrizations.weight.{new}")
    target.load_state_dict(state, strict=True)
    batch = make_batch(LABELS)
    assert torch.equal(run(target, batch).loss, run(source, batch).loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_from_encoder_copies_weights_and_config_in_single_precision(tmp_path, dtype):
    torch.manual_seed(3)
    wavlm = WavLMModel(WavLMConfig(**{**WAVLM, **NO_DROPOUT, "final_dropout": 0.3})).to(dtype)
    wavlm.save_pretrained(tmp_path / "wavlm")
    model = FoalNet.from_encoder(tmp_path / "wavlm", video_dim=VIDEO_DIM, labels=["x", "y"])
    for name, tensor in wavlm.state_dict().items():
        assert torch.equal(model.wavlm.state_dict()[name], tensor.float()), name
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.dropout.p == 0.3
    assert model.cls_head.out_features == 2
    model.save_pretrained(tmp_path / "foal")
    assert {p.dtype for p in FoalNet.from_pretrained(tmp_path / "foal").parameters()} == {torch.float32}


def test_from_encoder_reads_the_names_of_hub_checkpoints(tmp_path):
    """microsoft/wavlm-large holds weight_g and weight_v, and is a plain pickle."""
    torch.manual_seed(3)
    wavlm = WavLMModel(WavLMConfig(**{**WAVLM, **NO_DROPOUT}))
    state, prefix = wavlm.state_dict(), "encoder.pos_conv_embed.conv"
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        state[f"{prefix}.{old}"] = state.pop(f"{prefix}.parametrizations.weight.{new}")
    wavlm.config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = FoalNet.from_encoder(tmp_path, video_dim=VIDEO_DIM)
    assert all(torch.equal(model.wavlm.state_dict()[name], tensor) for name, tensor in wavlm.state_dict().items())


class Malicious:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def change_config(**fields):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))

    return change


def change_weights(change):
    def damage(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def pickle_weights(content):
    def damage(folder):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(content(folder))

    return damage


BAD_CHECKPOINTS = {
    "truncated": (cut("model.safetensors", 20_000), "damaged: .*incomplete metadata"),
    "of 0 bytes": (cut("model.safetensors", 0), "damaged: .*header too small"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    "config of 0 bytes": (cut("config.json", 0), "config.json.*not a valid JSON file"),
    "config is a list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "config.json or weights are damaged",
    ),
    "config of another type": (change_config(hidden_size="wide"), "damaged: .*hidden_size"),
    "half the layers": (change_config(num_hidden_layers=1), r"holds \d+ weights of layers.*encoder.layers.1"),
    "twice the layers": (change_config(num_hidden_layers=4), r"lacks \d+ weights such as encoder.layers.2"),
    "another width": (change_config(hidden_size=64), r"shape.*\(32,\) where \(64,\) is expected"),
    "wav2vec2": (
        change_config(model_type="wav2vec2"),
        r"holds \d+ weights of layers that its config.json does not have",
    ),
    "bert": (change_config(model_type="bert"), "model_type 'bert'; accepted are wavlm, hubert, wav2vec2"),
    "an adapter": (
        change_config(add_adapter=True),
        "says add_adapter True; encoders with such a part are not run here",
    ),
    "NaN": (change_weights(lambda w: w["encoder.layer_norm.bias"].fill_(torch.nan)), "NaN.*encoder.layer_norm.bias"),
    "a pickle of 0 bytes": (pickle_weights(lambda folder: b""), "damaged: EOFError"),
    "a malicious pickle": (pickle_weights(lambda folder: pickle.dumps(Malicious(folder / "ran"))), "more than tensors"),
}


@pytest.mark.parametrize("fault", BAD_CHECKPOINTS)
def test_from_encoder_refuses_a_bad_checkpoint_in_one_line_and_runs_nothing(tmp_path, fault, caplog):
    folder = Path(write_wavlm(tmp_path / "wavlm"))
    damage, message = BAD_CHECKPOINTS[fault]
    damage(folder)
    with pytest.raises((ValueError, OSError)) as error:
        FoalNet.from_encoder(folder, video_dim=VIDEO_DIM)
    assert re.search(message, str(error.value).splitlines()[0])
    assert not (folder / "ran").exists()
    assert not caplog.records


def test_a_malicious_zip_of_tensors_runs_nothing(tmp_path):
    folder = Path(write_wavlm(tmp_path / "wavlm"))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**weights, "more": Malicious(folder / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="save_file as model.safetensors"):
        FoalNet.from_encoder(folder, video_dim=VIDEO_DIM)
    assert not (folder / "ran").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (folder / "ran").exists(), "the file is not malicious"


def test_from_encoder_takes_a_checkpoint_with_a_head_on_top(tmp_path):
    torch.manual_seed(3)
    whole = WavLMForCTC(WavLMConfig(**{**WAVLM, **NO_DROPOUT}))
    whole.save_pretrained(tmp_path)
    model = FoalNet.from_encoder(tmp_path, video_dim=VIDEO_DIM)
    assert all(torch.equal(model.wavlm.state_dict()[name], value) for name, value in whole.wavlm.state_dict().items())


def test_the_seed_decides_the_new_weights(tmp_path):
    folder = write_wavlm(tmp_path)

    def build(seed):
        torch.manual_seed(seed)
        return FoalNet.from_encoder(folder, video_dim=VIDEO_DIM).state_dict()

    first, again, other = build(1), build(1), build(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["a2v.0.w_q.weight"], other["a2v.0.w_q.weight"])
