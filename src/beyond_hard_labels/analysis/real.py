"""Runs on sets with the votes of people, as numbers."""

import numpy as np
import pandas as pd

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
        found = run.scores()
        row = {"labels": run.spec.labels, "split": run.spec.split, "run": run.name}
        row |= {name: found["metrics"][name] for name in ("macro_accuracy", "kl")}
        row["T_own"], row["kl_T_own"] = found["temperatures"]["own targets"]
        row["T_truth"], row["kl_T_truth"] = found["temperatures"]["soft truth"]
        row |= {"floor": found["floors"]["analytic"], "floor_halves": found["floors"]["halves"]}
        rows.append(row | {"official": np.nan if found["official_accuracy"] is None else found["official_accuracy"]})
    return pd.DataFrame(rows)
