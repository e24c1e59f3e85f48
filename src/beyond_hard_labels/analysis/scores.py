"""What runs come to: one row a run, numbers only."""

from collections.abc import Mapping

import pandas as pd

from beyond_hard_labels.learn import significance
from beyond_hard_labels.learn.metrics import METRICS, Metric
from beyond_hard_labels.runs.store import Run


def scores(runs: list[Run], metrics: Mapping[str, Metric] = METRICS) -> pd.DataFrame:
    """Return one row a run: ``labels``, ``split``, ``run``, and each metric on its test images.

    Parameters
    ----------
    runs : list of Run
    metrics : mapping of str to Metric
        Computed now from the stored predictions. Of published runs whose truth may not come along they are
        those of the day of publishing, NaN where there is none of that name.
    """
    return pd.DataFrame(
        [{"labels": run.spec.labels, "split": run.spec.split, "run": run.name} | run.score(metrics) for run in runs]
    )


def by_arm(rows: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Return mean and standard deviation of metrics over the splits, one row a kind of label."""
    return rows.groupby("labels")[metrics].agg(["mean", "std"])


def differences(rows: pd.DataFrame, metrics: list[str], test_share: float = significance.TEST_SHARE) -> pd.DataFrame:
    """Return soft minus hard in each metric, see `significance.paired`; one row a metric."""
    tables = [
        significance.paired(rows.assign(metric=name), name, ["metric"], test_share=test_share) for name in metrics
    ]
    return pd.concat(tables).set_index("metric")


def better(gaps: pd.DataFrame) -> set[tuple[str, str]]:
    """Return the (arm, metric) pairs that a table of `differences` shows to be the better ones.

    That is where the interval excludes zero: never with a single split, a tie, or a metric of which neither
    side is better.
    """
    signs = {name: METRICS[name].better if name in METRICS else 0 for name in gaps.index}
    shown = gaps[(gaps["low"] > 0) | (gaps["high"] < 0)]
    return {
        ("soft" if signs[name] * row["mean"] > 0 else "hard", name) for name, row in shown.iterrows() if signs[name]
    }
