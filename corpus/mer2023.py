"""MER2023: Chinese film and series clips with a published split into one training and three test lists.

    <root>/.../train-label.csv, test1-label.csv, test2-label.csv, test3-label.csv    name,discrete,valence
           .../<name>.avi or .mp4

The lists are kept in place of a cross-validation, and no test list chooses the epoch: of each emotion the last fifth of
the training clips, in the order of their names, is `folds/strict/official_valid.scp`, the other four fifths are
`official_train.scp`. Neighbouring names stay together that way, should they be of one film. `official_test.scp` is
test1; `official_test2.scp` and `official_test3.scp` are for `scripts.evaluate` with the model of the same training.

Who speaks is not published. `speaker` is the id itself, so that nothing is held for one person; whether a list shares
people with another can't be known. Clips without a row below a folder whose name begins with test3 are the unlabelled
part of the release and only counted; other clips without a row stop the run.

The default classes are the corpus's six; `--labels hap neu sad ang` is the four-class view.

Source: Lian et al., MER 2023, ACM Multimedia 2023; the corpus is given out on signing its licence.
"""

import logging
from collections import defaultdict

from corpus.folds import natural_order
from corpus.preparing import Clip, Corpus, Release, compare_counts
from corpus.release_files import find_one, index_media, list_files, pick, read_table
from running.errors import InputError

logger = logging.getLogger("foalnet")

EMOTIONS = {"happy": "hap", "neutral": "neu", "sad": "sad", "angry": "ang", "worried": "wor", "surprise": "sur"}
LISTS = {"train": 3373, "test1": 411, "test2": 412, "test3": 834}
PUBLISHED = {"neutral": 871, "angry": 822, "happy": 689, "worried": 462, "sad": 383, "surprise": 146}  # of train
HELD_OUT = 5  # one training clip of so many chooses the epoch
CLIPS = (".avi", ".mp4")


def read_mer2023(root):
    """The rows of the four tables with their clips.

    Args: root: folder of the release.
    Returns: Release.
    Raises: InputError when there is no such folder, or a table is not there or not MER2023's.
    """
    index, strays = index_media(list_files(root, CLIPS))
    clips, mismatch = {}, []
    for split, published in LISTS.items():
        rows = read_rows(find_one(root, f"{split}-label.csv"), split, clips)
        if len(rows) != published:
            mismatch.append(f"{split}: {len(rows)} rows, {published} are published")
        if split == "train":
            mismatch += compare_counts(rows, {"train": PUBLISHED})
            hold_out(rows)
    for clip in clips.values():
        clip.path = pick(index.pop(clip.id, {}), CLIPS)
        clip.missing = "" if clip.path else f"{clip.id}.avi"
    without_row = [path for place in index.values() for path in place.values()]
    unlabelled = [
        path for path in without_row if any(part.startswith("test3") for part in path.relative_to(root).parts[:-1])
    ]
    if unlabelled:
        logger.info("%d clips of test3 have no label and are not used", len(unlabelled))
    strays += [(path, "no row in the tables") for path in sorted({*without_row} - {*unlabelled})]
    return Release(list(clips.values()), strays, mismatch=mismatch)


def read_rows(path, split, clips):
    """The utterances of a table.

    Args: path: the table. split: as it is published. clips: {name: Clip} of the tables before; these are added.
    Returns: list of the added Clips, without their files as yet.
    Raises: InputError for a row that is none of MER2023's, and for a second one of an utterance.
    """
    added = []
    for line, row in read_table(path, ["name", "discrete"]):
        name, emotion = row["name"], row["discrete"].lower()
        if emotion not in EMOTIONS or not name or name in clips:
            why = "has a row already" if name in clips else f"discrete is one of {' '.join(EMOTIONS)}"
            raise InputError(f"{path}: line {line}: name {name!r}, discrete {emotion!r}: {why}")
        columns = {"session": split, "split": {"test1": "test"}.get(split, split), "valence": row.get("valence", "")}
        clips[name] = Clip(name, emotion, speaker=name, columns=columns)
        added.append(clips[name])
    return added


def hold_out(rows):
    """Make the last fifth of each emotion, in the order of the names, the list that chooses the epoch.

    Args: rows: the Clips of the training table, whose `split` and `session` become `valid`.
    """
    by_emotion = defaultdict(list)
    for clip in sorted(rows, key=lambda clip: natural_order(clip.id)):
        by_emotion[clip.emotion].append(clip)
    for members in by_emotion.values():
        for clip in members[len(members) - len(members) // HELD_OUT :]:
            clip.columns["split"] = clip.columns["session"] = "valid"


MER2023 = Corpus("mer2023", read_mer2023, EMOTIONS, labels=tuple(EMOTIONS.values()), official=True)
