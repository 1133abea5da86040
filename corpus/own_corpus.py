"""A corpus of one's own: a folder of clips and a table -> manifest.csv, dropped.csv and fold lists.

A row of the table is an utterance. Its clip is found below the folder by the path or the name in the table, with or
without its suffix; a sound beside a video of the same name is its sound. `session` is what the folds hold out: a column
of the table, else the speaker, else (`groups`) groups of speakers, balanced in utterances and in the column `gender`.
"""

import logging
import os
from collections import defaultdict
from pathlib import Path

from corpus.manifest import REQUIRED
from corpus.preparing import PLACES, Clip, Release, add_groups, refuse, split_clips, write_corpus
from corpus.release_files import SOUNDS, VIDEOS, list_files, pick, read_table
from dataloader import find_id_fault
from running.errors import InputError, join_problems

logger = logging.getLogger("foalnet")

FIELDS = (*REQUIRED, *PLACES)


def parse_columns(text):
    """`id=file,label=emotion` -> {"id": "file", "label": "emotion"}. Raises: InputError for what is no such pair."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    columns = {field.strip(): name.strip() for field, _, name in pairs}
    if bad := [field for field, name in columns.items() if field not in FIELDS or not name]:
        raise InputError(f"--columns {','.join(bad)}: write field=name; fields are {' '.join(FIELDS)}")
    return columns


def prepare_own(table, root, out, columns, labels=None, label_map=None, *, groups=None, skip_missing=False):
    """Read a table and a folder of clips, write manifest, dropped utterances and lists.

    Args:
        table: path of the table. root: folder of the clips. out: folder to write to.
        columns: {field: name of its column}; a field that is not named is the column of its own name, if any.
        labels: names of the classes, None or `["all"]` for those of the table. label_map: {label: class}.
        groups: number of groups of speakers that stand for sessions. skip_missing: drop rows without a clip.
    Raises: InputError for a table or folder that doesn't hold what is needed.
    """
    root, rows = Path(os.path.abspath(root)), read_table(table)
    columns = find_columns(table, rows, columns, groups)
    paths = list_files(root)
    clips, used = read_rows(table, rows, columns, Finder(root, paths))
    release = Release(clips, ignored=[(path, "no row in the table") for path in paths if path not in used])
    refuse(str(table), release, skip_missing, False)
    if groups is not None:
        add_groups(clips, groups)
    heard = [clip for clip in clips if clip.path and clip.path.suffix.lower() in SOUNDS and "video" not in clip.columns]
    if heard:
        logger.warning("%d of %d utterances have no picture, such as %s", len(heard), len(clips), heard[0].path)
    label_map = label_map or {}
    found = sorted({label_map.get(clip.emotion, clip.emotion) for clip in clips})
    labels = found if labels in (None, ["all"]) else labels
    if label_map and (strange := label_map.keys() - {clip.emotion for clip in clips}):
        logger.warning("--label_map: %s is no label of %s", " ".join(sorted(strange)), table)
    if unknown := [label for label in labels if label not in found]:
        raise InputError(f"--labels {' '.join(unknown)}: not in {table}; its labels: {' '.join(found)}")
    kept, dropped = split_clips(release, {}, labels, label_map, root)
    write_corpus(kept, dropped, out, labels)


def find_columns(table, rows, columns, groups):
    """Which column of a table is which field.

    Args:
        table: its path, for messages. rows: as read_table gives them. columns: {field: name}, what the user said.
        groups: number of groups of speakers, or None.
    Returns: {field: name of its column} of the fields that the table has.
    Raises: InputError for a column that is not there, and where label, speaker or the clip's name has none.
    """
    if not rows:
        raise InputError(f"{table}: holds no row")
    header = list(rows[0][1])
    if absent := [name for name in columns.values() if name not in header]:
        raise InputError(f"{table}: no column {', '.join(absent)}; found {', '.join(header)}")
    columns = {field: field for field in FIELDS if field in header} | columns
    if "label" not in columns or not {"id", "path"} & columns.keys():
        raise InputError(f"{table}: label and path (or id) are needed, --columns label=NAME; found {', '.join(header)}")
    if "speaker" not in columns:
        raise InputError(
            f"{table}: no column speaker (--columns speaker=NAME); folds hold whole people out, or training would "
            f"hear those of the test; found {', '.join(header)}"
        )
    if groups is not None and "session" in columns:
        raise InputError(f"--groups {groups}: the column {columns['session']} says the sessions; leave one of them out")
    return columns


class Finder:
    """Finds clips below a folder by what a table calls them.

    Args:
        root: the folder. paths: the media below it, as list_files gives them.
    """

    def __init__(self, root, paths):
        self.root, self.named = Path(root), defaultdict(list)  # by the name with and without its suffix
        for path in paths:
            for name in {path.name, path.stem}:
                self.named[name].append(path)

    def find(self, name):
        """The one path that a name means, with or without a suffix; a sound before a video of the same name.

        Args: name: a path below the folder, or as much of a path's end as says which one.
        Returns: path, None where no path ends like that.
        Raises: InputError when several files could be meant.
        """
        if name and (self.root / name).is_file():
            return self.root / name
        end = "/" + name.replace("\\", "/").strip("/")
        found = [
            path
            for path in self.named[end.rpartition("/")[2]]
            if path.as_posix().endswith(end) or path.with_suffix("").as_posix().endswith(end)
        ]
        return _pick_one(found, SOUNDS + VIDEOS, repr(name))

    def find_video(self, path):
        """The video of a sound: of those of its name the one whose folders end most like the sound's.

        Args: path: the sound, or None.
        Returns: path; None where there is none, where it is nearer to another sound, and for what is no sound.
        Raises: InputError when several videos are as near.
        """
        if path is None or path.suffix.lower() not in SOUNDS:
            return None
        sounds = [other for other in self.named[path.stem] if other.suffix.lower() in SOUNDS]
        near = defaultdict(list)
        for video in self.named[path.stem]:
            common = _count_common_folders(path, video)
            nearest = max((_count_common_folders(sound, video) for sound in sounds), default=0)
            if video.suffix.lower() in VIDEOS and common == nearest and (common or len(sounds) == 1):
                near[common].append(video)
        return _pick_one(near[max(near)], VIDEOS, f"the video of {path}") if near else None


def _count_common_folders(path, other):
    """How many folders, counted from the file upwards, have the same names; all of them beside each other."""
    return len(os.path.commonprefix([path.parent.parts[::-1], other.parent.parts[::-1]]))


def _pick_one(paths, suffixes, what):
    by_suffix = {path.suffix.lower(): path for path in paths}
    if len(by_suffix) < len(paths):
        raise InputError(f"{what} could be {paths[0]} or {paths[1]}")
    return pick(by_suffix, suffixes)


def read_rows(table, rows, columns, finder):
    """The utterances of a table.

    Args:
        table: its path, for messages. rows: as read_table gives them. columns: {field: name of its column}.
        finder: Finder.
    Returns: (a Clip for each row, the set of files that they use).
    Raises: InputError that names every bad line.
    """
    clips, problems, used, seen = [], [], set(), {}
    for line, row in rows:
        cells = {field: row[name] for field, name in columns.items()}
        try:
            clip = read_row(cells, finder)
            if clip.id in seen:
                raise InputError(f"id {clip.id!r} stands on line {seen[clip.id]} already; name a column by id=NAME")
            if fault := find_id_fault(clip.id):
                raise InputError(f"id {clip.id!r} {fault}; it becomes a file name")
        except InputError as error:
            problems.append(f"{table}: line {line}: {error}")
            continue
        seen[clip.id] = line
        extra = {
            name: cell for name, cell in row.items() if name and name not in (*columns.values(), *FIELDS, "emotion")
        }
        clip.columns.update(extra)
        used |= {path for path in (clip.path, clip.columns.get("video")) if path}
        clips.append(clip)
    if problems:
        raise InputError(join_problems(problems))
    return clips, used


def read_row(cells, finder):
    """The Clip of a row.

    Args: cells: {field: cell}. finder: Finder.
    Returns: Clip; one whose files are not there says so in `missing`.
    Raises: InputError for a cell that must not be empty and a name that several files have.
    """
    if empty := [field for field in ("label", "speaker", "session") if cells.get(field) == ""]:
        raise InputError(f"{empty[0]} is empty")
    name = cells.get("path") or cells.get("id", "")
    path = finder.find(name)
    video = finder.find(cells["video"]) if cells.get("video") else finder.find_video(path)
    missing = [wanted for wanted, found in ((name, path), (cells.get("video"), video)) if wanted and not found]
    utt_id = cells.get("id") or (path or Path(name)).stem
    columns = {"session": cells.get("session") or cells["speaker"]}
    columns |= {field: cells[field] for field in ("start", "end", "crop") if field in cells}
    if video and video != path:
        columns["video"] = video
    label = "_".join(cells["label"].split())
    return Clip("_".join(utt_id.split()), label, cells["speaker"], path, columns, " and ".join(missing))
