"""Sets with the votes of people, and runs on them, as numbers."""

import numpy as np
import pandas as pd

from beyond_hard_labels.data import votes
from beyond_hard_labels.data.images import LabelledImages
from beyond_hard_labels.learn.metrics import entropy
from beyond_hard_labels.runs.store import Run


def describe(data: LabelledImages) -> dict[str, float]:
    """Return what a set with votes holds: sizes, votes an image, ties, and how far its annotators agree.

    ``tied`` and ``unanimous`` are shares of the images, ``entropy`` is the mean over images of that of the
    votes' shares, in nats; ``raters`` is the number of single raters, NaN where they are not known.
    """
    cast = data.votes.sum(axis=1)
    return {
        "images": len(data.ids),
        "classes": len(data.class_names),
        "pixels": data.images.shape[-1],
        "votes": int(cast.sum()),
        "least": int(cast.min()),
        "most": int(cast.max()),
        "raters": np.nan if data.ratings is None else data.ratings.shape[1],
        "tied": votes.targets(data.votes, "hard").tied.mean(),
        "unanimous": (data.truth.max(axis=1) == 1).mean(),
        "entropy": entropy(data.truth).mean(),
    }


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
        row |= {name: run.metrics[name] for name in ("macro_accuracy", "kl")}
        fitted = run.temperatures()
        row["T_own"], row["kl_T_own"] = fitted["own targets"]
        row["T_truth"], row["kl_T_truth"] = fitted["soft truth"]
        floors = run.floors()
        row |= {"floor": floors["analytic"], "floor_halves": floors["halves"]}
        official = run.official_accuracy()
        rows.append(row | {"official": np.nan if official is None else official})
    return pd.DataFrame(rows)
