"""The studies that the project publishes: which they are, how they get into ``results``, and the page that shows them.

A study is shown once all its runs are there; the others are named with the command that trains and
publishes them, so nobody takes what was not run for what was left out.
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from beyond_hard_labels import InputError, grids, real_data, report, runs
from beyond_hard_labels.runs import Run
from beyond_hard_labels.study import Study, ensure, map_of, plan, read_profile
from beyond_hard_labels.votes import LABEL_KINDS


class Entry(NamedTuple):
    """A study to publish.

    Attributes
    ----------
    title, command : str
    study : Study or None
        None if it is on a set that is neither here nor published.
    runs : list of Run
        Its published runs; empty unless all are there.
    """

    title: str
    command: str
    study: Study | None
    runs: list[Run]


def entries() -> list[Entry]:
    """Return all studies that are to be published, in the order of ``profiles/published.yml``."""
    found = []
    for title, asked in read_profile("published").items():
        profile, *sets = (f"{name}={value}" for name, value in asked.items())
        command = " ".join([f"--profile {profile.partition('=')[2]}", *(f"--set {pair}" for pair in sets)])
        known = asked.get("dataset", real_data.SYNTHETIC)
        here = known in (real_data.SYNTHETIC, *real_data.names()) or runs.published_specs(known)
        study = plan(**asked) if here else None
        of_project = [runs.published(spec) for spec in study.specs()] if study else [None]
        found.append(Entry(title, command, study, [] if None in of_project else of_project))
    return found


def publish(study: Study) -> list[Run]:
    """Write all runs of a study into ``results``, those of split 0 with their maps; return them as read back.

    Raises
    ------
    InputError
        If a run is neither here nor can be trained here.
    """
    done = []
    for run in ensure(study):
        if run.published:
            raise InputError(f"run {run.spec.key} is not on this machine, but published already; nothing to publish")
        settings = {"perplexity": study.perplexity, "iterations": study.tsne_iterations}
        done.append(runs.publish(run, map_of(study, run) if run.spec.split == 0 else None, settings))
    return done


def table(found: list[Entry]) -> pd.DataFrame:
    """Return one row a published study, below the paper's own row of its set: both arms, mean ± deviation."""
    rows, named = [], set()
    for entry in (entry for entry in found if entry.runs):
        spec, scores = entry.runs[0].spec, report.scores(entry.runs).groupby("labels")
        means, deviations = scores[["macro_accuracy", "kl"]].mean(), scores[["macro_accuracy", "kl"]].std()
        ours = {(arm, name): (means[name][arm], deviations[name][arm]) for arm in LABEL_KINDS for name in means}
        if spec.dataset in report.PAPER and spec.dataset not in named:
            rows.append(_row("paper, Table 1", "3", report.PAPER[spec.dataset]))
            named.add(spec.dataset)
        link = f"[{entry.title}](#{report.label(entry.runs)})"
        rows.append(_row(link, str(entry.study.splits), ours))
    return pd.DataFrame(rows)


def _row(source: str, splits: str, values: dict) -> dict[str, str]:
    names = {"macro_accuracy": "macro accuracy ↑", "kl": "KL ↓"}
    return {"source": source, "splits": splits} | {
        f"{arm}: {words}": report.plus_minus(*values[arm, name])
        for arm in ("hard", "soft")
        for name, words in names.items()
    }


def badges(found: list[Entry]) -> str:
    """Say of each published study in a line what its numbers come from, and what changed since."""
    from beyond_hard_labels.real_votes import PIXELS

    lines = []
    for entry in (entry for entry in found if entry.runs):
        pixels = PIXELS.get(entry.runs[0].manifest["data"].get("data file"))
        about = [report.badge(entry.study, entry.runs), *([f"pixels {pixels}"] if pixels else [])]
        lines.append(f"- **{entry.title}**: {' · '.join(about)}. {report.since(entry.runs)}")
    return "\n".join(lines) or "No study is published yet."


def open_rows(found: list[Entry]) -> str:
    """Name the studies that are not published, each with the command that trains and publishes it."""
    rows = [(entry.title, f"`bhl study {entry.command} --publish`") for entry in found if not entry.runs]
    rows = pd.DataFrame(rows, columns=["not run yet", "command"])
    return "All of them were run." if rows.empty else report.markdown_table(rows, "open")


def texts() -> dict[str, Callable[[], str]]:
    """Return what a page may name of the published studies."""
    return {
        "published.table": lambda: report.markdown_table(table(entries()), "published"),
        "published.badges": lambda: badges(entries()),
        "published.open": lambda: open_rows(entries()),
        "published.grids": lambda: _of_grids(),
    }


def _of_grids() -> str:
    """Say which parts of the grids are published, of how many runs, and what changed since."""
    rows = [
        (f"`{grid}`", name.replace("_", " "), str(len(part.specs)), "; ".join(part.changes) or "nothing")
        for grid in grids.GRIDS
        for name, part in grids.published(grid).items()
    ]
    return report.markdown_table(pd.DataFrame(rows, columns=["grid", "part", "runs", "changed since"]), "grids")
