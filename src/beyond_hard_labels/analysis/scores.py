"""What runs come to: one row a run, numbers only."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from beyond_hard_labels.learn import significance
from beyond_hard_labels.learn.metrics import METRICS, Metric, pooled_reliability
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


def curves(runs: list[Run]) -> pd.DataFrame:
    """Return one row an epoch of a run: ``labels``, ``split``, ``run``, ``epoch``, and what its history holds.

    ``train_loss`` is the mean over the epoch's steps; ``loss`` (against the run's own targets), ``macro_accuracy``
    and ``kl`` (against the soft truth) are of the validation images after the epoch, as computed while it trained.
    """
    histories = {(run.spec.labels, run.spec.split, run.name): run.history for run in runs}
    return pd.concat(histories, names=["labels", "split", "run"]).reset_index(["labels", "split", "run"])


def epochs_to(table: pd.DataFrame, thresholds: Sequence[float], metric: str = "macro_accuracy") -> pd.DataFrame:
    """Return the first epoch at which a metric of `curves` is at least a threshold, missing where none is.

    Validation accuracies of 0.5, 0.8, 0.7 and 0.9 reach 0.8 at epoch 2.

    Returns
    -------
    pandas.DataFrame
        ``threshold``, ``split``, then ``hard`` and ``soft``, as far as the curves have them.
    """
    runs = table.groupby(["labels", "split"])
    first = {
        threshold: runs.apply(lambda run, at_least=threshold: run.loc[run[metric] >= at_least, "epoch"].min())
        for threshold in thresholds
    }
    table = pd.concat(first, names=["threshold"]).astype("Int64").unstack("labels")
    return table.rename_axis(columns=None).reset_index()


def reliability(runs: list[Run]) -> pd.DataFrame:
    """Return what reliability diagrams show, over the splits together: one row an arm, a truth and a bin of confidence.

    Returns
    -------
    pandas.DataFrame
        ``labels``; ``against``, ``soft truth`` or ``one-hot truth`` (all to the class that leads); and per bin
        ``size``, ``confidence`` and ``agreement``, see `metrics.reliability_bins`; empty bins are left out.
    """
    tables = []
    for arm in dict.fromkeys(run.spec.labels for run in runs):
        own = [run for run in runs if run.spec.labels == arm]
        leading = [np.eye(run.truth.shape[1])[run.truth.argmax(axis=1)] for run in own]
        for against, truths in (("soft truth", [run.truth for run in own]), ("one-hot truth", leading)):
            pairs = [(truth, run.predicted) for truth, run in zip(truths, own, strict=True)]
            bins = pd.DataFrame(pooled_reliability(pairs)._asdict())
            tables.append(bins[bins["size"] > 0].assign(labels=arm, against=against))
    return pd.concat(tables, ignore_index=True)


def by_arm(rows: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Return mean and standard deviation of metrics over the splits, one row a kind of label."""
    return rows.groupby("labels")[metrics].agg(["mean", "std"])


def differences(rows: pd.DataFrame, metrics: list[str], test_share: float = significance.TEST_SHARE) -> pd.DataFrame:
    """Return soft minus hard in each metric, see `significance.paired`; one row a metric."""
    tables = [
        significance.paired(rows.assign(metric=name), name, ["metric"], test_share=test_share) for name in metrics
    ]
    return pd.concat(tables).set_index("metric")


def better(gaps: pd.DataFrame, metrics: Mapping[str, Metric] = METRICS) -> set[tuple[str, str]]:
    """Return the (arm, metric) pairs that a table of `differences` shows to be the better ones.

    That is where the interval excludes zero: never with a single split, a tie, or a metric of which neither
    side is better.
    """
    signs = {name: metrics[name].better if name in metrics else 0 for name in gaps.index}
    shown = gaps[(gaps["low"] > 0) | (gaps["high"] < 0)]
    return {
        ("soft" if signs[name] * row["mean"] > 0 else "hard", name) for name, row in shown.iterrows() if signs[name]
    }
