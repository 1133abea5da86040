"""What a model says of a source, and the forms it is written in: table, csv, json, jsonl, parquet, srt, vtt."""

import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dataloader import STREAMS
from running.errors import InputError
from running.records import disarm, replace_file, write_text

FORMATS = (".csv", ".json", ".jsonl", ".parquet", ".srt", ".vtt")
MOST_LINES = 60  # windows that the terminal shows


def name_streams(modality):
    """Words for the streams of a modality."""
    return " and ".join(STREAMS[letter].word for letter in modality)


@dataclass
class Window:
    """A part of a source: seconds since its start (of a manifest's row: since its `start`), probabilities (C,) float32,
    streams `av`, `a` or `v`.
    """

    start: float
    end: float
    probabilities: np.ndarray
    streams: str


@dataclass
class Prediction:
    """The answer for one source, or `error`, why there is none; an error names its file.

    Attributes: source: its name. labels: class names. windows: one, or the timeline of a longer source.
    """

    source: str
    labels: list
    windows: list = field(default_factory=list)
    error: str | None = None
    notes: list = field(default_factory=list)  # what was missing of it, ends of sentences

    @property
    def probabilities(self):
        """(C,) float32, the mean over the windows by their length; None, as what follows from it, for an error."""
        if self.error is not None:
            return None
        lengths = np.array([window.end - window.start for window in self.windows])
        rows = np.stack([window.probabilities for window in self.windows])
        return rows[0] if len(rows) == 1 else (np.average(rows, axis=0, weights=lengths)).astype(np.float32)

    @property
    def label(self):
        return None if self.error is not None else self.labels[int(self.probabilities.argmax())]

    @property
    def entropy(self):
        """Of the probabilities, in nats: 0 is certain, log(C) knows nothing."""
        return None if self.error is not None else compute_entropy(self.probabilities)

    @property
    def seconds(self):
        """Of the source that the answer is of; overlapping windows count once."""
        used, reached = 0.0, 0.0
        for window in self.windows:
            used += max(0.0, window.end - max(window.start, reached))
            reached = max(reached, window.end)
        return used

    @property
    def streams(self):
        """`av`, `a` or `v`: what any window had."""
        return "".join(s for s in STREAMS if any(s in window.streams for window in self.windows))

    def rank(self, k=None):
        """[(label, probability)], the likeliest first, k of them."""
        return _rank(self.probabilities, self.labels, k)

    def to_dict(self, k=None):
        """As JSON has it; a source of several windows carries its timeline."""
        if self.error is not None:
            return {"source": self.source, "error": self.error}
        content = {"source": self.source, "label": self.label}
        content["probabilities"] = _name(self.probabilities, self.labels, k)
        content |= {"entropy": self.entropy, "seconds": self.seconds, "streams": self.streams}
        if len(self.windows) > 1:
            content["timeline"] = [_describe_window(window, self.labels, k) for window in self.windows]
        return content


def compute_entropy(probabilities):
    """(C,) -> nats."""
    positive = probabilities[probabilities > 0].astype(np.float64)
    return float(-(positive * np.log(positive)).sum() + 0.0)


def _rank(probabilities, labels, k=None):
    return [(labels[i], float(probabilities[i])) for i in probabilities.argsort()[::-1][:k]]


def _name(probabilities, labels, k=None):
    """{label: probability}, in the order of the classes, or the k likeliest."""
    return dict(_rank(probabilities, labels, k) if k else zip(labels, map(float, probabilities), strict=True))


def _describe_window(window, labels, k):
    ((label, _),) = _rank(window.probabilities, labels, 1)
    content = {"start": window.start, "end": window.end, "label": label}
    return content | {"probabilities": _name(window.probabilities, labels, k), "streams": window.streams}


def build_table(predictions, windows=True):
    """Predictions as a DataFrame: a row a source and, where it has several windows, one for each of those.

    Columns: source, start, end (seconds), part (`whole` or `window`), label, prob_<name>..., entropy, seconds, streams,
    error. windows: False leaves the windows out.
    """
    rows = []
    for prediction in predictions:
        if prediction.error is not None:
            rows.append({"source": prediction.source, "error": prediction.error})
            continue
        last = max(window.end for window in prediction.windows)
        first = prediction.windows[0].start
        whole = {"seconds": prediction.seconds, "streams": prediction.streams}
        rows.append(_make_row(prediction, first, last, "whole", prediction.probabilities) | whole)
        for window in prediction.windows if windows and len(prediction.windows) > 1 else ():
            row = _make_row(prediction, window.start, window.end, "window", window.probabilities)
            rows.append(row | {"seconds": window.end - window.start, "streams": window.streams})
    labels = predictions[0].labels
    columns = ["source", "part", "start", "end", "label", *(f"prob_{name}" for name in labels)]
    return pd.DataFrame(rows, columns=[*columns, "entropy", "seconds", "streams", "error"])


