"""Sources -> segments with the very inputs that training saw: waveform and CLIP features.

What was remembered of the training corpus is assumed of new files as far as it can hold: see `Assumptions`.
"""

import logging
import math
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np
import soundfile as sf
from av.stream import Disposition

from corpus.contents import SILENCE
from dataloader import MIN_SAMPLES, SAMPLE_RATE, STREAMS, UNREADABLE, find_cut, read_audio, read_features
from features.decoding import Clip
from features.extraction import encode_frames
from features.loading import build_frame_loader
from features.store import FeatureCollector
from inference.segments import cut_source
from running.errors import InputError

logger = logging.getLogger("foalnet")

LONGER = 0.5  # seconds that a picture may outlast its sound and still ends with it
SHORT = 0.25  # seconds that a sound may end before its header says so without a word


@dataclass(frozen=True)
class Assumptions:
    """How pictures are taken where a source does not say; each is said once, in `explain`.

    Attributes: rows, crop: as a user asked for, or None. clip: dict of Preprocessing.
    """

    clip: dict
    rows: tuple | None = None
    crop: str | None = None

    def apply(self, source, size):
        """(rows, crop) for a picture of a size (width, height).

        What the corpus had is taken where the picture is of the corpus' size, else all of it.
        """
        alike = self.clip.get("picture_size") in (None, list(size))
        crops, rows = self.clip.get("crop") or ["full"], self.clip.get("rows")
        crop = self.crop or source.crop or (crops[0] if alike and len(crops) == 1 else "full")
        return self.rows or (tuple(rows) if rows and alike else None), crop

    def explain(self):
        """What is assumed, a sentence, or None where the corpus' pictures were taken as they were."""
        rows, crops, size = self.clip.get("rows"), self.clip.get("crop") or ["full"], self.clip.get("picture_size")
        if not rows and crops == ["full"]:
            return None
        of_size = f" of {size[0]}x{size[1]}" if size else ""
        trained = f"{' or '.join(crops)} picture" + (f", rows {rows[0]}:{rows[1]}" if rows else "")
        taken = [f"rows {':'.join(map(str, self.rows))}" if self.rows else "the same rows of such videos" * bool(rows)]
        taken += [f"the {self.crop} picture" if self.crop else "the full width" * (len(crops) > 1)]
        return (
            f"the model was trained on the {trained} of videos{of_size}; "
            f"taken here: {' and '.join(filter(None, taken)) or 'the same of such videos'}, all of others; "
            "--rows and --crop say otherwise"
        )


@dataclass
class Segment:
    """A part of a source, as long as the model takes.

    Attributes: start, end: seconds since the source's start. samples: (n,) float32, features: (frames, dim), or None.
        faces: frames that show a face, None: none was looked for.
    """

    start: float
    end: float
    samples: np.ndarray | None = None
    features: np.ndarray | None = None
    faces: int | None = None

    @property
    def streams(self):
        return "a" * (self.samples is not None) + "v" * (self.features is not None)


@dataclass
class Loaded:
    """A source that is ready for the model, or why it is not."""

    source: object
    segments: list = field(default_factory=list)
    error: str | None = None
    notes: list = field(default_factory=list)  # what is missing of it, ends of sentences


@dataclass
class Streams:
    """What a file holds: seconds of sound and of picture, None where there is none; the picture's width and height.

    Attributes: promised: whether the header itself says how long the sound is.
    """

    sound: float | None
    picture: float | None
    size: tuple | None = None
    promised: bool = True


