"""The corrected interval against its published formula, by simulation, and corrected for many looks."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from beyond_hard_labels.analysis import rates
from beyond_hard_labels.learn import significance


def test_the_corrected_interval_is_the_published_formula_and_wider_than_the_plain_one():
    d = np.array([0.010, 0.014, 0.021])
    interval = significance.corrected_t(d, 1 / 3)
    error = math.sqrt((1 / 3 + 1 / 3) * d.var(ddof=1))
    assert interval.high - interval.mean == pytest.approx(4.302652730 * error)  # t quantile, 2 degrees
    assert interval.p == pytest.approx(2 * stats.t.sf(d.mean() / error, 2))
    plain = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert significance.corrected_t(d, 0.0)[1:3] == pytest.approx((plain.low, plain.high))
    assert interval.low < plain.low and plain.high < interval.high


def test_one_split_has_no_interval():
    interval = significance.corrected_t([0.3], 1 / 3)
    assert interval.mean == 0.3
    assert all(math.isnan(v) for v in interval[1:])


@pytest.mark.parametrize("n_splits", [2, 3, 5, 10])
def test_the_corrected_test_rejects_five_percent_where_its_assumption_holds_and_the_plain_one_more(n_splits):
    found = rates.rates_at_assumption(n_splits)
    assert 0.04 < found["corrected"] < 0.06
    assert found["plain"] > found["corrected"] + 3 * found["error"]


def test_in_the_design_of_random_splits_the_corrected_test_keeps_its_level_and_the_plain_one_does_not():
    whole, thinned = (rates.rates_in_design(5, train_share=share) for share in (1.0, 0.1))
    assert 0.005 < whole["corrected"] < 0.05 + 3 * whole["error"]
    assert 0.005 < thinned["corrected"] < 0.05 + 3 * thinned["error"]
    assert whole["plain"] > 0.08
    assert whole == rates.rates_in_design(5)


@pytest.fixture
def rows():
    """Runs of three cells, with both arms on three splits."""
    draw = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([[1, 2, 5], ["hard", "soft"], [0, 1, 2]], names=["epochs", "labels", "split"])
    return pd.DataFrame({"kl": draw.normal(size=18)}, index).reset_index()


def test_differences_of_many_cells_are_those_of_each(rows):
    table = significance.paired(rows, "kl", ["epochs"])
    for _, cell in table.iterrows():
        arms = rows[rows["epochs"] == cell["epochs"]].set_index(["labels", "split"])["kl"]
        assert (cell["hard"], cell["soft"]) == pytest.approx((arms["hard"].mean(), arms["soft"].mean()))
        expected = significance.corrected_t(arms["soft"] - arms["hard"])
        assert tuple(cell[list(expected._fields)]) == pytest.approx(expected)
        assert cell["detectable"] == pytest.approx((expected.high - expected.low) / 2)
    assert table["n"].tolist() == [3, 3, 3]


def test_a_split_with_one_arm_does_not_count_and_a_cell_of_one_split_has_no_interval(rows):
    soft, splits = rows["labels"] == "soft", rows["epochs"].map({1: 2, 2: 1, 5: 0})
    table = significance.paired(rows[~(soft & (rows["split"] >= splits))], "kl", ["epochs"])
    assert table[["epochs", "n"]].values.tolist() == [[1, 2], [2, 1]]
    assert table[["low", "p"]].isna().values.tolist() == [[False, False], [True, True]]


def test_equal_arms_have_an_interval_of_no_width_and_cannot_be_told_apart(rows):
    cell = significance.paired(rows.assign(kl=0.5), "kl", ["epochs"]).iloc[0]
    assert (cell["mean"], cell["low"], cell["high"], cell["p"]) == (0, 0, 0, 1)


def test_holm_multiplies_the_smallest_most_and_keeps_the_order():
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert significance.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert significance.holm([0.02, math.nan, 0.01]) == pytest.approx([0.02, math.nan, 0.02], nan_ok=True)


def test_holm_is_wrong_about_a_whole_family_in_five_percent_of_cases():
    p = np.random.default_rng(0).random((4000, 10))
    wrong = np.mean([(significance.holm(family) < 0.05).any() for family in p])
    assert wrong == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 4000))


@pytest.mark.parametrize(("n_splits", "n_cells", "worked"), [(5, 1, 2.03), (3, 10, 11.50)])
def test_the_least_difference_that_is_shown_is_where_the_corrected_p_reaches_the_level(n_splits, n_cells, worked):
    least = significance.least_shown(n_splits, n_cells)
    assert least == pytest.approx(worked, abs=0.005)
    spread = np.linspace(-1, 1, n_splits) / np.linspace(-1, 1, n_splits).std(ddof=1)
    for factor, shown in ((1.001, True), (0.999, False)):
        p = significance.corrected_t(spread + factor * least).p
        assert (significance.holm([p, *[0.9] * (n_cells - 1)])[0] < 0.05) == shown
