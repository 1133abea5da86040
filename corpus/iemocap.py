"""IEMOCAP as it is released: what an id says, where the files are, what a label line holds.

    <root>/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt                          label lines and votes
                    dialog/EmoEvaluation/Categorical/Ses01F_impro01_e2_cat.txt       the votes of one annotator
                    dialog/transcriptions/Ses01F_impro01.txt
                    dialog/avi/DivX/Ses01F_impro01.avi                               both actors, side by side
                    sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav             one utterance

Source: Busso et al., IEMOCAP: interactive emotional dyadic motion capture database, 2008, and its README files.
"""

import logging
import os
import re
from dataclasses import dataclass
from typing import NamedTuple

from running.errors import InputError, join_problems

logger = logging.getLogger("foalnet")

IEMOCAP_ID = re.compile(r"((Ses\d\d)([FM])_((?:impro|script)\w*))_([FM])[^_\s]+", re.ASCII)
LABEL_LINE = "wav without a label line"

LABEL_LINE = re.compile(r"\[\s*([\d.]+)\s*-\s*([\d.]+)\s*\]\s+(\S+)\s+(\S+)(\s.*)?")
VOTE_LINE = re.compile(r"C-(\w+):\s*([^()]*)")  # C-E2:	Neutral; Anger;	(a remark)
VOTE_FILE_LINE = re.compile(r"(Ses\S+?)\s*:([^()]*)")  # Ses01F_impro01_F000 :Neutral state; ()
CATEGORIES = {
    "anger": "ang",
    "disgust": "dis",
    "excited": "exc",
    "fear": "fea",
    "frustration": "fru",
    "happiness": "hap",
    "neutral": "neu",
    "neutral state": "neu",
    "other": "oth",
    "sadness": "sad",
    "surprise": "sur",
}
IEMOCAP_LABELS = (*sorted({*CATEGORIES.values()}), "xxx")  # xxx: the annotators did not agree


class IemocapId(NamedTuple):
    """What the id of an IEMOCAP utterance says: `Ses01F_impro03_M012` is spoken by Ses01M, Ses01F wears the markers."""

    dialogue: str
    speaker: str
    gender: str
    wears_markers: bool
    style: str


def parse_iemocap_id(utt_id):
    """The IemocapId of an utterance, None for the id of another corpus.

    The speaker is the letter after the last underscore; the letter in `Ses01F` is who wears the markers.
    """
    match = IEMOCAP_ID.fullmatch(utt_id)
    if match is None:
        return None
    dialogue, session, wearer, scene, gender = match.groups()
    style = "improvised" if scene.startswith("impro") else "scripted"
    return IemocapId(dialogue, session + gender, gender, gender == wearer, style)


def iemocap_speaker(utt_id):
    """The speaker of an IEMOCAP utterance (`Ses01F_impro03_M012` -> `Ses01M`), None for the id of another corpus."""
    parsed = parse_iemocap_id(utt_id)
    return parsed and parsed.speaker


def picture_half(parsed):
    """Which half of a dialogue's picture shows the speaker of an IemocapId: the marker wearer stands on the left."""
    return "left" if parsed.wears_markers else "right"


@dataclass
class Labelled:
    """One label line of EmoEvaluation: seconds in the dialogue, label, and what each annotator chose."""

    utt_id: str
    session: str
    dialogue: str
    start: float
    end: float
    emotion: str
    votes: dict  # annotator -> set of labels


def find_sessions(root):
    """The session folders of a release: {"session1": path, ...}."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; --iemocap_root is the folder that holds Session1 ... Session5")
    sessions = {
        f"session{match.group(1)}": path
        for path in sorted(root.iterdir())
        if path.is_dir() and (match := re.fullmatch(r"Session([1-5])", path.name))
    }
    if not sessions:
        raise InputError(f"{root}: holds no Session1 ... Session5; --iemocap_root is IEMOCAP_full_release itself")
    return sessions


def list_files(folder, suffix):
    """Sorted files of a folder with a suffix; hidden ones (`._Ses...`) and a missing folder give none."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(suffix)]
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def read_label_files(sessions):
    """Read the label lines of every dialogue.

    Args:
        sessions: {session: folder}.
    Returns: list of Labelled, sorted by id.
    Raises: InputError that names every malformed line and every id that has two lines.
    """
    labelled, problems, seen = [], [], {}
    for session, folder in sessions.items():
        files = list_files(folder / "dialog" / "EmoEvaluation", ".txt")
        if not files:
            problems.append(f"{folder / 'dialog' / 'EmoEvaluation'}: holds no label file <dialogue>.txt")
        for path in files:
            for where, utterance in read_label_file(path, session, problems):
                if utterance.utt_id in seen:
                    problems.append(f"{where}: {utterance.utt_id} has a label on {seen[utterance.utt_id]} already")
                seen.setdefault(utterance.utt_id, where)
                labelled.append(utterance)
    if problems:
        raise InputError(join_problems(problems))
    return sorted(labelled, key=lambda utterance: utterance.utt_id)


