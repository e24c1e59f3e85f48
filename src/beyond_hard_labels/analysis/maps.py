"""How far a map of features is to be trusted, as numbers."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from beyond_hard_labels.learn.tsne import neighbour_agreement, trustworthiness
from beyond_hard_labels.runs.store import Run


def quality(runs: list[Run], planes: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return one row a run: how well its map keeps neighbours, and how alike neighbours are.

    Of one run an arm, with its truth, and the maps (N, 2) of their test images by kind of label it has ``labels``,
    ``run``, ``trustworthiness``, ``agreement_on_map`` and ``agreement_on_features``, see `learn.tsne`. Published
    runs come without features, and have NaN for what needs them.
    """
    rows = []
    for run in runs:
        plane = planes[run.spec.labels]
        rows.append({"labels": run.spec.labels, "run": run.name, "trustworthiness": np.nan})
        rows[-1] |= {"agreement_on_map": neighbour_agreement(run.truth, plane), "agreement_on_features": np.nan}
        if not run.published:
            rows[-1]["trustworthiness"] = trustworthiness(run.features, plane)
            rows[-1]["agreement_on_features"] = neighbour_agreement(run.truth, run.features)
    return pd.DataFrame(rows)
