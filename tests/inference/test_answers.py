"""The answers in every format, read back by pandas, json and FFmpeg; pooling, entropy, cues, and the table."""

import csv
import json
import math

import av
import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy

from inference.answers import (
    Prediction,
    Window,
    build_table,
    check_out,
    format_subtitles,
    format_table,
    share_out,
    write_predictions,
)
from running.errors import InputError

LABELS = ["joy", "rest", "grief"]
TABLES = {
    ".csv": pd.read_csv,
    ".parquet": pd.read_parquet,
}


def make_prediction(source="a.mp4", spans=((0.0, 2.0),), seed=0, streams="av", labels=LABELS):
    rows = np.random.default_rng(seed).dirichlet(np.ones(len(labels)), len(spans)).astype(np.float32)
    streams = [streams] * len(spans) if isinstance(streams, str) else streams
    windows = [Window(*span, row, found) for span, row, found in zip(spans, rows, streams, strict=True)]
    return Prediction(source, labels, windows)


@pytest.fixture
def predictions():
    """A short one, a long one with an odd name, and one that failed."""
    long = make_prediction('=SUM("ü"),\'1', ((0.0, 6.0), (3.0, 9.0), (4.5, 10.5)), 1, ["av", "a", "a"])
    return [make_prediction(), long, Prediction("bad.mp4", LABELS, error="bad.mp4: no sound, or so\nit seems")]


def test_pooling_is_by_length():
    prediction = make_prediction(spans=((0.0, 1.0), (1.0, 4.0), (9.0, 9.5)))
    rows = [window.probabilities.astype(float) for window in prediction.windows]
    expected = (1 * rows[0] + 3 * rows[1] + 0.5 * rows[2]) / 4.5
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-7)
    assert prediction.label == LABELS[expected.argmax()]
    assert prediction.entropy == pytest.approx(entropy(expected), abs=1e-6)
    assert prediction.probabilities.dtype == np.float32


def test_seconds_count_once_what_several_windows_show():
    assert make_prediction(spans=((0.0, 6.0), (3.0, 9.0), (4.5, 10.5))).seconds == pytest.approx(10.5)
    assert make_prediction(spans=((1.0, 2.0), (3.0, 3.5))).seconds == pytest.approx(1.5)
    assert make_prediction(spans=((0.0, 0.03),)).seconds == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("streams", "whole"), [(["a", "a"], "a"), (["v", "av"], "av"), (["v", "a"], "av"), (["v"] * 2, "v")]
)
def test_streams_of_the_whole(streams, whole):
    assert make_prediction(spans=((0.0, 1.0), (1.0, 2.0)), streams=streams).streams == whole


def test_certain_answers_have_no_entropy():
    prediction = make_prediction()
    prediction.windows[0].probabilities = np.array([0, 1, 0], np.float32)
    assert prediction.entropy == 0
    assert math.copysign(1, prediction.entropy) == 1  # 0, not -0
    prediction.windows[0].probabilities = np.full(3, 1 / 3, np.float32)
    assert prediction.entropy == pytest.approx(math.log(3), abs=1e-6)


def test_rank_and_its_ties():
    prediction = make_prediction()
    prediction.windows[0].probabilities = np.array([0.25, 0.5, 0.25], np.float32)
    assert prediction.rank(1) == [("rest", 0.5)]
    assert dict(prediction.rank()) == {"joy": 0.25, "rest": 0.5, "grief": 0.25}
    assert prediction.rank()[0] == ("rest", 0.5)
    assert [p for _, p in make_prediction(seed=5).rank()] == sorted([p for _, p in make_prediction(seed=5).rank()])[
        ::-1
    ]