def probe_file(path):
    """Look at a file's streams. Raises: InputError that names a file which is none of sound or video."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        with sf.SoundFile(path) as file:
            return Streams(file.frames / file.samplerate, None)
    except UNREADABLE:
        pass
    try:
        with av.open(str(path)) as container:
            sounds = [stream for stream in container.streams.audio if stream.codec_context is not None]
            covers = Disposition.attached_pic
            pictures = [stream for stream in container.streams.video if not stream.disposition & covers]
            if not sounds and not pictures:
                raise InputError(f"{path}: holds neither sound nor picture")
            lengths = _find_lengths(container, [streams[0] if streams else None for streams in (sounds, pictures)])
            size = (pictures[0].width, pictures[0].height) if pictures else None
            return Streams(*lengths, size, bool(sounds and sounds[0].duration))
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path}: no sound or video that libsndfile or FFmpeg can read: {reason}") from error


def _find_lengths(container, streams):
    """Seconds of some streams (None for None) by the header; a recording of a browser has none, and is read through."""
    lengths = [stream and stream.duration and float(stream.duration * stream.time_base) for stream in streams]
    if container.duration:
        return [
            stream and (length or container.duration / av.time_base)
            for stream, length in zip(streams, lengths, strict=True)
        ]
    ends = [0.0 for _ in streams]
    for packet in container.demux([stream for stream in streams if stream is not None]):
        if packet.pts is not None:
            i = streams.index(packet.stream)
            ends[i] = max(ends[i], float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return [stream and (length or end) for stream, length, end in zip(streams, lengths, ends, strict=True)]


def _check_start(name, start, seconds):
    if start >= seconds:
        what = f"start {start:g} is not before its end at {seconds:.2f} s" if start else "lasts 0 seconds"
        raise InputError(f"{name}: {what}")


class Loader:
    """Loads sources as a model wants them.

    Args:
        modality, video_dim: of the model. preprocessing: Preprocessing. assumptions: Assumptions.
        encoder: function of picture rows or None that gives (PictureEncoder, FramePreparer).
        find_faces: function that gives FaceSettings, or None where no faces are wanted.
        way, overlap: of `cut_source`. frames_batch: frames through CLIP at a time. num_workers: that decode videos.
    """

    def __init__(
        self,
        modality,
        video_dim,
        preprocessing,
        assumptions,
        encoder,
        find_faces,
        way="windows",
        overlap=0.5,
        frames_batch=64,
        num_workers=0,
    ):
        self.modality, self.preprocessing, self.assumptions = modality, preprocessing, assumptions
        self.video_dim = video_dim
        self.encoder, self.find_faces, self.way, self.overlap = encoder, find_faces, way, overlap
        self.frames_batch, self.num_workers = frames_batch, num_workers
        self.assumed = False  # whether a picture was taken as Assumptions says and nobody else
        self.frames, self.frames_with_face = 0, 0  # that faces were looked for in

    def load(self, sources):
        """Sources -> list of Loaded, parallel. What is wrong with one is in its `error`, and stops no other."""
        with ThreadPoolExecutor(4) as pool:
            prepared = list(pool.map(self._prepare, sources))
        if "v" in self.modality:
            self._add_pictures([(loaded, streams) for loaded, streams in prepared if streams and streams.picture])
        for loaded, _ in prepared:
            self._judge(loaded)
        return [loaded for loaded, _ in prepared]

    def _prepare(self, source):
        """A Loaded with its sound, cut into segments, and the Streams of its picture or None."""
        loaded = Loaded(source)
        try:
            streams = self._look(source)
            samples = self._read_sound(loaded, streams) if "a" in self.modality and streams.sound is not None else None
            seconds = self._span(source, streams, samples)
            cutting = self.preprocessing.max_length, self.way, self.overlap
            loaded.segments = [Segment(*part) for part in cut_source(seconds, *cutting, samples)]
            if samples is not None:
                if np.abs(samples).max() < SILENCE:
                    loaded.notes.append("is silent")
                for segment in loaded.segments:
                    segment.samples = self._cut_sound(samples, segment)
            self._add_features(loaded)
            return loaded, streams
        except UnicodeError:
            loaded.error = f"{source.name}: the name of this file is no UTF-8"
        except InputError as error:
            loaded.error = str(error)
        return loaded, None

    def _look(self, source):
        if source.samples is not None:
            return Streams(len(source.samples) / SAMPLE_RATE, None)
        streams = probe_file(source.path)
        if source.video not in (None, source.path) and "v" in self.modality:
            picture = probe_file(source.video)
            return replace(streams, picture=picture.picture, size=picture.size)
        return streams

    def _span(self, source, streams, samples):
        """Seconds of a source: its sound's, or its picture's where that is longer or all there is."""
        sound = None if samples is None else len(samples) / SAMPLE_RATE
        if not streams.picture or "v" not in self.modality:
            if sound is None and streams.sound is None:
                raise InputError(f"{source.name}: has no {'sound' if streams.picture else 'picture that has a length'}")
            return streams.sound - source.span[0] if sound is None else sound
        if sound is None:
            _check_start(source.name, source.start, streams.picture)
        ends = streams.picture if source.end is None else min(source.end, streams.picture)
        picture = ends - source.start
        return picture if sound is None or picture > sound + LONGER else sound

    def _read_sound(self, loaded, streams):
        """(n,) float32, what is used of a source's sound; notes where there is less than its header promises."""
        source = loaded.source
        if source.samples is not None:
            samples = source.samples
        else:
            start, seconds = source.span
            _check_start(source.name, start, streams.sound)
            asked = streams.sound - start if seconds is None else seconds
            if self.way == "first":
                asked = min(asked, self.preprocessing.max_length)
            samples = read_audio(source.path, None if seconds is None and self.way != "first" else asked, start)
            if (streams.promised and len(samples) / SAMPLE_RATE < asked - SHORT) or find_cut(source.path):
                loaded.notes.append(f"ends at {start + len(samples) / SAMPLE_RATE:.2f} s, sooner than it should")
        if len(samples) < MIN_SAMPLES:
            raise InputError(f"{source.name}: {len(samples)} samples of sound; at least 25 ms are needed")
        if not np.isfinite(samples).all():
            raise InputError(f"{source.name}: its sound holds NaN or infinity")
        return samples

    def _cut_sound(self, samples, segment):
        first = round(segment.start * SAMPLE_RATE)
        count = round(min(segment.end - segment.start, self.preprocessing.max_length) * SAMPLE_RATE)
        part = samples[first : first + count]
        return part if len(part) >= MIN_SAMPLES else None  # the picture goes on behind it

    def _add_features(self, loaded):
        """Take stored features of a source that is one segment, as training did."""
        path = loaded.source.features
        if path is None or "v" not in self.modality:
            return
        if len(loaded.segments) > 1:
            raise InputError(f"{loaded.source.name}: is cut into {len(loaded.segments)} parts, but {path} is of one")
        features = np.asarray(read_features(path, self.preprocessing.max_frames), np.float32)
        if features.shape[1] != self.video_dim or not np.isfinite(features).all():
            what = f"{features.shape[1]} numbers a frame, the model takes {self.video_dim}"
            raise InputError(f"{path}: {what if features.shape[1] != self.video_dim else 'holds NaN or infinity'}")
        loaded.segments[0].features = features

    def _add_pictures(self, prepared):
        """Decode the videos of several sources once, and give every segment its CLIP features."""
        videos, owners, failed = defaultdict(lambda: defaultdict(list)), {}, {}
        for loaded, streams in prepared:
            if loaded.source.features is not None:
                continue
            source = loaded.source
            rows, crop = self.assumptions.apply(source, streams.size)
            if rows and rows[1] > streams.size[1]:
                loaded.error = f"{source.name}: --rows {rows[0]}:{rows[1]} but the picture has {streams.size[1]} rows"
                continue
            self.assumed |= source.crop is None and self.assumptions.explain() is not None
            for segment in loaded.segments:
                name, (start, end) = str(len(owners)), self._place(source, segment, len(loaded.segments))
                videos[rows][source.picture].append(Clip(name, start, end, crop))
                owners[name] = segment
        if videos:
            self.find_faces()  # what is missing for that stops everything
        for rows, paths in videos.items():
            try:
                found = self._encode(rows, paths, failed)
            except InputError as error:  # of CLIP itself: no fault of the picture, and no reason to do without
                found = {}
                for loaded, _ in prepared:
                    if loaded.source.picture in paths and loaded.error is None:
                        loaded.error = f"{loaded.source.name}: {error}"
            for name, (features, faces) in found.items():
                owners[name].features, owners[name].faces = features.astype(np.float32), faces
        for loaded, _ in prepared:
            if loaded.source.picture in failed and not any(s.features is not None for s in loaded.segments):
                loaded.notes.append(f"has no picture that can be used: {failed[loaded.source.picture]}")
            faces = [segment.faces for segment in loaded.segments if segment.faces is not None]
            if faces and not any(faces):
                loaded.notes.append("shows no face, so its picture is taken as it is")

    def _place(self, source, segment, parts):
        """Where a segment lies in the file of the picture; a source that is one segment is taken to its own end."""
        end = math.inf if source.end is None else source.end
        if parts > 1:
            end = min(end, source.start + segment.end)
        start = source.start + segment.start
        return (start if start else -math.inf), end

    def _encode(self, rows, paths, failed):
        """{clip name: (features, frames with a face or None)} of the clips in some videos.

        `failed` gets {path: what is wrong}.
        """
        encoder, prepare = self.encoder(rows)
        clip = self.assumptions.clip
        most = min(filter(None, (self.preprocessing.max_frames, clip.get("max_frames"))))
        options = {
            "frame_stride": clip.get("frame_stride") or 1,
            "max_frames": most,
            "frame_rate": clip.get("frame_rate"),
            "faces": self.find_faces(),
        }
        collector = FeatureCollector(np.dtype(clip.get("dtype") or "float32"))
        loader = build_frame_loader(list(paths.items()), prepare, self.num_workers, 4 * self.frames_batch, **options)
        for report in encode_frames(loader, encoder, collector, self.frames_batch):
            if report.problems:
                failed[report.path] = report.problems[0]
        for faces, frames in collector.faces.values():
            self.frames, self.frames_with_face = self.frames + frames, self.frames_with_face + faces
        return {name: (found, collector.faces.get(name, [None])[0]) for name, found in collector.features.items()}

    def explain_faces(self):
        """Where faces were looked for, a sentence, or None."""
        if not self.frames:
            return None
        return (
            f"the model was trained on faces, found by {self.find_faces().detector}; here {self.frames_with_face} of "
            f"{self.frames} frames show one, the others are taken as they are"
        )

    def _judge(self, loaded):
        """Leave an error where nothing is there that the model takes."""
        if loaded.error is None and not all(segment.streams for segment in loaded.segments):
            loaded.segments = [segment for segment in loaded.segments if segment.streams]
        if loaded.error is None and not loaded.segments:
            what = "has no " + " and no ".join(STREAMS[letter].word for letter in self.modality)
            loaded.error = "; ".join([f"{loaded.source.name}: {what}", *loaded.notes])
