"""What labels made of votes are like."""

import numpy as np
import pandas as pd

from beyond_hard_labels.data.votes import TIE_POLICIES, complete_raters, count, simulate, soft, targets
from beyond_hard_labels.learn import metrics


def convergence(truth: np.ndarray, budgets: list[int], seed: int) -> pd.DataFrame:
    """Return how far labels made of m simulated votes are from the truth, one row a budget m.

    Returns
    -------
    pandas.DataFrame
        ``votes``; ``distance``, the mean squared distance of the soft label from the truth;
        ``expected``, the same worked out, mean(1 - sum p^2) / m, since votes are multinomial;
        ``wrong``, the share of images whose majority (ties to the first) is not the truth's;
        ``tied``, the share of images with a tied majority.
    """
    ratings, variance, rows = simulate(truth, max(budgets), seed), (1 - (truth**2).sum(axis=1)).mean(), []
    for budget in budgets:
        votes = count(ratings[:, :budget], truth.shape[1])
        hard, distance = targets(votes, "hard"), ((soft(votes) - truth) ** 2).sum(axis=1).mean()
        wrong = (hard.rows.argmax(axis=1) != truth.argmax(axis=1)).mean()
        rows.append((budget, distance, variance / budget, wrong, hard.tied.mean()))
    return pd.DataFrame(rows, columns=["votes", "distance", "expected", "wrong", "tied"])


def tie_policies(votes: np.ndarray, truth: np.ndarray, seed: int) -> pd.DataFrame:
    """Return what each tie policy makes of the same votes, one row a ``policy``.

    ``rows`` is the number of images left to train on, ``changed`` that of hard labels which differ
    from the policy ``first``, ``right`` the mean true probability of the label over the rows left
    whose votes are tied (NaN where none is).
    """
    first, rows = targets(votes, "hard").rows, []
    for policy in TIE_POLICIES:
        made = targets(votes, "hard", ties=policy, seed=seed)
        tied, changed = made.tied & made.keep, (made.rows != first).any(axis=1)
        right = (made.rows * truth)[tied].sum(axis=1).mean() if tied.any() else np.nan
        rows.append((policy, made.keep.sum(), changed.sum(), right))
    return pd.DataFrame(rows, columns=["policy", "rows", "changed", "right"])


def by_number(votes: np.ndarray) -> pd.DataFrame:
    """Return what the labels of images with few and with many votes are like, one row a number of votes.

    Of more than four different numbers, quarters of the images are taken together. A plain mean over a
    set gives all rows the same weight.

    Returns
    -------
    pandas.DataFrame
        ``least`` and ``most`` votes an image in the row; ``images``; ``standard_error``, the largest that
        a share of so many votes can have, 1 / (2 sqrt(m)) for the least m of the row; ``tied`` and
        ``unanimous``, shares of images; ``entropy``, the mean in nats; ``floor``, see `metrics.noise_floor`.
    """
    total = votes.sum(axis=1)
    group = total if len(set(total)) <= 4 else np.searchsorted(np.quantile(total, (0.25, 0.5, 0.75)), total)
    images = pd.DataFrame({"total": total, "tied": targets(votes, "hard").tied})
    images["unanimous"], images["entropy"] = votes.max(axis=1) == total, metrics.entropy(soft(votes))
    cells = images.groupby(group)
    rows = cells["total"].agg(least="min", most="max", images="size")
    rows["standard_error"] = 0.5 / np.sqrt(rows["least"])
    rows = rows.join(cells[["tied", "unanimous", "entropy"]].mean())
    rows["floor"] = [metrics.noise_floor(votes[group == number]) for number in rows.index]
    return rows.reset_index(drop=True)


def by_raters(ratings: np.ndarray, n_classes: int) -> pd.DataFrame:
    """Return what counting only the raters who labelled every image changes, one row a choice of ``raters``.

    ``number`` of raters, ``votes`` in all, ``tied`` images as a share; ``majority_changed`` is the share of
    images whose majority, ties to the first, is another than that of all votes; ``distance`` the mean
    Manhattan distance of the soft labels from those of all votes. Without a complete rater there is one row.
    """
    everyone, rows = count(ratings, n_classes), []
    for name, chosen in (("all", ratings), ("complete", complete_raters(ratings))):
        if not (counts := count(chosen, n_classes)).any():
            continue
        changed = (counts.argmax(axis=1) != everyone.argmax(axis=1)).mean()
        tied, distance = targets(counts, "hard").tied.mean(), metrics.manhattan(soft(everyone), soft(counts))
        rows.append((name, chosen.shape[1], counts.sum(), tied, changed, distance))
    return pd.DataFrame(rows, columns=["raters", "number", "votes", "tied", "majority_changed", "distance"])


def agreement(votes: np.ndarray, official: np.ndarray, class_names: tuple[str, ...]) -> pd.DataFrame:
    """Return how the crowd stands to the ``official`` label, one row an official class and one for ``all``.

    ``images``; ``majority_agrees`` is the share of images whose majority (ties to the first) is the official
    label, ``votes_agree`` the mean share of their votes for it. A class without images has no row.
    """
    agrees, share = votes.argmax(axis=1) == official, soft(votes)[np.arange(len(votes)), official]
    rows = pd.DataFrame({"images": official, "majority_agrees": agrees, "votes_agree": share})
    how = {"images": "size", "majority_agrees": "mean", "votes_agree": "mean"}
    found, everything = (rows.groupby(key).agg(how) for key in (official, np.full(len(votes), "all")))
    found = found.rename(index=dict(enumerate(class_names)))
    return pd.concat([found, everything]).rename_axis("official").reset_index()
