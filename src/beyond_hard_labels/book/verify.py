"""Two proofs: that printed numbers follow from stored predictions, and that a run can be made again."""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat

from beyond_hard_labels.base import files
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import grid_pages, pages, report
from beyond_hard_labels.runs import store, study


def faults(book: Path) -> tuple[int, list[str]]:
    """Compute every number and table of a staged book again from the stored predictions.

    Returns
    -------
    tuple
        How many texts were checked, and one line for each that differs: page, name, what is printed,
        what the predictions give. What rests on a damaged run cannot be computed again: the damage is
        a fault, and so is each text.
    """
    checked, differing, damage, known = 0, [], set(), {}
    of_grids = functools.cache(lambda asked: grid_pages.texts(study.plan(**json.loads(asked))))
    for where, text, record in printed(book):
        made_of = json.dumps({name: part for name, part in record.items() if name != "printed"})
        for name, before in record["printed"].items():
            checked += 1
            try:
                if made_of not in known:
                    known[made_of] = _texts(record, of_grids)
                value = known[made_of][name]
                found = _differences(before, value() if callable(value) else value)
            except files.Damaged as error:
                damage.add(str(error))
                found = ["cannot be computed again"]
            differing += [f"{where}: {name} {difference}" for difference in found]
            if before not in text:
                differing.append(f"{where}: {name} was recorded as {_short(before)}, which the page does not show")
    return checked, sorted(damage) + differing


def printed(book: Path) -> Iterator[tuple[str, str, dict]]:
    """Yield place, shown text and record of everything that a staged book prints from runs."""
    records = book / "printed.json"
    if not records.is_file():
        raise InputError(f"there is no book at {book}; build one with 'bhl book'")
    for page, record in json.loads(records.read_text("utf-8")).items():
        yield page, (book / page).read_text("utf-8"), record
    for path in sorted((book / "notebooks").glob("*.ipynb")):
        yield from printed_in(path)


def printed_in(notebook: Path) -> Iterator[tuple[str, str, dict]]:
    """Yield place, shown text and record of what an executed notebook prints from runs."""
    for number, cell in numbered(nbformat.read(notebook, as_version=4)):
        for output in cell.get("outputs", []):
            if record := output.get("metadata", {}).get("beyond_hard_labels"):
                yield f"{notebook.stem}, cell {number}", output.data["text/markdown"], record


def numbered(notebook: nbformat.NotebookNode) -> Iterator[tuple[int, nbformat.NotebookNode]]:
    """Yield the cells with their numbers in the source, which lacks the parameters that papermill injects."""
    number = 0
    for cell in notebook.cells:
        number += "injected-parameters" not in cell.metadata.get("tags", [])
        yield number, cell


def runs_of(record: dict) -> tuple[study.Study, list[store.Run]]:
    """Return the study and the runs that a record of a page or an output names."""
    return study.plan(**record["study"]), [store.by_name(name) for name in record["runs"]]


def _texts(record: dict, of_grids: Callable[[str], dict]) -> dict:
    if "run" in record:
        return pages.texts(store.by_name(record["run"]))
    from_runs = {} if "grids" in record else pages.page_texts(*runs_of(record))
    return from_runs | of_grids(json.dumps(record["study"], sort_keys=True))


def _differences(before: str, now: str) -> list[str]:
    """Say how two texts differ; of a table, row by row, and without the link to its CSV."""
    lines = [[line for line in text.splitlines() if not line.startswith("<a class")] for text in (before, now)]
    if len(lines[0]) != len(lines[1]):
        return [f"has {len(lines[0])} lines, the stored predictions give {len(lines[1])}"]
    return [
        f"is printed as {_short(old)}, the stored predictions give {_short(new)}"
        for old, new in zip(*lines, strict=True)
        if old != new
    ]


def _short(text: str) -> str:
    """Return a line without what the eye does not see."""
    plain = report.plain(text).strip("| ")
    return f"'{plain[:300]}'"
