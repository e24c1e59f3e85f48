"""Votes and the targets made of them.

A target is a row of a float64 (N, K) matrix that sums to 1, for hard and for soft labels alike, so
that nothing downstream asks which kind it is.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.rng import stream

LABEL_KINDS = ("hard", "soft")
TARGET_KINDS = (
    *(*LABEL_KINDS, "hard_weighted", "soft_colour", "soft_shape", "soft_shuffled", "one_vote"),
    *("dawid_skene", "dawid_skene_hard"),
)
TIE_POLICIES = ("first", "random", "split", "drop")


def simulate(truth: np.ndarray, n_votes: int, seed: int, *, noise: float = 0.0, confusion=None) -> np.ndarray:
    """Let `n_votes` annotators vote on every image: int64 ratings (N, n_votes), classes 0 to K - 1.

    Each annotator draws what it sees from the image's own distribution (ambiguity) and then reports
    it through its confusion matrix (noise).

    Parameters
    ----------
    truth : np.ndarray
        float64 (N, K), rows sum to 1.
    n_votes : int
        Annotators, at least 1; annotator a votes on every image.
    seed : int
        Seed of the draw.
    noise : float
        Probability in [0, 1] that an annotator reports a class drawn uniformly from all K instead.
    confusion : np.ndarray, optional
        float64 (n_votes, K, K), one matrix an annotator, row = class seen, column = class reported,
        rows sum to 1. Replaces `noise`.
    """
    n, k = truth.shape
    if n_votes < 1 or not 0 <= noise <= 1:
        raise InputError(f"n_votes is {n_votes} and noise {noise}, expected at least 1 and within [0, 1]")
    if confusion is None:
        confusion = np.broadcast_to((1 - noise) * np.eye(k) + noise / k, (n_votes, k, k))
    confusion = np.asarray(confusion, np.float64)
    if confusion.shape != (n_votes, k, k) or not np.allclose(confusion.sum(axis=2), 1) or confusion.min() < 0:
        found = f"{confusion.shape} with row sums {np.unique(confusion.sum(axis=-1).round(3))[:4]}"
        raise InputError(f"confusion is {found}, expected ({n_votes}, {k}, {k}) with rows that sum to 1")
    u = stream("votes", seed).random((n, n_votes, 2))  # image by image, so a longer set begins alike
    seen = _inverse_cdf(truth[:, None, :], u[:, :, 0])  # (N, A)
    return _inverse_cdf(confusion[np.arange(n_votes), seen], u[:, :, 1])


def _inverse_cdf(probabilities: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return the class whose cumulative interval holds u; a class of probability 0 is never drawn."""
    cumulative = probabilities.cumsum(axis=-1)
    cumulative = cumulative / cumulative[..., -1:]
    return (u[..., None] >= cumulative).sum(axis=-1)


def count(ratings: np.ndarray, n_classes: int) -> np.ndarray:
    """Count single ratings (N, R), -1 for absent, into votes: int64 (N, K)."""
    return np.stack(
        [(ratings == c).sum(axis=1) for c in range(n_classes)], axis=1
    )  # class by class, to keep memory flat


