"""What a picture of an answer shows, against the model and the files that it is made of."""

import math
from pathlib import Path

import av
import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dataloader import SAMPLE_RATE
from features.preprocessing import Preprocessing
from inference import pictures
from inference.answers import Prediction, Window
from inference.explaining import (
    SHOWN,
    Explanation,
    attend_segment,
    average_windows,
    explain,
    find_frame_step,
    sample_frames,
)
from inference.loading import Segment
from inference.pictures import compute_mel, draw_explanation, find_envelope, find_runs, plot_sources, thin, trace_steps
from inference.predictor import FoalPredictor
from inference.sources import Source
from running.pictures import STYLE
from tiny import build_model

RATE, SECONDS = 20, 1.3  # of the clip: frames a second, length
LONGEST = 0.5  # seconds that the models take


def build_predictor(clip_model, modality="av", **options):
    """A predictor of large random weights, so that attention is anything but even."""
    model = build_model(video_dim=128, modality=modality, initializer_range=0.3)
    return FoalPredictor(model, Preprocessing(max_length=LONGEST), clip_model, cpu=True, **options)


@pytest.fixture(scope="module")
def predictor(tiny_clip):
    return build_predictor(tiny_clip)


def write_clip(path, pictures, rate=RATE, samples=None):
    """A Matroska file of (n, height, width, 3) uint8 pictures and (n,) int16 samples at 16 kHz. Returns: its path."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=rate, options={"qmin": "1", "qmax": "2"})
        picture.height, picture.width = pictures[0].shape[:2]
        picture.pix_fmt, picture.bit_rate = "yuv420p", 8_000_000
        sound = None if samples is None else container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        for number, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return str(path)


def make_greys(count):
    """Plain pictures; number k has the brightness 40 + 4 k."""
    return [np.full((64, 96, 3), 40 + 4 * k, np.uint8) for k in range(count)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Noise in sound and picture."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (round(RATE * SECONDS), 8, 12, 3), np.uint8)
    samples = (3000 * rng.normal(size=round(SAMPLE_RATE * SECONDS))).astype(np.int16)
    path = tmp_path_factory.mktemp("clip") / "noisy clip.mkv"
    return write_clip(path, blocks.repeat(8, 1).repeat(8, 2), samples=samples)


def make_segment(seed=0, samples=6000, frames=7):
    rng = np.random.default_rng(seed)
    sound, features = rng.normal(size=samples), rng.normal(size=(frames, 128))
    return Segment(0.0, samples / SAMPLE_RATE, sound.astype(np.float32), features.astype(np.float32))


def encode_segment(predictor, segment):
    """The states of sound and picture, float64 arrays (Ta, Da), (Tv, Dv)."""
    inputs = predictor.collate([segment])
    with torch.inference_mode():
        audio, _ = predictor.model.encode_audio(inputs["input_values"], samples=inputs["samples"])
    return audio[0].double().numpy(), segment.features.astype(np.float64)


def attend_by_hand(layers, states, other):
    """The weights of cross attention (T, T'), head by head and step by step, layer upon layer."""
    maps = []
    for layer in layers:
        weights = {name: value.detach().double().numpy() for name, value in layer.state_dict().items()}

        def project(name, rows, weights=weights):
            return rows @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

        q, k, v = project("w_q", states), project("w_k", other), project("w_v", other)
        width, attended = q.shape[1] // layer.heads, np.empty_like(q)
        for head in range(layer.heads):
            part = slice(head * width, (head + 1) * width)
            rows = []
            for query in q[:, part]:
                scores = np.exp([query @ key / math.sqrt(width) for key in k[:, part]])
                rows.append(scores / scores.sum())
            maps.append(np.stack(rows))
            attended[:, part] = maps[-1] @ v[:, part]
        states = states + project("w_concat", attended)
        spread = states.std(1, keepdims=True) ** 2 + layer.ln.eps
        states = (states - states.mean(1, keepdims=True)) / np.sqrt(spread) * weights["ln.weight"] + weights["ln.bias"]
    return np.mean(maps, 0)


def test_attention_is_the_mean_softmax_of_all_heads_and_layers(predictor):
    segment, model = make_segment(), predictor.model
    received = attend_segment(predictor, segment)
    audio, video = encode_segment(predictor, segment)
    by_hand = {"audio": attend_by_hand(model.v2a, video, audio), "video": attend_by_hand(model.a2v, audio, video)}
    for name, weights in by_hand.items():
        np.testing.assert_allclose(weights.sum(1), 1)
        np.testing.assert_allclose(received[name], weights.mean(0) * weights.shape[1], rtol=1e-4)
        assert received[name].mean() == pytest.approx(1, abs=1e-5)
        assert np.ptp(received[name]) > 0.1
    assert len(received["audio"]) == len(audio)
    assert len(received["video"]) == 7


def test_rows_of_the_models_own_map_sum_to_one(predictor):
    audio, video = (torch.tensor(x, dtype=torch.float32)[None] for x in encode_segment(predictor, make_segment()))
    mask = torch.arange(video.shape[1])[None] < 5
    weights = predictor.model.attend(predictor.model.a2v, audio, video, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, audio.shape[1]))
    assert not weights[:, :, 5:].any()


