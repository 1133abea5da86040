"""Which files were found good, so that a start reads only those that are new or were written since.

    <feature folder>/.checked.npz, or <cache>/<hash>.npz for sounds and folders that can't be written

A record holds a row for each good file: a hash of its name, its size, its time of change, and what the check found. It
is an aid: what is damaged, of another version or can't be written is left out, and the files are read again.
"""

import contextlib
import hashlib
import logging
import os
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from running.errors import InputError
from running.records import replace_file

logger = logging.getLogger("foalnet.dataloader")

RECORD_FILE = ".checked.npz"
VERSION = 1  # of what a check looks at: a newer check trusts no older one
FIELDS = 3  # numbers that a check finds of a file
FRESH = 2_000_000_000  # ns; a file that changed just now may change again without a new time
READERS = 8  # threads
PART = 64  # files a thread takes at a time
DAMAGED = (ValueError, OSError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError, RecursionError)
DAMAGED += (SyntaxError, zipfile.BadZipFile, zlib.error, NotImplementedError)
TYPES = {"keys": np.uint64, "stats": np.int64, "values": np.float64}


def hash_names(names):
    """(n,) uint64 of n texts, the same in every process."""
    digests = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), "<u8")


def find_cache():
    """$FOALNET_CACHE (empty: none), else the user's folder for what may be lost; None where there is none."""
    if (place := os.environ.get("FOALNET_CACHE")) is not None:
        return Path(place) if place else None
    with contextlib.suppress(RuntimeError):  # no home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "foalnet")
    return None


class CheckedFiles:
    """The record of one folder.

    Args:
        root: folder that the names of the files are relative to.
        beside: keep the record in that folder, where it can be written.
    """

    def __init__(self, root, beside):
        self.root, cache = os.path.abspath(root), find_cache()
        self.places = [Path(self.root, RECORD_FILE)] if beside else []
        if cache is not None:
            self.places.append(cache / f"{int(hash_names([self.root])[0]):016x}.npz")
        self.keys, self.stats = np.zeros(0, np.uint64), np.zeros((0, 2), np.int64)
        self.values = np.zeros((0, FIELDS))
        for place in self.places:
            self._read(place)

    def _read(self, place):
        try:
            with np.load(place, allow_pickle=False) as record:
                if int(record["version"]) != VERSION:
                    return
                arrays = {name: record[name] for name in TYPES}
            shapes = {"keys": (n := len(arrays["keys"]),), "stats": (n, 2), "values": (n, FIELDS)}
            if any(arrays[name].shape != shapes[name] or arrays[name].dtype != TYPES[name] for name in TYPES):
                raise ValueError("other arrays than expected")
        except FileNotFoundError:
            return
        except DAMAGED as error:
            logger.warning("%s: damaged (%s); every file is read again", place, type(error).__name__)
            return
        self.add(**arrays)

    def find(self, keys, stats):
        """The row of each of n files, (n,) int64; -1 for those that are not known as they are now."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        rows = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        known = (self.keys[rows] == keys) & (self.stats[rows] == stats).all(1)
        return np.where(known, rows, -1)

    def add(self, keys, stats, values):
        """Take in n files: (n,) uint64, (n, 2) int64 of bytes and ns, (n, FIELDS) float64; the later one counts."""
        keys = np.concatenate([keys, self.keys])
        self.keys, rows = np.unique(keys, return_index=True)
        self.stats = np.concatenate([stats, self.stats])[rows]
        self.values = np.concatenate([values, self.values])[rows]

    def write(self):
        """Leave the record where it may be left first, whole or not at all; several may do so at a time."""
        for place in self.places:
            with contextlib.suppress(OSError):
                if place.name != RECORD_FILE:
                    place.parent.mkdir(parents=True, exist_ok=True)
                with replace_file(place) as file:
                    arrays = {name: getattr(self, name) for name in TYPES}
                    np.savez(file, version=np.int64(VERSION), **arrays)
                return


def stat_files(paths):
    """Bytes and time of change (ns) of n files, (n, 2) int64; -1 where there is no file, or None for a path."""
    stats, shards = np.full((len(paths), 2), -1, np.int64), {}
    for i, path in enumerate(paths):
        if (stat := shards.get(path)) is None and path is not None:
            try:
                stat = os.stat(path)
            except (OSError, ValueError):  # who reads it says so
                continue
            if path.endswith(".safetensors"):  # of many utterances
                shards[path] = stat
        if stat is not None:
            stats[i] = stat.st_size, stat.st_mtime_ns
    return stats


def check_files(record, names, paths, look, bar, enough=None):
    """Look at the files that are not known to be good, and record those that are.

    Args:
        record: CheckedFiles. names: n texts, of the files in the record. paths: n files, None for one that is missing.
        look: function of i that gives FIELDS numbers, or raises InputError.
        bar: progress bar, moved on by n. enough: function of (m, FIELDS) values, which of them suffice, (m,) bool.
    Returns: (n, FIELDS) float64, {i: message} of the bad ones.
    """
    begun, keys, errors = time.time_ns(), hash_names(names), {}
    stats, values = stat_files(paths), np.zeros((len(names), FIELDS))
    rows = record.find(keys, stats)
    known = np.flatnonzero(rows >= 0)
    if enough is not None and len(known):
        known = known[enough(record.values[rows[known]])]
    values[known] = record.values[rows[known]]
    todo = np.setdiff1d(np.arange(len(names)), known, assume_unique=True)
    bar.update(len(known))

    def look_at_part(part):
        for i in part:
            try:
                values[i] = look(i)
            except InputError as error:
                errors[i] = str(error)
        return len(part)

    with ThreadPoolExecutor(READERS) as pool:
        parts = [todo[i : i + PART].tolist() for i in range(0, len(todo), PART)]
        for size in pool.map(look_at_part, parts):
            bar.update(size)
    good = np.setdiff1d(todo, np.fromiter(errors, np.int64, len(errors)), assume_unique=True)
    good = good[(stats[good, 0] >= 0) & (stats[good, 1] < begun - FRESH)]
    if len(good):
        record.add(keys[good], stats[good], values[good])
        record.write()
    return values, errors
