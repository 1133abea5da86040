"""CREMA-D by scripts/prepare_corpus.py: 91 actors, 7442 clips, intended and perceived labels."""

from collections import Counter
from pathlib import Path

import pytest

from corpus.cremad import read_cremad
from releases import away, groups_of, prepare, put, refuse, touch, write_csv

CREMAD_COUNTS = {"ANG": 1271, "DIS": 1271, "FEA": 1271, "HAP": 1271, "NEU": 1087, "SAD": 1271}
CREMAD_BAD = {"1076_MTI_NEU_XX", "1076_MTI_SAD_XX", "1064_TIE_SAD_XX", "1064_IEO_DIS_MD"}


def cremad_names():
    lacking = {("1008", "WSI"), ("1009", "MTI"), ("1019", "ITH")}
    names = []
    for actor in map(str, range(1001, 1092)):
        for sentence in ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI"):
            for emotion in CREMAD_COUNTS:
                if (actor, sentence) in lacking or f"{actor}_{sentence}_{emotion}" in (
                    "1002_TIE_NEU",
                    "1076_ITS_NEU",
                ):
                    continue
                levels = ("LO", "MD", "HI") if sentence == "IEO" and emotion != "NEU" else ("XX",)
                names += [f"{actor}_{sentence}_{emotion}_{level}" for level in levels]
    assert Counter(name[9:12] for name in names) == CREMAD_COUNTS
    per_actor = Counter(Counter(name[:4] for name in names).values())
    assert per_actor == {82: 86, 81: 2, 76: 3}
    return names


@pytest.fixture(scope="module")
def cremad(tmp_path_factory):
    root, names = tmp_path_factory.mktemp("cremad"), cremad_names()
    touch(root / "VideoFlash", [f"{name}.flv" for name in names])
    touch(root / "AudioWAV", [f"{name}.wav" for name in names if name != "1040_ITH_SAD_XX"])
    touch(root / "AudioWAV", ["1040_ITH_SAD_X.wav", "._1001_DFA_ANG_XX.wav"])
    touch(root / "AudioMP3", ["1001_DFA_ANG_XX.mp3"])
    sexes = [(actor, 30, "Male" if actor <= 1048 else "Female", "", "") for actor in range(1001, 1092)]
    write_csv(root / "VideoDemographics.csv", ["ActorID", "Age", "Sex", "Race", "Ethnicity"], sexes)
    (root / "processedResults").mkdir()
    header = ["", "FileName", "VoiceVote", "VoiceLevel", "FaceVote", "FaceLevel", "MultiModalVote", "MultiModalLevel"]
    votes = []
    for i, name in enumerate(names):
        vote = {0: "A:D", 1: "N"}.get(i % 10, name[9])
        votes.append((i, name, "S", "50", "S", "50", vote, "50"))
    write_csv(root / "processedResults" / "summaryTable.csv", header, votes)
    return root


@pytest.fixture(scope="module")
def in_six_classes(cremad, tmp_path_factory):
    return prepare("cremad", cremad, tmp_path_factory.mktemp("out"), "--labels", "all")


def test_cremad_has_the_intended_labels_and_none_of_the_bad_clips(cremad, in_six_classes):
    table, dropped = in_six_classes
    used = {name: name[9:12].lower() for name in cremad_names() if name not in CREMAD_BAD}
    assert dict(zip(table["id"], table["label"], strict=True)) == used
    assert set(dropped.index) == CREMAD_BAD
    assert "a minute with all emotions" in dropped.loc["1064_IEO_DIS_MD", "reason"]
    row = table.set_index("id").loc["1040_ITH_SAD_XX"]
    assert (Path(row["path"]).name, Path(row["video"]).name) == ("1040_ITH_SAD_X.wav", "1040_ITH_SAD_XX.flv")
    row = table.set_index("id").loc["1091_IEO_HAP_MD"]
    assert (row["path"], row["video"]) == (
        str(cremad / "AudioWAV" / "1091_IEO_HAP_MD.wav"),
        str(cremad / "VideoFlash" / "1091_IEO_HAP_MD.flv"),
    )
    assert (row["speaker"], row["gender"], row["sentence"], row["intensity"]) == ("1091", "F", "IEO", "MD")


