"""RAVDESS by scripts/prepare_corpus.py: 24 actors, 7356 files, groups of actors for sessions."""

from collections import Counter
from pathlib import Path

import pytest

from releases import away, groups_of, lists, prepare, put, refuse, touch

# modality-channel-emotion-intensity-sentence-repetition-actor
SPEECH = {"01": 96, "02": 192, "03": 192, "04": 192, "05": 192, "06": 192, "07": 192, "08": 192}
SONG = {"01": 92, "02": 184, "03": 184, "04": 184, "05": 184, "06": 184}
FOUR = {"01": "neu", "02": "neu", "03": "hap", "04": "sad", "05": "ang"}
RAVDESS_LABELS = FOUR | {"02": "cal", "06": "fea", "07": "dis", "08": "sur"}


def ravdess_names(channel, published):
    """`{modality}` is left to fill in."""
    names = []
    for emotion, n in published.items():
        actors = [actor for actor in range(1, 25) if channel == "01" or actor != 18]
        takes = [f"{a}-{b}-{c}" for a in ("01", "02") for b in ("01", "02") for c in ("01", "02")]
        takes = [take for take in takes if emotion != "01" or take.startswith("01")]
        emotion_names = [f"{channel}-{emotion}-{take}-{actor:02d}" for actor in actors for take in takes]
        assert len(emotion_names) == n
        names += emotion_names
    return names


@pytest.fixture(scope="module")
def ravdess(tmp_path_factory):
    root = tmp_path_factory.mktemp("ravdess")
    files = 0
    for channel, published in (("01", SPEECH), ("02", SONG)):
        names = ravdess_names(channel, published)
        for actor in {name[-2:] for name in names}:
            own = [name for name in names if name[-2:] == actor]
            folder = root / f"Video_{'Speech' if channel == '01' else 'Song'}_Actor_{actor}" / f"Actor_{actor}"
            touch(folder, [f"{modality}-{name}.mp4" for modality in ("01", "02") for name in own])
            touch(folder, [f"._01-{own[0]}.mp4", ".DS_Store"])
            touch(root / "Audio" / f"Actor_{actor}", [f"03-{name}.wav" for name in own])
            files += 3 * len(own)
    assert files == 7356
    return root


def test_ravdess_is_four_classes_of_speech(ravdess, tmp_path):
    table, dropped = prepare("ravdess", ravdess, tmp_path / "out")
    expected = {f"01-{name}": FOUR[name[3:5]] for name in ravdess_names("01", SPEECH) if name[3:5] in FOUR}
    assert dict(zip(table["id"], table["label"], strict=True)) == expected
    assert table["label"].value_counts().to_dict() == {"neu": 288, "hap": 192, "sad": 192, "ang": 192}
    assert all(Path(path).name == f"{utt_id}.mp4" for utt_id, path in zip(table["id"], table["path"], strict=True))
    assert list(table["path"]) == list(table["video"])
    assert (table["speaker"] == table["id"].str[-2:]).all()
    assert set(table.loc[table["gender"] == "M", "speaker"]) == {f"{actor:02d}" for actor in range(1, 25, 2)}
    strong = table.set_index("id").loc["01-01-05-02-01-02-07"]
    assert (strong["intensity"], strong["sentence"], strong["repetition"]) == ("strong", "1", "2")
    assert dropped["reason"].value_counts().to_dict() == {
        "song; --song uses it": 1012,
        "label is not one of hap neu sad ang": 576,
    }