def test_steps_that_a_gpu_pads_change_nothing(predictor, monkeypatch):
    segment = make_segment()
    plain, encode_audio = attend_segment(predictor, segment), predictor.model.encode_audio

    def encode_padded(*args, **kwargs):
        states, mask = encode_audio(*args, **kwargs)
        return F.pad(states, (0, 0, 0, 5)), F.pad(mask, (0, 5))

    monkeypatch.setattr(predictor.model, "encode_audio", encode_padded)
    padded = attend_segment(predictor, segment)
    for name, values in plain.items():
        np.testing.assert_allclose(padded[name], values, rtol=1e-4)


def test_probabilities_are_those_of_predict(predictor, clip):
    (prediction,), explanation = predictor.predict(clip), explain(predictor, clip)
    assert len(prediction.windows) == 5
    for shown, window in zip(explanation.prediction.windows, prediction.windows, strict=True):
        np.testing.assert_array_equal(shown.probabilities, window.probabilities)
        assert (shown.start, shown.end, shown.streams) == (window.start, window.end, window.streams)


def test_attention_is_averaged_where_windows_overlap(predictor, clip):
    explanation = explain(predictor, clip)
    (loaded,) = predictor.loader.load([Source(clip, clip)])
    for name, step in {"audio": 0.02, "video": 1 / RATE}.items():
        found = {}
        for segment in loaded.segments:
            for i, value in enumerate(attend_segment(predictor, segment)[name]):
                found.setdefault(round(segment.start / step) + i, []).append(value)
        times, values = explanation.attention[name]
        assert {len(held) for held in found.values()} == ({1, 2, 3})
        np.testing.assert_allclose(times, (np.arange(len(found)) + 0.5) * step)
        np.testing.assert_allclose(values, [np.mean(found[place]) for place in sorted(found)], rtol=1e-5)
        assert SECONDS - 2 * step < times[-1] < SECONDS


def test_steps_that_no_window_holds_are_nan():
    times, values = average_windows([(0.0, [1.0, 3.0]), (0.1, [5.0, 1.0]), (0.5, [4.0])], 0.1)
    np.testing.assert_allclose(times, [0.05, 0.15, 0.25, 0.35, 0.45, 0.55])
    np.testing.assert_array_equal(values, [1, 4, 1, np.nan, np.nan, 4])


