"""What predictions are worth to who decides by them: what to leave to a person, and which classes to name."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from beyond_hard_labels.learn.metrics import softmax
from beyond_hard_labels.runs.store import Run

COVERAGES = tuple(np.arange(1, 21) / 20)


def risk_and_coverage(runs: list[Run], coverages: Sequence[float] = COVERAGES) -> pd.DataFrame:
    """Return the risk of deciding only where a run is surest, one row a run and a coverage.

    Parameters
    ----------
    runs : list of Run
        With their truth.
    coverages : sequence of float
        Shares of the test images that are decided, in (0, 1], those of the highest confidence.

    Returns
    -------
    pandas.DataFrame
        ``labels``, ``split``, ``coverage``; of the images that are decided ``wrong``, the share whose predicted
        class is not the one that leads, and ``disagreement``, the probability that an annotator says another class.
    """
    rows = []
    for run in runs:
        guess = run.predicted.argmax(axis=1)
        order = np.argsort(-run.predicted.max(axis=1), kind="stable")
        wrong = (guess != run.truth.argmax(axis=1))[order]
        disagreement = (1 - run.truth[np.arange(len(guess)), guess])[order]
        for coverage in coverages:
            n = max(1, round(coverage * len(order)))
            rows.append((run.spec.labels, run.spec.split, coverage, wrong[:n].mean(), disagreement[:n].mean()))
    return pd.DataFrame(rows, columns=["labels", "split", "coverage", "wrong", "disagreement"])


def prediction_sets(runs: list[Run], target: float = 0.9) -> pd.DataFrame:
    """Return how large sets of classes must be to hold a target share of the votes, one row a run.

    A set holds the classes whose predicted probability is at least a threshold; the threshold is set on the
    validation images so that their sets hold the target share of the votes that annotators would give, as in
    Monte Carlo conformal prediction (Stutz et al. 2023), with the distribution in place of votes drawn from it.

    Returns
    -------
    pandas.DataFrame
        ``labels``, ``split``; on the test images ``size``, classes a set on average; ``coverage``, the share of the
        votes that the sets hold, of all images and of ``pure`` and ``ambiguous`` ones; ``threshold``.
    """
    rows = []
    for run in runs:
        logits, truth = run.stored("validation_logits"), run.stored("validation_truth")
        threshold = weighted_quantile(softmax(logits).ravel(), truth.ravel(), 1 - target)
        held = run.predicted >= threshold
        coverage, pure = (run.truth * held).sum(axis=1), run.truth.max(axis=1) == 1
        shares = (coverage[part].mean() if part.any() else np.nan for part in (pure | True, pure, ~pure))
        rows.append((run.spec.labels, run.spec.split, held.sum(axis=1).mean(), *shares, threshold))
    return pd.DataFrame(rows, columns=["labels", "split", "size", "coverage", "pure", "ambiguous", "threshold"])


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Return the largest of some values below which lies at most a share of their weight.

    Of 1, 2 and 3 with the weights 0.2, 0.3 and 0.5 it is 2 for a share of 0.3.
    """
    order = np.argsort(values, kind="stable")
    below = np.concatenate([[0.0], weights[order].cumsum()[:-1]]) / weights.sum()
    return float(values[order][below <= share + 1e-12][-1])
