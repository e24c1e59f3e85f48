"""Sentences on the two grids: each has words for every outcome, and takes those that the tables of `answers` choose.

Numbers are links to the page of their grid, see `number`; so whichever way they come out, nobody has
to write a sentence anew.
"""

import numpy as np
import pandas as pd

from beyond_hard_labels.analysis import answers
from beyond_hard_labels.analysis.answers import MARGINS, SIGNS
from beyond_hard_labels.book import report
from beyond_hard_labels.data import sets
from beyond_hard_labels.data.sets import SYNTHETIC
from beyond_hard_labels.learn import significance
from beyond_hard_labels.learn.significance import Interval

_OUTCOMES = {
    "soft": "soft labels are better",
    "hard": "hard labels are better",
    "none": "no difference is shown",
    "unknown": "one split has no interval",
}
NONE = "this part of the grid is neither trained here nor published"


def number(text: str) -> str:
    """Return a number as a link to the page of its grid; `texts` puts the grid's name in."""
    return f"[{text}](#grid)"


def tally(table: pd.DataFrame) -> str:
    """Say in how many cells which arm is better, of a table of `answers.gaps`."""
    soft, hard, unknown = (int((table["outcome"] == name).sum()) for name in ("soft", "hard", "unknown"))
    if unknown == len(table):
        return f"in none of {number(len(table))} cells can a difference be shown, since one split has no interval"
    return (
        f"soft labels are shown to be better in {number(f'{soft} of {len(table)}')} cells, hard labels in "
        f"{number(hard)}, and no difference is shown in {number(len(table) - soft - hard)}"
    )


def needed(table: pd.DataFrame) -> str:
    """Say how large a difference has to be before the test shows it in one of the cells of `answers.gaps`."""
    n, cells = int(table["n"].min()), len(table)
    if n < 2:
        return "one split shows no difference, however large"
    least = significance.least_shown(n, cells)
    return (
        f"with {number(n)} splits and {number(cells)} cells, the first difference to be shown has to be "
        f"{number(f'{least:.1f}')} times its standard deviation over the splits"
    )


def holds(table: pd.DataFrame) -> str:
    """Say whether "soft labels are better" holds in the cells of a table of `answers.gaps`."""
    outcomes = set(table["outcome"])
    if outcomes <= {"unknown"}:
        return "Not decided here"
    if outcomes == {"soft"}:
        return "Holds in every cell"
    return "Holds in some cells only" if "soft" in outcomes else "Not shown in any cell"


def extremes(table: pd.DataFrame, metric: str) -> str:
    """Say in which cells the difference of the arms is the least and the most in favour of soft labels."""
    ordered = table.assign(cell=answers.cell_names(table)).sort_values(
        "mean", ascending=SIGNS[metric] > 0, kind="stable"
    )
    least, most = (f"{difference(row)} ({row['cell']})" for _, row in ordered.iloc[[0, -1]].iterrows())
    return f"from {least} to {most}"


def difference(row) -> str:
    """Format the mean of a row or an interval with its bounds."""
    row = row._asdict() if isinstance(row, Interval) else row
    if np.isnan(row["low"]):
        return number(f"{row['mean']:+.4f}") + " without an interval"
    bounds = report.bounds(Interval(row["mean"], row["low"], row["high"], np.nan))
    return number(f"{row['mean']:+.4f} {bounds}")


def by_length(table: pd.DataFrame) -> str:
    """Say at which lengths of training which arm is better, with the largest share of the images."""
    whole = table[table["train_share"] == table["train_share"].max()]
    groups = {outcome: whole["epochs"][whole["outcome"] == outcome].tolist() for outcome in _OUTCOMES}
    return "; ".join(
        f"{_OUTCOMES[name]} at {number(listed(epochs))} epochs" for name, epochs in groups.items() if epochs
    )


