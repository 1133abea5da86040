"""The page's examples: short clips that a browser plays, cut from what a corpus holds."""

import logging
from pathlib import Path

import av
import gradio as gr
import numpy as np
import soundfile as sf

from dataloader import SAMPLE_RATE, read_audio
from features.reading import read_frames
from inference.loading import probe_file
from inference.sources import find_sources
from running.errors import InputError

logger = logging.getLogger("foalnet")

EXAMPLES = 4  # clips offered of a manifest or folder
LONGEST = 30.0  # seconds of an example


def make_examples(word, predictor, folder):
    """Short clips that a browser plays, cut from a few sources; one that can't be read is warned of and left out.

    Args:
        word: manifest, folder, or whatever `find_sources` takes. predictor: FoalPredictor.
        folder: where to write them.
    Returns: (paths of videos, paths of sounds).
    Raises: InputError where there is no source.
    """
    gr.set_static_paths([folder])  # served as they are; gradio's copies of sounds would be deleted with the uploads
    sources, _ = find_sources([word])
    places = np.linspace(0, len(sources) - 1, min(EXAMPLES, len(sources))).astype(int)
    videos, sounds = [], []
    for source in [sources[place] for place in places]:
        stem = Path(folder, Path(source.name).stem)
        try:
            sound = read_sound(source)
            if sound is not None and len(sounds) < EXAMPLES // 2:
                sf.write(f"{stem}.wav", sound, SAMPLE_RATE)
                sounds.append(f"{stem}.wav")
            if "v" in predictor.modality and (size := probe_file(source.picture).size):
                cut_video(source, sound, *predictor.assumptions.apply(source, size), f"{stem}.mp4")
                videos.append(f"{stem}.mp4")
        except (InputError, OSError, av.FFmpegError) as error:
            logger.warning(f"no example of {source.name}: {error}")
    return videos, sounds


def read_sound(source):
    """(n,) float32 at 16 kHz, of LONGEST seconds at most; None for a source without sound."""
    if probe_file(source.path).sound is None:
        return None
    start, seconds = source.span
    return read_audio(source.path, min(seconds or LONGEST, LONGEST), start)


def cut_video(source, sound, rows, crop, path):
    """Write the part of a picture that the model is given, with its sound, as H.264 and FLAC in an mp4.

    Args: source: Source. sound: of `read_sound`. rows, crop: of Assumptions.apply. path: the mp4.
    """
    end = min(source.end or np.inf, source.start + LONGEST)
    with av.open(source.picture) as container, av.open(path, "w") as out:
        stream = container.streams.video[0]
        rate = stream.average_rate or 25
        picture = None
        track = out.add_stream("flac", SAMPLE_RATE, layout="mono") if sound is not None else None
        for time, frame in read_frames(container, stream):
            if time is None or time < source.start:
                continue
            if time >= end:
                break
            pixels = crop_picture(turn_upright(frame), rows, crop)
            if picture is None:
                picture = out.add_stream("libx264", rate, options={"crf": "18"})
                picture.height, picture.width, picture.pix_fmt = *pixels.shape[:2], "yuv420p"
            out.mux(picture.encode(av.VideoFrame.from_ndarray(pixels)))
        if picture is not None:
            out.mux(picture.encode())
        if track is not None:
            samples = (np.clip(sound, -1, 1) * 32767).astype(np.int16)[None]
            chunk = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            chunk.sample_rate = SAMPLE_RATE
            out.mux(track.encode(chunk))
            out.mux([packet for packet in track.encode() if packet.size])  # the last is a header of FLAC alone


def crop_picture(picture, rows, crop):
    """(height, width, 3) -> its rows and half, of even height and width."""
    picture = picture[slice(*rows)] if rows else picture
    half = picture.shape[1] // 2
    picture = {"left": picture[:, :half], "right": picture[:, half:], "full": picture}[crop]
    return np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])


def turn_upright(frame):
    """An av.VideoFrame as (height, width, 3) uint8, turned as a telephone says."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
