"""Is a train/valid/test set sound? One report over the lists, the sounds and the features.

    python -m scripts.check_corpus --train_src folds/strict/session1_train.scp \\
        --valid_src folds/strict/session1_valid.scp --test_src folds/strict/session1_test.scp \\
        --manifest manifest.csv --video_root features

- leakage: a speaker, a dialogue, an utterance or the same content (sound or features, by hash) in two lists;
- errors: sounds and features that are missing or can't be read, which train.py would refuse;
- warnings: silent or clipped sounds, features whose frame count does not fit the duration, duplicates within a list,
  labels without an utterance.

Exit code 0: sound, perhaps with warnings. 1: leakage. 2: errors, bad lists or arguments.
"""

import argparse
import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from corpus.folds import parse_iemocap_id
from corpus.manifest import read_manifest
from dataloader import (
    LABELS,
    MIN_SAMPLES,
    SAMPLE_RATE,
    index_features,
    parse_label_map,
    parse_labels,
    read_audio,
    read_duration,
    read_features,
    read_scp,
)
from running.errors import InputError, command, join_problems
from running.progress import progress_bar

logger = logging.getLogger("foalnet")

SILENCE = 10 ** (-60 / 20)  # peak below -60 dB of full scale
CLIPPED_LEVEL = 0.999  # of full scale
CLIPPED_SHARE = 0.001  # of the samples at that level
FRAME_TOLERANCE = 0.1  # of the expected frames, and at least
FRAMES_TOLERATED = 3


@dataclass
class Content:
    """What is in the files of one utterance; None where there is nothing to know."""

    errors: list
    duration: float | None = None  # seconds of sound
    peak: float | None = None  # of full scale
    clipped: float | None = None  # share of the samples at full scale
    sound: str | None = None  # hash of the decoded samples, None for silence
    frames: int | None = None
    dim: int | None = None
    features: str | None = None  # hash of the feature rows, None when they are all the same


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.check_corpus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train_src", required=True, help="scp list that is trained on")
    parser.add_argument("--valid_src", help="scp list that the epoch is chosen on")
    parser.add_argument("--test_src", help="scp list that is reported")
    parser.add_argument("--video_root", help="folder of the video features (default: features are not looked at)")
    parser.add_argument(
        "--manifest",
        help="table that knows speaker, dialogue and times (default: speaker and dialogue from IEMOCAP ids)",
    )
    parser.add_argument(
        "--labels", nargs="+", default=list(LABELS), help=f"classes in index order (default: {' '.join(LABELS)})"
    )
    parser.add_argument("--label_map", default="", help="labels to merge first, for example exc=hap (default: none)")
    parser.add_argument(
        "--max_lines", type=int, default=20, help="lines shown for each kind of finding; 0: all (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    args.labels = parse_labels(args.labels)
    if not (args.valid_src or args.test_src):
        parser.error("--valid_src or --test_src is needed")
    return args


def read_lists(args):
    """The utterances of all lists: a DataFrame with split, id, path, label (name), features (path or empty)."""
    lists = {"train": args.train_src, "valid": args.valid_src, "test": args.test_src}
    index = index_features(args.video_root) if args.video_root else {}
    rows, problems = [], []
    for split, source in lists.items():
        try:
            utterances = read_scp(source, args.labels, parse_label_map(args.label_map)) if source else []
        except InputError as error:
            problems.append(str(error))
            continue
        rows += [
            (split, item.utt_id, item.path, args.labels[item.label], index.get(item.utt_id, "")) for item in utterances
        ]
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


def inspect(path, features, wants_features):
    """Read the sound and the features of one utterance: Content."""
    content = Content(errors=[])
    try:
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file")
        samples = read_audio(path) if read_duration(path) else ()
        if len(samples) < MIN_SAMPLES:
            raise InputError(f"{path}: {len(samples) / SAMPLE_RATE * 1000:.1f} ms of sound; at least 25 ms are needed")
        if not np.isfinite(samples).all():
            raise InputError(f"{path}: holds NaN or infinity")
        level = np.abs(samples)
        content.duration, content.peak = len(samples) / SAMPLE_RATE, float(level.max())
        content.clipped = float((level >= CLIPPED_LEVEL).mean())
        if content.peak >= SILENCE:
            content.sound = _hash(np.round(samples * 32768).astype("<i4"))
    except InputError as error:
        content.errors.append(str(error))
    if not wants_features:
        return content
    try:
        if not features:
            raise InputError("no features")
        rows = np.asarray(read_features(features))
        if not np.isfinite(rows).all():
            raise InputError(f"{features}: holds NaN or infinity")
        content.frames, content.dim = rows.shape
        if len(rows) == 1 or (rows != rows[0]).any():
            content.features = _hash(rows.astype("<f4"))
    except InputError as error:
        content.errors.append(str(error))
    return content


def _hash(array):
    return hashlib.blake2b(np.ascontiguousarray(array), digest_size=16).hexdigest()


def add_content(table, wants_features):
    """Add the fields of Content, reading the files of every different utterance once."""
    keys = list(zip(table["path"], table["features"], strict=True))
    unique = list(dict.fromkeys(keys))
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda key: inspect(*key, wants_features), unique)
        contents = dict(zip(unique, progress_bar(found, total=len(unique), desc="Read", unit="utt"), strict=True))
    fields = pd.DataFrame([vars(contents[key]) for key in keys], index=table.index)
    numbers = ["duration", "peak", "clipped", "frames", "dim"]
    fields = fields.astype(dict.fromkeys(numbers, float))
    return pd.concat([table.drop(columns="features"), fields], axis=1)


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


