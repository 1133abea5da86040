"""A folder of clips and a table by scripts/prepare_corpus.py --from_csv: what is found, and what is refused."""

import numpy as np
import pytest
import soundfile as sf

from corpus.manifest import read_manifest
from dataloader import read_duration
from releases import groups_of, lists, read_dropped, touch, write_csv
from scripts.prepare_corpus import main

PEOPLE = ("anna", "ben", "cleo", "dora")
LABELS = ("hap", "neu", "sad", "ang")
COLUMNS = "path=file,label=feeling,speaker=who"


@pytest.fixture
def clips(tmp_path):
    """Four people, four feelings, two takes; a clip named by its folder, without suffix."""
    rows = []
    for person in PEOPLE:
        names = [f"{label}{take}" for label in LABELS for take in "12"]
        touch(tmp_path / "clips" / person, [f"{name}.mp4" for name in names])
        rows += [(f"{person}/{name}", name[:3], person, "old" if person == "ben" else "young") for name in names]
    ids = [(f"{person}_{path.split('/')[1]}", path, label, person, age) for path, label, person, age in rows]
    write_csv(tmp_path / "table.csv", ["key", "file", "feeling", "who", "age"], ids)
    return tmp_path


def run(folder, *flags, columns=f"id=key,{COLUMNS}"):
    flags = ["--from_csv", str(folder / "table.csv"), "--root", str(folder / "clips"), "--columns", columns, *flags]
    main([*flags, "--out", str(folder / "out")])
    return read_manifest(folder / "out" / "manifest.csv")


