"""What is odd in the lists and the sounds: refused where nobody can have meant it, else a warning of one line."""

import logging
import os
import resource

import numpy as np
import pytest
import soundfile as sf

from dataloader import (
    LABELS,
    Utterance,
    check_utterances,
    find_cut,
    parse_label_map,
    parse_labels,
    read_audio,
    read_duration,
    read_features,
    read_scp,
    refuse_absent_classes,
    warn_oddities,
)
from running.errors import InputError


def write_sound(path, seconds=0.5, **options):
    sf.write(path, 0.1 * np.ones(round(seconds * 16000)), 16000, **options)
    return str(path)


def cut_in_half(path):
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)


def make_list(tmp_path, split, labels):
    return [
        Utterance(f"{split}{i}", write_sound(tmp_path / f"{split}{i}.wav"), label) for i, label in enumerate(labels)
    ]


def warnings_of(caplog, call):
    with caplog.at_level(logging.WARNING):
        call()
    messages = [record.getMessage() for record in caplog.records]
    assert all(len(message.splitlines()) == 1 for message in messages)
    return messages


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("a\0b", "can't be printed"),
        ("a\x1b[2J", "can't be printed"),
        ("x" * 201, "201 bytes"),
        ("ü" * 101, "202 bytes"),
    ],
)
def test_an_id_that_is_no_file_name_is_refused(tmp_path, fault, message):
    (tmp_path / "list.scp").write_text(f"ok x.wav hap\n{fault} x.wav hap\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"list.scp: line 2: id .*{message}"):
        read_scp(tmp_path / "list.scp")


def test_the_longest_id_is_one(tmp_path):
    (tmp_path / "list.scp").write_text(f"{'ü' * 100} x.wav hap\n", encoding="utf-8")
    assert len(read_scp(tmp_path / "list.scp")) == 1


@pytest.mark.parametrize(
    ("held", "advice"),
    [
        ("neu ang", "no utterance of the class hap sad, only of neu ang; --labels neu ang is what"),
        ("ang neu fru", "no utterance of the class hap sad, only of neu ang fru; --labels neu ang fru is what"),
        ("neu", "no utterance of the class hap sad ang, only of neu; at least two are needed"),
    ],
)
def test_default_labels_that_the_training_list_lacks_are_refused(tmp_path, held, advice):
    lines = "".join(f"u{i} x.wav {name}\n" for i, name in enumerate(held.split()))
    (tmp_path / "train.scp").write_text(lines)
    with pytest.raises(InputError) as error:
        refuse_absent_classes(tmp_path / "train.scp")
    assert str(error.value).startswith(f"{tmp_path / 'train.scp'}: {advice}")


def test_a_list_that_is_not_there_is_left_to_who_reads_it(tmp_path):
    refuse_absent_classes(tmp_path / "nowhere.scp")


def test_default_labels_are_looked_for_under_their_merged_names(tmp_path):
    (tmp_path / "train.scp").write_text(
        "".join(f"{i} x.wav {name}\n" for i, name in enumerate("exc neu sad ang".split()))
    )
    refuse_absent_classes(tmp_path / "train.scp", LABELS, {"exc": "hap"})
    with pytest.raises(InputError, match="class hap"):
        refuse_absent_classes(tmp_path / "train.scp")


@pytest.mark.parametrize(
    ("train", "valid", "message"),
    [
        ([1, 1, 1], [0, 1, 2, 3], "train: every utterance is of the class neu"),
        ([0, 1, 2], [0, 1, 2, 3], "train: no utterance of the class ang, which can't be learnt"),
        ([0, 1, 2, 3], [2, 2], "valid: every utterance is of the class sad"),
        ([0, 1, 2, 3], [0, 1], None),
    ],
)
def test_classes_that_are_not_there_are_warned_of(tmp_path, caplog, train, valid, message):
    splits = {"train": make_list(tmp_path, "train", train), "valid": make_list(tmp_path, "valid", valid)}
    found = warnings_of(caplog, lambda: warn_oddities(splits, LABELS))
    assert found == ([message] if message else [])


def test_one_sound_under_several_ids_is_warned_of(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    splits = {split: make_list(tmp_path, split, [0, 1, 2, 3]) for split in ("train", "valid")}
    (tmp_path / "link.wav").symlink_to("train0.wav")
    splits["valid"].append(Utterance("other", "link.wav", 0))
    splits["train"].append(Utterance("again", "train1.wav", 1))
    across, within = warnings_of(caplog, lambda: warn_oddities(splits, LABELS))
    assert "1 sounds stand under several ids in several lists" in across
    assert "train:train0 = valid:other" in across
    assert "1 sounds stand under several ids in one list, such as train:train1 = train:again" in within


def test_an_id_in_two_lists_and_an_absent_sound_are_no_copies(tmp_path, caplog):
    train = make_list(tmp_path, "u", [0, 1, 2, 3])
    splits = {"train": [*train, Utterance("gone", "/nowhere/x.wav", 0), Utterance("nul", "a\0b", 0)], "valid": train}
    assert warnings_of(caplog, lambda: warn_oddities(splits, LABELS)) == []


def test_sounds_that_were_cut_short_are_warned_of_once(tmp_path, caplog):
    utterances = make_list(tmp_path, "u", [0, 1, 2, 3, 0, 1])
    for utterance in utterances[1:]:
        cut_in_half(utterance.path)
    (message,) = warnings_of(caplog, lambda: check_utterances([*utterances, utterances[1]], "a", progress=False))
    assert message.startswith("5 sounds were cut short")
    assert f"{utterances[1].path} (8022 of 16044 bytes)" in message
    assert message.endswith(", ...")


@pytest.mark.parametrize("options", [{}, {"subtype": "FLOAT"}, {"subtype": "PCM_24"}, {"format": "WAVEX"}])
def test_whole_wave_files_are_whole(tmp_path, options):
    path = write_sound(tmp_path / "a.wav", **options)
    assert find_cut(path) is None
    with open(path, "ab") as file:
        file.write(b"LIST\x04\0\0\0abcd")
    assert find_cut(path) is None
    cut_in_half(path)
    assert find_cut(path)


@pytest.mark.parametrize("promised", [b"\xff\xff\xff\xff", b"\x00\xf0\xff\x7f"])
def test_a_wave_file_out_of_a_pipe_promises_nothing(tmp_path, promised):
    path = tmp_path / "a.wav"
    write_sound(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"data" + content[40:44], b"data" + promised))
    assert find_cut(path) is None


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEfmt ", b"fLaC" + bytes(99)])
def test_other_files_are_not_called_cut(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert find_cut(tmp_path / "a") is None


# what the property tests found


@pytest.mark.parametrize("header", [b"{", b"'''", b"(" * 300 + b"1"])
def test_an_array_whose_header_is_no_python_is_named(tmp_path, header):
    path = tmp_path / "u.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(InputError, match="u.npy: not a .npy array: ") as error:
        read_features(path)
    assert len(str(error.value).splitlines()) == 1


def test_names_with_spaces_in_them_are_refused_and_those_around_them_taken_off():
    assert parse_labels(["hap, neu", " sad ,"]) == ["hap", "neu", "sad"]
    with pytest.raises(InputError, match="without a space"):
        parse_labels(["hap,very sad"])
    assert parse_label_map("exc = hap, fru=ang") == {"exc": "hap", "fru": "ang"}
    with pytest.raises(InputError, match="old=new"):
        parse_label_map("exc=very happy")


def set_rate(path, rate):
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize("rate", [0, 1, 999, 768_001, 2**32 - 1])
def test_an_impossible_sampling_rate_is_named(tmp_path, rate):
    write_sound(tmp_path / "a.wav")
    set_rate(tmp_path / "a.wav", rate)
    for read in (read_duration, read_audio):
        with pytest.raises(InputError, match="a.wav: "):
            read(tmp_path / "a.wav")


@pytest.mark.parametrize("rate", [44101, 47999])
def test_a_rate_without_a_common_divisor_takes_no_gigabytes(tmp_path, rate):
    times = np.arange(rate) / rate
    sf.write(tmp_path / "a.wav", 0.4 * np.sin(2 * np.pi * 440 * times), rate)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    samples = read_audio(tmp_path / "a.wav")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB
    expected = 0.4 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert len(samples) in (16000, 16001)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples[500:15500], expected[500:15500], atol=2e-3)


def test_a_header_that_promises_more_than_any_memory_is_read_as_far_as_it_goes(tmp_path):
    path = tmp_path / "a.flac"
    write_sound(path)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the top bits of the number of samples in STREAMINFO
    path.write_bytes(content)
    assert sf.info(str(path)).frames > 2**35
    assert len(read_audio(path)) == 8000


def test_a_sound_without_a_decoder_is_named(tmp_path):
    write_sound(tmp_path / "a.wav")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[20:22] = b"\xff\x7f"  # the format
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(InputError, match="a.wav: "):
        read_audio(tmp_path / "a.wav")
