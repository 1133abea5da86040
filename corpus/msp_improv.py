"""MSP-IMPROV: six pairs of actors improvise around sentences whose emotion was set, on video.

    <root>/.../Evalution.txt                                         (the release's spelling; Evaluation.txt as well)
           .../Audio/session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav
           .../Video/session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.avi

A line of the table is `UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:2.8; V:3.1; D:3.0; N:...;`: the label that most raters
chose, then arousal, valence, dominance and naturalness. **S01A is sentence 01 acted as anger, not a session.** The
session is the number of the speaker (F01 and M01 are session 1); P is the scenario. Other lines, the votes of single
raters, are passed over. Labels other than A, H, S and N are dropped (O another emotion, X no agreement).

The sound is the wav, or that of the avi where a copy has no wav at all. The counts are from memory: where they differ
the run warns and goes on.

Source: Busso et al., IEEE Transactions on Affective Computing 8(1), 2017; the corpus is given out on request.
"""

import logging
import re

from corpus.preparing import Clip, Corpus, Release, compare_counts
from corpus.release_files import VIDEOS, find_one, index_media, list_files, pick, read_text
from running.errors import InputError, join_problems

logger = logging.getLogger("foalnet")

EMOTIONS = {"H": "hap", "N": "neu", "S": "sad", "A": "ang"}
FROM_MEMORY = {None: {"A": 792, "H": 2644, "N": 3477, "S": 885}}
FAULTS = {"O": "label O: another emotion", "X": "label X: no agreement of the raters"}
LINE = re.compile(r"(?:UTD|MSP)-IMPROV-(S(\d+)([AHNS])-([FM])(\d+)-(\w)-\w+)\.\w+\s*;\s*(\w+)\s*;(.*)", re.ASCII)
RATED = {"A": "arousal", "V": "valence", "D": "dominance"}


def read_msp_improv(root):
    """The utterances of the table with their files.

    Args: root: folder of the release.
    Returns: Release.
    Raises: InputError when there is no such folder, or no table, or lines of it can't be read.
    """
    index, strays = index_media(list_files(root, (".wav", *VIDEOS)))
    sound = any(".wav" in place for place in index.values())
    clips = read_lines(find_one(root, "Evalution.txt", "Evaluation.txt"))
    for clip in clips:
        place = index.pop(clip.id, {})
        video, wav = pick(place, VIDEOS), place.get(".wav")
        lacking = [] if video else [f"{clip.id}.avi"]
        lacking += [f"{clip.id}.wav"] if sound and not wav else []
        clip.path, clip.columns["video"], clip.missing = wav or video, video, " and ".join(lacking)
    strays += [(path, "no line in the table") for place in index.values() for path in place.values()]
    if differing := compare_counts(clips, FROM_MEMORY):
        logger.warning("the counts are not those that we remember:\n%s", "\n".join(differing))
    return Release(clips, strays)


def read_lines(path):
    """The utterances of the table.

    Args: path: the table.
    Returns: list of Clip, without their files as yet.
    Raises: InputError that names every bad line.
    """
    clips, problems = {}, []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        line = line.strip()
        if not re.match(r"(UTD|MSP)-IMPROV", line):
            continue
        match = LINE.fullmatch(line)
        if match is None:
            problems.append(f"{path}: line {number}: {line[:60]!r} is not `UTD-IMPROV-S01A-F01-P-FM01.avi; label; ...`")
            continue
        name, sentence, target, gender, speaker, scenario, label, ratings = match.groups()
        if f"MSP-IMPROV-{name}" in clips:
            problems.append(f"{path}: line {number}: {name} has a line already")
        rated = dict(re.findall(r"\b([AVD])\s*:\s*([\d.]+)", ratings))
        columns = {
            "session": f"session{int(speaker)}",
            "gender": gender,
            "sentence": sentence,
            "target": EMOTIONS[target],
            "scenario": scenario,
            **{column: rated.get(letter, "") for letter, column in RATED.items()},
        }
        fault = "" if label in EMOTIONS else FAULTS.get(label, f"label {label}")
        clip = Clip(f"MSP-IMPROV-{name}", label, gender + speaker, columns=columns, fault=fault)
        clips[clip.id] = clip
    if problems or not clips:
        raise InputError(join_problems(problems) or f"{path}: holds no line of an utterance")
    return list(clips.values())


MSP_IMPROV = Corpus("msp_improv", read_msp_improv, EMOTIONS)
