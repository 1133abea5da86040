"""CLIP's vision tower: the embeddings of the whole model, and no other model."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, WavLMConfig, WavLMModel

from features.clip import ClipEncoder, choose_dtype, fetch_later, load_clip
from features.preparing import FramePreparer
from running.errors import InputError


def test_features_are_those_of_get_image_features(tiny_clip):
    picture = np.random.default_rng(0).integers(0, 256, (3, 100, 140, 3)).astype(np.uint8)
    model, processor = load_clip(tiny_clip)
    prepare = FramePreparer(processor)
    ours = ClipEncoder(model, processor)(np.stack([prepare(p, "full") for p in picture]))
    pixels = processor([Image.fromarray(p) for p in picture], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(tiny_clip).eval().get_image_features(pixels).pooler_output
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_that_is_not_clip_is_refused(tmp_path):
    WavLMModel(
        WavLMConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, conv_dim=[8] * 7)
    ).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="of type 'wavlm'"):
        load_clip(str(tmp_path))


@pytest.mark.parametrize(
    ("asked", "device", "taken"),
    [("auto", "cuda", "fp16"), ("auto", "cpu", "no"), ("no", "cuda", "no"), ("bf16", "cpu", "bf16")],
)
def test_auto_is_half_precision_on_a_gpu_alone(asked, device, taken):
    assert choose_dtype(asked, torch.device(device)) == taken


def test_half_precision_moves_embeddings_by_less_than_2_percent(tiny_clip):
    model, processor = load_clip(tiny_clip)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    full = ClipEncoder(model, processor)(pixels)
    half = fetch_later(ClipEncoder(copy.deepcopy(model), processor, dtype=torch.float16)(pixels))()
    moved = np.linalg.norm(half - full.numpy(), axis=1) / full.norm(dim=1).numpy()
    assert (moved > 0).all()
    assert (moved < 0.02).all()