def test_ravdess_groups_have_two_of_each_sex(ravdess, tmp_path):
    table, _ = prepare("ravdess", ravdess, tmp_path / "out")
    groups = groups_of(table)
    assert sorted(groups) == [f"session{k}" for k in range(1, 7)]
    assert all(sorted(int(actor) % 2 for actor in actors) == [0, 0, 1, 1] for actors in groups.values())
    assert len(lists(tmp_path / "out", "strict")) == 18
    held_out = lists(tmp_path / "out", "strict")["session2_test"]
    assert {utt_id[-2:] for utt_id in held_out} == groups["session2"]
    sad, _ = prepare("ravdess", ravdess, tmp_path / "sad", "--labels", "sad", "ang", "--song")
    assert groups_of(sad) == groups  # whatever is asked for
    with away(*ravdess.glob("Video_Song_*")):
        speech, _ = prepare("ravdess", ravdess, tmp_path / "speech")
    assert groups_of(speech) == groups  # and whatever a copy holds
    pairs, _ = prepare("ravdess", ravdess, tmp_path / "pairs", "--groups", "12")
    assert all(sum(map(int, actors)) % 2 == 1 and len(actors) == 2 for actors in groups_of(pairs).values())


def test_ravdess_all_classes_and_song(ravdess, tmp_path, caplog):
    with caplog.at_level("INFO"):
        table, dropped = prepare("ravdess", ravdess, tmp_path / "out", "--labels", "all", "--song")
    assert (len(table), len(dropped)) == (2452, 0)
    counts = Counter(RAVDESS_LABELS[number] for published in (SPEECH, SONG) for number in Counter(published).elements())
    assert table["label"].value_counts().to_dict() == dict(counts)
    assert "18" not in set(table.loc[table["channel"] == "song", "speaker"])
    assert "train.py needs --labels neu cal hap sad ang fea dis sur" in caplog.text


def test_ravdess_names_what_is_missing_and_what_is_not_its_own(ravdess, tmp_path, capsys):
    gone = ravdess / "Video_Speech_Actor_05" / "Actor_05" / "01-01-03-02-01-01-05.mp4"
    with away(gone):
        lines = refuse("ravdess", ravdess, tmp_path / "no", capsys)
        assert lines == [
            "Actor_05/01-01-03-02-01-01-05.mp4: missing",
            "--skip_missing drops the utterances that need these files",
        ]
        table, dropped = prepare("ravdess", ravdess, tmp_path / "out", "--skip_missing")
    assert len(table) == 863
    assert dropped.loc[gone.stem, "reason"] == "Actor_05/01-01-03-02-01-01-05.mp4: missing"
    with put(ravdess / "Actor_25" / "01-01-01-02-01-01-01.mp4") as extra:  # neutral has no strong version
        lines = refuse("ravdess", ravdess, tmp_path / "no", capsys)
        assert lines[0] == f"{extra}: not a file of RAVDESS"
        assert len(lines) == 2
        table, dropped = prepare("ravdess", ravdess, tmp_path / "more", "--allow_count_mismatch")
    assert len(table) == 864
    assert dropped.loc["Actor_25/01-01-01-02-01-01-01.mp4", "reason"] == "not a file of RAVDESS"
    with put(ravdess / "copy" / gone.name) as extra:
        assert str(extra) in refuse("ravdess", ravdess, tmp_path / "no", capsys)[0]


def test_a_copy_of_some_actors_names_the_others_once(ravdess, tmp_path, capsys):
    folder = ravdess / "Video_Speech_Actor_07"
    with away(folder):
        lines = refuse("ravdess", ravdess, tmp_path / "no", capsys)
    assert lines[0] == "speaker 07: all 60 clips, such as Actor_07/01-01-01-01-01-01-07.mp4: missing"
    assert len(lines) == 2


def test_a_class_that_is_asked_for_is_not_merged(ravdess, tmp_path):
    table, _ = prepare("ravdess", ravdess, tmp_path / "out", "--labels", "neu", "cal")
    assert table["label"].value_counts().to_dict() == {"cal": 192, "neu": 96}
    table, _ = prepare("ravdess", ravdess, tmp_path / "map", "--labels", "neu", "neg", "--label_map", "sad=neg,ang=neg")
    assert table["label"].value_counts().to_dict() == {"neg": 384, "neu": 96}
