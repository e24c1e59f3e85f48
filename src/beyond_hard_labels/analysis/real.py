"""Runs on sets with the votes of people, as numbers."""

import numpy as np
import pandas as pd

from beyond_hard_labels.learn.metrics import METRICS
from beyond_hard_labels.runs.store import Run


def scored(runs: list[Run]) -> pd.DataFrame:
    """Return one row a run on real votes: its scores, what a temperature makes of its KL, and the floors.

    Returns
    -------
    pandas.DataFrame
        ``labels``, ``split``, ``run``, ``macro_accuracy``, ``kl``; ``T_own`` and ``kl_T_own``, the temperature
        fitted to the run's own targets of the validation images and the test KL with it; ``T_truth`` and
        ``kl_T_truth``, the same fitted to the soft truth; ``floor`` and ``floor_halves``, the two estimates of
        the KL that would remain for a model that knew each distribution; ``official``, the macro accuracy
        against official labels, NaN where there are none.
    """
    rows = []
    for run in runs:
        row = {"labels": run.spec.labels, "split": run.spec.split, "run": run.name}
        row |= run.score({name: METRICS[name] for name in ("macro_accuracy", "kl")})
        fitted, floors, official = run.temperatures(), run.floors(), run.official_accuracy()
        row["T_own"], row["kl_T_own"] = fitted["own targets"]
        row["T_truth"], row["kl_T_truth"] = fitted["soft truth"]
        row |= {"floor": floors["analytic"], "floor_halves": floors["halves"]}
        rows.append(row | {"official": np.nan if official is None else official})
    return pd.DataFrame(rows)
