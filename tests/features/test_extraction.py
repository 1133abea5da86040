"""Extraction over a corpus: one file an utterance, whatever the batches, processes and restarts; errors that name."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from videos import counting_pictures, write_video

from scripts.extract_clip import main

ROOT = Path(__file__).resolve().parents[2]


def write_manifest(path, rows):
    """rows: (id, video, start, end, crop)."""
    lines = ["id,path,label,speaker,session,video,start,end,crop"]
    lines += [f"{i},{video},neu,s,1,{video},{start},{end},{crop}" for i, video, start, end, crop in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


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


@pytest.mark.parametrize("workers", ["0", "2"])
def test_each_video_is_opened_once(corpus, tmp_path, tiny_clip, monkeypatch, workers):
    log, original = tmp_path / "opened", av.open
    log.touch()

    def note(path, *args, **kwargs):
        with log.open("a") as file:  # decoding may be in another process
            file.write(f"{Path(path).name}\n")
        return original(path, *args, **kwargs)

    monkeypatch.setattr("features.decoding.av.open", note)
    argv = ["--manifest", corpus, "--clip_model", tiny_clip, "--out", str(tmp_path / "f"), "--num_workers", workers]
    main([*argv, "--batch_size", "5"])
    assert Counter(log.read_text().split()) == {"0.avi": 1, "1.avi": 1}
    main(argv)
    assert Counter(log.read_text().split()) == {"0.avi": 1, "1.avi": 1}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_worker_processes_change_no_byte(corpus, tmp_path, tiny_clip, workers):
    argv = ["--manifest", corpus, "--clip_model", tiny_clip, "--batch_size", "1"]
    main([*argv, "--out", str(tmp_path / "without"), "--num_workers", "0"])
    main([*argv, "--out", str(tmp_path / "with"), "--num_workers", workers])
    names = sorted(path.name for path in (tmp_path / "without").iterdir())
    assert names == ["a.npy", "b.npy", "c.npy", "d.npy", "features.json"]
    for name in names:
        assert (tmp_path / "without" / name).read_bytes() == (tmp_path / "with" / name).read_bytes()


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
    for name, age in ((".b.npy.part", 3600), (".b.npy.1234.part", 3600), (".d.npy.1234.part", 0)):
        (tmp_path / "f" / name).write_bytes(b"cut short")
        os.utime(tmp_path / "f" / name, (time.time() - age,) * 2)
    times = {name: path.stat().st_mtime_ns for name, path in files.items() if name != "b.npy"}
    main(argv)
    np.testing.assert_allclose(np.load(files["b.npy"]), expected, rtol=1e-4, atol=1e-4)
    assert {name: files[name].stat().st_mtime_ns for name in times} == times
    hidden = [path.name for path in (tmp_path / "f").glob(".*")]
    assert hidden == [".d.npy.1234.part"], "another job may be writing the one that is new"


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


def test_a_folder_of_before_there_were_other_encoders_goes_on_with_clip_alone(corpus, tmp_path, tiny_clip, capsys):
    argv = ["--manifest", corpus, "--clip_model", tiny_clip, "--out", str(tmp_path / "f")]
    main(argv)
    record = tmp_path / "f" / "features.json"
    content = json.loads(record.read_text())
    assert content["model_type"] == "clip"
    record.write_text(json.dumps({key: value for key, value in content.items() if key not in ("model_type", "face")}))
    (tmp_path / "f" / "b.npy").unlink()
    main(argv)
    assert (tmp_path / "f" / "b.npy").is_file()
    record.write_text(json.dumps(content | {"model_type": "dinov2"}))
    with pytest.raises(SystemExit):
        main(argv)
    assert "model_type is 'dinov2', asked for 'clip'" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "2"])
def test_bad_videos_are_named_and_the_others_kept(corpus, tmp_path, tiny_clip, capsys, workers):
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
        main(["--manifest", corpus, "--clip_model", tiny_clip, "--out", str(tmp_path / "f"), "--num_workers", workers])
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "Traceback" not in message
    assert all(line.startswith("error: ") for line in message.splitlines() if ".avi" in line or ".wav" in line)
    assert "broken.avi: cannot be decoded as video" in message
    assert "sound.wav: has no picture stream" in message
    assert "z: no frame between start 50.0000 and end 51.0000" in message
    assert sorted(path.stem for path in (tmp_path / "f").glob("*.npy")) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "300:100"], "--rows 300:100: expected"),
        (["--batch_size", "0"], "--batch_size 0: must be at least 1"),
        (["--num_workers", "-1"], "--num_workers -1: must be 0 or more"),
        (["--image_model", "no/such/folder"], "--image_model no/such/folder: cannot be loaded"),
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


@pytest.mark.parametrize("workers", ["0", "2"])
def test_packets_that_do_not_decode_are_counted_and_the_rest_kept(corpus, tmp_path, tiny_clip, caplog, workers):
    path = tmp_path / "video" / "1.avi"
    content = path.read_bytes()
    chunks = [i for i in range(len(content)) if content.startswith(b"00dc", i)]
    start, end = chunks[6] + 8, chunks[7]
    path.write_bytes(content[:start] + bytes(end - start) + content[end:])
    with caplog.at_level(logging.WARNING, "foalnet"):
        main(["--manifest", corpus, "--clip_model", tiny_clip, "--out", str(tmp_path / "f"), "--num_workers", workers])
    assert f"{path}: 1 packets do not decode and were left out" in caplog.messages
    assert len(np.load(tmp_path / "f" / "d.npy")) == 11


def test_ctrl_c_ends_the_workers_without_a_word_of_theirs(tmp_path, tiny_clip):
    video, rows = write_video(tmp_path / "video.avi", counting_pictures(50) * 40), []
    for k in range(300):
        os.link(video, tmp_path / f"{k}.avi")
        rows.append((f"u{k}", tmp_path / f"{k}.avi", "", "", "full"))
    argv = ["--manifest", write_manifest(tmp_path / "manifest.csv", rows), "--clip_model", tiny_clip, "--cpu"]
    argv += ["--out", str(tmp_path / "f"), "--num_workers", "2", "--frame_stride", "1000"]  # nearly all is decoding
    run = [sys.executable, "-m", "scripts.extract_clip", *argv]
    process = subprocess.Popen(run, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    workers = []
    while not workers and process.poll() is None:
        time.sleep(0.1)
        workers = psutil.Process(process.pid).children()
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # the terminal sends it to every process
    _, message = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130)
    assert message.count("Traceback") <= 1, message
    assert "_worker_loop" not in message
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]


def test_the_command_is_found_by_its_path(tmp_path):
    run = [sys.executable, str(ROOT / "scripts" / "extract_clip.py"), "--manifest", "nowhere.csv", "--out", "f"]
    result = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert "error: nowhere.csv: no such file" in result.stderr


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ends_far_past_the_video_are_cut_and_named_in_one_line(corpus, tmp_path, tiny_clip, caplog, workers):
    rows = [("far", 0.1, 1000), ("near", 0.2, 0.7), ("whole", "", ""), ("inside", 0.1, 0.2)]
    rows = [(name, tmp_path / "video" / "0.avi", start, end, "full") for name, start, end in rows]
    rows.append(("further", tmp_path / "video" / "1.avi", 0.2, 5, "full"))
    manifest = write_manifest(tmp_path / "past.csv", rows)
    argv = ["--manifest", manifest, "--clip_model", tiny_clip, "--num_workers", workers]
    main([*argv, "--out", str(tmp_path / "all")])
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"{manifest}: 2 utterances end past their video" in warning
    assert warning.endswith(": far (1000.00 of 0.37 s), further (5.00 of 0.37 s)")
    assert len(np.load(tmp_path / "all" / "far.npy")) == 9
    caplog.clear()
    main([*argv, "--out", str(tmp_path / "first"), "--max_frames", "3"])
    assert not [record for record in caplog.records if record.levelname == "WARNING"], "nothing of these is missing"
