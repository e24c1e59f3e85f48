"""What pages and notebooks say of the two grids: sentences, tables, and a page that lists the runs behind them.

Every sentence has words for each outcome and takes those that the tables of `answers` choose.
`texts` names them ``when.…`` and ``votes.…``; all are computed from the rows of a grid when they are
asked for, so `verify` computes them again in the same way.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_hard_labels.analysis import answers
from beyond_hard_labels.analysis.answers import MARGINS, NAMES, SIGNS
from beyond_hard_labels.analysis.rates import rates_at_assumption, rates_in_design
from beyond_hard_labels.book import report
from beyond_hard_labels.book.sentences import (
    NONE,
    advantage,
    advice,
    by_length,
    changes,
    enough,
    extremes,
    hard_by_votes,
    has,
    holds,
    listed,
    matched,
    needed,
    number,
    reached,
    removed,
    set_name,
    spent,
    tally,
)
from beyond_hard_labels.data.sets import SYNTHETIC
from beyond_hard_labels.data.votes import LABEL_KINDS
from beyond_hard_labels.learn import significance
from beyond_hard_labels.runs import grids
from beyond_hard_labels.runs.grids import Results
from beyond_hard_labels.runs.study import Study


def gap_table(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one row a cell: both arms, their difference, its interval, and p after Holm's correction."""
    if rows.empty:
        return rows
    table, once = answers.gaps(rows, metric), rows.drop_duplicates("key")
    by = answers.settings(rows)
    levels = once.groupby([*by, "labels"])[metric].agg(["mean", "std"]).unstack("labels").reindex(table[by])
    shown = {"cell": answers.cell_names(table)}
    for arm in LABEL_KINDS:
        pairs = levels[[("mean", arm), ("std", arm)]].to_numpy()
        shown[f"{arm} labels"] = [report.plus_minus(*pair) for pair in pairs]
    intervals = [significance.Interval(*row) for row in table[["mean", "low", "high", "p"]].to_numpy()]
    shown["soft - hard"] = [f"{interval.mean:+.4f}" for interval in intervals]
    shown["95 % interval"] = [report.bounds(interval) for interval in intervals]
    shown["p, Holm"] = ["–" if np.isnan(p) else f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in table["holm"]]
    shown["splits"] = table["n"].astype(str).tolist()
    return pd.DataFrame(shown)


def rival_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a cell: the hard arm's excess of KL, and the share of it that each rival removes."""
    table = answers.rivals(rows)
    if table.empty:
        return pd.DataFrame({"rival": [NONE]})
    by, gaps = answers.settings(table), answers.gaps(rows[rows["label_smoothing"] == 0], "kl")
    excess = -table[by].merge(gaps, how="left", on=by)["mean"]
    found = {}
    for cell, kl, row in zip(answers.cell_names(table), excess, table.itertuples(), strict=True):
        shares = found.setdefault((cell, f"{kl:.4f}"), {})
        shares[row.rival] = f"{row.mean:+.2f} {report.bounds(row, 2)}"
    rivals = list(dict.fromkeys(table["rival"]))
    return pd.DataFrame(
        [
            {"cell": cell, "excess of KL": kl} | {rival: shares.get(rival, "–") for rival in rivals}
            for (cell, kl), shares in found.items()
        ]
    )


def nearest_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the five cells nearest to the paper's row of Table 1, below that row."""
    columns = {
        "hard: macro accuracy": "hard_macro_accuracy",
        "hard: KL, soft truth": "hard_kl",
        "hard: KL, one-hot truth": "hard_kl_one_hot",
        "soft: macro accuracy": "soft_macro_accuracy",
        "soft: KL": "soft_kl",
    }
    paper = {f"{arm}_{name}": report.plus_minus(*pair) for (arm, name), pair in report.PAPER[SYNTHETIC].items()}
    paper["hard_kl_one_hot"] = paper["hard_kl"]
    found = [{"cell": "paper"} | {head: paper[name] for head, name in columns.items()}]
    found[0] |= {"distance, soft truth": "–", "distance, one-hot truth": "–"}
    table = answers.nearest(rows).head(5)
    for cell, (_, row) in zip(answers.cell_names(table), table.iterrows(), strict=True):
        shown = {head: report.plus_minus(row[name], row[f"{name}_sd"]) for head, name in columns.items()}
        distances = {"distance, soft truth": row["distance"], "distance, one-hot truth": row["distance_one_hot"]}
        found.append({"cell": cell} | shown | {head: f"{distance:.1f}" for head, distance in distances.items()})
    return pd.DataFrame(found)


