"""A folder of features that a training reads: which utterances it holds, whether they are good, their rows.

    <utt_id>.npy, <session>/<utt_id>.npy                      loose files, (frames, dim) float32 or float16
    shard-00000.safetensors, <session>/shard-00000.safetensors    many utterances in a file, a tensor an utterance

The place of an utterance's features is a text: the path of its file, or `<path of the shard>#<utt_id>`.
"""

import json
import os
import re
import struct
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np

from features.checked import CheckedFiles, check_files, hash_names
from running.errors import InputError, join_problems
from running.records import FileTable, replace_file

# What np.load raises for a file that is no array or a broken one; it reads the header as Python text.
BROKEN_ARRAY = (ValueError, OSError, EOFError, SyntaxError, TokenError, TypeError, ArithmeticError)
BROKEN_ARRAY += (LookupError, RecursionError, MemoryError)
# Python 3.11's parser counts its depth for all threads together: two headers at a time may end in a SystemError.
ONE_HEADER = threading.Lock()
PLAIN_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00v\x00\{'descr': '<(f[24])', 'fortran_order': False, 'shape': \((\d+), (\d+)\), } *\n"
)
SHARD = ".safetensors"
SHARD_NAME = re.compile(r"shard-\d+\.safetensors")
SHARD_DTYPES = {"F32": 4, "F16": 2}  # bytes of a number
MAKERS = {
    "ROOT": "the .npy features are",
    "--video_root": "scripts.extract_clip wrote its .npy files",
    "--audio_root": "the .npy audio features are",
}


def split_place(place):
    """The file of some features, and the utterance in it, None where it holds a single one."""
    path, mark, utt_id = str(place).partition(SHARD + "#")
    return (path + SHARD, utt_id) if mark else (str(place), None)


def read_features(path, max_frames=None):
    """Memory-map the features of one utterance.

    Args:
        path: .npy file, (frames, dim) float32 or float16, or a place in a shard.
        max_frames: rows to keep, None for all.
    Returns: (frames, dim) array, mapped, not yet read.
    Raises: InputError that names the file.
    """
    shard, utt_id = split_place(path)
    if utt_id is not None:
        return open_shard(shard).read(utt_id)[:max_frames]
    try:
        with ONE_HEADER:
            features = np.load(path, mmap_mode="r", allow_pickle=False)
    except BROKEN_ARRAY as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a .npy array: {reason}") from error
    if isinstance(features, np.lib.npyio.NpzFile):
        raise InputError(f"{path}: an archive of arrays; a single array (np.save) is expected")
    if features.ndim != 2 or features.shape[0] == 0 or features.shape[1] == 0:
        raise InputError(f"{path}: shape {features.shape}; (frames, dim) with at least one frame is expected")
    if features.dtype not in (np.float32, np.float16):
        raise InputError(f"{path}: dtype {features.dtype}; float32 or float16 is expected")
    return features[:max_frames]


def look_at_features(place, max_frames=None):
    """Rows and dim of some features, and how many rows were found finite. Raises: InputError."""
    rows, shape = _read_plain(place, max_frames)
    if rows is None:
        features = read_features(place)
        rows, shape = features[:max_frames], features.shape
    if not np.isfinite(rows).all():
        bad = int(np.argwhere(~np.isfinite(rows).all(1))[0, 0])
        raise InputError(f"{place}: row {bad} holds NaN or infinity")
    return *shape, len(rows)


def _read_plain(place, max_frames):
    """The first rows and the shape of what np.save writes, ten times as fast as np.load; else None, None."""
    try:
        with open(place, "rb", buffering=0) as file:
            header, size = PLAIN_HEADER.fullmatch(file.read(128)), os.fstat(file.fileno()).st_size
            if header is None:
                return None, None
            dtype, shape = np.dtype("<" + header[1].decode()), (int(header[2]), int(header[3]))
            if size != 128 + dtype.itemsize * shape[0] * shape[1] or size == 128:
                return None, None
            count = min(shape[0], max_frames or shape[0])
            return np.fromfile(file, dtype, count * shape[1]).reshape(count, shape[1]), shape
    except (OSError, ValueError):
        return None, None


