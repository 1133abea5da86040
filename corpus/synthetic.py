"""A miniature synthetic IEMOCAP release: who says what in which emotion, and the files of it.

The release has the folders, file names and label files of the real one: five sessions, a woman and a man in each, four
dialogues a session, 720x480 DivX videos with both actors side by side (the marker wearer in the left half, the picture
in rows 112-368), a 16 kHz wav per sentence. Nothing in it is recorded: synthetic_voice.py computes the voice,
synthetic_face.py draws the face.

Emotion acts on both streams, unequally and never reliably. Pitch, energy, voice effort and speaking rate follow the
arousal of an utterance, mouth and brows its valence; either is blurred by a deviation drawn per utterance. The voice
therefore tells anger and joy from sadness and neutrality better than from each other, the face the other way
round, and only both together tell all four. Results on it say that the pipeline works, nothing about real people.
"""

import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from corpus.synthetic_face import Scene, write_video
from corpus.synthetic_voice import synthesize_speech
from dataloader import SAMPLE_RATE
from running.progress import progress_bar

DIALOGUES = ("F_impro01", "M_impro02", "F_script01_1", "M_script01_2")
EMOTIONS = {  # arousal, valence, inner brows up (+) or down (-)
    "hap": (0.9, 1.0, 0.0),
    "exc": (1.1, 1.1, 0.1),
    "ang": (1.0, -1.0, -0.6),
    "neu": (-0.1, 0.1, 0.0),
    "sad": (-1.1, -1.0, 0.6),
    "fru": (0.4, -0.6, -0.5),
    "xxx": (0.0, 0.0, 0.0),
}
TURNS = ("neu", "neu", "neu", "sad", "sad", "sad", "ang", "ang", "ang", "hap", "exc", "exc")  # of every dialogue
OTHER_TURNS = ("fru", "xxx")  # one of them in every dialogue: not among the four classes
NAMES = {
    "hap": "Happiness",
    "exc": "Excited",
    "ang": "Anger",
    "neu": "Neutral state",
    "sad": "Sadness",
    "fru": "Frustration",
    "xxx": "Other",
}


@dataclass
class Difficulty:
    """How far an utterance strays from its emotion: standard deviations in units of arousal and valence."""

    voice_arousal: float = 0.3
    voice_valence: float = 2.0
    face_valence: float = 0.35
    face_brow: float = 0.7
    face_arousal: float = 1.5


@dataclass
class Actor:
    """What does not change with the emotion: voice and looks of one of the ten actors."""

    sex: str
    pitch: float  # Hz
    tract: float  # factor of the formants
    rate: float  # syllables a second
    effort: float  # of the neutral voice, in units of arousal
    skin: tuple
    hair: tuple
    shirt: tuple
    width: float  # of the face, pixels
    length: float
    brow: float  # height of the brows above the rest position, pixels


@dataclass
class Turn:
    """One utterance: its name, times in seconds and how its emotion shows in voice and face."""

    utt_id: str
    sex: str
    emotion: str
    voice_arousal: float
    voice_valence: float
    face_valence: float
    face_brow: float
    face_arousal: float
    start: float = 0.0
    end: float = 0.0
    energy: np.ndarray | None = None  # of the voice, one value per 10 ms


def draw_actor(sex, rng):
    """Draw voice and looks of an actor."""
    woman = sex == "F"
    skin = np.array(rng.choice([[236, 188, 160], [198, 140, 104], [141, 94, 66], [250, 214, 190]])) + rng.normal(
        0, 6, 3
    )
    return Actor(
        sex=sex,
        pitch=rng.normal(205, 14) if woman else rng.normal(118, 9),
        tract=rng.normal(1.16, 0.03) if woman else rng.normal(1.0, 0.03),
        rate=rng.normal(4.8, 0.25),
        effort=rng.normal(0, 0.12),
        skin=tuple(int(value) for value in np.clip(skin, 0, 255)),
        hair=tuple(int(value) for value in rng.choice([[40, 28, 20], [96, 60, 30], [190, 150, 80], [110, 110, 110]])),
        shirt=tuple(int(value) for value in rng.integers(40, 200, 3)),
        width=rng.normal(76, 4),
        length=rng.normal(98, 4),
        brow=rng.normal(0, 2),
    )


