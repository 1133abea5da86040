"""A corpus as it is released -> manifest.csv, dropped.csv and fold lists: what the preparation of all corpora shares.

    files and tables -> corpus/<name>.py: read -> Release -> refuse what differs from the published corpus
                     -> choose labels -> sessions or groups of speakers -> write

A corpus is one file with a `read_<name>` and a `Corpus`. Nothing here opens a sound or a video.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from corpus.cutting import cut_audio
from corpus.folds import natural_order, write_folds, write_official_lists
from corpus.manifest import REQUIRED, read_manifest, write_manifest
from dataloader import LABELS
from running.errors import InputError, join_problems

logger = logging.getLogger("foalnet")

PLACES = ("video", "start", "end", "crop")  # columns of the manifest that stand behind the required ones
MISSING = "missing"


@dataclass
class Clip:
    """An utterance of the published corpus, whether this copy holds it or not.

    `emotion` is the corpus's own word. `path` is None where the copy lacks a file, and `missing` names what it lacks.
    `fault` says why an utterance that is known is never used. `columns` are those of the manifest beside these.
    """

    id: str
    emotion: str
    speaker: str
    path: Path | None = None
    columns: dict = field(default_factory=dict)
    missing: str = ""
    fault: str = ""


@dataclass
class Release:
    """What a reader found: the utterances, files and rows that should not be there, and files that are as published.

    `strays` and `ignored` are (name, reason) pairs; strays stop the run. `mismatch` are lines on counts.
    """

    clips: list
    strays: list = field(default_factory=list)
    ignored: list = field(default_factory=list)
    mismatch: list = field(default_factory=list)


@dataclass(frozen=True)
class Corpus:
    """How a corpus is prepared.

    `emotions`: {the corpus's word: label}. `labels`, `label_map`: the view without flags. `groups`: number of groups of
    speakers that stand for sessions, 0 where the clips have a `session` or, with `official`, a `split` column.
    """

    name: str
    read: Callable
    emotions: dict
    labels: tuple = LABELS
    label_map: dict = field(default_factory=dict)
    groups: int = 0
    official: bool = False


def prepare_corpus(
    corpus,
    root,
    out,
    labels=None,
    label_map=None,
    *,
    groups=None,
    skip_missing=False,
    allow_count_mismatch=False,
    **options,
):
    """Read a release, hold it against the published one, write manifest, dropped utterances and lists.

    Args:
        corpus: Corpus. root: folder of the release. out: folder to write to.
        labels: names of the classes, `["all"]`, or None for the corpus's default.
        label_map: {label: class}, applied first; None: the corpus's default, less the labels that are asked for.
        groups: number of groups of speakers, None for the corpus's default.
        skip_missing: drop utterances without a file. allow_count_mismatch: go on with other counts and unknown files.
        options: of the corpus's reader.
    Raises: InputError for a folder that is no release, or not a whole one.
    """
    if groups is not None and not corpus.groups:
        raise InputError(
            f"--groups {groups}: {corpus.name} has {'an official split' if corpus.official else 'sessions'}"
        )
    labels, label_map = choose_labels(corpus, labels, label_map)
    root = Path(os.path.abspath(root))
    release = corpus.read(root, **options)
    refuse(corpus.name, release, skip_missing, allow_count_mismatch)
    if corpus.groups:
        add_groups(release.clips, corpus.groups if groups is None else groups)
    rows, dropped = split_clips(release, corpus.emotions, labels, label_map, root)
    write_corpus(rows, dropped, out, labels, official=corpus.official)


def choose_labels(corpus, labels=None, label_map=None):
    """The classes and what is merged into them.

    Args: corpus: Corpus. labels, label_map: as prepare_corpus takes them.
    Returns: (list of names, {label: class}).
    Raises: InputError for a class, or a label to merge, that the corpus doesn't have.
    """
    own = list(dict.fromkeys(corpus.emotions.values()))
    if unknown := [label for label in label_map or () if label not in own]:
        raise InputError(f"--label_map {' '.join(unknown)}: not a label of {corpus.name}; its labels: {' '.join(own)}")
    if label_map is None:
        asked = own if labels == ["all"] else labels or corpus.labels
        label_map = {old: new for old, new in corpus.label_map.items() if old not in asked}
    merged = list(dict.fromkeys(label_map.get(label, label) for label in own))
    if labels == ["all"]:
        labels = merged
    labels = list(labels or corpus.labels)
    if unknown := [label for label in labels if label not in merged]:
        raise InputError(f"--labels {' '.join(unknown)}: not a class of {corpus.name}; its classes: {' '.join(merged)}")
    return labels, label_map


def compare_counts(clips, published):
    """Hold the number of utterances of each class against the published one.

    Args: clips: list of Clip. published: {split, or None for a corpus without: {emotion: n}}.
    Returns: a line for each class that differs.
    """
    found = Counter((clip.columns.get("split"), clip.emotion) for clip in clips)
    expected = {(split, emotion): n for split, counts in published.items() for emotion, n in counts.items()}
    return [
        f"{f'{split}: ' * bool(split)}{found[split, emotion]} utterances of {emotion}, {n} are published"
        for (split, emotion), n in expected.items()
        if found[split, emotion] != n
    ]


def refuse(name, release, skip_missing, allow_count_mismatch):
    """Stop where files are missing or unknown or counts differ, or say what was found and allowed.

    Args:
        name: of the corpus, for messages. release: Release.
        skip_missing: missing files are allowed. allow_count_mismatch: strays and other counts are.
    Raises: InputError that names each of them, and the flag that goes on.
    """
    missing = find_missing(release.clips)
    strays = [f"{path}: {why}" for path, why in release.strays]
    lines = []
    if missing and not skip_missing:
        lines += [join_problems(missing), "--skip_missing drops the utterances that need these files"]
    if (strays or release.mismatch) and not allow_count_mismatch:
        lines += [join_problems(release.mismatch + strays), "--allow_count_mismatch goes on with such a copy"]
    if lines:
        raise InputError("\n".join(lines))
    for problems in (missing, strays, release.mismatch):
        if problems:
            logger.warning("%s: %d findings, allowed:\n%s", name, len(problems), join_problems(problems, 5))
    if release.ignored:
        path, why = release.ignored[0]
        logger.warning("%s: %d files are not used, such as %s: %s", name, len(release.ignored), path, why)


def find_missing(clips):
    """What a copy lacks.

    Args: clips: list of Clip; those with a fault need no file.
    Returns: a line for each file that an utterance needs; one alone for a speaker of whom nothing is there.
    """
    lacking, lines = {}, []
    for clip in clips:
        if not clip.fault:
            lacking.setdefault(clip.speaker, []).append(clip.missing)
    for speaker, files in lacking.items():
        if len(files) > 1 and all(files):
            lines.append(f"speaker {speaker}: all {len(files)} clips, such as {files[0]}: {MISSING}")
        else:
            lines += [f"{file}: {MISSING}" for file in files if file]
    return lines


def add_groups(clips, n):
    """Give each clip one of n sessions, `session1` ..., by its speaker.

    The groups are balanced in speakers of each `gender` and in utterances. Where `clips` are all of the published
    corpus, whatever the labels and whatever a copy lacks, every copy and every choice of classes has the same groups.

    Args: clips: list of Clip, which get a column `session`. n: number of groups.
    Raises: InputError for fewer than two groups or more than there are speakers.
    """
    sizes = Counter(clip.speaker for clip in clips)
    gender = {clip.speaker: clip.columns.get("gender", "") for clip in clips}
    if not 2 <= n <= len(sizes):
        raise InputError(f"--groups {n}: from 2 to {len(sizes)}, the number of speakers, are possible")
    group, members, total = {}, Counter(), Counter()
    for speaker in sorted(sizes, key=lambda speaker: (-sizes[speaker], natural_order(speaker))):
        sex = gender[speaker]
        best = min(range(n), key=lambda k: (members[k, sex], total[k], k))
        group[speaker] = f"session{best + 1}"
        members[best, sex] += 1
        total[best] += sizes[speaker]
    for clip in clips:
        clip.columns["session"] = group[clip.speaker]


def split_clips(release, emotions, labels, label_map, root):
    """Part the utterances that are used from those that are not.

    Args:
        release: Release. emotions: {the corpus's word: label}; a word without an entry is its own label.
        labels: the classes that are kept. label_map: {label: class}. root: folder that dropped files are named from.
    Returns: (rows of the manifest, list of dict; rows of dropped.csv, list of (id, emotion, reason)).
    Raises: InputError when no utterance is used.
    """
    dropped = [(_below(path, root), "", why) for path, why in release.strays + release.ignored]
    rows = []
    for clip in release.clips:
        label = emotions.get(clip.emotion, clip.emotion)
        label = label_map.get(label, label)
        reason = clip.fault or (f"{clip.missing}: {MISSING}" if clip.missing else "")
        if not reason and label not in labels:
            reason = f"label is not one of {' '.join(labels)}"
        if reason:
            dropped.append((clip.id, clip.emotion, reason))
        else:
            rows.append(dict(clip.columns, id=clip.id, path=str(clip.path), label=label, speaker=clip.speaker))
            rows[-1]["emotion"] = clip.emotion
    if not rows:
        raise InputError(f"{root}: no utterance of {' '.join(labels)} is left")
    return rows, dropped


def _below(path, root):
    path = Path(path)
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def write_corpus(rows, dropped, out, labels, *, official=False):
    """Write `<out>/manifest.csv`, `dropped.csv` and `folds`, and print how many utterances of each class there are.

    Args:
        rows, dropped: as split_clips gives them. out: folder. labels: the classes in the order of train.py's.
        official: the rows have a `split`, which is kept in place of a cross-validation.
    Raises: InputError for rows that make no manifest or no folds.
    """
    out = Path(out)
    table = pd.DataFrame(rows)
    first = [*REQUIRED, *(column for column in PLACES if column in table)]
    table = table[first + [column for column in table if column not in first]]
    write_manifest(table, out / "manifest.csv")
    table_of_dropped = pd.DataFrame(dropped, columns=["id", "label", "reason"]).sort_values("id", kind="stable")
    table_of_dropped.to_csv(out / "dropped.csv", index=False, lineterminator="\n")
    counts = pd.crosstab(table["session"], table["label"], margins=True, margins_name="all")
    order = [*sorted(set(table["session"]), key=natural_order), "all"]
    counts = counts.loc[order, [*(label for label in labels if label in counts), "all"]]
    print(counts.rename_axis(columns=None).to_string())
    logger.info("%s: %d utterances, %d dropped", out / "manifest.csv", len(table), len(dropped))
    manifest = read_manifest(out / "manifest.csv")
    if official:
        write_official_lists(manifest, out / "folds")
    else:
        write_folds(cut_audio(manifest, out / "folds" / "audio"), out / "folds")
    if list(labels) != list(LABELS):
        logger.info("train.py needs --labels %s", " ".join(labels))
