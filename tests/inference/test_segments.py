"""How a long recording is cut: properties for any length and overlap, and where speech is found."""

import numpy as np
import pytest

from inference.segments import cut_source, find_speech

RATE = 16000


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_windows_of_any_length(overlap):
    for seconds in (*np.random.default_rng(0).uniform(6.2, 200, 50), 6.2, 9.0, 12.0, 12.001, 34.0, 3600.0):
        windows = np.array(cut_source(seconds, 6.0, overlap=overlap))
        starts, ends = windows.T
        np.testing.assert_allclose(ends - starts, 6.0, atol=1e-9)
        assert starts[0] == 0
        assert ends[-1] == pytest.approx(seconds, abs=1e-9)
        steps = np.diff(starts)
        assert (steps > 0).all()
        assert (steps <= 6 * (1 - overlap) + 1e-9).all()  # at least that share is seen again
        assert len(windows) <= 2 + (seconds - 6) / (6 * (1 - overlap))  # and no window is for nothing


def test_overlap_of_none_with_a_whole_number_of_windows():
    assert np.array(cut_source(18.0, 6.0, overlap=0.0)).tolist() == [[0, 6], [6, 12], [12, 18]]


@pytest.mark.parametrize("way", ["windows", "speech", "first"])
def test_short_source_is_one_part(way):
    samples = np.random.default_rng(0).normal(size=6 * RATE)
    for seconds in (0.03, 1.0, 5.999, 6.0, 6.01):
        assert cut_source(seconds, 6.0, way, samples=samples) == [(0.0, seconds)]


def test_first_is_the_beginning():
    assert cut_source(34.0, 6.0, "first") == [(0.0, 6.0)]
    assert cut_source(34.0, 2.5, "first") == [(0.0, 2.5)]


def speak(*stretches, seconds=20.0, floor=1e-5):
    """Noise at full loudness in [start, end) and at `floor` elsewhere."""
    noise = np.random.default_rng(0).normal(size=int(seconds * RATE)).astype(np.float32)
    loudness = np.full(len(noise), floor, np.float32)
    for start, end in stretches:
        loudness[int(start * RATE) : int(end * RATE)] = 0.3
    return noise * loudness


def test_speech_is_found_between_pauses():
    said = [(1.0, 3.0), (5.0, 9.5), (12.0, 13.0)]
    found = cut_source(20.0, 6.0, "speech", samples=speak(*said))
    np.testing.assert_allclose(found, said, atol=0.1)


def test_speech_in_samples_is_where_it_was():
    """Each part holds all of the energy of its stretch, and the parts all of the recording's."""
    samples = speak((1.0, 3.0), (5.0, 9.5))
    parts = [samples[round(a * RATE) : round(b * RATE)] for a, b in cut_source(20.0, 6.0, "speech", samples=samples)]
    assert len(parts) == 2
    assert sum((part**2).sum() for part in parts) > 0.999 * (samples**2).sum()


def test_short_pauses_do_not_part_and_clicks_are_no_speech():
    found = find_speech(speak((2.0, 3.0), (3.15, 4.0), (8.0, 8.1), (12.0, 13.0)), 6.0)
    np.testing.assert_allclose(found, [(2.0, 4.0), (12.0, 13.0)], atol=0.1)


def test_long_speech_is_parted_evenly():
    found = np.array(find_speech(speak((2.0, 16.0)), 6.0))
    assert len(found) == 3
    lengths = found[:, 1] - found[:, 0]
    np.testing.assert_allclose(lengths, lengths[0], atol=1e-6)
    np.testing.assert_allclose(found[1:, 0], found[:-1, 1], atol=1e-9)
    assert lengths.max() <= 6


@pytest.mark.parametrize("samples", [np.zeros(20 * RATE, np.float32), speak((3.0, 3.05), floor=0.0), None])
def test_nothing_but_silence_still_gets_parts(samples):
    parts = np.array(cut_source(20.0, 6.0, "speech", samples=samples))
    assert len(parts)
    assert (parts[:, 1] - parts[:, 0] <= 6 + 1e-9).all()
    assert parts[0, 0] == 0
    assert parts[-1, 1] == pytest.approx(20)


@pytest.mark.parametrize("seed", range(5))
def test_any_speech_gives_parts_in_order_that_a_model_takes(seed):
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.uniform(0, 40, 14)).reshape(-1, 2)
    parts = np.array(cut_source(40.0, 2.0, "speech", samples=speak(*edges, seconds=40.0)))
    assert (parts[:, 1] - parts[:, 0] <= 2 + 1e-9).all()
    assert (parts[:, 1] > parts[:, 0]).all()
    assert (parts[1:, 0] >= parts[:-1, 1] - 1e-9).all()
    assert parts.min() >= 0
    assert parts.max() <= 40
