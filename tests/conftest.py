"""Fixtures that several test files share."""

import signal

import pytest

from corpus.random_encoders import make_clip, make_speech_encoder

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a suite that a shell started in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or no child of a test could be interrupted


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """What was checked (features/checked.py) is not recorded in the user's own cache; child processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOALNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_wavlm(tmp_path_factory):
    """Folder of the demo's random WavLM checkpoint."""
    folder = tmp_path_factory.mktemp("wavlm")
    make_speech_encoder(folder, "wavlm")
    return str(folder)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """Folder of the demo's random CLIP checkpoint, 64x64 pictures and embeddings of 128."""
    folder = tmp_path_factory.mktemp("clip")
    make_clip(folder)
    return str(folder)