def tally(images, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count a long table, one row a vote: the images' names (N,), the classes (K,), votes int64 (N, K).

    Images are in the order in which they are first named, classes sorted. The votes a: x, b: y, a: x
    make the rows (2, 0) of a and (0, 1) of b.

    Parameters
    ----------
    images, labels : pandas.Series, np.ndarray or list
        Of each vote the image and the class, of one length.

    Raises
    ------
    InputError
        If a vote has no image or no label.
    """
    coded = {}
    for part, values, ordered in (("image", images, False), ("label", labels, True)):
        values = values if hasattr(values, "dtype") else pd.Series(values)
        coded[part] = codes, _ = pd.factorize(values, sort=ordered)
        if (without := np.flatnonzero(codes < 0)).size:
            raise InputError(f"{without.size} vote(s) without {part}, the first in row {without[0]}")
    (rows, names), (columns, classes) = coded.values()
    if len(rows) != len(columns):
        raise InputError(f"there are {len(rows)} images and {len(columns)} labels, expected one of each a vote")
    k = len(classes)
    counts = np.bincount(rows * k + columns, minlength=len(names) * k).reshape(len(names), k)
    return np.asarray(names), np.asarray(classes), counts


def complete_raters(ratings: np.ndarray) -> np.ndarray:
    """Return the ratings (N, R) of those raters only who labelled every image."""
    return ratings[:, (ratings >= 0).all(axis=0)]


def validate(votes, n_classes: int) -> np.ndarray:
    """Return the votes as int64 (N, K); raise if a row cannot be votes.

    Raises
    ------
    InputError
        On a wrong width, and on negative, fractional or missing (NaN) numbers and rows without any
        vote. Every kind of fault is listed with up to five of its rows.
    """
    array = np.asarray(votes)
    if array.ndim != 2 or array.shape[1] != n_classes:
        raise InputError(f"votes are {array.shape}, expected (N, {n_classes}), one column a class")
    if not np.issubdtype(array.dtype, np.number):
        raise InputError(f"votes are of type {array.dtype}, expected whole numbers")
    with np.errstate(invalid="ignore"):
        faults = {
            "not finite": ~np.isfinite(array),
            "negative": array < 0,
            "fractional": np.isfinite(array) & (array != np.floor(array)),
            "without any vote": (array == 0).all(axis=1, keepdims=True),
        }
    found = []
    for fault, cells in faults.items():
        rows = np.flatnonzero(cells.any(axis=1))
        if rows.size:
            shown = ", ".join(f"{r} {array[r].tolist()}" for r in rows[:5])
            found.append(f"{rows.size} row(s) {fault}: {shown}" + (", ..." if rows.size > 5 else ""))
    if found:
        raise InputError("votes must be whole numbers of at least 0, one vote a row at least; " + "; ".join(found))
    return array.astype(np.int64)


def draw(truth: np.ndarray, n_votes: int, seed: int) -> np.ndarray:
    """Draw votes for every image from its own distribution: int64 (N, K), rows sum to `n_votes`.

    More votes with the same seed contain the fewer: vote number j of an image is the same in both.
    `simulate` is for annotators, who also err.
    """
    cast = [_inverse_cdf(truth, stream("vote", seed, j).random(len(truth))) for j in range(n_votes)]
    return count(np.stack(cast, axis=1), truth.shape[1])


def subsample(votes: np.ndarray, n_votes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Take some of each image's votes, at random and without replacement.

    More votes with the same seed contain the fewer.

    Parameters
    ----------
    votes : np.ndarray
        int (N, K), votes per class.
    n_votes : int
        Votes to take of an image, at least 1.
    seed : int
        Seed of the order in which the votes of an image are taken.

    Returns
    -------
    tuple of np.ndarray
        The votes taken, int64 (N, K), and which images have fewer than `n_votes` and keep all, bool (N,).
    """
    n, k = votes.shape
    total = votes.sum(axis=1)
    image = np.repeat(np.arange(n), total)  # one entry a vote
    chosen = np.repeat(np.tile(np.arange(k), n), votes.ravel())
    order = np.lexsort((stream("subsample", seed).random(len(image)), image))  # votes of an image in random order
    rank = np.arange(len(image)) - np.repeat(total.cumsum() - total, total)
    taken = order[rank < n_votes]
    return np.bincount(image[taken] * k + chosen[taken], minlength=n * k).reshape(n, k), total < n_votes


class Targets(NamedTuple):
    """What a model is trained on.

    Attributes
    ----------
    rows : np.ndarray
        float64 (N, K), rows sum to 1.
    tied : np.ndarray
        bool (N,), images whose most voted classes are tied.
    keep : np.ndarray
        bool (N,), images that may be trained on; all but the tied ones under the policy ``drop``.
    short : np.ndarray or None
        bool (N,), images with fewer votes than a number that was asked for.
    weight : np.ndarray or None
        float64 (N,), how much an image counts; only ratios matter. None: all alike.
    vote_seed : int or None
        If given, each epoch trains on one vote an image, drawn anew from its row.
    """

    rows: np.ndarray
    tied: np.ndarray
    keep: np.ndarray
    short: np.ndarray | None = None
    weight: np.ndarray | None = None
    vote_seed: int | None = None

    def of_epoch(self, epoch: int) -> np.ndarray:
        """Return the rows (N, K) that an epoch, from 0, trains on; their mean over epochs approaches `rows`."""
        if self.vote_seed is None:
            return self.rows
        u = stream("vote of an epoch", self.vote_seed, epoch).random(len(self.rows))
        return np.eye(self.rows.shape[1])[_inverse_cdf(self.rows, u)]


def smooth(targets: Targets, share: float) -> Targets:
    """Spread a share of each target evenly over all classes (Szegedy et al. 2016).

    With K = 4 and a share of 0.2, (1, 0, 0, 0) becomes (0.85, 0.05, 0.05, 0.05); a share of 0 changes
    no bit.
    """
    return targets._replace(rows=(1 - share) * targets.rows + share / targets.rows.shape[1])


def shuffle(rows: np.ndarray, parts: Iterable[np.ndarray], seed: int) -> np.ndarray:
    """Deal the rows (N, K) of each part anew among its images with the same leading class."""
    u, dealt = stream("shuffled labels", seed).random(len(rows)), rows.copy()
    for part in parts:
        leading = rows[part].argmax(axis=1)
        dealt[part[np.argsort(leading, kind="stable")]] = rows[part[np.lexsort((u[part], leading))]]
    return dealt


def soft(votes: np.ndarray) -> np.ndarray:
    """Return soft labels, the mean of the votes (paper, section 2): float64 (N, K), rows sum to 1.

    Two votes for the first of three classes and one for the second give (2/3, 1/3, 0).
    """
    return votes / votes.sum(axis=1, keepdims=True)


def targets(votes: np.ndarray, labels: str, *, ties: str = "first", seed: int = 0) -> Targets:
    """Turn votes, or exact distributions, into training targets.

    Parameters
    ----------
    votes : np.ndarray
        (N, K) votes or probabilities, rows with a positive sum.
    labels : str
        ``soft``: the mean of the votes. ``hard``: the majority, one-hot (paper, section 2).
    ties : str
        What a hard label does where several classes lead, on which the paper is silent: ``first``
        takes the first in class order (as DCIC does), ``random`` draws one, ``split`` shares the row
        equally among them, ``drop`` leaves the image out of the training rows.
    seed : int
        Seed of the policy ``random``.
    """
    if labels not in LABEL_KINDS or ties not in TIE_POLICIES:
        raise InputError(f"labels '{labels}', ties '{ties}': expected one of {LABEL_KINDS} and {TIE_POLICIES}")
    leading = votes == votes.max(axis=1, keepdims=True)  # (N, K)
    tied = leading.sum(axis=1) > 1
    keep = np.ones(len(votes), bool)
    if labels == "soft":
        return Targets(soft(votes), tied, keep)
    if ties == "split":
        return Targets(leading / leading.sum(axis=1, keepdims=True), tied, keep)
    rank = leading.astype(np.float64)
    if ties == "random":
        rank *= 1 + stream("ties", seed).random(leading.shape)
    return Targets(np.eye(votes.shape[1])[rank.argmax(axis=1)], tied, ~tied if ties == "drop" else keep)
