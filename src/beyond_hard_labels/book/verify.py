"""The proof that the book shows what its notebooks come to.

They are executed again, with training forbidden, and every output is held against the one that the book shows, cell
by cell, and then every page that is made of them.
"""

import difflib
import hashlib
import json
import re
import tempfile
from pathlib import Path

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import build, pages
from beyond_hard_labels.book.execution import BookError, execute_all, read_notebook
from beyond_hard_labels.book.pages import RECORD
from beyond_hard_labels.runs import store, study

_RANDOM = re.compile(  # identifiers that libraries draw anew each time, and places in memory
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|0x[0-9a-f]{6,}"
)


def faults(book: Path, *, workers: int | None = None, cell_timeout: float = 3600) -> tuple[int, list[str]]:
    """Execute the notebooks of a built book again, and hold all that it shows from them against what comes out.

    Returns
    -------
    tuple
        How many lines were compared, and those that differ: notebook, cell, what the book shows, what came out.
        A notebook that does not run to its end is a fault.
    """
    try:
        made_of = files.read_sealed_json(book / "book.json")
    except files.Damaged as error:
        raise InputError(f"there is no whole book at {book}; build one with 'bhl book'") from error
    root, own = paths.project_folder(), made_of["own"]
    asked = study.plan(**made_of["asked"])
    shown = {path.stem: read_notebook(path) for path in sorted((book / "notebooks").glob("*.ipynb"))}
    executing = {name: (asked, cell_timeout, own if name == build.OF_READER else {}, "never") for name in shown}
    with tempfile.TemporaryDirectory() as folder:
        try:
            execute_all(root / "notebooks", Path(folder), executing, workers)
        except BookError as error:
            return 0, [str(error)]
        again = {name: read_notebook(Path(folder) / f"{name}.ipynb") for name in shown}
    runs = [store.find(spec) or store.published(spec) for spec in asked.specs()]
    if None in runs:
        return 0, ["runs of the book's study are missing; 'bhl book' trains them"]
    for name, copy in again.items():
        copy["metadata"][RECORD]["seconds"] = shown[name]["metadata"][RECORD]["seconds"]  # pages show them
    before = {name: lines(name, copy) for name, copy in shown.items()}
    now = {name: lines(name, copy) for name, copy in again.items()}
    for name, page in pages.made(root, asked, runs, again).items():
        before[name] = lines(name, (book / name).read_text("utf-8") if (book / name).is_file() else "")
        now[name] = lines(name, page.decode())
    return sum(map(len, now.values())), [line for name in now for line in differences(before[name], now[name])]


def lines(name: str, shown: dict | str) -> list[str]:
    """Return all that a page says, or that the cells of a notebook hold and show, with the records behind it.

    Each line has its place. A link to a CSV says nothing to a reader; a picture is one line, by its hash.
    """
    parts = [(name, shown)] if isinstance(shown, str) else []
    for number, cell in pages.numbered(shown) if isinstance(shown, dict) else ():
        place = f"{name}, cell {number}"
        if cell["cell_type"] == "code" and not cell["source"].startswith("# Parameters"):  # papermill's own
            parts.append((f"{place}, code", cell["source"]))
        for output in cell.get("outputs", []):
            data = output.get("data", {}) | ({output["name"]: output["text"]} if "text" in output else {})
            parts += [
                (f"{place}, {kind}", data[kind]) for kind in sorted(data) if kind != "text/plain" or len(data) < 2
            ]
            record = output.get("metadata", {}).get(RECORD, {})
            parts.append((f"{place}, record", json.dumps(record, indent=1, sort_keys=True)))
    found = []
    for place, content in parts:
        text = "".join(content) if isinstance(content, str | list) else json.dumps(content, sort_keys=True)
        for line in _RANDOM.sub("…", text).splitlines():
            whole = line if len(line) < 5000 else f"a picture, {hashlib.sha256(line.encode()).hexdigest()}"
            found += [] if line.startswith("<a class") else [f"{place}: {whole}"]
    return found


def differences(before: list[str], now: list[str]) -> list[str]:
    """Return the lines that only one of two texts has, and which."""
    who = {"-": "the book", "+": "again"}
    changed = [] if before == now else list(difflib.unified_diff(before, now, n=0, lineterm=""))[2:]  # without heads
    return [f"{who[line[0]]}: {line[1:300]}" for line in changed if line[0] in who]