def read_shard_header(path):
    """Where each tensor of a shard is.

    Returns: {utt_id: (first byte, rows, dim, bytes a number)}.
    Raises: InputError that names the file, and the utterance whose features no model can take.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise InputError(f"{path}: cut off, or no safetensors file")
            header = json.loads(file.read(length))
        tensors, first = {}, 8 + length
        for utt_id, entry in header.items():
            if utt_id == "__metadata__":
                continue
            width, shape, (begin, end) = SHARD_DTYPES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
            if width is None or len(shape) != 2 or 0 in shape:
                what = f"dtype {entry['dtype']}, shape {shape}"
                raise InputError(f"{path}: {utt_id}: {what}; (frames, dim) of F32 or F16 is expected")
            if not 0 <= begin <= end <= size - first or end - begin != width * shape[0] * shape[1]:
                raise InputError(f"{path}: {utt_id}: cut off")
            tensors[utt_id] = first + begin, *shape, width
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a safetensors file: {error}") from error
    return tensors


class Shard:
    """A mapped shard: its bytes, and where its tensors are, in 40 bytes an utterance.

    Args: path: file. tensors: of `read_shard_header`.
    """

    def __init__(self, path, tensors):
        self.path, keys = path, hash_names(tensors)
        order = np.argsort(keys)
        self.keys, self.tensors = keys[order], np.array(list(tensors.values()), np.int64).reshape(-1, 4)[order]
        self.content = np.memmap(path, np.uint8, "r")

    def read(self, utt_id):
        """(frames, dim) array, mapped. Raises: InputError."""
        key = hash_names([utt_id])[0]
        row = int(np.searchsorted(self.keys, key))
        if row == len(self.keys) or self.keys[row] != key:
            raise InputError(f"{self.path}: holds no {utt_id}")
        first, rows, dim, width = self.tensors[row].tolist()
        return self.content[first : first + rows * dim * width].view(f"<f{width}").reshape(rows, dim)


def write_shard(path, places, bar):
    """Write a shard, one utterance in memory at a time.

    Args: path: file. places: {utt_id: .npy file}. bar: progress bar, moved on by each.
    Raises: InputError for features that are not finite or no features.
    """
    header, end = {}, 0
    for utt_id, place in places.items():
        features = read_features(place)
        begin, end = end, end + features.nbytes
        dtype = "F32" if features.dtype == np.float32 else "F16"
        header[utt_id] = {"dtype": dtype, "shape": list(features.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replace_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for utt_id, place in places.items():
            look_at_features(place)
            features = np.ascontiguousarray(read_features(place))
            if features.nbytes != np.subtract(*header[utt_id]["data_offsets"][::-1]):
                raise InputError(f"{place}: was written while it was read")
            file.write(features.tobytes())
            bar.update()


_shards = {}  # {path: Shard} of this process; worker processes inherit what is mapped


def open_shard(path):
    """The Shard of a file, mapped once a process. Raises: InputError."""
    if path not in _shards:
        _shards[path] = Shard(path, read_shard_header(path))
    return _shards[path]


@dataclass
class Found:
    """What a check found of n utterances, parallel to their ids.

    Attributes:
        places: list of texts, None for an utterance without features.
        rows: (n,) int64, those used. errors: {i: message}. dim: the width of all of them, None without any.
        problem: a message where they differ in width, else None.
    """

    places: list
    rows: np.ndarray
    errors: dict
    dim: int | None = None
    problem: str | None = None


class FeatureFolder:
    """What a feature folder holds.

    Args:
        root: folder. flag: of the command line, that names it.
    Raises: InputError when the folder is missing, a shard is damaged or an utterance is there twice.
    """

    def __init__(self, root, flag="--video_root"):
        self.root = str(Path(root))
        if not os.path.isdir(self.root):
            raise InputError(f"{self.root}: no such folder; {flag} is where {MAKERS[flag]}")
        self.holders = []  # (what stands before the id in a place, what behind it)
        self.index, self.twice = {}, defaultdict(list)  # {utt_id: number of the holder}, {utt_id: places}
        for session in [None, *self._scan(self.root)]:
            if session is not None:
                self._scan(os.path.join(self.root, session))
        if self.twice:
            places = {utt_id: sorted(map(Path, found)) for utt_id, found in self.twice.items()}
            raise InputError(
                join_problems(
                    [
                        f"{place}: {first} holds features of the same utterance; keep one"
                        for first, *more in places.values()
                        for place in more
                    ]
                )
            )

    def _scan(self, folder):
        """Take in the files of a folder. Returns: the folders in it, sorted."""
        names, folders = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".npy") or SHARD_NAME.fullmatch(entry.name):
                        names.append(entry.name)
                    elif folder == self.root and entry.is_dir():
                        folders.append(entry.name)
        except PermissionError:
            if folder == self.root:
                raise
        loose = [name[:-4] for name in names if name.endswith(".npy")]
        self._take(folder + "/", ".npy", loose)
        for name in sorted(name for name in names if name.endswith(SHARD)):
            path = f"{folder}/{name}"
            tensors = read_shard_header(path)
            _shards[path] = Shard(path, tensors)
            self._take(path + "#", "", tensors)
        return sorted(folders)

    def _take(self, before, behind, utt_ids):
        number, index = len(self.holders), self.index
        self.holders.append((before, behind))
        for utt_id in utt_ids:
            if utt_id in index and not utt_id.startswith("."):  # what macOS leaves beside files
                self.twice[utt_id] = [*(self.twice[utt_id] or [self.get(utt_id)]), before + utt_id + behind]
            index[utt_id] = number

    def get(self, utt_id, default=None):
        """The place of an utterance's features."""
        number = self.index.get(utt_id)
        return default if number is None else utt_id.join(self.holders[number])

    def check(self, utt_ids, bar, max_frames=None):
        """Look at the features of some utterances. Args: bar: moved on by each. Returns: Found."""
        places = [self.get(utt_id) for utt_id in utt_ids]
        names = [place[len(self.root) + 1 :] if place else "" for place in places]
        files = [place and (split_place(place)[0] if SHARD in place else place) for place in places]
        most = np.inf if max_frames is None else max_frames

        def look(i):
            if places[i] is None:
                raise InputError(f"{self.root}: no features of {utt_ids[i]} ({utt_ids[i]}.npy)")
            return look_at_features(places[i], max_frames)

        def enough(values):
            return values[:, 2] >= np.minimum(values[:, 0], most)

        record = CheckedFiles(self.root, beside=True)
        values, errors = check_files(record, names, files, look, bar, enough)
        found = Found(places, np.minimum(values[:, 0], most).astype(np.int64), errors)
        dims, first = np.unique(values[:, 1].astype(np.int64), return_index=True)
        widths = {int(dims[k]): places[first[k]] for k in np.argsort(first) if dims[k]}
        if len(widths) > 1:
            found.problem = "; ".join(f"{path}: dim {dim}" for dim, path in widths.items()) + ": one dim is expected"
        found.dim = next(iter(widths), None)
        return found


def describe_files(utterances, modality):
    """The FileTable of the sounds and features that a list of Utterance uses. Raises: OSError where one is gone."""
    files = {u.path for u in utterances if not u.audio_features} if "a" in modality else set()
    files.update(split_place(place)[0] for u in utterances for place in (u.audio_features, u.features) if place)
    paths = sorted(files)
    stats = np.zeros((len(paths), 2), np.int64)
    for i, path in enumerate(paths):
        stat = os.stat(path)
        stats[i] = stat.st_size, stat.st_mtime_ns
    return FileTable(paths, stats)