def enough_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a set, metric and m: what the soft arm loses against all votes, and whether m is enough."""
    found = []
    for metric in SIGNS:
        for name, part in rows.groupby("dataset", sort=False):
            for _, row in answers.enough(part, metric).iterrows():
                cell = {"set": set_name(name), "metric": NAMES[metric], "votes an image": f"{row['m']:g}"}
                kept = "shown" if row["enough"] else "by the mean" if row["estimated"] else "no"
                bounds = report.bounds(significance.Interval(row["mean"], row["low"], row["high"], row["p"]))
                loss = {"loss": f"{row['mean']:+.4f}", "95 % interval": bounds}
                found.append(cell | loss | {"margin": f"{MARGINS[metric]:g}", "enough": kept})
    return pd.DataFrame(found)


def threshold_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a set and metric: the m at which soft labels beat hard ones by the margin, with its interval."""
    found = []
    for metric in SIGNS:
        for name, of_set in rows.groupby("dataset", sort=False):
            at = answers.thresholds(of_set, metric)
            least, low, high = ("none" if at[n] is None else listed([at[n]]) for n in ("estimate", "low", "high"))
            interval = f"{low} to {high}" if of_set["split"].nunique() > 1 else "needs two splits"
            found.append(
                {
                    "set": set_name(name),
                    "metric": NAMES[metric],
                    "margin": MARGINS[metric],
                    "least m, estimate": least,
                    "95 % interval of it": interval,
                    "shown at": listed(at["shown"]) if at["shown"] else "none",
                }
            )
    return pd.DataFrame(found)


def budget_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a set, metric, arm and cell: level, and gain over one vote on each image at the same cost."""
    found = []
    for metric in SIGNS:
        for _, row in answers.budget(rows, metric).iterrows():
            bounds = report.bounds(significance.Interval(row["mean"], row["low"], row["high"], row["p"]))
            cell = {"set": set_name(row["dataset"]), "metric": NAMES[metric], "labels": row["labels"]}
            cell |= {"images": f"{row['images']:,.0f}", "votes an image": str(row["votes_per_image"])}
            found.append(
                cell | {"level": f"{row['level']:.4f}", "gain": f"{row['mean']:+.4f}", "95 % interval": bounds}
            )
    return pd.DataFrame(found) if found else pd.DataFrame({"set": [NONE]})


def run_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run of a grid: its part, what it is, its key, and its scores on test images."""
    table = rows[["part", "labels", "split", *answers.differing(rows), "key"]].astype(str)
    table["key"] = [f"`{key}`" for key in table["key"]]
    scores = {"macro_accuracy": "macro accuracy", "kl": "KL", "kl_one_hot": "KL, one-hot truth", "temperature": "T"}
    for name, heading in scores.items():
        table[heading] = [f"{value:.4f}" for value in rows[name]]
    table["seconds"] = [f"{value:.0f}" for value in rows["seconds"]]
    return table.rename(columns=lambda name: name.replace("_", " "))


def level_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a set and number of votes: both arms' scores, mean ± standard deviation, and the floor."""
    once, found = answers.by_votes(rows.drop_duplicates("key")), []
    for (name, m), part in once.groupby(["dataset", "m"], sort=True):
        row = {"set": set_name(name), "votes an image": listed([m])}
        for metric in SIGNS:
            for labels, arm in part.groupby("labels"):
                row[f"{labels}: {NAMES[metric]}"] = report.plus_minus(arm[metric].mean(), arm[metric].std())
        floors = {"KL of the labels, expected": "label_floor", "floor from the truth's votes": "floor"}
        found.append(row | {name: f"{part[column].mean():.4f}" for name, column in floors.items()})
    return pd.DataFrame(found)


def rejection_table(n_splits: int) -> pd.DataFrame:
    """Return how often tests at 5 % find a difference that is not there, as they assume splits and as these are."""
    rates = {
        "Gaussian differences with the assumed correlation": rates_at_assumption(n_splits),
        "random splits of one set": rates_in_design(n_splits),
    }
    return pd.DataFrame(
        [
            {
                "where no arm is better": where,
                "splits": str(n_splits),
                "corrected test": f"{100 * found.corrected:.1f} %",
                "plain t test": f"{100 * found.plain:.1f} %",
                "standard error": f"{100 * found.error:.1f} %",
            }
            for where, found in rates.items()
        ]
    )


