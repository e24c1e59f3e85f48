"""What the notebooks of the book call to take parameters, to find their runs, and to show and say what these give.

`show`, `say`, `claim` and `about` return Markdown and leave a record of it in the output's metadata, under
``beyond_hard_labels``, which pages are made from: ``runs``, the names of those that it rests on, or ``grid``, and
``table`` or ``numbers`` by name, or ``claim``, ``sentence``, ``holds`` and ``decided``.

Where an output takes `runs`, it takes a sequence of runs, or of their names, or a grid: any object whose ``name`` is
that of a grid, such as ``grids.results("when", study)``, or the text ``"grid:when"``.
"""

import ast
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.parameters import check
from beyond_hard_labels.book import tables
from beyond_hard_labels.book.about import line
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.study import Study, plan, require_generated, valid_parameters

RECORD = "beyond_hard_labels"  # the key of an output's metadata
Runs = Sequence[Run | str] | Any  # runs, their names, or a grid, see above
VERDICTS = {True: "holds in these runs", False: "does not hold in these runs", None: "not decided by these runs"}


def study_of(namespace: Mapping[str, Any], own: Sequence[str] = ()) -> Study:
    """Return the study that a notebook's parameters ask for; call it as ``study_of(globals())``.

    Parameters are what the newest parameters cell assigns, the one that says ``profile = ...``, and the cell that
    papermill injects below it; any other cell of plain assignments may set a parameter that there is. The values are
    those of now, whatever ran meanwhile and however often. So a mistyped name is refused, and what a chapter
    calls its own things is no parameter; `own` names those that a study does not have.

    Raises
    ------
    InputError
        On unknown names, wrong types and values out of range.
    """
    fields = valid_parameters()
    asked = _asked(namespace["In"], fields) if "In" in namespace else set(namespace)
    given = {name: namespace[name] for name in namespace if name in asked and name not in own}
    wanted = {name: value for name, value in given.items() if value is not None or name not in fields}
    check(fields, wanted)
    return require_generated(plan(**wanted))


def _asked(cells: Sequence[str], valid: Mapping[str, Any]) -> set[str]:
    """Return the names that the cells of a notebook, in the order in which they ran, give as parameters."""
    newest, anywhere = set(), set()
    for cell in cells:
        try:
            body = ast.parse(cell).body
            [ast.literal_eval(node.value) for node in body]
            names = {target.id for node in body for target in getattr(node, "targets", None) or [node.target]}
        except (SyntaxError, ValueError, AttributeError, TypeError):
            continue  # it does more than to assign literals
        if cell.startswith("# Parameters"):  # papermill's own
            newest |= names
        elif "profile" in names:
            newest = names
        anywhere |= names & valid.keys()
    return newest | anywhere


class Shown:
    """Markdown that a notebook shows, with the record of what it rests on in the output's metadata."""

    def __init__(self, markdown: str, runs: Runs, **record: Any):
        grid, names = resting_on(runs)
        of = f"grid {grid}" if grid else f"{len(names)} run{'s' if len(names) > 1 else ''}"
        self.markdown = markdown + (f" [{of}](#{label(runs)})" if grid or names else "")
        self.record = {"runs": names, **({"grid": grid} if grid else {}), **record}

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/markdown": self.markdown, "text/plain": self.markdown}, {RECORD: self.record}


def show(frame: pd.DataFrame, runs: Runs = (), *, name: str = "table", **options: Any) -> Shown:
    """Return a frame as a table that links to the runs it was computed from; see `tables.markdown`.

    In a column ``run``, names of those runs link to their pages.
    """
    known = resting_on(runs)[1]
    links = {"run": lambda run: run_link(run) if run in known else tables.text(run)} | options.pop("links", {})
    return Shown(tables.markdown(frame, name=name, links=links, **options), runs, table=name)


def say(sentence: str, runs: Runs = (), **numbers: float | str) -> Shown:
    """Return Markdown, and keep numbers by name for other pages, each as the chapter's sentence prints it.

    A name that comes from data goes through `tables.text`, so that nothing of it is markup.
    """
    printed = {name: value if isinstance(value, str) else tables.number(value) for name, value in numbers.items()}
    return Shown(sentence, runs, numbers=printed)


def claim(sentence: str, holds: bool, runs: Runs = (), *, name: str, decided: bool = True) -> Shown:
    """Return a conclusion of its author's with whether it holds in the runs that are shown; other pages find its name.

    `holds` is computed from the runs, and `decided` is whether they could show it either way: a single split has no
    interval.
    """
    record = {"claim": name, "sentence": sentence, "holds": bool(holds), "decided": bool(decided)}
    return Shown(f"> {sentence} *({verdict(record, bool(runs))})*", runs, **record)


def verdict(record: Mapping[str, Any], of_runs: bool) -> str:
    """Return in words whether the claim of a record holds, which may rest on runs or on none."""
    words = VERDICTS[record["holds"] if record["decided"] else None]
    return words if of_runs else words.rsplit(" ", 3)[0]


def about(study: Study, runs: Sequence[Run] = ()) -> Shown:
    """Return the line that says what a page's numbers come from."""
    return Shown(line(study, runs), runs, study={"profile": study.profile, **study.changed})


def resting_on(runs: Runs) -> tuple[str | None, list[str]]:
    """Return the name of the grid that something rests on, or None and the names of its runs."""
    if isinstance(runs, str):
        if not re.fullmatch(r"grid:\w+", runs):
            raise InputError(f"runs are '{runs}', expected runs, their names, or a grid such as 'grid:when'")
        return runs.removeprefix("grid:"), []
    if not isinstance(runs, Run) and hasattr(runs, "name"):
        return runs.name, []
    return None, [run if isinstance(run, str) else run.name for run in ([runs] if isinstance(runs, Run) else runs)]


def label(runs: Runs) -> str:
    """Return the name by which links find the list of some runs, or a grid."""
    grid, names = resting_on(runs)
    return f"grid-{grid}" if grid else "runs-" + hashlib.sha256(" ".join(names).encode()).hexdigest()[:8]


def run_link(name: str) -> str:
    """Return a link to the page of a run."""
    return f"[`{name.removeprefix('published-')}`](#run-{name})"