def plan_turns(dialogue, difficulty, rng):
    """Draw the turns of a dialogue: who speaks with which emotion, and how it shows. Times come with the sound."""
    emotions = [*TURNS, str(rng.choice(OTHER_TURNS))]
    rng.shuffle(emotions)
    count, turns = {"F": 0, "M": 0}, []
    first = int(rng.integers(2))
    for position, emotion in enumerate(emotions):
        sex = "FM"[(position + first) % 2] if rng.random() < 0.8 else str(rng.choice(["F", "M"]))
        arousal, valence, brow = EMOTIONS[emotion]
        strength = rng.uniform(0.8, 1.2)
        spread = {name: rng.normal(0, value) for name, value in vars(difficulty).items()}
        turns.append(
            Turn(
                utt_id=f"{dialogue}_{sex}{count[sex]:03d}",
                sex=sex,
                emotion=emotion,
                voice_arousal=strength * arousal + spread["voice_arousal"],
                voice_valence=strength * valence + spread["voice_valence"],
                face_valence=strength * valence + spread["face_valence"],
                face_brow=strength * brow + spread["face_brow"],
                face_arousal=strength * arousal + spread["face_arousal"],
            )
        )
        count[sex] += 1
    return turns


def write_labels(path, turns):
    """Write a label file as IEMOCAP's EmoEvaluation has it: turn lines, raters' lines, blank lines."""
    lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for turn in turns:
        arousal, valence, _ = EMOTIONS[turn.emotion]
        rating = f"[{3 + 1.5 * valence:.4f}, {3 + 1.5 * arousal:.4f}, {3 + 0.5 * arousal:.4f}]"
        lines.append(f"[{turn.start:.4f} - {turn.end:.4f}]\t{turn.utt_id}\t{turn.emotion}\t{rating}")
        lines += [f"C-{rater}:\t{NAMES[turn.emotion]};\t()" for rater in ("E2", "E4", f"{turn.sex}1")]
        numbers = f"val {3 + round(valence)}; act {3 + round(arousal)}; dom  3;"
        lines += [f"A-{rater}:\t{numbers}\t()" for rater in ("E3", f"{turn.sex}1")]
        lines.append("")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")


def write_dialogue(root, session, name, seed, difficulty):
    """Write one dialogue of the release: its sentences, label file and video.

    Args:
        root: folder of the release. session: 1 to 5. name: one of DIALOGUES. seed: of the corpus.
        difficulty: Difficulty.
    Returns: the number of utterances.
    """
    rng = np.random.default_rng([seed, session, DIALOGUES.index(name)])
    actors = {sex: draw_actor(sex, np.random.default_rng([seed, session, 100 + ord(sex)])) for sex in "FM"}
    dialogue = f"Ses{session:02d}{name}"
    folder = root / f"Session{session}"
    wavs = folder / "sentences" / "wav" / dialogue
    wavs.mkdir(parents=True, exist_ok=True)
    turns, clock, previous = plan_turns(dialogue, difficulty, rng), 0.5, None
    for turn in turns:
        sound, turn.energy = synthesize_speech(actors[turn.sex], turn, rng)
        overlaps = previous is not None and previous.sex != turn.sex and rng.random() < 0.2
        turn.start = round(clock - 0.3 if overlaps else clock + rng.uniform(0.03, 0.2), 4)
        turn.end = round(turn.start + len(sound) / SAMPLE_RATE, 4)
        soundfile.write(wavs / f"{turn.utt_id}.wav", sound, SAMPLE_RATE, subtype="PCM_16")
        clock, previous = max(clock, turn.end), turn
    write_labels(folder / "dialog" / "EmoEvaluation" / f"{dialogue}.txt", turns)
    scene = Scene(actors, turns, name[0], rng)
    write_video(folder / "dialog" / "avi" / "DivX" / f"{dialogue}.avi", scene, clock + 0.3)
    return len(turns)


def make_release(root, seed=0, difficulty=None, num_workers=1, sessions=(1, 2, 3, 4, 5), dialogues=DIALOGUES):
    """Write the miniature release; the same seed gives the same files.

    Args:
        root: folder, `IEMOCAP_full_release`; replaced when it exists.
        seed: int. difficulty: Difficulty, or None for the default. num_workers: processes.
        sessions: which of the five. dialogues: which of DIALOGUES.
    """
    root = Path(root)
    shutil.rmtree(root, ignore_errors=True)
    jobs = [(root, session, name, seed, difficulty or Difficulty()) for session in sessions for name in dialogues]
    with (
        ProcessPoolExecutor(num_workers) as pool,
        progress_bar(total=len(jobs) * (len(TURNS) + 1), unit="utt", desc="demo") as bar,
    ):
        for future in [pool.submit(write_dialogue, *job) for job in jobs]:
            bar.update(future.result())
