"""FoalPredictor: arrays as files, a batch as one by one, windows against windows cut by hand, what it raises."""

import json
import shutil

import numpy as np
import pytest
import soundfile as sf
import torch
from test_predict import CLIP_DIM, checkpoint, clips, draw_pictures, draw_sound, write_checkpoint, write_clip

from dataloader import SAMPLE_RATE
from features.picture_encoders import PictureEncoder, load_picture_encoder
from features.preparing import FramePreparer
from inference.sources import Source
from predict import FoalPredictor
from running.errors import InputError
from tiny import LABELS

__all__ = ["checkpoint", "clips"]


@pytest.fixture(scope="module")
def predictor(checkpoint):
    """Of windows of a second."""
    return FoalPredictor.from_pretrained(checkpoint, cpu=True)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """5.37 s of sound and picture. Returns: path, pictures, sound as it is in the file."""
    path, pictures, sound = (
        tmp_path_factory.mktemp("long") / "long.avi",
        draw_pictures(134, 9),
        draw_sound(5.37, seed=9),
    )
    write_clip(path, pictures, sound)
    return path, pictures, (sound * 32768).astype(np.int16).astype(np.float32) / 32768


def get_rows(predictions):
    """(sources, classes)"""
    return np.stack([prediction.probabilities for prediction in predictions])


def test_array_is_the_file(predictor, tmp_path):
    sound = draw_sound(0.7, 22050, seed=4)
    sf.write(tmp_path / "a.wav", sound, 22050, subtype="FLOAT")
    from_file, from_array = predictor.predict([tmp_path / "a.wav", (sound, 22050)])
    np.testing.assert_allclose(from_file.probabilities, from_array.probabilities, atol=1e-6)
    assert from_file.seconds == pytest.approx(0.7, abs=1e-3)
    assert from_file.source == str(tmp_path / "a.wav")
    assert from_array.source


def test_every_form_of_a_waveform(tmp_path):
    """By a model that hears how loud it is."""
    predictor = FoalPredictor.from_pretrained(write_checkpoint(tmp_path / "plain", normalize=False), cpu=True)
    left, right = draw_sound(0.6, 48000, 5), draw_sound(0.6, 48000, 6)
    both = np.stack([left, right], 1)
    whole = (both * 32767).astype(np.int16)
    exact = whole.astype(np.float64) / 32768
    forms = {
        "(n, channels)": exact,
        "(channels, n)": exact.T,
        "int16": whole,
        "int16 (channels, n)": np.ascontiguousarray(whole.T),
        "int32": whole.astype(np.int32) * 65536,
        "float32": exact.astype(np.float32),
        "mono": exact.mean(1),
        "(n, 1)": exact.mean(1)[:, None],
        "(1, n)": exact.mean(1)[None],
        "torch": torch.from_numpy(exact.T.copy()),
        "reversed view": exact[::-1][::-1],
    }
    answers = predictor.predict([(form, 48000) for form in forms.values()])
    for name, answer in zip(forms, answers, strict=True):
        np.testing.assert_allclose(answer.probabilities, answers[0].probabilities, atol=1e-5, err_msg=name)
        assert answer.seconds == pytest.approx(0.6, abs=1e-3)
    one_side = predictor.predict((left, 48000))[0]
    assert np.abs(one_side.probabilities - answers[0].probabilities).max() > 1e-3


def test_bare_array_is_at_16_khz(predictor):
    sound = draw_sound(0.5)
    bare, told, other = predictor.predict([sound, (sound, 16000), (sound, 24000)])
    np.testing.assert_allclose(bare.probabilities, told.probabilities, atol=1e-6)
    assert np.abs(bare.probabilities - other.probabilities).max() > 1e-3
    assert other.seconds == pytest.approx(1 / 3, abs=1e-3)


def test_one_source_needs_no_list(predictor, clips):
    path = clips / "sound.wav"
    sound, rate = sf.read(path, dtype="float32")
    answers = [predictor.predict(form) for form in (str(path), path, (sound, rate), sound, Source("x", str(path)))]
    assert [len(answer) for answer in answers] == [1] * 5
    np.testing.assert_allclose(get_rows([a for (a,) in answers]), get_rows(answers[0] * 5), atol=1e-6)
    assert predictor.predict([]) == []


def test_input_is_left_as_it_was(predictor):
    sound = draw_sound(0.5)
    copy = sound.copy()
    sound.setflags(write=False)
    predictor.predict([sound])
    np.testing.assert_array_equal(sound, copy)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batch_is_one_by_one(batch_size, predictor, clips, long_clip):
    rng = np.random.default_rng(0)
    sources = [*sorted(clips.iterdir()), long_clip[0], *(draw_sound(s, seed=k) for k, s in enumerate((0.03, 0.4, 2.2)))]
    sources += [(draw_sound(0.5, 8000, 9), 8000), clips / "both.mp4"]
    sources = [sources[i] for i in rng.permutation(len(sources))]
    alone = [predictor.predict([source], 1)[0] for source in sources]
    together = predictor.predict(sources, batch_size)
    for one, other in zip(alone, together, strict=True):
        assert one.streams == other.streams
        assert len(one.windows) == len(other.windows)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
        for a, b in zip(one.windows, other.windows, strict=True):
            assert (a.start, a.end, a.streams) == (b.start, b.end, b.streams)
            np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-5)
    assert {answer.streams for answer in together} == {"av", "a", "v"}


