"""CREMA-D: 91 actors speak twelve sentences in six emotions, on video, judged by a crowd.

    <root>/VideoFlash/1001_DFA_ANG_XX.flv      actor, sentence, emotion, intensity (LO, MD, HI, or XX: not asked for)
           AudioWAV/1001_DFA_ANG_XX.wav
           VideoDemographics.csv               the sex of the actors; used where it is there
           processedResults/summaryTable.csv   what the crowd perceived; for --perceived

The sound is the wav and the picture the flv; a copy converted to mp4 counts as well, and one without any wav uses the
sound of the videos. The label is the intended emotion, or with --perceived what most raters of sound and picture
together chose; ties are dropped. There are no sessions: groups of actors, five by default.

Known faults: four videos can't be used (FAULTS; three are cut or empty, one shows a minute of all emotions). 20
combinations were never published (NEVER_PUBLISHED), and one wav has only a single X at its end.

Source: Cao et al., IEEE Transactions on Affective Computing 5(4), 2014; names as in SentenceFilenames.csv of
https://github.com/CheyneyComputerScience/CREMA-D.
"""

import logging
from itertools import product

from corpus.preparing import Clip, Corpus, Release
from corpus.release_files import (
    VIDEOS,
    find_one,
    index_media,
    list_files,
    pick,
    read_table,
    refuse_lfs_pointers,
)
from running.errors import InputError

logger = logging.getLogger("foalnet")

ACTORS = range(1001, 1092)
SENTENCES = "DFA IEO IOM ITH ITS IWL IWW MTI TAI TIE TSI WSI".split()
EMOTIONS = {"ANG": "ang", "DIS": "dis", "FEA": "fea", "HAP": "hap", "NEU": "neu", "SAD": "sad"}
NEVER_PUBLISHED = {
    *(f"{place}_{emotion}_XX" for place in ("1008_WSI", "1009_MTI", "1019_ITH") for emotion in EMOTIONS),
    "1002_TIE_NEU_XX",
    "1076_ITS_NEU_XX",
}
FAULTS = {
    "1064_IEO_DIS_MD": "its video shows a minute with all emotions",
    "1064_TIE_SAD_XX": "its video can't be used",
    "1076_MTI_NEU_XX": "its video can't be used",
    "1076_MTI_SAD_XX": "its video can't be used and its wav is silent",
}
CUT_NAME, WHOLE_NAME = "1040_ITH_SAD_X", "1040_ITH_SAD_XX"


def read_cremad(root, perceived=False):
    """The published utterances with their files.

    Args: root: folder of the release. perceived: the label is the raters', in place of the intended one.
    Returns: Release.
    Raises: InputError when there is no such folder, no table for `perceived`, or Git LFS has not fetched the clips.
    """
    index, strays = index_media(list_files(root, (".wav", *VIDEOS)))
    index.setdefault(WHOLE_NAME, {}).update(index.pop(CUT_NAME, {}))
    sexes, votes = read_sexes(root), read_votes(root) if perceived else {}
    sound = any(".wav" in place for place in index.values())
    clips = []
    for name in list_names():
        place = index.pop(name, {})
        video, wav = pick(place, VIDEOS), place.get(".wav")
        lacking = [] if video else [f"VideoFlash/{name}.flv"]
        lacking += [f"AudioWAV/{name}.wav"] if sound and not wav else []
        actor, sentence, emotion, intensity = name.split("_")
        columns = {"video": video, "gender": sexes.get(actor, ""), "sentence": sentence, "intensity": intensity}
        clip = Clip(name, emotion, actor, wav or video, columns, " and ".join(lacking), FAULTS.get(name, ""))
        if perceived:
            columns["intended"] = emotion
            clip.emotion, tie = votes.get(name, ("", "no row in summaryTable.csv"))
            clip.fault = clip.fault or tie
        clips.append(clip)
    strays += [(path, "not a clip of CREMA-D") for place in index.values() for path in place.values()]
    whole = next((clip for clip in clips if clip.path and not clip.missing), None)
    refuse_lfs_pointers([whole.path, whole.columns["video"]] if whole else [])
    return Release(clips, strays)


def list_names():
    """The 7442 published names."""
    for actor, sentence, emotion in product(ACTORS, SENTENCES, EMOTIONS):
        graded = sentence == "IEO" and emotion != "NEU"
        names = (f"{actor}_{sentence}_{emotion}_{level}" for level in (("LO", "MD", "HI") if graded else ("XX",)))
        yield from (name for name in names if name not in NEVER_PUBLISHED)


def read_sexes(root):
    """The sex of each actor.

    Args: root: folder of the release.
    Returns: {actor: F or M} of VideoDemographics.csv; empty, with a warning, where a copy has none.
    Raises: InputError for a table without the columns.
    """
    try:
        path = find_one(root, "VideoDemographics.csv")
    except InputError as error:
        logger.warning("%s: the groups of actors are not balanced in sex, and not those of copies that have it", error)
        return {}
    return {row["ActorID"]: row["Sex"][:1].upper() for _, row in read_table(path, ["ActorID", "Sex"])}


def read_votes(root):
    """What most raters perceived with sound and picture.

    Args: root: folder of the release.
    Returns: {name of the clip: (emotion as in the names, why it is not used or "")}.
    Raises: InputError when summaryTable.csv is not there or holds another letter than those of the six emotions.
    """
    path = find_one(root, "summaryTable.csv")
    words, votes = {word[0]: word for word in EMOTIONS}, {}
    for line, row in read_table(path, ["FileName", "MultiModalVote"]):
        vote = row["MultiModalVote"]
        if set(vote.split(":")) - words.keys():
            raise InputError(f"{path}: line {line}: MultiModalVote {vote!r} is not of {' '.join(words)}")
        name = WHOLE_NAME if row["FileName"] == CUT_NAME else row["FileName"]
        votes[name] = (vote, f"a tie of the raters, {vote}") if ":" in vote else (words[vote], "")
    return votes


CREMAD = Corpus("cremad", read_cremad, EMOTIONS, groups=5)
