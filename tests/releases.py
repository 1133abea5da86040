"""Trees of empty files with the names of a published corpus, and runs of scripts/prepare_corpus.py on them."""

import csv
import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from dataloader import read_scp_lines
from scripts.prepare_corpus import main

ROOT = Path(__file__).resolve().parents[1]


def touch(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))


def write_csv(path, header, rows, encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def prepare(corpus, root, out, *flags):
    """(manifest, dropped) of a run, which takes less than a minute."""
    started = time.perf_counter()
    main([corpus, "--root", str(root), "--out", str(out), *flags])
    assert time.perf_counter() - started < 60
    table = pd.read_csv(out / "manifest.csv", dtype=str, keep_default_na=False)  # the run has checked it already
    return table.assign(video=table.get("video", table["path"])), read_dropped(out)


def read_dropped(out):
    return pd.read_csv(out / "dropped.csv", dtype=str, keep_default_na=False).set_index("id")


def refuse(corpus, root, out, capsys, *flags):
    """The error lines of a run that must stop with exit code 2 and write nothing."""
    with pytest.raises(SystemExit) as stop:
        main([corpus, "--root", str(root), "--out", str(out), *flags])
    assert stop.value.code == 2
    assert not out.exists()
    lines = capsys.readouterr().err.splitlines()
    return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


@contextmanager
def away(*paths):
    """Take files away for the time of a test."""
    for path in paths:
        path.rename(path.with_name("." + path.name))
    yield
    for path in paths:
        path.with_name("." + path.name).rename(path)


@contextmanager
def put(path, content=b""):
    """A file, new or with another content, for the time of a test."""
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    yield path
    path.unlink() if before is None else path.write_bytes(before)


def lists(out, protocol):
    """{name of the list: {id: label}}."""
    paths = sorted((out / "folds" / protocol).glob("*.scp"))
    return {path.stem: {utt_id: label for _, utt_id, _, label in read_scp_lines(path)} for path in paths}


def groups_of(table):
    """{session: set of speakers}; a speaker stands in one session."""
    groups = table.groupby("session")["speaker"].agg(set).to_dict()
    assert sum(map(len, groups.values())) == table["speaker"].nunique()
    return groups


def print_folds(folder, tmp_path):
    """The commands that cross_validate.sh would run."""
    script = ROOT / "scripts" / "cross_validate.sh"
    done = subprocess.run(
        ["bash", str(script), "--print", str(folder), str(tmp_path / "runs")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
