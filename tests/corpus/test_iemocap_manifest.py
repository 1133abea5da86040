"""scripts/prepare_iemocap.py on a tree with the counts of the release, and on copies with something wrong."""

import os
import random
import re
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from corpus.manifest import read_manifest
from dataloader import read_scp
from scripts.prepare_iemocap import main

COUNTS = {  # before merging
    1: {"hap": 135, "exc": 143, "neu": 384, "sad": 194, "ang": 229},
    2: {"hap": 117, "exc": 210, "neu": 362, "sad": 197, "ang": 137},
    3: {"hap": 135, "exc": 151, "neu": 320, "sad": 305, "ang": 240},
    4: {"hap": 65, "exc": 238, "neu": 258, "sad": 143, "ang": 327},
    5: {"hap": 143, "exc": 299, "neu": 384, "sad": 245, "ang": 170},
}
FOUR_CLASS = {1: 1085, 2: 1023, 3: 1151, 4: 1031, 5: 1241}
WITH_ANY_LABEL = {1: 1819, 2: 1811, 3: 2136, 4: 2103, 5: 2170}
DIALOGUES = {1: 28, 2: 30, 3: 32, 4: 30, 5: 31}
WORDS = {
    "hap": "Happiness",
    "exc": "Excited",
    "neu": "Neutral",
    "sad": "Sadness",
    "ang": "Anger",
    "fru": "Frustration",
    "sur": "Surprise",
    "fea": "Fear",
    "dis": "Disgust",
    "oth": "Other",
}


