"""What the notebooks of the book call to take parameters, to find their runs, and to show and say what these give.

`show`, `say`, `claim` and `about` return Markdown and leave a record of it in the output's metadata, under
``beyond_hard_labels``, which pages are made from:

    runs                             names of the runs that it rests on; the output links to their list
    grid                             name of the grid that it rests on, in place of runs
    table                            of `show`: the name of the table
    numbers                          of `say`: texts by name, each as other pages print it
    claim, sentence, holds, decided  of `claim`
    study                            of `about`: the parameters

Where an output takes `runs`, it takes a sequence of runs, or of their names, or a grid: any object whose ``name`` is
that of a grid, such as ``grids.results("when", study)``, or the text ``"grid:when"``. A grid's rows come from the
project's tables, not from runs that have pages, so the output links to the grid's own section of the page on runs.
"""

import ast
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pandas as pd

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.parameters import check
from beyond_hard_labels.book import tables
from beyond_hard_labels.book.about import line
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.study import Study, plan, require_generated, valid_parameters

RECORD = "beyond_hard_labels"  # the key of an output's metadata
VERDICTS = {
    (True, True): "holds in these runs",
    (False, True): "does not hold in these runs",
    (True, False): "not decided by these runs",
    (False, False): "not decided by these runs",
}


class Grid(Protocol):
    """What an output may rest on that is no list of runs."""

    name: str


Runs = Sequence[Run | str] | Grid | str


def study_of(namespace: Mapping[str, Any], own: Sequence[str] = ()) -> Study:
    """Return the study that a notebook's parameters ask for; call it as ``study_of(globals())``.

    Parameters are what the newest parameters cell assigns, the one that says ``profile = ...``, and the cell that
    papermill injects below it; any other cell of plain assignments may set a parameter that there is. The values are
    those of now, whatever ran meanwhile and however often. So a mistyped name is refused, and what a chapter
    calls its own things is no parameter.

    Parameters
    ----------
    namespace : mapping
        The notebook's ``globals()``.
    own : sequence of str
        Parameters of the notebook itself, which a study does not have.

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
    given = [_plain(cell) for cell in cells]
    asked = {name for names in given for name in names if name in valid}
    newest = max((i for i, names in enumerate(given) if "profile" in names), default=None)
    if newest is None:
        return asked
    first = last = newest
    while first and "profile" in given[first - 1] and cells[first].startswith("# Parameters"):  # injected, with it
        first -= 1
    while last + 1 < len(cells) and given[last + 1] and cells[last + 1].startswith("# Parameters"):
        last += 1
    return asked.union(*given[first : last + 1])


def _plain(cell: str) -> list[str]:
    """Return the names of a cell that only assigns literals; none of any other cell."""
    try:
        body = ast.parse(cell).body
        [ast.literal_eval(node.value) for node in body]
        return [target.id for node in body for target in getattr(node, "targets", None) or [node.target]]
    except (SyntaxError, ValueError, AttributeError, TypeError):
        return []


class Shown:
    """Markdown that a notebook shows, with the record of what it rests on in the output's metadata."""

    def __init__(self, markdown: str, runs: Runs, **record: Any):
        self.markdown = markdown + link(runs)
        grid = grid_of(runs)
        self.record = {"runs": [] if grid else names_of(runs), **({"grid": grid} if grid else {}), **record}

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/markdown": self.markdown, "text/plain": self.markdown}, {RECORD: self.record}


def show(frame: pd.DataFrame, runs: Runs = (), *, name: str = "table", **options: Any) -> Shown:
    """Return a frame as a table that links to the runs it was computed from; see `tables.markdown`.

    In a column ``run``, names of those runs link to their pages.
    """
    known = set() if grid_of(runs) else set(names_of(runs))
    links = {"run": lambda run: run_link(run) if run in known else tables.text(run)} | options.pop("links", {})
    return Shown(tables.markdown(frame, name=name, links=links, **options), runs, table=name)


def say(sentence: str, runs: Runs = (), **numbers: float | str) -> Shown:
    """Return Markdown, and keep numbers by name for other pages, each as the chapter's sentence prints it.

    A name that comes from data goes through `tables.text`, so that nothing of it is markup.
    """
    printed = {name: value if isinstance(value, str) else tables.number(value) for name, value in numbers.items()}
    return Shown(sentence, runs, numbers=printed)


def claim(sentence: str, holds: bool, runs: Runs = (), *, name: str, decided: bool = True) -> Shown:
    """Return a conclusion with whether it holds in the runs that are shown.

    Parameters
    ----------
    sentence : str
        What its author concludes, of the published results.
    holds : bool
        The condition, computed from the runs.
    runs : sequence of Run, or a grid
    name : str
        By which other pages find it.
    decided : bool
        Whether these runs could show it either way: a single split has no interval.
    """
    record = {"claim": name, "sentence": sentence, "holds": bool(holds), "decided": bool(decided)}
    return Shown(f"> {sentence} *({VERDICTS[record['holds'], record['decided']]})*", runs, **record)


def about(study: Study, runs: Sequence[Run] = ()) -> Shown:
    """Return the line that says what a page's numbers come from."""
    return Shown(line(study, runs), runs, study={"profile": study.profile, **study.changed})


def grid_of(runs: Runs) -> str | None:
    """Return the name of the grid that something rests on, None of runs."""
    if isinstance(runs, str):
        if not re.fullmatch(r"grid:\w+", runs):
            raise InputError(f"runs are '{runs}', expected runs, their names, or a grid such as 'grid:when'")
        return runs.removeprefix("grid:")
    return None if isinstance(runs, Run) else getattr(runs, "name", None)


def names_of(runs: Sequence[Run | str]) -> list[str]:
    """Return the names of some runs."""
    runs = [runs] if isinstance(runs, Run) else runs
    return [run if isinstance(run, str) else run.name for run in runs]


def label(runs: Runs) -> str:
    """Return the name of the list of some runs, or of a grid, which links to it name."""
    if grid := grid_of(runs):
        return f"grid-{grid}"
    return "runs-" + hashlib.sha256(" ".join(names_of(runs)).encode()).hexdigest()[:8]


def link(runs: Runs) -> str:
    """Return a link to the list of some runs, or to a grid; nothing for none."""
    if grid := grid_of(runs):
        return f" [grid {grid}](#{label(runs)})"
    n = len(names_of(runs))
    return f" [{n} run{'s' if n > 1 else ''}](#{label(runs)})" if n else ""


def run_link(name: str) -> str:
    """Return a link to the page of a run."""
    return f"[`{name.removeprefix('published-')}`](#run-{name})"
