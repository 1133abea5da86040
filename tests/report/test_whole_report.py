"""Every number of a report of six rows and five seeds, computed again by scipy, statsmodels and plain loops."""

import re
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from run_folders import LABELS, SYSTEMS, write_ablation
from scripts import report

SEEDS, FOLDS, RESAMPLES = (1, 2, 3, 4, 5), 4, 1000
NOISE = 0.004  # of a bootstrap's quantile, fractions of 1
SCORES = {"ua": balanced_accuracy_score, "wa": accuracy_score}
BASELINE, FULL = "fusion baseline", "+ AVEL + MEM"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = write_ablation(tmp_path_factory.mktemp("six"), folds=FOLDS, size=40, seeds=SEEDS)
    report.main([str(root), "--resamples", str(RESAMPLES), "--tsne_points", "0"])
    return root


@pytest.fixture(scope="module")
def tables(root):
    """{row: predictions of every run, with seed and fold}."""
    found = {}
    for name, (folder, *_) in SYSTEMS.items():
        runs = [pd.read_csv(path).assign(seed=path.parts[-3], fold=path.parts[-2]) for path in find(root, folder)]
        found[name] = pd.concat(runs).assign(hit=lambda table: table["label"] == table["prediction"])
    return found


def find(root, folder):
    paths = sorted((root / folder).glob("seed*/session*/predictions_valid.csv"))
    assert len(paths) == len(SEEDS) * FOLDS
    return paths


def score(table, metric):
    """By seed and fold, (seeds, folds), in points."""
    return table.groupby(["seed", "fold"]).apply(
        lambda run: 100 * SCORES[metric](run["label"], run["prediction"])
    ).unstack()  # fmt: skip


def read_table(root, header):
    """The first table of report.md whose first column is called so: {first cell: {header: cell}}."""
    lines = (root / "report" / "report.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {header} "))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def read_numbers(cell):
    return [float(text) for text in re.findall(r"[-+]?\d+(?:\.\d+)?", cell)]


def bootstrap(columns, labels, units, strata, seed=9, samples=1500):
    """Plain bootstrap of units one by one, within strata: (samples, columns, 2) UA and WA.

    Args: columns: list of (n,) hits. labels, units: (n,). strata: {unit: its stratum}.
    """
    rng, labels = np.random.default_rng(seed), np.asarray(labels)
    places = {unit: np.flatnonzero(units == unit) for unit in np.unique(units)}
    groups = [[unit for unit in places if strata[unit] == stratum] for stratum in sorted(set(strata.values()))]
    found = []
    for _ in range(samples):
        drawn = np.concatenate([places[g[i]] for g in groups for i in rng.integers(len(g), size=len(g))])
        support = np.bincount(labels[drawn], minlength=4)
        recalls = [np.bincount(labels[drawn], hits[drawn], minlength=4) / np.maximum(support, 1) for hits in columns]
        found.append([(r[support > 0].mean(), hits[drawn].mean()) for r, hits in zip(recalls, columns, strict=True)])
    return np.array(found)


def draw_again(tables, names, by_speaker=False):
    """95 % of the scores of some rows and of the last's difference to the first: (low, high), (rows + 1, 2) points."""
    first = tables[names[0]]
    units = first["utt_id"].to_numpy()
    labels = first["label"].map(LABELS.index).to_numpy()
    strata = dict(zip(units, labels, strict=True))
    if by_speaker:
        units = (first["utt_id"].str[:5] + first["utt_id"].str[-4]).to_numpy()
        strata = dict.fromkeys(units, 0)
    scores = bootstrap([tables[name]["hit"].to_numpy(float) for name in names], labels, units, strata)
    scores = np.concatenate([scores, scores[:, -1:] - scores[:, :1]], 1)
    return 100 * np.quantile(scores, [0.025, 0.975], axis=0)


def test_report_csv(root, tables):
    csv = pd.read_csv(root / "report" / "report.csv").set_index("system")
    assert list(csv.index) == list(tables)
    for name, table in tables.items():
        row, pooled = csv.loc[name], {}
        assert (row["folds"], row["seeds"], row["utterances"]) == (FOLDS, len(SEEDS), table["utt_id"].nunique())
        for metric in SCORES:
            runs = score(table, metric)
            by_fold = DescrStatsW(runs.mean(axis=0))
            expected = [by_fold.mean, by_fold.std * np.sqrt(FOLDS / (FOLDS - 1)), runs.mean(axis=1).std(ddof=1)]
            expected += [100 * SCORES[metric](table["label"], table["prediction"]), *by_fold.tconfint_mean(0.05)]
            names = ["mean", "std_folds", "std_seeds", "pooled", "low_by_fold", "high_by_fold"]
            assert row[[f"{metric}_{n}" for n in names]].tolist() == pytest.approx(expected, abs=0.006)
            pooled[metric] = expected[3]
        f1 = 100 * f1_score(table["label"], table["prediction"], average="macro")
        assert row["macro_f1_pooled"] == pytest.approx(f1, abs=0.006)
        for label in LABELS:
            recall = 100 * table["hit"][table["label"] == label].mean()
            assert row[f"recall_{label}"] == pytest.approx(recall, abs=0.006)
    name, speakers = "+ AVEL", 2 * FOLDS
    factor = np.sqrt(speakers / (speakers - 1)) * stats.t.ppf(0.975, speakers - 1) / stats.norm.ppf(0.975)
    for i, metric in enumerate(SCORES):
        found = csv.loc[name]
        low, high = draw_again(tables, [name])[:, 0, i]
        ends = found[[f"{metric}_low_by_utterance", f"{metric}_high_by_utterance"]].tolist()
        assert ends == pytest.approx([low, high], abs=100 * NOISE)
        centre, (low, high) = found[f"{metric}_pooled"], draw_again(tables, [name], by_speaker=True)[:, 0, i]
        ends = found[[f"{metric}_low_by_speaker", f"{metric}_high_by_speaker"]].tolist()
        expected = [centre - factor * (centre - low), centre + factor * (high - centre)]
        assert ends == pytest.approx(expected, abs=200 * NOISE)