def write_session(root, session, sound, rng):
    """One session: label files with everything that the real ones hold, a wav each, empty avi files."""
    labels = [label for label, n in COUNTS[session].items() for _ in range(n)]
    others = ["xxx"] * 3 + ["fru"] * 3 + ["sur", "fea", "dis", "oth"]
    labels += [others[i % len(others)] for i in range(WITH_ANY_LABEL[session] - len(labels))]
    rng.shuffle(labels)
    folder = root / f"Session{session}"
    kinds = [f"{kind}0{i}" for kind in ("impro", "script0") for i in range(1, 10)]
    dialogues = sorted(f"Ses0{session}{wearer}_{kind.replace('00', '0')}" for wearer in "FM" for kind in kinds)
    dialogues = dialogues[:: len(dialogues) // DIALOGUES[session]][: DIALOGUES[session]]
    assert len(dialogues) == DIALOGUES[session]
    for name in ("EmoEvaluation", "avi/DivX", "transcriptions"):
        (folder / "dialog" / name).mkdir(parents=True)
    for i, dialogue in enumerate(dialogues):
        write_dialogue(folder, dialogue, labels[i :: len(dialogues)], sound, rng)


def write_dialogue(folder, dialogue, labels, sound, rng):
    wavs = folder / "sentences" / "wav" / dialogue
    wavs.mkdir(parents=True)
    lines, spoken = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], []
    numbers = Counter()
    for i, label in enumerate(labels):
        gender = rng.choice("FM")
        utt_id = f"{dialogue}_{gender}{numbers[gender]:03d}"
        numbers[gender] += 1
        words = rng.sample(sorted(WORDS.values()), 3) if label == "xxx" else [WORDS[label]] * 3
        lines.append(f"[{4 * i + 0.2901:.4f} - {4 * i + 2.2357:.4f}]\t{utt_id}\t{label}\t[2.5000, 2.5000, 2.5000]")
        lines += [f"C-E{k}:\t{word};\t()" for k, word in enumerate(words, start=2)]
        lines += [f"C-{gender}1:\tSadness; Other;\t(self)", "A-E3:\tval 3; act 2; dom  2;\t()", ""]
        spoken.append(f"{utt_id} [{4 * i + 0.2901:08.4f}-{4 * i + 2.2357:08.4f}]: Well.")
        os.link(sound, wavs / f"{utt_id}.wav")
    labels_of = folder / "dialog" / "EmoEvaluation"
    (labels_of / f"{dialogue}.txt").write_text("\n".join(lines) + "\n")
    (labels_of / f"._{dialogue}.txt").write_bytes(b"\x00\x05\x16\x07\x00\xff\xfe[")
    (folder / "dialog" / "transcriptions" / f"{dialogue}.txt").write_text("\n".join([*spoken, f"{dialogue}_FXX0 [1]:"]))
    (folder / "dialog" / "avi" / "DivX" / f"{dialogue}.avi").touch()
    (folder / "dialog" / "avi" / "DivX" / f"._{dialogue}.avi").touch()
    (wavs / f"._{dialogue}_F000.wav").touch()


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release tree with the counts of IEMOCAP: 151 dialogues, 10,039 utterances."""
    root = tmp_path_factory.mktemp("my data") / "IEMOCAP_full_release"
    root.mkdir()
    sound = root / "sound.wav"
    sf.write(sound, np.full(800, 0.1, np.float32), 16000)
    rng = random.Random(1234)
    for session in COUNTS:
        write_session(root, session, sound, rng)
    return root


@pytest.fixture(scope="module")
def prepared(release, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    started = time.perf_counter()
    main(["--iemocap_root", str(release), "--out", str(out)])
    assert time.perf_counter() - started < 60
    return out


def prepare(root, out, *flags):
    main(["--iemocap_root", str(root), "--out", str(out), *flags])
    return read_manifest(out / "manifest.csv")


def refuse(root, out, capsys, *flags):
    """The error lines of a run that must stop with exit code 2 and write nothing."""
    with pytest.raises(SystemExit) as stop:
        main(["--iemocap_root", str(root), "--out", str(out), *flags])
    assert stop.value.code == 2
    assert not (out / "manifest.csv").exists()
    lines = capsys.readouterr().err.splitlines()
    return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


@contextmanager
def edited(path, pattern, replacement):
    """Change one place of a file for the time of a test."""
    text = path.read_text()
    changed, n = re.subn(pattern, replacement, text, count=1, flags=re.MULTILINE)
    assert n == 1
    path.write_text(changed)
    yield
    path.write_text(text)


@contextmanager
def moved(*paths):
    """Take files away for the time of a test."""
    for path in paths:
        path.rename(path.with_name("." + path.name))
    yield
    for path in paths:
        path.with_name("." + path.name).rename(path)


def label_file(root, dialogue):
    return root / f"Session{int(dialogue[3:5])}" / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"


def wav_file(root, utt_id):
    dialogue = utt_id.rsplit("_", 1)[0]
    return root / f"Session{int(utt_id[3:5])}" / "sentences" / "wav" / dialogue / f"{utt_id}.wav"


@pytest.fixture(scope="module")
def pick(prepared):
    """Choose an utterance of a session with an emotion that is not the last of its speaker in its dialogue."""
    used = read_manifest(prepared / "manifest.csv")[["id", "emotion"]]
    dropped = pd.read_csv(prepared / "dropped.csv", keep_default_na=False)[["id", "label"]]
    table = pd.concat([used, dropped.set_axis(["id", "emotion"], axis=1)]).sort_values("id")
    table = table[table["id"].str[:-3].duplicated(keep="last")]

    def choose(session, emotion, position=0):
        chosen = table[table["id"].str.startswith(f"Ses0{session}") & (table["emotion"] == emotion)]
        return chosen["id"].iloc[position]

    return choose


def test_counts_are_those_of_the_release(prepared):
    table = read_manifest(prepared / "manifest.csv")
    for session, cells in COUNTS.items():
        rows = table[table["session"] == f"session{session}"]
        assert rows["emotion"].value_counts().to_dict() == cells
        assert len(rows) == FOUR_CLASS[session]
    merged = {"hap": 1636, "neu": 1708, "sad": 1084, "ang": 1103}
    assert table["label"].value_counts().to_dict() == merged
    assert len(table) == 5531
    assert table["id"].is_monotonic_increasing
    assert set(table["speaker"]) == {f"Ses0{k}{gender}" for k in range(1, 6) for gender in "FM"}
    assert np.allclose(table["duration"].astype(float), 0.05)
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in [*table["path"], *table["video"]])


def test_every_dropped_utterance_has_a_reason(prepared):
    dropped = pd.read_csv(prepared / "dropped.csv", keep_default_na=False)
    assert len(dropped) == 10039 - 5531
    assert set(dropped["label"]) == {"xxx", "fru", "sur", "fea", "dis", "oth"}
    assert (dropped["reason"] != "").all()
    assert not set(dropped["id"]) & set(read_manifest(prepared / "manifest.csv")["id"])


def test_fold_lists_of_both_protocols(prepared):
    def sessions_of(protocol, fold, split):
        utterances = read_scp(prepared / "folds" / protocol / f"session{fold}_{split}.scp")
        members = Counter(int(utterance.utt_id[3:5]) for utterance in utterances)
        assert all(members[session] == FOUR_CLASS[session] for session in members)
        assert all(Path(utterance.path).stem == utterance.utt_id for utterance in utterances)
        return set(members)

    for k in range(1, 6):
        everyone, following = set(range(1, 6)), k % 5 + 1
        assert sessions_of("paper", k, "train") == everyone - {k}
        assert sessions_of("paper", k, "valid") == {k}
        assert sessions_of("strict", k, "train") == everyone - {k, following}
        assert sessions_of("strict", k, "valid") == {following}
        assert sessions_of("strict", k, "test") == {k}
    assert len(list((prepared / "folds").glob("paper/*"))) == 10
    assert len(list((prepared / "folds").glob("strict/*"))) == 15


def test_crop_speaker_and_style_in_all_four_cases(prepared):
    table = read_manifest(prepared / "manifest.csv").set_index("id")
    cases = defaultdict(set)
    for utt_id, row in table.iterrows():
        cases[utt_id[5], utt_id.rsplit("_", 1)[1][0]].add((row["crop"], row["marker_wearer"]))
        assert row["gender"] == utt_id.rsplit("_", 1)[1][0]
        assert row["speaker"] == utt_id[:5] + row["gender"]
        assert row["dialogue"] == utt_id.rsplit("_", 1)[0] == Path(row["video"]).stem
        assert row["style"] == ("improvised" if "_impro" in utt_id else "scripted")
    assert cases == {
        ("F", "F"): {("left", "yes")},
        ("M", "M"): {("left", "yes")},
        ("F", "M"): {("right", "no")},
        ("M", "F"): {("right", "no")},
    }


def test_start_and_end_are_those_of_the_label_line(release, prepared, pick):
    table = read_manifest(prepared / "manifest.csv").set_index("id")
    utt_id = pick(2, "ang")
    line = next(line for line in label_file(release, utt_id.rsplit("_", 1)[0]).open() if f"\t{utt_id}\t" in line)
    assert line.startswith(f"[{table['start'][utt_id]:.4f} - {table['end'][utt_id]:.4f}]")


def test_a_second_run_writes_the_same_bytes(release, prepared, tmp_path):
    prepare(release, tmp_path)
    files = sorted(path.relative_to(prepared) for path in prepared.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((prepared / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_a_removed_wav_is_named(release, pick, tmp_path, capsys):
    utt_id = pick(3, "sad")
    with moved(wav_file(release, utt_id)):
        errors = refuse(release, tmp_path, capsys)
    assert any(str(wav_file(release, utt_id)) in line and "missing" in line for line in errors)


def test_missing_files_are_all_named_at_once(release, pick, tmp_path, capsys):
    lost = [pick(session, "neu", position) for session in (1, 4) for position in range(15)]
    video = release / "Session2" / "dialog" / "avi" / "DivX"
    video = min(path for path in video.iterdir() if not path.name.startswith("."))
    with moved(video, *[wav_file(release, utt_id) for utt_id in lost]):
        errors = refuse(release, tmp_path, capsys)
        assert all(any(f"{utt_id}.wav: missing" in line for line in errors) for utt_id in lost)
        assert any(f"{video}: missing" in line for line in errors)
        table = prepare(release, tmp_path, "--skip_missing", "--allow_count_mismatch")
    dropped = pd.read_csv(tmp_path / "dropped.csv", keep_default_na=False)
    assert not set(lost) & set(table["id"])
    assert dropped[dropped["id"].isin(lost)]["reason"].str.contains("missing").sum() == len(lost)
    assert video.stem not in set(table["dialogue"])


def test_a_removed_label_line_is_named(release, pick, tmp_path, capsys):
    utt_id = pick(5, "hap")
    with edited(label_file(release, utt_id.rsplit("_", 1)[0]), rf"^\[.*\t{utt_id}\t.*\n", ""):
        errors = refuse(release, tmp_path, capsys)
        table = prepare(release, tmp_path, "--allow_count_mismatch")
    assert any(re.fullmatch(r"session5 +hap +143 +142 +-1", line) for line in errors)
    assert [line.split(":")[0] for line in errors if line.startswith("Ses")] == [utt_id]
    assert len(table) == 5530
    dropped = pd.read_csv(tmp_path / "dropped.csv", keep_default_na=False).set_index("id")
    assert "label line" in dropped["reason"][utt_id]


@pytest.mark.parametrize("transcribed", [True, False])
def test_an_utterance_removed_without_trace_is_named(release, pick, tmp_path, capsys, transcribed):
    utt_id = pick(1, "ang")
    dialogue = utt_id.rsplit("_", 1)[0]
    notes = release / "Session1" / "dialog" / "transcriptions" / f"{dialogue}.txt"
    gone = [wav_file(release, utt_id)] + ([] if transcribed else [notes])
    with moved(*gone), edited(label_file(release, dialogue), rf"^\[.*\t{utt_id}\t(.+\n)*", ""):
        errors = refuse(release, tmp_path, capsys)
    named = [line for line in errors if line.startswith(f"{utt_id}: ")]
    assert len(named) == 1
    assert ("transcriptions" in named[0]) == transcribed
    assert any(re.fullmatch(r"session1 +ang +229 +228 +-1", line) for line in errors)
    assert len(errors) < 10


def test_relabelled_utterances_are_named(release, pick, tmp_path, capsys):
    changes = [(1, "neu", "ang"), (2, "sad", "fru"), (3, "fru", "hap"), (4, "exc", "hap"), (5, "neu", "nue")]
    victims = []
    with ExitStack() as edits:
        for session, old, new in changes:
            utt_id = pick(session, old, 7)
            path = label_file(release, utt_id.rsplit("_", 1)[0])
            edits.enter_context(edited(path, rf"\t{utt_id}\t{old}\t", f"\t{utt_id}\t{new}\t"))
            victims.append(utt_id)
        errors = refuse(release, tmp_path, capsys)
    cells = [line.split() for line in errors if line.startswith("session") and "expected" not in line]
    assert sorted(cells) == [
        ["session1", "ang", "229", "230", "+1"],
        ["session1", "neu", "384", "383", "-1"],
        ["session2", "sad", "197", "196", "-1"],
        ["session3", "hap", "135", "136", "+1"],
        ["session4", "exc", "238", "237", "-1"],
        ["session4", "hap", "65", "66", "+1"],
        ["session5", "neu", "384", "383", "-1"],
    ]
    assert sorted(line.split(":")[0] for line in errors if line.startswith("Ses")) == sorted(victims)


def test_votes_are_read_from_the_annotators_files_too(release, pick, tmp_path, capsys):
    utt_id = pick(4, "hap")
    dialogue = utt_id.rsplit("_", 1)[0]
    categorical = label_file(release, dialogue).parent / "Categorical"
    categorical.mkdir()
    for annotator in ("e2", "e3", "e4"):
        path = categorical / f"{dialogue}_{annotator}_cat.txt"
        path.write_text(f"{utt_id} :Happiness; ()\n")
    block = rf"\t{utt_id}\thap\t(.*)\n(?:.+\n)*"
    with edited(label_file(release, dialogue), block, rf"\t{utt_id}\tneu\t\1\n"):
        errors = refuse(release, tmp_path, capsys)
    for path in categorical.iterdir():
        path.unlink()
    categorical.rmdir()
    assert [line.split(":")[0] for line in errors if line.startswith("Ses")] == [utt_id]


def test_a_partial_copy_needs_the_flag(release, tmp_path, capsys):
    partial = tmp_path / "partial"
    partial.mkdir()
    for session in (2, 5):
        (partial / f"Session{session}").symlink_to(release / f"Session{session}")
    errors = refuse(partial, tmp_path / "out", capsys)
    assert any("session1, session3, session4" in line for line in errors)
    table = prepare(partial, tmp_path / "out", "--allow_count_mismatch")
    assert len(table) == FOUR_CLASS[2] + FOUR_CLASS[5]
    assert len(list((tmp_path / "out" / "folds" / "paper").iterdir())) == 4
    assert not (tmp_path / "out" / "folds" / "strict").exists()


def test_another_label_set(release, tmp_path):
    table = prepare(release, tmp_path, "--labels", "exc", "fru", "--label_map", "xxx=fru")
    dropped = pd.read_csv(tmp_path / "dropped.csv", keep_default_na=False)
    assert set(table["emotion"]) == {"exc", "fru", "xxx"}
    assert (table["label"] == "exc").sum() == 1041
    assert len(table) + len(dropped) == 10039


def test_audio_only_needs_no_video(release, tmp_path):
    avis = [path for path in release.glob("Session1/dialog/avi/DivX/*.avi") if not path.name.startswith(".")]
    with moved(*avis):
        table = prepare(release, tmp_path, "--audio_only")
    assert len(table) == 5531
    assert table["start"].isna().all()


def test_malformed_label_lines_are_named_with_their_line(release, pick, tmp_path, capsys):
    utt_id = pick(1, "sad")
    path = label_file(release, utt_id.rsplit("_", 1)[0])
    with edited(path, rf"^\[.* - .*\]\t{utt_id}\t", f"[9.0 - 8.0]\t{utt_id}\t"):
        errors = refuse(release, tmp_path, capsys)
        number = next(i for i, line in enumerate(path.open(), start=1) if utt_id in line)
    assert errors == [f"{path}: line {number}: {utt_id}: end 8.0 is not after start 9.0"]


def test_a_folder_that_is_no_release(tmp_path, capsys):
    assert "Session1" in refuse(tmp_path, tmp_path / "out", capsys)[0]
    assert "no such folder" in refuse(tmp_path / "nothing", tmp_path / "out", capsys)[0]