def read_label_file(path, session, problems):
    """Yield ("file: line", Labelled) for each label line of a dialogue; malformed ones are added to `problems`."""
    votes = {}  # of the label line above; a blank line ends its block
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}: line {number}"
        if line.startswith("["):
            votes = {}
            try:
                yield where, parse_label_line(line, session, path.stem, votes)
            except InputError as error:
                problems.append(f"{where}: {error}")
        elif vote := VOTE_LINE.match(line):
            votes[vote.group(1)] = parse_categories(vote.group(2))
        elif not line.strip():
            votes = {}
        elif not line.startswith(("%", "C-", "A-")):
            logger.warning("%s: %r is not a label line; ignored", where, line.strip()[:80])


def read_lines(path):
    return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()


def parse_label_line(line, session, dialogue, votes):
    """`[6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5, 2.5, 2.5]` -> Labelled. Raises: InputError."""
    match = LABEL_LINE.fullmatch(line)
    if match is None:
        raise InputError(f"{line.strip()!r} is not `[start - end] utterance label [valence, activation, dominance]`")
    start, end, utt_id, emotion = match.groups()[:4]
    parsed = parse_iemocap_id(utt_id)
    if parsed is None or parsed.dialogue != dialogue:
        raise InputError(f"utterance {utt_id!r} is not one of dialogue {dialogue}, {dialogue}_F... or {dialogue}_M...")
    try:
        times = float(start), float(end)
    except ValueError:
        raise InputError(f"[{start} - {end}] are not times in seconds") from None
    if times[1] <= times[0]:
        raise InputError(f"{utt_id}: end {end} is not after start {start}")
    return Labelled(utt_id, session, dialogue, *times, emotion, votes)


def parse_categories(text):
    """`Neutral; Anger;` -> {"neu", "ang"}; words that are no category are left out."""
    return {CATEGORIES[name] for part in text.split(";") if (name := part.strip().lower()) in CATEGORIES}


def add_votes_of_files(labelled, sessions):
    """Fill in the votes of `EmoEvaluation/Categorical/<dialogue>_e2_cat.txt` where the label file has no C- lines."""
    wanted = {utterance.utt_id: utterance for utterance in labelled if not utterance.votes}
    for folder in sessions.values():
        for path in list_files(folder / "dialog" / "EmoEvaluation" / "Categorical", "_cat.txt"):
            annotator = path.stem.split("_")[-2]
            for line in read_lines(path):
                if (match := VOTE_FILE_LINE.match(line)) and match.group(1) in wanted:
                    wanted[match.group(1)].votes[annotator] = parse_categories(match.group(2))


class ReleaseFiles(NamedTuple):
    """Where the sound and the picture of the utterances are, and what is missing."""

    wavs: dict  # utt_id -> path
    avis: dict  # dialogue -> path
    unlabelled: dict  # utt_id -> path of a wav that has no label line
    problems: dict  # utt_id -> list of what is wrong


def find_files(sessions, labelled, audio_only):
    """Find the files of each utterance: ReleaseFiles; with `audio_only` an avi may be missing.

    Args:
        sessions: {session: folder}.
        labelled: list of Labelled.
    """
    on_disk, avis = list_media(sessions)
    full = {dialogue for dialogue, _ in on_disk}
    wavs, problems = {}, {}
    for utterance in labelled:
        wav = on_disk.pop((utterance.dialogue, utterance.utt_id), None)
        missing = []
        if wav is not None:
            wavs[utterance.utt_id] = wav
        else:
            folder = sessions[utterance.session] / "sentences" / "wav" / utterance.dialogue
            missing.append(folder / f"{utterance.utt_id}.wav" if utterance.dialogue in full else folder)
        if not audio_only and utterance.dialogue not in avis:
            missing.append(sessions[utterance.session] / "dialog" / "avi" / "DivX" / f"{utterance.dialogue}.avi")
        if missing:
            problems[utterance.utt_id] = [f"{path}: missing" for path in missing]
    unlabelled = {utt_id: path for (_, utt_id), path in on_disk.items()}
    return ReleaseFiles(wavs, avis, unlabelled, problems)


def list_media(sessions):
    """({(dialogue, utt_id): wav path}, {dialogue: avi path}) of all that is on disk."""
    wavs, avis = {}, {}
    for folder in sessions.values():
        sentences = folder / "sentences" / "wav"
        for dialogue in sorted(sentences.iterdir()) if sentences.is_dir() else []:
            if not dialogue.name.startswith("."):
                wavs.update(((dialogue.name, path.stem), str(path)) for path in list_files(dialogue, ".wav"))
        avis.update((path.stem, str(path)) for path in list_files(folder / "dialog" / "avi" / "DivX", ".avi"))
    return wavs, avis
