"""Fixtures that several test files share."""

import pytest

from corpus.random_encoders import make_clip, make_wavlm


@pytest.fixture(scope="session")
def tiny_wavlm(tmp_path_factory):
    """Folder of the demo's random WavLM checkpoint."""
    folder = tmp_path_factory.mktemp("wavlm")
    make_wavlm(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """Folder of the demo's random CLIP checkpoint, 64x64 pictures and embeddings of 128."""
    folder = tmp_path_factory.mktemp("clip")
    make_clip(folder)
    return str(folder)
