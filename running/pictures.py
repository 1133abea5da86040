"""The pictures of a run, its confusion matrix and its curves, in the style of all pictures.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; lines differ in dashes as well. Nothing here
touches pyplot, so importing it changes no backend.
"""

import functools
import os

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
DPI = 150
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.6,
    "legend.framealpha": 0.7,
    "legend.edgecolor": "none",
    "legend.fontsize": 8,
    "text.parse_math": False,  # a class may be named with a dollar sign
}
PANELS = {  # title: {key of metrics.jsonl: name in the legend}
    "Validation": {"valid_ua": "UA", "valid_wa": "WA", "valid_macro_f1": "macro F1"},
    "Loss": {
        "train_loss": "train",
        "train_loss_cls": "train, classes",
        "train_loss_avel": "train, AVEL",
        "train_loss_mem": "train, MEM",
        "valid_loss": "validation, classes",
    },
    "Recall by class": {},  # filled in with the names that occur
    "Cosine of audio and video": {
        "similarity_same": "same emotion, train",
        "valid_similarity_same": "same, validation",
        "similarity_other": "other emotion, train",
        "valid_similarity_other": "other, validation",
    },
    "Gradient into WavLM's last layer": {
        "gradient_cls": "classes",
        "gradient_avel": "AVEL",
        "gradient_mem": "MEM",
    },
    "MEM accuracy (train)": {"mem_accuracy": "real or negative pair"},
    "Learning rate": {"learning_rate": "learning rate"},
    "Temperature of AVEL": {"temperature": "temperature"},
}
LOGARITHMIC = ("Loss", "Gradient into WavLM's last layer")
FRACTIONS = ("Validation", "Recall by class", "MEM accuracy (train)")  # panels in %


def styled(draw):
    """Decorate a drawing function: it draws in the style of this file and leaves matplotlib's settings alone."""

    @functools.wraps(draw)
    def run(*args, **kwargs):
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return run


def save_figure(figure, path):
    """Write a figure as PNG, whole or not at all; `path` may be an open binary file too."""
    if hasattr(path, "write"):
        figure.savefig(path, format="png", dpi=DPI)
        return
    figure.savefig(f"{path}.new", format="png", dpi=DPI)
    os.replace(f"{path}.new", path)


@styled
def plot_confusion(confusion, names, path_or_ax, title=""):
    """Draw a confusion matrix: colour and % are shares of the row (its diagonal is the recall), below them the count.

    Args:
        confusion: (C, C) counts, rows labels, columns predictions.
        names: the C class names.
        path_or_ax: a PNG to write, an open binary file, or matplotlib Axes to draw into.
        title: text above.
    """
    confusion = np.asarray(confusion)
    support = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, support, out=np.full(confusion.shape, np.nan), where=support > 0)
    if isinstance(path_or_ax, Axes):
        figure, ax = None, path_or_ax
    else:
        side = 1.3 + 0.55 * len(names)
        figure = Figure(figsize=(max(side, 3.5), max(side, 2.6)), layout="constrained")
        ax = figure.subplots()
    ax.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        share = shares[row, column]
        text = f"{100 * share:.1f}\n({count})" if support[row, 0] else "–"
        color = "white" if share > 0.55 else "black"
        ax.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 5 else {}
    ax.set_xticks(range(len(names)), names, **slanted)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.set(xlabel="predicted", ylabel="label, % of the row")
    ax.set_title(title, fontsize=9, wrap=True)
    if figure is not None:
        save_figure(figure, path_or_ax)


def plot_curves(history, path):
    """Draw the curves of one run: scores, losses, recalls, similarities, MEM, learning rate, temperature by epoch.

    Args:
        history: list of the dicts of metrics.jsonl, at least one; a key that does not apply is absent or None.
        path: the PNG to write.
    """
    plot_mean_curves([history], path)


@styled
def plot_mean_curves(histories, path, title=""):
    """Draw the curves of several runs: mean over the runs, band of one standard deviation.

    Args:
        histories: a list of histories as in `plot_curves`; they may differ in length.
        path: the PNG to write, or an open binary file. title: text above.
    """
    histories = [[_flatten_recall(line) for line in history] for history in histories]
    panels = _find_panels(histories)
    columns = len(panels) if len(panels) <= 3 else -(-len(panels) // 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.5 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, lines) in zip(axes, panels.items(), strict=False):
        _draw_panel(ax, histories, name, lines)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    if title:
        figure.suptitle(title)
    save_figure(figure, path)


def _flatten_recall(line):
    return {**line, **{f"recall {name}": value for name, value in (line.get("valid_recall") or {}).items()}}


def _find_panels(histories):
    """PANELS as far as the histories have their keys, with a line for each class that occurs."""
    keys = list(dict.fromkeys(key for history in histories for line in history for key in line))
    panels = {**PANELS, "Recall by class": {key: key[len("recall ") :] for key in keys if key.startswith("recall ")}}
    panels = {name: {k: v for k, v in lines.items() if k in keys} for name, lines in panels.items()}
    return {name: lines for name, lines in panels.items() if lines}


def _draw_panel(ax, histories, name, lines):
    for i, (key, label) in enumerate(lines.items()):
        plot_mean_line(ax, histories, key, label, i, factor=100 if name in FRACTIONS else 1)
    ax.set_title(f"{name}, %" if name in FRACTIONS else name)
    if name in LOGARITHMIC and ax.dataLim.y0 > 0:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    elif name == "Learning rate":
        ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    if len(lines) > 1 and ax.lines:
        ax.legend(ncols=2 if len(lines) > 3 and name in FRACTIONS else 1)


def plot_mean_line(ax, histories, key, label, number=0, factor=1):
    """Draw one key of several histories into `ax`: the mean over those that have the epoch, the band of one std."""
    values = {}
    for history in histories:
        for line in history:
            if line.get(key) is not None:
                values.setdefault(line["epoch"], []).append(factor * line[key])
    if not values:
        return
    epochs = sorted(values)
    mean = np.array([np.mean(values[epoch]) for epoch in epochs])
    std = np.array([np.std(values[epoch], ddof=1) if len(values[epoch]) > 1 else 0.0 for epoch in epochs])
    color, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    ax.plot(epochs, mean, color=color, linestyle=dash, label=label, marker="o" if len(epochs) < 3 else "", markersize=3)
    if std.any():
        ax.fill_between(epochs, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
