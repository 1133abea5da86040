"""corpus/cutting.py by way of scripts/make_folds.py: sounds cut out of longer files."""

import av
import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from dataloader import read_audio, read_scp


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
def test_sounds_are_cut_out_of_longer_files(dialogue, name, write_corpus, make_folds):
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


def test_finished_cuts_are_kept_until_the_times_change(dialogue, capsys, write_corpus, make_folds):
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


def test_cuts_past_the_end_are_all_named(dialogue, capsys, write_corpus, errors_of):
    write_corpus(dialogue, sessions=2)
    table = pd.read_csv(dialogue / "manifest.csv").assign(path="long/talk.wav", start=1.0, end=2.0)
    table.loc[:1, ["start", "end"]] = [50.0, 51.0]
    table.to_csv(dialogue / "manifest.csv", index=False)
    errors = errors_of(dialogue, capsys)
    assert [error.split(":")[1].strip() for error in errors] == ["1a_hap", "1a_neu"]
    assert not (dialogue / "folds" / "paper").exists()


def test_a_sound_of_its_own_is_not_cut(dialogue, write_corpus, make_folds):
    write_corpus(dialogue, sessions=2, video="long/talk.avi", start=1.0, end=2.0)
    make_folds(dialogue)
    assert not (dialogue / "folds" / "audio").exists()


def test_ends_far_past_the_sound_are_cut_and_named_in_one_line(dialogue, write_corpus, make_folds, caplog):
    write_corpus(dialogue, sessions=2)
    table = pd.read_csv(dialogue / "manifest.csv").assign(path="long/talk.wav", start=9.0, end=10.2)
    table.loc[[2, 5], "end"] = 1000.0
    table.to_csv(dialogue / "manifest.csv", index=False)
    make_folds(dialogue)
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "foalnet.cutting"]
    named = ", ".join(f"{utt_id} (1000.00 of 10.00 s)" for utt_id in sorted(table["id"][[2, 5]]))
    assert warning == f"2 utterances end past their sound and are cut at its end: {named}"
    assert sf.info(dialogue / "folds" / "audio" / f"{table['id'][2]}.wav").frames == 16000


def test_a_start_past_the_end_is_refused(dialogue, write_corpus, make_folds, errors_of, capsys):
    write_corpus(dialogue, sessions=2)
    table = pd.read_csv(dialogue / "manifest.csv").assign(path="long/talk.wav", start=1.0, end=2.0)
    table.loc[3, ["start", "end"]] = [50.0, 60.0]
    table.to_csv(dialogue / "manifest.csv", index=False)
    (error,) = errors_of(dialogue, capsys)
    assert error.startswith(f"error: {table['id'][3]}: ")
    assert "start 50.0000 is not before its end at 10.0000 s" in error