def test_comparisons_csv(root, tables):
    csv = pd.read_csv(root / "report" / "comparisons.csv")
    assert list(csv) == "first second unit metric difference low high p n".split()
    assert len(csv) == 15 * 3 * 2
    assert {frozenset(pair) for pair in zip(csv["first"], csv["second"], strict=True)} == {
        frozenset(pair) for pair in combinations(tables, 2)
    }
    for (first, second, unit, metric), row in csv.set_index(["first", "second", "unit", "metric"]).iterrows():
        table = score(tables[second], metric) - score(tables[first], metric)
        if unit == "utterance":
            scores = [100 * SCORES[metric](t["label"], t["prediction"]) for t in (tables[first], tables[second])]
            assert row["difference"] == pytest.approx(scores[1] - scores[0], abs=1e-3)
            assert (row["n"], row["low"] <= row["difference"] <= row["high"]) == (FOLDS * 40, True)
            continue
        values = DescrStatsW(table.mean(axis=1 if unit == "seed" else 0))
        expected = [values.mean, *values.tconfint_mean(0.05)]
        assert row[["difference", "low", "high"]].tolist() == pytest.approx(expected, abs=1e-3)
        assert row["p"] == pytest.approx(values.ttest_mean(0)[1], rel=1e-3)
        assert row["n"] == (len(SEEDS) if unit == "seed" else FOLDS)
    for pair in ((BASELINE, FULL), ("+ AVEL", "+ MEM")):
        intervals = draw_again(tables, pair)[:, 2]
        rows = csv.set_index(["first", "second", "unit", "metric"])
        for i, metric in enumerate(SCORES):
            ends = rows.loc[(*pair, "utterance", metric), ["low", "high"]].tolist()
            assert ends == pytest.approx(list(intervals[:, i]), abs=150 * NOISE)


def test_the_tables_of_the_page(root, tables):
    main, planned = read_table(root, "system"), read_table(root, "pair")
    for name, table in tables.items():
        runs = score(table, "ua")
        cells = {
            "UA, mean ± std": [runs.mean(axis=0).mean(), runs.mean(axis=0).std(ddof=1)],
            "UA 95 %": DescrStatsW(runs.mean(axis=0)).tconfint_mean(0.05),
            "UA ± std over seeds": [runs.mean(axis=1).mean(), runs.mean(axis=1).std(ddof=1)],
        }
        for header, expected in cells.items():
            assert read_numbers(main[name][header]) == pytest.approx(list(expected), abs=0.0051)
    others = [name for name in tables if name not in (BASELINE, FULL)]
    pairs = [(name, BASELINE) for name in [*others, FULL]] + [(FULL, name) for name in others]
    assert set(planned) == {f"{a} vs. {b}" for a, b in pairs}
    gains = {f"{a} vs. {b}": score(tables[a], "ua") - score(tables[b], "ua") for a, b in pairs}
    p = {pair: stats.ttest_1samp(table.mean(axis=1), 0).pvalue for pair, table in gains.items()}
    holm = dict(zip(p, multipletests(list(p.values()), method="holm")[1], strict=True))
    for pair, table in gains.items():
        seeds, sessions = table.mean(axis=1), DescrStatsW(table.mean(axis=0))
        effect = TTestPower().solve_power(nobs=len(SEEDS), power=0.8, alpha=0.05)
        expected = {
            "UA gain": [seeds.mean()],
            "95 % over seeds": DescrStatsW(seeds).tconfint_mean(0.05),
            "gain / std": [seeds.mean() / seeds.std(ddof=1)],
            "seeds won": [(seeds > 0).sum(), len(SEEDS)],
            "detectable gain": [effect * seeds.std(ddof=1)],
            "95 % over sessions": sessions.tconfint_mean(0.05),
            "sessions": [FOLDS],
        }
        for header, values in expected.items():
            assert read_numbers(planned[pair][header]) == pytest.approx(list(values), abs=0.0051)
        for header, value in (("p over seeds", p[pair]), ("Holm", holm[pair])):
            assert planned[pair][header] == (f"{value:.4f}" if value >= 0.0001 else "< 0.0001")


def test_the_models_alone_are_tested_on_demand(root, tables):
    text = (root / "report" / "report.md").read_text(encoding="utf-8")
    shown = text[text.index("*These trained models only") :]
    a, b = (tables[name].query("seed == 'seed1'")["hit"].to_numpy() for name in ("video only", FULL))
    only = (b & ~a).sum(), (a & ~b).sum()
    p = mcnemar([[0, only[0]], [only[1], 0]], exact=True).pvalue
    line = next(line for line in shown.splitlines() if line.startswith("| + AVEL + MEM vs. video only"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    shown_p = f"{p:.4f}" if p >= 0.0001 else "< 0.0001"
    assert cells[3:] == ["≤ 0.0020", str(FOLDS * 40), *map(str, only), shown_p, str(FOLDS * 40)]
    assert "*Exploratory, uncorrected: 6 other pairs*" in text
