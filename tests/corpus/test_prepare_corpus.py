"""scripts/prepare_corpus.py: flags that don't fit, and Java-SED against the manifest that came with it."""

import pandas as pd
import pytest

from corpus.manifest import read_manifest
from releases import ROOT, groups_of, prepare, refuse, touch
from scripts.prepare_corpus import main

JAVASED = ROOT.parent / "shared" / "data" / "javased"
needs_javased = pytest.mark.skipif(not JAVASED.is_dir(), reason=f"no {JAVASED}")


@needs_javased
def test_javased_gives_the_manifest_that_was_written_by_hand(tmp_path):
    table, dropped = prepare("javased", JAVASED.resolve(), tmp_path / "out", "--skip_missing")
    given = read_manifest(JAVASED.resolve() / "manifest.csv")
    columns = ["id", "path", "label", "speaker", "session", "video"]
    pd.testing.assert_frame_equal(table[columns], given[columns])
    assert set(dropped.index.str[:2]) == {"04", "05", "09", "10"}
    assert len(dropped) == 64


def test_javased_names_what_is_missing_and_drops_other_emotions(tmp_path, capsys):
    root = tmp_path / "release"
    names = [
        f"{speaker:02d}-{sentence:02d}-{emotion}_01.mp4"
        for speaker in range(1, 11)
        for sentence in range(1, 5)
        for emotion in ("01", "02", "03", "06")
    ]
    touch(root / "dataset-resize", [*names[1:], "01-01-04_01.mp4"])
    assert refuse("javased", root, tmp_path / "no", capsys)[0] == "01-01-01_01.mp4: missing"
    touch(root / "dataset-resize", names[:1])
    table, dropped = prepare("javased", root, tmp_path / "out")
    assert len(table) == 160
    assert groups_of(table)["session5"] == {"05", "10"}
    assert dropped["reason"].to_dict() == {"dataset-resize/01-01-04_01.mp4": "emotion 04 is not one of the four"}
    touch(root / "dataset-resize", ["11-01-01_01.mp4"])
    assert "11-01-01_01.mp4: not a clip of Java-SED" in refuse("javased", root, tmp_path / "no", capsys)[0]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["ravdess", "--labels", "hap", "joy"], "--labels joy: not a class of ravdess"),
        (["cremad", "--labels", "cal"], "--labels cal: not a class of cremad"),
        (["meld", "--label_map", "joy=hap"], "--label_map joy: not a label of meld; its labels: hap neu sad"),
        (["javased", "--groups", "3"], "--groups 3: javased has sessions"),
        (["meld", "--groups", "3"], "--groups 3: meld has an official split"),
        (["meld", "--song"], "--song: is for ravdess alone"),
        (["ravdess", "--perceived"], "--perceived: is for cremad alone"),
        (["ravdess", "--columns", "id=x"], "--columns: is for --from_csv"),
        ([], "either a corpus (ravdess cremad meld msp_improv mer2023 javased) or --from_csv TABLE is needed"),
        (["meld"], "holds no train_sent_emo.csv"),
        (["mer2023"], "holds no train-label.csv"),
        (["msp_improv"], "holds no Evalution.txt or Evaluation.txt"),
        (["ravdess", "--root", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_can_not_be_meant_is_one_line(flags, says, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--root", str(tmp_path), "--out", str(tmp_path / "out"), *flags])
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert says in line
