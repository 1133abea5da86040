"""folds.py and scripts/make_folds.py: who is trained on, who is held out, and sounds cut out of longer files."""

import av
import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from corpus.folds import check_folds, iemocap_speaker, parse_iemocap_id, plan_folds, speaker_overlap
from dataloader import read_audio, read_scp
from running.errors import InputError
from scripts.make_folds import main

LABELS = ("hap", "neu", "sad", "ang")


def write_corpus(folder, sessions=3, **columns):
    """A manifest of two speakers a session, four labels each, one wav each; `columns` replace or add columns."""
    rows = []
    for session in range(1, sessions + 1):
        for speaker in ("a", "b"):
            for label in LABELS:
                utt_id = f"{session}{speaker}_{label}"
                rows.append((utt_id, f"my clips/{utt_id}.wav", label, f"{session}{speaker}", f"Session{session}"))
    table = pd.DataFrame(rows, columns=["id", "path", "label", "speaker", "session"]).assign(**columns)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my clips").mkdir(exist_ok=True)
    for path in table["path"].unique():
        sf.write(folder / path, np.full(1600, 0.1), 16000)
    table.to_csv(folder / "manifest.csv", index=False)
    return table


def make_folds(folder, *flags):
    main(["--manifest", str(folder / "manifest.csv"), "--out", str(folder / "folds"), *flags])


def ids(folder, name):
    return {utterance.utt_id for utterance in read_scp(folder / "folds" / f"{name}.scp")}


def errors_of(folder, capsys, *flags):
    with pytest.raises(SystemExit) as stop:
        make_folds(folder, *flags)
    assert stop.value.code == 2
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


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


def test_lists_hold_their_sessions_and_paths_with_spaces(tmp_path):
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


def test_a_speaker_in_two_sessions_is_refused(tmp_path, capsys):
    table = write_corpus(tmp_path)
    table.loc[table["speaker"] == "3b", "speaker"] = "1a"
    table.to_csv(tmp_path / "manifest.csv", index=False)
    (error,) = errors_of(tmp_path, capsys)
    assert "speaker 1a" in error
    assert "session1 and session3" in error
    assert not (tmp_path / "folds").exists()


def test_a_speaker_counts_only_where_its_label_is_used(tmp_path):
    table = write_corpus(tmp_path)
    stray = table.iloc[[0]].assign(id="stray", speaker="3b", label="fru")
    pd.concat([table, stray]).to_csv(tmp_path / "manifest.csv", index=False)
    make_folds(tmp_path)
    assert "stray" not in ids(tmp_path, "paper/session1_valid")


def test_labels_are_merged_and_left_out(tmp_path, caplog):
    table = write_corpus(tmp_path)
    table["label"] = table["label"].replace({"hap": "exc"})
    table.to_csv(tmp_path / "manifest.csv", index=False)
    with caplog.at_level("INFO"):
        make_folds(tmp_path, "--labels", "hap", "neu", "--label_map", "exc=hap")
    assert "left out 12 utterances" in caplog.text
    assert "ang 6, sad 6" in caplog.text
    lines = (tmp_path / "folds" / "paper" / "session2_valid.scp").read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["hap", "neu", "hap", "neu"]


def test_labels_that_nobody_has_are_refused(tmp_path, capsys):
    write_corpus(tmp_path)
    (error,) = errors_of(tmp_path, capsys, "--labels", "joy")
    assert "joy" in error
    assert "ang hap neu sad" in error


def test_two_sessions_give_the_paper_protocol_alone(tmp_path, caplog):
    write_corpus(tmp_path, sessions=2)
    make_folds(tmp_path)
    assert "needs 3 sessions and there are 2" in caplog.text
    assert len(list((tmp_path / "folds" / "paper").iterdir())) == 4
    assert not (tmp_path / "folds" / "strict").exists()


def test_one_session_is_refused(tmp_path, capsys):
    write_corpus(tmp_path, sessions=1)
    assert "at least 2" in errors_of(tmp_path, capsys)[0]


def test_sessions_are_ordered_by_number(tmp_path):
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


def test_lists_of_an_earlier_run_are_pointed_out(tmp_path, caplog):
    write_corpus(tmp_path, sessions=3)
    make_folds(tmp_path)
    write_corpus(tmp_path, sessions=2)
    make_folds(tmp_path)
    assert caplog.text.count("earlier run") == 2 + 9


