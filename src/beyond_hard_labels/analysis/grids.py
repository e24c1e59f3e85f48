"""What the grids of runs come to: differences between any two of their settings, numbers only.

Estimators take the rows of a grid, one a run, see `runs.grids.rows`, and compare split by split, since splits share
images and settings share splits; intervals are the corrected ones unless replicates are asked for.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from beyond_hard_labels.learn.significance import TEST_SHARE, corrected_t
from beyond_hard_labels.runs.grids import VARYING

_FOUND = ("base", "level", "mean", "sd", "low", "high", "p", "n", "detectable")


def contrasts(
    rows: pd.DataFrame,
    metric: str,
    column: str,
    base: Hashable,
    by: Sequence[str] = ("dataset",),
    *,
    test_share: float = TEST_SHARE,
) -> pd.DataFrame:
    """Return how a metric at each value of a column differs from that at one value, paired by split.

    Scores of 0.5 and 0.6 at the base and of 0.7 and 0.6 at another value, on two splits, differ by 0.1.

    Parameters
    ----------
    rows : pandas.DataFrame
        One row a run, with ``split`` and the columns named here. Within a cell a split has one run a value, or
        `ValueError` is raised.
    metric, column, base
        The two columns, and the value of `column` that all others are compared with.
    by : sequence of str
        Columns that make up a cell, at least one.
    test_share : float
        See `significance.corrected_t`; 0 for replicates, which share no image.

    Returns
    -------
    pandas.DataFrame
        The columns `by` and `column`, in ascending order; ``base`` and ``level``, means of the metric at the base and
        at the value; mean, sd, low, high, p, n and ``detectable`` of the difference, as in `significance.paired`. Of a
        value that no split shares with the base there is no row.
    """
    keys = [*by, "split", column]
    if rows.duplicated(keys).any():
        others = [name for name in VARYING if name in rows and name not in keys and rows[name].nunique() > 1]
        raise ValueError(
            f"a split has several runs with the same {', '.join([*by, column])}, expected one; they differ in "
            f"{', '.join(others) or 'no setting: drop duplicates of key'}"
        )
    wide = rows.pivot(index=keys[:-1], columns=column, values=metric)
    found = []
    for value in wide.columns.drop(base, errors="ignore"):
        both = wide.reindex(columns=[base, value]).dropna()
        for cell, pair in both.groupby(level=list(by)):
            gap = pair[value] - pair[base]
            mean, low, high, p = corrected_t(gap, test_share)
            levels = (*cell, value, pair[base].mean(), pair[value].mean())
            found.append((*levels, mean, gap.std(), low, high, p, len(gap), (high - low) / 2))
    types = rows[[*by, column]].dtypes.to_dict() | dict.fromkeys(_FOUND, float) | {"n": int}
    return pd.DataFrame(found, columns=[*types]).astype(types).sort_values([*by, column], ignore_index=True)


def closed(rows: pd.DataFrame, metric: str, needed: float, by: Sequence[str] = ("dataset",)) -> pd.DataFrame:
    """Return what share of the way from one vote an image to all of them a metric has gone with some votes.

    A KL of 0.2 with one vote, 0.1 with all and 0.12 with three has gone 0.8 of it, split by split. What a model keeps
    that knows each distribution, the floor, is on both ends of the way and cancels.

    Parameters
    ----------
    rows : pandas.DataFrame
        Of one arm, with the metric, ``votes_per_image`` (0 for all), ``split`` and the columns `by`.
    needed : float
        The share that counts as enough.

    Returns
    -------
    pandas.DataFrame
        The columns `by`, ``votes_per_image``, ``share`` with its corrected interval low and high, ``n``, and
        ``enough``: whether the whole interval is at `needed` or above it, at this number of votes and at every larger
        one. One split has no interval, and shows nothing to be enough.
    """
    wide = rows.pivot(index=[*by, "split"], columns="votes_per_image", values=metric)
    wide = wide.reindex(columns=sorted({0, 1, *wide.columns}))
    way = wide.sub(wide[1], axis=0).div(wide[0] - wide[1], axis=0)  # 0 with one vote, 1 with all
    shares = way.melt(ignore_index=False, value_name="share").reset_index()
    table = contrasts(shares, "share", "votes_per_image", 1, by).query("votes_per_image > 0")
    enough = (table["low"] >= needed)[::-1]
    table["enough"] = enough.groupby([table[key] for key in by]).cummin()[::-1]
    return table.rename(columns={"mean": "share"})[[*by, "votes_per_image", "share", "low", "high", "n", "enough"]]


def rivals(rows: pd.DataFrame) -> pd.DataFrame:
    """Return both arms and what can be had without soft labels in training, one row a run and ``arm``.

    To the settings of a run, ``macro_accuracy`` and ``kl`` comes ``arm``: hard, soft; "hard, smoothed" of runs with
    label smoothing; "hard, own T" and "hard, true T" of the hard arm after scaling by a temperature that was fitted to
    the hard labels, and to the soft truth, of the validation images, which leaves the accuracy as it is.
    """
    once = rows.drop_duplicates("key", ignore_index=True)
    smoothed = once["label_smoothing"] > 0
    hard = once[~smoothed & (once["labels"] == "hard")]
    arms = [
        once[~smoothed].assign(arm=once["labels"]),
        hard.assign(arm="hard, own T", kl=hard["kl_scaled"]),
        hard.assign(arm="hard, true T", kl=hard["kl_scaled_truth"]),
        once[smoothed].assign(arm="hard, smoothed"),
    ]
    kept = [name for name in VARYING if name in rows and name != "labels"]
    return pd.concat(arms, ignore_index=True)[[*kept, "arm", "macro_accuracy", "kl"]]


def crossing(lengths: Sequence[float], gaps: Sequence[float]) -> float:
    """Return the length at which a difference falls through zero for the last time, NaN if it never does.

    Between two lengths, which ascend, the difference is taken to be linear in the logarithm of the length: 0.1 at 10
    and -0.1 at 40 cross at 20.
    """
    place, gaps = np.log(lengths), np.asarray(gaps, np.float64)
    falls = np.flatnonzero((gaps[:-1] > 0) & (gaps[1:] <= 0))
    if not falls.size:
        return float("nan")
    i = falls[-1]
    return float(np.exp(place[i] + (place[i + 1] - place[i]) * gaps[i] / (gaps[i] - gaps[i + 1])))


def at(table: pd.DataFrame, where: str = "index == index") -> pd.Series:
    """Return the numbers of the row of a table for which a condition holds, NaN where there is none.

    So a sentence can be printed of a part of a grid that is not here; of several rows it has the means.
    """
    return table.query(where).mean(numeric_only=True)
