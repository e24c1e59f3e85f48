"""A run trained once more and held against the stored one."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_hard_labels.runs import execute, store

TOLERANCES = {"macro_accuracy": 0.02, "kl": 0.02}


def compare(run: store.Run, tolerances: dict[str, float]) -> tuple[pd.DataFrame, bool, bool]:
    """Train a run's spec again, beside the store, and hold the two against each other.

    Parameters
    ----------
    run : Run
    tolerances : dict of str to float
        The largest difference that counts as the same result, by metric. The defaults stand for
        another device, other versions or another number of threads; otherwise results are equal.

    Returns
    -------
    tuple
        One row a metric; whether all differences are within their tolerances; whether the predictions
        are equal to the last bit.
    """
    with tempfile.TemporaryDirectory() as folder:
        again = execute.execute(run.spec, folder=Path(folder))
    rows = [
        {
            "metric": name,
            "stored": run.metrics[name],
            "again": again.metrics[name],
            "difference": again.metrics[name] - run.metrics[name],
            "tolerance": tolerance,
        }
        for name, tolerance in tolerances.items()
    ]
    table = pd.DataFrame(rows)
    within = bool((table["difference"].abs() <= table["tolerance"]).all())
    return table, within, np.array_equal(again.predicted, run.predicted)
