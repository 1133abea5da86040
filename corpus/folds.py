"""Which sessions stand in which list of a fold, and which speakers in two lists.

    manifest.csv -> write_folds -> <out>/paper/session1_train.scp, session1_valid.scp, ...
                                   <out>/strict/session1_train.scp, session1_valid.scp, session1_test.scp, ...
    manifest.csv of a corpus with a split of its own -> write_official_lists
                                -> <out>/strict/official_train.scp, official_valid.scp, official_test.scp

Fold k holds session k out. In the paper protocol (the lists of the released code) session k is the validation list:
the best epoch is chosen on the very utterances that are reported. In the strict protocol session k is the test list,
the session after it (the first after the last) is the validation list, and the others are trained on.
"""

import logging
import re
from pathlib import Path

from corpus.iemocap import iemocap_speaker
from corpus.manifest import fold_name
from running.errors import InputError, join_problems

logger = logging.getLogger("foalnet")

PROTOCOLS = ("paper", "strict")


def speaker_overlap(first, second, speakers=None):
    """The speakers who stand in both of two lists.

    Args:
        first, second: iterables of utterance ids.
        speakers: {utt_id: speaker}; None reads them out of IEMOCAP ids.
    Returns: sorted list of speakers; ids whose speaker is not known do not count.
    """
    find = iemocap_speaker if speakers is None else speakers.get
    shared = {find(utt_id) for utt_id in first} & {find(utt_id) for utt_id in second}
    return sorted(shared - {None})


def select_labels(table, labels, label_map):
    """Merge labels and keep the rows of the classes that are asked for; the others are counted in the log.

    Args:
        table: manifest.
        labels: names of the classes.
        label_map: {name in the manifest: name in labels}, applied first.
    Returns: manifest.
    Raises: InputError when no row is left.
    """
    table = table.assign(label=[label_map.get(label, label) for label in table["label"]])
    kept = table["label"].isin(labels)
    left_out = table.loc[~kept, "label"].value_counts().sort_index()
    if not kept.any():
        raise InputError(f"no utterance has a label of {' '.join(labels)}; labels found: {' '.join(left_out.index)}")
    if len(left_out):
        counts = ", ".join(f"{label} {n}" for label, n in left_out.items())
        logger.info("left out %d utterances whose label is not one of %s: %s", left_out.sum(), " ".join(labels), counts)
    absent = [label for label in labels if label not in set(table["label"])]
    if absent:
        logger.warning("no utterance has the label %s", " ".join(absent))
    return table[kept].reset_index(drop=True)


def plan_folds(sessions):
    """Which sessions stand in which list.

    Args:
        sessions: names of at least two sessions, in the order of the folds.
    Returns: {protocol: {fold: {split: list of sessions}}}; no strict protocol for fewer than three sessions.
    """
    sessions = list(sessions)
    plan = {"paper": {}}
    for held_out in sessions:
        rest = [session for session in sessions if session != held_out]
        plan["paper"][held_out] = {"train": rest, "valid": [held_out]}
    if len(sessions) >= 3:
        plan["strict"] = {}
        for held_out, chosen_on in zip(sessions, sessions[1:] + sessions[:1], strict=True):
            rest = [session for session in sessions if session not in (held_out, chosen_on)]
            plan["strict"][held_out] = {"train": rest, "valid": [chosen_on], "test": [held_out]}
    return plan


def check_folds(table):
    """The names of the folds of a manifest, in order.

    Raises: InputError when there are fewer than two sessions, when a speaker stands in more than one session (and so
        in train and in valid or test), when the name of a session can't be that of a file, or when a path can't stand
        in a list.
    """
    folds = table["session"].map(fold_name)
    names = sorted(folds.unique(), key=natural_order)
    problems = []
    if len(names) < 2:
        problems.append(f"session {names[0]}: is the only one; leaving one session out needs at least 2")
    for name in names:
        if fault := _find_name_fault(name):
            problems.append(f"session {name!r}: {fault}; it becomes a file name")
    for speaker, members in folds.groupby(table["speaker"]).unique().items():
        if len(members) > 1:
            problems.append(
                f"speaker {speaker}: stands in {' and '.join(sorted(members, key=natural_order))}, so in train and in "
                "valid or test; a speaker belongs to one session (different people need different names)"
            )
    problems += _find_path_faults(table)
    if problems:
        raise InputError(join_problems(problems))
    return names


def _find_path_faults(table):
    return [
        f"{utt_id}: path {path!r} holds a tab or a line break; an scp list can't hold it"
        for utt_id, path in zip(table["id"], table["path"], strict=True)
        if "\t" in path or path.splitlines() != [path]
    ]


def _find_name_fault(name):
    if name.startswith("."):
        return "begins with a dot"
    if "/" in name:
        return "holds a slash"
    if name.splitlines() != [name]:
        return "holds a line break"
    if re.search(r"[\x00-\x1f\x7f]", name):
        return "holds a control character"
    return None


def write_folds(table, out):
    """Write the leave-one-session-out lists of both protocols.

    Args:
        table: manifest, its labels those of the lists.
        out: folder; the lists go to its `paper` and `strict`.
    Returns: list of the written paths.
    Raises: what `check_folds` raises.
    """
    sessions = check_folds(table)
    table = table.assign(fold=table["session"].map(fold_name)).sort_values("id", kind="stable")
    plan = plan_folds(sessions)
    if "strict" not in plan:
        logger.warning("the strict protocol needs 3 sessions and there are %d: only paper is written", len(sessions))
    lists = {
        Path(out) / protocol / f"{fold}_{split}.scp": table[table["fold"].isin(members)]
        for protocol, folds in plan.items()
        for fold, splits in folds.items()
        for split, members in splits.items()
    }
    return _write_lists(lists, out, f"{len(sessions)} folds, {len(table)} utterances")


def write_official_lists(table, out):
    """Write the lists of a corpus that comes with a split: the test list chooses nothing, so this is strict.

    Args:
        table: manifest with a column `split`: train, valid, test, and further test lists (test2, ...), which are
            written as `official_test2.scp` for scripts.evaluate.
        out: folder; the lists go to its `strict`.
    Returns: list of the written paths.
    Raises: InputError when a list would be empty, or a path can't stand in a list.
    """
    table = table.sort_values("id", kind="stable")
    splits = [*dict.fromkeys(["train", "valid", "test", *sorted(set(table["split"]))])]
    problems = [f"split {split}: no utterance is left" for split in splits if not (table["split"] == split).any()]
    if problems := problems + _find_path_faults(table):
        raise InputError(join_problems(problems))
    lists = {Path(out) / "strict" / f"official_{split}.scp": table[table["split"] == split] for split in splits}
    return _write_lists(lists, out, f"the official split, {len(table)} utterances")


def _write_lists(lists, out, what):
    """Write {path: rows}, say which lists of an earlier run are still there; the written paths."""
    for path, rows in lists.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = rows["id"] + " " + rows["path"] + " " + rows["label"] + "\n"
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
    written = list(lists)
    for path in sorted({path for protocol in PROTOCOLS for path in (Path(out) / protocol).glob("*.scp")} - {*written}):
        logger.warning("%s: is of an earlier run, not of this one; remove it", path)
    logger.info("%s: %d lists of %s", out, len(written), what)
    return written


def natural_order(text):
    """Sort key: session2 before session10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(text))]
