"""The proof that the book shows what its notebooks come to.

They are executed again, with training forbidden, and every output is held against the one that the book shows, cell
by cell, and then every page that is made of them.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import build, pages
from beyond_hard_labels.book.execution import RECORD, BookError, execute_all, read_notebook
from beyond_hard_labels.runs import store, study

_KINDS = ("text/markdown", "text/html", "image/png", "image/svg+xml")
_RANDOM = re.compile(  # identifiers that libraries draw anew each time, and places in memory
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|0x[0-9a-f]{6,}"
)


def faults(book: Path, *, workers: int | None = None, cell_timeout: float = 3600) -> tuple[int, list[str]]:
    """Execute the notebooks of a built book again, and hold all that it shows from them against what comes out.

    Parameters
    ----------
    book : Path
        The folder of a built book.
    workers : int, optional
        Processes that execute notebooks.
    cell_timeout : float
        Seconds that one cell may take.

    Returns
    -------
    tuple
        How many outputs and pages were compared, and one line for each that differs: notebook, cell, what the book
        shows, what came out. A notebook that does not run to its end is a fault.
    """
    try:
        made_of = files.read_sealed_json(book / "book.json")
    except files.Damaged as error:
        raise InputError(f"there is no whole book at {book}; build one with 'bhl book'") from error
    root, own = paths.project_folder(), made_of["own"]
    asked = study.plan(**made_of["asked"])
    shown = {path.stem: read_notebook(path) for path in sorted((book / "notebooks").glob("*.ipynb"))}
    executing = {name: (asked, cell_timeout, own if name == build.OF_READER else {}, "never") for name in shown}
    checked, found, again = 0, [], {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            execute_all(root / "notebooks", Path(folder), executing, workers)
        except BookError as error:
            found.append(str(error))
        for name in shown:
            if (copy := Path(folder) / f"{name}.ipynb").is_file():
                again[name] = read_notebook(copy)
                number, differing = compared(name, shown[name], again[name])
                checked, found = checked + number, found + differing
    if len(again) == len(shown):
        number, differing = _compared_pages(book, root, asked, again, shown)
        checked, found = checked + number, found + differing
    return checked, found


def compared(name: str, shown: dict, again: dict) -> tuple[int, list[str]]:
    """Return how many outputs two executed copies of a notebook have, and a line for each that differs."""
    cells = [[pair for pair in pages.numbered(copy) if pair[1]["cell_type"] == "code"] for copy in (shown, again)]
    if [cell["source"] for _, cell in cells[0]] != [cell["source"] for _, cell in cells[1]]:
        return 0, [f"{name}: the code of the book's copy is not that of the notebook; 'bhl book' executes it again"]
    checked, found = 0, []
    for (number, old), (_, new) in zip(*cells, strict=True):
        before, now = list(_contents(old)), list(_contents(new))
        checked += len(before)
        if [kind for kind, _ in before] != [kind for kind, _ in now]:
            kinds = [", ".join(kind for kind, _ in each) or "nothing" for each in (before, now)]
            found.append(f"{name}, cell {number}: shows {kinds[0]}, and again {kinds[1]}")
            continue
        found += [
            f"{name}, cell {number}: {kind} differs: {difference}"
            for (kind, text), (_, other) in zip(before, now, strict=True)
            for difference in _differences(text, other)
        ]
    return checked, found


def _contents(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield kind and content of all that a cell shows, and of the records behind it."""
    for output in cell["outputs"]:
        data = {kind: each for kind, each in output.get("data", {}).items() if kind in _KINDS} or output.get("data", {})
        if "text" in output:
            data = {output["name"]: output["text"]}
        if record := output.get("metadata", {}).get(RECORD):
            data = data | {"record": json.dumps(record, indent=1, sort_keys=True)}
        for kind, each in sorted(data.items()):
            text = "".join(each) if isinstance(each, str | list) else json.dumps(each, sort_keys=True)
            yield kind, _RANDOM.sub("…", text)


def _compared_pages(book: Path, root: Path, asked: study.Study, again: dict, shown: dict) -> tuple[int, list[str]]:
    """Fill in the pages anew, from the notebooks that were executed again, and compare them with the book's."""
    found = [store.find(spec) or store.published(spec) for spec in asked.specs()]
    if None in found:
        return 0, ["runs of the book's study are missing; 'bhl book' trains them"]
    seconds = {name: content["metadata"][RECORD]["seconds"] for name, content in shown.items()}
    made, differing = pages.made(root, asked, found, again, seconds), []
    for name, content in made.items():
        before = (book / name).read_bytes() if (book / name).is_file() else b""
        if name.endswith(".md"):
            differing += [f"{name}: {line}" for line in _differences(before.decode(), content.decode())]
        elif before != content:
            differing.append(f"{name}: differs")
    return len(made), differing


def _differences(before: str, now: str) -> list[str]:
    """Say how two texts differ, line by line; a picture is one line, and a link to a CSV says nothing to a reader."""
    lines = [[line for line in text.splitlines() if not line.startswith("<a class")] for text in (before, now)]
    if len(lines[0]) != len(lines[1]):
        return [f"{len(lines[0])} lines, and again {len(lines[1])}"]
    return [
        f"'{old[:200]}', and again '{new[:200]}'" if max(len(old), len(new)) < 5000 else "another picture"
        for old, new in zip(*lines, strict=True)
        if old != new
    ]
