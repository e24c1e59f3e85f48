"""What some random splits of one set can say about a difference between two arms.

Splits share images, so their results are correlated, and a plain t test of J splits is sure too often.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

TEST_SHARE = 0.2 / 0.6  # test images per image that may be trained on, in a 60/20/20 split


class Interval(NamedTuple):
    """A mean difference with its interval and the two-sided p value of no difference."""

    mean: float
    low: float
    high: float
    p: float


def corrected_t(differences, test_share: float = TEST_SHARE) -> Interval:
    """Return the corrected resampled t interval of paired differences over random splits, with a coverage of 95 %.

    Random splits of one set share their images, so the variance of the mean is larger than J
    independent splits would have; Nadeau and Bengio (2003) replace 1/J by 1/J + n_test/n_train.

    Parameters
    ----------
    differences : array_like
        (J,), one paired difference a split.
    test_share : float
        n_test / n_train; 1/3 for a 60/20/20 split, also where a share of its training images is left out: that lowers
        what splits have in common, and the correction need not grow.

    Returns
    -------
    Interval
        NaN bounds with fewer than two splits, since one split says nothing of its own spread.
    """
    d = np.asarray(differences, np.float64)
    deviation = d.std(ddof=1) if len(d) > 1 else 0.0
    return Interval(*map(float, intervals(d.mean(), deviation, len(d), test_share)))


def intervals(mean, deviation, n, test_share: float) -> tuple:
    """Return mean, bounds and p of many differences at once, each from n splits; NaN where n < 2."""
    from scipy import stats  # here, since it takes as long to import as all the rest

    mean, deviation, n = (np.asarray(x, np.float64) for x in (mean, deviation, n))
    freedom = np.where(n > 1, n - 1, np.nan)
    error = np.sqrt(1 / n + test_share) * deviation
    half = stats.t.ppf(0.975, freedom) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(mean) / error, freedom)
    p = np.where(error > 0, p, np.where(n > 1, (mean == 0).astype(float), np.nan))
    return mean, mean - half, mean + half, p


def paired(rows: pd.DataFrame, metric: str, by: list[str], *, test_share: float = TEST_SHARE) -> pd.DataFrame:
    """Return soft minus hard in a metric with its corrected interval, one row a cell.

    Parameters
    ----------
    rows : pandas.DataFrame
        One row a run, with ``labels``, ``split``, the metric and the columns `by`.
    metric : str
        A column.
    by : list of str
        Columns that make up a cell, at least one.
    test_share : float
        See `corrected_t`.

    Returns
    -------
    pandas.DataFrame
        The columns `by`, then ``hard`` and ``soft`` (means over the splits), ``mean`` (of soft minus hard), ``sd``
        (over the splits), ``low``, ``high``, ``p``, ``n``, the splits that have both arms, and ``detectable``, the
        smallest mean that would have been shown at this spread, half the interval's width. A cell in which no split has
        both arms is left out. With a single split all but the means are NaN.
    """
    arms = rows.pivot(index=[*by, "split"], columns="labels", values=metric).reindex(columns=["hard", "soft"]).dropna()
    arms["difference"] = arms["soft"] - arms["hard"]
    cells = arms.groupby(level=by, sort=True)
    table = cells[["hard", "soft"]].mean()
    table["mean"], table["sd"], n = cells["difference"].mean(), cells["difference"].std(), cells.size()
    _, table["low"], table["high"], table["p"] = intervals(table["mean"], table["sd"].fillna(0.0), n, test_share)
    table = table.assign(n=n, detectable=(table["high"] - table["low"]) / 2)
    return table.rename_axis(columns=None).reset_index()


def holm(p) -> np.ndarray:
    """Return p values adjusted for looking at all of them (Holm 1979): float64 (M,), NaN where p is NaN.

    The k-th smallest of M is multiplied by M - k + 1 and is never below a smaller one's: 0.01, 0.04
    and 0.03 become 0.03, 0.06 and 0.06.
    """
    p = np.asarray(p, np.float64)
    adjusted, known = np.full(p.shape, np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factor = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factor * p[order]), 1.0)
    return adjusted


def least_shown(n_splits: int, n_cells: int, *, test_share: float = TEST_SHARE) -> float:
    """Return how many of its standard deviations over the splits a difference must have to be shown.

    That is where the corrected test of the surest of so many cells reaches 5 % after Holm's correction. Five
    splits and one cell need 2.03, three splits and ten cells 11.50.
    """
    from scipy import stats

    return float(stats.t.ppf(1 - 0.05 / 2 / n_cells, n_splits - 1) * np.sqrt(1 / n_splits + test_share))
