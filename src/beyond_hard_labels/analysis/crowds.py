"""What becomes of the votes of annotators who err, before anything is trained."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from beyond_hard_labels.data import annotators, votes
from beyond_hard_labels.learn.metrics import entropy, kl, macro_accuracy


def crowd_labels(
    truth: np.ndarray, settings: Iterable[tuple], seeds: Iterable[int], models: Iterable[str] = ("dawid_skene",)
) -> pd.DataFrame:
    """Return how far labels made of the votes of a crowd are from the exact truth, one row a kind of label.

    Parameters
    ----------
    truth : np.ndarray
        float64 (N, K), the images' exact distributions.
    settings : iterable of tuple
        ``crowd``, ``noise`` and ``votes`` an image, see `annotators.ratings`.
    seeds : iterable of int
        Of the votes.
    models : iterable of str
        Of `annotators.MODELS`.

    Returns
    -------
    pandas.DataFrame
        ``crowd``, ``noise``, ``votes``, ``seed``; ``label``, which is mean, majority, a model's name (its belief)
        or that with "argmax"; ``macro_accuracy`` of its largest entry; ``kl`` and mean ``entropy`` in nats.
    """
    rows, k = [], truth.shape[1]
    for crowd, noise, n_votes in settings:
        for seed in seeds:
            given = annotators.ratings(truth, n_votes, crowd, noise, seed)
            cast = votes.count(given, k)
            made = {"mean": votes.soft(cast), "majority": votes.targets(cast, "hard", ties="random", seed=seed).rows}
            for model in models:
                made[model] = annotators.aggregate(given, model, k)
                made[f"{model}, argmax"] = np.eye(k)[made[model].argmax(axis=1)]
            for label, found in made.items():
                scores = (macro_accuracy(truth, found), kl(truth, found), entropy(found).mean())
                rows.append((crowd, noise, n_votes, seed, label, *scores))
    return pd.DataFrame(rows, columns=["crowd", "noise", "votes", "seed", "label", "macro_accuracy", "kl", "entropy"])


def errors_found(truth: np.ndarray, settings: Iterable[tuple], seeds: Iterable[int]) -> pd.DataFrame:
    """Return how often Dawid and Skene's model says that an annotator erred, beside how often each did.

    Returns
    -------
    pandas.DataFrame
        ``crowd``, ``noise``, ``votes``, ``seed``, ``annotator``; ``errors``, the mean over the classes of the
        probability that another class is reported than was seen; ``found``, the same of the model's matrices.
    """
    tables, k = [], truth.shape[1]
    for crowd, noise, n_votes in settings:
        real = annotators.confusions(crowd, noise, k)
        for seed in seeds:
            found = annotators.dawid_skene_confusions(annotators.ratings(truth, n_votes, crowd, noise, seed), k)
            errors, found = (1 - each.diagonal(axis1=1, axis2=2).mean(axis=1) for each in (real, found))
            setting = {"crowd": crowd, "noise": noise, "votes": n_votes, "seed": seed}
            tables.append(pd.DataFrame({**setting, "annotator": range(len(errors)), "errors": errors, "found": found}))
    return pd.concat(tables, ignore_index=True)
