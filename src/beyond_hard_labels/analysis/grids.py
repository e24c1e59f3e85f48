"""What the grids of runs come to: differences between any two of their settings, numbers only.

Estimators take the rows of a grid, one a run, see `runs.grids.rows`, and compare split by split, since splits share
images and settings share splits; every interval is the corrected one.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from beyond_hard_labels.learn.significance import corrected_t
from beyond_hard_labels.runs.grids import VARYING

_FOUND = ("base", "level", "mean", "sd", "low", "high", "p", "n", "detectable")


def contrasts(
    rows: pd.DataFrame, metric: str, column: str, base: Hashable, by: Sequence[str] = ("dataset",)
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
            mean, low, high, p = corrected_t(gap)
            levels = (*cell, value, pair[base].mean(), pair[value].mean())
            found.append((*levels, mean, gap.std(), low, high, p, len(gap), (high - low) / 2))
    types = rows[[*by, column]].dtypes.to_dict() | dict.fromkeys(_FOUND, float) | {"n": int}
    return pd.DataFrame(found, columns=[*types]).astype(types).sort_values([*by, column], ignore_index=True)


def enough(rows: pd.DataFrame, margin: float, by: Sequence[str] = ("dataset",)) -> pd.DataFrame:
    """Return by what factor the KL with some votes an image exceeds that with all, and where that is little enough.

    The factor is of the KL above the floor, which no model can go below, and a geometric mean over the splits: a KL of
    0.06 where all votes give 0.05, above a floor of 0.01, is a factor of 1.25.

    Parameters
    ----------
    rows : pandas.DataFrame
        Of one arm, with ``kl``, ``floor``, ``votes_per_image`` (0 for all), ``split`` and the columns `by`.
    margin : float
        What is little enough: 0.25 for a quarter more than with all votes.

    Returns
    -------
    pandas.DataFrame
        The columns `by`, ``votes_per_image``, ``factor`` with its interval low and high, ``n``; ``estimated`` and
        ``enough``: whether the factor, and whether the whole interval, is within the margin at this number of votes and
        at every larger one. One split has no interval, and shows nothing to be enough.
    """
    excess = rows.assign(log_excess=np.log(rows["kl"] - rows["floor"]))
    table = contrasts(excess, "log_excess", "votes_per_image", 0, by)
    table[["factor", "low", "high"]] = np.exp(table[["mean", "low", "high"]])
    for name, bound in (("estimated", "factor"), ("enough", "high")):
        below = (table[bound] < 1 + margin)[::-1]
        table[name] = below.groupby([table[key] for key in by]).cummin()[::-1]
    return table[[*by, "votes_per_image", "factor", "low", "high", "n", "estimated", "enough"]]


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


def at(table: pd.DataFrame, where: str = "index == index") -> pd.Series:
    """Return the numbers of the row of a table for which a condition holds, NaN where there is none.

    So a sentence can be printed of a part of a grid that is not here; of several rows it has the means.
    """
    return table.query(where).mean(numeric_only=True)
