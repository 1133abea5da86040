"""A stream that is absent: of a file in prediction, of some utterances in training (--modality_dropout)."""

import pytest
import torch
import torch.nn.functional as F

import model as model_module
from model import draw_absences
from tiny import build_model, make_batch, make_utterances, pad

LABELS = [0, 2, 1, 0, 3, 2, 0, 1]
AUDIO, VIDEO = ("input_values", "attention_mask"), ("video_features", "video_mask")


def without(batch, names):
    return {key: value for key, value in batch.items() if key not in (*names, "labels")}


def build(**config):
    """A model whose stand-ins are not the zeros that they start as."""
    model = build_model(modality_dropout=0.6, **config)
    with torch.no_grad():
        model.absent_audio.normal_()
        model.absent_video.normal_()
    return model


def test_draws_lose_either_stream_as_often_as_asked_and_never_both():
    absent = draw_absences(100_000, 0.3, torch.device("cpu"), seed=1)
    assert not absent.all(0).any()
    assert absent.float().mean(1).tolist() == pytest.approx([0.15, 0.15], abs=0.005)
    assert torch.equal(absent, draw_absences(100_000, 0.3, torch.device("cpu"), seed=1))
    assert not torch.equal(absent, draw_absences(100_000, 0.3, torch.device("cpu"), seed=2))


@torch.no_grad()
def test_an_absent_stream_is_one_step_of_the_stand_in():
    """Which is what a file of one video frame (or one audio state) of these values would be."""
    model, (waves, videos) = build().eval(), make_utterances(LABELS)
    one_frame = pad(waves, [model.absent_video[None]] * len(waves))
    torch.testing.assert_close(model(**without(pad(waves, videos), VIDEO)).logits, model(**one_frame).logits)
    states = model.absent_audio.expand(len(waves), 1, -1)
    mask = torch.ones(len(waves), 1, dtype=torch.bool)
    one_step = {**without(pad(waves, videos), AUDIO), "audio_features": states, "audio_mask": mask}
    torch.testing.assert_close(model(**without(pad(waves, videos), AUDIO)).logits, model(**one_step).logits)


@torch.no_grad()
def test_without_modality_dropout_the_stand_in_is_a_frame_of_zeros_and_no_weight():
    model, (waves, videos) = build_model().eval(), make_utterances(LABELS)
    assert not [name for name in model.state_dict() if "absent" in name]
    blank = pad(waves, [torch.zeros(1, videos[0].shape[1])] * len(waves))
    torch.testing.assert_close(model(**without(pad(waves, videos), VIDEO)).logits, model(**blank).logits)


@pytest.mark.parametrize("names", [AUDIO, VIDEO, AUDIO + VIDEO])
def test_training_and_one_stream_models_need_every_stream(names):
    batch = make_batch(LABELS)
    with pytest.raises(ValueError, match="needed here"):
        build()(**{key: value for key, value in batch.items() if key not in names})


@pytest.fixture
def chosen(monkeypatch):
    """Utterance 1 loses its sound, 3 and 5 their picture; records which columns negatives were drawn from."""
    absent = torch.zeros(2, len(LABELS), dtype=torch.bool)
    absent[0, 1] = absent[1, 3] = absent[1, 5] = True
    drawn, real = [], model_module.sample_hard_negatives
    monkeypatch.setattr(model_module, "draw_absences", lambda *args: absent)
    monkeypatch.setattr(model_module, "sample_hard_negatives", lambda *args: drawn.append(real(*args)) or drawn[-1])
    return absent, drawn


def test_in_training_the_classifier_gets_what_is_left_avel_both_and_mem_neither(chosen):
    absent, drawn = chosen
    model, batch, complete = build().train(), make_batch(LABELS), ~absent.any(0)
    found = model(**batch, seed=3)
    with torch.no_grad():
        whole = model.eval()(**batch, seed=3)  # the evaluation loses nothing
        no_audio, no_video = model(**without(batch, AUDIO)).logits, model(**without(batch, VIDEO)).logits
    expected = torch.where(absent[0][:, None], no_audio, torch.where(absent[1][:, None], no_video, whole.logits))
    torch.testing.assert_close(found.logits, expected)
    torch.testing.assert_close(found.loss_cls, F.cross_entropy(expected, batch["labels"]))
    torch.testing.assert_close(found.loss_avel, whole.loss_avel)
    assert torch.equal(found.mem_mask, complete.repeat(2))
    for negatives in drawn[:2]:
        assert complete[negatives[complete]].all()
        assert (batch["labels"][negatives[complete]] != batch["labels"][complete]).all()
    terms = [
        F.cross_entropy(logits, found.mem_targets, reduction="none")[found.mem_mask].mean()
        for logits in (found.mem_logits_audio, found.mem_logits_video)
    ]
    torch.testing.assert_close(found.loss_mem, sum(terms) / 2)


def test_stand_ins_learn_from_the_utterances_that_lose_a_stream_alone(chosen):
    model = build().train()
    model(**make_batch(LABELS), seed=3).loss_cls.backward()
    assert model.absent_audio.grad.abs().max() > 0
    assert model.absent_video.grad.abs().max() > 0
    chosen[0][:] = False
    model.zero_grad()
    model(**make_batch(LABELS), seed=3).loss.backward()
    assert model.absent_audio.grad.abs().max() == 0  # there, so that distributed training waits for nothing
    assert model.absent_video.grad.abs().max() == 0


def test_losing_streams_makes_mem_skip_a_row_without_any_complete_partner(chosen):
    chosen[0][1, [i for i, label in enumerate(LABELS) if label != 0]] = True
    chosen[0][0] = False
    found = build().train()(**make_batch(LABELS), seed=3)
    assert not found.mem_mask.any()
    assert found.loss_mem.item() == 0