def listed(values: list) -> str:
    """Return numbers as a list in words; infinity is "all"."""
    texts = ["all" if np.isinf(value) else f"{value:g}" for value in values]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def changes(rows: pd.DataFrame, metric: str, along: str) -> str:
    """Say how the difference of the arms changes along a setting, see `answers.change`."""
    found = answers.change(rows, metric, along)
    if found is None:
        return "is known at one value only"
    interval, *values = found
    shown = "so no change is shown"
    if interval.low > 0 or interval.high < 0:
        shown = f"a change in favour of {'soft' if SIGNS[metric] * interval.mean > 0 else 'hard'} labels"
    first, last = (answers.setting(along, value) for value in values)
    return f"changes by {difference(interval)} from {first} to {last}, {shown}"


def removed(table: pd.DataFrame) -> str:
    """Say how much of the hard arm's excess KL each rival removes, over the cells of a table of `answers.rivals`."""
    parts = [f"{name} removes {number(_span(part['mean']))} of it" for name, part in table.groupby("rival", sort=False)]
    return ", ".join(parts) or NONE


def _span(values: pd.Series) -> str:
    low, high = f"{100 * values.min():.0f} %", f"{100 * values.max():.0f} %"
    return low if low == high else f"{low} to {high}"


def reached(table: pd.DataFrame) -> str:
    """Say whether the nearest cell of `answers.nearest` comes within two of the paper's deviations in all numbers."""
    return "Reached by a cell" if table["within"].iloc[0] == 4 else "Not reached by any cell"


def matched(table: pd.DataFrame) -> str:
    """Say which cell of `answers.nearest` comes nearest to the paper's row, how near, and what is farthest off."""
    row, least = table.iloc[0], table[["distance", "distance_one_hot"]].iloc[0].min()
    truth = "one-hot majority" if row["distance_one_hot"] < row["distance"] else "soft truth"
    arm, _, metric = row["farthest"].partition("_")
    theirs = report.PAPER[SYNTHETIC][arm, metric.removesuffix("_one_hot")]
    ours = number(report.plus_minus(row[row["farthest"]], row[f"{row['farthest']}_sd"]))
    farthest = f"{answers.NAMES[metric.removesuffix('_one_hot')]}, {ours}"
    return (
        f"the nearest cell ({answers.cell_names(table)[0]}) is {number(f'{least:.1f}')} of the "
        f"paper's standard deviations away, with the hard arm's KL against the {truth}; "
        f"{number(row['within'])} of its four numbers are within two of them, the farthest is the {arm} arm's "
        f"{farthest} where the paper has {report.plus_minus(*theirs)}, and "
        f"{number(row['within_both'])} of the four are within two of the deviations of both taken together"
    )


def enough(rows: pd.DataFrame, metric: str) -> str:
    """Say for each set how many votes an image are enough for the soft arm, see `answers.enough`."""
    parts = [f"on {set_name(name)}, {_enough(of_set, metric)}" for name, of_set in rows.groupby("dataset", sort=False)]
    return "; ".join(parts) or NONE


def set_name(name: str) -> str:
    return answers.SETS.get(name, name)


def _enough(rows: pd.DataFrame, metric: str) -> str:
    table = answers.enough(rows, metric)
    if table.empty:
        return "unknown, since all votes were not tried"
    estimated, shown = table[table["estimated"]], table[table["enough"]]
    if estimated.empty:
        return f"none of those tried ({number(listed(table['m'].tolist()))})"
    first = f"{estimated['m'].iloc[0]:g}"
    said = f"{number(first)} by estimate (loss {difference(estimated.iloc[0])})"
    if shown.empty:
        return f"{said}, shown at none"
    least = f"{shown['m'].iloc[0]:g}"
    return f"{said}, which is shown" if least == first else f"{said}, shown from {number(least)} on"