def part_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a part of a grid: what differs in it, and how many splits and runs it has."""
    found = []
    for name, of_part in rows.groupby("part", sort=False):
        values = [_values(n, sorted(of_part[n].unique())) for n in answers.differing(of_part)]
        sizes = {"splits": of_part["split"].nunique(), "runs": of_part["key"].nunique()}
        found.append({"part": name.replace("_", " "), "what differs": "; ".join(values) or "nothing"} | sizes)
    return pd.DataFrame(found)


def _values(name: str, values: list) -> str:
    if isinstance(values[0], bool | np.bool_):
        return f"{answers.setting(name, True)} off and on"
    return ", ".join(answers.setting(name, value) for value in values)


def _gaps(select: Callable, metric: str, words: Callable) -> Callable[[Results], str]:
    absent = "Not tried in this copy" if words is holds else NONE

    def text(found: Results) -> str:
        rows = select(found)
        return absent if rows.empty else words(answers.gaps(rows, metric))

    return text


def _table(name: str, make: Callable[[Results], pd.DataFrame]) -> dict[str, Callable[[Results], str]]:
    def linked(found: Results) -> str:
        table = make(found)
        if table.empty:
            return f"No table: {NONE}."
        first = table.columns[0]
        return report.markdown_table(table.assign(**{first: [number(text) for text in table[first]]}), name)

    return {f"table.{name}": linked}


def part(found: Results, *names: str) -> pd.DataFrame:
    """Return the rows of some parts of a grid; none where they are neither trained here nor published."""
    return found.rows[found.rows["part"].isin(names)]


def main(found: Results) -> pd.DataFrame:
    """Return the rows of lengths of training and shares of the images."""
    return part(found, "main")


def protocols(found: Results) -> pd.DataFrame:
    """Return the rows of other protocols and another network."""
    return part(found, "protocol", "backbone")


def synthetic(found: Results) -> pd.DataFrame:
    """Return the rows on the synthetic set."""
    return found.rows[found.rows["dataset"] == SYNTHETIC]


def _fashion(found: Results) -> str:
    rows = part(found, "fashion_mnist_h")
    if rows.empty:
        return has(rows, "fashion_mnist_h")
    accuracy, kl = (
        f"{tally(table)}; the difference ranges {extremes(table, metric)}"
        for metric in SIGNS
        for table in [answers.gaps(rows, metric)]
    )
    return f"On Fashion-MNIST-H, for macro accuracy {accuracy}. For KL, {kl}."


WHEN = {
    f"{name}.{metric}": _gaps(select, metric, words)
    for metric in SIGNS
    for name, select, words in (
        ("tally", main, tally),
        ("holds", main, holds),
        ("by_length", main, by_length),
        ("extremes", main, functools.partial(extremes, metric=metric)),
        ("protocols", protocols, tally),
        ("holds.protocols", protocols, holds),
        ("needed", main, needed),
        ("needed.protocols", protocols, needed),
    )
}
WHEN |= {
    "change.epochs": lambda found: changes(main(found), "macro_accuracy", "epochs"),
    "change.train_share": lambda found: changes(main(found), "macro_accuracy", "train_share"),
    "removed": lambda found: removed(answers.rivals(synthetic(found))),
    "match": lambda found: matched(answers.nearest(synthetic(found))),
    "reached": lambda found: reached(answers.nearest(synthetic(found))),
    "fashion": _fashion,
    "table.rejections": lambda found: report.markdown_table(
        rejection_table(max(2, main(found)["split"].nunique())), "rejections"
    ),
}
WHEN |= _table("macro_accuracy", lambda found: gap_table(main(found), "macro_accuracy"))
WHEN |= _table("kl", lambda found: gap_table(main(found), "kl"))
WHEN |= _table("protocols", lambda found: gap_table(protocols(found), "macro_accuracy"))
WHEN |= _table("rivals", lambda found: rival_table(synthetic(found)))
WHEN |= _table("nearest", lambda found: nearest_table(synthetic(found)))


def by_votes(found: Results) -> pd.DataFrame:
    """Return the rows of numbers of votes an image, on every set that there is."""
    return part(found, *VOTE_PARTS)


def budget(found: Results) -> pd.DataFrame:
    """Return the rows of the same number of votes, spent on more images or on more votes an image."""
    return part(found, "budget")


VOTE_PARTS = (SYNTHETIC, "fashion_mnist_h", "cifar10h")
VOTES = {
    f"{name}.{metric}": lambda found, words=words, metric=metric: words(by_votes(found), metric)
    for metric in SIGNS
    for name, words in (("enough", enough), ("advantage", advantage))
}
VOTES |= {
    f"budget.{arm}.{metric}": lambda found, arm=arm, metric=metric: spent(budget(found), metric, arm)
    for metric in SIGNS
    for arm in LABEL_KINDS
}
VOTES |= {f"has.{name}": lambda found, name=name: has(part(found, name), name) for name in VOTE_PARTS}
VOTES |= {f"tally.{metric}": _gaps(by_votes, metric, tally) for metric in SIGNS}
VOTES |= {f"margin.{metric}": lambda found, metric=metric: f"{MARGINS[metric]:g}" for metric in SIGNS}
VOTES |= {"hard": lambda found: hard_by_votes(by_votes(found))}
VOTES |= {"advice": lambda found: advice(by_votes(found), budget(found))}
VOTES |= _table("levels", lambda found: level_table(by_votes(found)))
VOTES |= _table("enough", lambda found: enough_table(by_votes(found)))
VOTES |= _table("thresholds", lambda found: threshold_table(by_votes(found)))
VOTES |= _table("budget", lambda found: budget_table(budget(found)))
ALL = _table("parts", lambda found: part_table(found.rows)) | _table("runs", lambda found: run_table(found.rows))
ALL |= {"source": lambda found: source(found)}
GRIDS = {"when": WHEN | ALL, "votes": VOTES | ALL}


def texts(study: Study, **known: Results) -> dict[str, Callable[[], str]]:
    """Return every sentence and table on the grids, by ``grid.name``; results are looked up once, when asked for.

    Parameters
    ----------
    study : Study
        That of the book.
    **known : Results
        Those that are known already, by the name of the grid.
    """
    results = functools.cache(lambda grid: known.get(grid) or grids.results(grid, study))

    def text(grid: str, make: Callable[[Results], str]) -> str:
        return make(results(grid)).replace("](#grid)", f"](#grid-{grid})")

    return {
        f"{grid}.{name}": functools.partial(text, grid, make)
        for grid, makers in GRIDS.items()
        for name, make in makers.items()
    } | {f"{grid}.badge": functools.partial(_badge, study, grid) for grid in GRIDS}


def _badge(study: Study, grid: str) -> str:
    return f"{report.data_badge(study)} · the grid “{grid}”, whose parts may differ from it"


def source(found: Results) -> str:
    """Say where each part of a grid comes from, and which parts are not there, and why."""
    absent = [
        f"`{name}` is left out, since {dataset} is not on this machine: `bhl data fetch {dataset}` brings it."
        for name, dataset in found.left_out.items()
    ]
    return " ".join([f"**Source:** {number('the runs of this grid')}.", found.source, *absent])


def say(text: str, study: Study, **known: Results) -> report.Said:
    """Return Markdown for a notebook: text with its sentences and tables on the grids filled in."""
    filled, printed = report.fill(text, texts(study, **known), "this cell")
    return report.Said(filled, record(study, printed))


def record(study: Study, printed: dict[str, str]) -> dict:
    """Return what it takes to compute printed texts again: the study and the grids."""
    named = sorted({name.partition(".")[0] for name in printed})
    return {"study": {"profile": study.profile, **study.changed}, "grids": named, "runs": [], "printed": printed}


_PAGE = """(grid-{grid})=
# Runs of the grid `{grid}`

{{{{ {grid}.badge }}}}

{{{{ {grid}.source }}}}

Every number that links here was computed from these runs: those trained here from their predictions, published ones
from the rows that come with the project.

{{{{ {grid}.table.parts }}}}

They are found again, or trained where they are missing, by

```
bhl study --grid {grid} {command}
```

## All runs

Scores are on test images; T is the temperature that fits a run's own targets on its validation images.

{{{{ {grid}.table.runs }}}}
"""


def write(folder: Path, study: Study, known: dict[str, Results]) -> tuple[list, dict]:
    """Write the pages of some grids into the folder ``runs`` of the book.

    Returns
    -------
    tuple
        Their entries in the table of contents, and the record of each page's texts by the page's name.
    """
    records, named = {}, texts(study, **known)
    for grid, found in known.items():
        page = _PAGE.format(grid=grid, command=study.command)
        text, printed = report.fill(page, named, f"runs/grid-{grid}")
        (folder / f"grid-{grid}.md").write_text(text, "utf-8")
        own = found.rows[~found.rows["part"].isin(found.published)]
        records[f"runs/grid-{grid}.md"] = record(study, printed) | {"runs": sorted(set(own["key"]))}
    return [{"file": f"runs/grid-{grid}"} for grid in known], records
