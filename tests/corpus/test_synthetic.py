"""The synthetic release: the layout of the real one, the same files for the same seed, cues in both streams."""

import re
from collections import Counter

import av
import numpy as np
import pytest
import soundfile

from corpus.synthetic import DIALOGUES, EMOTIONS, Difficulty, Turn, draw_actor, make_release, plan_turns
from corpus.synthetic_face import FRAME_RATE
from corpus.synthetic_voice import synthesize_speech
from scripts.extract_clip import main as extract

LINE = re.compile(r"\[(\d+\.\d{4}) - (\d+\.\d{4})\]\t(Ses\d\d[FM]_\w+_[FM]\d{3})\t([a-z]{3})\t\[(\d\.\d{4}(, )?){3}\]")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """One session of the release."""
    root = tmp_path_factory.mktemp("demo") / "IEMOCAP_full_release"
    make_release(root, seed=3, sessions=(1,), num_workers=2)
    return root


def read_turns(release, name):
    """(start, end, id, emotion) of the utterance lines of a label file."""
    text = (release / "Session1/dialog/EmoEvaluation" / f"Ses01{name}.txt").read_text()
    matches = [LINE.fullmatch(line) for line in text.splitlines() if line.startswith("[")]
    assert all(matches)
    return [(float(m[1]), float(m[2]), m[3], m[4]) for m in matches]


@pytest.mark.parametrize("name", DIALOGUES)
def test_release_has_the_files_of_the_real_one(release, name):
    session = release / "Session1"
    text = (session / "dialog/EmoEvaluation" / f"Ses01{name}.txt").read_text()
    for start in ("% [START_TIME", "C-E2:\t", "A-E3:\t", "\n"):
        assert any(line.startswith(start) for line in text.splitlines(keepends=True))
    assert (session / "dialog/EmoEvaluation" / f"._Ses01{name}.txt").is_file()
    turns = read_turns(release, name)
    for start, end, utt_id, _ in turns:
        sound = soundfile.info(session / "sentences/wav" / f"Ses01{name}" / f"{utt_id}.wav")
        assert (sound.samplerate, sound.channels) == (16000, 1)
        assert sound.duration == pytest.approx(end - start, abs=1e-3)
    counts = Counter(emotion for *_, emotion in turns)
    assert {counts[k] for k in ("neu", "sad", "ang")} == {3}
    assert counts["hap"] + counts["exc"] == 3
    assert counts["fru"] + counts["xxx"] == 1
    with av.open(str(session / "dialog/avi/DivX" / f"Ses01{name}.avi")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.codec_tag) == ("mpeg4", "DIVX")
        assert (stream.width, stream.height, stream.average_rate) == (720, 480, FRAME_RATE)
        picture = next(container.decode(stream)).to_ndarray(format="rgb24").astype(int)
        assert float(stream.frames / stream.average_rate) > max(end for _, end, *_ in turns)
    assert picture[:104].max() < 10
    assert picture[376:].max() < 10
    assert picture[112:368].mean() > 50


def test_two_speakers_overlap_somewhere_and_a_speaker_never(release):
    overlaps = 0
    for name in DIALOGUES:
        turns = read_turns(release, name)
        for sex in "FM":
            own = sorted(turn[:2] for turn in turns if turn[2].rsplit("_", 1)[1][0] == sex)
            assert all(first[1] <= second[0] for first, second in zip(own, own[1:], strict=False))
        overlaps += sum(first[1] > second[0] for first, second in zip(turns, turns[1:], strict=False))
    assert overlaps > 0


def test_markers_are_worn_in_the_left_half(release):
    for name in DIALOGUES:
        with av.open(str(release / "Session1/dialog/avi/DivX" / f"Ses01{name}.avi")) as container:
            picture = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
        forehead = [picture[140:190, x : x + 120].min(-1).max() for x in (120, 480)]
        assert forehead[0] > forehead[1] + 10


