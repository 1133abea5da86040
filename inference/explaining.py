"""What stands behind an answer: the sound and frames that the model got, and what its streams attended to.

Sources and Predictions -> Loader once more -> FoalNet.attend on each window -> Explanation -> inference/pictures.py
"""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from dataloader import SAMPLE_RATE, read_audio
from encoders import FRAME_RATE
from features.decoding import Clip, Frame, VideoReport, cut_clips, find_share
from inference.answers import Prediction
from inference.loading import probe_file
from inference.predictor import make_source
from running.errors import InputError

SHOWN = 8  # frames of a source


@dataclass
class Explanation:
    """What there is to show of a source.

    Attributes:
        prediction: Prediction.
        samples: (n,) float32 at 16 kHz, up to the end of the last window; None where the model got no sound.
        frames: list of (seconds since the source's start, (size, size, 3) uint8) as CLIP sees them, rising in time.
        attention: {"audio": (times, values), "video": (times, values)}, (n,) float64 arrays, a value for each step of
            the stream: what it receives by `attend_segment`, the mean over the windows that hold it, NaN where none
            does; times in seconds. None where no window has both streams.
    """

    prediction: Prediction
    samples: np.ndarray | None = None
    frames: list = field(default_factory=list)
    attention: dict | None = None


@dataclass
class Sampled:
    """Frames of a source as Explanation has them, frames a second of its video if known; or why it has none."""

    rate: float | None = None
    frames: list = field(default_factory=list)
    error: str | None = None


def explain(predictor, source):
    """Answer for a source, and explain the answer.

    Args:
        predictor: FoalPredictor. source: one of those that its `predict` takes.
    Returns: Explanation.
    Raises: InputError that names a source which can't be answered.
    """
    source = make_source(source)
    (give,) = prepare_explanations(predictor, [source], predictor.predict(source))
    return give()


def prepare_explanations(predictor, sources, predictions):
    """Load sources that were answered once more; of each video that several are cut from, every pass serves them all.

    Args:
        predictor: FoalPredictor. sources: list of Source. predictions: list of Prediction, parallel, none in error.
    Returns: list of functions, parallel, that give an Explanation or raise InputError.
    """
    both = [i for i, p in enumerate(predictions) if any(window.streams == "av" for window in p.windows)]
    loaded = dict(zip(both, predictor.loader.load([sources[i] for i in both]), strict=True))
    sampled = sample_frames(predictor, sources, predictions)
    return [
        partial(_explain, predictor, source, prediction, sampled[i], loaded.get(i))
        for i, (source, prediction) in enumerate(zip(sources, predictions, strict=True))
    ]


def _explain(predictor, source, prediction, sampled, loaded):
    if error := sampled.error or (loaded and loaded.error):
        raise InputError(error)
    samples = _read_sound(source, prediction) if "a" in prediction.streams else None
    attention = None
    if loaded is not None:
        attention = average_attention(predictor, loaded.segments, sampled.rate)
    return Explanation(prediction, samples, sampled.frames, attention)


def _read_sound(source, prediction):
    """The sound as far as the windows reach, with what lies between them."""
    end = prediction.windows[-1].end
    if source.samples is not None:
        return source.samples[: round(end * SAMPLE_RATE)]
    return read_audio(source.path, end, source.span[0])


