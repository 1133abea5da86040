"""States on disk are of the sounds that are there now, or they are computed again; damage is named."""

import multiprocessing
import os
import re
import time
from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf
from accelerate import Accelerator
from forked import forget_accelerate

import features.speech
from dataloader import FoalDataset, Utterance
from encoders import encode
from features.sounds import judge_states, read_sounds
from features.speech import SpeechEncoder, extract_audio
from running.errors import InputError
from tiny import write_wavlm

LAST, FIRST = "last", 1  # layers


@pytest.fixture(autouse=True)
def fresh_state():
    yield
    forget_accelerate()


def write_sound(path, seed):
    sf.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 3200), 16000)
    return str(path)


@pytest.fixture
def utterances(tmp_path):
    return [Utterance(f"u{i}", write_sound(tmp_path / f"u{i}.wav", i), 0, duration=0.2) for i in range(5)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Cache the states of some utterances; returns the number of those that went through the encoder."""
    encoder, encoded = SpeechEncoder(write_wavlm(tmp_path / "wavlm")), []

    def count(*args, **options):
        encoded.append(len(args[1]))
        return encode(*args, **options)

    monkeypatch.setattr("features.speech.encode", count)

    def run(utterances, root=None):
        encoded.clear()
        extract_audio(root or tmp_path / "states", encoder, utterances, Accelerator(cpu=True), batch_size=4)
        return sum(encoded)

    return run


def read(tmp_path, utterances):
    return [np.load(tmp_path / "states" / f"{utterance.utt_id}.npy") for utterance in utterances]


def test_states_of_sounds_that_changed_are_computed_again(tmp_path, cache, utterances, caplog):
    assert cache(utterances) == 5
    before = read(tmp_path, utterances)
    for i in (1, 3):  # same size, another content
        write_sound(utterances[i].path, 10 + i)
    assert cache(utterances) == 2
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "the sounds of 2 states have changed since, such as u1" in record.getMessage()
    same = [np.array_equal(old, new) for old, new in zip(before, read(tmp_path, utterances), strict=True)]
    assert same == [True, False, True, False, True]
    assert cache(utterances) == 0


def test_a_copied_or_touched_corpus_is_not_computed_again(tmp_path, cache, utterances, caplog):
    cache(utterances)
    for utterance in utterances:
        os.utime(utterance.path, (1, 1))
    assert cache(utterances) == 0
    assert not caplog.records


def test_states_that_do_not_say_their_sound_are_computed_again(tmp_path, cache, utterances, caplog):
    cache(utterances)
    (tmp_path / "states" / "sounds.txt").unlink()
    assert cache(utterances[:2]) == 2
    assert "2 states do not say which sound they are of" in caplog.text
    assert set(read_sounds(tmp_path / "states")) == {"u0", "u1"}


def test_an_interruption_loses_no_finished_state_and_keeps_no_stale_one(tmp_path, cache, utterances, monkeypatch):
    cache(utterances)
    for i in range(5):
        write_sound(utterances[i].path, 10 + i)
    (tmp_path / "states" / ".u1.npy.1234.part").write_bytes(b"of a killed job")

    def stop_at_the_second(*args, count=[], **options):  # noqa: B006
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        return encode(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("features.speech.encode", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            cache(utterances)
    assert cache(utterances) == 1, "a batch of 4 of the 5 was finished"
    assert not list((tmp_path / "states").glob(".*.part"))


def test_an_id_of_two_sounds_is_refused(tmp_path, cache, utterances):
    other = Utterance("u1", write_sound(tmp_path / "other.wav", 9), 0, duration=0.2)
    with pytest.raises(InputError, match=rf"^id u1: is {utterances[1].path} in one list and {other.path} in another$"):
        cache([*utterances, other])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "detail"),
    [
        (truncate, "not a .npy array"),
        (lambda path: path.write_bytes(b""), "not a .npy array"),
        (lambda path: np.save(path, np.zeros((9, 31), np.float32)), "dim 31, float32; the encoder gives 32, float32"),
        (lambda path: np.save(path, np.zeros((9, 32), np.float16)), "dim 32, float16"),
        (lambda path: np.save(path, np.zeros((9, 32), np.int64)), "dtype int64"),
    ],
)
def test_a_damaged_state_is_named_and_computed_again(tmp_path, cache, utterances, caplog, damage, detail):
    cache(utterances)
    before = read(tmp_path, utterances)
    damage(tmp_path / "states" / "u2.npy")
    assert cache(utterances) == 1
    (record,) = caplog.records
    assert "1 states are damaged" in record.getMessage()
    assert str(tmp_path / "states" / "u2.npy") in record.getMessage()
    assert detail in record.getMessage()
    np.testing.assert_allclose(read(tmp_path, utterances)[2], before[2], rtol=1e-4, atol=1e-4)


def test_nan_in_a_state_is_named_when_it_is_read(tmp_path, cache, utterances):
    cache(utterances)
    path = tmp_path / "states" / "u2.npy"
    states = np.load(path)
    states[3, 5] = np.nan
    np.save(path, states)
    items = [replace(u, audio_features=tmp_path / "states" / f"{u.utt_id}.npy") for u in utterances]
    dataset = FoalDataset(items, "a", audio_root=tmp_path / "states")
    assert len(dataset[1]["audio_features"])
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: row 3 holds NaN or infinity"):
        dataset[2]


def test_nan_out_of_the_encoder_is_named_and_not_kept(tmp_path, cache, utterances, monkeypatch):
    def broken(*args, **options):
        states, mask = encode(*args, **options)
        return states * np.nan, mask

    monkeypatch.setattr("features.speech.encode", broken)
    with pytest.raises(InputError, match=r"^u\d: its states hold NaN or infinity"):
        cache(utterances)
    assert not list((tmp_path / "states").glob("*.npy"))


def test_features_of_unknown_origin_are_left_alone(tmp_path, cache, utterances):
    """A folder of somebody's own features is no place to compute in, though the names are the same."""
    (tmp_path / "states").mkdir()
    mine = np.ones((5, 7), np.float32)
    np.save(tmp_path / "states" / "u1.npy", mine)
    with pytest.raises(InputError, match=r"u1.npy: features.json is missing, so these features may be anybody's"):
        cache(utterances)
    np.testing.assert_array_equal(np.load(tmp_path / "states" / "u1.npy"), mine)


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "null", "\0"])
def test_a_broken_record_is_named(tmp_path, cache, utterances, content):
    cache(utterances)
    (tmp_path / "states" / "features.json").write_text(content)
    with pytest.raises(InputError) as error:
        cache(utterances)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{tmp_path / 'states' / 'features.json'}: not a JSON object")


