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
    """`id=file,label=emotion` -> {"id": "file", "label": "emotion"}. Raises: InputError."""
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
    if release.ignored:
        logger.warning("%d clips have no row in %s, see dropped.csv", len(release.ignored), table)
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
    """{field: name of its column} of the fields that the table has. Raises: InputError where a needed one is not."""
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
    """Finds clips below a folder by what a table calls them."""

    def __init__(self, root, paths):
        self.root, self.names, self.stems = Path(root), defaultdict(list), defaultdict(list)
        for path in paths:
            self.names[path.name].append(path)
            self.stems[path.stem].append(path)

    def find(self, name):
        """The one path that a name means, None where there is none; a sound before a video of the same name.

        Raises: InputError when several files could be meant.
        """
        direct = self.root / name
        if name and direct.is_file():
            return direct
        name = name.replace("\\", "/").strip("/")
        plain = name.rsplit("/", 1)[-1]
        found = self.names.get(plain) or self.stems.get(plain, [])
        below = [path for path in found if f"/{name}" in (path.as_posix()[-len(name) - 1 :], _tail(path, name))]
        found = below or found
        by_suffix = {path.suffix.lower(): path for path in found}
        if len(by_suffix) < len(found):
            raise InputError(f"{name!r} could be {found[0]} or {found[1]}")
        return pick(by_suffix, SOUNDS + VIDEOS)

    def find_video(self, path):
        """The video of the name of a sound, beside it or the only one; None where there is none."""
        videos = [other for other in self.stems[path.stem] if other.suffix.lower() in VIDEOS] if path else []
        beside = [other for other in videos if other.parent == path.parent]
        beside = beside or [other for other in videos if other.parent.name == path.parent.name]
        return beside[0] if beside else videos[0] if len(videos) == 1 else None


def _tail(path, name):
    """As many characters of a path without its suffix as `/name` has."""
    return path.with_suffix("").as_posix()[-len(name) - 1 :]


def read_rows(table, rows, columns, finder):
    """(a Clip for each row, the set of files that they use). Raises: InputError that names every bad line."""
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
    """The Clip of {field: cell}."""
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
