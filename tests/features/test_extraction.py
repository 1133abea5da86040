"""Extraction of CLIP features: the right pixels of the right frames, once each, and restarts that lose nothing."""

import json
import subprocess
import sys
import threading
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, WavLMConfig, WavLMModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from running.errors import InputError
from scripts import extract_clip
from scripts.extract_clip import (
    Clip,
    ClipEncoder,
    Finished,
    Frame,
    FrameLoader,
    FramePreparer,
    VideoReport,
    cut_clips,
    load_clip,
    main,
    share_videos,
)

ROOT = Path(__file__).resolve().parents[2]


def write_video(path, pictures, rate=30, **options):
    """Encode (n, height, width, 3) uint8 pictures as DivX in avi, frame k at k / rate seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"qmin": "1", "qmax": "2", **options})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.bit_rate, stream.codec_context.codec_tag = "yuv420p", 8_000_000, "DIVX"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def counting_pictures(count, height=64, width=96):
    """Plain grey pictures; frame k has the brightness 40 + 4 k."""
    return [np.full((height, width, 3), 40 + 4 * k, np.uint8) for k in range(count)]


def read_numbers(frames):
    """The frame numbers that the brightness of prepared pictures tells."""
    return [round((frame.pixels.mean() - 40) / 4) for frame in frames]


def write_manifest(path, rows):
    """rows: (id, video, start, end, crop)."""
    lines = ["id,path,label,speaker,session,video,start,end,crop"]
    lines += [f"{i},{video},neu,s,1,{video},{start},{end},{crop}" for i, video, start, end, crop in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def cut(path, clips, rows=None, **options):
    """Cut with a preparer of 64 pixels; frames by utterance, and the report."""
    size = {"height": 64, "width": 64}
    prepare = FramePreparer(CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=size), rows)
    items = list(cut_clips(str(path), clips, prepare, **options))
    frames = {clip.utt_id: [f for f in items if isinstance(f, Frame) and clip.utt_id in f.utt_ids] for clip in clips}
    assert isinstance(items[-1], VideoReport)
    return frames, items


@pytest.fixture
def corpus(tmp_path):
    """Two videos, four utterances, two of them overlapping."""
    noise = np.random.default_rng(0).integers(0, 255, (2, 12, 64, 96, 3)).astype(np.uint8)
    videos = [write_video(tmp_path / "video" / f"{k}.avi", noise[k]) for k in range(2)]
    rows = [
        ("a", videos[0], 0.1, 0.3, "left"),
        ("b", videos[0], 0.2, 0.4, "right"),
        ("c", videos[0], 0.15, 0.35, "left"),
        ("d", videos[1], "", "", "full"),
    ]
    return write_manifest(tmp_path / "manifest.csv", rows)


@pytest.mark.parametrize("shape", [(256, 360), (270, 361), (480, 240), (64, 64), (50, 41)])
@pytest.mark.parametrize("size", [64, 224])
def test_preprocessing_is_that_of_the_clip_image_processor(shape, size):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    expected = processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"]

    seen = {}

    class Recorder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = type("Config", (), {"projection_dim": 1})

        def forward(self, pixel_values):
            seen["pixel_values"] = pixel_values
            return type("Output", (), {"image_embeds": pixel_values.mean((1, 2, 3))})

    ClipEncoder(Recorder(), processor)(np.stack([FramePreparer(processor)(picture, "full")]))
    torch.testing.assert_close(seen["pixel_values"], expected.float(), rtol=0, atol=2e-6)


def test_features_are_those_of_get_image_features(tiny_clip):
    picture = np.random.default_rng(0).integers(0, 256, (3, 100, 140, 3)).astype(np.uint8)
    model, processor = load_clip(tiny_clip)
    prepare = FramePreparer(processor)
    ours = ClipEncoder(model, processor)(np.stack([prepare(p, "full") for p in picture]))
    pixels = processor([Image.fromarray(p) for p in picture], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(tiny_clip).eval().get_image_features(pixels).pooler_output
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("crop", "colour"), [("left", 0), ("right", 2)])
def test_crop_side_and_rows(tmp_path, crop, colour):
    """Left half red, right half blue, in rows 112-368; green elsewhere must not be seen."""
    picture = np.zeros((480, 720, 3), np.uint8)
    picture[..., 1] = 255
    picture[112:368] = 0
    picture[112:368, :360, 0] = 255
    picture[112:368, 360:, 2] = 255
    path = write_video(tmp_path / "painted.avi", [picture] * 3)
    frames, _ = cut(path, [Clip("u", 0.0, 1.0, crop)], rows=(112, 368))
    inside = frames["u"][1].pixels[:, 4:-4].astype(int)
    assert inside[..., colour].min() > 200
    assert np.delete(inside, colour, axis=-1).max() < 60


@pytest.mark.parametrize("rate", [30, "30000/1001"])
@pytest.mark.parametrize("threads", [1, 2])
def test_an_utterance_gets_exactly_its_frames(tmp_path, rate, threads):
    path = write_video(tmp_path / "count.avi", counting_pictures(40), rate=Fraction(rate))
    step = float(1 / Fraction(rate))
    clips = [
        Clip("a", 5 * step, 9 * step, "full"),
        Clip("b", 7.5 * step, 12.1 * step, "left"),
        Clip("whole", -np.inf, np.inf, "full"),
        Clip("tail", 38 * step, 99.0, "full"),
    ]
    frames, _ = cut(path, clips, threads=threads)
    assert read_numbers(frames["a"]) == [5, 6, 7, 8]  # the end is not included
    assert read_numbers(frames["b"]) == [8, 9, 10, 11, 12]
    assert read_numbers(frames["whole"]) == list(range(40))
    assert read_numbers(frames["tail"]) == [38, 39]


def test_overlapping_utterances_with_one_crop_share_a_frame(tmp_path):
    path = write_video(tmp_path / "count.avi", counting_pictures(20))
    _, items = cut(path, [Clip("a", 0.0, 0.4, "left"), Clip("b", 0.2, 0.6, "left"), Clip("c", 0.2, 0.6, "right")])
    shared = Counter(tuple(item.utt_ids) for item in items if isinstance(item, Frame))
    assert shared == {("a",): 6, ("a", "b"): 6, ("b",): 6, ("c",): 12}


def test_stride_and_limit_count_kept_frames(tmp_path):
    path = write_video(tmp_path / "count.avi", counting_pictures(30))
    frames, items = cut(path, [Clip("u", 3 / 30, 1.0, "full")], frame_stride=4, max_frames=3)
    assert read_numbers(frames["u"]) == [3, 7, 11]
    assert [item.utt_id for item in items if isinstance(item, Finished)] == ["u"]


def test_b_frames_come_in_presentation_order(tmp_path):
    path = write_video(tmp_path / "b.avi", counting_pictures(20), bf="2")
    frames, _ = cut(path, [Clip("u", 0.0, 9.0, "full")])
    assert read_numbers(frames["u"]) == list(range(20))


def test_each_video_is_opened_once(corpus, tmp_path, tiny_clip, monkeypatch):
    opened, original = Counter(), av.open

    def count(path, *args, **kwargs):
        opened[Path(path).name] += 1
        return original(path, *args, **kwargs)

    monkeypatch.setattr(extract_clip.av, "open", count)
    main(["--manifest", corpus, "--clip_model", tiny_clip, "--out", str(tmp_path / "f"), "--batch_size", "5"])
    assert opened == {"0.avi": 1, "1.avi": 1}
    main(["--manifest", corpus, "--clip_model", tiny_clip, "--out", str(tmp_path / "f")])
    assert opened == {"0.avi": 1, "1.avi": 1}


def test_batches_across_clips_give_the_features_of_single_frames(corpus, tmp_path, tiny_clip):
    for name, size in (("many", "64"), ("single", "1")):
        main(["--manifest", corpus, "--clip_model", tiny_clip, "--out", str(tmp_path / name), "--batch_size", size])
    lengths = {}
    for path in sorted((tmp_path / "many").glob("*.npy")):
        many, single = np.load(path), np.load(tmp_path / "single" / path.name)
        np.testing.assert_allclose(many, single, rtol=1e-4, atol=1e-4)
        lengths[path.stem] = len(many)
        assert many.dtype == np.float32
    assert lengths == {"a": 6, "b": 6, "c": 6, "d": 12}
    record = json.loads((tmp_path / "many" / "features.json").read_text())
    expected = {"dim": 128, "frame_rate": 30.0, "frame_stride": 1, "rows": None, "dtype": "float32", "utterances": 4}
    assert record.items() >= expected.items()
    assert record["crop"] == ["full", "left", "right"]


def test_half_is_float16_of_the_same(corpus, tmp_path, tiny_clip):
    for name, flags in (("float", []), ("half", ["--half"])):
        main(["--manifest", corpus, "--clip_model", tiny_clip, "--out", str(tmp_path / name), *flags])
    half = np.load(tmp_path / "half" / "d.npy")
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, np.load(tmp_path / "float" / "d.npy"), rtol=2e-3, atol=2e-3)


def test_restart_keeps_what_is_finished(corpus, tmp_path, tiny_clip):
    argv = ["--manifest", corpus, "--clip_model", tiny_clip, "--out", str(tmp_path / "f")]
    main(argv)
    files = {path.name: path for path in (tmp_path / "f").glob("*.npy")}
    expected = np.load(files["b.npy"])
    files["b.npy"].unlink()
    (tmp_path / "f" / ".b.npy.part").write_bytes(b"cut short")
    times = {name: path.stat().st_mtime_ns for name, path in files.items() if name != "b.npy"}
    main(argv)
    np.testing.assert_allclose(np.load(files["b.npy"]), expected, rtol=1e-4, atol=1e-4)
    assert {name: files[name].stat().st_mtime_ns for name in times} == times
    assert not list((tmp_path / "f").glob(".*"))


def test_two_processes_share_the_work(corpus, tmp_path, tiny_clip):
    common = ["--manifest", corpus, "--clip_model", tiny_clip]
    main([*common, "--out", str(tmp_path / "one"), "--cpu"])
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "scripts.extract_clip"]
    subprocess.run([*launch, *common, "--out", str(tmp_path / "two")], cwd=ROOT, check=True, capture_output=True)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in (name for name in names if name.endswith(".npy")):
        one, two = (np.load(tmp_path / folder / name) for folder in ("one", "two"))
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)
    records = [json.loads((tmp_path / folder / "features.json").read_text()) for folder in ("one", "two")]
    assert records[0] == records[1]


def test_shares_hold_every_video_once():
    rng = np.random.default_rng(0)
    videos = {f"v{k}": [Clip(f"u{k}", 0.0, float(rng.uniform(1, 300)), "full")] for k in range(37)}
    shares = [share_videos(videos, index, 4) for index in range(4)]
    assert sorted(path for share in shares for path, _ in share) == sorted(videos)
    loads = [sum(clips[0].end for _, clips in share) for share in shares]
    assert max(loads) < 1.1 * min(loads)


def test_changed_settings_are_refused(corpus, tmp_path, tiny_clip, capsys):
    argv = ["--manifest", corpus, "--clip_model", tiny_clip, "--out", str(tmp_path / "f")]
    main(argv)
    with pytest.raises(SystemExit) as stopped:
        main([*argv, "--half", "--frame_stride", "2"])
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "dtype is 'float32', asked for 'float16'" in message
    assert "frame_stride is 1, asked for 2" in message
    table = Path(corpus).read_text().replace("0.1,0.3,left", "0.1,0.3,right")
    Path(corpus).write_text(table)
    with pytest.raises(SystemExit):
        main(argv)
    assert "a was cut from '0.avi 0.1000 0.3000 left'" in capsys.readouterr().err


def test_bad_videos_are_named_and_the_others_kept(corpus, tmp_path, tiny_clip, capsys):
    (tmp_path / "broken.avi").write_bytes(b"no video")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with Path(corpus).open("a") as file:
        file.write(f"x,x,neu,s,1,{tmp_path / 'broken.avi'},,,\ny,y,neu,s,1,{tmp_path / 'sound.wav'},,,\n")
        file.write(f"z,z,neu,s,1,{tmp_path / 'video' / '1.avi'},50,51,\n")
    with pytest.raises(SystemExit) as stopped:
        main(["--manifest", corpus, "--clip_model", tiny_clip, "--out", str(tmp_path / "f")])
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "broken.avi: cannot be decoded as video" in message
    assert "sound.wav: has no picture stream" in message
    assert "z: no frame between start 50.0000 and end 51.0000" in message
    assert sorted(path.stem for path in (tmp_path / "f").glob("*.npy")) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "300:100"], "--rows 300:100: expected"),
        (["--batch_size", "0"], "--batch_size 0: at least 1"),
        (["--clip_model", "no/such/folder"], "--clip_model no/such/folder: cannot be loaded"),
        (["--manifest", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--rows", "0:100"], "--rows 0:100 but the picture has 64 rows"),
    ],
)
def test_bad_arguments_are_named(corpus, tmp_path, tiny_clip, capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        main(["--manifest", corpus, "--clip_model", tiny_clip, "--out", str(tmp_path / "f"), *flags])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_videos_are_all_named_before_anything_is_loaded(corpus, tmp_path, capsys):
    for path in (tmp_path / "video").iterdir():
        path.unlink()
    with pytest.raises(SystemExit):
        main(["--manifest", corpus, "--clip_model", "no/such/folder", "--out", str(tmp_path / "f")])
    message = capsys.readouterr().err
    assert all(f"{name}.avi: no such video" in message for name in "01")


def test_a_checkpoint_that_is_not_clip_is_refused(tmp_path):
    WavLMModel(
        WavLMConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, conv_dim=[8] * 7)
    ).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="of type 'wavlm'"):
        load_clip(str(tmp_path))


def test_a_failing_worker_stops_the_loader():
    def fail(path, clips):
        yield Finished("a")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        list(FrameLoader([("v", []), ("w", [])], fail, num_workers=2, max_waiting=8))


def test_leaving_the_loader_early_ends_its_threads():
    def endless(path, clips):
        while True:
            yield Finished("a")

    before = threading.active_count()
    items = iter(FrameLoader([("v", []), ("w", [])], endless, num_workers=2, max_waiting=8))
    next(items)
    items.close()
    assert threading.active_count() == before
