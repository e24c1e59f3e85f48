"""How often the tests of `learn.significance` find a difference that is not there, by simulation.

That is ``corrected`` and as a ``plain`` t test, at 5 %; ``error`` is the Monte-Carlo standard error of a rate of 5 %.
"""

import numpy as np

from beyond_hard_labels.base.rng import stream
from beyond_hard_labels.learn.significance import TEST_SHARE, intervals


def _rates(differences: np.ndarray) -> dict[str, float]:
    """Return the rates of differences (R, J) that are 0 on average."""
    moments = differences.mean(axis=1), differences.std(axis=1, ddof=1), differences.shape[1]
    corrected, plain = ((intervals(*moments, share)[3] < 0.05).mean() for share in (TEST_SHARE, 0.0))
    return {"corrected": float(corrected), "plain": float(plain), "error": (0.05 * 0.95 / len(differences)) ** 0.5}


def rates_at_assumption(n_splits: int, *, repeats: int = 20_000, seed: int = 0) -> dict[str, float]:
    """Return the rates where the test's own assumption holds, which makes the corrected one 5 %.

    Differences are Gaussian, and those of any two splits have the correlation n_test / (n_train + n_test).
    """
    draw = stream("assumption", seed, n_splits)
    correlation = TEST_SHARE / (1 + TEST_SHARE)
    shared, own = draw.standard_normal((repeats, 1)), draw.standard_normal((repeats, n_splits))
    return _rates(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)


def rates_in_design(
    n_splits: int, *, train_share: float = 1.0, n_images: int = 500, repeats: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Return the rates in the book's own design: random splits of one finite set, drawn anew each repeat.

    Two arms classify generated points of two classes by the nearest of two class means, each by five features of
    its own. Both sets of features are alike, so that no arm is better on average over sets of images; that one of
    them may be on the very set at hand is what its splits alone cannot rule out. `repeats` sets of `n_images` points
    are drawn, and `train_share`, in (0, 1], of the training images is used, see `images.thin`.
    """
    draw = stream("design", seed, n_splits)
    n_pool, n_test = round(0.6 * n_images), round(0.2 * n_images)
    n_train = round(train_share * n_pool)
    differences = np.empty((repeats, n_splits))
    for repeat in range(repeats):
        side = np.where(draw.random(n_images) < 0.5, -1.0, 1.0)  # the class
        x = 0.3 * side[:, None] + draw.standard_normal((n_images, 10))
        order = draw.permuted(np.tile(np.arange(n_images), (n_splits, 1)), axis=1)
        train, test = order[:, :n_train], order[:, -n_test:]
        pull = (side[train][..., None] * x[train]).mean(axis=1)  # (J, 10), half the way between the class means
        score = (x[test] * pull[:, None]).reshape(n_splits, n_test, 2, 5).sum(axis=3)
        right = ((score > 0) == (side[test][..., None] > 0)).mean(axis=1)  # (J, 2), accuracy of the two arms
        differences[repeat] = right[:, 0] - right[:, 1]
    return _rates(differences)
