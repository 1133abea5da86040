"""Is a train/valid/test set sound? Leaks, errors and warnings over the lists, the sounds and the features.

    scp lists -> read_lists -> add_people -> add_content -> find_leaks, find_errors, find_warnings -> report

The table between the steps has a row for each line of the lists.
"""

import json
import logging
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from corpus.contents import NO_FEATURES, SILENCE, add_content
from corpus.iemocap import parse_iemocap_id
from corpus.manifest import read_manifest
from dataloader import read_scp
from features.folder import FeatureFolder
from running.errors import InputError, join_problems

logger = logging.getLogger("foalnet")

CLIPPED_SHARE = 0.001  # of the samples at that level
FRAME_TOLERANCE = 0.1  # of the expected frames, and at least
FRAMES_TOLERATED = 3


def check_corpus(lists, labels, label_map, video_root=None, manifest=None, max_lines=20):
    """Print what the lists hold and what is wrong with them.

    Args:
        lists: {"train", "valid", "test": path of an scp list, None where there is none}.
        labels: class names in index order. label_map: {name in the lists: name in labels}, applied first.
        video_root: folder of the video features; None: features are not looked at.
        manifest: path of the table that knows speakers, dialogues and times; None: IEMOCAP ids tell.
        max_lines: lines printed for each kind of finding; 0: all.
    Returns: 1 where there is leakage, else 2 where there are errors, else 0.
    Raises: InputError for lists, a manifest or a folder that can't be read.
    """
    table = read_lists(lists, labels, label_map, video_root)
    table = add_people(table, read_manifest(manifest) if manifest else None)
    table = add_content(table, wants_features=bool(video_root))
    print_tables(table, labels)
    leaks = print_findings("leak", find_leaks(table), max_lines)
    errors = print_findings("error", {"files": find_errors(table, video_root)}, max_lines)
    warnings = print_findings("warning", find_warnings(table, labels, video_root), max_lines)
    verdict = "NOT SOUND" if leaks or errors else "sound"
    print(f"{verdict}: {len(table)} utterances, {leaks} leaks, {errors} errors, {warnings} warnings")
    return 1 if leaks else 2 if errors else 0


def read_lists(lists, labels, label_map, video_root):
    """The utterances of all lists: a DataFrame with split, id, path, label (name), features (path or empty)."""
    index = FeatureFolder(video_root) if video_root else {}
    rows, problems = [], []
    for split, source in lists.items():
        try:
            utterances = read_scp(source, labels, label_map) if source else []
        except InputError as error:
            problems.append(str(error))
            continue
        rows += [(split, item.utt_id, item.path, labels[item.label], index.get(item.utt_id, "")) for item in utterances]
    if problems:
        raise InputError("\n".join(problems))
    return pd.DataFrame(rows, columns=["split", "id", "path", "label", "features"])


def add_people(table, manifest):
    """Add `speaker`, `dialogue` (None where not known) and `span`, the manifest's seconds from start to end or NaN.

    A dialogue is what the manifest calls so, else what an IEMOCAP id says, else the longer file that holds the
    utterance.
    """
    known = {} if manifest is None else manifest.set_index("id").to_dict("index")
    strangers = [utt_id for utt_id in table["id"] if manifest is not None and utt_id not in known]
    if strangers:
        logger.warning("%d utterances are not in the manifest, for example %s", len(strangers), strangers[0])
    rows = []
    for utt_id in table["id"]:
        row, parsed = known.get(utt_id, {}), parse_iemocap_id(utt_id)
        part = row and not (np.isnan(row["start"]) and np.isnan(row["end"]))
        rows.append(
            (
                row.get("speaker") or (parsed and parsed.speaker),
                row.get("dialogue") or (parsed and parsed.dialogue) or (row["video"] if part else None),
                row["end"] - (0.0 if np.isnan(row["start"]) else row["start"]) if part else np.nan,
            )
        )
    return table.assign(**dict(zip(("speaker", "dialogue", "span"), zip(*rows, strict=True), strict=True)))


def find_leaks(table):
    """Everything that stands in two lists; a line each, by kind."""
    return {
        "speaker": find_shared(table, "speaker", "speaker"),
        "dialogue": find_shared(table, "dialogue", "dialogue"),
        "utterance": find_shared(table, "id", "utterance"),
        "sound": find_duplicates(table, "sound", "sound")[0],
        "features": find_duplicates(table, "features", "video features")[0],
    }


def find_shared(table, column, noun):
    """A line for each value of a column that stands in two lists."""
    lines = []
    counts = table.dropna(subset=[column]).groupby([column, "split"]).size().unstack(fill_value=0)
    for value, row in counts.iterrows():
        splits = [f"{split} ({row[split]})" for split in ("train", "valid", "test") if row.get(split, 0)]
        if len(splits) > 1:
            lines.append(f"{noun} {value} stands in {' and '.join(splits)}")
    return lines


def find_duplicates(table, column, noun):
    """Different utterances with the same content: (lines for those in two lists, lines for those in one)."""
    across, within = [], []
    named = table.dropna(subset=[column])
    for _, group in named[named[column].duplicated(keep=False)].groupby(column, sort=False):
        places = group.drop_duplicates(["split", "id"])
        lists = places.groupby("split")["id"].agg(set)
        leaks = any(one != other for a, b in combinations(lists, 2) for one in a for other in b)
        if places["id"].nunique() < 2:
            continue  # one utterance in two lists: an overlap of ids
        members = ", ".join(f"{row.split}:{row.id} ({row.label})" for row in places.itertuples())
        (across if leaks else within).append(f"the same {noun}: {members}")
    return across, within