@pytest.mark.parametrize(
    ("clip", "rate", "step"),
    [
        ({"frame_rate": 30.0, "frame_stride": 1}, 30.0, 1 / 30),
        ({"frame_rate": 30.0, "frame_stride": 2}, 60.0, 2 / 30),
        ({"frame_rate": 30.0, "frame_stride": 3}, 12.5, 3 / 12.5),
        ({"frame_rate": 25.0}, None, 1 / 25),
        ({}, 24.0, 1 / 24),
        ({}, None, None),
    ],
)
def test_frames_come_at_the_lower_rate(clip, rate, step):
    assert find_frame_step(clip, rate) == (step if step is None else pytest.approx(step))


def test_frames_are_those_of_their_time_in_the_part_of_the_video(predictor, tmp_path):
    path = write_clip(tmp_path / "grey.mkv", make_greys(48), rate=16)
    sources = [Source("all", path), Source("part", path, path, 1.0, 2.0)]
    predictions = [Prediction("", [], [Window(0, end, None, "v")]) for end in (3.0, 1.0)]
    for source, sampled, length in zip(sources, sample_frames(predictor, sources, predictions), (3, 1), strict=True):
        times = [seconds for seconds, _ in sampled.frames]
        numbers = [round((pixels.mean() - 40) / 4) for _, pixels in sampled.frames]
        np.testing.assert_allclose(times, (np.arange(SHOWN) + 0.5) * length / SHOWN)
        assert numbers == [math.ceil((source.start + seconds) * 16) for seconds in times]
        assert sampled.rate == 16
        assert {pixels.shape for _, pixels in sampled.frames} == {(64, 64, 3)}


@pytest.mark.parametrize(
    ("modality", "kind", "panels"),
    [
        ("av", "av", list(pictures.HEIGHTS)),
        ("av", "a", ["Waveform", "Log-mel spectrogram", "Probabilities"]),
        ("av", "v", ["Frames as CLIP sees them", "Probabilities"]),
        ("a", "av", ["Waveform", "Log-mel spectrogram", "Probabilities"]),
        ("v", "av", ["Frames as CLIP sees them", "Probabilities"]),
    ],
)
def test_panels_are_of_what_the_model_got(tiny_clip, clip, tmp_path, modality, kind, panels):
    noise = np.random.default_rng(0).normal(size=18_000).astype(np.float32)
    silent = write_clip(tmp_path / "silent.mkv", make_greys(24))
    source = {"av": clip, "a": noise, "v": silent}[kind]
    explanation = explain(build_predictor(tiny_clip, modality), source)
    figure = draw_explanation(explanation)
    assert [ax.get_title(loc="left") for ax in figure.axes] == panels
    last = explanation.prediction.windows[-1].end
    assert {ax.get_xlim() for ax in figure.axes} == {(0, last)}
    label, answer = explanation.prediction.label, explanation.prediction
    title = figure.get_suptitle()
    assert f"{label} {answer.probabilities.max():.3f}, entropy {answer.entropy:.2f}" in title


def test_sound_is_shown_whole_where_windows_leave_pauses_out(tiny_clip):
    noise = np.random.default_rng(0).normal(size=8000).astype(np.float32)
    samples = np.concatenate([noise, np.zeros(16_000, np.float32), noise, np.zeros(4000, np.float32)])
    explanation = explain(build_predictor(tiny_clip, "a", way="speech"), samples)
    end = explanation.prediction.windows[-1].end
    assert 1.9 < end < 2.2
    np.testing.assert_array_equal(explanation.samples, samples[: round(end * SAMPLE_RATE)])


