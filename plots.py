"""Pictures of a run: the confusion matrix and the learning curves."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

DPI = 150
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito's, told apart by colour-blind readers


def plot_confusion(confusion, names, where, title=None):
    """Row-normalised confusion matrix with the counts beneath.

    Args:
        confusion: (C, C) int, rows labels, columns predictions.
        names: the C class names.
        where: path of a PNG to write, or a matplotlib Axes to draw on.
    """
    confusion = np.asarray(confusion)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    is_axes = isinstance(where, plt.Axes)
    figure, axes = (where.figure, where) if is_axes else plt.subplots(figsize=(1.6 + 0.8 * len(names),) * 2)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(share):
        colour = "white" if value > 0.55 else "black"
        axes.text(j, i, f"{value:.0%}\n{confusion[i, j]}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="label")
    if title:
        axes.set_title(title, fontsize=9)
    if not is_axes:
        figure.savefig(where, dpi=DPI, bbox_inches="tight")
        plt.close(figure)


def plot_curves(history, path):
    """Losses, WA and UA, and the similarities of pairs over the epochs.

    Args:
        history: the lines of metrics.jsonl, dicts; keys that a model does not have are left out of the picture.
        path: of the PNG to write.
    """
    panels = {
        "training losses": ("train_loss", "train_loss_cls", "train_loss_avel", "train_loss_mem"),
        "UA, WA (validation), MEM (training)": ("valid_ua", "valid_wa", "mem_accuracy"),
        "cosine of pairs, validation": ("valid_similarity_same", "valid_similarity_other"),
    }
    epochs = [line["epoch"] for line in history]
    panels = {title: [key for key in keys if history[0].get(key) is not None] for title, keys in panels.items()}
    panels = {title: keys for title, keys in panels.items() if keys}
    figure, all_axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3), squeeze=False, layout="constrained")
    for axes, (title, keys) in zip(all_axes[0], panels.items(), strict=True):
        for key, colour in zip(keys, COLOURS, strict=False):
            values = [np.nan if line.get(key) is None else line[key] for line in history]
            label = key.removeprefix("train_").removeprefix("valid_").replace("_", " ")
            axes.plot(epochs, values, color=colour, label=label, marker="." if len(epochs) < 15 else None)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    if "training losses" in panels and max(line["train_loss"] for line in history) > 0:
        all_axes[0][0].set_yscale("log")
    figure.savefig(path, dpi=DPI, bbox_inches="tight")
    plt.close(figure)
