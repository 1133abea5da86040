"""Which face a clip gets, and where it is between the looks of the detector."""

import math

import numpy as np
import pytest

from features.face_tracks import FaceSettings, choose_track
from features.preparing import cut_square, find_part

SETTINGS = FaceSettings("drawn")
TICK = 1 / SETTINGS.per_second


def box(x, y=100.0, side=40.0, score=0.9):
    return [x - 0.4 * side, y - side / 2, x + 0.4 * side, y + side / 2, score]


def look(*faces):
    return np.array(faces, np.float64).reshape(-1, 5)


def follow(*looks):
    """A track of looks that are a tick of the clock apart, the first at 0 s."""
    return choose_track([(k * TICK, boxes) for k, boxes in enumerate(looks)], SETTINGS)


def test_a_moving_face_is_in_the_middle_at_every_time():
    track = follow(*[look(box(100 + 12 * k, 80 + 3 * k)) for k in range(10)])
    for seconds in np.linspace(0, 9 * TICK, 29):
        x, y, side = track.find_square(seconds)
        assert (x, y) == pytest.approx((100 + 12 * seconds / TICK, 80 + 3 * seconds / TICK), abs=1e-6)
        assert side == pytest.approx(1.4 * 40)


def test_jitter_of_the_detector_is_smoothed():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3, 40)
    track = follow(*[look(box(100 + shift, side=40 + shift)) for shift in noise])
    squares = np.array([track.find_square(k * TICK) for k in range(40)])
    assert np.abs(np.diff(squares[:, 0])).mean() < 0.5 * np.abs(np.diff(noise)).mean()
    assert np.abs(np.diff(squares[:, 2] / 1.4)).mean() < 0.3 * np.abs(np.diff(noise)).mean()


def test_the_clip_keeps_to_the_face_that_fills_most_of_it():
    looks = [look(box(300, side=30), box(100 + 4 * k)) for k in range(8)]
    looks[3] = looks[3][::-1]
    looks[5] = look(box(300, side=30), box(200, side=90))  # a third one for a moment
    xs = [follow(*looks).find_square(k * TICK)[0] for k in range(8)]
    np.testing.assert_allclose(xs, 100 + 4 * np.arange(8), atol=1e-6)


def test_two_faces_that_pass_are_not_mixed_up():
    looks = [look(box(40 + 15 * k, 100, 40), box(250 - 15 * k, 160, 36)) for k in range(14)]
    ys = [follow(*looks).find_square(k * TICK)[1] for k in range(14)]
    np.testing.assert_allclose(ys, 100)


def test_of_two_faces_within_reach_each_goes_on_as_the_nearer_one():
    looks = [look(box(100 + 2 * k, 100), box(130 + 2 * k, 104, side=39)) for k in range(8)]
    looks[3::2] = [boxes[::-1] for boxes in looks[3::2]]  # which of them comes first is no help
    xs = [follow(*looks).find_square(k * TICK)[0] for k in range(8)]
    np.testing.assert_allclose(xs, 100 + 2 * np.arange(8), atol=1e-6)


@pytest.mark.parametrize(("missing", "bridged"), [(1, True), (2, True), (3, False), (6, False)])
def test_a_face_that_vanishes_is_bridged_for_half_a_second_and_found_again(missing, bridged):
    track = follow(*[look(box(100))] * 4, *[look()] * missing, *[look(box(110))] * 4)
    inside = track.find_square((3 + (missing + 1) / 2) * TICK)
    assert (inside is not None) == bridged
    assert track.find_square(3.4 * TICK) is not None  # nearest to a look that found it
    assert (track.find_square(3.6 * TICK) is not None) == bridged
    assert track.find_square((4 + missing) * TICK)[0] == pytest.approx(110, abs=6)


def test_before_the_first_and_behind_the_last_sighting_the_nearest_look_decides():
    track = follow(look(), *[look(box(100))] * 3, look())
    found = [track.find_square(k * TICK) is not None for k in (0, 0.4, 0.6, 1, 3, 3.4, 3.6, 4, 9)]
    assert found == [False, False, True, True, True, True, False, False, False]
    last = follow(look(box(100)), look(box(100)))
    assert last.find_square(1.9 * TICK) == last.find_square(TICK)  # frames behind the last look


def test_another_face_somewhere_else_or_of_another_size_is_not_the_same():
    for other in (box(200), box(100, side=100)):
        track = follow(*[look(box(100))] * 5, *[look()] * 4, *[look(other)] * 2)
        if other[2] - other[0] > 50:
            assert track.find_square(10 * TICK) is None
        else:
            assert track.find_square(9 * TICK) is None
        assert track.find_square(2 * TICK)[0] == pytest.approx(100)


def test_no_face_no_track():
    assert follow(look(), look()) is None
    assert choose_track([], SETTINGS) is None


def test_the_square_lies_inside_the_picture():
    picture = np.arange(60 * 90).reshape(60, 90)
    np.testing.assert_array_equal(cut_square(picture, 45, 30, 20), picture[20:40, 35:55])
    np.testing.assert_array_equal(cut_square(picture, 2, 58, 20), picture[40:60, 0:20])  # moved in
    np.testing.assert_array_equal(cut_square(picture, 80, 30, 500), picture[:, 30:90])  # no larger than the picture
    assert cut_square(picture, 5, 5, 0.2).shape == (1, 1)


def test_halves_and_rows_are_cut_ahead_of_the_square():
    assert find_part(480, 720, (112, 368), "left") == (112, 368, 0, 360)
    assert find_part(480, 721, None, "right") == (0, 480, 360, 721)
    assert math.prod(find_part(10, 10, None, "full")[1::2]) == 100
