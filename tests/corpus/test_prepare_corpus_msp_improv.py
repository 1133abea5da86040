"""MSP-IMPROV by scripts/prepare_corpus.py: one table of labels, sessions by the number of the speaker."""

from collections import Counter
from itertools import cycle, product

import pytest

from corpus.msp_improv import read_msp_improv
from releases import away, groups_of, prepare, put, refuse, touch

COUNTS = {"A": 792, "H": 2644, "N": 3477, "S": 885, "O": 100, "X": 300}
LABELS = {"A": "ang", "H": "hap", "N": "neu", "S": "sad"}


def utterances():
    """(name, label) of as many utterances as there are labels, spread over sentences, targets and people."""
    labels = [label for label, n in COUNTS.items() for _ in range(n)]
    places = cycle(product(range(1, 21), "AHNS", range(1, 7), "FM", "PRST"))
    for number, (label, place) in enumerate(zip(labels, places, strict=False)):
        sentence, target, person, sex, scenario = place
        yield f"S{sentence:02d}{target}-{sex}{person:02d}-{scenario}-FM{number // 3840 + 1:02d}", label


def session_folder(root, kind, name):
    sentence, speaker, scenario, _ = name.split("-")
    return root / kind / f"session{int(speaker[1:])}" / sentence / scenario


@pytest.fixture(scope="module")
def msp_improv(tmp_path_factory):
    root, lines, by_folder = tmp_path_factory.mktemp("msp"), [], {}
    for name, label in utterances():
        lines.append(f"UTD-IMPROV-{name}.avi; {label}; A:2.812500; V:3.125000; D:3.0000 ; N:3.166667;")
        lines += ["WORKER00000001; Angry; Angry,Frustrated; A:3.000000; V:2.000000; D:3.000000; N:4.000000;", ""]
        for kind, suffix in (("Audio", "wav"), ("Video", "avi")):
            by_folder.setdefault(session_folder(root, kind, name), []).append(f"MSP-IMPROV-{name}.{suffix}")
    for folder, names in by_folder.items():
        touch(folder, [*names, "._" + names[0]])
    (root / "Evalution.txt").write_bytes("\r\n".join(lines).encode())
    return root


def test_msp_improv_sessions_are_those_of_the_speakers(msp_improv, tmp_path, caplog):
    table, dropped = prepare("msp_improv", msp_improv, tmp_path / "out")
    expected = {f"MSP-IMPROV-{name}": LABELS[label] for name, label in utterances() if label in LABELS}
    assert dict(zip(table["id"], table["label"], strict=True)) == expected
    assert len(table) == 7798
    assert groups_of(table) == {f"session{k}": {f"F{k:02d}", f"M{k:02d}"} for k in range(1, 7)}
    assert Counter(dropped["reason"]) == {
        "label O: another emotion": 100,
        "label X: no agreement of the raters": 300,
    }
    assert "counts" not in caplog.text
    row = table.set_index("id").loc["MSP-IMPROV-S01A-F01-P-FM01"]
    assert row["path"] == str(msp_improv / "Audio/session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav")
    assert row["video"] == str(msp_improv / "Video/session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.avi")
    assert (row["gender"], row["sentence"], row["target"], row["scenario"]) == ("F", "01", "ang", "P")
    assert (row["arousal"], row["valence"], row["dominance"]) == ("2.812500", "3.125000", "3.0000")


def test_msp_improv_counts_are_no_reason_to_stop(msp_improv, caplog):
    table = msp_improv / "Evalution.txt"
    with put(table, table.read_bytes().replace(b"; A; ", b"; X; ", 1)):
        assert read_msp_improv(msp_improv).mismatch == []
    assert "791 utterances of A, 792 are published" in caplog.text


def test_msp_improv_with_videos_alone_and_the_table_spelled_right(msp_improv):
    (msp_improv / "Evalution.txt").rename(msp_improv / "Evaluation.txt")
    with away(msp_improv / "Audio"):
        clips = read_msp_improv(msp_improv).clips
    (msp_improv / "Evaluation.txt").rename(msp_improv / "Evalution.txt")
    assert all(clip.path == clip.columns["video"] and clip.path.suffix == ".avi" for clip in clips)


def test_msp_improv_names_what_is_missing_and_what_has_no_line(msp_improv, tmp_path, capsys):
    avi = msp_improv / "Video/session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.avi"
    wav = msp_improv / "Audio/session2/S01A/P/MSP-IMPROV-S01A-F02-P-FM01.wav"
    with away(avi, wav):
        lines = refuse("msp_improv", msp_improv, tmp_path / "no", capsys)
    assert lines[:2] == [f"{avi.name}: missing", f"{wav.name}: missing"]
    assert len(lines) == 3
    with put(msp_improv / "Audio/session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM99.wav") as extra:
        assert refuse("msp_improv", msp_improv, tmp_path / "no", capsys)[0] == f"{extra}: no line in the table"
    table = msp_improv / "Evalution.txt"
    with put(table, b"UTD-IMPROV-S01A-F01-P-FM01 N\r\n" + table.read_bytes()):
        (line,) = refuse("msp_improv", msp_improv, tmp_path / "no", capsys)
        assert "Evalution.txt: line 1: 'UTD-IMPROV-S01A-F01-P-FM01 N' is not" in line
    with put(table, table.read_bytes() + b"\r\nUTD-IMPROV-S01A-F01-P-FM01.avi; N; A:1.0;\r\n"):
        (line,) = refuse("msp_improv", msp_improv, tmp_path / "no", capsys)
        assert line.endswith("S01A-F01-P-FM01 has a line already")