def everywhere(rows: pd.DataFrame, metric: str) -> str:
    """Say how many votes an image are enough for the soft arm on every set, by estimate, and where that is shown."""
    of_sets = {name: answers.enough(part, metric) for name, part in rows.groupby("dataset", sort=False)}
    least = {name: table["m"][table["estimated"]].min() for name, table in of_sets.items() if len(table)}
    if not least:
        return NONE
    margin = f"{MARGINS[metric]:g}{' nats' if metric == 'kl' else ''} of the {answers.NAMES[metric]} of all votes"
    if missing := [set_name(name) for name, m in least.items() if np.isnan(m)]:
        return f"no number that was tried keeps within {margin} on {' and '.join(missing)}"
    most = max(least.values())
    # What is shown of a number holds of larger ones too, so of a set that had no more than fewer votes the most count.
    tried = [pd.concat([table[table["m"] >= most], table.tail(1)]).iloc[0] for table in of_sets.values() if len(table)]
    shown = sum(bool(row["enough"]) for row in tried)
    votes = "1 vote an image keeps" if most == 1 else f"{most:g} votes an image keep"
    by_interval = number(f"{shown} of {len(least)}")
    return f"{number(votes)} within {margin} on every set here by estimate, and on {by_interval} shown by the interval"


def hard_by_votes(rows: pd.DataFrame) -> str:
    """Say for each set how the hard arm's KL changes from all votes an image to the fewest."""
    parts = []
    for name, of_set in rows.groupby("dataset", sort=False):
        table = answers.enough(of_set, "kl", arm="hard")
        if len(table):
            row = table.iloc[0]
            parts.append(f"on {set_name(name)} by {difference(row)} from all votes to {row['m']:g}")
    return "; ".join(parts) or NONE


def advantage(rows: pd.DataFrame, metric: str) -> str:
    """Say for each set at how many votes soft labels beat hard ones by the margin, see `answers.thresholds`."""
    found = {name: answers.thresholds(part, metric)["shown"] for name, part in rows.groupby("dataset", sort=False)}
    return (
        "; ".join(
            f"on {set_name(name)}, at {number(listed(ms)) if ms else 'none of those tried'}"
            for name, ms in found.items()
        )
        or NONE
    )


def spent(rows: pd.DataFrame, metric: str, arm: str) -> str:
    """Say for each set what more votes on fewer images gain over one vote on each of more images, for an arm."""
    table = answers.budget(rows, metric)
    if table.empty:
        return NONE
    of_arm = table[table["labels"] == arm].sort_values("votes_per_image")
    parts = []
    for name, of_set in of_arm.groupby("dataset", sort=False):
        cells = ", ".join(_spent(row) for _, row in of_set.iterrows())
        base = f"one vote on each of {of_set['base_images'].iloc[0]:,.0f} images"
        parts.append(f"on {set_name(name)}, over {base}, {cells}")
    return "; ".join(parts)


def _spent(row: pd.Series) -> str:
    outcome = "neither is shown to be better"
    if np.isnan(row["low"]):
        outcome = "one split shows nothing"
    elif row["low"] > 0 or row["high"] < 0:
        outcome = f"shown to be {'better' if row['low'] > 0 else 'worse'}"
    return f"{row['votes_per_image']} votes on each of {row['images']:,.0f} gain {difference(row)} ({outcome})"


def advice(rows: pd.DataFrame, spending: pd.DataFrame) -> str:
    """Return the advice for a campaign in one sentence, assembled from what the grid shows."""
    return (
        f"Who plans a campaign and trains on soft labels finds here that {everywhere(rows, 'kl')}; that "
        f"{everywhere(rows, 'macro_accuracy')}; and that of one number of votes, measured by KL, "
        f"{spent(spending, 'kl', 'soft')}."
    )


def has(rows: pd.DataFrame, dataset: str) -> str:
    """Say what there is of a real set; if nothing, how to get it."""
    if rows.empty and dataset in sets.names():
        train = "`bhl study --grid NAME --full` trains it"
        return f"Only the full grid has runs on this set, and it is not published; {train}."
    if rows.empty:
        return f"The set is not on this machine, and no grid on it is published; `bhl data fetch {dataset}` brings it."
    return f"{number(rows['key'].nunique())} runs were trained on this set."
