"""RAVDESS: 24 actors speak and sing two sentences in eight emotions, on video.

    <root>/.../Actor_01/01-01-06-01-02-01-01.mp4     modality-channel-emotion-intensity-sentence-repetition-actor

The name says it all, so the folders don't count. Modality 01 is sound with picture: those files are used, for both
streams. 02 (no sound) and 03 (no picture) are the same recordings again; they are counted in the log, not listed.
Actors with an odd number are male. Speech alone is the default, as in most publications; song has no disgust and no
surprise, and actor 18 did not sing. There are no sessions: six groups of four actors, two of each sex.

The four-class view merges calm into neutral: both were recorded as states without emotion, and neutral, which has no
strong version, has only half as many clips as the others.

Source: Livingstone and Russo, PLoS ONE 13(5), 2018; https://zenodo.org/record/1188976.
"""

import logging
import re
from itertools import product

from corpus.preparing import Clip, Corpus, Release
from corpus.release_files import list_files

logger = logging.getLogger("foalnet")

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
SUNG = EMOTIONS[:6]
WITHOUT_SONG = 18  # actor
NAME = re.compile(r"0[123]-0[12]-\d\d-\d\d-\d\d-\d\d-\d\d", re.ASCII)


def read_ravdess(root, song=False):
    """The published utterances with their files.

    Args: root: folder of the release. song: use the sung clips as well.
    Returns: Release.
    Raises: InputError when there is no such folder.
    """
    clips = {clip.id: clip for clip in (*list_clips(1, EMOTIONS), *list_clips(2, SUNG))}
    strays, others = [], 0
    for path in list_files(root):
        clip = clips.get(path.stem)
        if clip is None and NAME.fullmatch(path.stem) and f"01{path.stem[2:]}" in clips:
            others += 1
        elif clip is None or path.suffix.lower() != ".mp4":
            strays.append((path, "not a file of RAVDESS"))
        elif clip.path is not None:
            strays.append((path, f"the same name as {clip.path}"))
        else:
            clip.path, clip.missing = path, ""
    if others:
        logger.info("%d files without sound or without picture are not used", others)
    for clip in clips.values():  # sung ones stay in the list: the groups of actors are the same with and without them
        clip.fault = "song; --song uses it" if clip.columns["channel"] == "song" and not song else ""
    return Release(list(clips.values()), strays)


def list_clips(channel, emotions):
    """The published utterances of a channel.

    Args: channel: 1 speech, 2 song. emotions: those of the channel.
    Returns: iterator of Clip, each without its file as yet.
    """
    for actor, emotion, intensity, sentence, take in product(range(1, 25), emotions, (1, 2), (1, 2), (1, 2)):
        if (channel == 2 and actor == WITHOUT_SONG) or (emotion == "neutral" and intensity == 2):
            continue
        number = EMOTIONS.index(emotion) + 1
        name = f"01-{channel:02d}-{number:02d}-{intensity:02d}-{sentence:02d}-{take:02d}-{actor:02d}"
        columns = {
            "gender": "M" if actor % 2 else "F",
            "channel": "song" if channel == 2 else "speech",
            "intensity": "strong" if intensity == 2 else "normal",
            "sentence": f"{sentence}",
            "repetition": f"{take}",
        }
        yield Clip(name, emotion, f"{actor:02d}", None, columns, f"Actor_{actor:02d}/{name}.mp4")


RAVDESS = Corpus(
    "ravdess",
    read_ravdess,
    dict(zip(EMOTIONS, ("neu", "cal", "hap", "sad", "ang", "fea", "dis", "sur"), strict=True)),
    label_map={"cal": "neu"},
    groups=6,
)
