"""One video, decoded once from front to back -> the prepared frames of every utterance in it.

An utterance gets the frames whose presentation time lies in [start, end), in order. Times are seconds from the start of
the container, so that sound and picture agree. A frame wanted by two utterances with the same crop is prepared once.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from features.face_tracks import follow_faces
from features.reading import read_frames
from running.errors import InputError

RATE_TOLERANCE = 1.02  # 30 frames a second pass for 29.97
TOLERANCE = 0.5  # seconds that an end may lie behind the last frame without a word


@dataclass
class Clip:
    """One utterance in a video: where it lies, and how many of its frames went by and were kept."""

    utt_id: str
    start: float  # seconds, -inf for the start of the file
    end: float  # seconds, inf for the end of the file
    crop: str
    seen: int = 0
    kept: int = 0
    finished: bool = False
    track: object = None  # FaceTrack
    faces: int | None = None  # kept frames that are cropped to a face; None: no face is looked for

    def __post_init__(self):
        self.start, self.end = round(self.start, 6), round(self.end, 6)  # as read_frames does

    def wants(self, stride, share):
        """Whether the next frame is one of every `stride` of those that thinning to a share of all leaves."""
        place = math.floor(self.seen * share)
        return (self.seen == 0 or place > math.floor((self.seen - 1) * share)) and place % stride == 0


@dataclass
class Frame:
    """A prepared picture, (size, size, 3) uint8, and the utterances that it belongs to."""

    pixels: np.ndarray
    utt_ids: list


@dataclass
class Finished:
    """No further frame of this utterance will come. Attributes: kept, faces: of the Clip."""

    utt_id: str
    kept: int = 0
    faces: int | None = None


@dataclass
class VideoReport:
    """What is to be said of a video after its last frame."""

    path: str
    rate: float | None = None  # frames a second
    size: tuple | None = None  # width, height of the picture
    last: float | None = None  # seconds of the last frame that was decoded
    damaged: int = 0  # packets that do not decode
    past: list = field(default_factory=list)  # the Clips that are cut at the end of the video
    problems: list = field(default_factory=list)


def cut_clips(path, clips, prepare, frame_stride=1, max_frames=0, threads=1, frame_rate=None, faces=None):
    """Decode one video and give every frame to the clips that hold it.

    Args:
        path: the video file.
        clips: the Clips to cut from it; their counters are filled in.
        prepare: FramePreparer.
        frame_stride: keep the frames 0, N, 2N, ... of each clip.
        max_frames: stop a clip after that many kept frames; 0 = all.
        threads: threads of the decoder.
        frame_rate: frames a second that a faster video is thinned to, before the stride; None: all.
        faces: FaceSettings, to crop each frame to the clip's face where it is to be seen, or None. The video is then
            decoded once more, ahead.
    Yields: Frame and, once a clip has all it gets, Finished; at last one VideoReport.
    """
    report = VideoReport(path)
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise InputError(f"{path}: has no picture stream")
            stream = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
            report.rate = float(stream.average_rate) if stream.average_rate else None
            report.size = (stream.width, stream.height)
            _check_rows(path, prepare.rows, stream.height)
            thinning = frame_stride, find_share(report.rate, frame_rate)
            if faces is not None:
                frames = faces.max_frames * frame_stride if report.rate and faces.max_frames else math.inf
                span = frames / (report.rate or 1.0) / thinning[1]
                follow_faces(path, clips, prepare.rows, faces, span, threads)
                for clip in clips:
                    clip.faces = 0
            yield from _give_frames(read_frames(container, stream), clips, prepare, thinning, max_frames, report)
    except (OSError, av.FFmpegError) as error:
        report.problems.append(f"{path}: cannot be decoded as video: {error}")
    except InputError as error:
        report.problems.append(str(error))
    if report.last is not None:
        ends = report.last + TOLERANCE
        report.past = [clip for clip in clips if clip.kept and not clip.finished and ends < clip.end < math.inf]
    yield from _finish([clip for clip in clips if not clip.finished])
    if not report.problems:
        where = "holds no frame" if report.last is None else f"ends at {report.last:.2f} s"
        report.problems = [
            f"{clip.utt_id}: no frame between start {clip.start:.4f} and end {clip.end:.4f}: {path} {where}"
            for clip in clips
            if not clip.kept
        ]
    yield report


def find_share(rate, wanted):
    """The share of a video's frames that is wanted of it; small differences of the rates are let be.

    Args:
        rate: frames a second of the video. wanted: at most; either may be None, not known.
    """
    return 1.0 if not rate or not wanted or rate <= RATE_TOLERANCE * wanted else wanted / rate


def _check_rows(path, rows, height):
    if rows and rows[1] > height:
        raise InputError(f"{path}: --rows {rows[0]}:{rows[1]} but the picture has {height} rows")


def _give_frames(frames, clips, prepare, thinning, max_frames, report):
    """Yield what the clips get of the decoded frames, until none waits for more."""
    waiting, active, to_rgb = sorted(clips, key=lambda clip: clip.start, reverse=True), [], VideoReformatter()
    for seconds, frame in frames:
        if seconds is None:
            report.damaged += 1
            continue
        report.last = seconds
        while waiting and waiting[-1].start <= seconds:
            active.append(waiting.pop())
        ended = [clip for clip in active if seconds >= clip.end]
        yield from _prepare_frame(seconds, frame, [c for c in active if c not in ended], prepare, thinning, to_rgb)
        ended += [clip for clip in active if max_frames and clip.kept >= max_frames]
        active = [clip for clip in active if clip not in ended]
        yield from _finish(ended)
        if not waiting and not active:
            return


def _prepare_frame(seconds, frame, clips, prepare, thinning, to_rgb):
    """Yield one Frame per part of the picture that the clips want of this frame, and count."""
    wanted = defaultdict(list)
    for clip in clips:
        if clip.wants(*thinning):
            square = clip.track.find_square(seconds) if clip.track else None
            wanted[(clip.crop,) if square is None else (clip.crop, square)].append(clip.utt_id)
            clip.kept += 1
            clip.faces = clip.faces if square is None else clip.faces + 1
        clip.seen += 1
    if wanted:
        picture = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
        picture = np.rot90(picture, round(frame.rotation / 90))  # a telephone says which side is up
        for part, utt_ids in wanted.items():
            yield Frame(prepare(picture, *part), utt_ids)


def _finish(clips):
    for clip in clips:
        clip.finished = True
        if clip.kept:
            yield Finished(clip.utt_id, clip.kept, clip.faces)