def find_leaks(table):
    """Everything that stands in two lists; a line each, by kind."""
    return {
        "speaker": find_shared(table, "speaker", "speaker"),
        "dialogue": find_shared(table, "dialogue", "dialogue"),
        "utterance": find_shared(table, "id", "utterance"),
        "sound": find_duplicates(table, "sound", "sound")[0],
        "features": find_duplicates(table, "features", "video features")[0],
    }


def find_errors(table, video_root):
    """What train.py would refuse; a line each."""
    lines = []
    for row in table.itertuples():
        where = f"{row.split}:{row.id}"
        lines += [
            f"{where}: {video_root} holds no {row.id}.npy" if error == "no features" else f"{where}: {error}"
            for error in row.errors
        ]
    dims = table.dropna(subset=["dim"]).groupby("dim")["id"].agg(["size", "first"])
    if len(dims) > 1:
        found = "; ".join(f"dim {dim:.0f} in {row['size']}, such as {row['first']}" for dim, row in dims.iterrows())
        lines.append(f"{video_root}: {found}; one dim is expected")
    return lines


def find_warnings(table, args):
    """What a person should look at; a line each, by kind."""
    rows = list(table.itertuples())
    absent = [
        f"label {label} has no utterance in {split}"
        for split, group in table.groupby("split", sort=False)
        for label in args.labels
        if not (group["label"] == label).any()
    ]
    unknown = [
        f"{noun} of {n} of {len(table)} utterances not known, so an overlap can't be seen; "
        f"a --manifest with the column {noun} tells it"
        for noun, n in (("speaker", table["speaker"].isna().sum()), ("dialogue", table["dialogue"].isna().sum()))
        if n
    ]
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
    constant = [
        f"{row.split}:{row.id} has {int(row.frames)} video frames that are all the same"
        for row in rows
        if row.frames > 1 and not isinstance(row.features, str)
    ]
    found = {
        "label": absent,
        "not known": unknown,
        "silent": silent,
        "clipped": clipped,
        "constant features": constant,
        "duplicate": [
            *find_duplicates(table, "sound", "sound")[1],
            *find_duplicates(table, "features", "video features")[1],
        ],
    }
    return found | ({"stale features": find_stale(table, args.video_root)} if args.video_root else {})


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


@command
def main(argv=None):
    args = parse_args(argv)
    table = read_lists(args)
    table = add_people(table, read_manifest(args.manifest) if args.manifest else None)
    table = add_content(table, wants_features=bool(args.video_root))
    print_tables(table, args.labels)
    leaks = print_findings("leak", find_leaks(table), args.max_lines)
    errors = print_findings("error", {"files": find_errors(table, args.video_root)}, args.max_lines)
    warnings = print_findings("warning", find_warnings(table, args), args.max_lines)
    verdict = "NOT SOUND" if leaks or errors else "sound"
    print(f"{verdict}: {len(table)} utterances, {leaks} leaks, {errors} errors, {warnings} warnings")
    return 1 if leaks else 2 if errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
