"""corpus/folds.py by way of scripts/make_folds.py: who is trained on, who is held out."""

import pandas as pd
import pytest

from corpus.folds import check_folds, plan_folds, speaker_overlap
from dataloader import read_scp
from running.errors import InputError

LABELS = ("hap", "neu", "sad", "ang")


@pytest.mark.parametrize("n", [2, 3, 5, 11])
def test_every_plan_partitions_the_sessions(n):
    sessions = [f"session{i}" for i in range(1, n + 1)]
    plan = plan_folds(sessions)
    assert ("strict" in plan) == (n >= 3)
    for folds in plan.values():
        assert list(folds) == sessions
        for held_out, splits in folds.items():
            members = [session for split in splits.values() for session in split]
            assert sorted(members) == sorted(sessions)
            assert splits.get("test", splits["valid"]) == [held_out]
    if n >= 3:
        assert sorted(splits["valid"][0] for splits in plan["strict"].values()) == sorted(sessions)


def test_lists_hold_their_sessions_and_paths_with_spaces(tmp_path, write_corpus, make_folds, ids):
    write_corpus(tmp_path)
    make_folds(tmp_path)
    for k in range(1, 4):
        assert {utt_id[0] for utt_id in ids(tmp_path, f"paper/session{k}_train")} == set("123") - {str(k)}
        assert {utt_id[0] for utt_id in ids(tmp_path, f"paper/session{k}_valid")} == {str(k)}
        assert {utt_id[0] for utt_id in ids(tmp_path, f"strict/session{k}_test")} == {str(k)}
        assert {utt_id[0] for utt_id in ids(tmp_path, f"strict/session{k}_valid")} == {str(k % 3 + 1)}
        assert {utt_id[0] for utt_id in ids(tmp_path, f"strict/session{k}_train")} == {str((k + 1) % 3 + 1)}
    utterance = read_scp(tmp_path / "folds" / "paper" / "session1_valid.scp")[0]
    assert utterance.path == str(tmp_path / "my clips" / "1a_ang.wav")
    assert LABELS[utterance.label] == "ang"


def test_a_speaker_in_two_sessions_is_refused(tmp_path, capsys, write_corpus, errors_of):
    table = write_corpus(tmp_path)
    table.loc[table["speaker"] == "3b", "speaker"] = "1a"
    table.to_csv(tmp_path / "manifest.csv", index=False)
    (error,) = errors_of(tmp_path, capsys)
    assert "speaker 1a" in error
    assert "session1 and session3" in error
    assert not (tmp_path / "folds").exists()


def test_a_speaker_counts_only_where_its_label_is_used(tmp_path, write_corpus, make_folds, ids):
    table = write_corpus(tmp_path)
    stray = table.iloc[[0]].assign(id="stray", speaker="3b", label="fru")
    pd.concat([table, stray]).to_csv(tmp_path / "manifest.csv", index=False)
    make_folds(tmp_path)
    assert "stray" not in ids(tmp_path, "paper/session1_valid")


def test_labels_are_merged_and_left_out(tmp_path, caplog, write_corpus, make_folds):
    table = write_corpus(tmp_path)
    table["label"] = table["label"].replace({"hap": "exc"})
    table.to_csv(tmp_path / "manifest.csv", index=False)
    with caplog.at_level("INFO"):
        make_folds(tmp_path, "--labels", "hap", "neu", "--label_map", "exc=hap")
    assert "left out 12 utterances" in caplog.text
    assert "ang 6, sad 6" in caplog.text
    lines = (tmp_path / "folds" / "paper" / "session2_valid.scp").read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["hap", "neu", "hap", "neu"]


def test_labels_that_nobody_has_are_refused(tmp_path, capsys, write_corpus, errors_of):
    write_corpus(tmp_path)
    (error,) = errors_of(tmp_path, capsys, "--labels", "joy")
    assert "joy" in error
    assert "ang hap neu sad" in error


def test_two_sessions_give_the_paper_protocol_alone(tmp_path, caplog, write_corpus, make_folds):
    write_corpus(tmp_path, sessions=2)
    make_folds(tmp_path)
    assert "needs 3 sessions and there are 2" in caplog.text
    assert len(list((tmp_path / "folds" / "paper").iterdir())) == 4
    assert not (tmp_path / "folds" / "strict").exists()


def test_one_session_is_refused(tmp_path, capsys, write_corpus, errors_of):
    write_corpus(tmp_path, sessions=1)
    assert "at least 2" in errors_of(tmp_path, capsys)[0]


def test_sessions_are_ordered_by_number(tmp_path, write_corpus, make_folds, ids):
    write_corpus(tmp_path, sessions=10)
    make_folds(tmp_path)
    assert {utt_id[:1] for utt_id in ids(tmp_path, "strict/session9_valid")} == {"1"}
    assert all(utt_id.startswith("10") for utt_id in ids(tmp_path, "strict/session9_valid"))
    assert all(not utt_id.startswith("10") for utt_id in ids(tmp_path, "strict/session10_valid"))


@pytest.mark.parametrize("path", ["a\tb.wav", "a\nb.wav", "a\u2028b.wav"])
def test_a_path_that_a_list_can_not_hold_is_refused(path):
    table = pd.DataFrame({"id": ["x", "y"], "path": ["x.wav", path], "speaker": ["a", "b"], "session": ["1", "2"]})
    with pytest.raises(InputError, match="y: path"):
        check_folds(table)


@pytest.mark.parametrize(
    ("session", "fault"),
    [
        ("..", "begins with a dot"),
        (".", "begins with a dot"),
        (".hidden", "begins with a dot"),
        ("a/b", "holds a slash"),
        ("a\nb", "holds a line break"),
        ("a\u2028b", "holds a line break"),
        ("a\x00b", "holds a control character"),
    ],
)
def test_a_session_that_can_not_be_a_file_name_is_refused(session, fault):
    table = pd.DataFrame({"id": ["x", "y"], "path": "x.wav", "speaker": ["a", "b"], "session": ["1", session]})
    with pytest.raises(InputError) as error:
        check_folds(table)
    assert str(error.value) == f"session {session!r}: {fault}; it becomes a file name"


def test_lists_of_an_earlier_run_are_pointed_out(tmp_path, caplog, write_corpus, make_folds):
    write_corpus(tmp_path, sessions=3)
    make_folds(tmp_path)
    write_corpus(tmp_path, sessions=2)
    make_folds(tmp_path)
    assert caplog.text.count("earlier run") == 2 + 9


def test_speaker_overlap():
    train = ["Ses01F_impro01_F000", "Ses02M_impro01_F001", "clip1"]
    assert speaker_overlap(train, ["Ses01M_script01_1_F004", "Ses02F_impro01_M000", "clip1"]) == ["Ses01F"]
    assert speaker_overlap(train, ["Ses03M_impro01_F000", "clip1"]) == []
    assert speaker_overlap(["x", "y"], ["z", "w"], {"x": "anna", "y": "ben", "z": "ben"}) == ["ben"]
