"""Whatever stands in a file or behind a flag: it is taken for what it says, or refused as InputError. Nothing else.

The examples are drawn alike every time, so a failure here is one there too.
"""

import contextlib
import io
import math
import tempfile

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

import train
from corpus.folds import check_folds, select_labels, write_folds
from corpus.manifest import CROPS, REQUIRED, fold_name, read_manifest
from dataloader import (
    LABELS,
    SAMPLE_RATE,
    FoalDataset,
    Utterance,
    check_utterances,
    collate,
    find_cut,
    parse_label_map,
    parse_labels,
    read_audio,
    read_duration,
    read_features,
    read_scp,
)
from features.sounds import Sound, find_fault, read_sounds, write_sounds
from running.errors import InputError
from running.records import disarm, rearm

set_hypothesis_home_dir(f"{tempfile.gettempdir()}/hypothesis")
OPTIONS = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
PROPERTY = settings(max_examples=250, **OPTIONS)

torch.set_num_threads(1)
ODD = st.sampled_from(
    [
        "",
        " ",
        "=",
        ",",
        "/",
        "..",
        "\0",
        "\x1b[2J",
        "\ufeff",
        "\u2028",
        "é",
        "\u0301",
        "😀",
        "nan",
        "-1",
        "1e999",
        '"',
        "\r",
    ]
)
WORD = st.one_of(st.sampled_from(["hap", "neu", "sad", "ang", "exc", "a", "b", "1"]), ODD, st.text(max_size=8))
FEW_BYTES = st.binary(max_size=200)


def mutate(content):
    """Strategy of the bytes with a part replaced, taken out or cut off."""

    def change(edits):
        changed = bytearray(content)
        for place, kind, new in edits:
            at = int(place * len(changed))
            if kind == "replace":
                changed[at : at + len(new)] = new
            elif kind == "cut":
                del changed[at:]
            else:
                changed[at:at] = new
        return bytes(changed)

    edit = st.tuples(st.floats(0, 1), st.sampled_from(["replace", "insert", "cut"]), st.binary(min_size=1, max_size=4))
    return st.lists(edit, min_size=1, max_size=3).map(change)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("properties")


def refused(call, *args, **options):
    """(what the call returns, None) or (None, the message of the InputError it raises); nothing else may come."""
    try:
        return call(*args, **options), None
    except InputError as error:
        return None, str(error) or "an error without a word"


# lists


def join_lines(rows):
    return "\n".join(" ".join(row) for row in rows).encode("utf-8", "surrogatepass")


LINE = st.one_of(st.tuples(WORD, WORD, st.sampled_from(["hap", "neu"])), st.lists(WORD, max_size=4))
SCP = st.one_of(FEW_BYTES, st.lists(LINE, max_size=5).map(join_lines), st.lists(LINE, max_size=1).map(join_lines))


@PROPERTY
@given(content=SCP, labels=st.lists(WORD, max_size=4).map(lambda names: ["hap", "neu", *names]))
def test_a_list_is_read_or_refused(folder, content, labels):
    path = folder / "list.scp"
    path.write_bytes(content)
    utterances, message = refused(read_scp, path, labels)
    if message:
        assert str(path) in message
        return
    ids = [utterance.utt_id for utterance in utterances]
    assert len(set(ids)) == len(ids) > 0
    for utterance in utterances:
        assert 0 <= utterance.label < len(labels)
        assert utterance.utt_id.split() == [utterance.utt_id]
        assert (folder / f"{utterance.utt_id}.npy").parent == folder
        with contextlib.suppress(InputError):
            read_duration(utterance.path)


CELL = st.one_of(WORD, st.sampled_from([*CROPS, "0", "1.5", "inf", "Session1", "session 2", "1", "2", "x.wav"]))
MANIFEST = st.one_of(
    FEW_BYTES,
    st.lists(st.lists(CELL, min_size=5, max_size=9), max_size=5).map(
        lambda rows: "\n".join(
            [",".join([*REQUIRED, "start", "end", "crop", "video"]), *(",".join(row) for row in rows)]
        ).encode("utf-8", "surrogatepass")
    ),
    st.lists(st.tuples(*[st.text("ab=.é", min_size=1, max_size=3)] * 4, st.sampled_from("123")), max_size=5).map(
        lambda rows: "\n".join([",".join(REQUIRED), *(",".join(row) for row in rows)]).encode()
    ),
)


@PROPERTY
@given(content=MANIFEST)
def test_a_manifest_becomes_lists_or_is_refused(folder, content):
    path, out = folder / "manifest.csv", folder / "folds"
    path.write_bytes(content)
    table, message = refused(read_manifest, path)
    if message:
        assert str(path) in message
        return
    assert table["id"].is_unique
    assert table["crop"].isin(CROPS).all()
    for column in ("start", "end"):
        values = table[column].dropna()
        assert np.isfinite(values).all()
        assert (values >= 0).all()
    labels = sorted(set(table["label"]))
    table, message = refused(select_labels, table, labels, {})
    assert not message
    folds, message = refused(check_folds, table)
    if message:
        return
    assert set(folds) == set(map(fold_name, table["session"]))
    for written in write_folds(table, out):
        assert written.parent.parent == out
        by_id = {u.utt_id: u for u in read_scp(written, labels)}
        known = table.set_index("id").loc[list(by_id)]
        assert [by_id[utt_id].path for utt_id in known.index] == known["path"].tolist()
        assert [labels[by_id[utt_id].label] for utt_id in known.index] == known["label"].tolist()
        written.unlink()


@PROPERTY
@given(words=st.lists(WORD, max_size=5))
def test_labels_are_different_names_or_refused(words):
    labels, message = refused(parse_labels, words)
    if not message:
        assert labels
        assert len(set(labels)) == len(labels)
        assert all(name.split() == [name] for name in labels)


