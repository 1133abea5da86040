"""Cutting a video: the right pixels of the right frames, once each."""

import struct
from collections import Counter
from fractions import Fraction

import av
import numpy as np
import pytest
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from videos import counting_pictures, read_numbers, write_video

from features.decoding import Clip, Finished, Frame, VideoReport, cut_clips
from features.preparing import FramePreparer


def cut(path, clips, rows=None, **options):
    """Cut with a preparer of 64 pixels; frames by utterance, and the report."""
    size = {"height": 64, "width": 64}
    prepare = FramePreparer(CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=size), rows)
    items = list(cut_clips(str(path), clips, prepare, **options))
    frames = {clip.utt_id: [f for f in items if isinstance(f, Frame) and clip.utt_id in f.utt_ids] for clip in clips}
    assert isinstance(items[-1], VideoReport)
    return frames, items


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


@pytest.mark.parametrize(("rate", "kept"), [(60, 60), (30, 60), (29, 58), (25, 50)])
def test_a_faster_video_is_thinned_to_the_frame_rate_of_the_training(tmp_path, rate, kept):
    """Two seconds of it: evenly, beginning with the first; a slower one is taken whole."""
    video = write_video(tmp_path / "a.avi", [np.full((64, 64, 3), 99, np.uint8)] * 2 * rate, rate=rate)
    frames, _ = cut(video, [Clip("a", 0.0, np.inf, "full")], frame_rate=30.0)
    assert len(frames["a"]) == kept
    clip = Clip("a", 0.0, 1.0, "full")
    wanted = []
    for clip.seen in range(120):
        if clip.wants(2, 0.5):
            wanted.append(clip.seen)
    assert wanted == list(range(0, 120, 4))  # every second of every second one


def test_a_video_is_turned_as_its_file_says(tmp_path):
    """As telephones write it: the pixels lie on their side, and the matrix in the header turns them clockwise."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, :48] = (255, 0, 0)  # the left half lies above once it is turned clockwise
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    content = path.read_bytes()
    start = content.index(upright, content.index(b"tkhd"))
    path.write_bytes(content[:start] + clockwise + content[start + len(upright) :])
    seen = []
    list(cut_clips(str(path), [Clip("a", -np.inf, np.inf, "full")], Recorder(seen)))
    assert seen[0].shape == (96, 64, 3)
    assert seen[0][:40, :, 0].mean() > 200
    assert seen[0][56:, :, 0].mean() < 50


class Recorder:
    """A FramePreparer that keeps the pictures that it is given."""

    rows = None

    def __init__(self, seen):
        self.seen = seen

    def __call__(self, picture, crop):
        self.seen.append(picture)
        return picture