def test_the_same_seed_gives_the_same_files(release, tmp_path):
    make_release(tmp_path, seed=3, sessions=(1,), dialogues=DIALOGUES[1:2])
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == len(read_turns(release, DIALOGUES[1])) + 3  # label file, its hidden twin, video
    assert all((release / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_arousal_raises_pitch_energy_and_rate():
    actor = draw_actor("F", np.random.default_rng(0))
    pitch, energy, length = [], [], []
    for arousal in (-1.0, 1.0):
        turn = Turn("u", "F", "neu", arousal, 0.0, 0.0, 0.0, 0.0)
        sounds = [synthesize_speech(actor, turn, np.random.default_rng(seed))[0] for seed in range(5)]
        length.append(np.mean([len(sound) for sound in sounds]))
        energy.append(np.mean([np.std(sound) for sound in sounds]))
        spectra = [np.abs(np.fft.rfft(sound, 2**16)) for sound in sounds]
        harmonic = [np.argmax(spectrum[400:2000]) + 400 for spectrum in spectra]  # 100 to 500 Hz
        pitch.append(np.median(harmonic))
    assert energy[1] > 2 * energy[0]
    assert length[1] < 0.85 * length[0]
    assert pitch[1] > 1.2 * pitch[0]


def test_neither_stream_alone_tells_all_emotions():
    """A nearest-mean rule on what voice and face really show: each alone well below both."""
    turns = [
        turn
        for seed in range(60)
        for turn in plan_turns("d", Difficulty(), np.random.default_rng(seed))
        if turn.emotion not in ("fru", "xxx")
    ]
    emotions = np.array(["hap" if turn.emotion == "exc" else turn.emotion for turn in turns])
    voice = np.array([[turn.voice_arousal, turn.voice_valence / 5] for turn in turns])
    face = np.array([[turn.face_valence, turn.face_brow / 2] for turn in turns])

    def accuracy(shown):
        means = {name: shown[emotions == name].mean(0) for name in set(emotions)}
        nearest = [min(means, key=lambda name: np.linalg.norm(row - means[name])) for row in shown]  # noqa: B023
        return np.mean(np.array(nearest) == emotions)

    assert 0.4 < accuracy(face) < 0.85
    assert 0.4 < accuracy(voice) < 0.85
    assert accuracy(np.hstack([voice, face])) > max(accuracy(voice), accuracy(face)) + 0.08
    assert set(EMOTIONS) == {"hap", "exc", "ang", "neu", "sad", "fru", "xxx"}


def test_features_show_the_valence_of_the_face(release, tmp_path, tiny_clip):
    """Between a smile and its opposite the mean feature moves more than between two utterances of one kind."""
    session, rows = release / "Session1", ["id,path,label,speaker,session,video,start,end,crop"]
    for name in DIALOGUES:
        for start, end, utt_id, emotion in read_turns(release, name):
            side = "left" if name[0] == utt_id.rsplit("_", 1)[1][0] else "right"
            video = session / "dialog/avi/DivX" / f"Ses01{name}.avi"
            rows.append(f"{utt_id},{video},{emotion},s,1,{video},{start},{end},{side}")
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    flags = ["--rows", "112:368", "--frame_stride", "5", "--clip_model", tiny_clip, "--out", str(tmp_path / "f")]
    extract(["--manifest", str(tmp_path / "m.csv"), *flags])
    means, kinds = [], []
    for row in rows[1:]:
        utt_id, _, emotion, *_ = row.split(",")
        if utt_id.rsplit("_", 1)[1][0] == "F" and emotion in ("hap", "exc", "sad", "ang"):
            means.append(np.load(tmp_path / "f" / f"{utt_id}.npy").mean(0))
            kinds.append(emotion in ("hap", "exc"))
    means, kinds = np.stack(means), np.array(kinds)
    spread = np.mean([means[kinds == kind].std(0).mean() for kind in (True, False)])
    assert np.abs(means[kinds].mean(0) - means[~kinds].mean(0)).mean() > 0.3 * spread