@pytest.mark.parametrize("content", [b"x\n", b"1 2 3\n", b"a b c d\n", b"\xff\n", b"1 2 3 u0 x\n", b"\n"])
def test_a_broken_index_is_named(tmp_path, cache, utterances, content):
    cache(utterances)
    (tmp_path / "states" / "sounds.txt").write_bytes(content)
    with pytest.raises(InputError) as error:
        cache(utterances)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{tmp_path / 'states' / 'sounds.txt'}: ")
    assert "remove" in line


def test_a_root_that_is_a_file_is_named(tmp_path, cache, utterances):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=rf"^--audio_root {root}: no folder can be made there: "):
            cache(utterances, root=root)


def run_job(folder, numbers, layer, queue):
    """One job of several that share the folder of states; slow, so that they meet."""

    def slow(*args, **options):
        encoded.append(len(args[1]))
        time.sleep(0.2)
        return encode(*args, **options)

    def judge_slowly(*args):
        time.sleep(0.4)  # so that each has looked before any has the lock
        return judge_states(*args)

    encoded, features.speech.encode, features.speech.WAIT = [], slow, 0.02
    features.speech.judge_states = judge_slowly
    items = [Utterance(f"u{i}", str(folder / f"u{i}.wav"), 0, duration=0.2) for i in numbers]
    try:
        encoder = SpeechEncoder(str(folder / "wavlm"), layer)
        extract_audio(folder / "states", encoder, items, Accelerator(cpu=True), batch_size=1)
        queue.put(sum(encoded))
    except InputError as error:
        queue.put(str(error))


@pytest.fixture
def start():
    """Start jobs as processes of their own; returns the processes and a function that gives their answers."""
    context, jobs = multiprocessing.get_context("fork"), []
    queue = context.Queue()

    def run(*jobs_of):
        jobs.extend(context.Process(target=run_job, args=(*job, queue)) for job in jobs_of)
        for job in jobs:
            job.start()
        return jobs, lambda: [queue.get(timeout=60) for _ in jobs]

    yield run
    for job in jobs:
        job.join(60)


def test_jobs_that_share_a_folder_compute_each_state_once(tmp_path, cache, utterances, start):
    _, answers = start((tmp_path, [0, 1, 2, 3], LAST), (tmp_path, [1, 2, 3, 4], LAST))
    assert sum(answers()) == 5
    assert set(read_sounds(tmp_path / "states")) == {f"u{i}" for i in range(5)}
    assert cache(utterances) == 0


def test_a_job_of_another_encoder_does_not_slip_in_beside_one_that_computes(tmp_path, cache, utterances, start):
    numbers = list(range(5))
    _, answers = start((tmp_path, numbers, LAST), (tmp_path, numbers, FIRST))
    done, refused = sorted(answers(), key=lambda answer: isinstance(answer, str))
    assert done == 5
    assert "holds states of another encoder: layer was" in refused


def test_the_lock_of_a_killed_job_is_free(tmp_path, cache, utterances, start):
    (job,), _ = start((tmp_path, [0, 1, 2, 3, 4], LAST))
    deadline = time.monotonic() + 60
    while not list((tmp_path / "states").glob("u*.npy")) and time.monotonic() < deadline:
        time.sleep(0.02)
    job.kill()
    job.join()
    done = len(list((tmp_path / "states").glob("u*.npy")))
    assert 0 < done < 5
    assert cache(utterances) == 5 - done