def test_cremad_groups_are_balanced_and_the_same_every_time(cremad, in_six_classes, tmp_path):
    table, _ = prepare("cremad", cremad, tmp_path / "out")
    assert table["label"].value_counts().to_dict() == {"hap": 1271, "ang": 1271, "sad": 1269, "neu": 1086}
    groups = groups_of(table)
    assert len(groups) == 5
    men = [sum(int(actor) <= 1048 for actor in actors) for actors in groups.values()]
    women = [len(actors) - n for actors, n in zip(groups.values(), men, strict=True)]
    assert (sorted(men), sorted(women)) == ([9, 9, 10, 10, 10], [8, 8, 9, 9, 9])
    sizes = table["session"].value_counts()
    assert sizes.max() - sizes.min() <= 60  # an actor has about 54
    assert groups_of(in_six_classes[0]) == groups


def test_cremad_as_it_was_perceived(cremad, tmp_path):
    table, dropped = prepare("cremad", cremad, tmp_path / "out", "--perceived", "--labels", "all")
    names = cremad_names()
    ties = {name for i, name in enumerate(names) if i % 10 == 0}
    assert set(dropped.index) == ties | CREMAD_BAD
    assert set(dropped.loc[sorted(ties - CREMAD_BAD), "reason"]) == {"a tie of the raters, A:D"}
    rows = table.set_index("id")
    for i, name in enumerate(names):
        if name in rows.index:
            assert rows.loc[name, "label"] == ("neu" if i % 10 == 1 else name[9:12].lower())
            assert rows.loc[name, "intended"] == name[9:12]


def test_cremad_names_what_is_missing_and_what_is_not_its_own(cremad, tmp_path, capsys):
    wav, flv = cremad / "AudioWAV" / "1003_TAI_FEA_XX.wav", cremad / "VideoFlash" / "1004_TAI_FEA_XX.flv"
    with away(wav, flv):
        lines = refuse("cremad", cremad, tmp_path / "no", capsys)
        assert lines[:2] == ["AudioWAV/1003_TAI_FEA_XX.wav: missing", "VideoFlash/1004_TAI_FEA_XX.flv: missing"]
    with put(cremad / "VideoFlash" / "1008_WSI_ANG_XX.flv") as extra:
        assert refuse("cremad", cremad, tmp_path / "no", capsys)[0] == f"{extra}: not a clip of CREMA-D"
    with put(cremad / "AudioWAV" / "1001_DFA_ANG_XX.wav", b"version https://git-lfs.github.com/spec/v1\noid x\n"):
        assert "git lfs pull" in refuse("cremad", cremad, tmp_path / "no", capsys)[0]


def test_cremad_converted_to_mp4_and_without_wavs(cremad, caplog):
    flv = cremad / "VideoFlash" / "1001_DFA_ANG_XX.flv"
    with away(flv), put(flv.with_suffix(".MP4")) as mp4, away(cremad / "AudioWAV", cremad / "VideoDemographics.csv"):
        clips = {clip.id: clip for clip in read_cremad(cremad).clips}
    assert not any(clip.missing for clip in clips.values())
    assert clips["1001_DFA_ANG_XX"].path == clips["1001_DFA_ANG_XX"].columns["video"] == mp4
    assert clips["1001_DFA_HAP_XX"].path == cremad / "VideoFlash" / "1001_DFA_HAP_XX.flv"
    assert "not balanced in sex" in caplog.text


def test_a_number_of_groups_that_can_not_be_is_refused(cremad, tmp_path, capsys):
    assert "from 2 to 91" in refuse("cremad", cremad, tmp_path / "no", capsys, "--groups", "1")[0]