def find_errors(table, video_root):
    """What train.py would refuse; a line each."""
    lines = []
    for row in table.itertuples():
        where = f"{row.split}:{row.id}"
        lines += [
            f"{where}: {video_root} holds no {row.id}.npy" if error == NO_FEATURES else f"{where}: {error}"
            for error in row.errors
        ]
    dims = table.dropna(subset=["dim"]).groupby("dim")["id"].agg(["size", "first"])
    if len(dims) > 1:
        found = "; ".join(f"dim {dim:.0f} in {row['size']}, such as {row['first']}" for dim, row in dims.iterrows())
        lines.append(f"{video_root}: {found}; one dim is expected")
    return lines


def find_warnings(table, labels, video_root):
    """What a person should look at; a line each, by kind."""
    duplicates = [find_duplicates(table, "sound", "sound"), find_duplicates(table, "features", "video features")]
    found = {
        "label": find_absent_labels(table, labels),
        "not known": find_unknown_people(table),
        **find_odd_sounds(table),
        "constant features": [
            f"{row.split}:{row.id} has {int(row.frames)} video frames that are all the same"
            for row in table.itertuples()
            if row.frames > 1 and not isinstance(row.features, str)
        ],
        "duplicate": [line for _, within in duplicates for line in within],
    }
    return found | ({"stale features": find_stale(table, video_root)} if video_root else {})


def find_absent_labels(table, labels):
    """A line for each class that a list has no utterance of."""
    return [
        f"label {label} has no utterance in {split}"
        for split, group in table.groupby("split", sort=False)
        for label in labels
        if not (group["label"] == label).any()
    ]


def find_unknown_people(table):
    """A line where speakers, and one where dialogues, are not known of every utterance."""
    unknown = [(noun, table[noun].isna().sum()) for noun in ("speaker", "dialogue")]
    return [
        f"{noun} of {n} of {len(table)} utterances not known, so an overlap can't be seen; "
        f"a --manifest with the column {noun} tells it"
        for noun, n in unknown
        if n
    ]


def find_odd_sounds(table):
    """Silent and clipped sounds; a line each, by kind."""
    rows = list(table.itertuples())
    silent = [
        f"{row.split}:{row.id} is silent (peak {20 * np.log10(max(row.peak, 1e-9)):.0f} dB): {row.path}"
        for row in rows
        if row.peak < SILENCE
    ]
    clipped = [
        f"{row.split}:{row.id} is clipped ({row.clipped:.1%} of the samples at full scale): {row.path}"
        for row in rows
        if row.clipped > CLIPPED_SHARE
    ]
    return {"silent": silent, "clipped": clipped}


def find_stale(table, video_root):
    """Features whose frame count does not fit the duration; a line each, and the frame rate they were held against."""
    table = table[table["frames"].notna()].copy()
    seconds = table["span"].fillna(table["duration"])
    table = table.assign(seconds=seconds)[seconds > 0]
    if table.empty:
        return []
    rate, source = read_frame_rate(video_root), "features.json"
    longest = table["frames"].max()
    if rate is None:  # the usual rate of the features themselves; cut ones say nothing
        rates = table["frames"] / table["seconds"]
        whole = table["frames"] < longest
        rate, source = float((rates[whole] if whole.any() else rates).median()), "the median of the features"
    lines = []
    for row in table.itertuples():
        expected = min(row.seconds * rate, longest)  # longer ones may have been cut to the first frames
        if abs(row.frames - expected) > max(FRAMES_TOLERATED, FRAME_TOLERANCE * expected):
            lines.append(
                f"{row.split}:{row.id} has {int(row.frames)} frames, {expected:.0f} are expected of "
                f"{row.seconds:.2f} s at {rate:.4g} frames/s ({source})"
            )
    return lines


def read_frame_rate(video_root):
    """Feature rows a second as scripts.extract_clip recorded them in features.json; None where it did not."""
    path = Path(video_root) / "features.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return float(record["frame_rate"]) / int(record.get("frame_stride") or 1)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def print_tables(table, labels):
    """Label balance, durations and people of each list."""
    splits = list(dict.fromkeys(table["split"]))
    counts = pd.crosstab(table["label"], table["split"]).reindex(index=labels, columns=splits, fill_value=0)
    shares = counts.div(counts.sum()).map("{:.1%}".format).add_suffix(" share")
    print("Labels")
    print(pd.concat([counts, shares], axis=1).rename_axis(index=None, columns=None).to_string())
    groups = table.groupby("split", sort=False)
    durations = groups["duration"].agg(["count", "min", "median", "mean", "max", "sum"]).rename_axis(None)
    durations["hours"] = durations.pop("sum") / 3600
    durations["over 6 s"] = groups["duration"].apply(lambda seconds: f"{(seconds > 6).mean():.1%}")
    print("\nSeconds of sound")
    print(durations.round(3).to_string())
    people = groups[["speaker", "dialogue", "id"]].nunique().rename_axis(None)
    print("\nDistinct")
    print(people.rename(columns={"speaker": "speakers", "dialogue": "dialogues", "id": "utterances"}).to_string())
    print()


def print_findings(word, found, limit):
    """Print a line for each finding; the number of them."""
    for kind, lines in found.items():
        if lines:
            for line in join_problems(lines, limit or len(lines)).splitlines():
                print(f"{word} [{kind}]: {line}")
    return sum(len(lines) for lines in found.values())
