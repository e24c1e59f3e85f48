"""Simulated annotators who err, and models that tell from their votes who errs how, and what is true.

An annotator first sees a class, drawn from the image's own distribution: that is ambiguity, and no mistake.
What it then reports goes through its confusion matrix: that is noise. Both are known here by construction.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.rng import stream
from beyond_hard_labels.data import votes

POOL = 20  # annotators who share the images
CROWDS = ("exact", "uniform", "one_sided", "spammers")  # exact: nobody errs
MODELS = ("dawid_skene", "glad", "mace")


def confusions(crowd: str, rate: float, n_classes: int) -> np.ndarray:
    """Return the confusion matrix of each annotator: float64 (POOL, K, K), row = class seen, column = reported.

    Parameters
    ----------
    crowd : str
        ``uniform``: who errs reports one of the other classes at random. ``one_sided``: who errs reports the
        class before it in place of every second one, an ellipse as a circle. ``spammers``: every fifth
        annotator reports any class, whatever it sees, and the others err as in ``uniform``. ``exact``: nobody.
    rate : float
        Probability of an error in [0, 1].
    n_classes : int
        K, at least 2.
    """
    errs = np.full((n_classes, n_classes), 1 / (n_classes - 1)) * (1 - np.eye(n_classes))
    if crowd == "one_sided":
        errs = np.eye(n_classes)
        second = np.arange(1, n_classes, 2)
        errs[second, second], errs[second, second - 1] = 0.0, 1.0
    one = np.eye(n_classes) if crowd == "exact" else (1 - rate) * np.eye(n_classes) + rate * errs
    matrices = np.repeat(one[None], POOL, axis=0)
    if crowd == "spammers":
        matrices[::5] = 1 / n_classes
    return matrices


def ratings(truth: np.ndarray, n_votes: int, crowd: str, rate: float, seed: int) -> np.ndarray:
    """Let `n_votes` of the pool, drawn for each image, vote on it: int64 (N, POOL), -1 where one did not vote.

    More votes with the same seed contain the fewer.
    """
    given = votes.simulate(truth, POOL, seed, confusion=confusions(crowd, rate, truth.shape[1]))
    turn = stream("turns", seed).random(given.shape).argsort(axis=1).argsort(axis=1)
    return np.where(turn < n_votes, given, -1)


def aggregate(given: np.ndarray, model: str, n_classes: int) -> np.ndarray:
    """Return what a model of annotators believes of each image: float64 (N, K), rows sum to 1.

    Each of them presumes that an image has one true class. Those of crowd-kit are used, with its names.

    Parameters
    ----------
    given : np.ndarray
        int (N, R), -1 for absent; each image has a vote.
    model : str
        ``dawid_skene``: a confusion matrix an annotator (Dawid and Skene 1979). ``glad``: one ability an
        annotator and a difficulty an image (Whitehill et al. 2009). ``mace``: who does not know guesses
        from habits of their own (Hovy et al. 2013).
    """
    with _crowdkit() as aggregation:
        models = {
            "dawid_skene": aggregation.DawidSkene(n_iter=50),
            "glad": aggregation.GLAD(n_iter=30),
            "mace": aggregation.MACE(n_restarts=2, random_state=0),
        }
        beliefs = models[model].fit_predict_proba(long(given))
    beliefs = beliefs.reindex(index=range(len(given)), columns=range(n_classes), fill_value=0.0).to_numpy(np.float64)
    return beliefs / beliefs.sum(axis=1, keepdims=True)


def dawid_skene_confusions(given: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the confusion matrices (R, K, K) that Dawid and Skene's model finds: row = true, column = reported."""
    with _crowdkit() as aggregation:
        errors = aggregation.DawidSkene(n_iter=50).fit(long(given)).errors_  # rows (annotator, reported)
    whole = pd.MultiIndex.from_product([range(given.shape[1]), range(n_classes)])
    found = errors.reindex(index=whole, columns=range(n_classes), fill_value=0.0).to_numpy(np.float64)
    return found.reshape(given.shape[1], n_classes, n_classes).transpose(0, 2, 1)


def long(given: np.ndarray) -> pd.DataFrame:
    """Return ratings (N, R) as crowd-kit has them: one row a vote, ``task``, ``worker`` and ``label``."""
    task, worker = np.nonzero(given >= 0)
    return pd.DataFrame({"task": task, "worker": worker, "label": given[task, worker]})


@contextmanager
def _crowdkit() -> Iterator:
    """Give crowd-kit's aggregations, without its warnings of how it calls pandas."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from crowdkit import aggregation
        except ModuleNotFoundError as error:
            raise InputError("models of annotators need the package crowd-kit: pip install crowd-kit") from error
        yield aggregation
