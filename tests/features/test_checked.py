"""features/checked.py: a file that did not change is not opened again, and nothing else is taken for good."""

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from dataloader import Utterance, check_utterances
from features.checked import RECORD_FILE
from running.errors import InputError
from running.lists import local_main_first

OLD = 1_600_000_000 * 10**9  # ns, long before any start


def age(path, time=OLD):
    os.utime(path, ns=(time, time))


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Three utterances with a sound of half a second and features (60, 4) of dim 4, all of them old files."""
    monkeypatch.setenv("FOALNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "features").mkdir()
    utterances = []
    for name in "abc":
        sf.write(tmp_path / f"{name}.wav", 0.1 * np.ones(8000), 16000)
        np.save(tmp_path / "features" / f"{name}.npy", np.ones((60, 4), np.float32))
        age(tmp_path / f"{name}.wav")
        age(tmp_path / "features" / f"{name}.npy")
        utterances.append(Utterance(name, str(tmp_path / f"{name}.wav"), 0))
    return utterances


def check(corpus, **options):
    root = Path(corpus[0].path).parent / "features"
    return check_utterances(corpus, video_root=root, progress=False, **options)


def spoil(path, keep_time=True):
    """Other bytes of the same number: NaN for features, noise for a sound."""
    time, size = path.stat().st_mtime_ns, path.stat().st_size
    path.write_bytes(path.read_bytes()[:128] + b"\xff" * (size - 128) if path.suffix == ".npy" else b"\xff" * size)
    age(path, time if keep_time else time + 1000)


@pytest.mark.parametrize("name", ["features/b.npy", "b.wav"])
def test_a_file_is_opened_again_when_its_size_or_time_changed_and_only_then(corpus, tmp_path, name):
    first = check(corpus)
    spoil(tmp_path / name)
    assert check(corpus) == first
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-4])
    age(tmp_path / name)
    with pytest.raises(InputError, match=name):
        check(corpus)
    (tmp_path / name).write_bytes(content)
    age(tmp_path / name)
    assert check(corpus) == first
    spoil(tmp_path / name, keep_time=False)
    with pytest.raises(InputError, match=name):
        check(corpus)


@pytest.mark.parametrize("name", ["features/b.npy", "b.wav"])
def test_a_bad_file_is_named_at_every_start(corpus, tmp_path, name):
    spoil(tmp_path / name)
    for _ in range(2):
        with pytest.raises(InputError, match=name) as caught:
            check(corpus)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["features/b.npy", "b.wav"])
def test_a_file_that_was_written_just_now_may_change_within_a_tick_of_the_clock(corpus, tmp_path, name):
    os.utime(tmp_path / name)
    check(corpus)
    spoil(tmp_path / name)
    with pytest.raises(InputError, match=name):
        check(corpus)


def test_more_frames_than_were_looked_at_are_looked_at(corpus, tmp_path):
    path = tmp_path / "features" / "b.npy"
    features = np.ones((60, 4), np.float32)
    features[40] = np.nan
    np.save(path, features)
    age(path)
    check(corpus, max_frames=40)
    with pytest.raises(InputError, match=r"b\.npy: row 40 holds NaN"):
        check(corpus, max_frames=41)
    check(corpus, max_frames=40)


def test_a_sound_that_was_cut_short_is_warned_of_at_every_start(corpus, tmp_path, caplog):
    path = tmp_path / "b.wav"
    path.write_bytes(path.read_bytes()[:8000])
    age(path)
    for _ in range(2):
        caplog.clear()
        check(corpus)
        assert (
            f"1 sounds were cut short, their headers promise more than the files hold: {path} (8000 of" in caplog.text
        )


def save_record(path, **arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "noise": lambda path: path.write_bytes(b"\xff" * 999),
    "a bit": lambda path: path.write_bytes(
        path.read_bytes().replace(b"\x80\x3f", b"\x81\x3f").replace(b"\x4e", b"\x4f")
    ),
    "no arrays": lambda path: save_record(path, version=1),
    "shapes": lambda path: save_record(
        path, version=1, keys=np.zeros(3, np.uint64), stats=np.zeros((2, 2), np.int64), values=np.zeros((3, 3))
    ),
    "objects": lambda path: save_record(path, version=np.array([{}])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_left_out_with_a_line_and_made_again(corpus, tmp_path, caplog, damage):
    first, record = check(corpus), tmp_path / "features" / RECORD_FILE
    content = record.read_bytes()
    DAMAGE[damage](record)
    caplog.clear()
    assert check(corpus) == first
    assert [message for message in caplog.messages if RECORD_FILE not in message] == []
    assert len(caplog.messages) == 1
    assert len(record.read_bytes()) == len(content)
    spoil(tmp_path / "features" / "b.npy")
    assert check(corpus) == first


def test_a_record_of_another_version_of_the_check_is_not_trusted(corpus, tmp_path, monkeypatch):
    check(corpus)
    spoil(tmp_path / "features" / "b.npy")
    monkeypatch.setattr("features.checked.VERSION", 2)
    with pytest.raises(InputError, match="b.npy"):
        check(corpus)


@pytest.mark.parametrize("cache", ["cache", ""])
def test_a_folder_that_cannot_be_written_is_recorded_in_the_cache_or_nowhere(corpus, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("FOALNET_CACHE", cache and str(tmp_path / cache))
    (tmp_path / "features" / RECORD_FILE).mkdir()
    first = check(corpus)
    spoil(tmp_path / "features" / "b.npy")
    if cache:
        assert check(corpus) == first
    else:
        with pytest.raises(InputError, match="b.npy"):
            check(corpus)


def test_who_reads_a_record_while_it_is_written_has_a_whole_one(corpus, tmp_path):
    check(corpus[:2])
    record = tmp_path / "features" / RECORD_FILE
    content = record.read_bytes()
    with record.open("rb") as reader:
        check(corpus)
        assert reader.read() == content != record.read_bytes()


def test_starts_at_the_same_time_leave_a_whole_record(corpus, tmp_path, caplog):
    context = multiprocessing.get_context("fork")
    starts = [context.Process(target=check, args=(corpus[: i % 3 + 1],)) for i in range(6)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert [start.exitcode for start in starts] == [0] * 6
    first = check(corpus)
    spoil(tmp_path / "features" / "b.npy")
    assert check(corpus) == first
    assert caplog.messages == []
    assert sorted(path.name for path in (tmp_path / "features").glob(".*")) == [RECORD_FILE]


class Process:
    """A thread in the place of a process: what `local_main_first` needs of a PartialState."""

    def __init__(self, rank, barrier):
        self.is_local_main_process, self.wait_for_everyone = rank == 0, lambda: barrier.wait(timeout=20)


@pytest.mark.parametrize("bad", [False, True])
def test_one_process_checks_and_the_others_take_what_it_found_or_fail_as_it_does(corpus, tmp_path, bad):
    barrier, path = threading.Barrier(3), tmp_path / "features" / "b.npy"
    if bad:
        spoil(path)

    def run(rank):
        try:
            with local_main_first(Process(rank, barrier)) as is_first:
                assert is_first == (rank == 0)
                found = check(corpus)
                if is_first:
                    spoil(path)  # who opens it now, fails
                return found
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(run, [0, 1, 2])
    assert others == [first, first]
    assert isinstance(first, str) == bad
