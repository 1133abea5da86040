"""A corpus of one's own: a folder of clips and a table -> manifest.csv, dropped.csv and fold lists.

A row of the table is an utterance. Its clip is found below the folder by the path or the name in the table, with or
without its suffix; a sound beside a video of the same name is its sound. `session` is what the folds hold out: a column
of the table, else the speaker, else (`groups`) groups of speakers, balanced in utterances and in the column `gender`.
"""

import logging
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
    rows = read_table(table)
    columns = find_columns(table, rows, columns, groups)
    paths = list_files(root)
    clips, used = read_rows(table, rows, columns, Finder(root, paths))
    release = Release(clips, ignored=[(path, "no row in the table") for path in paths if path not in used])
    refuse(str(table), release, skip_missing, False)
    if groups is not None:
        add_groups(clips, groups)
    if release.ignored:
        logger.warning("%d clips have no row in %s, see dropped.csv", len(release.ignored), table)
    label_map = label_map or {}
    found = sorted({label_map.get(clip.emotion, clip.emotion) for clip in clips})
    labels = found if labels in (None, ["all"]) else labels
    if unknown := [label for label in labels if label not in found]:
        raise InputError(f"--labels {' '.join(unknown)}: not in {table}; its labels: {' '.join(found)}")
    kept, dropped = split_clips(release, {}, labels, label_map, Path(root))
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

    def find(self, name, suffixes):
        """The one path that a name means, None where there is none, the first with these suffixes where it has none.

        Raises: InputError when several files could be meant.
        """
        direct = self.root / name
        if name and direct.is_file():
            return direct
        plain = name.replace("\\", "/").rsplit("/", 1)[-1]
        found = self.names.get(plain) or self.stems.get(plain, [])
        if len({path.suffix.lower() for path in found}) < len(found):
            raise InputError(f"{name!r} could be {found[0]} or {found[1]}")
        return pick({path.suffix.lower(): path for path in found}, suffixes)


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
    if empty := [field for field in ("label", "speaker") if not cells[field]]:
        raise InputError(f"{empty[0]} is empty")
    name = cells.get("path") or cells.get("id", "")
    path = finder.find(name, SOUNDS + VIDEOS)
    video = finder.find(cells.get("video") or name, VIDEOS + SOUNDS)
    missing = [wanted for wanted, found in ((name, path), (cells.get("video", ""), video)) if wanted and not found]
    utt_id = cells.get("id") or Path(name.replace("\\", "/")).stem
    places = {field: cells[field] for field in ("start", "end", "crop") if field in cells}
    session = cells.get("session") or cells["speaker"]
    columns = {"session": session, "video": video, **places}
    speaker, label = cells["speaker"], "_".join(cells["label"].split())
    return Clip("_".join(utt_id.split()), label, speaker, path, columns, " and ".join(missing))
