"""What the notebooks of the book call to take parameters, to find their runs, and to show and say what these give.

`show`, `say` and `claim` return Markdown and leave a record of it in the output's metadata: the runs that it
rests on, the numbers and claims by name. The front page takes its numbers from these records, and
`book.verify` compares them.
"""

import ast
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from beyond_hard_labels.base.parameters import check
from beyond_hard_labels.book import tables
from beyond_hard_labels.book.about import line
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.study import Study, plan, require_generated, valid_parameters

RECORD = "beyond_hard_labels"  # the key of an output's metadata
_asked: set[str] = set()  # names of the parameters of the last cells that gave any
_seen = 0  # cells of this kernel that were looked at


def study_of(namespace: Mapping[str, Any], own: Sequence[str] = ()) -> Study:
    """Return the study that a notebook's parameters ask for; call it as ``study_of(globals())``.

    Parameters are the names that cells of plain assignments give, as the parameters cell and the one that
    papermill injects are: ``epochs = 3``. So a mistyped one is refused, and what other cells define is none.

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
    given = {name: namespace[name] for name in _assigned(namespace) if name not in own}
    fields = valid_parameters()
    wanted = {name: value for name, value in given.items() if value is not None or name not in fields}
    check(fields, wanted)
    return require_generated(plan(**wanted))


def _assigned(namespace: Mapping[str, Any]) -> list[str]:
    """Return the names that the newest cells of plain assignments gave, all names outside a notebook."""
    global _asked, _seen
    if "In" not in namespace:
        return list(namespace)
    cells, _seen = namespace["In"][_seen:], len(namespace["In"])
    if found := {name for cell in cells for name in _plain(cell)}:
        _asked = found
    return [name for name in namespace if name in _asked]


def _plain(cell: str) -> list[str]:
    """Return the names of a cell that only assigns literals; none of any other cell."""
    try:
        body = ast.parse(cell).body
        [ast.literal_eval(node.value) for node in body]
        return [target.id for node in body for target in node.targets]
    except (SyntaxError, ValueError, AttributeError, TypeError):
        return []


class Shown:
    """Markdown that a notebook shows, with the record of what it rests on in the output's metadata."""

    def __init__(self, markdown: str, runs: Sequence[Run], **record: Any):
        self.markdown = markdown + link(runs)
        self.record = {"runs": [run.name for run in runs], **record}

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/markdown": self.markdown, "text/plain": self.markdown}, {RECORD: self.record}


def show(frame: pd.DataFrame, runs: Sequence[Run] = (), *, name: str = "table", **options: Any) -> Shown:
    """Return a frame as a table that links to the runs it was computed from; see `tables.markdown`.

    A column ``run`` of names of runs links to their pages.
    """
    links = list(options.pop("links", ()))
    if "run" in frame:
        frame = frame.assign(run=[f"[`{run.removeprefix('published-')}`](#run-{run})" for run in frame["run"]])
        links.append("run")
    return Shown(tables.markdown(frame, name=name, links=links, **options), runs)


def say(sentence: str, runs: Sequence[Run] = (), **numbers: float | str) -> Shown:
    """Return Markdown, and keep numbers by name for other pages, each as the chapter's sentence prints it."""
    return Shown(sentence, runs, numbers=numbers)


def claim(sentence: str, holds: bool, runs: Sequence[Run] = (), *, name: str, decided: bool = True) -> Shown:
    """Return a conclusion with whether it holds in the runs that are shown.

    Parameters
    ----------
    sentence : str
        What its author concludes, of the published results.
    holds : bool
        The condition, computed from the runs.
    runs : sequence of Run
    name : str
        By which other pages find it.
    decided : bool
        Whether these runs could show it either way: a single split has no interval.
    """
    verdict = (
        "not decided by these runs"
        if not decided
        else "holds in these runs"
        if holds
        else "does not hold in these runs"
    )
    record = {"claim": name, "sentence": sentence, "holds": bool(holds), "decided": bool(decided)}
    return Shown(f"> {sentence} *({verdict})*", runs, **record)


def about(study: Study, runs: Sequence[Run] = ()) -> Shown:
    """Return the line that says what a page's numbers come from."""
    return Shown(line(study, runs), runs, study={"profile": study.profile, **study.changed})


def label(runs: Sequence[Run]) -> str:
    """Return the name of the list of some runs, which links to it name."""
    return "runs-" + hashlib.sha256(" ".join(run.name for run in runs).encode()).hexdigest()[:8]


def link(runs: Sequence[Run]) -> str:
    """Return a link to the list of some runs; nothing for none."""
    return f" [{len(runs)} runs](#{label(runs)})" if runs else ""
