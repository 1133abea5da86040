"""Picture encoders: the embeddings of transformers' own processor and model, family by family, and no other model."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionModel,
    WavLMConfig,
    WavLMModel,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from features.picture_encoders import PictureEncoder, choose_dtype, fetch_later, load_picture_encoder
from features.preparing import FramePreparer
from running.errors import InputError
from scripts.extract_clip import build_parser

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 16,
    "image_size": 64,
}
TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@torch.no_grad()
def make_checkpoint(folder, kind):
    """A random checkpoint with weights so large that a wrong layer or output shows. Returns: (model, processor)."""
    torch.manual_seed(1)
    if kind == "siglip":
        model, processor = SiglipModel(SiglipConfig(text_config=TEXT, vision_config=TOWER)), SiglipImageProcessorPil(
            size={"height": 64, "width": 64}, resample=2
        )  # fmt: skip
    else:
        config, network = {
            "dinov2": (Dinov2Config, Dinov2Model),
            "dinov2_with_registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
        }[kind]
        crop, (mean, std) = {"height": 64, "width": 64}, IMAGENET
        model = network(config(**TOWER | {"image_size": 96}))
        processor = BitImageProcessorPil(size={"shortest_edge": 73}, crop_size=crop, image_mean=mean, image_std=std)
    for weight in model.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def encode(folder, pictures):
    model, processor = load_picture_encoder(str(folder))
    prepare = FramePreparer(processor)
    return PictureEncoder(model, processor)(np.stack([prepare(picture, "full") for picture in pictures]))


def make_pictures(height=100, width=141):
    return np.random.default_rng(0).integers(0, 256, (3, height, width, 3)).astype(np.uint8)


def test_features_are_those_of_get_image_features(tiny_clip):
    pictures = make_pictures()
    _, processor = load_picture_encoder(tiny_clip)
    pixels = processor([Image.fromarray(p) for p in pictures], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(tiny_clip).eval().get_image_features(pixels).pooler_output
    torch.testing.assert_close(encode(tiny_clip, pictures), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["siglip", "dinov2", "dinov2_with_registers"])
def test_features_are_those_of_transformers(kind, tmp_path):
    model, processor = make_checkpoint(tmp_path, kind)
    for pictures in (make_pictures(), make_pictures(141, 100)):
        pixels = processor([Image.fromarray(p) for p in pictures], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            if kind == "siglip":
                expected = model.get_image_features(pixels).pooler_output
            else:
                expected = model(pixels).last_hidden_state[:, 0]
        assert expected.std(0).mean() > 1e-2  # pictures differ
        torch.testing.assert_close(encode(tmp_path, pictures), expected, rtol=1e-4, atol=1e-4)


def test_the_vision_part_of_siglip_alone_is_taken_too(tmp_path):
    make_checkpoint(tmp_path / "whole", "siglip")
    SiglipVisionModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "part")
    (tmp_path / "part" / "preprocessor_config.json").write_bytes(
        (tmp_path / "whole" / "preprocessor_config.json").read_bytes()
    )
    pictures = make_pictures()
    assert torch.equal(encode(tmp_path / "whole", pictures), encode(tmp_path / "part", pictures))


@pytest.mark.parametrize(
    ("kind", "size", "edge"), [("siglip", (64, 64), None), ("dinov2", (224, 224), 256)], ids=["siglip", "dinov2"]
)
def test_a_checkpoint_without_a_processor_gets_that_of_its_family(kind, size, edge, tmp_path):
    make_checkpoint(tmp_path, kind)
    (tmp_path / "preprocessor_config.json").unlink()
    _, processor = load_picture_encoder(str(tmp_path))
    prepare = FramePreparer(processor)
    assert (prepare.size, prepare.edge) == (size, edge)
    assert list(processor.image_mean) == ([0.5] * 3 if kind == "siglip" else IMAGENET[0])


def test_another_type_is_refused_with_those_that_are_accepted(tmp_path):
    WavLMModel(
        WavLMConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, conv_dim=[8] * 7)
    ).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="of type 'wavlm'; accepted are clip, siglip, dinov2") as refused:
        load_picture_encoder(str(tmp_path))
    assert len(str(refused.value).splitlines()) == 1


def test_missing_weights_are_named(tmp_path):
    model, _ = make_checkpoint(tmp_path, "dinov2")
    weights = model.state_dict()
    del weights["layernorm.weight"]
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(InputError, match="no weights for layernorm.weight"):
        load_picture_encoder(str(tmp_path))


@pytest.mark.parametrize("flag", ["--image_model", "--clip_model"])
def test_both_names_of_the_option_are_one(flag):
    args = build_parser().parse_args(["--manifest", "m", "--out", "o", flag, "x"])
    assert args.image_model == "x"
    assert not hasattr(args, "clip_model")


@pytest.mark.parametrize(
    ("asked", "device", "taken"),
    [("auto", "cuda", "fp16"), ("auto", "cpu", "no"), ("no", "cuda", "no"), ("bf16", "cpu", "bf16")],
)
def test_auto_is_half_precision_on_a_gpu_alone(asked, device, taken):
    assert choose_dtype(asked, torch.device(device)) == taken


def test_half_precision_moves_embeddings_by_less_than_2_percent(tiny_clip):
    model, processor = load_picture_encoder(tiny_clip)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    full = PictureEncoder(model, processor)(pixels)
    half = fetch_later(PictureEncoder(copy.deepcopy(model), processor, dtype=torch.float16)(pixels))()
    moved = np.linalg.norm(half - full.numpy(), axis=1) / full.norm(dim=1).numpy()
    assert (moved > 0).all()
    assert (moved < 0.02).all()
