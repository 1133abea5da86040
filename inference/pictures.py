"""The picture of an answer: sound, frames, probabilities and attention of a source over one axis of time."""

import logging
import re
from pathlib import Path

import librosa
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dataloader import SAMPLE_RATE
from inference.answers import name_streams, share_out
from inference.explaining import SHOWN, prepare_explanations
from inference.predictor import GROUP
from inference.sources import MEDIA
from running.errors import InputError
from running.pictures import COLOURS, DASHES, save_figure, styled
from running.progress import progress_bar

logger = logging.getLogger("foalnet")

WIDTH = 10.0  # inches
LINE = 0.17  # inches of a legend
FRAMES, PROBABILITIES = "Frames as CLIP sees them", "Probabilities"
HEIGHTS = {  # inches of each panel, by its title
    "Waveform": 0.9,
    "Log-mel spectrogram": 1.3,
    FRAMES: 1.15,
    PROBABILITIES: 1.7,
    "Attention from the other stream": 1.3,
}
COLUMNS = 1500  # values drawn over the width of a panel, about its dots
MELS, RANGE = 80, 80  # bands, dB below the loudest
FAINTEST = 1e-4  # power that is taken for the loudest of a sound that is (nearly) silent
HERTZ = (250, 1000, 2500, 6000)
MANY = 40  # windows whose lines and borders are drawn thinner
SOUND, PICTURE = COLOURS[5], COLOURS[4]  # of four classes none has these
LETTER = 0.008  # of a panel's width
NARROWEST = 0.2  # of the attention's axis, to either side of 1, lest rounding looks like a finding
MOST_NAME, MOST_FILE = 90, 120  # characters of a source's name in a title, bytes of it in a file name