def test_more_sources_than_are_loaded_at_a_time(predictor, clips):
    sources = [draw_sound(0.05 + 0.002 * k, seed=k) for k in range(70)]
    sources[66] = clips / "both.mp4"
    done = []
    answers = predictor.predict(sources, progress=done.append)
    assert sum(done) == len(answers) == 70
    names = [answer.source for answer in answers]
    assert len(set(names)) == 70
    assert names[66] == str(clips / "both.mp4")
    some = [0, 5, 63, 64, 66, 69]
    np.testing.assert_allclose(
        get_rows(answers)[some], get_rows(predictor.predict([sources[i] for i in some])), atol=1e-5
    )


def test_asked_twice_it_says_the_same(predictor, clips):
    paths = sorted(clips.iterdir())
    np.testing.assert_array_equal(get_rows(predictor.predict(paths)), get_rows(predictor.predict(paths)))


@pytest.mark.parametrize("options", [{}, {"overlap": 0.0}, {"overlap": 0.8}, {"way": "speech"}])
def test_windows_are_those_parts_of_the_sound(options, predictor, checkpoint, long_clip):
    sound = long_clip[2].copy()
    sound[20000:32000] *= 1e-4  # a pause
    answer = FoalPredictor.from_pretrained(checkpoint, cpu=True, **options).predict(sound)[0]
    assert len(answer.windows) > 2
    pieces = [sound[round(w.start * 16000) : round(w.end * 16000)] for w in answer.windows]
    expected = [predictor.predict(piece)[0] for piece in pieces]
    assert [len(one.windows) for one in expected] == [1] * len(pieces)
    np.testing.assert_allclose(np.stack([w.probabilities for w in answer.windows]), get_rows(expected), atol=1e-5)
    lengths = np.array([w.end - w.start for w in answer.windows])
    pooled = (lengths[:, None] * get_rows(expected)).sum(0) / lengths.sum()
    np.testing.assert_allclose(answer.probabilities, pooled, atol=1e-5)
    assert np.ptp(get_rows(expected), axis=0).max() > 0.05
    assert answer.label == LABELS[pooled.argmax()]
    assert answer.entropy == pytest.approx(-(pooled * np.log(pooled)).sum(), abs=1e-5)


def test_windows_are_those_parts_of_the_video(predictor, long_clip, tiny_clip, tmp_path):
    """The pictures of each window by the numbers, through CLIP by hand, without the code that cuts videos."""
    path, pictures, sound = long_clip
    network, processor = load_picture_encoder(tiny_clip)
    encoder, prepare = PictureEncoder(network, processor, torch.device("cpu"), None), FramePreparer(processor)
    features = encoder(np.stack([prepare(picture, "full") for picture in pictures])).numpy()
    answer, names = predictor.predict(path)[0], []
    assert answer.streams == "av"
    for number, window in enumerate(answer.windows):
        first, last = np.ceil(np.round(np.array([window.start, window.end]) * 25, 6)).astype(int)
        np.save(tmp_path / f"{number}.npy", features[first:last][:30])  # as many rows as the training kept
        sf.write(tmp_path / f"{number}.wav", sound[round(window.start * 16000) : round(window.end * 16000)], 16000,
                 subtype="FLOAT")  # fmt: skip
        names.append(str(tmp_path / f"{number}"))
    by_hand = predictor.predict([Source(n, f"{n}.wav", features=f"{n}.npy") for n in names])
    np.testing.assert_allclose(np.stack([w.probabilities for w in answer.windows]), get_rows(by_hand), atol=1e-5)


def test_two_streams_of_different_length(predictor, tmp_path):
    write_clip(tmp_path / "sound_ends.avi", draw_pictures(80), draw_sound(1.0))
    write_clip(tmp_path / "picture_ends.avi", draw_pictures(25), draw_sound(3.2))
    sound_ends, picture_ends = predictor.predict(sorted(tmp_path.iterdir(), reverse=True))
    for answer, first, last in ((sound_ends, "av", "v"), (picture_ends, "av", "a")):
        assert answer.windows[0].streams == first
        assert answer.windows[-1].streams == last
        assert answer.windows[-1].end == pytest.approx(3.2, abs=0.01)
        assert answer.streams == "av"


def test_first_looks_at_no_more_than_the_model_takes(predictor, checkpoint, long_clip):
    first = FoalPredictor.from_pretrained(checkpoint, cpu=True, way="first")
    sound = long_clip[2]
    changed = sound.copy()
    changed[16000:] = 0
    answer, same = first.predict([sound, changed])
    assert len(answer.windows) == 1
    np.testing.assert_allclose(answer.probabilities, same.probabilities, atol=1e-6)
    np.testing.assert_allclose(answer.probabilities, predictor.predict(sound[:16000])[0].probabilities, atol=1e-6)