def sample_frames(predictor, sources, predictions):
    """Frames of sources as CLIP sees them, one from the middle of each of SHOWN equal parts of a source.

    Every such moment is a clip of one frame, so no others are kept of a video, however long it is.

    Args: as of `prepare_explanations`.
    Returns: list of Sampled, parallel; without frames where the model got none or stored features of them.
    """
    sampled, videos, moments = [Sampled() for _ in sources], defaultdict(list), {}
    for i, (source, prediction) in enumerate(zip(sources, predictions, strict=True)):
        if "v" not in prediction.streams or source.features is not None:
            continue
        try:
            size = probe_file(source.picture).size
        except InputError as error:  # it was there when it was answered
            sampled[i].error = str(error)
            continue
        rows, crop = predictor.assumptions.apply(source, size)
        part = prediction.windows[-1].end / SHOWN
        for k in range(SHOWN):
            name, seconds = f"{i} {k}", (k + 0.5) * part
            videos[source.picture, rows].append(Clip(name, source.start + seconds, source.start + seconds + part, crop))
            moments[name] = sampled[i], seconds
    for (path, rows), clips in videos.items():
        for item in cut_clips(path, clips, predictor.find_encoder(rows)[1], max_frames=1, faces=predictor.find_faces()):
            if isinstance(item, Frame):
                for owner, seconds in map(moments.get, item.utt_ids):
                    owner.frames.append((seconds, item.pixels))
            elif isinstance(item, VideoReport):
                for owner, _ in (moments[clip.utt_id] for clip in clips):
                    owner.rate = item.rate
    return sampled


def average_attention(predictor, segments, rate):
    """The attention of an Explanation out of the segments of its source; None where none has both streams.

    Args: predictor: FoalPredictor. segments: list of Segment. rate: frames a second of the video, None: not known.
    """
    segments = [segment for segment in segments if segment.streams == "av"]
    if not segments:
        return None
    received = [attend_segment(predictor, segment) for segment in segments]
    steps = {
        "audio": 1 / FRAME_RATE,
        "video": find_frame_step(predictor.preprocessing.clip or {}, rate) or _spread_frames(segments[0]),
    }
    starts = [segment.start for segment in segments]
    return {
        name: average_windows(list(zip(starts, (r[name] for r in received), strict=True)), step)
        for name, step in steps.items()
    }


def _spread_frames(segment):
    return (segment.end - segment.start) / len(segment.features)


def find_frame_step(clip, rate):
    """Seconds from one video feature to the next, None where nothing tells.

    Args: clip: dict of Preprocessing. rate: frames a second of the video, or None.
    """
    wanted = clip.get("frame_rate")
    kept = rate * find_share(rate, wanted) if rate else wanted
    return (clip.get("frame_stride") or 1) / kept if kept else None


@torch.inference_mode()
def attend_segment(predictor, segment):
    """How much attention each step of a segment receives from the other stream: sound by v2a, picture by a2v.

    It is the mean over the steps that ask, over layers and heads, times the number of steps that are asked: 1 is what
    each would get of attention that is spread evenly, and their mean is 1.

    Args: predictor: FoalPredictor. segment: Segment with both streams.
    Returns: {"audio": (Ta,), "video": (Tv,)}, float32 arrays.
    """
    model, inputs, received = predictor.model, predictor.collate([segment]), {}
    with predictor.autocast():
        if model.encoder is None:
            audio = model.take_features(inputs["audio_features"], inputs["audio_mask"])
        else:
            audio = model.encode_audio(inputs["input_values"], samples=inputs["samples"])
        video = model.take_features(inputs["video_features"], inputs["video_mask"])
        for name, layers, asking, asked in (("audio", model.v2a, video, audio), ("video", model.a2v, audio, video)):
            weights = model.attend(layers, asking[0], *asked)[0].float()  # (T, T'), of which a GPU pads some
            weights = weights[asking[1][0]][:, asked[1][0]]
            received[name] = (weights.mean(0) * weights.shape[1]).cpu().numpy()
    return received


def average_windows(windows, step):
    """Windows laid on one another.

    Args:
        windows: list of (seconds of its start, (n,) values). step: seconds from one value to the next.
    Returns: times (m,), the middles of the steps from 0 s on, and values (m,), the mean over the windows that hold a
        step, NaN where none does.
    """
    places = [round(start / step) + np.arange(len(values)) for start, values in windows]
    total, count = np.zeros((2, 1 + max(place[-1] for place in places)))
    for place, (_, values) in zip(places, windows, strict=True):
        total[place] += values
        count[place] += 1
    means = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return (np.arange(len(total)) + 0.5) * step, means
