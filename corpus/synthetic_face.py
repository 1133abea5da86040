"""The faces of the synthetic release: two actors side by side, drawn frame by frame, and their DivX video.

Mouth and brows follow the valence of an utterance, the eyes its arousal; the marker wearer is in the left half.
"""

import math

import av
import numpy as np
from PIL import Image, ImageDraw

FRAME_RATE = 30
WIDTH, HEIGHT, FIRST_ROW, LAST_ROW = 720, 480, 112, 368
MARKERS = ((-0.6, 0.3), (0.6, 0.3), (-0.35, 0.75), (0.35, 0.75), (0, -0.75), (-0.75, -0.05), (0.75, -0.05))


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
    _draw_head(draw, actor, x, y)
    _draw_eyes(draw, actor, x, y, brow, arousal)
    draw.line((x, y - 5, x - 6, y + 22, x + 5, y + 24), fill=tuple(int(0.75 * c) for c in actor.skin), width=3)  # nose
    _draw_mouth(draw, x, y, mouth_open, valence)
    if markers:
        w, h = actor.width, actor.length
        for a, b in MARKERS:
            draw.ellipse((x + a * w - 3, y + b * h - 3, x + a * w + 3, y + b * h + 3), fill=(255, 255, 255))


def _draw_head(draw, actor, x, y):
    w, h = actor.width, actor.length
    draw.ellipse((180 - 130, 215, 180 + 130, 360), fill=actor.shirt)
    top = 1.25 if actor.sex == "F" else 1.1
    draw.ellipse(
        (x - w * 1.15, y - h * 1.15, x + w * 1.15, y + h * (0.9 if actor.sex == "F" else 0.1)), fill=actor.hair
    )
    draw.rectangle((x - 28, y + h * 0.7, x + 28, y + h * top), fill=actor.skin)
    draw.ellipse((x - w, y - h, x + w, y + h), fill=actor.skin)
    draw.pieslice((x - w, y - h * 1.02, x + w, y + h * 0.2), 200, 340, fill=actor.hair)


def _draw_eyes(draw, actor, x, y, brow, arousal):
    dark = tuple(value // 2 for value in actor.hair)
    for side in (-1, 1):
        eye_x, eye_y, lid = x + side * 32, y - 14, 8 + 2.5 * arousal
        draw.ellipse((eye_x - 15, eye_y - lid, eye_x + 15, eye_y + lid), fill=(245, 245, 245))
        draw.ellipse((eye_x - 6, eye_y - 6, eye_x + 6, eye_y + 6), fill=(30, 25, 25))
        level = y - 37 - actor.brow
        inner, outer = (x + side * 12, level - 9 * brow), (x + side * 52, level + 5 * brow)
        draw.line((*inner, *outer), fill=dark, width=9)


def _draw_mouth(draw, x, y, mouth_open, valence):
    across = np.linspace(-1, 1, 9)
    half = 38 + 4 * valence
    bend = 16 * valence * (0.5 - across**2)
    gap = (2 + 15 * mouth_open) * (1 - across**2)
    upper = [(x + half * a, y + 52 + b - g * 0.4) for a, b, g in zip(across, bend, gap, strict=True)]
    lower = [(x + half * a, y + 52 + b + g) for a, b, g in zip(across, bend, gap, strict=True)]
    draw.polygon(upper + lower[::-1], fill=(70, 20, 25))
    draw.line(upper, fill=(165, 40, 50), width=7)
    draw.line(lower, fill=(165, 40, 50), width=7)


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

    def look_up(self, sex, seconds):
        """How an actor looks at a time: how far the mouth is open, valence, brow and arousal; zeros in silence."""
        turn = next((t for t in self.turns if t.sex == sex and t.start <= seconds < t.end), None)
        if turn is None:
            return 0.0, 0.0, 0.0, 0.0
        fade = min(1.0, 0.5 + (seconds - turn.start) / 0.2)
        valence, brow, arousal = (
            float(np.clip(value, -2.2, 2.2)) * fade for value in (turn.face_valence, turn.face_brow, turn.face_arousal)
        )
        mouth = turn.energy[min(int((seconds - turn.start) * 100), len(turn.energy) - 1)]
        return mouth * (0.6 + 0.2 * arousal), valence, brow, arousal

    def draw(self, seconds, number):
        """The picture at a time, (480, 720, 3) uint8."""
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for side, sex in enumerate(self.halves):
            half = self.backs[side].copy()
            mouth, valence, brow, arousal = self.look_up(sex, seconds)
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
