"""corpus/checks.py by way of scripts/check_corpus.py: each thing that can be wrong with a corpus is found and named."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from scripts.check_corpus import main

LABELS = ("hap", "neu", "sad", "ang")
SPLITS = ("train", "valid", "test")
SECONDS, RATE = 1.0, 30


class Corpus:
    """Three lists of eight utterances with IEMOCAP ids, a session each, and features of 30 frames/s."""

    def __init__(self, root):
        self.root, self.rng = root, np.random.default_rng(0)
        self.video_root = root / "features"
        self.video_root.mkdir()
        (self.video_root / "features.json").write_text(json.dumps({"frame_rate": RATE, "frame_stride": 1}))
        self.rows = []
        for session, split in enumerate(SPLITS, start=1):
            for i in range(8):
                gender = "FM"[i % 2]
                utt_id = f"Ses0{session}F_impro0{i // 4 + 1}_{gender}{i:03d}"
                self.write_sound(utt_id, 0.1 * self.rng.standard_normal(int(SECONDS * 16000)))
                self.write_features(utt_id, self.rng.standard_normal((int(SECONDS * RATE), 8)))
                self.rows.append([split, utt_id, self.sound(utt_id), LABELS[i % 4]])

    def sound(self, utt_id):
        return self.root / f"{utt_id}.wav"

    def write_sound(self, utt_id, samples, rate=16000):
        sf.write(self.sound(utt_id), samples, rate, subtype="PCM_16")

    def write_features(self, utt_id, rows):
        np.save(self.video_root / f"{utt_id}.npy", np.asarray(rows, np.float32))

    def ids(self, split):
        return [utt_id for name, utt_id, _, _ in self.rows if name == split]

    def check(self, capsys, *flags, features=True):
        """Exit code and the lines of the findings."""
        arguments = ["--video_root", str(self.video_root)] if features else []
        for split in SPLITS:
            path = self.root / f"{split}.scp"
            lines = [f"{utt_id} {sound} {label}\n" for name, utt_id, sound, label in self.rows if name == split]
            path.write_text("".join(lines))
            arguments += [f"--{split}_src", str(path)]
        code = main([*arguments, *flags])
        self.report = capsys.readouterr().out
        return code, [line for line in self.report.splitlines() if line.startswith(("leak", "error", "warning"))]


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


def test_a_sound_corpus_passes(corpus, capsys):
    assert corpus.check(capsys) == (0, [])
    assert "sound: 24 utterances, 0 leaks, 0 errors, 0 warnings" in corpus.report
    balance = next(line for line in corpus.report.splitlines() if line.startswith("neu"))
    assert balance.split() == ["neu", "2", "2", "2", "25.0%", "25.0%", "25.0%"]
    people = corpus.report.split("Distinct")[1].splitlines()
    assert people[2].split() == ["train", "2", "2", "8"]


def test_a_shared_speaker_and_dialogue_leak(corpus, capsys):
    stray = "Ses01F_impro02_M099"
    corpus.write_sound(stray, 0.1 * corpus.rng.standard_normal(16000))
    corpus.rows.append(["test", stray, corpus.sound(stray), "neu"])
    code, lines = corpus.check(capsys, features=False)
    assert code == 1
    assert lines == [
        "leak [speaker]: speaker Ses01M stands in train (4) and test (1)",
        "leak [dialogue]: dialogue Ses01F_impro02 stands in train (4) and test (1)",
    ]


def test_the_speakers_of_a_manifest_come_first(corpus, capsys):
    table = pd.DataFrame(corpus.rows, columns=["split", "id", "path", "label"])
    table["session"], table["speaker"] = table["split"], table["split"]
    table.loc[[0, 9], "speaker"] = "anna"
    table.drop(columns="split").to_csv(corpus.root / "manifest.csv", index=False)
    code, lines = corpus.check(capsys, "--manifest", str(corpus.root / "manifest.csv"))
    assert (code, lines) == (1, ["leak [speaker]: speaker anna stands in train (1) and valid (1)"])


def test_utterances_of_one_recording_leak(corpus, capsys):
    """Without a dialogue column the longer file that holds the utterances is their dialogue."""
    for i, row in enumerate(corpus.rows):
        sound = row[2].rename(row[2].with_name(f"clip{i}.wav"))
        (corpus.video_root / f"{row[1]}.npy").rename(corpus.video_root / f"clip{i}.npy")
        row[1:3] = f"clip{i}", sound
    table = pd.DataFrame(corpus.rows, columns=["split", "id", "path", "label"])
    table = table.assign(speaker=table["split"], session=table["split"], start=2.0, end=3.0)
    table["video"] = [f"{split}.avi" for split in table["split"]]
    table.loc[20, "video"] = "train.avi"
    table.drop(columns="split").to_csv(corpus.root / "manifest.csv", index=False)
    code, lines = corpus.check(capsys, "--manifest", str(corpus.root / "manifest.csv"))
    assert code == 1
    assert lines == [f"leak [dialogue]: dialogue {corpus.root / 'train.avi'} stands in train (8) and test (1)"]


def test_a_shared_utterance_leaks(corpus, capsys):
    row = corpus.rows[0]
    corpus.rows.append(["valid", *row[1:]])
    code, lines = corpus.check(capsys)
    assert code == 1
    assert f"leak [utterance]: utterance {row[1]} stands in train (1) and valid (1)" in lines
    assert not any("[sound]" in line or "duplicate" in line for line in lines)


def test_the_same_sound_in_another_container_leaks(corpus, capsys):
    (first, *_), (second, *_) = corpus.ids("train"), corpus.ids("test")
    samples, rate = sf.read(corpus.sound(first))
    flac = corpus.root / "copy.flac"
    sf.write(flac, samples, rate)
    next(row for row in corpus.rows if row[1] == second)[2] = flac
    code, lines = corpus.check(capsys)
    assert (code, lines) == (1, [f"leak [sound]: the same sound: train:{first} (hap), test:{second} (hap)"])


def test_the_same_features_leak(corpus, capsys):
    (first, *_), (second, *_) = corpus.ids("train"), corpus.ids("valid")
    corpus.write_features(second, np.load(corpus.video_root / f"{first}.npy"))
    code, lines = corpus.check(capsys)
    assert (code, lines) == (
        1,
        [f"leak [features]: the same video features: train:{first} (hap), valid:{second} (hap)"],
    )


def test_duplicates_within_a_list_are_a_warning(corpus, capsys):
    first, second = corpus.ids("train")[:2]
    corpus.write_sound(second, sf.read(corpus.sound(first))[0])
    code, lines = corpus.check(capsys)
    assert (code, lines) == (0, [f"warning [duplicate]: the same sound: train:{first} (hap), train:{second} (neu)"])


def test_silence_and_clipping_are_warnings(corpus, capsys):
    a, b, c = corpus.ids("valid")[:3]
    for silent in (a, b):  # two silences are not a duplicate
        corpus.write_sound(silent, np.zeros(16000))
    corpus.write_sound(c, np.clip(3 * corpus.rng.standard_normal(16000), -1, 1))
    code, lines = corpus.check(capsys)
    assert code == 0
    assert [line.split(" (")[0] for line in lines] == [
        f"warning [silent]: valid:{a} is silent",
        f"warning [silent]: valid:{b} is silent",
        f"warning [clipped]: valid:{c} is clipped",
    ]


def test_a_loud_sound_is_not_clipped(corpus, capsys):
    samples = corpus.rng.standard_normal(16000)
    corpus.write_sound(corpus.ids("train")[0], samples / np.abs(samples).max())
    assert corpus.check(capsys) == (0, [])


@pytest.mark.parametrize("record", [True, False])
def test_stale_features_are_found(corpus, capsys, record):
    short, long = corpus.ids("train")[:2]
    corpus.write_features(short, corpus.rng.standard_normal((20, 8)))
    corpus.write_features(long, corpus.rng.standard_normal((45, 8)))
    if not record:
        (corpus.video_root / "features.json").unlink()
    code, lines = corpus.check(capsys)
    assert code == 0
    assert [line.split(" frames,")[0] for line in lines] == [
        f"warning [stale features]: train:{short} has 20",
        f"warning [stale features]: train:{long} has 45",
    ]


def test_features_cut_to_the_first_frames_are_not_stale(corpus, capsys):
    for utt_id in corpus.ids("train"):
        corpus.write_sound(utt_id, 0.1 * corpus.rng.standard_normal(5 * 16000))
        corpus.write_features(utt_id, corpus.rng.standard_normal((90, 8)))
    assert corpus.check(capsys) == (0, [])


def test_files_that_training_would_refuse_are_errors(corpus, capsys):
    ids = corpus.ids("test")
    corpus.sound(ids[0]).unlink()
    corpus.sound(ids[1]).write_bytes(b"not a wav")
    corpus.write_sound(ids[2], np.zeros(0), 44100)
    (corpus.video_root / f"{ids[3]}.npy").unlink()
    corpus.write_features(ids[4], np.full((30, 8), np.nan))
    corpus.write_features(ids[5], np.zeros((0, 8)))
    (corpus.video_root / f"{ids[6]}.npy").write_bytes(b"")
    corpus.write_features(ids[7], corpus.rng.standard_normal((30, 5)))
    code, lines = corpus.check(capsys)
    assert code == 2
    errors = [line for line in lines if line.startswith("error")]
    assert len(errors) == 8
    assert all(f"test:{utt_id}:" in line for utt_id, line in zip(ids[:7], errors, strict=False))
    assert "no such file" in errors[0]
    assert f"no {ids[3]}.npy" in errors[3]
    assert "dim 5 in 1" in errors[7]


def test_leakage_goes_before_errors(corpus, capsys):
    corpus.sound(corpus.ids("test")[0]).unlink()
    corpus.rows.append(["valid", *corpus.rows[0][1:]])
    assert corpus.check(capsys)[0] == 1


def test_a_label_without_utterances_and_frozen_features_are_warnings(corpus, capsys):
    for row in corpus.rows[8:16]:
        row[3] = row[3].replace("sad", "neu")
    utt_id = corpus.ids("valid")[0]
    corpus.write_features(utt_id, np.ones((30, 8)))
    code, lines = corpus.check(capsys)
    assert code == 0
    assert lines == [
        "warning [label]: label sad has no utterance in valid",
        f"warning [constant features]: valid:{utt_id} has 30 video frames that are all the same",
    ]


def test_unknown_speakers_are_said_to_be_unknown(corpus, capsys):
    for i, row in enumerate(corpus.rows):
        row[1] = f"clip{i}"
    code, lines = corpus.check(capsys, features=False)
    assert code == 0
    assert len(lines) == 2
    assert "speaker of 24 of 24 utterances not known" in lines[0]
    assert "dialogue of 24 of 24 utterances not known" in lines[1]


def test_many_findings_of_a_kind_are_cut(corpus, capsys):
    for utt_id in corpus.ids("train"):
        corpus.write_sound(utt_id, np.zeros(16000))
    _, lines = corpus.check(capsys, "--max_lines", "3")
    assert len(lines) == 4
    assert lines[-1] == "warning [silent]: ... and 5 more"
    assert len(corpus.check(capsys, "--max_lines", "0")[1]) == 8


def test_bad_lists_stop_with_exit_code_2(corpus, capsys):
    corpus.rows[0][3] = "joy"
    corpus.rows[9][3] = "fun"
    with pytest.raises(SystemExit) as stop:
        corpus.check(capsys)
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert "train.scp: line 1: label 'joy'" in errors
    assert "valid.scp: line 2: label 'fun'" in errors
