"""The section of the groups: the UA by speaker, style, duration and whatever else a manifest says."""

import numpy as np
import pandas as pd

from corpus.folds import natural_order
from corpus.iemocap import parse_iemocap_id
from corpus.manifest import read_manifest
from report.numbers import percent
from report.page import Heading, Table, Text
from running.errors import InputError
from running.significance import count_hits, score_counts

DURATIONS = {"under 2 s": (0, 2), "2 to 4 s": (2, 4), "4 to 6 s": (4, 6), "6 s and more": (6, np.inf)}
NOT_GROUPS = ("id", "path", "label", "video", "start", "end", "crop", "duration")
MOST_GROUPS = 40  # a manifest column with more values gets no table; speakers are drawn anew all the same


def read_groups(path, utt_ids):
    """What is known of the utterances beside their label.

    Args:
        path: manifest.csv, or None: IEMOCAP's ids say speaker, style and marker wearer. utt_ids: those of the runs.
    Returns: pandas.DataFrame of texts by utt_id with a column a grouping; it may have no column.
    """
    if path is None:
        parsed = [parse_iemocap_id(utt_id) for utt_id in utt_ids]
        if not all(parsed):
            return pd.DataFrame(index=utt_ids)
        rows = [(p.speaker, p.style, p.gender, "yes" if p.wears_markers else "no") for p in parsed]
        return pd.DataFrame(rows, index=utt_ids, columns=["speaker", "style", "gender", "marker_wearer"])
    table = read_manifest(path).set_index("id")
    missing = [utt_id for utt_id in utt_ids if utt_id not in table.index]
    if missing:
        raise InputError(f"{path}: has no id {missing[0]}" + f" and {len(missing) - 1} more" * (len(missing) > 1))
    table = table.loc[utt_ids]
    groups = table.drop(columns=[name for name in NOT_GROUPS if name in table])
    groups = groups[[name for name in groups if groups[name].nunique() > 1]]
    seconds = (
        pd.to_numeric(table["duration"], errors="coerce") if "duration" in table else table["end"] - table["start"]
    )
    if seconds.notna().any():
        edges = [low for low, _ in DURATIONS.values()] + [np.inf]
        groups["duration"] = pd.cut(seconds, edges, right=False, labels=list(DURATIONS)).astype("object")
    return groups


def show_groups(experiment, groups):
    """The blocks of the UA by speaker, style, duration and whatever else the manifest says."""
    if not len(groups.columns):
        return [Heading("Groups", 3), Text("Give --manifest for the UA by speaker, style and duration.", note=True)]
    text = f"Pooled, in %, {experiment.protocol} protocol. UA is the mean over the classes that occur in a group."
    many = {name: groups[name].nunique() for name in groups if groups[name].nunique() > MOST_GROUPS}
    if many:
        left_out = ", ".join(f"{name.replace('_', ' ')} ({n} values)" for name, n in many.items())
        text += f" No table of more than {MOST_GROUPS} rows: {left_out}."
    tables = [build_group_table(experiment, groups[column]) for column in groups if column not in many]
    return [Heading("UA by group", 3), *(table for table in tables if table), Text(text, note=True)]


def build_group_table(experiment, values):
    """The UA of each system by the values of a column (pandas.Series by utt_id); None where only one value occurs."""
    tables = {s.name: s.predictions.assign(group=s.predictions["utt_id"].map(values)) for s in experiment.systems}
    everything = pd.concat(tables.values())
    found = [value for value in everything["group"].dropna().unique() if value != ""]
    order = list(DURATIONS).index if values.name == "duration" else natural_order
    if len(found) < 2:
        return None
    rows = []
    for value in sorted(found, key=order):
        members = everything[everything["group"] == value]
        cells = {values.name.replace("_", " "): value, "utterances": members["utt_id"].nunique()}
        for name, table in tables.items():
            part = table[table["group"] == value]
            if part.empty:
                cells[name] = "–"
                continue
            counts = count_hits(part["label"], part["hit"], np.zeros(len(part)), len(experiment.labels))
            cells[name] = percent(score_counts(counts)[0, 0])
        rows.append({**cells, "classes": members["label"].nunique()})
    return Table(pd.DataFrame(rows))
