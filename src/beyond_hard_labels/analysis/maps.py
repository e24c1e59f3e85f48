"""How far a map of features is to be trusted, as numbers."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from beyond_hard_labels.learn.tsne import neighbour_agreement, trustworthiness
from beyond_hard_labels.runs.store import Run


def quality(runs: list[Run], planes: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return one row a run: how well its map keeps neighbours, and how alike neighbours are.

    Parameters
    ----------
    runs : list of Run
        One run an arm, with its truth.
    planes : mapping of str to np.ndarray
        Per kind of label the map (N, 2) of the run's test images.

    Returns
    -------
    pandas.DataFrame
        ``labels``, ``run``, ``trustworthiness`` and ``agreement_on_features`` (NaN for published runs, which
        come without features) and ``agreement_on_map``, see `learn.tsne`.
    """
    rows = []
    for run in runs:
        plane, features = planes[run.spec.labels], None if run.published else run.features
        rows.append(
            {
                "labels": run.spec.labels,
                "run": run.name,
                "trustworthiness": np.nan if features is None else trustworthiness(features, plane),
                "agreement_on_map": neighbour_agreement(run.truth, plane),
                "agreement_on_features": np.nan if features is None else neighbour_agreement(run.truth, features),
            }
        )
    return pd.DataFrame(rows)