@pytest.fixture
def dialogue(tmp_path):
    """Ten seconds of sound, second k at level k/100, in a wav of 22.05 kHz and in an avi."""
    steps = np.repeat(np.arange(10) / 100, 22050).astype(np.float32)
    (tmp_path / "long").mkdir()
    sf.write(tmp_path / "long" / "talk.wav", steps, 22050)
    with av.open(str(tmp_path / "long" / "talk.avi"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=22050)
        stream.layout = "mono"
        for start in range(0, len(steps), 1050):
            frame = av.AudioFrame.from_ndarray(
                (steps[None, start : start + 1050] * 32768).astype(np.int16), "s16", "mono"
            )
            frame.sample_rate, frame.pts = 22050, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return tmp_path


@pytest.mark.parametrize("name", ["talk.wav", "talk.avi"])
def test_sounds_are_cut_out_of_longer_files(dialogue, name):
    write_corpus(dialogue, sessions=2)
    table = pd.read_csv(dialogue / "manifest.csv")
    n = len(table)
    parts = table.assign(path=f"long/{name}", start=[0.5 * (i % 10) for i in range(n)])
    parts["end"] = parts["start"] + 0.25
    parts.loc[n - 1, ["start", "end"]] = [8.0, np.nan]
    parts.to_csv(dialogue / "manifest.csv", index=False)
    make_folds(dialogue, "--audio_root", str(dialogue / "cut"))
    for session in (1, 2):
        for utterance in read_scp(dialogue / "folds" / "paper" / f"session{session}_valid.scp"):
            assert utterance.path == str(dialogue / "cut" / f"{utterance.utt_id}.wav")
            assert sf.info(utterance.path).samplerate == 16000
            row = parts[parts["id"] == utterance.utt_id].iloc[0]
            samples = read_audio(utterance.path)
            if np.isnan(row["end"]):
                assert len(samples) == pytest.approx(2 * 16000, abs=2)
            else:
                assert len(samples) == 4000
                middle = samples[1000:3000]  # away from the steps, where the resampling filter rings
                assert np.allclose(middle, np.floor(row["start"] + 0.125) / 100, atol=2e-3)


def test_finished_cuts_are_kept_until_the_times_change(dialogue, capsys):
    write_corpus(dialogue, sessions=2)
    table = pd.read_csv(dialogue / "manifest.csv").assign(path="long/talk.wav", start=1.0, end=2.0)
    table.to_csv(dialogue / "manifest.csv", index=False)
    make_folds(dialogue)
    cuts = sorted((dialogue / "folds" / "audio").iterdir())
    assert [cut.name for cut in cuts] == sorted(f"{utt_id}.wav" for utt_id in table["id"])
    before = {cut: cut.stat().st_mtime_ns for cut in cuts}
    cuts[3].write_bytes(cuts[3].read_bytes()[:20])  # what a full disk leaves
    table.loc[table["id"] == cuts[0].stem, ["start", "end"]] = [3.0, 4.0]
    table.to_csv(dialogue / "manifest.csv", index=False)
    make_folds(dialogue)
    changed = {cut for cut in cuts if cut.stat().st_mtime_ns != before[cut]}
    assert changed == {cuts[0], cuts[3]}
    assert read_audio(cuts[0])[8000] == pytest.approx(0.03, abs=1e-3)
    assert read_audio(cuts[3])[8000] == pytest.approx(0.01, abs=1e-3)


def test_cuts_past_the_end_are_all_named(dialogue, capsys):
    write_corpus(dialogue, sessions=2)
    table = pd.read_csv(dialogue / "manifest.csv").assign(path="long/talk.wav", start=1.0, end=2.0)
    table.loc[:1, ["start", "end"]] = [50.0, 51.0]
    table.to_csv(dialogue / "manifest.csv", index=False)
    errors = errors_of(dialogue, capsys)
    assert [error.split(":")[1].strip() for error in errors] == ["1a_hap", "1a_neu"]
    assert not (dialogue / "folds" / "paper").exists()


def test_a_sound_of_its_own_is_not_cut(dialogue):
    write_corpus(dialogue, sessions=2, video="long/talk.avi", start=1.0, end=2.0)
    make_folds(dialogue)
    assert not (dialogue / "folds" / "audio").exists()


@pytest.mark.parametrize(
    ("utt_id", "speaker", "wears_markers", "style"),
    [
        ("Ses01F_impro01_F000", "Ses01F", True, "improvised"),
        ("Ses03F_impro03_M012", "Ses03M", False, "improvised"),
        ("Ses05M_script01_1b_F003", "Ses05F", False, "scripted"),
        ("Ses05M_script03_2_M041", "Ses05M", True, "scripted"),
    ],
)
def test_iemocap_ids(utt_id, speaker, wears_markers, style):
    parsed = parse_iemocap_id(utt_id)
    assert iemocap_speaker(utt_id) == parsed.speaker == speaker
    assert (parsed.wears_markers, parsed.style) == (wears_markers, style)
    assert parsed.dialogue == utt_id.rsplit("_", 1)[0]


@pytest.mark.parametrize("utt_id", ["03-01-01_01", "Ses01F_impro01", "Ses01X_impro01_F000", "Ses01F_impro01_X000", ""])
def test_other_ids_have_no_known_speaker(utt_id):
    assert iemocap_speaker(utt_id) is None


def test_speaker_overlap():
    train = ["Ses01F_impro01_F000", "Ses02M_impro01_F001", "clip1"]
    assert speaker_overlap(train, ["Ses01M_script01_1_F004", "Ses02F_impro01_M000", "clip1"]) == ["Ses01F"]
    assert speaker_overlap(train, ["Ses03M_impro01_F000", "clip1"]) == []
    assert speaker_overlap(["x", "y"], ["z", "w"], {"x": "anna", "y": "ben", "z": "ben"}) == ["ben"]