@pytest.mark.parametrize("ending", TABLES)
def test_tables_read_back(ending, predictions, tmp_path):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"out{ending}"
    write_predictions(path, predictions)
    table = TABLES[ending](path)
    expected = build_table(predictions)
    assert table.columns.tolist() == expected.columns.tolist()
    assert table["part"].tolist()[:5] == ["whole", "whole", "window", "window", "window"]
    numbers = table.select_dtypes("number").columns
    assert len(numbers) == 4 + len(LABELS)
    np.testing.assert_allclose(table[numbers], expected[numbers].astype(float), atol=1e-8)
    wholes = table[table["part"] == "whole"]
    for row, prediction in zip(wholes.itertuples(), predictions, strict=False):
        np.testing.assert_allclose(
            [getattr(row, f"prob_{name}") for name in LABELS], prediction.probabilities, atol=1e-8
        )
        assert row.label == prediction.label
        assert row.entropy == pytest.approx(prediction.entropy, abs=1e-7)
        assert row.streams == prediction.streams
        assert row.seconds == pytest.approx(prediction.seconds)
    assert [window.start for window in predictions[1].windows] == table["start"].tolist()[2:5]
    failed = table.iloc[-1]
    assert failed["error"] == predictions[-1].error
    assert pd.isna(failed["label"])
    assert pd.isna(failed["prob_joy"])
    assert table["error"].isna().sum() == len(table) - 1


def test_no_spreadsheet_runs_a_csv(predictions, tmp_path):
    write_predictions(tmp_path / "out.csv", [predictions[1], Prediction("@x", LABELS, error="+1+1")])
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in {"=", "+", "@", "\t", "\r"}]
    assert "'" + predictions[1].source in cells


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_json_reads_back(ending, predictions, tmp_path):
    write_predictions(tmp_path / f"out{ending}", predictions)
    text = (tmp_path / f"out{ending}").read_text(encoding="utf-8")
    assert "ü" in text

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    if ending == ".json":
        found = json.loads(text, parse_constant=refuse)
    else:
        found = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert [answer["source"] for answer in found] == [prediction.source for prediction in predictions]
    short, long, failed = found
    for answer, prediction in ((short, predictions[0]), (long, predictions[1])):
        assert answer["probabilities"] == pytest.approx(
            dict(zip(LABELS, prediction.probabilities.tolist(), strict=True))
        )
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert answer["seconds"] == pytest.approx(prediction.seconds)
    assert "timeline" not in short
    assert [(part["start"], part["end"]) for part in long["timeline"]] == [(0.0, 6.0), (3.0, 9.0), (4.5, 10.5)]
    for part, window in zip(long["timeline"], predictions[1].windows, strict=True):
        assert list(part["probabilities"].values()) == pytest.approx(window.probabilities.tolist())
        assert part["label"] == LABELS[window.probabilities.argmax()]
        assert part["streams"] == window.streams
    assert failed == {"source": "bad.mp4", "error": predictions[2].error}


def test_json_of_the_likeliest(predictions, tmp_path):
    write_predictions(tmp_path / "out.json", predictions, 2)
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    order = np.argsort(predictions[0].probabilities)[::-1]
    assert list(found[0]["probabilities"]) == [LABELS[k] for k in order[:2]]
    for part in found[1].get("timeline", []):
        assert len(part["probabilities"]) == 2


def read_cues(path):
    """(start, end, text) of each cue as FFmpeg reads it, seconds."""
    cues = []
    with av.open(str(path)) as container:
        for packet in container.demux(subtitles=0):
            if packet.size:
                start = float(packet.pts * packet.time_base)
                text = packet.decode()[0].ass.decode().split(",", 8)[-1]
                cues.append((start, start + float(packet.duration * packet.time_base), text))
    return cues


@pytest.mark.parametrize("ending", [".srt", ".vtt"])
def test_subtitles_read_back(ending, tmp_path):
    spans = [
        (0.0, 6.0),
        (3.0, 9.0),
        (4.5, 10.5),
        (12.0, 13.25),
        (3599.5, 3605.5),
        (7200.0, 7206.0),
        (360000.0, 360001.0),
    ]
    prediction = make_prediction(spans=spans, seed=3)
    write_predictions(tmp_path / f"out{ending}", [prediction])
    cues = read_cues(tmp_path / f"out{ending}")
    ends = [4.5, 6.75, 10.5, 13.25, 3605.5, 7206.0, 360001.0]
    starts = [0.0, 4.5, 6.75, 12.0, 3599.5, 7200.0, 360000.0]
    assert [cue[0] for cue in cues] == pytest.approx(starts, abs=1e-3)
    assert [cue[1] for cue in cues] == pytest.approx(ends, abs=1e-3)
    for (_, _, text), window in zip(cues, prediction.windows, strict=True):
        assert text == f"{LABELS[window.probabilities.argmax()]} {100 * window.probabilities.max():.0f}%"


