"""Java-SED, video part: ten actors speak four Javanese sentences, on video.

    <root>/.../01-02-06_01.mp4     speaker-sentence-emotion_take; 01 neutral, 02 sad, 03 happy, 06 angry

Speakers n and n + 5 are session n. 160 clips of the four classes, 16 a speaker. Clips of other emotions are dropped.

Source: https://github.com/2black0/video-emotion-recognition-javanese.
"""

import re
from itertools import product

from corpus.preparing import Clip, Corpus, Release
from corpus.release_files import index_media, list_files

EMOTIONS = {"neutral": "neu", "sad": "sad", "happy": "hap", "angry": "ang"}
NUMBERS = {"neutral": 1, "sad": 2, "happy": 3, "angry": 6}
NAME = re.compile(r"\d\d-\d\d-(\d\d)_\d\d", re.ASCII)


def read_javased(root):
    """The published utterances with their files.

    Args: root: folder of the release.
    Returns: Release.
    Raises: InputError when there is no such folder.
    """
    index, strays = index_media(list_files(root, (".mp4",)))
    clips, ignored = [], []
    for speaker, sentence, emotion in product(range(1, 11), range(1, 5), EMOTIONS):
        name = f"{speaker:02d}-{sentence:02d}-{NUMBERS[emotion]:02d}_01"
        path = index.pop(name, {}).get(".mp4")
        columns = {"session": f"session{(speaker - 1) % 5 + 1}", "sentence": f"{sentence:02d}"}
        clips.append(Clip(name, emotion, f"{speaker:02d}", path, columns, "" if path else f"{name}.mp4"))
    for name, place in index.items():
        match = NAME.fullmatch(name)
        if match and int(match.group(1)) not in NUMBERS.values():
            ignored.append((place[".mp4"], f"emotion {match.group(1)} is not one of the four"))
        else:
            strays.append((place[".mp4"], "not a clip of Java-SED"))
    return Release(clips, strays, ignored)


JAVASED = Corpus("javased", read_javased, EMOTIONS)
