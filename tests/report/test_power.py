"""The power of the paired test: against statsmodels, a simulation and the known designs; runs with missing seeds."""

import numpy as np
import pytest
from scipy.stats import ttest_rel
from sklearn.metrics import balanced_accuracy_score
from statsmodels.stats.power import TTestPower

from report.power import difference_std, find_pairs, find_power, minimum_detectable_effect, seeds_needed, std_interval
from run_folders import load, read_predictions, write_ablation
from running.errors import InputError
from scripts import power


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_power_equals_statsmodels(alpha):
    for n in (2, 3, 5, 10, 40):
        for effect in (0.01, 0.3, 0.7):
            expected = TTestPower().power(effect, n, alpha)
            assert find_power(n, 2 * effect, 2, alpha) == pytest.approx(expected, abs=1e-9)
            assert find_power(n, -effect, 1, alpha) == pytest.approx(expected, abs=1e-9)


def test_power_equals_a_simulation_of_the_paired_test():
    first, second = np.random.default_rng(0).normal(0, 0.8, (2, 20000, 7))
    seen = (ttest_rel(second + 1.46, first, axis=1).pvalue < 0.05).mean()
    assert find_power(7, 1.46, difference_std(0.8)) == pytest.approx(seen, abs=0.01)  # 3.5 standard errors


def test_the_std_of_a_difference_is_that_of_two_trainings():
    first, second = np.random.default_rng(1).normal(0, 0.8, (2, 100_000))
    assert (first - second).std() == pytest.approx(difference_std(0.8), rel=0.01)


@pytest.mark.parametrize("effect", [0.1, 50, 1e4, 1e8, 1e20])
def test_power_is_a_number_where_the_noncentral_t_gives_none(effect):
    values = [find_power(n, effect, 1) for n in (2, 10, 1000, 100_000)]
    assert np.all(np.isfinite(values))
    assert values == sorted(values)
    assert effect < 1 or values[1:] == [1, 1, 1]


@pytest.mark.parametrize(
    ("gain", "std", "seeds"),
    [(1.46, 0.6, 5), (1.46, 0.8, 7), (1.46, 1.0, 10), (0.25, 0.6, 93), (0.25, 0.8, 163), (0.25, 1.0, 254)],
)
def test_the_published_gains(gain, std, seeds):
    assert seeds_needed(gain, difference_std(std)) == seeds
    assert seeds_needed(-gain, difference_std(std)) == seeds
    solved = TTestPower().solve_power(gain / difference_std(std), nobs=None, alpha=0.05, power=0.8)
    assert np.ceil(solved) == seeds


def test_no_fewer_seeds_do_and_what_they_detect_needs_them():
    assert seeds_needed(400, 1, 0.9, 0.01) == 2
    for effect in (0.2, 0.5, 1.3, 3, 40, 400):
        n = seeds_needed(effect, 1, 0.9, 0.01)
        assert find_power(n, effect, 1, 0.01) >= 0.9
        assert n == 2 or find_power(n - 1, effect, 1, 0.01) < 0.9
        detectable = minimum_detectable_effect(n, 2.5, 0.9, 0.01)
        assert detectable <= 2.5 * effect
        assert find_power(n, detectable, 2.5, 0.01) == pytest.approx(0.9, abs=1e-6)
        assert seeds_needed(1.0001 * detectable, 2.5, 0.9, 0.01) == n


def test_what_has_no_answer():
    assert seeds_needed(0, 1) is None
    assert seeds_needed(1, 0) is None
    assert seeds_needed(1, np.nan) is None
    assert seeds_needed(1e-4, 1) is None
    assert np.isnan(minimum_detectable_effect(1, 1))
    assert np.isnan(minimum_detectable_effect(5, np.nan))
    assert minimum_detectable_effect(5, 0) == 0


def test_the_interval_of_a_std_covers():
    stds = np.random.default_rng(2).normal(0, 3, (4000, 4)).std(axis=1, ddof=1)
    low, high = std_interval(stds, 4)
    assert ((low < 3) & (high > 3)).mean() == pytest.approx(0.95, abs=0.012)


