"""MELD: utterances of the series Friends with a published split.

    <root>/.../train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv    a row an utterance, UTF-8
           .../train_splits/dia0_utt0.mp4, dev_splits_complete/..., output_repeated_splits_test/...

The same file names stand in the three folders, so ids say which: `train_dia0_utt0`. The split is kept in place of a
cross-validation: `folds/strict/official_{train,valid,test}.scp`, the development list chooses the epoch. The six main
speakers stand in all three lists; that is the benchmark, and no result on it is speaker-independent.

Known faults: train dia125_utt3 can't be decoded and dev dia110_utt7 was never released; both are dropped, which leaves
13706. Two clips of the test list are cut wrongly and one is silent: published scores count them, so they are kept, and
named in the column `known_fault`. Files without a row (`final_videos_test...`, and a few more) are part of the release
and go to dropped.csv.

The default classes are MELD's seven; `--labels hap neu sad ang` is the four-class view.

Source: Poria et al., ACL 2019; https://github.com/declare-lab/MELD and its issues.
"""

import re

from corpus.preparing import Clip, Corpus, Release, compare_counts
from corpus.release_files import find_one, index_media, list_files, read_table
from running.errors import InputError

EMOTIONS = {
    "joy": "hap",
    "neutral": "neu",
    "sadness": "sad",
    "anger": "ang",
    "surprise": "sur",
    "fear": "fea",
    "disgust": "dis",
}
SPLITS = {  # published name: (ours, folder of the clips)
    "train": ("train", "train_splits"),
    "dev": ("valid", "dev_splits_complete"),
    "test": ("test", "output_repeated_splits_test"),
}
PUBLISHED = {  # in the order of EMOTIONS
    "train": dict(zip(EMOTIONS, (1743, 4710, 683, 1109, 1205, 268, 271), strict=True)),
    "valid": dict(zip(EMOTIONS, (163, 470, 111, 153, 150, 40, 22), strict=True)),
    "test": dict(zip(EMOTIONS, (402, 1256, 208, 345, 281, 50, 68), strict=True)),
}
FAULTS = {"train_dia125_utt3": "its clip can't be decoded", "dev_dia110_utt7": "its clip was never released"}
KEPT_FAULTS = {"test_dia220_utt0": "miscut", "test_dia38_utt4": "miscut", "test_dia263_utt7": "silent"}
NEEDED = ["Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode"]


def read_meld(root):
    """The rows of the three tables with their clips.

    Args: root: folder of the release.
    Returns: Release.
    Raises: InputError when there is no such folder, or a table is not there or not MELD's.
    """
    files = {name: [] for name in (*SPLITS, None)}
    for path in list_files(root, (".mp4",)):
        folders = path.relative_to(root).parts[:-1]  # the folders above the root may have any name
        files[next((name for name, (_, folder) in SPLITS.items() if folder in folders), None)].append(path)
    clips, strays = [], []
    ignored = [(path, "lies in the folder of no split") for path in files[None]]
    for name, (split, folder) in SPLITS.items():
        index, repeated = index_media(files[name])
        strays += repeated
        for clip in read_rows(find_one(root, f"{name}_sent_emo.csv"), name, split):
            stem = clip.id.removeprefix(f"{name}_")
            clip.path = index.pop(stem, {}).get(".mp4")
            clip.missing = "" if clip.path else f"{folder}/{stem}.mp4"
            clips.append(clip)
        ignored += [
            (
                place[".mp4"],
                "a second version of a test clip" if stem.startswith("final_videos_test") else "no row in the table",
            )
            for stem, place in index.items()
        ]
    return Release(clips, strays, ignored, compare_counts(clips, PUBLISHED))


def read_rows(path, name, split):
    """The utterances of a table.

    Args: path: the table. name: the split as it is published. split: as it is in the lists.
    Returns: a Clip for each row, without its file as yet.
    Raises: InputError for a row that is none of MELD's, and for a second one of an utterance.
    """
    clips = {}
    for line, row in read_table(path, NEEDED):
        stem = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
        emotion, utt_id = row["Emotion"].lower(), f"{name}_{stem}"
        if not re.fullmatch(r"dia\d+_utt\d+", stem) or emotion not in EMOTIONS or not row["Speaker"]:
            raise InputError(f"{path}: line {line}: {stem}, emotion {emotion!r}, speaker {row['Speaker']!r}: not a row")
        if utt_id in clips:
            raise InputError(f"{path}: line {line}: {stem} has a row already")
        columns = {
            "session": split,
            "split": split,
            "dialogue": f"{name}_dia{row['Dialogue_ID']}",
            "sentiment": row["Sentiment"],
            "season": row["Season"],
            "episode": row["Episode"],
            "known_fault": KEPT_FAULTS.get(utt_id, ""),
            "text": row["Utterance"],
        }
        clips[utt_id] = Clip(utt_id, emotion, row["Speaker"], columns=columns, fault=FAULTS.get(utt_id, ""))
    return clips.values()


MELD = Corpus("meld", read_meld, EMOTIONS, labels=tuple(EMOTIONS.values()), official=True)
