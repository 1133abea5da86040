"""A folder of features: `<utt_id>.npy`, (frames, dim), and features.json, which says what they were made with.

With faces, faces.csv says of each utterance how many of its frames show one.

A file is there whole or not at all, so the files that are there are the utterances that are finished.
"""

import contextlib
import csv
import io
import logging
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from running.errors import InputError, join_problems
from running.records import read_json, write_array, write_json

logger = logging.getLogger("foalnet")

SETTINGS_FILE = "features.json"
FACES_FILE = "faces.csv"
FACE_COLUMNS = ("utt_id", "frames", "frames_with_face")


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

    def count_faces(self, utt_id, faces, kept):
        """Note how many of an utterance's frames show its face, ahead of `finish`."""
        with open(self.out / FACES_FILE, "a", encoding="utf-8", newline="") as file:  # a line at once, of any process
            file.write(_join_cells([utt_id, kept, faces]))

    def finish(self, utt_id):
        write_array(self.out / f"{utt_id}.npy", np.stack(self.rows.pop(utt_id)).astype(self.dtype))


class FeatureCollector(FeatureWriter):
    """Keep the rows of each utterance in memory.

    Attributes: features: {id: (frames, dim) array of `dtype`}. faces: {id: (frames with a face, frames)}.
    """

    def __init__(self, dtype):
        super().__init__("", dtype)
        self.features, self.faces = {}, {}

    def count_faces(self, utt_id, faces, kept):
        self.faces[utt_id] = faces, kept

    def finish(self, utt_id):
        self.features[utt_id] = np.stack(self.rows.pop(utt_id)).astype(self.dtype)


def remove_unfinished(out, age=600.0):
    """Remove what a killed process left of arrays that it was writing. Args: age: seconds since; a write takes one."""
    for part in Path(out).glob(".*.npy*.part"):
        with contextlib.suppress(OSError):  # it may be finished, or gone, by now
            if time.time() - part.stat().st_mtime >= age:
                part.unlink()


def _join_cells(cells):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def begin_face_counts(out):
    """Write the head of faces.csv where there is none."""
    path = Path(out) / FACES_FILE
    if not path.exists():
        path.write_text(_join_cells(FACE_COLUMNS), encoding="utf-8")


def count_face_frames(out, done):
    """What faces.csv says of the finished utterances; the last line of each counts.

    Args: out: the feature folder. done: set of ids.
    Returns: dict of frames, frames with a face, utterances without any.
    """
    with open(Path(out) / FACES_FILE, encoding="utf-8", newline="") as file:
        lines = [line for line in csv.reader(file) if len(line) == len(FACE_COLUMNS)][1:]
    counts = {utt_id: (int(frames), int(faces)) for utt_id, frames, faces in lines if utt_id in done}
    frames, faces = (sum(count[k] for count in counts.values()) for k in (0, 1))
    without = sum(faces == 0 for _, faces in counts.values())
    return {"frames": frames, "frames_with_face": faces, "utterances_without_face": without}


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
    """Write features.json: the settings, usual frame rate and picture size, how many utterances, their sources.

    Returns: what was written, a dict.
    """
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
    if settings["face_crop"]:
        record["face_counts"] = count_face_frames(out, done & sources.keys())
    write_json(Path(out) / SETTINGS_FILE, record)
    return record