BAD = {
    "NaN": np.full(9000, np.nan, np.float32),
    "infinity": np.full(9000, np.inf),
    "too short": np.zeros(100),
    "empty": np.zeros(0),
    "three axes": np.zeros((2, 2, 9000)),
    "no numbers": np.array(["a", "b"]),
    "complex": np.zeros(9000, complex),
    "rate 0": (np.zeros(9000), 0),
    "rate below 0": (np.zeros(9000), -16000),
    "rate NaN": (np.zeros(9000), float("nan")),
    "rate in words": (np.zeros(9000), "16 kHz"),
    "two paths": ("a.wav", "b.wav"),
    "None": None,
    "number": 5,
    "missing": "no_such_file.wav",
    "folder": ".",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_source_is_an_error_that_names_it(kind, predictor, clips):
    good = clips / "sound.wav"
    with pytest.raises(InputError):
        predictor.predict([good, BAD[kind]])
    answers = predictor.predict([good, BAD[kind], draw_sound(0.5)], skip_bad=True)
    assert [answer.error is None for answer in answers] == [True, False, True]
    bad = answers[1]
    assert bad.label is None
    assert bad.probabilities is None
    assert bad.entropy is None
    assert bad.windows == []
    assert "1" in bad.error or str(BAD[kind]) in bad.error  # its number or its path
    np.testing.assert_allclose(answers[0].probabilities, predictor.predict(good)[0].probabilities, atol=1e-6)


def test_bad_batch_size(predictor, clips):
    with pytest.raises(InputError, match="batch_size"):
        predictor.predict(clips / "sound.wav", batch_size=0)


def test_strict(checkpoint, clips):
    strict = FoalPredictor.from_pretrained(checkpoint, cpu=True, strict=True)
    assert strict.predict(clips / "both.mp4")[0].streams == "av"
    for name in ("picture.mp4", "sound.wav"):
        with pytest.raises(InputError, match=name):
            strict.predict(clips / name)


def test_run_folder_and_its_best_are_the_same(checkpoint, clips, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "best")
    paths = sorted(clips.iterdir())
    found = [
        FoalPredictor.from_pretrained(f, cpu=True).predict(paths) for f in (tmp_path, tmp_path / "best", checkpoint)
    ]
    np.testing.assert_array_equal(get_rows(found[0]), get_rows(found[2]))
    np.testing.assert_array_equal(get_rows(found[1]), get_rows(found[2]))


def test_sound_needs_no_clip(tmp_path, clips):
    """A model of both whose CLIP is nowhere answers for sounds, and says what it lacks of videos."""
    folder = write_checkpoint(tmp_path / "best", "no/such/clip")
    predictor = FoalPredictor.from_pretrained(folder, cpu=True)
    assert predictor.predict(clips / "sound.wav")[0].error is None
    with pytest.raises(InputError, match="no/such/clip"):
        predictor.predict(clips / "both.mp4")


def test_width_of_the_stored_rows(predictor, clips, tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((4, CLIP_DIM + 1), np.float32))
    with pytest.raises(InputError, match=r"f\.npy"):
        predictor.predict(Source("x", str(clips / "sound.wav"), features=str(tmp_path / "f.npy")))


def test_stored_rows_beyond_those_of_the_training_are_not_used(predictor, clips, tmp_path):
    rows = np.random.default_rng(0).normal(size=(50, CLIP_DIM)).astype(np.float32)
    np.save(tmp_path / "long.npy", rows)
    np.save(tmp_path / "short.npy", rows[:30])
    names = ("long", "short")
    sources = [Source(n, str(clips / "sound.wav"), features=str(tmp_path / f"{n}.npy")) for n in names]
    long, short = predictor.predict(sources)
    np.testing.assert_allclose(long.probabilities, short.probabilities, atol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_loudness_counts_only_where_it_did_in_training(normalize, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "best")
    content = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(content | {"do_normalize": normalize}))
    sound = draw_sound(0.8)
    loud, soft = FoalPredictor.from_pretrained(folder, cpu=True).predict([sound, 0.2 * sound])
    difference = np.abs(loud.probabilities - soft.probabilities).max()
    assert difference < 1e-3 if normalize else difference > 1e-3


def test_probabilities_are_those_of_the_model(predictor, long_clip):
    """The plain model on the plain inputs, without any of the code of the room."""
    sound = long_clip[2][: SAMPLE_RATE * 4 // 5]
    row = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
    with torch.inference_mode():
        values = torch.from_numpy(row)[None]
        output = predictor.model(input_values=values, attention_mask=torch.ones_like(values, dtype=torch.bool))
    answer = predictor.predict(sound)[0]
    np.testing.assert_allclose(answer.probabilities, output.logits.softmax(-1)[0].numpy(), atol=1e-5)
    assert answer.probabilities.dtype == np.float32
    assert answer.labels == LABELS
