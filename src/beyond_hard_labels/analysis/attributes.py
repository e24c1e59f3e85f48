"""Colour and shape apart: a class of the synthetic set is a colour and a shape."""

import pandas as pd

from beyond_hard_labels.data.shapes import CLASS_NAMES
from beyond_hard_labels.runs.store import Run

COLOUR = [name[0] for name in CLASS_NAMES]
SHAPE = [name[1] for name in CLASS_NAMES]


def attributes(runs: list[Run]) -> pd.DataFrame:
    """Return one row a run on the synthetic set: the shares of test images of which an attribute is right.

    Returns
    -------
    pandas.DataFrame
        ``labels``, ``split``, ``run``, then ``colour`` and ``shape``: shares of images whose predicted class
        has the colour, or the shape, of the class that leads the truth; and ``pure`` and ``ambiguous``: shares
        of the pure images, and of the others, whose predicted class is the one that leads.
    """
    rows = []
    for run in runs:
        true, guess = run.truth.argmax(axis=1), run.predicted.argmax(axis=1)
        pure = run.truth.max(axis=1) == 1
        right = {
            name: pd.Series(values)[true].to_numpy() == pd.Series(values)[guess].to_numpy()
            for name, values in (("colour", COLOUR), ("shape", SHAPE))
        }
        shares = {name: hits.mean() for name, hits in right.items()}
        shares |= {"pure": (true == guess)[pure].mean(), "ambiguous": (true == guess)[~pure].mean()}
        rows.append({"labels": run.spec.labels, "split": run.spec.split, "run": run.name, **shares})
    return pd.DataFrame(rows)