@pytest.mark.parametrize("ending", [".srt", ".vtt"])
def test_labels_that_could_break_a_subtitle(ending, tmp_path):
    labels = ["a --> b", "<i>c</i> & {d}", "ü 感"]
    for k in range(3):
        prediction = make_prediction(labels=labels)
        prediction.windows[0].probabilities = np.eye(3, dtype=np.float32)[k]
        write_predictions(tmp_path / f"{k}{ending}", [prediction])
        ((start, end, text),) = read_cues(tmp_path / f"{k}{ending}")
        assert (start, end) == (0.0, 2.0)
        assert text.endswith("100%")
        assert "<i>" not in text
    assert "ü 感" in text


def test_subtitle_of_milliseconds_that_round_up():
    text = format_subtitles(make_prediction(spans=((0.9996, 59.9996), (3599.9996, 3600.5))), ".srt")
    assert "00:00:01,000 --> 00:01:00,000" in text
    assert "01:00:00,000 --> 01:00:00,500" in text


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("seconds", [6.5, 13.0, 34.048])
def test_cues_never_overlap_and_leave_nothing_out(overlap, seconds):
    step = 6 * (1 - overlap)
    starts = [min(k * step, seconds - 6) for k in range(1 + math.ceil((seconds - 6) / step - 1e-9))]
    shared = share_out(make_prediction(spans=[(start, start + 6) for start in starts]).windows)
    assert shared[0][0] == 0
    assert shared[-1][1] == pytest.approx(seconds)
    assert all(start < end for start, end, _ in shared)
    assert [start for start, _, _ in shared[1:]] == pytest.approx([end for _, end, _ in shared[:-1]])
    for start, end, window in shared:
        assert window.start <= start < end <= window.end


def test_pauses_are_left_between_cues():
    shared = share_out(make_prediction(spans=((0.5, 1.0), (3.0, 4.0))).windows)
    assert [(start, end) for start, end, _ in shared] == [(0.5, 1.0), (3.0, 4.0)]


def test_table_of_the_terminal(predictions):
    lines = format_table(predictions).splitlines()
    assert len(lines) == 1 + 1 + 1 + 3  # heading, the short one, the long one, its windows
    assert "bad.mp4" not in "\n".join(lines)
    assert "sound and picture" in lines[1]
    assert "3.00 to 9.00" in lines[4]
    for name, p in predictions[0].rank():
        assert f"{name} {p:.3f}" in lines[1]
    best = format_table(predictions, 1).splitlines()
    name, p = predictions[0].rank(1)[0]
    assert f"{name} {p:.3f}" in best[1]
    assert sum(best[1].count(f"{label} 0.") for label in LABELS) == 1


def test_table_without_an_answer(predictions):
    assert len(format_table(predictions[2:]).splitlines()) == 1


def test_table_of_many_windows_stays_short():
    many = [make_prediction(f"{k}.wav", [(float(i), i + 1.0) for i in range(30)]) for k in range(10)]
    assert len(format_table(many).splitlines()) == 11


@pytest.mark.parametrize("name", ["a.txt", "a", "a.csv.gz", "folder.csv", "file/a.csv", ""])
def test_place_that_cannot_be_written(name, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as error:
        check_out(str(tmp_path / name) if name else "")
    assert "--out" in str(error.value)
    assert name in str(error.value)


def test_place_that_can_be_written(tmp_path):
    for name in ("a.csv", "A.JSON", "new/folder/a.vtt", "b.jsonl", "c.srt"):
        check_out(str(tmp_path / name))
        write_predictions(tmp_path / name, [make_prediction()])
        assert (tmp_path / name).stat().st_size
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".part"]


def test_old_answers_are_replaced_whole(tmp_path, predictions):
    path = tmp_path / "out.csv"
    write_predictions(path, [make_prediction(str(k)) for k in range(50)])
    write_predictions(path, predictions[:1])
    assert len(pd.read_csv(path)) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]
