"""The t-SNE map of a run's pooled features, and two numbers that say how far to trust it."""

import numpy as np

from beyond_hard_labels.base.errors import InputError


def tsne(features: np.ndarray, *, perplexity: float, iterations: int, seed: int = 0) -> np.ndarray:
    """Map features to the plane: float64 (N, 2).

    Of features (N, F), N greater than three times the perplexity, the effective number of neighbours. The paper
    (section 2) has a perplexity of 30 and 5,000 iterations, which are all gradient steps. Barnes-Hut with exact
    neighbours and a start from the first two principal components, with jitter by the seed, so that a map is stable
    over threads and the two arms' maps begin alike; the first 250 iterations exaggerate 12-fold, as is usual.
    """
    import openTSNE

    if len(features) <= 3 * perplexity:
        raise InputError(f"perplexity is {perplexity} for {len(features)} images, expected less than a third of them")
    exaggerated = min(250, iterations // 2)
    return np.array(
        openTSNE.TSNE(
            perplexity=perplexity,
            early_exaggeration_iter=exaggerated,
            n_iter=iterations - exaggerated,
            initialization="pca",
            neighbors="exact",
            negative_gradient_method="bh",
            random_state=seed,
            n_jobs=-1,
        ).fit(features.astype(np.float64))
    )


def trustworthiness(features: np.ndarray, plane: np.ndarray, n_neighbours: int = 10) -> float:
    """Return how many neighbours on the map are neighbours among the features, in [0, 1].

    Venna and Kaski (2001): 1 if every near point of the map is near in feature space, about 0.5 for a random map.
    """
    from sklearn.manifold import trustworthiness as sklearn_trustworthiness

    return float(sklearn_trustworthiness(features, plane, n_neighbors=n_neighbours))


def neighbour_agreement(truth: np.ndarray, plane: np.ndarray, n_neighbours: int = 10) -> float:
    """Return how alike the label distributions of neighbours on the map are, in [0, 1].

    One minus half the mean Manhattan distance between the truth of an image and that of its
    `n_neighbours` nearest on the map: 1 if neighbours share their distribution.
    """
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=n_neighbours).fit(plane).kneighbors(return_distance=False)
    return float(1 - np.abs(truth[:, None, :] - truth[near]).sum(axis=2).mean() / 2)
