"""What the paper sees on its maps of the synthetic set, as measures of the features themselves.

A map moves what it shows, so a statement about features is held against the features: one number for each
of the four that the paper's discussion of its Figure 1 makes.
"""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd

from beyond_hard_labels.base.rng import stream
from beyond_hard_labels.data import shapes
from beyond_hard_labels.runs.inputs import images_of
from beyond_hard_labels.runs.store import Run

MOST_IMAGES = 1500  # of the test images
NEIGHBOURS = 10
LEAST_CLUSTERS = (10, 20, 40, 80)  # images that a group must have to count as a cluster
RING_IMAGES = 300  # ambiguous images whose shape is looked at; the time grows with their cube


def structures(runs: list[Run]) -> pd.DataFrame:
    """Return the measures of `structure` for the features of runs on the synthetic set, one row a run.

    Beside the arms, ``features`` names two baselines of each split: ``untrained``, the features of the network
    before its first step, and ``pixels``, the first 50 principal components of the images. ``split`` comes next.
    Published runs, which come without features, have no row.
    """
    from sklearn.decomposition import PCA

    tables = []
    for split in sorted({run.spec.split for run in runs if not run.published}):
        own = [run for run in runs if run.spec.split == split and not run.published]
        spec, index = own[0].spec, own[0].index[:MOST_IMAGES]
        images = images_of(spec).images[index]
        spaces = {run.spec.labels: run.features[:MOST_IMAGES] for run in own}
        spaces["untrained"] = untrained(spec, images)
        flat = images.reshape(len(images), -1) / 255
        spaces["pixels"] = PCA(min(50, *flat.shape), random_state=0).fit_transform(flat)
        tables.append(structure(spaces, own[0].truth[:MOST_IMAGES]).reset_index().assign(split=split))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["features", "split"])


def by_run(runs: list[Run]) -> pd.DataFrame:
    """Return `structures` with one row a run: ``key``, its measures, and those of the baselines of its split.

    The baselines' columns have ``untrained_`` and ``pixels_`` in front. A split has one run an arm.
    """
    found, rows = structures(runs).set_index(["split", "features"]), []
    for run in runs:
        spaces = {"": run.spec.labels, "untrained_": "untrained", "pixels_": "pixels"}
        parts = [found.loc[(run.spec.split, name)].add_prefix(front) for front, name in spaces.items()]
        rows.append({"key": run.spec.key, **pd.concat(parts)})
    return pd.DataFrame(rows)


def untrained(spec, images: np.ndarray) -> np.ndarray:
    """Return the pooled features (N, F) that a run's network gives of uint8 images (N, C, H, W) before training."""
    import torch

    with warnings.catch_warnings():  # of a progress bar that a library would draw, and never does here
        warnings.simplefilter("ignore")
        from beyond_hard_labels.learn import augment, models

    model = models.build(spec, len(shapes.CLASS_NAMES), images.shape[1], spec.split).eval()
    with torch.inference_mode():
        parts = [model(augment.scale(torch.from_numpy(part)))[1] for part in np.array_split(images, 10)]
    return torch.cat(parts).numpy()


def positions(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return hue in [0, 1) and shape, from circle 0 to ellipse 1, of images by their exact truth (N, 6).

    The truth interpolates both linearly, so it says them: gc 0.25 and rc 0.75 are a hue of 1/12 on a circle.
    """
    blue, green, red = truth.reshape(-1, 3, 2).sum(axis=2).T
    return (2 * blue + green + 3 * red * (blue > 0)) / 3 % 1, truth[:, 1::2].sum(axis=1)


def structure(features: Mapping[str, np.ndarray], truth: np.ndarray) -> pd.DataFrame:
    """Return what is known of each space of features, one row a space and by its name.

    Parameters
    ----------
    features : mapping of str to np.ndarray
        Per space the features of the same images, (N, D) of any D.
    truth : np.ndarray
        float64 (N, 6), the exact truth.

    Returns
    -------
    pandas.DataFrame
        ``pure_clusters``, `own_neighbours` of the pure images; ``ring``, see `ring`, of the ambiguous ones;
        ``hue_decoded`` and ``shape_steps``, see `hue_decoded` and `steps`; and for each of `LEAST_CLUSTERS`
        the number of clusters, ``clusters_10`` and so on.
    """
    from sklearn.neighbors import NearestNeighbors

    (hue, shape), pure, rows = positions(truth), truth.max(axis=1) == 1, []
    for values in features.values():
        scaled = np.asarray(values, np.float64) / np.std(values)
        nearest = (
            NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(scaled) - 1)).fit(scaled).kneighbors(return_distance=False)
        )  # (N, 10)
        row = {
            "pure_clusters": own_neighbours(nearest, np.where(pure, truth.argmax(axis=1), -1))[pure].mean(),
            "ring": ring(scaled[~pure]),
            "hue_decoded": hue_decoded(scaled[~pure], hue[~pure]),
            "shape_steps": steps(nearest, shape)[~pure].mean(),
        }
        rows.append(row | {f"clusters_{least}": clusters(scaled, least) for least in LEAST_CLUSTERS})
    return pd.DataFrame(rows, index=pd.Index(features, name="features"))


def clusters(features: np.ndarray, least: int) -> int:
    """Return the number of groups of at least so many images that HDBSCAN finds (Campello et al. 2013)."""
    from sklearn.cluster import HDBSCAN

    if least > len(features):
        return 0
    return int(HDBSCAN(min_cluster_size=least, copy=True).fit(features).labels_.max()) + 1


def own_neighbours(nearest: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return for each image the share of its neighbours (N, k) that are of its own group: float64 (N,)."""
    return (group[nearest] == group[:, None]).mean(axis=1)


def steps(nearest: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return for each image how far its neighbours (N, k) are from its own position, on average: float64 (N,).

    Of positions drawn uniformly from 0 to 1, neighbours at random are 1/3 apart; the pure two fifths of the synthetic
    set lie at 0 and 1, 1/2 apart from the others, which makes 0.4 for neighbours of ambiguous images.
    """
    return np.abs(position[nearest] - position[:, None]).mean(axis=1)


def hue_decoded(features: np.ndarray, hue: np.ndarray) -> float:
    """Return how well the hue as a point on the circle is a linear function of the features, at most 1.

    It is the explained share of the variance of its cosine and sine under five-fold cross-validation by
    ridge regression: the order of the hues around the circle can be read off if it is near 1.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_score

    circle = np.column_stack([np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)])
    folds = KFold(5, shuffle=True, random_state=0)
    return float(cross_val_score(RidgeCV(np.logspace(-3, 3, 7)), features, circle, cv=folds).mean())


def ring(features: np.ndarray) -> float:
    """Return how far one loop of some points stands out among all their loops, in [0, 1].

    Points are joined within a growing distance, and a loop lives from the distance that closes it to the one
    that fills it (persistent homology of the Vietoris-Rips complex). The measure is 1 - second / first of the
    longest two lives: 1 for points on a circle, which have no second loop, and below 0.3 for a cloud.
    """
    import gudhi

    if len(features) > RING_IMAGES:
        features = features[np.sort(stream("points of a loop").permutation(len(features))[:RING_IMAGES])]
    edges = gudhi.RipsComplex(points=features).create_simplex_tree(max_dimension=1)
    edges.collapse_edges()
    edges.expansion(2)
    edges.compute_persistence()
    lives = np.sort(np.diff(edges.persistence_intervals_in_dimension(1), axis=1).ravel())
    first, second = [*lives[::-1], 0.0, 0.0][:2]
    return float(1 - second / first) if first else 0.0
