"""MER2023 by scripts/prepare_corpus.py: four lists, of which none chooses the epoch of its own score."""

import pytest

from releases import away, lists, prepare, print_folds, put, refuse, touch, write_csv

TRAIN = {"neutral": 871, "angry": 822, "happy": 689, "worried": 462, "sad": 383, "surprise": 146}
LABELS = dict(zip(TRAIN, ("neu", "ang", "hap", "wor", "sad", "sur"), strict=True))
SIZES = {"train": 3373, "test1": 411, "test2": 412, "test3": 834}


def rows(split):
    """[(name, emotion)]; the emotions of train in turn, so that names and emotions are mixed."""
    start = list(SIZES).index(split) * 10000
    left, names = dict(TRAIN), []
    for i in range(SIZES[split]):
        emotion = max(left, key=left.get) if split == "train" else list(TRAIN)[i % 6]
        left[emotion] -= split == "train"
        names.append((f"sample_{start + i:08d}", emotion))
    assert split != "train" or not any(left.values())
    return names


@pytest.fixture(scope="module")
def mer2023(tmp_path_factory):
    root = tmp_path_factory.mktemp("mer") / "test3_and_more"  # folders above the root mean nothing
    for split in SIZES:
        folder = root / ("mer2023train/train" if split == "train" else split)
        touch(folder, [f"{name}.{'avi' if split != 'test3' else 'MP4'}" for name, _ in rows(split)])
        header = ["name", "discrete", "valence"][: 2 if split == "test3" else 3]
        table = [(*row, "-1.5")[: len(header)] for row in rows(split)]
        write_csv(root / f"{split}-label.csv", header, table, "utf-8-sig")
    touch(root / "test3", ["sample_00090000.avi", "sample_00090001.avi"])
    return root


def test_mer2023_holds_the_last_fifth_of_each_emotion_out(mer2023, tmp_path):
    table, dropped = prepare("mer2023", mer2023, tmp_path / "out")
    assert len(table) == 5030
    assert len(dropped) == 0
    found = lists(tmp_path / "out", "strict")
    assert sorted(found) == [f"official_{name}" for name in ("test", "test2", "test3", "train", "valid")]
    train, valid = set(), set()
    for emotion in TRAIN:
        names = sorted(name for name, of in rows("train") if of == emotion)
        held = len(names) // 5
        train |= set(names[:-held])
        valid |= set(names[-held:])
    assert (set(found["official_train"]), set(found["official_valid"])) == (train, valid)
    assert len(valid) == 174 + 164 + 137 + 92 + 76 + 29
    for split, name in (("test1", "test"), ("test2", "test2"), ("test3", "test3")):
        assert found[f"official_{name}"] == {utt_id: LABELS[emotion] for utt_id, emotion in rows(split)}
    assert table.set_index("id").loc["sample_00000000", "valence"] == "-1.5"
    assert table["speaker"].is_unique
    (line,) = print_folds(tmp_path / "out" / "folds" / "strict", tmp_path)  # one training, not one a test list
    assert "official_test.scp" in line


def test_mer2023_names_what_is_missing_and_what_has_no_row(mer2023, tmp_path, capsys):
    with away(mer2023 / "test2" / "sample_00020005.avi"):
        lines = refuse("mer2023", mer2023, tmp_path / "no", capsys)
        assert lines[0] == "sample_00020005.avi: missing"
        table, _ = prepare(
            "mer2023", mer2023, tmp_path / "out", "--skip_missing", "--labels", "hap", "neu", "sad", "ang"
        )
    assert table["label"].nunique() == 4
    with put(mer2023 / "test1" / "sample_00070000.avi") as extra:
        assert refuse("mer2023", mer2023, tmp_path / "no", capsys)[0] == f"{extra}: no row in the tables"
        _, dropped = prepare("mer2023", mer2023, tmp_path / "more", "--allow_count_mismatch")
    assert dropped["reason"].to_dict() == {"test1/sample_00070000.avi": "no row in the tables"}


def test_mer2023_counts_are_those_of_the_tables(mer2023, tmp_path, capsys):
    table = mer2023 / "train-label.csv"
    text = table.read_bytes()
    with put(table, text.replace(b",worried,", b",sad,", 1)):
        lines = refuse("mer2023", mer2023, tmp_path / "no", capsys)
    assert set(lines[:2]) == {
        "train: 461 utterances of worried, 462 are published",
        "train: 384 utterances of sad, 383 are published",
    }
    with put(table, text.replace(b",worried,", b",bored,", 1)):
        (line,) = refuse("mer2023", mer2023, tmp_path / "no", capsys)
        assert "train-label.csv: line " in line
        assert "'bored'" in line
    tail = text.strip().rsplit(b"\n", 1)[-1] + b"\r\n"
    with put(table, text + tail):
        (line,) = refuse("mer2023", mer2023, tmp_path / "no", capsys)
        assert line.endswith("has a row already")
