"""The embedded demo: a miniature synthetic IEMOCAP release and tiny random encoders.

    python -m scripts.make_demo --out demo                    # demo/IEMOCAP_full_release, demo/wavlm, demo/clip
    python -m scripts.make_demo --out demo --encoders_only    # demo/wavlm and demo/clip, for a corpus of your own

The release has the folders, file names and label files of the real one: five sessions, a woman and a man in each, four
dialogues a session, 720x480 DivX videos with both actors side by side (the marker wearer in the left half, the picture
in rows 112-368), a 16 kHz wav per sentence. Nothing in it is recorded: the voice is a glottal pulse train through
moving formants, the face is drawn.

Emotion acts on both streams, unequally and never reliably. Pitch, energy, voice effort and speaking rate follow the
arousal of an utterance, mouth and brows its valence; either is blurred by a deviation drawn per utterance. The voice
therefore tells anger and joy from sadness and neutrality better than from each other, the face the other way
round, and only both together tell all four. Results on it say that the pipeline works, nothing about real people.

The encoders have the architecture of WavLM and CLIP at a few hundred thousand weights, all of them RANDOM: nothing was
learnt. Their first layers are drawn as random band filters rather than white noise, because frozen random
filters are then of more use; the rest is initialised at random too.
"""

import argparse
import logging
import math
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from PIL import Image, ImageDraw
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, WavLMConfig, WavLMModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging as transformers_logging

from running.errors import InputError, command
from running.progress import progress_bar

logger = logging.getLogger("foalnet")

SAMPLE_RATE = 16000
FRAME_RATE = 30
WIDTH, HEIGHT, FIRST_ROW, LAST_ROW = 720, 480, 112, 368
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
VOWELS = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]])


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


