"""What runs come to: one row a run, numbers only."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from beyond_hard_labels.learn.metrics import METRICS, Metric, reliability_bins
from beyond_hard_labels.learn.significance import paired
from beyond_hard_labels.runs.store import CURVES, Run


def scores(runs: list[Run], metrics: Mapping[str, Metric] = METRICS) -> pd.DataFrame:
    """Return one row a run: ``labels``, ``split``, ``run``, and each metric on its test images.

    They are computed now from the stored predictions. Of published runs whose truth may not come along they are
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


def loss_parts(runs: list[Run]) -> pd.DataFrame:
    """Return the loss on the pure validation images of the synthetic set, in its parts of colour and of shape.

    A class is a colour and a shape, so the cross-entropy is that of the colours and, given the colour, that of the
    shapes. The label of a pure image is its class in both arms; who guesses its shape has a loss of ln 2 in that.

    Returns
    -------
    pandas.DataFrame
        One row an epoch of a run: ``labels``, ``split``, ``epoch``, ``colour`` and ``shape``, means in nats. Published
        runs, which come without the predictions of each epoch, have no row.
    """
    found = []
    for run in (run for run in runs if not run.published):
        truth = run.stored("validation_truth")
        pure, leading = truth.max(axis=1) == 1, truth.argmax(axis=1)
        for epoch, logits in enumerate(run.stored("validation_logits", CURVES)[:, pure].astype(np.float64), 1):
            logits = logits.reshape(-1, 3, 2)  # image, colour, shape
            colours = np.logaddexp(*np.moveaxis(logits, 2, 0))  # (N, 3)
            row, (colour, shape) = np.arange(pure.sum()), np.divmod(leading[pure], 2)
            in_colour = np.logaddexp.reduce(colours, axis=1) - colours[row, colour]
            in_shape = colours[row, colour] - logits[row, colour, shape]
            found.append((run.spec.labels, run.spec.split, epoch, in_colour.mean(), in_shape.mean()))
    return pd.DataFrame(found, columns=["labels", "split", "epoch", "colour", "shape"])


def epochs_to(table: pd.DataFrame, thresholds: Sequence[float], metric: str = "macro_accuracy") -> pd.DataFrame:
    """Return the first epoch at which a metric of `curves` is at least a threshold, missing where none is.

    Validation accuracies of 0.5, 0.8, 0.7 and 0.9 reach 0.8 at epoch 2.

    Returns
    -------
    pandas.DataFrame
        ``threshold``, ``split``, then ``hard`` and ``soft``, as far as the curves have them.
    """
    reached = [
        table.assign(threshold=least, epoch=table["epoch"].where(table[metric] >= least)) for least in thresholds
    ]
    first = pd.concat(reached).groupby(["threshold", "split", "labels"])["epoch"].min().astype("Int64")
    return first.unstack("labels").rename_axis(columns=None).reset_index()


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
        truth, predicted = np.concatenate([run.truth for run in own]), np.concatenate([run.predicted for run in own])
        leading = np.eye(truth.shape[1])[truth.argmax(axis=1)]
        for against, rows in (("soft truth", truth), ("one-hot truth", leading)):
            bins = pd.DataFrame(reliability_bins(rows, predicted)._asdict())
            tables.append(bins[bins["size"] > 0].assign(labels=arm, against=against))
    return pd.concat(tables, ignore_index=True)


def differences(rows: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Return soft minus hard in each metric, see `significance.paired`; one row a metric."""
    return pd.concat([paired(rows.assign(metric=name), name, ["metric"]) for name in metrics]).set_index("metric")


def better(gaps: pd.DataFrame, metrics: Mapping[str, Metric] = METRICS) -> set[tuple[str, str]]:
    """Return the (arm, metric) pairs that a table of `differences` shows to be the better ones.

    That is where the interval excludes zero: never with a single split, a tie, or a metric of which neither
    side is better.
    """
    shown = gaps.loc[(gaps["low"] > 0) | (gaps["high"] < 0), "mean"]
    signed = {name: metrics[name].better * mean for name, mean in shown.items() if name in metrics}
    return {("soft" if mean > 0 else "hard", name) for name, mean in signed.items() if mean}
