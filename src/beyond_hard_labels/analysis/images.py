"""Images one by one: what a set holds, and what runs make of each of its test images."""

import numpy as np
import pandas as pd

from beyond_hard_labels.data import votes
from beyond_hard_labels.data.images import LabelledImages
from beyond_hard_labels.learn.metrics import entropy, kl_rows
from beyond_hard_labels.runs.store import Run


def by_image(runs: list[Run]) -> pd.DataFrame:
    """Return one row a test image of a run that has its truth.

    Returns
    -------
    pandas.DataFrame
        ``image``, its row in the set; ``leading``, the class that leads its soft truth, ``predicted``, and
        ``right``, whether they are one; ``confidence``, the predicted class's probability; ``margin``, the largest
        minus the second share of the truth; ``pure``, whether one class has it all; ``entropy`` of the truth; ``kl``
        in nats, see `metrics.kl`; ``overlap``, sum min(truth, prediction); ``labels``, ``split`` and ``run``.
    """
    parts = []
    for run in runs:
        truth, predicted = run.truth, run.predicted  # (N, K)
        second, first = np.sort(truth, axis=1)[:, -2:].T
        part = pd.DataFrame(
            {"image": run.index, "leading": truth.argmax(axis=1), "predicted": predicted.argmax(axis=1)}
        )
        part["right"], part["confidence"] = part["leading"] == part["predicted"], predicted.max(axis=1)
        part["margin"], part["pure"], part["entropy"] = first - second, first == 1, entropy(truth)
        part["kl"], part["overlap"] = kl_rows(truth, predicted), np.minimum(truth, predicted).sum(axis=1)
        parts.append(part.assign(labels=run.spec.labels, split=run.spec.split, run=run.name))
    return pd.concat(parts, ignore_index=True)


def spread_of_ambiguity(truth: np.ndarray, n: int) -> np.ndarray:
    """Return n rows of a truth (N, K), evenly spread from the least to the most ambiguous: int (n,)."""
    order = np.argsort(entropy(truth), kind="stable")
    return order[np.linspace(0, len(order) - 1, n).round().astype(int)]


def channel_moments(images: np.ndarray) -> pd.DataFrame:
    """Return ``mean`` and ``std`` of each channel of uint8 images (N, C, H, W) over all pixels, in [0, 1]."""
    moments = []
    for channel in np.moveaxis(images, 1, 0):  # (N, H, W), by its histogram, without a copy in floats
        share = sum(np.bincount(image.ravel(), minlength=256) for image in channel) / channel.size
        mean = share @ np.arange(256)
        moments.append((mean / 255, np.sqrt(share @ (np.arange(256) - mean) ** 2) / 255))
    names = ["red", "green", "blue"] if len(moments) == 3 else ["grey"]
    return pd.DataFrame(moments, columns=["mean", "std"], index=pd.Index(names, name="channel"))


def describe(data: LabelledImages) -> dict:
    """Return what a set holds, as plain values.

    Entropy is in nats. A set with votes has more entries: votes, also a class, votes an image, least and most, images
    with a tied lead, and agreement, see `agreement`; where raters are known, their number.
    """
    moments = channel_moments(data.images).round(4)
    sizes = np.bincount(data.truth.argmax(axis=1), minlength=len(data.class_names))
    described = {
        "name": data.name,
        "images": len(data.ids),
        "shape": list(data.images.shape[1:]),
        "channel_mean": moments["mean"].tolist(),
        "channel_std": moments["std"].tolist(),
        "majority": dict(zip(data.class_names, sizes.tolist(), strict=True)),
        "unanimous": round(float((data.truth.max(axis=1) == 1).mean()), 4),
        "mean_entropy": round(float(entropy(data.truth).mean()), 4),
    }
    if data.votes is not None:
        cast, tied = data.votes.sum(axis=1), votes.targets(data.votes, "hard").tied
        described |= {"votes_least": int(cast.min()), "votes_most": int(cast.max()), "tied": int(tied.sum())}
        described |= {"votes": int(cast.sum())} | agreement(data.votes)
        described["votes_of_class"] = dict(zip(data.class_names, data.votes.sum(axis=0).tolist(), strict=True))
    if data.ratings is not None:
        described["annotators"] = data.ratings.shape[1]
    return described


def agreement(counts: np.ndarray) -> dict[str, float | None]:
    """Return how far the votes (N, K) on one image agree; None where no image has two votes, or all say the same.

    ``pairwise_agreement`` is the share of pairs of votes on one image that are equal, mean over images;
    ``krippendorff_alpha`` is 1 - observed / expected disagreement of nominal labels (Krippendorff 2011), where each
    vote counts once: 1 if all agree, 0 if they agree as votes that are dealt out at random. Votes (2, 0) and (1, 1):
    0.5, and 1 - 0.5 / 0.5 = 0.
    """
    counts = counts[counts.sum(axis=1) > 1].astype(np.float64)
    cast, total = counts.sum(axis=1), counts.sum()
    if not len(counts):
        return {"pairwise_agreement": None, "krippendorff_alpha": None}
    equal = (counts * (counts - 1)).sum(axis=1) / (cast * (cast - 1))
    observed = ((1 - equal) * cast).sum() / total
    expected = 1 - (counts.sum(axis=0) * (counts.sum(axis=0) - 1)).sum() / (total * (total - 1))
    alpha = round(float(1 - observed / expected), 4) if expected else None
    return {"pairwise_agreement": round(float(equal.mean()), 4), "krippendorff_alpha": alpha}


def raters(ratings: np.ndarray, names: list[str]) -> pd.DataFrame:
    """Return one row a rater, of ratings (N, R), -1 for absent, the most deviant first.

    ``votes``, how many they gave, and ``agreement``, the share of those, of which others' votes lead in one class, that
    are of this class.
    """
    rows = []
    k = int(ratings.max()) + 1
    counts = votes.count(ratings, k)
    for name, own in zip(names, ratings.T, strict=True):
        rated = np.flatnonzero(own >= 0)
        others = counts[rated].copy()
        others[np.arange(len(rated)), own[rated]] -= 1
        ordered = np.sort(others, axis=1)
        clear = ordered[:, -1] > ordered[:, -2]
        agrees = others[clear].argmax(axis=1) == own[rated][clear]
        rows.append((name, len(rated), agrees.mean() if clear.any() else np.nan))
    frame = pd.DataFrame(rows, columns=["annotator", "votes", "agreement"])
    return frame.sort_values("agreement", kind="stable", ignore_index=True)


def confusion(ratings: np.ndarray, rater: int, n_classes: int) -> np.ndarray:
    """Return how often a rater, a column of (N, R), says what: int (K, K), row = the others' leading class."""
    own = ratings[:, rater]
    others = votes.count(np.delete(ratings, rater, axis=1), n_classes)
    ordered = np.sort(others, axis=1)
    clear = (own >= 0) & (ordered[:, -1] > ordered[:, -2])
    matrix = np.zeros((n_classes, n_classes), int)
    np.add.at(matrix, (others[clear].argmax(axis=1), own[clear]), 1)
    return matrix
