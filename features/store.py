"""A folder of features: `<utt_id>.npy`, (frames, dim), and features.json, which says what they were made with.

A file is there whole or not at all, so the files that are there are the utterances that are finished.
"""

import contextlib
import logging
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from running.errors import InputError, join_problems
from running.records import read_json, write_array, write_json

logger = logging.getLogger("foalnet")

SETTINGS_FILE = "features.json"


class FeatureWriter:
    """Collect the rows of each utterance and write `<out>/<utt_id>.npy` when it is complete, all or nothing.

    Args:
        out: folder.
        dtype: numpy dtype on disk.
    """

    def __init__(self, out, dtype):
        self.out, self.dtype, self.rows = Path(out), dtype, defaultdict(list)

    def add(self, features, owners):
        """Rows (B, dim) and, for each, the ids that it belongs to."""
        for row, utt_ids in zip(features, owners, strict=True):
            for utt_id in utt_ids:
                self.rows[utt_id].append(row)

    def finish(self, utt_id):
        write_array(self.out / f"{utt_id}.npy", np.stack(self.rows.pop(utt_id)).astype(self.dtype))


class FeatureCollector(FeatureWriter):
    """Keep the rows of each utterance in memory. Attributes: features: {id: (frames, dim) array of `dtype`}."""

    def __init__(self, dtype):
        super().__init__("", dtype)
        self.features = {}

    def finish(self, utt_id):
        self.features[utt_id] = np.stack(self.rows.pop(utt_id)).astype(self.dtype)


def remove_unfinished(out, age=600.0):
    """Remove what a killed process left of arrays that it was writing. Args: age: seconds since; a write takes one."""
    for part in Path(out).glob(".*.npy*.part"):
        with contextlib.suppress(OSError):  # it may be finished, or gone, by now
            if time.time() - part.stat().st_mtime >= age:
                part.unlink()


def find_finished(out, utt_ids):
    """Those of the ids that have a file, in their order."""
    return [utt_id for utt_id in utt_ids if (Path(out) / f"{utt_id}.npy").is_file()]


def describe_sources(table):
    """Where each utterance's frames come from, dict id -> `video start end crop`: kept in features.json."""
    return {
        row.id: f"{Path(row.video).name} {row.start:.4f} {row.end:.4f} {row.crop}".replace("nan", "-")
        for row in table.itertuples()
    }


def read_record(path):
    """features.json as a dict; one that does not say of which type its encoder is, is of CLIP. Raises: InputError."""
    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError(f"{path}: not a JSON object")
    return {"model_type": "clip", **record}


def compare_settings(out, settings, sources, finished):
    """Refuse to mix features of different settings in one folder.

    Args:
        out: the feature folder.
        settings: what this run would record.
        sources: `describe_sources` of the manifest.
        finished: ids that have a file already.
    Returns: the record of the run before, a dict, empty for a new folder.
    Raises: InputError that names each difference.
    """
    path = Path(out) / SETTINGS_FILE
    if not path.is_file():
        if finished:
            raise InputError(f"{path}: missing, but {out} holds features ({finished[0]}.npy ...); use another --out")
        return {}
    record = read_record(path)
    problems = [
        f"{path}: {key} is {record.get(key)!r}, asked for {value!r}; use another --out"
        for key, value in settings.items()
        if record.get(key) != value
    ]
    problems += [
        f"{path}: {utt_id} was cut from {record['sources'][utt_id]!r}, the manifest says {sources[utt_id]!r}; "
        f"remove {utt_id}.npy or use another --out"
        for utt_id in finished
        if record.get("sources", {}).get(utt_id, sources[utt_id]) != sources[utt_id]
    ]
    if finished and problems:
        raise InputError(join_problems(problems))
    return record


def write_record(out, settings, table, sources, previous, reports=()):
    """Write features.json: the settings, usual frame rate and picture size, how many utterances, their sources."""
    done = {path.stem for path in Path(out).glob("*.npy")}
    sources = {**previous.get("sources", {}), **sources}
    known = [rate for rate, _ in Counter(report.rate for report in reports).most_common() if rate]
    picture = [list(size) for size, _ in Counter(report.size for report in reports).most_common() if size]
    if len(known) > 1:
        logger.warning("videos of different frame rates: %s", ", ".join(f"{rate:.3f}" for rate in known))
    record = {
        **settings,
        "crop": sorted(set(table["crop"])),
        "frame_rate": round(known[0], 3) if known else previous.get("frame_rate"),
        "picture_size": picture[0] if picture else previous.get("picture_size"),
        "utterances": len(done & sources.keys()),
        "sources": dict(sorted(sources.items())),
    }
    write_json(Path(out) / SETTINGS_FILE, record)