def refused(folder, capsys, *flags, **options):
    with pytest.raises(SystemExit) as stop:
        run(folder, *flags, **options)
    assert stop.value.code == 2
    assert not (folder / "out").exists()
    return [line[7:] for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


def edit(folder, old, new, encoding="utf-8"):
    path = folder / "table.csv"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_bytes(text.replace(old, new).encode(encoding))


def test_a_session_is_a_speaker_where_the_table_has_none(clips):
    table = run(clips)
    assert len(table) == 32
    assert groups_of(table) == {person: {person} for person in PEOPLE}
    row = table.set_index("id").loc["cleo_sad2"]
    assert (row["path"], row["label"]) == (str(clips / "clips" / "cleo" / "sad2.mp4"), "sad")
    assert set(table.loc[table["speaker"] == "ben", "age"]) == {"old"}
    assert sorted(lists(clips / "out", "strict")["dora_test"]) == sorted(table.loc[table["speaker"] == "dora", "id"])


def test_groups_of_speakers_and_a_session_of_the_table(clips, capsys):
    assert sorted(map(len, groups_of(run(clips, "--groups", "2")).values())) == [2, 2]
    table = run(clips, columns=f"id=key,{COLUMNS},session=age")
    assert groups_of(table) == {"old": {"ben"}, "young": {"anna", "cleo", "dora"}}
    with pytest.raises(SystemExit):
        run(clips, "--groups", "2", columns=f"id=key,{COLUMNS},session=age")
    assert "the column age says the sessions" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252"])
def test_a_table_as_a_spreadsheet_writes_it(clips, encoding):
    edit(clips, ",", ";")
    edit(clips, "old", '"alt; schön, ja"')
    edit(clips, "", "", encoding)
    table = run(clips)
    assert set(table["age"]) == {"young", "alt; schön, ja"}


def test_ids_are_names_and_sounds_lie_beside_videos(clips):
    touch(clips / "clips" / "sound", ["my clip.WAV", "b.wav", "c.wav"])
    touch(clips / "clips" / "sound", ["my clip.avi"])
    touch(clips / "clips" / "other" / "film", ["b.mp4"])
    rows = [("my clip", "very happy", "anna"), ("sound/b.wav", "sad", "ben"), ("c", "sad", "cleo")]
    write_csv(clips / "table.csv", ["path", "label", "speaker"], rows)
    table = run(clips, columns="").set_index("id")
    assert table["label"].to_dict() == {"my_clip": "very_happy", "b": "sad", "c": "sad"}
    assert table.loc["my_clip", "path"].endswith("sound/my clip.WAV")
    assert table.loc["my_clip", "video"].endswith("sound/my clip.avi")
    assert table.loc["b", "video"].endswith("film/b.mp4")
    assert table.loc["c", "video"].endswith("c.wav")


def test_clips_without_a_row_are_dropped_and_rows_without_a_clip_named(clips, capsys):
    (clips / "clips" / "anna" / "hap1.mp4").rename(clips / "clips" / "anna" / "extra.mp4")
    (clips / "clips" / "ben" / "._hap1.mp4").touch()
    lines = refused(clips, capsys)
    assert lines == ["anna/hap1: missing", "--skip_missing drops the utterances that need these files"]
    assert len(run(clips, "--skip_missing")) == 31
    reasons = read_dropped(clips / "out")["reason"].to_dict()
    assert reasons == {"anna_hap1": "anna/hap1: missing", "anna/extra.mp4": "no row in the table"}


def test_a_sound_has_the_video_beside_it_or_none(clips, capsys):
    rows = []
    for person in ("anna", "ben"):
        touch(clips / "clips" / "Audio" / person / "1", ["take.wav"])
        touch(clips / "clips" / "Video" / person / "1", ["take.mp4"])
        rows.append((person, f"Audio/{person}/1/take", "neu", person))
    write_csv(clips / "table.csv", ["id", "path", "label", "speaker"], rows)
    videos = run(clips, columns="").set_index("id")["video"]
    assert [video.split("/")[-4:-1] for video in videos] == [["Video", "anna", "1"], ["Video", "ben", "1"]]
    (clips / "clips" / "Video" / "anna" / "1" / "take.mp4").unlink()
    videos = run(clips, columns="").set_index("id")["video"]
    assert videos["anna"].endswith("Audio/anna/1/take.wav")  # not ben's
    touch(clips / "clips" / "More" / "ben" / "1", ["take.mp4"])
    with pytest.raises(SystemExit):
        run(clips, columns="")
    assert "line 3: the video of " in capsys.readouterr().err


def test_labels_are_merged_and_chosen(clips, capsys):
    table = run(clips, "--labels", "pos", "neu", "--label_map", "hap=pos")
    assert table["label"].value_counts().to_dict() == {"pos": 8, "neu": 8}
    assert set(read_dropped(clips / "out")["reason"]) == {"label is not one of pos neu"}
    with pytest.raises(SystemExit):
        run(clips, "--labels", "joy")
    assert "--labels joy: not in" in capsys.readouterr().err


def test_parts_of_longer_files_are_cut(clips):
    for person in PEOPLE:
        sf.write(clips / "clips" / f"{person}.wav", np.full(32000, 0.1), 16000)
    rows = [(f"{person}{i}", person, "neu", person, i, i + 0.5) for person in PEOPLE for i in (0, 1)]
    write_csv(clips / "table.csv", ["id", "path", "label", "speaker", "start", "end"], rows)
    run(clips, columns="")
    paths = (clips / "out" / "folds" / "strict" / "anna_test.scp").read_text().split()[1::3]
    assert [read_duration(path) for path in paths] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("path=file,label=feeling", "no column speaker (--columns speaker=NAME)"),
        ("id=key,path=file,speaker=who", "label and path (or id) are needed"),
        ("label=feeling,speaker=who", "label and path (or id) are needed"),
        (f"{COLUMNS},session=room", "no column room; found key, file, feeling, who, age"),
        ("sex=who", "--columns sex: write field=name"),
        ("path", "--columns path: write field=name"),
    ],
)
def test_columns_that_can_not_do_are_refused(clips, capsys, columns, says):
    (line,) = refused(clips, capsys, columns=columns)
    assert says in line


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("anna_hap1,anna/hap1,hap,anna,", "anna_hap1,anna/hap1,hap,,", "line 2: speaker is empty"),
        ("anna_hap2,anna/hap2,hap,", "anna_hap2,anna/hap2,,", "line 3: label is empty"),
        ("anna_hap2,", "anna_hap1,", "line 3: id 'anna_hap1' stands on line 2 already"),
        ("anna_hap2,", "an/na,", "line 3: id 'an/na' holds a slash"),
        ("anna/hap1", "hap1", "line 2: 'hap1' could be"),
        ("hap,anna,young", "hap,anna,young,x", "line 2: 6 cells, 5 columns"),
    ],
)
def test_bad_lines_are_named(clips, capsys, old, new, says):
    edit(clips, old, new)
    assert says in refused(clips, capsys)[0]


def test_one_speaker_makes_no_fold(clips, capsys):
    rows = [(f"{label}1", label, "anna") for label in LABELS]
    write_csv(clips / "table.csv", ["path", "label", "speaker"], [(f"anna/{a}", b, c) for a, b, c in rows])
    with pytest.raises(SystemExit):
        run(clips, columns="")
    assert "is the only one; leaving one session out needs at least 2" in capsys.readouterr().err
