"""manifest.csv: the one table behind the fold lists and the video features.

One row an utterance. Columns `id,path,label,speaker,session`, and optionally `video,start,end,crop`; further columns
(gender, style, ...) are kept and are there for reports to group by.

- `path`: the audio, or a file that holds sound and picture. Relative paths start at the manifest's folder.
- `video`: the file with the picture; defaults to `path`.
- `start`, `end`: where the utterance lies in `video`, in seconds; default the whole file.
- `crop`: `full`, `left` or `right` half of the picture; default `full`.
"""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from dataloader import find_id_fault
from running.errors import InputError, join_problems

REQUIRED = ("id", "path", "label", "speaker", "session")
CROPS = ("full", "left", "right")


def read_manifest(path, required=REQUIRED):
    """Read and check a manifest.

    Args:
        path: the csv file, UTF-8, with a header line.
        required: the columns that have to be there and filled in.
    Returns: a pandas.DataFrame of strings, sorted by `id`, with absolute `path` and `video`, float `start` and `end`
        (NaN where absent, seconds) and `crop` filled in.
    Raises: InputError that names every bad line at once.
    """
    path = Path(path)
    table, problems = _read_table(path, required)
    for column in ("video", "start", "end", "crop"):
        if column not in table:
            table[column] = ""
    problems += _find_problems(table, path, required)
    if problems:
        raise InputError(join_problems(problems))
    if table.empty:
        raise InputError(f"{path}: has a header and no utterance")
    root = path.resolve().parent
    table["video"] = table["video"].where(table["video"] != "", table["path"])
    for column in ("path", "video"):
        table[column] = [str(root / value) for value in table[column]]
    for column in ("start", "end"):
        table[column] = table[column].map(_seconds).astype(float)
    table["crop"] = table["crop"].replace("", "full")
    return table.sort_values("id", kind="stable").reset_index(drop=True)


def write_manifest(table, path):
    """Write a manifest: `id` order, times with four decimals, absent values empty."""
    table = table.sort_values("id", kind="stable")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.4f", lineterminator="\n")


def fold_name(session):
    """The name of the fold that holds `session` out: `1`, `01`, `Session1`, `session1` -> `session1`, else as it is."""
    session = str(session)
    digits = session.lower().removeprefix("session").lstrip("_- ")
    return f"session{int(digits)}" if digits.isascii() and digits.isdecimal() else session


def _read_table(path, required):
    """The cells of a manifest by line and column, and a problem for each line with more fields than columns."""
    (_, header), *lines = _read_lines(path, required)
    missing = [column for column in required if column not in header]
    if missing:
        raise InputError(
            f"{path}: line 1: no column {','.join(missing)}; found {','.join(header)}; needed {','.join(required)}"
        )
    repeated = [(name, n) for name, n in Counter(header).items() if name and n > 1]
    if repeated:
        raise InputError(
            join_problems([f"{path}: line 1: column {name} stands {n} times; allowed is once" for name, n in repeated])
        )
    rows, problems = {}, []
    for line, cells in lines:
        left_over = cells[len(header) :]
        if any(left_over):
            problems.append(
                f"{path}: line {line}: {', '.join(map(repr, left_over))} stand behind the last of the {len(header)} "
                "columns of the header; a value that holds a comma needs double quotes"
            )
        elif any(cells):
            rows[line] = (cells + [""] * len(header))[: len(header)]
    columns = [name or f"unnamed {number}" for number, name in enumerate(header, start=1)]
    return pd.DataFrame(rows.values(), index=list(rows), columns=columns, dtype=str), problems


def _read_lines(path, required):
    """The stripped cells of each line of a csv file, [(number of the line, list of str)]."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; a manifest.csv with the columns {','.join(required)} is needed")
    lines, number = [], 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                lines.append((number, [cell.strip() for cell in cells]))
                number = reader.line_num + 1  # a quoted cell may hold line breaks
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a UTF-8 csv file with a header line: line {number}: {error}") from error
    if not lines:
        raise InputError(f"{path}: not a UTF-8 csv file with a header line: it is empty")
    return lines


def _find_problems(table, path, required):
    problems = []
    seen = {}
    for line, row in zip(table.index, table.to_dict("records"), strict=True):
        where = f"{path}: line {line}"
        for column in required:
            if row[column] == "":
                problems.append(f"{where}: column {column} is empty")
        utt_id = row["id"]
        fault = "holds a space" if any(map(str.isspace, utt_id)) else find_id_fault(utt_id)
        if fault:
            problems.append(f"{where}: id {utt_id!r} {fault}; it becomes a file name")
        if utt_id and utt_id in seen:
            problems.append(f"{where}: id {utt_id!r} stands on line {seen[utt_id]} already")
        seen.setdefault(utt_id, line)
        if any(character.isspace() for character in row.get("label", "")):
            problems.append(f"{where}: label {row['label']!r} holds a space")
        if row["crop"] and row["crop"] not in CROPS:
            problems.append(f"{where}: crop {row['crop']!r} is not one of {', '.join(CROPS)}")
        times = [_seconds(row[column]) for column in ("start", "end")]
        for column, value in zip(("start", "end"), times, strict=True):
            if value is None:
                problems.append(f"{where}: {column} {row[column]!r} is not a time in seconds, zero or more")
        if None not in times and times[1] <= times[0]:
            problems.append(f"{where}: end {row['end']} is not after start {row['start']}")
    return problems


def _seconds(text):
    """Seconds of a table cell, NaN where it is empty, None where it is no time."""
    if text == "":
        return float("nan")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) and value >= 0 else None
