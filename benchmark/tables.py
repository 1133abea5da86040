"""Timed arms -> rows of the table, the text and the picture."""

import statistics

import torch
from matplotlib.figure import Figure

from running.pictures import COLOURS, save_figure, styled
from running.records import describe_environment, write_json


def describe_arms(case, arms, ceilings):
    """Rows of the table: medians, speed against the first arm pair by pair, peak memory, share of the ceiling."""
    rows = []
    for arm in arms:
        seconds = statistics.median(arm.seconds)
        ratios = [first / own for first, own in zip(arms[0].seconds, arm.seconds, strict=True)]
        rows.append(
            {
                **case,
                "arm": arm.name,
                "seconds": seconds,
                "speed-up": statistics.median(ratios),
                "from": min(ratios),
                "to": max(ratios),
                "peak GiB": arm.peak_bytes / 2**30 or None,
                "TFLOP": arm.flops / 1e12 or None,
                "of ceiling": arm.flops / seconds / ceilings[arm.precision] or None,
            }
        )
    return rows


def format_table(table, ceilings, device):
    """The table as text, the ceilings of `measure_ceilings` below it."""
    text = table.to_string(index=False, float_format="{:.3g}".format, na_rep="")
    rates = ", ".join(f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in ceilings.items() if name != "bytes")
    copies = f"copy {ceilings['bytes'] / 1e9:.1f} GB/s"
    return f"{text}\nceilings: {rates}, {copies}; {torch.get_num_threads()} threads, {device}"


def write_record(path, rows, ceilings, flags):
    """Everything that a reader elsewhere needs: rows, ceilings, flags, and what machine and versions they are of."""
    content = {"flags": flags, "environment": describe_environment([]), "ceilings": ceilings, "rows": rows}
    write_json(path, content)


@styled
def plot_costs(table, path):
    """Seconds an utterance of `train` and `eval`: against batch size, and against length where lengths were asked."""
    models, panels = table[table["workload"].isin(["train", "eval"])], []
    for (workload, lengths), rows in models.groupby(["workload", "lengths"], sort=False):
        if rows["batch"].nunique() > 1 or lengths == "iemocap":
            panels.append((f"{workload}, lengths {lengths}", "batch", "batch size", rows))
    for (workload, batch), rows in models[models["lengths"] != "iemocap"].groupby(["workload", "batch"], sort=False):
        panels.append((f"{workload}, batch {batch}", "lengths", "length of every utterance, s", rows))
    across, down = min(3, len(panels)), -(-len(panels) // 3)
    figure = Figure(figsize=(4.5 * across, 3.2 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, column, label, rows) in zip(grid.flat, panels, strict=False):
        for colour, (name, arm) in zip(COLOURS, rows.groupby("arm", sort=False), strict=False):
            arm = arm.sort_values(column)
            axes.plot(arm[column], arm["seconds"] / arm["batch"], marker="o", color=colour, label=name)
        axes.set(title=title, xlabel=label, ylabel="s an utterance", ylim=(0, None), xlim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path)
