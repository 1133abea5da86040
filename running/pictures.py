"""The pictures of a run: confusion matrix and curves, for train.py; and those of several runs, for scripts/report.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; lines differ in dashes as well. Nothing here
touches pyplot, so importing it changes no backend.
"""

import functools
import os

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
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
    keys = list(dict.fromkeys(key for history in histories for line in history for key in line))
    panels = {**PANELS, "Recall by class": {key: key[len("recall ") :] for key in keys if key.startswith("recall ")}}
    panels = {name: {k: v for k, v in lines.items() if k in keys} for name, lines in panels.items()}
    panels = {name: lines for name, lines in panels.items() if lines}
    columns = len(panels) if len(panels) <= 3 else -(-len(panels) // 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.5 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, lines) in zip(axes, panels.items(), strict=False):
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
        if len(lines) > 1:
            ax.legend(ncols=2 if len(lines) > 3 and name in FRACTIONS else 1)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    if title:
        figure.suptitle(title)
    save_figure(figure, path)


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


def _flatten_recall(line):
    return {**line, **{f"recall {name}": value for name, value in (line.get("valid_recall") or {}).items()}}


@styled
def plot_comparison(histories, path):
    """Draw the validation UA of several systems by epoch, each the mean and band over its runs.

    Args:
        histories: {system: list of histories as in `plot_curves`}. path: the PNG to write, or an open binary file.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    ax = figure.subplots()
    for i, (name, runs) in enumerate(histories.items()):
        plot_mean_line(ax, runs, "valid_ua", name, i, factor=100)
    ax.set(ylabel="UA on the validation list, %")
    ax.legend(ncols=2)
    save_figure(figure, path)


@styled
def plot_scores(scores, chance, path, title=""):
    """Draw the UA of systems: a dot for each fold, the pooled score with its interval, the paper's where there is one.

    Args:
        scores: {system: dict with `folds` (list), `pooled`, `low`, `high` and `paper` (or None)}, all in %.
        chance: UA of guessing, %. path: the PNG to write, or an open binary file. title: of the axis.
    """
    figure = Figure(figsize=(6.4, 1.1 + 0.42 * len(scores)), layout="constrained")
    ax = figure.subplots()
    for i, row in enumerate(scores.values()):
        known = {"label": "fold"} if i == 0 else {}
        ax.plot(row["folds"], [i] * len(row["folds"]), "o", color=COLOURS[5], markersize=4, alpha=0.8, **known)
        known = {"label": "pooled, 95 % interval"} if i == 0 else {}
        error = [[max(0, row["pooled"] - row["low"])], [max(0, row["high"] - row["pooled"])]]
        ax.errorbar(row["pooled"], i, xerr=error, fmt="s", color=COLOURS[0], markersize=5, capsize=3, **known)
        if row["paper"] is not None:
            known = {"label": "paper"} if i == 0 else {}
            ax.plot(row["paper"], i, "D", color=COLOURS[1], markerfacecolor="none", markersize=6, **known)
    ax.axvline(chance, color=COLOURS[6], linestyle=DASHES[2], linewidth=1, label="chance")
    ax.set_yticks(range(len(scores)), list(scores))
    ax.set_ylim(len(scores) - 0.5, -0.5)
    ax.set_xlabel(title or "UA, %")
    figure.legend(loc="outside upper center", ncols=4)
    save_figure(figure, path)


@styled
def plot_embeddings(panels, names, path):
    """Draw embeddings in two dimensions, coloured by class.

    Args:
        panels: list of (title, points (n, 2), labels (n,) int, streams (n,) int); stream 0 is dots, stream 1 crosses.
        names: the class names. path: the PNG to write, or an open binary file.
    """
    columns = len(panels) if len(panels) < 4 else 2
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.1 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (title, points, labels, streams) in zip(axes, panels, strict=False):
        for stream, marker in enumerate("ox"):
            for i in range(len(names)):
                chosen = (labels == i) & (streams == stream)
                size = {"s": 18, "linewidths": 0.4 if marker == "o" else 1.1, "alpha": 0.8}
                edge = {"edgecolors": "white"} if marker == "o" else {}
                ax.scatter(*points[chosen].T, marker=marker, color=COLOURS[i % len(COLOURS)], **size, **edge)
        ax.set_title(title)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(True)
        ax.spines[:].set_alpha(0.3)
    handles = [Line2D([], [], marker="o", linestyle="", color=COLOURS[i % len(COLOURS)]) for i in range(len(names))]
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 6))
    save_figure(figure, path)
