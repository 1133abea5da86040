"""MELD by scripts/prepare_corpus.py: three tables, three folders with the same names, the published split."""

from pathlib import Path

import pytest

from releases import away, lists, prepare, print_folds, put, refuse, touch, write_csv

COUNTS = {
    "train": {
        "neutral": 4710,
        "joy": 1743,
        "surprise": 1205,
        "anger": 1109,
        "sadness": 683,
        "disgust": 271,
        "fear": 268,
    },
    "dev": {"neutral": 470, "joy": 163, "surprise": 150, "anger": 153, "sadness": 111, "disgust": 22, "fear": 40},
    "test": {"neutral": 1256, "joy": 402, "surprise": 281, "anger": 345, "sadness": 208, "disgust": 68, "fear": 50},
}
FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
LABELS = dict(zip(COUNTS["dev"], ("neu", "hap", "sur", "ang", "sad", "dis", "fea"), strict=True))
HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime".split(
    ","
)
SPECIAL = {"train": ["dia125_utt3"], "dev": ["dia110_utt7"], "test": ["dia220_utt0", "dia38_utt4", "dia263_utt7"]}


def stems(split):
    """As many names as there are rows, the special ones first."""
    n = sum(COUNTS[split].values())
    names = SPECIAL[split] + [f"dia{i // 10}_utt{i % 10}" for i in range(n + 10)]
    return list(dict.fromkeys(names))[:n]


def rows(split):
    emotions = [emotion for emotion, n in COUNTS[split].items() for _ in range(n)]
    for i, (stem, emotion) in enumerate(zip(stems(split), emotions, strict=True)):
        dialogue, utterance = stem.removeprefix("dia").split("_utt")
        speaker = ("Monica", "Joey", "Dr. Green")[i % 3]
        text = f'Well, "{i}" \u2014 \x92s,\nfine'
        yield (i, text, speaker, emotion, "neutral", dialogue, utterance, 8, 21, "00:16:16,059", "00:16:21,731")


@pytest.fixture(scope="module")
def meld(tmp_path_factory):
    root = tmp_path_factory.mktemp("meld") / "train_splits" / "MELD.Raw"  # folders above the root mean nothing
    for split, folder in FOLDERS.items():
        names = [f"{stem}.mp4" for stem in stems(split) if (split, stem) != ("dev", "dia110_utt7")]
        touch(root / split / folder, [*names, f"._{names[0]}", "notes.txt"])
        write_csv(root / f"{split}_sent_emo.csv", HEADER, rows(split), "utf-8-sig" if split == "dev" else "utf-8")
    touch(root / "test" / FOLDERS["test"], ["final_videos_testdia1_utt0.mp4", "dia108_utt222.mp4"])
    return root


@pytest.fixture(scope="module")
def prepared(meld):
    return prepare("meld", meld, meld.parent / "out")


def test_meld_is_13706_clips_of_seven_classes_in_the_published_split(meld, prepared):
    table, dropped = prepared
    assert len(table) == 13706
    found = lists(meld.parent / "out", "strict")
    assert not (meld.parent / "out" / "folds" / "paper").exists()
    assert sorted(found) == ["official_test", "official_train", "official_valid"]
    for split, name in (("train", "train"), ("dev", "valid"), ("test", "test")):
        emotions = [emotion for emotion, n in COUNTS[split].items() for _ in range(n)]
        expected = {f"{split}_{stem}": LABELS[e] for stem, e in zip(stems(split), emotions, strict=True)}
        expected.pop("train_dia125_utt3", None)
        expected.pop("dev_dia110_utt7", None)
        assert found[f"official_{name}"] == expected
    assert dropped["reason"].to_dict() == {
        "train_dia125_utt3": "its clip can't be decoded",
        "dev_dia110_utt7": "its clip was never released",
        "test/output_repeated_splits_test/final_videos_testdia1_utt0.mp4": "a second version of a test clip",
        "test/output_repeated_splits_test/dia108_utt222.mp4": "no row in the table",
    }


def test_meld_rows_say_who_and_where(meld, prepared):
    table, _ = prepared
    row = table.set_index("id").loc["dev_dia7_utt3"]
    number = stems("dev").index("dia7_utt3")
    assert row["path"] == str(meld / "dev" / "dev_splits_complete" / "dia7_utt3.mp4")
    assert (row["split"], row["dialogue"], row["season"]) == ("valid", "dev_dia7", "8")
    assert row["speaker"] == ("Monica", "Joey", "Dr. Green")[number % 3]
    assert row["text"] == f'Well, "{number}" \u2014 \x92s,\nfine'
    faults = table.loc[table["known_fault"] != "", ["id", "known_fault"]]
    assert dict(faults.to_numpy()) == {
        "test_dia220_utt0": "miscut",
        "test_dia38_utt4": "miscut",
        "test_dia263_utt7": "silent",
    }


def test_meld_in_four_classes_trains_on_the_one_fold(meld, tmp_path):
    table, dropped = prepare("meld", meld, tmp_path / "out", "--labels", "hap", "neu", "sad", "ang")
    assert table["label"].value_counts().to_dict() == {"neu": 6434, "hap": 2308, "ang": 1607, "sad": 1002}
    (line,) = print_folds(tmp_path / "out" / "folds" / "strict", tmp_path)
    for flag, name in (("train", "train"), ("valid", "valid"), ("test", "test")):
        assert f"--{flag}_src {tmp_path}/out/folds/strict/official_{name}.scp" in line


def test_meld_names_a_missing_clip_and_a_missing_and_a_second_row(meld, tmp_path, capsys):
    with away(meld / "dev" / "dev_splits_complete" / "dia7_utt3.mp4"):
        lines = refuse("meld", meld, tmp_path / "no", capsys)
        assert lines[0] == "dev_splits_complete/dia7_utt3.mp4: missing"
        assert len(lines) == 2
    table = meld / "test_sent_emo.csv"
    text = table.read_text(encoding="utf-8")
    record = text[text.rindex("2609,") :]
    gone = meld / "dev" / "dev_splits_complete" / "dia8_utt3.mp4"
    with put(table, text.removesuffix(record).encode()), put(meld / "x" / FOLDERS["test"] / "dia7_utt3.mp4") as second:
        lines = refuse("meld", meld, tmp_path / "no", capsys)
        assert lines[0] == "test: 49 utterances of fear, 50 are published"
        assert lines[1].startswith(f"{second}: the same name as ")
        last = stems("test")[-1]
        with away(gone):
            left, dropped = prepare("meld", meld, tmp_path / "less", "--allow_count_mismatch", "--skip_missing")
        assert len(left) == 13706 - 2
        assert "dev_dia8_utt3" in dropped.index
        name = str(Path("test") / FOLDERS["test"] / f"{last}.mp4")
        assert dropped.loc[name, "reason"] == "no row in the table"
    with put(table, (text + record).encode()):
        (line,) = refuse("meld", meld, tmp_path / "no", capsys)
        assert line.endswith(f"{stems('test')[-1]} has a row already")
    with put(table, text.replace(",fear,", ",angst,", 1).encode()):
        (line,) = refuse("meld", meld, tmp_path / "no", capsys)
        assert "emotion 'angst'" in line
        assert "test_sent_emo.csv: line " in line
