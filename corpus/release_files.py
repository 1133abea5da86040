"""The files of a release: media found by name, tables of any of the usual encodings and separators.

Hidden files and folders (`._clip.mp4` of a Mac, `.git`) are not seen; suffixes count in any case.
"""

import csv
import io
import os
from pathlib import Path

from running.errors import InputError

SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus")
VIDEOS = (".mp4", ".avi", ".flv", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
LFS_POINTER = b"version https://git-lfs"


def list_files(root, suffixes=SOUNDS + VIDEOS):
    """The files of some kinds under a folder, however deep.

    Args: root: the folder. suffixes: lower-case ends of names.
    Returns: sorted list of paths.
    Raises: InputError when there is no such folder.
    """
    if not Path(root).is_dir():
        raise InputError(f"--root {root}: no such folder")
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in names if not name.startswith(".") and name.lower().endswith(suffixes)]
    return sorted(found)


def index_media(paths):
    """Files by name.

    Args: paths: list of paths.
    Returns: ({name without suffix: {lower-case suffix: path}}, [(path, why)] of second files of a name and suffix).
    """
    index, repeated = {}, []
    for path in paths:
        place = index.setdefault(path.stem, {})
        suffix = path.suffix.lower()
        if suffix in place:
            repeated.append((path, f"the same name as {place[suffix]}"))
        place.setdefault(suffix, path)
    return index, repeated


def pick(place, suffixes):
    """The path with the first of several suffixes.

    Args: place: {lower-case suffix: path}. suffixes: the ones that will do, the best first.
    Returns: path, None where there is none of them.
    """
    return next((place[suffix] for suffix in suffixes if suffix in place), None)


def find_one(root, *names):
    """A file of a release by its name, in any case of letters.

    Args: root: the folder. names: spellings of its name.
    Returns: its path, that nearest to the root of several.
    Raises: InputError when there is none.
    """
    wanted = {name.lower() for name in names}
    found = [path for path in list_files(root, tuple(wanted)) if path.name.lower() in wanted]
    if not found:
        raise InputError(f"{root}: holds no {' or '.join(names)}")
    return min(found, key=lambda path: (len(path.parts), path))


def refuse_lfs_pointers(paths):
    """Stop where a file is what Git LFS leaves in place of one that was not fetched.

    Args: paths: list of paths.
    Raises: InputError that names the first such file.
    """
    for path in paths:
        with open(path, "rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise InputError(f"{path}: is a pointer of Git LFS, not the file; `git lfs pull` fetches the clips")


def read_text(path):
    """The text of a file in UTF-8, with or without BOM, else in cp1252.

    Args: path: the file.
    Returns: str.
    Raises: InputError when there is no such file.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def read_table(path, needed=()):
    """Read a table whose cells are parted by commas, semicolons or tabs.

    Args:
        path: the file. needed: names of columns that have to be there, matched in any case and renamed to these.
    Returns: list of (line number, {column: stripped cell}).
    Raises: InputError for a file that is no such table, a missing column and lines with too many cells.
    """
    text = read_text(path)
    separator = max(",;\t", key=text.partition("\n")[0].count)
    reader, rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True), []
    try:
        header = [name.strip() for name in next(reader, [])]
        for name in needed:
            if name not in header:
                header = [name if old.lower() == name.lower() else old for old in header]
        if missing := [name for name in needed if name not in header]:
            raise InputError(f"{path}: no column {', '.join(missing)}; found {', '.join(header) or 'nothing'}")
        line = reader.line_num + 1
        for cells in reader:
            if any(map(str.strip, cells[len(header) :])):
                raise InputError(f"{path}: line {line}: {len(cells)} cells, {len(header)} columns; quotes are missing")
            if any(map(str.strip, cells)):
                cells += [""] * (len(header) - len(cells))
                rows.append((line, {name: cell.strip() for name, cell in zip(header, cells, strict=False)}))
            line = reader.line_num + 1  # a quoted cell may hold line breaks
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}") from error
    return rows