def score_seeds(root, folder, seeds):
    """Mean UA over the folds of each seed, points, by scikit-learn."""
    frames = [read_predictions(root, folder, seed) for seed in seeds]
    return [100 * np.mean([balanced_accuracy_score(f["label"], f["prediction"]) for f in folds]) for folds in frames]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three rows, three seeds and two folds; of + AVEL the last seed lacks a fold, of + MEM all seeds but one do."""
    root = write_ablation(tmp_path_factory.mktemp("runs"), ["fusion baseline", "+ AVEL", "+ MEM"], 2, seeds=(1, 2, 3))
    for folder, seed in (("avel", 3), ("mem", 1), ("mem", 2)):
        (root / folder / f"seed{seed}" / "session2" / "result.json").unlink()
    return root


def test_differences_are_of_complete_seeds(runs):
    pairs, problems = find_pairs(load(runs)[0], "fusion baseline")
    (pair,) = pairs
    first, second = score_seeds(runs, "baseline", (1, 2)), score_seeds(runs, "avel", (1, 2))
    assert pair == "+ AVEL vs. fusion baseline, paper"
    assert 100 * pairs[pair].to_numpy() == pytest.approx(np.subtract(second, first))
    assert problems == [
        "+ AVEL, seed 3: no fold session2",
        "+ MEM vs. fusion baseline, paper: 1 complete seeds, 2 are needed",
        "+ MEM, seed 1: no fold session2",
        "+ MEM, seed 2: no fold session2",
    ]


def test_the_table_of_runs(runs, capsys, caplog):
    power.main([str(runs), "--gain", "30", "--second", "+ AVEL", "--seeds", "4", "--power", "0.7", "--alpha", "0.1"])
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[2].strip("| ").split("|")]
    differences = np.subtract(score_seeds(runs, "avel", (1, 2)), score_seeds(runs, "baseline", (1, 2)))
    std, (low, high) = differences.std(ddof=1), std_interval(differences.std(ddof=1), 2)
    needed = [seeds_needed(30, value, 0.7, 0.1) for value in (std, low, high)]
    assert cells[1:] == [
        "2",
        f"{std:.2f} [{low:.2f}, {high:.2f}]",
        f"{needed[0]} [{needed[1]}, {needed[2]}]",
        f"{minimum_detectable_effect(4, std, 0.7, 0.1):.2f}",
    ]
    assert "+ AVEL, seed 3: no fold session2" in caplog.text
    assert "MEM" not in caplog.text


def test_the_table_of_a_std(capsys):
    power.main(["--gain", "1.46", "--std", "0.8", "--seeds", "5"])
    out = capsys.readouterr().out
    assert out.splitlines()[2].replace(" ", "") == "|0.80|1.13|7|1.90|"
    assert "at 0.05, power 0.8" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gain", "0"], "--gain 0.0: must be a number other than 0"),
        (["--gain", "nan"], "--gain nan: must"),
        (["--std", "-1"], "must be above 0"),
        (["--seeds", "1"], "must be at least 2"),
        (["--power", "0.04"], "must lie between --alpha and 1"),
        (["--second", "+ AVEL"], "give RUNS, too"),
    ],
)
def test_bad_designs_are_named(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        power.main(flags)
    assert message in capsys.readouterr().err


def test_rows_that_cannot_be_compared_are_named(runs, tmp_path):
    experiments = load(runs)[0]
    with pytest.raises(InputError, match=r"audio: no such row; there are \+ AVEL; \+ MEM; fusion baseline"):
        find_pairs(experiments, "fusion baseline", "audio")
    with pytest.raises(InputError, match=r"1 complete seeds, 2 are needed\n.*\n.*no fold session2"):
        find_pairs(experiments, "fusion baseline", "+ MEM")
    write_ablation(tmp_path / "a", ["+ AVEL"], folds=2, seeds=(1, 2))
    write_ablation(tmp_path / "b", ["+ MEM"], folds=2, seeds=(1, 2), protocol="strict", reported="test")
    with pytest.raises(InputError, match=r"\+ MEM: in no table together with \+ AVEL"):
        find_pairs(load(tmp_path)[0], "+ AVEL", "+ MEM")


def test_a_seed_that_a_row_lacks_is_named(tmp_path):
    write_ablation(tmp_path, ["fusion baseline"], folds=2, seeds=(1, 2))
    write_ablation(tmp_path, ["+ AVEL"], folds=2, seeds=(1,))
    with pytest.raises(InputError, match=r"1 complete seeds, 2 are needed\n\+ AVEL, seed 2: no run"):
        find_pairs(load(tmp_path)[0], "fusion baseline")
