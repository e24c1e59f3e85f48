"""What two grids of runs answer: when soft labels help, and how many annotations are enough.

Estimators take the rows of a grid, one a run, and return tables; every interval is the corrected one
over the splits. `grid_pages` says in words what they find, and `plots` draws it.
"""

import numpy as np
import pandas as pd

from beyond_hard_labels.book import report
from beyond_hard_labels.data.sets import SYNTHETIC
from beyond_hard_labels.data.votes import LABEL_KINDS
from beyond_hard_labels.learn import significance

SIGNS = {"macro_accuracy": 1, "kl": -1}  # of a change for the better
MARGINS = {"macro_accuracy": 0.01, "kl": 0.05}  # a difference that a campaign may care for; KL in nats
NAMES = {"macro_accuracy": "macro accuracy", "kl": "KL"}
SETS = {SYNTHETIC: "the synthetic set", "fashion_mnist_h": "Fashion-MNIST-H", "cifar10h": "CIFAR-10H"}
LEVEL = 0.05  # of the tests, after Holm's correction over the cells of a table
_SETTINGS = {  # what may differ between cells, and its words
    "dataset": "{}",
    "backbone": "backbone {}",
    "epochs": "{} epochs",
    "train_share": "{} % of images",
    "votes_per_image": "{} votes an image",
    "label_smoothing": "smoothing {}",
    "class_weights": "class weights",
    "augment_colour": "colour jitter",
    "schedule": "{} schedule",
    "learning_rate": "learning rate {}",
    "weight_decay": "weight decay {}",
    "decay": "{} decay",
    "ties": "ties {}",
}
_USUAL = ("backbone", "schedule", "ties")
_WITH_SCHEDULE = ("learning_rate", "weight_decay", "decay")  # change with it between "as written" and "as run"


def settings(rows: pd.DataFrame) -> list[str]:
    """Return the columns of rows that make a cell: all settings of a run but labels and split."""
    return [name for name in _SETTINGS if name in rows]


def differing(table: pd.DataFrame) -> list[str]:
    """Return the settings that are not the same in all rows; a schedule stands for what changes with it."""
    names = [name for name in settings(table) if table[name].nunique() > 1]
    return [name for name in names if "schedule" not in names or name not in _WITH_SCHEDULE]


def cell_names(table: pd.DataFrame) -> list[str]:
    """Return a name for each row of a table of cells, made of the settings that differ between them."""
    names = differing(table) or ["epochs"]
    if "dataset" in names:  # it stands for what is the same wherever it is
        within = table.groupby("dataset")
        names = [name for name in names if name == "dataset" or (within[name].nunique() > 1).any()]
    usual = {name: table[name].mode()[0] for name in names if name in _USUAL}  # goes without saying
    if len(names) > 1:
        usual |= {"train_share": 1.0}
    rows = [
        [setting(name, row[name]) for name in names if row[name] != usual.get(name)] for row in table.to_dict("records")
    ]
    return [", ".join(filter(None, texts)) or "as most others" for texts in rows]


def setting(name: str, value) -> str:
    """Return a setting of a cell in words; what is off has none."""
    if isinstance(value, bool | np.bool_) and not value:
        return ""
    words = _SETTINGS[name]
    if name == "train_share":
        value = f"{100 * value:.0f}"
    if name == "dataset":
        value = SETS.get(value, value)
    if value == 1:
        words = words.replace("votes", "vote").replace("epochs", "epoch")
    return words.format("all" if (name, value) == ("votes_per_image", 0) else value).replace("_", " ")


