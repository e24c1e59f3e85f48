"""Metrics of predicted distributions.

All functions take float64 (N, K) arrays whose rows sum to 1 and return a float; `truth` is always
the soft truth unless its name says otherwise.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from beyond_hard_labels.base.rng import stream

_CLIP = 1e-5  # DCIC's; a confident miss saturates at -log(1e-5) = 11.51


def macro_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean over classes of recall, against the argmax of the soft truth (paper, section 2).

    Classes without a single image do not count. Three images of class 0 and one of class 1, all
    predicted as class 0, give 0.5.
    """
    true, guess = truth.argmax(axis=1), predicted.argmax(axis=1)
    size = np.bincount(true, minlength=truth.shape[1])
    hits = np.bincount(true[true == guess], minlength=truth.shape[1])
    present = size > 0
    return float((hits[present] / size[present]).mean())


def kl(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean KL(truth || predicted) in nats, both clipped as in the authors' code (DCIC).

    Clipping to [1e-5, 1 - 1e-5] without renormalising bounds a confident miss: truth (1, 0) and
    prediction (0, 1) give 11.5127.
    """
    return float(kl_rows(truth, predicted).mean())


def kl_rows(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the KL of each row, float64 (N,), of which `kl` is the mean."""
    y, p = np.clip(truth, _CLIP, 1 - _CLIP), np.clip(predicted, _CLIP, 1 - _CLIP)
    return (y * np.log(y / p)).sum(axis=1)


def exact_kl(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean KL(truth || predicted) in nats as defined: infinite where a true class gets 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(truth > 0, truth * np.log(truth / predicted), 0.0)
    return float(terms.sum(axis=1).mean())


def jensen_shannon(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean Jensen-Shannon divergence in nats, in [0, ln 2]; disjoint rows give ln 2."""
    middle = (truth + predicted) / 2
    return (exact_kl(truth, middle) + exact_kl(predicted, middle)) / 2


def manhattan(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean sum of absolute differences, in [0, 2]; disjoint rows give 2."""
    return float(np.abs(truth - predicted).sum(axis=1).mean())


def soft_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean share of the distribution that is predicted right, sum min(p, q), in [0, 1].

    It is 1 - `manhattan` / 2; truth (0.5, 0.5) and prediction (1, 0) give 0.5.
    """
    return float(np.minimum(truth, predicted).sum(axis=1).mean())


def brier(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean squared distance, in [0, 2]; disjoint one-hot rows give 2."""
    return float(((truth - predicted) ** 2).sum(axis=1).mean())


def calibration_error(truth: np.ndarray, predicted: np.ndarray, n_bins: int = 10) -> float:
    """Return the expected calibration error against the soft truth, in [0, 1].

    Images are binned by the confidence of their predicted class, in `n_bins` bins of equal width
    (Guo et al. 2017); within a bin the mean confidence is compared with the mean *true probability*
    of the predicted class, which a hard truth could only call right or wrong.
    """
    reliability = reliability_bins(truth, predicted, n_bins)
    share = reliability.size / len(truth)
    return float((share * np.abs(reliability.confidence - reliability.agreement))[reliability.size > 0].sum())


class Reliability(NamedTuple):
    """Per bin of confidence: images, mean confidence and mean true probability (NaN where empty)."""

    size: np.ndarray
    confidence: np.ndarray
    agreement: np.ndarray


def reliability_bins(truth: np.ndarray, predicted: np.ndarray, n_bins: int = 10) -> Reliability:
    """Return what a reliability diagram shows, one entry a bin; see `calibration_error`."""
    guess = predicted.argmax(axis=1)
    rows = np.arange(len(truth))
    confidence, agreement = predicted[rows, guess], truth[rows, guess]
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    size = np.bincount(bins, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            size,
            np.bincount(bins, confidence, n_bins) / size,
            np.bincount(bins, agreement, n_bins) / size,
        )


def entropy(rows: np.ndarray) -> np.ndarray:
    """Return the entropy of each row in nats: float64 (N,), in [0, ln K]; a one-hot row gives 0."""
    return np.where(rows > 0, -rows * np.log(np.where(rows > 0, rows, 1.0)), 0.0).sum(axis=1)


def entropy_correlation(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the Pearson correlation of true and predicted entropy, NaN if either is constant.

    It asks whether a model is unsure where the truth is ambiguous.
    """
    a, b = entropy(truth), entropy(predicted)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def one_hot_kl(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return `kl` against the one-hot majority of the truth, as the authors' code scores its hard arm."""
    return kl(np.eye(truth.shape[1])[truth.argmax(axis=1)], predicted)


class Metric(NamedTuple):
    """A metric, its words for readers, and which side is better: 1 for higher, -1 for lower, 0 for neither."""

    function: Callable[[np.ndarray, np.ndarray], float]
    words: str
    better: int


METRICS = {
    "macro_accuracy": Metric(macro_accuracy, "macro accuracy", 1),
    "kl": Metric(kl, "KL to soft truth", -1),
    "one_hot_kl": Metric(one_hot_kl, "KL to one-hot truth", 0),  # which arm should be near it is a matter of opinion
    "exact_kl": Metric(exact_kl, "KL unclipped", -1),
    "jensen_shannon": Metric(jensen_shannon, "Jensen-Shannon", -1),
    "manhattan": Metric(manhattan, "Manhattan", -1),
    "soft_accuracy": Metric(soft_accuracy, "soft accuracy", 1),
    "brier": Metric(brier, "Brier", -1),
    "calibration_error": Metric(calibration_error, "calibration error", -1),
    "entropy_correlation": Metric(entropy_correlation, "entropy correlation", 1),
}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return float64 probabilities of logits (N, K); rows sum to 1."""
    z = logits.astype(np.float64)
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the temperature T that makes softmax(logits / T) fit the truth best, within [0.05, 100].

    It minimises the cross-entropy (Guo et al. 2017) and leaves the predicted class alone. The cross-entropy is convex
    in 1 / T, so there is one minimum. Both are (N, K), of images that are not scored afterwards; rows of the truth may
    be one-hot.
    """
    from scipy import optimize, special  # here, since every process imports this module and few fit anything

    def cross_entropy(log_t: float) -> float:
        z = logits / np.exp(log_t)
        return float((special.logsumexp(z, axis=1) - (truth * z).sum(axis=1)).mean())

    found = optimize.minimize_scalar(cross_entropy, bounds=np.log((0.05, 100.0)), method="bounded")
    return float(np.exp(found.x))


def noise_floor(votes: np.ndarray) -> float:
    """Return the KL(shares of the votes || distribution) that remains for a model that knows the distribution.

    To first order it is (support - 1) / (2 m) for m votes, averaged over the images of int votes (N, K). That
    assumes that votes are independent draws from the image's own distribution, and takes the classes that got a
    vote for its support, which leaves out classes too rare to be seen. Ten votes on two classes and ten on one
    give (0.05 + 0) / 2 = 0.025.
    """
    return float((((votes > 0).sum(axis=1) - 1) / (2 * votes.sum(axis=1))).mean())


def split_half_floor(votes: np.ndarray, seed: int = 0) -> float:
    """Return the same floor as `noise_floor`, measured: how far two random halves of the votes are apart.

    The votes of each image are dealt into two halves; the mean Jensen-Shannon divergence of their shares, weighted by
    their sizes, is to first order the floor of all votes together. It needs no support, and sees what votes that are
    alike would hide; it assumes as much independence. An image with a single vote counts as 0.
    """
    draw = stream("halves", seed).multivariate_hypergeometric
    total = votes.sum(axis=1)
    half = np.array([draw(row, m // 2, method="count") for row, m in zip(votes, total, strict=True)])
    parts = [(part, part.sum(axis=1)) for part in (half, votes - half)]
    within = sum(size * entropy(part / np.maximum(size, 1)[:, None]) for part, size in parts) / total
    return float((entropy(votes / total[:, None]) - within).mean())
