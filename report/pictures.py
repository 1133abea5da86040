"""The pictures of several systems: learning curves, scores, embeddings, reliability, what a swapped stream costs."""

import io

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from report.page import Picture
from running.pictures import COLOURS, DASHES, plot_mean_line, save_figure, styled


def draw(name, text, function, *content, width=None, **options):
    """A Picture of what a plotting function draws, `function(*content, file, **options)`.

    Args:
        name: its file name. text: what it shows. width: on the page, pixels at most.
    """
    file = io.BytesIO()
    function(*content, file, **options)
    return Picture(file.getvalue(), name, text, width)


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
    """Draw the UA of systems: a dot for each fold, their mean with its interval, the paper's where there is one.

    Args:
        scores: {system: dict with `folds` (list), `mean`, `low`, `high` (nan: no interval) and `paper` or None}, in %.
        chance: UA of guessing, %. path: the PNG to write, or an open binary file. title: of the axis.
    """
    figure = Figure(figsize=(6.4, 1.1 + 0.42 * len(scores)), layout="constrained")
    ax = figure.subplots()
    for i, row in enumerate(scores.values()):
        known = {"label": "fold"} if i == 0 else {}
        ax.plot(row["folds"], [i] * len(row["folds"]), "o", color=COLOURS[5], markersize=4, alpha=0.8, **known)
        known = {"label": "mean, 95 % over folds"} if i == 0 else {}
        error = None if np.isnan(row["low"]) else [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
        ax.errorbar(row["mean"], i, xerr=error, fmt="s", color=COLOURS[0], markersize=5, capsize=3, **known)
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


@styled
def plot_reliability(panels, path, title=""):
    """Draw reliability diagrams side by side: accuracy by confidence over the share of the utterances.

    Args:
        panels: list of (title, running.calibration.Reliability).
        path: the PNG to write, or an open binary file. title: text above.
    """
    figure = Figure(figsize=(0.4 + 2.9 * len(panels), 4.6), layout="constrained")
    axes = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    for (top, bottom), (name, (confidence, accuracy, count)) in zip(axes.T, panels, strict=True):
        bins, width = len(count), 1 / len(count)
        middle, shares = (np.arange(bins) + 0.5) * width, 100 * count / count.sum()
        top.plot([0, 100], [0, 100], color=COLOURS[6], linestyle=DASHES[2], linewidth=1, label="exact")
        top.bar(100 * middle, 100 * accuracy, 100 * width, color=COLOURS[5], alpha=0.5, edgecolor="white")
        top.plot(100 * confidence, 100 * accuracy, "o", color=COLOURS[0], markersize=3.5, clip_on=False, label="bins")
        top.set(title=name, xlim=(0, 100), ylim=(0, 100))
        bottom.bar(100 * middle, shares, 100 * width, color=COLOURS[7], alpha=0.6, edgecolor="white")
        for values, number in ((confidence, 1), (accuracy, 2)):
            mean = 100 * np.nansum(values * count) / count.sum()
            label = f"mean {('confidence', 'accuracy')[number - 1]}"
            bottom.axvline(mean, color=COLOURS[number], linestyle=DASHES[number - 1], label=label)
        bottom.set_xlabel("confidence, %")
    axes[0, 0].set_ylabel("accuracy, %")
    axes[1, 0].set_ylabel("utterances, %")
    handles = [pair for row in axes[:, 0] for pair in zip(*row.get_legend_handles_labels(), strict=True)]
    figure.legend(*zip(*handles, strict=True), loc="outside lower center", ncols=2 * len(panels))
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


@styled
def plot_drops(scores, names, path, title=""):
    """Draw what swapped streams cost: for each system a dot with its interval for each swap, filled: other emotion.

    Args:
        scores: {system: {swap: dict with `drop` and `interval`, fractions of 1}}. names: {swap: its name}.
        path: the PNG to write, or an open binary file. title: of the axis.
    """
    figure = Figure(figsize=(6.4, 1.2 + 0.75 * len(scores)), layout="constrained")
    ax, handles = figure.subplots(), {}
    for i, swaps in enumerate(scores.values()):
        for j, swap in enumerate(names):
            if swap not in swaps:
                continue
            low, high = swaps[swap]["interval"]
            drop = swaps[swap]["drop"]
            look = {"color": COLOURS[swap.startswith("video")], "marker": "os"[swap.startswith("video")]}
            look["markerfacecolor"] = "white" if swap.endswith("_same") else look["color"]
            error = [[100 * max(0, drop - low)], [100 * max(0, high - drop)]]
            place = i + 0.18 * (j - (len(names) - 1) / 2)
            handles[names[swap]] = ax.errorbar(100 * drop, place, xerr=error, capsize=3, markersize=5, **look)
    ax.axvline(0, color=COLOURS[6], linestyle=DASHES[2], linewidth=1)
    ax.set_yticks(range(len(scores)), list(scores))
    ax.set_ylim(len(scores) - 0.5, -0.5)
    ax.set_xlabel(title or "drop of UA, points")
    figure.legend([handles[name] for name in handles], list(handles), loc="outside upper center", ncols=2)
    save_figure(figure, path)