def synthesize_speech(actor, turn, rng):
    """A phrase of four to six syllables, and its energy contour.

    Args:
        actor: Actor. turn: Turn. rng: numpy Generator.
    Returns: (samples,) float32 at 16 kHz and (steps,) float in [0, 1], one per 10 ms.
    """
    arousal = float(np.clip(turn.voice_arousal + actor.effort, -2, 2))
    rate = actor.rate * 2 ** (0.35 * arousal)
    steps = int(100 * np.clip(rng.integers(4, 7) / rate, 0.8, 1.7))
    syllable = np.arange(steps) / 100 * rate
    index, part = syllable.astype(int), syllable % 1
    energy = np.sin(np.pi * part) ** 0.6 * (0.75 + 0.25 * rng.random(index[-1] + 1)[index])
    consonant = (part < 0.2) & (rng.random(index[-1] + 1)[index] < 0.6)
    formants = VOWELS[rng.integers(len(VOWELS), size=index[-1] + 1)][index].astype(float)
    kernel = np.hanning(9) / np.hanning(9).sum()
    formants = np.stack([np.convolve(np.pad(f, 4, mode="edge"), kernel, mode="valid") for f in formants.T])
    formants *= actor.tract * (1 + 0.03 * turn.voice_valence)
    along = np.linspace(-0.5, 0.5, steps)
    tune = 0.42 * arousal + 0.15 * turn.voice_valence * along - 0.15 * along
    tune += (0.06 + 0.05 * max(arousal, 0)) * np.sin(2 * np.pi * syllable / 2 + rng.uniform(0, 6.28))
    pitch = actor.pitch * 2**tune
    voice = _shape_spectrum(_pulse_train(pitch, consonant, arousal, rng), formants, 1.3 - 0.45 * arousal)
    voice *= np.repeat(energy, SAMPLE_RATE // 100)
    voice *= 0.05 * 10 ** (0.3 * arousal) / np.sqrt(np.mean(voice**2))
    voice += rng.normal(0, 0.002, len(voice))
    return np.clip(voice, -0.99, 0.99).astype(np.float32), energy


def _pulse_train(pitch, consonant, arousal, rng):
    """Glottal pulses at the given pitch (Hz per 10 ms) with jitter and breath; noise in the consonants."""
    hop = SAMPLE_RATE // 100
    jitter = 1 + 0.01 * rng.standard_normal(len(pitch))
    phase = np.cumsum(np.repeat(pitch * jitter, hop)) / SAMPLE_RATE
    pulses = np.diff(np.floor(phase), prepend=0.0) * np.sqrt(SAMPLE_RATE / np.repeat(pitch, hop))
    noise = rng.standard_normal(len(phase))
    unvoiced = np.repeat(consonant, hop)
    return np.where(unvoiced, 0.4 * noise, pulses + (0.25 - 0.08 * np.clip(arousal, -1, 1)) * noise)


def _shape_spectrum(source, formants, tilt):
    """Filter by moving formants, (3, steps) in Hz, and a spectral tilt: overlapping windows of 20 ms."""
    hop = SAMPLE_RATE // 100
    padded = np.pad(source, hop)
    steps = formants.shape[1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop][:steps] * np.hanning(2 * hop + 1)[:-1]
    hertz = np.fft.rfftfreq(512, 1 / SAMPLE_RATE)
    gains, widths = np.array([1.0, 0.6, 0.35]), np.array([90.0, 130.0, 200.0])
    peaks = gains[:, None, None] / (1 + ((hertz - formants[..., None]) / widths[:, None, None]) ** 2)
    envelope = (peaks.sum(0) + 0.02) * (np.maximum(hertz, 150) / 500) ** -tilt
    frames = np.fft.irfft(np.fft.rfft(frames, 512) * envelope, 512)
    sound = np.zeros(hop * steps + 512)
    for step, frame in enumerate(frames):
        sound[step * hop : step * hop + 512] += frame
    return sound[hop // 2 : hop // 2 + hop * steps]


def draw_face(actor, picture, offset, mouth_open, valence, brow, arousal, markers):
    """Draw an actor's head and shoulders into a half of the picture.

    Args:
        actor: Actor. picture: PIL image, 360x256.
        offset: (x, y) of the head, pixels.
        mouth_open: 0 to 1. valence: corners of the mouth up or down. brow: inner ends up or down.
        arousal: opens the eyes. markers: draw the dots of motion capture.
    """
    draw = ImageDraw.Draw(picture)
    x, y = 180 + offset[0], 124 + offset[1]
    w, h = actor.width, actor.length
    draw.ellipse((180 - 130, 215, 180 + 130, 360), fill=actor.shirt)
    top = 1.25 if actor.sex == "F" else 1.1
    draw.ellipse(
        (x - w * 1.15, y - h * 1.15, x + w * 1.15, y + h * (0.9 if actor.sex == "F" else 0.1)), fill=actor.hair
    )
    draw.rectangle((x - 28, y + h * 0.7, x + 28, y + h * top), fill=actor.skin)
    draw.ellipse((x - w, y - h, x + w, y + h), fill=actor.skin)
    draw.pieslice((x - w, y - h * 1.02, x + w, y + h * 0.2), 200, 340, fill=actor.hair)
    dark = tuple(value // 2 for value in actor.hair)
    for side in (-1, 1):
        eye_x, eye_y, lid = x + side * 32, y - 14, 8 + 2.5 * arousal
        draw.ellipse((eye_x - 15, eye_y - lid, eye_x + 15, eye_y + lid), fill=(245, 245, 245))
        draw.ellipse((eye_x - 6, eye_y - 6, eye_x + 6, eye_y + 6), fill=(30, 25, 25))
        level = y - 37 - actor.brow
        inner, outer = (x + side * 12, level - 9 * brow), (x + side * 52, level + 5 * brow)
        draw.line((*inner, *outer), fill=dark, width=9)
    draw.line((x, y - 5, x - 6, y + 22, x + 5, y + 24), fill=tuple(int(0.75 * c) for c in actor.skin), width=3)
    across = np.linspace(-1, 1, 9)
    half = 38 + 4 * valence
    bend = 16 * valence * (0.5 - across**2)
    gap = (2 + 15 * mouth_open) * (1 - across**2)
    upper = [(x + half * a, y + 52 + b - g * 0.4) for a, b, g in zip(across, bend, gap, strict=True)]
    lower = [(x + half * a, y + 52 + b + g) for a, b, g in zip(across, bend, gap, strict=True)]
    draw.polygon(upper + lower[::-1], fill=(70, 20, 25))
    draw.line(upper, fill=(165, 40, 50), width=7)
    draw.line(lower, fill=(165, 40, 50), width=7)
    if markers:
        for a, b in ((-0.6, 0.3), (0.6, 0.3), (-0.35, 0.75), (0.35, 0.75), (0, -0.75), (-0.75, -0.05), (0.75, -0.05)):
            draw.ellipse((x + a * w - 3, y + b * h - 3, x + a * w + 3, y + b * h + 3), fill=(255, 255, 255))


class Scene:
    """The two actors of a dialogue, side by side, at any time.

    Args:
        actors: dict sex -> Actor. turns: list of timed Turns. wearer: sex of the actor with the markers (left half).
        rng: numpy Generator.
    """

    def __init__(self, actors, turns, wearer, rng):
        self.actors, self.turns = actors, turns
        self.halves = (wearer, "M" if wearer == "F" else "F")
        self.phase = rng.uniform(0, 6.28, (2, 2))
        light = rng.normal(0, 8)
        shade = np.linspace(0, 25, 256)[:, None, None] + np.zeros((256, 360, 3))
        tints = [np.array(rng.integers(70, 130, 3)) for _ in range(2)]
        self.backs = [Image.fromarray(np.clip(t + shade + light, 0, 255).astype(np.uint8)) for t in tints]
        grain = rng.normal(light, 3, (8, 256, 360, 1)).astype(np.int16)
        self.grain = np.broadcast_to(grain, (8, 256, 360, 3))

    def draw(self, seconds, number):
        """The picture at a time, (480, 720, 3) uint8."""
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for side, sex in enumerate(self.halves):
            half = self.backs[side].copy()
            turn = next((t for t in self.turns if t.sex == sex and t.start <= seconds < t.end), None)
            valence, brow, arousal, mouth = 0.0, 0.0, 0.0, 0.0
            if turn is not None:
                fade = min(1.0, 0.5 + (seconds - turn.start) / 0.2)
                valence, brow, arousal = (
                    float(np.clip(value, -2.2, 2.2)) * fade
                    for value in (turn.face_valence, turn.face_brow, turn.face_arousal)
                )
                mouth = turn.energy[min(int((seconds - turn.start) * 100), len(turn.energy) - 1)]
                mouth *= 0.6 + 0.2 * arousal
            swing = 3 + 2 * max(arousal, -1)
            offset = swing * np.sin(seconds * (5 + arousal) + self.phase[side]) * (1, 0.6)
            draw_face(self.actors[sex], half, offset, max(mouth, 0.0), valence, brow, arousal, markers=side == 0)
            noisy = np.asarray(half, np.int16) + self.grain[(number * 3 + side) % 8]
            picture[FIRST_ROW:LAST_ROW, side * 360 : side * 360 + 360] = np.clip(noisy, 0, 255)
        return picture


def write_video(path, scene, seconds):
    """Encode a scene as MPEG-4 with the DivX tag in an avi file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 1_500_000
        stream.codec_context.codec_tag, stream.codec_context.thread_count = "DIVX", 1
        for number in range(math.ceil(seconds * FRAME_RATE)):
            frame = av.VideoFrame.from_ndarray(scene.draw(number / FRAME_RATE, number), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


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


def make_wavlm(folder, seed=0):
    """Write a random WavLM: width 64, two layers, layer-norm variant, the usual 320-sample stride.

    The convolutions stay frozen in training, so they are drawn to pass something on: the first layer holds random band
    filters, half of the channels behind it are averaged over time and the other half mixed at random; the
    normalisation behind them is centred and scaled on random noise. SpecAugment, layerdrop and the dropouts inside are
    off: they are made for large pretrained models.
    """
    torch.manual_seed(seed)
    config = WavLMConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=(64,) * 7,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        num_buckets=32,
        max_bucket_distance=80,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.1,
        layerdrop=0.0,
        apply_spec_augment=False,
        vocab_size=32,
    )
    model = WavLMModel(config).eval()
    _spread_audio(model)
    model.save_pretrained(folder)


@torch.no_grad()
def _spread_audio(model):
    """Draw the convolutions anew as `make_wavlm` describes."""
    first, *others = model.feature_extractor.conv_layers
    channels, _, length = first.conv.weight.shape
    hertz = torch.exp(torch.empty(channels, 1).uniform_(math.log(100), math.log(6000)))
    steps = (torch.arange(length) - (length - 1) / 2) / SAMPLE_RATE
    waves = torch.cos(2 * math.pi * (hertz * steps + torch.rand(channels, 1)))
    waves *= torch.hann_window(length + 2, periodic=False)[1:-1]
    first.conv.weight.copy_((waves / waves.norm(dim=1, keepdim=True))[:, None])
    first.conv.bias.uniform_(-1, 1)
    for layer in others:
        weight, half = layer.conv.weight, channels // 2
        window = torch.hann_window(weight.shape[2] + 2, periodic=False)[1:-1]
        weight[:half] = 0
        weight[range(half), range(half)] = 2 * window / window.sum()
        layer.conv.bias.uniform_(-1, 1)
    tilt = torch.arange(1, 8002) ** -torch.linspace(0, 1, 16)[:, None]
    noise = torch.fft.irfft(torch.fft.rfft(torch.randn(16, SAMPLE_RATE)) * tilt)
    noise = (noise - noise.mean(1, keepdim=True)) / noise.std(1, keepdim=True)
    norm = model.feature_projection.layer_norm
    response = norm(model.feature_extractor(noise).transpose(1, 2)).flatten(0, 1)  # (sounds * steps, channels)
    deviation = response.std(0).clamp(min=0.05)
    norm.bias.copy_(-response.mean(0) / deviation)
    norm.weight.copy_(1 / deviation)


def make_clip(folder, seed=0, image_size=64):
    """Write a random CLIP with its image processor: 64x64 pictures, patches of 16, embeddings of 128.

    Untrained weights at their usual size give every picture nearly the same embedding. These are random too, but drawn
    so that a linear layer can use what they see: smooth grey patch filters without a mean (blind to brightness and
    colour), large position embeddings and queries (each head looks somewhere else), and an output that is centred and
    scaled on pictures of noise. No picture of the corpus is seen.
    """
    torch.manual_seed(seed)
    vision = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "image_size": image_size,
        "patch_size": 16,
        "projection_dim": 128,
    }
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 8,
        "max_position_embeddings": 8,
        "projection_dim": 128,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=128)).eval()
    _spread_vision(model, gain=30.0)
    model.save_pretrained(folder)
    size = {"height": image_size, "width": image_size}
    CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=size).save_pretrained(folder)


@torch.no_grad()
def _spread_vision(model, gain):
    """Draw the image tower anew as `make_clip` describes; `gain` multiplies the projection."""
    tower = model.vision_model
    filters = tower.embeddings.patch_embedding.weight.normal_()  # (hidden, 3, patch, patch)
    binomial = torch.tensor([1.0, 2.0, 1.0])
    kernel = (binomial[:, None] * binomial / 16)[None, None]
    grey = functional.pad(filters.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    grey = functional.conv2d(grey, kernel)
    grey -= grey.mean((2, 3), keepdim=True)
    filters.copy_(grey / (grey.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * math.sqrt(3)))
    tower.embeddings.position_embedding.weight.normal_(std=2.0)
    for layer in tower.encoder.layers:
        for name, module in layer.named_modules():
            if name.endswith(("q_proj", "k_proj")):
                module.weight.mul_(2.0)
            elif name.endswith(("v_proj", "out_proj", "fc1", "fc2")):
                module.weight.mul_(0.7)
    noise = functional.interpolate(torch.randn(64, 3, 8, 8), tower.config.image_size, mode="bicubic")
    states = tower(pixel_values=noise.clamp(-2, 2) * 0.6).pooler_output
    tower.post_layernorm.bias.sub_(states.mean(0))
    model.visual_projection.weight.mul_(gain)


def build_parser():
    parser = argparse.ArgumentParser(
        prog="python -m scripts.make_demo",
        description="Write a miniature synthetic IEMOCAP release and tiny random encoders.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", default="demo", help="folder for IEMOCAP_full_release, wavlm and clip")
    parser.add_argument("--seed", type=int, default=0, help="of the corpus and of the encoders")
    parser.add_argument("--encoders_only", action="store_true", help="write wavlm and clip, no corpus")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that draw; 0 = one a core, at most 8")
    return parser


@command
def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.num_workers < 0 or args.seed < 0:
        raise InputError(f"--num_workers {args.num_workers}, --seed {args.seed}: zero or more")
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; a folder is needed")
    out.mkdir(parents=True, exist_ok=True)
    if not args.encoders_only:
        workers = args.num_workers or min(8, len(os.sched_getaffinity(0)))
        make_release(out / "IEMOCAP_full_release", args.seed, num_workers=workers)
        logger.info("wrote %s: synthetic, 5 sessions, 10 actors", out / "IEMOCAP_full_release")
    transformers_logging.disable_progress_bar()
    make_wavlm(out / "wavlm", args.seed)
    make_clip(out / "clip", args.seed)
    transformers_logging.enable_progress_bar()
    logger.info("wrote %s and %s: random weights, nothing learnt", out / "wavlm", out / "clip")


if __name__ == "__main__":
    main()