def _make_row(prediction, start, end, part, probabilities):
    label = prediction.labels[int(probabilities.argmax())]
    row = {"source": prediction.source, "part": part, "start": start, "end": end, "label": label}
    row |= {f"prob_{name}": float(p) for name, p in zip(prediction.labels, probabilities, strict=True)}
    return row | {"entropy": compute_entropy(probabilities)}


def format_table(predictions, k=None):
    """The table of the terminal: a line a source, its k likeliest classes; of few sources each window, too."""
    answered = [prediction for prediction in predictions if prediction.error is None]
    if not answered:
        return "no source could be answered"
    windows = sum(len(prediction.windows) for prediction in answered) <= MOST_LINES
    rows = []
    for prediction in answered:
        likely = "  ".join(f"{name} {p:.3f}" for name, p in prediction.rank(k))
        name = prediction.source if prediction.source.isprintable() else repr(prediction.source)
        rows.append([name, prediction.label, likely, prediction.entropy, f"{prediction.seconds:.2f}"])
        rows[-1].append(name_streams(prediction.streams))
        for window in prediction.windows if windows and len(prediction.windows) > 1 else ():
            part = Prediction("", prediction.labels, [window])
            likely = "  ".join(f"{name} {p:.3f}" for name, p in part.rank(k))
            rows.append(["", part.label, likely, part.entropy, f"{window.start:.2f} to {window.end:.2f}"])
            rows[-1].append(name_streams(window.streams))
    table = pd.DataFrame(rows, columns=["source", "label", "probabilities", "entropy", "seconds", "of"])
    return table.to_string(index=False, formatters={"entropy": "{:.2f}".format})


def check_out(path):
    """Raise InputError for a file that can't be written, or whose ending names no format that is installed."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"--out {path}: the ending {ending!r} names no format; allowed are {' '.join(FORMATS)}")
    if ending == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise InputError(f"--out {path}: parquet needs pyarrow: make export") from error
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {path}: no file can be made there: {error.strerror}") from error
    if Path(path).is_dir() or not os.access(Path(path).parent, os.W_OK):
        raise InputError(f"--out {path}: no file can be made there")


def write_predictions(path, predictions, k=None):
    """Write predictions in the format that the ending of a path names, whole or not at all.

    Args:
        path: a name with an ending of FORMATS. predictions: list of Prediction, one for subtitles.
        k: classes in JSON; tables have all.
    """
    path, ending = Path(path), Path(path).suffix.lower()
    if ending in (".json", ".jsonl"):
        contents = [prediction.to_dict(k) for prediction in predictions]
        lines = "".join(json.dumps(content, ensure_ascii=False) + "\n" for content in contents)
        write_text(path, lines if ending == ".jsonl" else json.dumps(contents, indent=1, ensure_ascii=False) + "\n")
    elif ending in (".srt", ".vtt") and predictions[0].error is not None:
        path.unlink(missing_ok=True)  # an earlier one is not of this source
    elif ending in (".srt", ".vtt"):
        write_text(path, format_subtitles(*predictions, ending))
    elif ending == ".csv":
        table = build_table(predictions)
        table[["source", "error"]] = table[["source", "error"]].map(lambda text: disarm(text) if text == text else text)
        write_text(path, table.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
    else:
        buffer = io.BytesIO()
        build_table(predictions).to_parquet(buffer, index=False)
        with replace_file(path) as file:
            file.write(buffer.getvalue())


def format_subtitles(prediction, ending):
    """The timeline of a source as SubRip (`.srt`) or WebVTT (`.vtt`), a cue a window.

    Overlapping windows give way to each other in the middle of their overlap, so that one label shows at a time.
    """
    blocks = ["WEBVTT\n"] if ending == ".vtt" else []
    for number, (start, end, window) in enumerate(share_out(prediction.windows), start=1):
        label, p = prediction.labels[int(window.probabilities.argmax())], float(window.probabilities.max())
        times = f"{_stamp(start, ending)} --> {_stamp(end, ending)}"
        text = f"{label} {p:.0%}".replace("-->", "->").replace("<", "(")
        blocks.append(f"{number}\n{times}\n{text}\n")
    return "\n".join(blocks)


def share_out(windows):
    """[(start, end, window)] without overlap: the border of two lies in the middle of what they share."""
    shared = []
    for i, window in enumerate(windows):
        start, end = window.start, window.end
        if i and windows[i - 1].end > start:
            start = (start + windows[i - 1].end) / 2
        if i + 1 < len(windows) and windows[i + 1].start < end:
            end = (windows[i + 1].start + end) / 2
        shared.append((start, end, window))
    return shared


def _stamp(seconds, ending):
    milliseconds = round(1000 * seconds)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{',' if ending == '.srt' else '.'}{rest % 1000:03}"