@PROPERTY
@given(text=st.one_of(st.text(max_size=20), st.lists(WORD, max_size=6).map(",".join), st.lists(WORD).map("=".join)))
def test_a_label_map_is_pairs_or_refused(text):
    pairs, message = refused(parse_label_map, text)
    if not message:
        assert all(name.split() == [name] for pair in pairs.items() for name in pair)


@PROPERTY
@given(
    sounds=st.dictionaries(st.text("ab=é-", min_size=1), st.builds(Sound, *[st.integers(0, 2**63)] * 2, st.just("0f")))
)
def test_an_index_of_sounds_comes_back(folder, sounds):
    write_sounds(folder, sounds)
    assert read_sounds(folder) == sounds


@PROPERTY
@given(content=st.one_of(FEW_BYTES, mutate(b"12 34 ab u1\n5 6 cd u2\n")))
def test_an_index_of_sounds_is_read_or_refused(folder, content):
    (folder / "sounds.txt").write_bytes(content)
    sounds, message = refused(read_sounds, folder)
    assert message is None or "sounds.txt" in message


# arrays and sounds


def save(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype == object)
    return file.getvalue()


@st.composite
def arrays(draw):
    """A saved array of any shape and type."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = draw(st.sampled_from(["<f4", "<f2", ">f4", "<f8", "<i8", "?", "<c8", "<U3", "O", "<f4,<i2", "<M8[s]"]))
    array = np.zeros(shape, dtype)
    if array.dtype.kind == "f" and array.size:
        array.reshape(-1)[0] = draw(st.sampled_from([0, 1, np.nan, np.inf]))
    return save(np.asfortranarray(array) if draw(st.booleans()) else array)


NPY = st.one_of(FEW_BYTES, arrays(), mutate(save(np.ones((3, 4), np.float32))), arrays().flatmap(mutate))


@PROPERTY
@given(content=NPY)
def test_features_are_finite_rows_or_refused(folder, content):
    root = folder / "features"
    root.mkdir(exist_ok=True)
    (root / "u.npy").write_bytes(content)
    features, message = refused(read_features, root / "u.npy")
    found = find_fault(root / "u.npy", 4)
    assert found is None or str(root / "u.npy") in found
    checked, late = refused(check_utterances, [Utterance("u", "", 0)], "v", root, progress=False)
    assert message is None or late
    if late:
        assert str(root / "u.npy") in late
        return
    batch = collate([FoalDataset(checked[0], "v")[0]])
    assert batch["video_features"].isfinite().all()
    assert batch["video_mask"].all()
    assert (found is None) == (features.shape[1] == 4 and features.dtype == np.float32)


def wave(**options):
    file = io.BytesIO()
    sf.write(file, 0.1 * np.sin(np.arange(900)), 16000, **{"format": "WAV", **options})
    return file.getvalue()


SOUNDS = {"a.wav": wave(), "b.wav": wave(subtype="FLOAT"), "c.flac": wave(format="FLAC"), "d.ogg": wave(format="OGG")}


@PROPERTY
@given(sound=st.sampled_from(sorted(SOUNDS)).flatmap(lambda name: st.tuples(st.just(name), mutate(SOUNDS[name]))))
def test_a_sound_is_read_or_refused(folder, sound):
    name, content = sound
    path = folder / name
    path.write_bytes(content)
    seconds, message = refused(read_duration, path)
    assert message is None or str(path) in message
    if message is None:
        assert 0 <= seconds < math.inf
        find_cut(path)
    samples, message = refused(read_audio, path, 0.05)
    assert message is None or str(path) in message
    if message is None:
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        assert len(samples) <= 0.05 * SAMPLE_RATE


@PROPERTY
@given(text=st.text("'=+-@\t a", max_size=5))
def test_a_disarmed_text_comes_back(text):
    assert rearm(disarm(text)) == text
    assert not disarm(text).startswith(("=", "+", "-", "@", "\t"))


# flags


ACTIONS = {action.option_strings[-1]: action for action in train.build_parser()._actions if action.dest != "help"}
NUMBERS = sorted(flag for flag, action in ACTIONS.items() if action.type in (int, float))
EDGES = st.sampled_from(
    [0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64, 10**400, 1e-320, math.inf, -math.inf, math.nan]
)
NUMBER = st.one_of(EDGES, st.integers(-2, 9), st.integers(), st.floats()).map(str)
VALUE = st.one_of(WORD, NUMBER, st.sampled_from(["True", "no", "0", "1", "4", "a", "cosine", "none", "auto", "fp16"]))
FLAG = st.one_of(st.tuples(st.sampled_from(NUMBERS), NUMBER), st.tuples(st.sampled_from(sorted(ACTIONS)), VALUE))


@settings(max_examples=800, **OPTIONS)
@given(flags=st.lists(FLAG, min_size=1, max_size=2))
def test_flags_are_valid_or_refused(folder, flags):
    path = folder / "train.scp"
    path.write_text("".join(f"u{i} x.wav {name}\n" for i, name in enumerate(LABELS)))
    lists = [f"--train_src={path}", f"--valid_src={path}"]
    codes = []
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            args, message = refused(train.parse_args, [*lists, *(f"{flag}={value}" for flag, value in flags)])
        except SystemExit as stop:
            codes.append(stop.code)
    if codes:
        assert codes == [2]
        assert "error: " in said.getvalue()
        return
    assume(message is None)
    assert len(args.labels) >= 2
    assert all(name.split() == [name] for name in args.labels)
    assert 0 <= args.seed < 2**32
    for name in ("lr", "max_length", "temperature", "epochs", "batch_size", "max_frames"):
        assert 0 < getattr(args, name) < math.inf
    assert args.valid_src or args.test_src
