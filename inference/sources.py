"""What is to be answered for: files, folders, globs, lists and manifests -> Source."""

import contextlib
import glob
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from corpus.manifest import read_manifest
from dataloader import read_scp_lines
from running.errors import InputError

MEDIA = "wav flac ogg opus mp3 m4a aac aif aiff au sph wma amr".split()
MEDIA += "mp4 avi mov mkv webm m4v mpg mpeg wmv flv 3gp ts mts".split()


@dataclass(frozen=True)
class Source:
    """A sound, a picture or both, of which one answer is wanted.

    Attributes:
        name: what the answer is called by. path: file with the sound; None where `samples` are given.
        video: file with the picture, None: that of `path`. start, end: seconds in `video`, and in `path` where that is
            the same file. crop: `full`, `left`, `right` or None, not said. features: .npy of video features.
        samples: (n,) float32 at 16 kHz instead of a file.
    """

    name: str
    path: str | None = None
    video: str | None = None
    start: float = 0.0
    end: float | None = None
    crop: str | None = None
    features: str | None = None
    samples: np.ndarray | None = field(default=None, compare=False)

    @property
    def picture(self):
        """The file that would hold the picture, or None."""
        return self.video or self.path

    @property
    def span(self):
        """(start, seconds or None for all) in the file of the sound: where it is the picture's, the same part."""
        if self.video not in (None, self.path):
            return 0.0, None
        return self.start, None if self.end is None else self.end - self.start


def show_text(text):
    """A text of one line that acts on no terminal and fits into any file: what can't be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def find_sources(words, stdin=None):
    """Sources of a command line.

    Args:
        words: list of str: files, folders (every sound and video below), globs, `.scp` lists (`id path label`),
            manifests (`.csv` with at least `id,path`), `-` for a list of them on stdin, a line each.
        stdin: file that `-` reads; None: the program's.
    Returns: list of Source, each name once; list of what is wrong with words that give none, sentences.
    Raises: InputError where no word gives any.
    """
    sources, problems = [], []
    for word in words:
        try:
            if word == "-":
                lines = [line.strip() for line in (stdin or sys.stdin)]
                lines = [line for line in lines if line and line != "-"]
                if not lines:
                    raise InputError("stdin: holds no source")
                found, wrong = find_sources(lines)
                sources, problems = sources + found, problems + wrong
            else:
                sources += _expand(word)
        except InputError as error:
            problems += str(error).splitlines()
    if not sources:
        raise InputError("\n".join(problems))
    named = {}
    for source in sources:
        if named.setdefault(source.name, source) != source:
            problems.append(f"{source.name}: names two sources; the second, {source.path}, is left out")
    return list(named.values()), problems


def _expand(word):
    path = Path(word)
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if _is_media(file)]
        if not files:
            raise InputError(f"{word}: no sound and no video in this folder")
        return [Source(show_text(file), str(file)) for file in files]
    if path.is_file() and path.suffix == ".scp":
        return [Source(utt_id, sound) for _, utt_id, sound, _ in read_scp_lines(path)]
    if path.is_file() and path.suffix == ".csv":
        return read_manifest_sources(path)
    if path.is_file() or not glob.has_magic(word):
        return [Source(show_text(word), word)]  # one that is not there is named with the others that can't be read
    names = sorted(name for name in glob.glob(word, recursive=True) if Path(name).is_dir() or _is_media(Path(name)))
    if not names:
        raise InputError(f"{word}: no sound and no video fits; give files, folders, globs, an scp list or a manifest")
    found = []
    for name in names:
        with contextlib.suppress(InputError):  # a folder without media
            found += _expand(name)
    if not found:
        raise InputError(f"{word}: no sound and no video in these folders")
    return found


def _is_media(path):
    return path.is_file() and path.suffix.lower().lstrip(".") in MEDIA and not path.name.startswith(".")


def read_manifest_sources(path):
    """Sources of a manifest, of which only `id` and `path` have to be there. Raises: InputError."""
    table = read_manifest(path, required=("id", "path"))
    return [
        Source(
            row.id,
            row.path,
            row.video,
            0.0 if np.isnan(row.start) else row.start,
            None if np.isnan(row.end) else row.end,
            row.crop,
        )
        for row in table.itertuples()
    ]
