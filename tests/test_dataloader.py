"""dataloader.py: lists, sounds, features, padding and samplers, and a named error for everything that can be wrong."""

import gc
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf
import torch
from scipy.stats import chisquare

from dataloader import (
    SAMPLE_RATE,
    BalancedBatchSampler,
    EvaluationBatchSampler,
    FoalDataset,
    Utterance,
    build_dataloaders,
    check_utterances,
    collate,
    normalize_waveform,
    parse_label_map,
    read_audio,
    read_duration,
    read_features,
    read_scp,
)
from running.errors import InputError


def make_tone(seconds, rate, frequency=440.0, channels=1):
    wave = 0.4 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    return wave if channels == 1 else np.stack([wave * (1 - 0.5 * c) for c in range(channels)], 1)


def write_mp4(path, wave, rate, channels=1, picture=True):
    """An mp4 as phones write it: AAC sound, and a few frames of picture."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=rate, layout="mono" if channels == 1 else "stereo")
        if picture:
            video = container.add_stream("mpeg4", rate=30)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
            for i in range(round(len(wave) / rate * 30)):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), i % 256, np.uint8), format="rgb24")
                container.mux(video.encode(frame))
            container.mux(video.encode())
        planes = np.repeat(np.asarray(wave, np.float32)[None], channels, 0)
        for start in range(0, planes.shape[1], 1024):
            part = np.ascontiguousarray(planes[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono" if channels == 1 else "stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def find_frequency(samples):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return spectrum.argmax() * SAMPLE_RATE / len(samples)


def write_list(folder, text, encoding="utf-8"):
    path = folder / "list.scp"
    path.write_bytes(text.encode(encoding))
    return path


# scp lists


@pytest.mark.parametrize("text", ["a x/1.wav hap\nb y/2.wav ang\n", "a\tx/1.wav\thap\r\nb\ty/2.wav\tang"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n  \n\r\n\t\n"])
def test_read_scp_reads_ids_paths_and_label_indices(tmp_path, text, start):
    assert read_scp(write_list(tmp_path, start + text)) == [Utterance("a", "x/1.wav", 0), Utterance("b", "y/2.wav", 3)]


@pytest.mark.parametrize("line", ["a {} sad", "a\t{}\tsad", "a\t{} sad", "a {}\tsad", "  a   {}   sad  "])
@pytest.mark.parametrize("path", ["/data/my clips/b c.wav", "/données/мой файл é.wav", "C:\\x y\\z.wav"])
def test_read_scp_takes_any_whitespace_between_and_spaces_in_paths(tmp_path, line, path):
    assert read_scp(write_list(tmp_path, line.format(path) + "\n")) == [Utterance("a", path, 2)]


def test_read_scp_names_every_bad_line_at_once(tmp_path):
    path = write_list(tmp_path, "a 1.wav hap\nb 2.wav\n\nc\na 4.wav neu\nd 5.wav sad\nx/y 6.wav sad\n")
    with pytest.raises(InputError) as caught:
        read_scp(path)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["line 2", "line 4", "line 5", "line 7"]
    assert all(str(path) in line for line in lines)
    assert "'b 2.wav'" in lines[0]
    assert "'a'" in lines[2]
    assert "line 1" in lines[2]


def test_read_scp_names_every_unknown_label_and_the_allowed_ones(tmp_path):
    path = write_list(tmp_path, "a 1.wav fru\nb 2.wav hap\nc 3.wav Neu\n")
    with pytest.raises(InputError) as caught:
        read_scp(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "line 1" in lines[0]
    assert "'fru'" in lines[0]
    assert "line 3" in lines[1]
    assert "'Neu'" in lines[1]
    assert all("hap neu sad ang" in line for line in lines)


def test_read_scp_merges_by_label_map_and_takes_other_labels(tmp_path):
    path = write_list(tmp_path, "a 1.wav exc\nb 2.wav hap\nc 3.wav fru\n")
    merged = read_scp(path, ["fru", "hap"], parse_label_map("exc=hap"))
    assert [utterance.label for utterance in merged] == [1, 1, 0]


@pytest.mark.parametrize("text", ["exc", "exc=", "=hap", "a=b=c"])
def test_parse_label_map_refuses_what_is_no_pair(text):
    with pytest.raises(InputError, match="old=new"):
        parse_label_map(text)


@pytest.mark.parametrize("content", [None, b"", b"\n \n", "a 1.wav hap é".encode("latin-1")])
def test_read_scp_refuses_a_missing_an_empty_and_a_foreign_file(tmp_path, content):
    path = tmp_path / "list.scp"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="list.scp"):
        read_scp(path)


# sounds


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "mp4"])
def test_read_audio_gives_16_khz_mono_of_any_container(tmp_path, suffix, rate, channels):
    path = tmp_path / f"tone.{suffix}"
    if suffix == "mp4":
        write_mp4(path, make_tone(1.0, rate), rate, channels)
    else:
        sf.write(path, make_tone(1.0, rate, channels=channels), rate)
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert len(samples) == pytest.approx(SAMPLE_RATE, abs=0.15 * SAMPLE_RATE if suffix in ("mp3", "mp4") else 2)
    middle = samples[4000:12000]
    assert find_frequency(middle) == pytest.approx(440, abs=3)
    level = 0.4 * (0.75 if channels == 2 and suffix != "mp4" else 1.0) / np.sqrt(2)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(level, rel=0.1)
    assert read_duration(path) == pytest.approx(len(samples) / SAMPLE_RATE, abs=0.1)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("suffix", ["wav", "mp4"])
def test_a_partial_read_is_the_cut_of_the_full_read(tmp_path, suffix, rate):
    wave = np.random.default_rng(0).normal(size=2 * rate) * 0.1
    path = tmp_path / f"noise.{suffix}"
    if suffix == "mp4":
        write_mp4(path, wave, rate, picture=False)
    else:
        sf.write(path, wave, rate)
    part = read_audio(path, 0.731)
    assert len(part) == round(0.731 * SAMPLE_RATE)
    np.testing.assert_allclose(part, read_audio(path)[: len(part)], atol=1e-6)


@pytest.mark.parametrize("suffix", ["wav", "mp4"])
def test_only_the_first_seconds_are_read(tmp_path, suffix):
    path, wave = tmp_path / f"long.{suffix}", make_tone(30, 16000)
    if suffix == "mp4":
        write_mp4(path, wave, 16000, picture=False)
    else:
        sf.write(path, wave, 16000)
    tracemalloc.start()
    read_audio(path, 0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * 30 * 16000 * 4  # bytes


@pytest.mark.parametrize("name", ["missing.wav", "text.wav", "empty.wav", "silent.mp4", "folder", "noise.raw"])
def test_an_unreadable_sound_is_named(tmp_path, name):
    path = tmp_path / name
    if name == "silent.mp4":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=30)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
            container.mux(stream.encode())
    elif name == "folder":
        path.mkdir()
    elif name != "missing.wav":
        path.write_bytes({"text.wav": b"no sound", "empty.wav": b"", "noise.raw": bytes(1000)}[name])
    with pytest.raises(InputError, match=name):
        read_duration(path)
    with pytest.raises(InputError, match=name):
        read_audio(path)


def test_normalize_waveform_gives_zero_mean_and_unit_variance():
    wave = np.random.default_rng(0).normal(3, 0.2, 5000).astype(np.float32)
    normal = normalize_waveform(wave)
    assert normal.mean() == pytest.approx(0, abs=1e-4)
    assert normal.std() == pytest.approx(1, abs=1e-3)
    assert np.isfinite(normalize_waveform(np.zeros(400, np.float32))).all()


# features and the scan before training


@pytest.fixture
def corpus(tmp_path):
    """Three utterances a, b, c with half a second of sound and features of dim 6 in tmp_path/features."""
    (tmp_path / "features").mkdir()
    utterances = []
    for i, name in enumerate("abc"):
        sf.write(tmp_path / f"{name}.wav", make_tone(0.5, 16000), 16000)
        np.save(tmp_path / "features" / f"{name}.npy", np.full((4 + i, 6), i, np.float32))
        utterances.append(Utterance(name, str(tmp_path / f"{name}.wav"), i))
    return utterances


def check(corpus, tmp_path, **options):
    return check_utterances(corpus, video_root=tmp_path / "features", progress=False, **options)


@pytest.mark.parametrize("layout", ["{}.npy", "Session{i}/{}.npy", "session0{i}/{}.npy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_features_are_found_in_the_three_layouts(corpus, tmp_path, layout, dtype):
    for i, utterance in enumerate(corpus, start=1):
        path = tmp_path / "root" / layout.format(utterance.utt_id, i=i)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((200, 6), i, dtype))
    checked, dim = check_utterances(corpus, video_root=tmp_path / "root", progress=False)
    assert dim == {"video": 6}
    items = [FoalDataset(checked, max_frames=180)[i] for i in range(3)]
    assert [item["video_features"].shape for item in items] == [(180, 6)] * 3
    assert [float(item["video_features"][0, 0]) for item in items] == [1, 2, 3]
    batch = collate(items)
    assert batch["video_features"].dtype == torch.float32


def test_features_are_mapped_not_read(corpus, tmp_path):
    assert isinstance(read_features(tmp_path / "features" / "a.npy", 2), np.memmap)


def save_zip(path):
    with open(path, "wb") as file:
        np.savez(file, np.zeros((3, 6), np.float32))


SPOILT = {
    "missing": lambda path: path.unlink(),
    "no rows": lambda path: np.save(path, np.zeros((0, 6), np.float32)),
    "no columns": lambda path: np.save(path, np.zeros((3, 0), np.float32)),
    "empty file": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("1 2 3"),
    "NaN": lambda path: np.save(path, np.array([[1, 2, 3, 4, 5, 6], [1, np.nan, 3, 4, 5, 6]], np.float32)),
    "infinity": lambda path: np.save(path, np.full((2, 6), np.inf, np.float16)),
    "one dimension": lambda path: np.save(path, np.zeros(6, np.float32)),
    "three dimensions": lambda path: np.save(path, np.zeros((2, 3, 6), np.float32)),
    "double": lambda path: np.save(path, np.zeros((3, 6))),
    "integer": lambda path: np.save(path, np.zeros((3, 6), np.int32)),
    "pickled": lambda path: np.save(path, np.array([[{}] * 6], object), allow_pickle=True),
    "archive": save_zip,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "other dim": lambda path: np.save(path, np.zeros((3, 7), np.float32)),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_bad_feature_file_is_named_before_training(corpus, tmp_path, fault):
    SPOILT[fault](tmp_path / "features" / "b.npy")
    with pytest.raises(InputError) as caught:
        check(corpus, tmp_path)
    assert "b.npy" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_all_bad_files_are_named_at_once(corpus, tmp_path):
    (tmp_path / "a.wav").unlink()
    sf.write(tmp_path / "c.wav", make_tone(0.02, 16000), 16000)
    SPOILT["NaN"](tmp_path / "features" / "a.npy")
    SPOILT["missing"](tmp_path / "features" / "b.npy")
    with pytest.raises(InputError) as caught:
        check(corpus, tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for line, words in zip(
        lines, [["a.wav"], ["a.npy", "row 1"], ["b.npy"], ["c.wav", "20.0 ms", "25 ms"]], strict=True
    ):
        assert all(word in line for word in words)


def test_a_long_list_of_errors_is_cut_but_counted(corpus, tmp_path):
    with pytest.raises(InputError, match="and 280 more"):
        check([Utterance(str(i), corpus[0].path, 0) for i in range(300)], tmp_path)


def test_two_feature_files_of_one_utterance_are_refused(corpus, tmp_path):
    (tmp_path / "features" / "Session1").mkdir()
    np.save(tmp_path / "features" / "Session1" / "a.npy", np.zeros((3, 6), np.float32))
    (tmp_path / "features" / "._a.npy").write_bytes(b"\0")  # what macOS leaves
    with pytest.raises(InputError) as caught:
        check(corpus, tmp_path)
    assert "features/a.npy" in str(caught.value)
    assert "Session1/a.npy" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_feature_folder_names_the_flag(corpus, tmp_path):
    with pytest.raises(InputError, match="--video_root"):
        check_utterances(corpus, video_root=tmp_path / "nowhere", progress=False)


def test_the_files_of_an_unused_stream_are_not_needed(corpus, tmp_path):
    checked, dim = check_utterances(corpus, "a", tmp_path / "nowhere", progress=False)
    assert dim == {}
    assert set(FoalDataset(checked, "a")[0]) == {"utt_id", "label", "input_values"}
    for utterance in corpus:
        (tmp_path / f"{utterance.utt_id}.wav").unlink()
    checked, dim = check(corpus, tmp_path, modality="v")
    assert dim == {"video": 6}
    assert set(FoalDataset(checked, "v")[0]) == {"utt_id", "label", "video_features"}


def test_a_sound_with_nan_is_named(corpus, tmp_path):
    samples = np.zeros(8000, np.float32)
    samples[77] = np.nan
    sf.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    dataset = FoalDataset([Utterance("nan", str(tmp_path / "nan.wav"), 0)], modality="a")
    with pytest.raises(InputError, match=r"nan\.wav: holds NaN or infinity"):
        dataset[0]


def test_a_sound_that_decodes_to_less_than_its_header_says_is_named(corpus, tmp_path):
    checked, _ = check(corpus, tmp_path)
    sf.write(tmp_path / "a.wav", make_tone(0.02, 16000), 16000)  # changed since the scan
    with pytest.raises(InputError, match=r"a\.wav.*25 ms"):
        FoalDataset(checked)[0]


# batches


def test_the_dataset_cuts_and_the_collator_pads_to_the_longest(corpus, tmp_path):
    sf.write(tmp_path / "b.wav", make_tone(0.3, 44100, channels=2), 44100)
    checked, _ = check(corpus, tmp_path)
    dataset = FoalDataset(checked, max_length=0.4, max_frames=5)
    batch = collate([dataset[i] for i in range(3)])
    assert batch["utt_ids"] == ["a", "b", "c"]
    assert batch["labels"].tolist() == [0, 1, 2]
    assert batch["attention_mask"].sum(1).tolist() == [6400, 4800, 6400]
    assert batch["video_mask"].sum(1).tolist() == [4, 5, 5]
    assert batch["input_values"].shape == batch["attention_mask"].shape == (3, 6400)
    assert batch["video_features"].shape == (3, 5, 6)
    for values, mask in (("input_values", "attention_mask"), ("video_features", "video_mask")):
        assert batch[mask].dtype == torch.bool
        assert not batch[values][~batch[mask]].any()
    for i in range(3):
        valid = batch["input_values"][i][batch["attention_mask"][i]]
        np.testing.assert_array_equal(valid, dataset[i]["input_values"])
        assert (batch["video_features"][i][batch["video_mask"][i]] == i).all()


def test_normalize_audio_acts_on_the_used_part(corpus, tmp_path):
    checked, _ = check(corpus, tmp_path)
    plain, normal = (FoalDataset(checked, max_length=0.1, normalize_audio=n)[0]["input_values"] for n in (False, True))
    np.testing.assert_allclose(normal, normalize_waveform(plain))
    assert len(normal) == 1600
    assert abs(plain.std() - 1) > 0.5


# samplers


CLASSES = np.repeat([0, 1, 2, 3], [50, 30, 9, 8])  # 97


def draw(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_the_balanced_draw_is_a_function_of_seed_and_epoch():
    first, again = BalancedBatchSampler(CLASSES, 8, seed=1), BalancedBatchSampler(CLASSES, 8, seed=1)
    for _ in range(3):
        draw(first, 7)
    torch.manual_seed(5)
    np.random.seed(5)
    assert draw(first, 3) == draw(again, 3)
    assert draw(first, 3) != draw(first, 4)
    assert draw(first, 3) != draw(BalancedBatchSampler(CLASSES, 8, seed=2), 3)
    assert sum(map(len, draw(first, 3))) == len(CLASSES)
    assert draw(BalancedBatchSampler(CLASSES, 8, seed=1), 4) != draw(BalancedBatchSampler(CLASSES, 8, seed=2), 3)


def test_the_balanced_draw_weighs_classes_and_their_members_equally():
    sampler = BalancedBatchSampler(CLASSES, 16, seed=0)
    drawn = np.concatenate([np.concatenate(draw(sampler, epoch)) for epoch in range(300)])
    assert chisquare(np.bincount(CLASSES[drawn])).pvalue > 1e-3
    for label in range(4):
        members = Counter(drawn[CLASSES[drawn] == label])
        assert chisquare([members[i] for i in np.flatnonzero(label == CLASSES)]).pvalue > 1e-3


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("size", [82, 97, 99])
def test_the_batches_of_n_processes_are_those_of_one_with_a_batch_n_times_as_large(size, world_size):
    labels = np.arange(size) % 4
    one = draw(BalancedBatchSampler(labels, 8 * world_size, seed=3), 2)
    each = [draw(BalancedBatchSampler(labels, 8, 3, rank, world_size), 2) for rank in range(world_size)]
    assert len({len(batches) for batches in each}) == 1
    rest = size % (8 * world_size)
    assert len(each[0]) == len(one) - (0 < rest < world_size)
    sampler = BalancedBatchSampler(labels, 8, 3, 0, world_size)
    for k, parts in enumerate(zip(*each, strict=True)):
        assert sorted(sum(parts, [])) == sorted(one[k])
        assert all(1 <= len(part) <= 8 for part in parts)
        assert sampler.global_sizes[k] == len(one[k])


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 82, 97, 99])
def test_evaluation_takes_each_utterance_once(size, world_size):
    durations = np.random.default_rng(0).uniform(0.5, 6, size)
    samplers = [EvaluationBatchSampler(durations, 8, rank, world_size) for rank in range(world_size)]
    drawn = [i for sampler in samplers for batch in sampler for i in batch]
    assert sorted(drawn) == list(range(size))
    assert sum(map(len, samplers)) == sum(1 for sampler in samplers for _ in sampler)
    assert max(map(len, samplers)) - min(map(len, samplers)) <= 1


LEFT_OPEN = """
import sys
from dataloader import Utterance, build_dataloaders, check_utterances
checked, _ = check_utterances([Utterance("a", sys.argv[1], 0)], modality="a", progress=False)
KEPT = iter(build_dataloaders(checked, {}, 1, 0, num_workers=1, modality="a")[0])
next(KEPT)
"""


def test_a_program_ends_with_a_loader_in_hand(corpus):
    """Its workers ignore the signal that multiprocessing ends them with, and waits."""
    words = [sys.executable, "-c", LEFT_OPEN, corpus[0].path]
    done = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_loaders_deliver_every_utterance(corpus, tmp_path, num_workers):
    checked, _ = check(corpus, tmp_path)
    state = torch.get_rng_state()
    train, evaluation = build_dataloaders(checked, {"valid": checked}, 2, 0, num_workers)
    assert sorted(utt_id for batch in evaluation["valid"] for utt_id in batch["utt_ids"]) == ["a", "b", "c"]
    assert sum(len(batch["utt_ids"]) for batch in train) == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_headers_may_be_read_by_many_threads(tmp_path):
    """Python 3.11 counts the depth of its parser for all threads together; a pause inside of it makes the sum wrong."""
    paths = [tmp_path / f"{i}.npy" for i in range(20)]
    for path in paths:
        np.save(path, np.ones((3, 4), np.float32))

    def pause(*_):
        time.sleep(1e-4)  # lets another thread in, wherever the collector happens to run

    threshold = gc.get_threshold()
    gc.callbacks.append(pause)
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda path: read_features(path).shape, paths * 50)) == {(3, 4)}
    finally:
        gc.callbacks.remove(pause)
        gc.set_threshold(*threshold)
