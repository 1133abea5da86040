"""Frames decoded ahead: complete, in order, few at a time, from as many processes as asked for."""

import gc
import multiprocessing
import time
from collections import defaultdict
from itertools import chain

import numpy as np
import pytest
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from videos import counting_pictures, write_video

from features.decoding import Clip, Finished, Frame, VideoReport, cut_clips
from features.loading import CHUNK, build_frame_loader, share_videos
from features.preparing import FramePreparer

PREPARE = FramePreparer(CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}))


class CountingPreparer:
    """Leaves a byte in a file for every frame, in whatever process."""

    rows = None

    def __init__(self, path):
        self.path = path
        path.touch()

    def __call__(self, picture, crop):
        with self.path.open("ab") as file:
            file.write(b".")
        return picture


class FailingPreparer:
    rows = None

    def __call__(self, picture, crop):
        raise RuntimeError("boom")


@pytest.fixture
def make_videos(tmp_path):
    """Function of frame counts that gives (path, Clips) of as many videos, an utterance and the start of it in each."""

    def make(*counts):
        paths = [str(write_video(tmp_path / f"{k}.avi", (counting_pictures(50) * n)[:n])) for k, n in enumerate(counts)]
        ends = [("whole", np.inf), ("start", 0.5)]
        return [(path, [Clip(f"{path} {name}", 0.0, end, "full") for name, end in ends]) for path in paths]

    return make


def test_shares_hold_every_video_once_and_begin_with_the_longest():
    rng = np.random.default_rng(0)
    videos = {f"v{k}": [Clip(f"u{k}", 0.0, float(rng.uniform(1, 300)), "full")] for k in range(37)}
    shares = [share_videos(videos, index, 4) for index in range(4)]
    assert sorted(path for share in shares for path, _ in share) == sorted(videos)
    loads = [sum(clips[0].end for _, clips in share) for share in shares]
    assert max(loads) < 1.1 * min(loads)
    for share in shares:
        ends = [clips[0].end for _, clips in share]
        assert ends == sorted(ends, reverse=True)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_frames_of_an_utterance_come_complete_and_in_order(make_videos, workers):
    videos, expected, found = make_videos(40, 20, 33), defaultdict(list), defaultdict(list)
    for path, clips in make_videos(40, 20, 33):
        for frame in (item for item in cut_clips(path, clips, PREPARE) if isinstance(item, Frame)):
            for utt_id in frame.utt_ids:
                expected[utt_id].append(frame.pixels)
    finished, reports = set(), []
    chunks = list(build_frame_loader(videos, PREPARE, workers, max_waiting=64, cores=2))
    for item in chain.from_iterable(chunks):
        if isinstance(item, Frame):
            assert item.pixels.dtype == np.uint8
            assert not finished & set(item.utt_ids), "a frame behind the end of its utterance"
            for utt_id in item.utt_ids:
                found[utt_id].append(item.pixels)
        elif isinstance(item, Finished):
            finished.add(item.utt_id)
        else:
            assert isinstance(item, VideoReport)
            reports.append(item.path)
    assert finished == expected.keys() == found.keys()
    assert all(np.array_equal(found[utt_id], expected[utt_id]) for utt_id in expected)
    assert sorted(reports) == sorted(path for path, _ in videos), "a video was lost or decoded twice"
    assert max(map(len, chunks)) == CHUNK


def test_there_is_no_worker_without_a_video_or_a_core(make_videos):
    assert build_frame_loader(make_videos(3), PREPARE, 8, max_waiting=64, cores=4).num_workers == 1
    assert build_frame_loader(make_videos(3, 3, 3), PREPARE, 8, max_waiting=64, cores=2).num_workers == 2
    assert list(build_frame_loader([], PREPARE, 8, max_waiting=64)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_few_frames_wait(make_videos, tmp_path, workers):
    videos = make_videos(*[50 * 8 // workers] * workers)
    videos = [(path, clips[:1]) for path, clips in videos]
    log = tmp_path / "log"
    chunks = iter(build_frame_loader(videos, CountingPreparer(log), workers, max_waiting=64, cores=2))
    next(chunks)
    waiting, before = -1, time.monotonic()
    while waiting != log.stat().st_size or time.monotonic() < before + 1:
        waiting = log.stat().st_size
        time.sleep(0.3)
    assert 16 < waiting <= 16 + 64 + 16
    rest = sum(isinstance(item, Frame) for item in chain.from_iterable(chunks))
    assert 16 + rest == log.stat().st_size == 400


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_worker_stops_the_loader(make_videos, workers):
    with pytest.raises(RuntimeError, match="boom"):
        list(build_frame_loader(make_videos(3, 3), FailingPreparer(), workers, max_waiting=64, cores=2))


def test_leaving_the_loader_early_ends_its_processes(make_videos):
    before = set(multiprocessing.active_children())
    chunks = iter(build_frame_loader(make_videos(200, 200), PREPARE, 2, max_waiting=8, cores=2))
    next(chunks)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    del chunks
    gc.collect()
    assert not workers & set(multiprocessing.active_children())
