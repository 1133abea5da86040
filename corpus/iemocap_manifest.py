"""IEMOCAP as it is released -> manifest.csv, dropped.csv and the fold lists of both protocols.

release -> iemocap.py -> label lines and files -> iemocap_counts.py -> refuse, or
        -> manifest.csv, dropped.csv -> folds.py -> folds/{paper,strict}/session1_train.scp, ...
"""

import logging
import os
from collections import Counter
from pathlib import Path

import pandas as pd

from corpus.folds import write_folds
from corpus.iemocap import (
    add_votes_of_files,
    find_files,
    find_sessions,
    parse_iemocap_id,
    picture_half,
    read_label_files,
)
from corpus.iemocap_counts import RELEASE_COUNTS, RELEASE_UTTERANCES, compare_counts, find_relabelled
from corpus.manifest import read_manifest, write_manifest
from dataloader import read_duration
from running.errors import InputError, join_problems
from running.progress import progress_bar

logger = logging.getLogger("foalnet")

NO_LABEL_LINE = "wav without a label line"


def prepare_iemocap(root, out, labels, label_map, *, audio_only=False, skip_missing=False, allow_count_mismatch=False):
    """Read a release, hold its counts against the published ones, write the manifest and the lists.

    Args:
        root: folder that holds Session1 ... Session5.
        out: folder of manifest.csv, dropped.csv and folds.
        labels: names of the classes. label_map: {label in the release: name in labels}, applied first.
        audio_only: the copy has no avi files; the manifest gets no video columns.
        skip_missing: drop utterances whose wav or avi is missing or unreadable, instead of refusing.
        allow_count_mismatch: go on when the counts differ.
    Raises: InputError for a folder that is no release, malformed label files, missing files and counts that differ.
    """
    sessions = find_sessions(Path(os.path.abspath(root)))
    labelled = read_label_files(sessions)
    add_votes_of_files(labelled, sessions)
    files = find_files(sessions, labelled, audio_only)
    lengths = read_durations(files)
    skipped = files.problems.keys() if skip_missing else ()
    mismatch = compare_counts(labelled, skipped, labels, label_map, files.unlabelled, sessions)
    refuse([] if skip_missing else group_problems(files.problems), [] if allow_count_mismatch else mismatch)
    warn_of_oddities(labelled, files, lengths, mismatch)
    table, dropped = build_tables(labelled, labels, label_map, files, lengths, audio_only)
    write_tables(table, dropped, Path(out))
    if len(sessions) < 2:
        logger.warning("one session alone makes no fold: no lists written")
    else:
        write_folds(read_manifest(Path(out) / "manifest.csv"), Path(out) / "folds")


def read_durations(files):
    """Lengths of the wavs in seconds, from their headers: {utt_id: seconds}; unreadable ones join the problems."""
    lengths = {}
    for utt_id, path in progress_bar(files.wavs.items(), desc="Wav headers", unit="utt"):
        try:
            lengths[utt_id] = read_duration(path)
        except InputError as error:
            files.problems.setdefault(utt_id, []).append(str(error))
    return lengths


def group_problems(problems):
    """What is wrong with the files, each file once, with the number of utterances that need it."""
    counts = Counter(problem for several in problems.values() for problem in several)
    return [problem if n == 1 else f"{problem} ({n} utterances need it)" for problem, n in counts.items()]


def refuse(problems, mismatch):
    """Stop, where files or counts are wrong, with all that is wrong and the flag that goes on nevertheless."""
    refusals = []
    if problems:
        refusals += [*problems, "--skip_missing drops the utterances that need these files"]
    if mismatch:
        refusals += [*mismatch, "--allow_count_mismatch goes on with a partial copy"]
    if refusals:
        raise InputError("\n".join(refusals))


def warn_of_oddities(labelled, files, lengths, mismatch):
    """Log what doesn't stop the preparation but may be worth a look."""
    problems, unlabelled = files.problems, files.unlabelled
    if problems:
        logger.warning("%d utterances dropped:\n%s", len(problems), join_problems(group_problems(problems)))
    if mismatch:
        logger.warning("%s (allowed; they are shown without --allow_count_mismatch)", mismatch[0].rstrip(":"))
    if unlabelled:
        logger.warning("%d wavs have no label line, for example %s", len(unlabelled), min(unlabelled))
    if len(labelled) != RELEASE_UTTERANCES:
        logger.warning("%d utterances have a label line; the full release has %d", len(labelled), RELEASE_UTTERANCES)
    contradicted = find_relabelled(labelled)
    if contradicted:
        logger.warning(
            "%d labels are not what over half of their annotators chose, for example %s",
            len(contradicted),
            contradicted[0],
        )
    cut = [u.utt_id for u in labelled if u.utt_id in lengths and lengths[u.utt_id] < u.end - u.start - 0.5]
    if cut:
        logger.warning("%d wavs are over 0.5 s shorter than their label line says, for example %s", len(cut), cut[0])


def build_tables(labelled, labels, label_map, files, lengths, audio_only):
    """The manifest and the table of the dropped utterances.

    Raises: InputError when no utterance has one of the labels.
    """
    rows, dropped = [], [(utt_id, "", NO_LABEL_LINE) for utt_id in files.unlabelled]
    for utterance in labelled:
        utt_id, label = utterance.utt_id, label_map.get(utterance.emotion, utterance.emotion)
        if utt_id in files.problems:
            dropped.append((utt_id, utterance.emotion, "; ".join(files.problems[utt_id])))
        elif label not in labels:
            reason = "no majority of the annotators" if label == "xxx" else f"label is not one of {' '.join(labels)}"
            dropped.append((utt_id, utterance.emotion, reason))
        else:
            avi = None if audio_only else files.avis[utterance.dialogue]
            rows.append(build_row(utterance, label, files.wavs[utt_id], avi, lengths[utt_id]))
    if not rows:
        found = " ".join(sorted({utterance.emotion for utterance in labelled}))
        raise InputError(f"no utterance has a label of {' '.join(labels)}; labels found: {found}")
    return pd.DataFrame(rows), pd.DataFrame(dropped, columns=["id", "label", "reason"]).sort_values("id")


def build_row(utterance, label, wav, avi, seconds):
    """The row of an utterance in the manifest, {column: value}; `avi` None: without the columns of the video."""
    parsed = parse_iemocap_id(utterance.utt_id)
    video = {"video": avi, "start": utterance.start, "end": utterance.end, "crop": picture_half(parsed)}
    return {
        "id": utterance.utt_id,
        "path": wav,
        "label": label,
        "speaker": parsed.speaker,
        "session": utterance.session,
        **({} if avi is None else video),
        "dialogue": utterance.dialogue,
        "style": parsed.style,
        "gender": parsed.gender,
        "marker_wearer": "yes" if parsed.wears_markers else "no",
        "emotion": utterance.emotion,
        "duration": seconds,
    }


def write_tables(table, dropped, out):
    """Write manifest.csv and dropped.csv, and print the counts by session and label before merging."""
    write_manifest(table, out / "manifest.csv")
    dropped.to_csv(out / "dropped.csv", index=False, lineterminator="\n")
    counts = pd.crosstab(table["session"], table["emotion"], margins=True, margins_name="all")
    order = [label for label in [*RELEASE_COUNTS, *sorted(counts)] if label in counts]
    print(counts[[*dict.fromkeys(order)]].rename_axis(columns=None).to_string())
    logger.info("%s: %d utterances, %d dropped", out / "manifest.csv", len(table), len(dropped))