def test_a_broken_source_or_picture_stops_no_other(predictor, clip, tmp_path, monkeypatch, caplog):
    gone = tmp_path / "gone.mkv"
    gone.write_bytes(Path(clip).read_bytes())
    sources = [Source(name, clip) for name in ("x/same.mp4", "y/same.mp4", "a b/../..")]
    sources[1:1] = [Source("absent", str(tmp_path / "absent.wav")), Source("gone", str(gone))]
    predictions = predictor.predict(sources, skip_bad=True)
    gone.unlink()
    find = pictures.find_envelope
    calls = iter([OSError(28, "No space left on device"), None, None])

    def fail_once(samples):
        if error := next(calls):
            raise error
        return find(samples)

    monkeypatch.setattr(pictures, "find_envelope", fail_once)
    folder = tmp_path / "new" / "pictures"
    written = plot_sources(predictor, sources, predictions, folder)
    assert written == [None, None, None, folder / "004_same.png", folder / "005_...png"]
    assert sorted(path.name for path in folder.iterdir()) == ["004_same.png", "005_...png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())
    assert "x/same.mp4: no picture of it: [Errno 28] No space left on device" in caplog.text
    assert f"gone: no picture of it: {gone}: no such file" in caplog.text
    assert "absent" not in caplog.text


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("folder/my clip (1).MP4", "my_clip_1_"),
        ("Ses01F_v1.5", "Ses01F_v1.5"),
        ("..", ".."),
        ("/", "source"),
        ("日本/$x\n.wav", "_x_"),
        ("é" * 300, "é" * 60),
    ],
)
def test_names_of_files_are_safe(source, name):
    assert pictures.make_name(source) == name


def make_windows(*parts):
    """Windows of (start, end, likeliest class of two)."""
    return [(start, end, Window(start, end, np.eye(2, dtype=np.float32)[k], "a")) for start, end, k in parts]


def test_lines_and_labels_break_at_gaps():
    parts = make_windows((0, 1, 0), (1, 2, 0), (3, 4, 0), (4, 5, 1))
    times, rows = trace_steps(parts)
    np.testing.assert_array_equal(times, [0, 1, 1, 2, np.nan, 3, 4, 4, 5])
    np.testing.assert_array_equal(rows[:, 0], [1, 1, 1, 1, np.nan, 1, 1, 0, 0])
    assert find_runs(parts) == [(0, 2, 0), (3, 4, 0), (4, 5, 1)]


def test_thinning_keeps_peaks_of_sound_and_means_of_lines():
    samples = np.random.default_rng(0).normal(size=100_003)
    low, high = find_envelope(samples, 100)
    assert len(low) == len(high) == 100
    assert (low.min(), high.max()) == (samples.min(), samples.max())
    times, values = thin(np.arange(10) + 0.5, np.array([1, 2, 3, np.nan, np.nan, np.nan, 5, 5, 5, 7.0]), columns=4)
    np.testing.assert_array_equal(values, [2, np.nan, 5, 7])
    np.testing.assert_array_equal(times, [1.5, 4.5, 7.5, 9.5])
    assert np.array_equal(thin(np.arange(3.0), np.ones(3))[0], np.arange(3.0))


@pytest.mark.parametrize("n", [400, 16_000, 16_000 * 300])
def test_spectrogram_is_as_wide_as_a_panel_at_most(n):
    tone = np.sin(2 * np.pi * 1000 * np.arange(n, dtype=np.float32) / SAMPLE_RATE)
    decibels = compute_mel(tone)
    assert decibels.shape[1] <= pictures.COLUMNS + 1
    assert (decibels.max(), decibels.min() >= -pictures.RANGE) == (0, True)
    assert (compute_mel(np.zeros(n, np.float32)) <= -pictures.RANGE).all()


def test_many_classes_and_a_long_name_stay_within_the_figure():
    labels = [f"emotion number {i}" for i in range(12)]
    windows = [Window(0, 1, np.full(12, 1 / 12, np.float32), "a")]
    explanation = Explanation(Prediction("folder/" * 60 + "clip $.wav", labels, windows), np.zeros(16_000, np.float32))
    with matplotlib.rc_context(STYLE):
        figure = draw_explanation(explanation)
        figure.draw_without_rendering()
    width, height = figure.bbox.size
    boxes = [figure._suptitle.get_window_extent(), figure.axes[-1].get_legend().get_window_extent()]
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
