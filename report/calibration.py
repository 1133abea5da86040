"""The section of the probabilities: may they be believed, and what one temperature for each run does to them.

A temperature is never fitted on utterances that it is judged on. Strict protocol: on the list that chose the epoch.
Paper protocol, where that is the reported list: fold k's on the reported utterances of the other folds of its seed.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import softmax

from report.numbers import interval, percent
from report.page import Gallery, Heading, Table, Text
from report.pictures import draw, plot_reliability
from running.calibration import (
    BINS,
    brier_score,
    calibration_error,
    cross_entropy,
    exact_errors,
    fit_temperature,
    recover_logits,
    reliability,
)


@dataclass
class Calibration:
    """What a system says of all reported utterances, folds and seeds together."""

    labels: np.ndarray  # (n,) int
    logits: np.ndarray  # (n, C) float
    scaled: np.ndarray  # (n, C), over the temperature of their run; the logits themselves where there is none
    temperatures: list  # one a run; empty where not every run has one


def show_calibration(experiment, prefix, seed):
    """The blocks of the probabilities. Args: seed: of the draws of `exact_errors`."""
    found, notes = {}, [explain(experiment)]
    for system in experiment.systems:
        reason = explain_absence(system)
        if reason is None:
            found[system.name] = calibrate(system)
            reason = None if found[system.name].temperatures else explain_no_temperature(system)
        notes += [f"{system.name}: {reason}."] if reason else []
    heading = Heading("Can the probabilities be believed?", 3)
    if not found:
        return [heading, Text(" ".join(notes[1:]), note=True)]
    rows = [build_row(experiment, name, calibration, seed) for name, calibration in found.items()]
    pictures = [
        draw_diagram(experiment, f"{prefix}reliability_{i}.png", *entry) for i, entry in enumerate(found.items())
    ]
    return [heading, Table(pd.DataFrame(rows)), Text(" ".join(notes), note=True), Gallery(pictures)]


def explain_absence(system):
    """Why nothing can be said of a system's probabilities, or None."""
    if any(run.probabilities is None for run in system.runs):
        return "its predictions lack a prob_ column, so nothing is said of them here"
    if any(np.isin(run.probabilities, (0, 1)).all() for run in system.runs):
        return "its predictions hold no probability but 0 and 1, so nothing is said of them here"
    return None


def explain_no_temperature(system):
    """What the fit of `fit_run` lacks."""
    if any(run.result["reported"] != "valid" for run in system.runs):
        return "no temperature, a run has no probabilities of the list that chose its epoch (predictions_valid.csv)"
    return "no temperature, since a fold takes it from the other folds of its seed and a seed has one fold only"


def calibrate(system):
    """Fit the temperatures of a system's runs. Args: system: one without `explain_absence`. Returns: Calibration."""
    temperatures = [fit_run(run, system.runs) for run in system.runs]
    temperatures = [] if None in temperatures else temperatures
    logits = [recover_logits(run.probabilities) for run in system.runs]
    scaled = [z / t for z, t in zip(logits, temperatures, strict=True)] if temperatures else logits
    labels = np.concatenate([run.predictions["label"].to_numpy(int) for run in system.runs])
    return Calibration(labels, np.concatenate(logits), np.concatenate(scaled), temperatures)


def fit_run(run, runs):
    """The temperature of a run, fitted on utterances that it does not report; None where there are none.

    Args:
        run: Run. runs: all of its system.
    """
    lists = [(other.predictions, other.probabilities) for other in runs if other.seed == run.seed]
    if run.result["reported"] != "valid":
        lists = [run.choosing or (None, None)]
    logits, labels = [], []
    for predictions, probabilities in lists:
        if probabilities is not None:
            others = ~predictions["utt_id"].isin(run.predictions["utt_id"]).to_numpy()
            logits.append(recover_logits(probabilities)[others])
            labels.append(predictions["label"].to_numpy(int)[others])
    if not sum(map(len, labels)):
        return None
    return fit_temperature(np.concatenate(logits), np.concatenate(labels))


def build_row(experiment, name, calibration, seed):
    """The scores of a system before and after its temperatures."""
    labels, before, after = calibration.labels, calibration.logits, calibration.scaled
    exact = np.quantile(exact_errors(softmax(after, axis=1), seed=seed), [0.025, 0.975])
    cells = {
        f"probabilities, {experiment.protocol} protocol": name,
        "ECE, %": show_error(before, labels),
        "ECE with T, %": show_error(after, labels),
        "if exact, 95 %": interval(exact),
        "cross entropy": f"{cross_entropy(before, labels):.3f}",
        "cross entropy with T": f"{cross_entropy(after, labels):.3f}",
        "Brier": f"{brier_score(softmax(before, axis=1), labels):.3f}",
        "Brier with T": f"{brier_score(softmax(after, axis=1), labels):.3f}",
        "T, mean [range]": show_temperatures(calibration.temperatures),
    }
    if not calibration.temperatures:
        cells.update({key: "–" for key in cells if key.split(",")[0].endswith("with T")})
    return cells


def show_error(logits, labels):
    return percent(calibration_error(softmax(logits, axis=1), labels))


def show_temperatures(values):
    if not values:
        return "–"
    return f"{np.mean(values):.2f}" + (f" [{min(values):.2f}, {max(values):.2f}]" if len(values) > 1 else "")


def draw_diagram(experiment, name, system, calibration):
    """The reliability diagram of a system, before and after its temperatures."""
    states = {"as trained": calibration.logits}
    if calibration.temperatures:
        states[f"T = {show_temperatures(calibration.temperatures)}"] = calibration.scaled
    panels = []
    for title, logits in states.items():
        title += f"\nECE {show_error(logits, calibration.labels)} %"
        panels.append((title, reliability(softmax(logits, axis=1), calibration.labels)))
    text = f"Reliability of {system}, {experiment.protocol} protocol: the accuracy of predictions by their confidence."
    return draw(
        name, text, plot_reliability, panels, width=260 * len(panels), title=f"{system} ({experiment.protocol})"
    )


def explain(experiment):
    """What was fitted where, and how to read the table and the diagrams."""
    reported = {run.result["reported"] for system in experiment.systems for run in system.runs}
    where = "on the list that chose its epoch, and is judged on the reported one"
    if "valid" in reported:
        where = (
            "on the reported utterances of the other folds with its seed and never on its own, since here the list "
            "that chose the epoch is the reported one"
        )
    ignorant = 1 / len(experiment.labels)
    return (
        f"{experiment.protocol.capitalize()} protocol, all folds and seeds pooled. T, the temperature of a run, "
        f"divides its logits and changes no prediction; it is fitted {where}. Above 1: the model was too sure of "
        f"itself. ECE: mean distance of confidence and accuracy over {BINS} bins of confidence (Guo et al. 2017). "
        "Chance alone keeps it above 0: 95 % of it would lie in the interval if the probabilities (with T where there "
        f"is one) were exact. Cross entropy in nats and Brier score summed over classes; all classes alike give "
        f"{-np.log(ignorant):.3f} and {1 - ignorant:.3f}. Diagrams: below the diagonal the model is too sure of "
        "itself; under them the share of the utterances by confidence."
    )