def gaps(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return soft minus hard of a metric, a row a cell that has both arms.

    Parameters
    ----------
    rows : pandas.DataFrame
        One row a run, see `grids.rows`; a run may stand in it twice, as part of two parts.
    metric : str
        A key of `SIGNS`.

    Returns
    -------
    pandas.DataFrame
        Those of `significance.paired`, with the settings as cells; ``holm``, p after Holm's correction
        over all cells; ``outcome``: soft, hard, none (no difference is shown) or unknown (one split).
    """
    table = significance.paired(rows.drop_duplicates("key"), metric, settings(rows))
    holm = significance.holm(table["p"])
    better = np.where(SIGNS[metric] * table["mean"] > 0, "soft", "hard")
    return table.assign(holm=holm, outcome=np.select([table["p"].isna(), holm < LEVEL], ["unknown", better], "none"))


def _wide(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a metric with a row a cell and split, and a column an arm."""
    once = rows.drop_duplicates("key")
    return once.pivot(index=[*settings(rows), "split"], columns="labels", values=metric)


def _intervals(differences: pd.Series) -> pd.DataFrame:
    """Return the corrected interval of values over the last level of their index, which is the split."""
    by = list(differences.index.names[:-1])
    frame = differences.rename("value").reset_index()
    found = [
        (*cell, *significance.corrected_t(part["value"]), len(part)) for cell, part in frame.groupby(by, sort=True)
    ]
    return pd.DataFrame(found, columns=[*by, *significance.Interval._fields, "n"])


def rivals(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how much of the hard arm's excess KL goes away without soft labels, a row a cell and rival.

    The excess is the hard arm's KL minus the soft arm's, a split at a time; a rival that reaches the
    soft arm removes all of it, a share of 1. Cells whose mean excess is below the margin have nothing to
    share out and are left out. Rivals are a temperature fitted to the hard validation
    labels, one fitted to the soft truth, which who has hard labels only has not, and label smoothing of
    the hard targets.

    Returns
    -------
    pandas.DataFrame
        The settings, ``rival``, ``kl`` (its mean), and mean, low, high, p and n of the share.
    """
    once = rows.drop_duplicates("key")
    plain, found = once[once["label_smoothing"] == 0], []
    hard, soft = (_wide(plain, "kl").get(arm, pd.Series(dtype=float)) for arm in LABEL_KINDS)
    wides = {
        "temperature by hard labels": _wide(plain, "kl_scaled").get("hard"),
        "temperature by soft truth": _wide(plain, "kl_scaled_truth").get("hard"),
    }
    for amount, part in once[(once["label_smoothing"] > 0) & (once["labels"] == "hard")].groupby("label_smoothing"):
        wides[f"label smoothing {amount:g}"] = _wide(part.assign(label_smoothing=0.0), "kl")["hard"]
    by = settings(rows)
    excess = hard - soft
    excess = excess[excess.groupby(by).transform("mean") > MARGINS["kl"]] if len(excess) else excess
    for name, kl in wides.items():
        share = pd.Series(dtype=float) if kl is None else ((hard - kl) / excess).dropna()
        if share.empty:
            continue
        means = kl[share.index].groupby(by).mean().rename("kl").reset_index()
        found.append(_intervals(share).assign(rival=name).merge(means, on=by))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def nearest(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the cells on the synthetic set by how near they come to the paper's row of Table 1, nearest first.

    The distance is the root mean square of four differences of means, each in units of the paper's
    standard deviation over its splits. The paper's hard KL is compared with that against the soft truth
    and with that against the one-hot majority, and the nearer counts.

    Returns
    -------
    pandas.DataFrame
        The settings; a column ``ARM_METRIC`` and ``ARM_METRIC_sd`` for mean and standard deviation of
        macro_accuracy, kl and kl_one_hot of both arms; ``distance`` (soft truth) and ``distance_one_hot``;
        of the nearer of both, ``within``, how many of its four numbers are within two of the paper's
        standard deviations, ``within_both``, the same where a unit is the root of the sum of the squares of
        the paper's and the cell's own, and ``farthest``, the one of the four that is the most of the paper's
        standard deviations off.
    """
    paper = report.PAPER[SYNTHETIC]
    plain = rows[(rows["dataset"] == SYNTHETIC) & (rows["label_smoothing"] == 0)].drop_duplicates("key")
    cells = plain.groupby([*settings(rows), "labels"])[["macro_accuracy", "kl", "kl_one_hot"]]
    means, spreads = cells.mean().unstack("labels").dropna(), cells.std().unstack("labels")
    means.columns = spreads.columns = [f"{arm}_{name}" for name, arm in means.columns]
    spreads = spreads.loc[means.index]
    table, found = means.join(spreads.add_suffix("_sd")), []
    for hard_kl in ("hard_kl", "hard_kl_one_hot"):
        columns = [hard_kl if pair == ("hard", "kl") else "_".join(pair) for pair in paper]
        targets, units = np.array(list(paper.values())).T
        off = np.abs(means[columns].to_numpy() - targets)
        within_both = (off <= 2 * np.hypot(units, spreads[columns].fillna(0.0))).sum(axis=1)
        distance, farthest = np.sqrt(((off / units) ** 2).mean(axis=1)), np.array(columns)[(off / units).argmax(axis=1)]
        found.append([distance, (off <= 2 * units).sum(axis=1), within_both, farthest])
    table["distance"], table["distance_one_hot"] = found[0][0], found[1][0]
    by_one_hot = table["distance_one_hot"] < table["distance"]
    for i, name in enumerate(("within", "within_both", "farthest"), 1):
        table[name] = np.where(by_one_hot, found[1][i], found[0][i])
    order = table[["distance", "distance_one_hot"]].min(axis=1).argsort(kind="stable")
    return table.reset_index().iloc[order].reset_index(drop=True)


def by_votes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows in ascending order of their votes an image, which are also the number ``m``, infinite for all."""
    ordered = rows.assign(m=rows["votes_per_image"].astype(float).replace(0, np.inf))
    return ordered.sort_values(["dataset", "m"], kind="stable")


def enough(rows: pd.DataFrame, metric: str, arm: str = "soft") -> pd.DataFrame:
    """Return what an arm loses with m votes an image against all votes, a row a set and m.

    Returns
    -------
    pandas.DataFrame
        The settings, ``m``, mean, low, high, p and n of the loss (positive: worse than with all votes),
        ``estimated``: whether the mean lies below the margin at this m and every larger one, and ``enough``:
        whether the interval does.
    """
    once = rows[rows["labels"] == arm].drop_duplicates("key")
    index = [name for name in settings(rows) if name != "votes_per_image"] + ["split"]
    values = once.pivot(index=index, columns="votes_per_image", values=metric)
    if 0 not in values:
        return pd.DataFrame()
    loss = values.drop(columns=0).rsub(values[0], axis=0) * SIGNS[metric]
    long = loss.stack().dropna().reorder_levels([*index[:-1], "votes_per_image", "split"])
    table = by_votes(_intervals(long)).sort_values([*index[:-1], "m"], kind="stable").reset_index(drop=True)
    for name, bound in (("estimated", "mean"), ("enough", "high")):
        below = (table[bound] < MARGINS[metric])[::-1]
        table[name] = below.groupby([table[n] for n in index[:-1]]).cummin()[::-1]
    return table


def thresholds(rows: pd.DataFrame, metric: str) -> dict:
    """Return at how many votes an image soft labels beat hard ones by the margin, for the rows of one set.

    Returns
    -------
    dict
        ``estimate``: the least m whose mean advantage exceeds the margin; ``low`` and ``high``, the
        bounds of its interval: the least m whose interval reaches above the margin, and the least whose
        interval lies wholly above it; None where no m does, NaN bounds counting as not. ``shown``: every
        m of the last kind, ascending.
    """
    table = by_votes(gaps(rows, metric))
    sign, margin = SIGNS[metric], MARGINS[metric]
    ends = pd.DataFrame({"a": sign * table["low"], "b": sign * table["high"]})
    least = {"estimate": sign * table["mean"], "low": ends.max(axis=1), "high": ends.min(axis=1)}
    found = {name: table["m"][(values > margin).to_numpy()].tolist() for name, values in least.items()}
    return {name: next(iter(ms), None) for name, ms in found.items()} | {"shown": found["high"]}


def budget(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return what fewer images with more votes each gain at the same number of votes, a row a set, arm and cell.

    Returns
    -------
    pandas.DataFrame
        ``labels``, the settings, ``images`` and ``level`` (means over the splits), and the interval of the
        gain over the cell of the same arm with one vote an image (positive: better; that cell itself is left
        out), which has ``base_images``.
    """
    once, found = rows.drop_duplicates("key"), []
    same = [name for name in settings(rows) if name not in ("train_share", "votes_per_image", "epochs")]
    for (labels, *_), part in once.groupby(["labels", *same]):
        base = part[part["votes_per_image"] == part["votes_per_image"].min()].set_index("split")
        others = part[part["votes_per_image"] > part["votes_per_image"].min()]
        if others.empty:
            continue
        indexed = others.set_index([*settings(rows), "split"])
        gain = SIGNS[metric] * (indexed[metric] - base[metric].reindex(others["split"]).to_numpy()).dropna()
        means = indexed.groupby(settings(rows))[["training_images", metric]].mean().reset_index()
        means = means.rename(columns={"training_images": "images", metric: "level"})
        about = {"labels": labels, "base_images": base["training_images"].mean()}
        found.append(_intervals(gain).merge(means, on=settings(rows)).assign(**about))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def change(rows: pd.DataFrame, metric: str, along: str) -> tuple[significance.Interval, float, float] | None:
    """Return how soft minus hard changes from the least to the largest value of a setting, the other one fixed.

    Parameters
    ----------
    rows : pandas.DataFrame
    metric : str
    along : str
        ``epochs``, at the largest share of the images that has several, or ``train_share``, at the largest
        number of epochs that has several.

    Returns
    -------
    tuple or None
        The interval of the change over the splits, and both values; None where there is only one.
    """
    other = {"epochs": "train_share", "train_share": "epochs"}[along]
    several = rows.groupby(other)[along].nunique() > 1
    if not several.any():
        return None
    wide = _wide(rows[rows[other] == several.index[several].max()], metric)
    frame = (wide["soft"] - wide["hard"]).rename("value").reset_index()
    by_value = frame.pivot(index="split", columns=along, values="value")
    first, last = by_value.columns.min(), by_value.columns.max()
    moved = (by_value[last] - by_value[first]).dropna()
    return significance.corrected_t(moved), first, last


def gap_lines(rows: pd.DataFrame, x: str, line: str) -> pd.DataFrame:
    """Return the difference of the arms with its interval, as `plots.error_lines` draws it: a panel a metric."""
    if rows.empty:
        return rows
    tables = [gaps(rows, metric).assign(panel=f"soft − hard, {NAMES[metric]}") for metric in SIGNS]
    table = pd.concat(tables, ignore_index=True)
    return table.assign(x=table[x], line=[setting(line, value) for value in table[line]])


def level_lines(rows: pd.DataFrame, x: str, metrics: tuple[str, ...] = tuple(SIGNS)) -> pd.DataFrame:
    """Return both arms' mean ± standard deviation over the splits, as `plots.error_lines` draws it."""
    once, tables = rows.drop_duplicates("key"), []
    for metric in metrics:
        found = once.groupby(["labels", x], sort=True)[metric].agg(["mean", "std"]).reset_index()
        ends = {"low": found["mean"] - found["std"], "high": found["mean"] + found["std"]}
        tables.append(found.assign(panel=NAMES[metric], line=found["labels"] + " labels", x=found[x], **ends))
    return pd.concat(tables, ignore_index=True)


def learning_lines(rows: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return both arms' validation scores by epoch and by examples seen, mean ± standard deviation over the splits.

    Of the longest training on each share of the images: the same number of epochs shows a larger set
    more often, and the same number of examples shows a smaller set more often.
    """
    longest = rows[rows["epochs"] == rows.groupby("train_share")["epochs"].transform("max")].drop_duplicates("key")
    joined = curves.drop_duplicates(["key", "epoch"]).merge(longest[["key", "labels", "train_share"]], on="key")
    joined["line"] = [
        f"{labels} labels, {setting('train_share', share)}"
        for labels, share in zip(joined["labels"], joined["train_share"], strict=True)
    ]
    tables = []
    for x, words in (("epoch", "by epoch"), ("examples", "by examples seen")):
        for metric in SIGNS:
            found = joined.groupby(["labels", "train_share", "line", x])[metric].agg(["mean", "std"]).reset_index()
            ends = {"low": found["mean"] - found["std"], "high": found["mean"] + found["std"]}
            tables.append(found.assign(panel=f"{NAMES[metric]}, {words}", x=found[x], **ends))
    return pd.concat(tables, ignore_index=True)


def vote_lines(rows: pd.DataFrame) -> pd.DataFrame:
    """Return both arms' scores by votes an image, and the KL of the soft labels themselves, for `plots.error_lines`."""
    if rows.empty:
        return rows
    ordered = by_votes(rows)
    floor = ordered.groupby("m", as_index=False)["label_floor"].mean().query("label_floor > 0")
    floor = floor.rename(columns={"label_floor": "mean", "m": "x"})
    floor = floor.assign(panel=NAMES["kl"], line="the labels, expected", low=floor["mean"], high=floor["mean"])
    return pd.concat([level_lines(ordered, "m"), floor], ignore_index=True)


def budget_lines(rows: pd.DataFrame) -> pd.DataFrame:
    """Return both arms' scores by votes an image at the same number of votes, for `plots.error_lines`."""
    parts = [
        level_lines(part, "votes_per_image").assign(panel=lambda t, name=name: t["panel"] + f", {SETS.get(name, name)}")
        for name, part in rows.groupby("dataset", sort=False)
    ]
    return pd.concat(parts, ignore_index=True) if parts else rows


def gap_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the difference of the arms in every cell, named, as `plots.error_rows` draws it: a panel a metric."""
    if rows.empty:
        return rows
    tables = [by_votes(gaps(rows, metric)).assign(panel=f"soft − hard, {NAMES[metric]}") for metric in SIGNS]
    return pd.concat([table.assign(row=cell_names(table)) for table in tables], ignore_index=True)