def plot_sources(predictor, sources, predictions, folder):
    """Write a picture for each source that was answered, `001_<name>.png` by its place in the list.

    A picture that fails is warned of and stops no other.

    Args:
        predictor: FoalPredictor. sources: list of Source. predictions: list of Prediction, parallel.
        folder: made where it is not there.
    Returns: list of Path or None, parallel.
    Raises: InputError for a folder that can't be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: no folder for pictures: {error.strerror}") from error
    written, digits = [None] * len(sources), max(3, len(str(len(sources))))
    answered = [i for i, prediction in enumerate(predictions) if prediction.error is None]
    with progress_bar(total=len(answered), desc="Pictures", unit="source") as bar:
        for first in range(0, len(answered), GROUP):
            group = answered[first : first + GROUP]
            parts = [sources[i] for i in group], [predictions[i] for i in group]
            for i, give in zip(group, prepare_explanations(predictor, *parts), strict=True):
                path = Path(folder, f"{i + 1:0{digits}}_{make_name(predictions[i].source)}.png")
                try:
                    plot_explanation(give(), path)
                    written[i] = path
                except (OSError, ValueError, RuntimeError, MemoryError) as error:
                    logger.warning("%s: no picture of it: %s", predictions[i].source, error)
                bar.update()
    return written


def make_name(source):
    """The name of a source as a part of a file name: its last part without the ending of a medium."""
    name = Path(source).name
    name = name if Path(name).suffix.lower().lstrip(".") not in MEDIA else Path(name).stem
    return re.sub(r"[^\w.-]+", "_", name).encode()[:MOST_FILE].decode(errors="ignore") or "source"


@styled
def plot_explanation(explanation, path):
    """Write the picture of an Explanation as PNG, whole or not at all; `path` may be an open binary file too."""
    save_figure(draw_explanation(explanation), path)


def draw_explanation(explanation):
    """Draw an Explanation.

    Returns: Figure with a panel for each of HEIGHTS that the source has something for, all over the same seconds.
    """
    prediction, sound = explanation.prediction, explanation.samples is not None
    wanted = zip(
        HEIGHTS,
        (_draw_waveform, _draw_spectrogram, _draw_frames, _draw_probabilities, _draw_attention),
        (sound, sound, bool(explanation.frames), True, explanation.attention is not None),
        strict=True,
    )
    panels = {title: draw for title, draw, there in wanted if there}
    room = {PROBABILITIES: LINE * (2 + len(prediction.labels))}  # of its legend
    heights = [max(HEIGHTS[title], room.get(title, 0)) for title in panels]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.35 * len(heights) + 0.7), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    seconds = prediction.windows[-1].end
    for ax, (title, draw) in zip(axes, panels.items(), strict=True):
        ax.set_title(title, loc="left")
        ax.set_xlim(0, seconds)
        draw(ax, explanation, seconds)
    axes[-1].xaxis.set_major_locator(MaxNLocator(12, steps=[1, 2, 2.5, 5, 10]))
    axes[-1].set_xlabel("seconds")
    for ax in axes:
        ax.tick_params(labelbottom=ax.get_title(loc="left") != FRAMES)
    figure.suptitle(_describe(prediction), fontsize=11)
    return figure


def _describe(prediction):
    """The answer in two lines."""
    name = prediction.source if prediction.source.isprintable() else repr(prediction.source)
    if len(name) > MOST_NAME:
        name = f"…{name[-MOST_NAME:]}"
    ((label, probability),) = prediction.rank(1)
    windows = f" in {len(prediction.windows)} windows" if len(prediction.windows) > 1 else ""
    return (
        f"{name}\n{label} {probability:.3f}, entropy {prediction.entropy:.2f} of {np.log(len(prediction.labels)):.2f} "
        f"nats, {prediction.seconds:.2f} s of {name_streams(prediction.streams)}{windows}"
    )


def _draw_waveform(ax, explanation, seconds):
    low, high = find_envelope(explanation.samples)
    times = np.linspace(0, len(explanation.samples) / SAMPLE_RATE, len(low))
    ax.fill_between(times, low, high, color=SOUND, linewidth=0.4)
    peak = max(abs(low.min()), abs(high.max()), 1e-3)
    ax.set_ylim(-1.05 * peak, 1.05 * peak)
    ax.set_ylabel("amplitude")


def find_envelope(samples, columns=COLUMNS):
    """The lowest and the highest of the samples (n,) that fall on each column: two arrays of at most `columns`."""
    firsts = np.unique(np.linspace(0, len(samples), columns, endpoint=False).astype(int))
    return np.minimum.reduceat(samples, firsts), np.maximum.reduceat(samples, firsts)


def _draw_spectrogram(ax, explanation, seconds):
    samples = explanation.samples
    extent = (0, len(samples) / SAMPLE_RATE, *librosa.hz_to_mel([0, SAMPLE_RATE / 2]))
    look = {"cmap": "magma", "vmin": -RANGE, "vmax": 0, "origin": "lower", "aspect": "auto"}
    image = ax.imshow(compute_mel(samples), extent=extent, interpolation="nearest", **look)
    ax.set_xlim(0, seconds)
    ax.set_yticks(librosa.hz_to_mel(HERTZ), [f"{hertz:g}" for hertz in HERTZ])
    ax.set_ylabel("Hz")
    ax.grid(False)
    bar = ax.inset_axes([1.01, 0, 0.015, 1])
    ax.figure.colorbar(image, cax=bar, label="dB", ticks=range(-RANGE, 1, RANGE // 2))


def compute_mel(samples, columns=COLUMNS):
    """(n,) float at 16 kHz -> (MELS, about `columns` at most) dB below its loudest, every 10 ms or as fits."""
    hop = max(SAMPLE_RATE // 100, len(samples) // columns)
    window = min(512 if hop <= 256 else 2048, len(samples))
    power = librosa.feature.melspectrogram(y=samples, sr=SAMPLE_RATE, n_fft=window, hop_length=hop, n_mels=MELS)
    return librosa.power_to_db(power, ref=max(power.max(), FAINTEST), amin=1e-12, top_db=RANGE)


def _draw_frames(ax, explanation, seconds):
    for time, pixels in explanation.frames:
        inset = ax.inset_axes([time / seconds - 0.485 / SHOWN, 0.14, 0.97 / SHOWN, 0.86])
        inset.imshow(pixels)
        inset.set_axis_off()
        ax.text(time, 0, f"{time:.{1 if seconds > SHOWN else 2}f} s", ha="center", fontsize=8)
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.tick_params(axis="x", length=0)
    ax.grid(False)


def _draw_probabilities(ax, explanation, seconds):
    """A line a class, in steps where there are windows; above them the likeliest class of each time."""
    prediction = explanation.prediction
    parts, many = share_out(prediction.windows), len(prediction.windows) > MANY
    times, rows = trace_steps(parts)
    for i, label in enumerate(prediction.labels):
        dash = DASHES[(i + i // len(COLOURS)) % len(DASHES)]
        name = f"{label} {prediction.probabilities[i]:.3f}"
        look = {"color": COLOURS[i % len(COLOURS)], "linestyle": dash, "linewidth": 1.1 if many else 1.6}
        ax.plot(times, rows[:, i], label=name, **look)
    for start, end, number in find_runs(parts):
        colour, label = COLOURS[number % len(COLOURS)], prediction.labels[number]
        ax.barh(1.1, end - start, 0.12, start, color=colour, edgecolor="white", linewidth=0 if many else 0.8, zorder=3)
        if (end - start) / seconds > LETTER * (len(label) + 1):
            white = np.dot(to_rgb(colour), (0.3, 0.59, 0.11)) < 0.55
            place = {"ha": "center", "va": "center_baseline", "fontsize": 7}
            ax.text((start + end) / 2, 1.1, label, color="white" if white else "black", zorder=4, **place)
    ax.set_ylim(-0.04, 1.16)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    title = "mean" if len(parts) > 1 else None
    ax.legend(title=title, loc="upper left", bbox_to_anchor=(1.005, 1), borderaxespad=0, handlelength=2.4)


def trace_steps(parts):
    """[(start, end, Window)] as lines: times (n,), NaN where there is a gap, and probabilities (n, C)."""
    times, rows = [], []
    for start, end, window in parts:
        if times and start > times[-1] + 1e-6:
            times.append(np.nan)
            rows.append(np.full_like(window.probabilities, np.nan))
        times += [start, end]
        rows += [window.probabilities] * 2
    return np.array(times), np.array(rows)


def find_runs(parts):
    """[(start, end, class)] of [(start, end, Window)]: neighbours of the same likeliest class as one."""
    runs = []
    for start, end, window in parts:
        number = int(window.probabilities.argmax())
        if runs and runs[-1][2] == number and start <= runs[-1][1] + 1e-6:
            start = runs.pop()[0]
        runs.append((start, end, number))
    return runs


def _draw_attention(ax, explanation, seconds):
    looks = {"audio": (SOUND, "on the sound (v2a)"), "video": (PICTURE, "on the frames (a2v)")}
    for name, (times, values) in explanation.attention.items():
        colour, label = looks[name]
        ax.plot(*thin(times, values), color=colour, label=label, linewidth=1.2)
    ax.axhline(1, color=COLOURS[6], linestyle=DASHES[2], linewidth=1, label="spread evenly")
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 1 - NARROWEST), max(high, 1 + NARROWEST))
    ax.set_ylabel("times even share")
    ax.legend(loc="upper left", bbox_to_anchor=(1.005, 1), borderaxespad=0, handlelength=2.4)


def thin(times, values, columns=COLUMNS // 3):
    """A line (n,), (n,) as the means over neighbours, at most about `columns` of them; NaN where all are."""
    firsts = np.arange(0, len(values), -(-len(values) // columns))
    there = np.isfinite(values)
    total, count = (np.add.reduceat(x, firsts) for x in (np.where(there, values, 0.0), there.astype(int)))
    means = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return np.add.reduceat(times, firsts) / np.diff([*firsts, len(values)]), means
