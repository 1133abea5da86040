"""The face of each clip of a video, followed through it: found in few reduced frames ahead of the cropping.

A video is decoded twice: here, where a handful of small pictures wait for the detector, and again for the encoder with
the tracks known. So the memory does not grow with the length of a clip, and the choice between several faces, the
smoothing and the bridging of gaps look at all of it. What a clip gets depends on nothing but its own frames.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from features.face_detector import describe_detector, detect_faces
from features.preparing import find_part
from features.reading import read_frames
from running.errors import InputError

BATCH = 8  # pictures through the detector at a time
REACH = 1.0  # sides of a face that it moves at most from one sighting to the next
GROWTH = 2.0  # factor by which its side changes at most


@dataclass(frozen=True)
class FaceSettings:
    """How faces are found and cropped; kept in features.json.

    Attributes:
        detector: of `describe_detector`. edge: pixels of the longer side of the picture that it sees.
        per_second: how often it looks. hold: seconds without a sighting that are bridged.
        margin: side of the square that is cut out, in sides of the face.
        max_frames: of the extraction: frames of a clip among which it looks, the first; 0 = all.
    """

    detector: str = field(default_factory=describe_detector)
    edge: int = 192
    per_second: int = 6
    hold: float = 0.5
    margin: float = 1.4
    max_frames: int = 0


def read_face_settings(record):
    """The FaceSettings that features.json kept. Raises: InputError where another detector, or none, is installed."""
    found = describe_detector()
    if record["detector"] != found:
        raise InputError(f"faces were found by {record['detector']}; installed is {found}: make faces")
    return FaceSettings(**record)


class FaceTrack:
    """Where a clip's face is at any time.

    Args:
        sightings: list of (seconds, x and y of the centre, side), in order of time, pixels of the part of the picture.
        moments: list of all times at which the detector looked, seconds.
        settings: FaceSettings.
    """

    def __init__(self, sightings, moments, settings):
        sightings = np.array(sightings)
        self.times, self.squares = sightings[:, 0], sightings[:, 1:]
        self.moments, self.settings = np.array(moments), settings
        gaps = np.flatnonzero(np.diff(self.times) > settings.hold) + 1
        runs = zip(np.split(self.times, gaps), np.split(self.squares, gaps), strict=True)
        self.squares = np.concatenate([_smooth(*run) for run in runs])

    def find_square(self, seconds):
        """(x, y of the centre, side with margin) in pixels at a time, or None where the face is not to be seen.

        It is there while the nearest look found it, and between two sightings that are no more than `hold` apart.
        """
        nearest = self.moments[np.abs(self.moments - seconds).argmin()]
        after = np.searchsorted(self.times, seconds)
        bridged = 0 < after < len(self.times) and self.times[after] - self.times[after - 1] <= self.settings.hold
        if nearest not in self.times and not bridged:
            return None
        x, y, side = (float(np.interp(seconds, self.times, values)) for values in self.squares.T)
        return x, y, side * self.settings.margin


def _smooth(times, squares):
    """(n,), (n, 3) -> (n, 3): each row half its own and half what its neighbours say of its time, the side twice."""
    before, after = times[:-2], times[2:]
    share = ((times[1:-1] - before) / (after - before))[:, None]

    def blur(values):
        middle = 0.5 * values[1:-1] + 0.5 * ((1 - share) * values[:-2] + share * values[2:])
        return np.concatenate([values[:1], middle, values[-1:]])

    if len(times) < 3:
        return squares
    squares = blur(squares)
    return np.column_stack([squares[:, :2], blur(squares[:, 2:])])


def choose_track(looks, settings):
    """One person for a whole clip: of all faces that were followed, the one that fills most of the clip.

    Args: looks: list of (seconds, boxes as of `detect_faces` in pixels of the part of the picture), in order of time.
    Returns: FaceTrack, or None where no face was found. The sum of side times score over the sightings decides.
    """
    tracks = link_faces(looks)
    if not tracks:
        return None
    best = max(tracks, key=lambda track: sum(side * score for *_, side, score in track))
    return FaceTrack([sighting[:4] for sighting in best], [seconds for seconds, _ in looks], settings)


def link_faces(looks):
    """Put the faces of several looks together by nearness and size; a track may miss any number of looks.

    Args: as of `choose_track`. Returns: list of tracks, lists of (seconds, x, y, side, score).
    """
    tracks = []
    for seconds, boxes in looks:
        faces = [
            (seconds, (left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top), score)
            for left, top, right, bottom, score in boxes.tolist()
        ]
        pairs = [(_distance(track[-1], face), i, j) for i, track in enumerate(tracks) for j, face in enumerate(faces)]
        taken, placed = set(), set()
        for distance, i, j in sorted(pairs):
            if distance <= REACH and i not in taken and j not in placed:
                tracks[i].append(faces[j])
                taken.add(i)
                placed.add(j)
        tracks += [[face] for j, face in enumerate(faces) if j not in placed]
    return tracks


def _distance(one, other):
    """Between the centres of two faces, in sides; infinite for faces too different in size."""
    (_, x, y, side, _), (_, other_x, other_y, other_side, _) = one, other
    if max(side, other_side) > GROWTH * min(side, other_side):
        return math.inf
    return math.hypot(x - other_x, y - other_y) / ((side + other_side) / 2)


@dataclass
class Look:
    """A reduced picture for the detector, whose it is, and how its pixels become those of the part of the picture."""

    pixels: np.ndarray
    seconds: float
    clips: list
    scale: tuple  # x, y
    origin: tuple  # of the part, in pixels of the reduced and of the whole picture: ((x, y), (x, y))

    def place(self, boxes):
        """Boxes in the reduced part -> boxes in the part."""
        (small_x, small_y), (x, y) = self.origin
        small, whole = np.array([small_x, small_y] * 2), np.array([x, y] * 2)
        return np.column_stack([(boxes[:, :4] + small) / np.array([*self.scale] * 2) - whole, boxes[:, 4]])


def follow_faces(path, clips, rows, settings, span=math.inf, threads=1):
    """Leave in every clip of a video the `track` of its face, None where it has none.

    Args:
        path: the video file. clips: list of Clip. rows: of FramePreparer. settings: FaceSettings.
        span: seconds of a clip that are used. threads: of the decoder.
    """
    looks, pending = defaultdict(list), defaultdict(list)

    def detect(waiting):
        for look, boxes in zip(waiting, detect_faces([look.pixels for look in waiting]), strict=True):
            for clip in look.clips:
                looks[clip.utt_id].append((look.seconds, look.place(boxes)))

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
        for look in _take_looks(read_frames(container, stream), clips, rows, settings, span):
            waiting = pending[look.pixels.shape]
            waiting.append(look)
            if len(waiting) == BATCH:
                detect(waiting)
                waiting.clear()
    for waiting in filter(None, pending.values()):
        detect(waiting)
    for clip in clips:
        clip.track = choose_track(sorted(looks[clip.utt_id], key=lambda look: look[0]), settings)


def _take_looks(frames, clips, rows, settings, span):
    """Yield the Looks of the clips: at the first frame of each, and at every frame that begins a new tick of the clock.

    The clock is that of the video, so clips that overlap share their looks, and which clips are there changes none.
    """
    waiting, active, last, to_rgb = sorted(clips, key=lambda clip: -clip.start), [], None, VideoReformatter()
    for seconds, frame in frames:
        if seconds is None:
            continue
        tick, first = math.floor((seconds + 1e-4) * settings.per_second), []
        while waiting and waiting[-1].start <= seconds:
            first.append(waiting.pop())
        active = [clip for clip in active + first if seconds < min(clip.end, max(clip.start, 0.0) + span)]
        looking = defaultdict(list)
        for clip in active:
            if tick != last or clip in first:
                looking[clip.crop].append(clip)
        last = tick
        for crop, owners in looking.items():
            yield _reduce(frame, seconds, owners, rows, crop, settings.edge, to_rgb)
        if not waiting and not active:
            return


def _reduce(frame, seconds, clips, rows, crop, edge, to_rgb):
    """The Look at a frame, its part of rows and crop made so small that no side is longer than `edge`."""
    turns = round(frame.rotation / 90)
    width, height = (frame.width, frame.height) if turns % 2 == 0 else (frame.height, frame.width)
    top, bottom, left, right = find_part(height, width, rows, crop)
    share = min(1.0, edge / max(bottom - top, right - left))
    size = [max(1, round(side * share)) for side in (frame.width, frame.height)]
    small = np.rot90(to_rgb.reformat(frame, *size, format="rgb24", threads=1).to_ndarray(), turns)
    scale = small.shape[1] / width, small.shape[0] / height
    x, y = round(left * scale[0]), round(top * scale[1])
    part = small[y : max(y + 1, round(bottom * scale[1])), x : max(x + 1, round(right * scale[0]))]
    return Look(part, seconds, clips, scale, ((x, y), (left, top)))
