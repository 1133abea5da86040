"""corpus/random_encoders.py and scripts/make_demo.py: encoders that load, the same for the same seed."""

import torch
from transformers import CLIPModel, WavLMModel

from corpus.random_encoders import make_clip
from scripts.make_demo import main


def test_encoders_load_and_tell_inputs_apart(tiny_wavlm, tiny_clip):
    wavlm = WavLMModel.from_pretrained(tiny_wavlm).eval()
    assert wavlm.config.do_stable_layer_norm
    assert wavlm.config.feat_extract_norm == "layer"
    assert wavlm._get_feat_extract_output_lengths(torch.tensor(16000)) == 49
    assert CLIPModel.from_pretrained(tiny_clip).config.projection_dim == 128


def test_encoders_only_and_the_seed(tmp_path, tiny_clip):
    main(["--out", str(tmp_path), "--encoders_only"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "hubert", "wav2vec2", "wavlm", "whisper"]
    same = (tmp_path / "clip/model.safetensors").read_bytes()
    assert same == (type(tmp_path)(tiny_clip) / "model.safetensors").read_bytes()
    make_clip(tmp_path / "other", seed=1)
    assert same != (tmp_path / "other/model.safetensors").read_bytes()
