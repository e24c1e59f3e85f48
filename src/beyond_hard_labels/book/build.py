"""From sources to pages: execute the notebooks, fill the pages' numbers, check, build.

    notebooks/*.ipynb --papermill--> build/executed/*.ipynb --check--> build/book/ --jupyter-book -W--> HTML

A notebook is executed only if its code cells, its parameters, the modules that it uses or the
libraries changed since its last copy. It is executed to a temporary file and moved only when it is
whole; the book is staged and built beside the last one and takes its place only when it is finished.
So what lies in ``build`` is always something that was made completely.
"""

import errno
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import nbformat
import pandas as pd
import yaml

from beyond_hard_labels.analysis import sections
from beyond_hard_labels.base import files, paths, process
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.process import tell
from beyond_hard_labels.book import grid_pages, pages, report, verify
from beyond_hard_labels.runs import fresh, grids, publish, store
from beyond_hard_labels.runs.ensure import ensure_specs
from beyond_hard_labels.runs.maps import set_aside_damaged_map
from beyond_hard_labels.runs.study import Study

_SHOWN_PACKAGES = (
    *("torch", "torchvision", "timm", "numpy", "pandas", "scipy", "scikit-learn", "openTSNE", "seaborn", "matplotlib"),
    *("papermill", "jupyter-book", "sphinx", "myst-nb"),
)


class BookError(Exception):
    """A notebook failed or a page could not be built; the message says which and shows why."""


def make(study: Study, *, workers: int | None = None, only: str | None = None, cell_timeout: float = 3600) -> Path:
    """Execute the notebooks, build the book, and return the path of its first page.

    A book that is made from nothing leaves its wall time in ``build/full_book.json``, which the
    benchmarks hold later ones against.

    Parameters
    ----------
    study : Study
    workers : int, optional
        Processes that train, and that execute notebooks; see `study.ensure`.
    only : str, optional
        The one notebook to execute, by the name of its file without ending. The others' last executed
        copies are kept, and must be there and of the same study.
    cell_timeout : float
        Seconds that one cell of a notebook may take.

    Raises
    ------
    BookError
        If a notebook fails or is not whole, a printed number does not follow from the stored
        predictions, or a page cannot be built.
    """
    names = notebooks_in_order(paths.project_folder())
    if only is not None and only not in names:
        raise InputError(f"there is no notebook '{only}'; expected one of {', '.join(names)}")
    with files.lock(paths.build_folder() / "locks" / "book", "builds the book"):
        return _make(study, names, workers, only, cell_timeout)


def _make(study: Study, names: list[str], workers: int | None, only: str | None, cell_timeout: float) -> Path:
    root, build = paths.project_folder(), paths.build_folder()
    if only is not None:
        _require_executed(study, [name for name in names if name != only], build / "executed")
    started, from_nothing = time.perf_counter(), not list((build / "runs").glob("*"))
    found = _train(study, [root / "notebooks" / f"{name}.ipynb" for name in names], workers)
    for path in sorted((build / "maps").glob("*.npz")):
        set_aside_damaged_map(path)  # here and not in a notebook, whose page would not show the word
    reasons = {}
    for name in names:
        source, copy = root / "notebooks" / f"{name}.ipynb", build / "executed" / f"{name}.ipynb"
        reason = {None: fresh.told(why_stale(source, copy, study)), name: "asked for"}.get(only)
        if reason:
            reasons[name] = reason
            tell(f"{name} is executed: {reason}")
        else:
            tell(f"{name} is kept: {'fresh' if only is None else 'not asked for'}")
    _execute_all(root / "notebooks", build / "executed", reasons, study, cell_timeout, workers)
    stage = build / "book.staging"
    try:
        _stage(root, stage, build / "executed", names, study, found)
        _verify(stage)
        _build_html(stage, build / "book.log")
    except OSError as error:
        if files.is_full(error):
            shutil.rmtree(stage, ignore_errors=True)  # it takes the room that is missing
            raise files.Unwritten(errno.ENOSPC, os.strerror(errno.ENOSPC), str(stage)) from error
        raise
    shutil.rmtree(build / "book", ignore_errors=True)
    stage.rename(build / "book")
    if from_nothing and set(reasons.values()) == {"no executed copy"} and set(reasons) == set(names):
        trained = len(list((build / "runs").glob("*/spec.json")))
        made = {"command": study.command, "seconds": round(time.perf_counter() - started, 1), "trained": trained}
        files.write_json(build / "full_book.json", made)
    return build / "book" / "_build" / "html" / "index.html"


def _train(study: Study, notebooks: list[Path], workers: int | None) -> list[store.Run]:
    """Train what is missing of the study and of the grids that notebooks ask for, at once; return the study's runs.

    So no kernel trains. Long runs come first, lest one is left to a single core at the end.
    """
    text = "".join(path.read_text("utf-8") for path in notebooks)
    asked = [grid for grid in grids.GRIDS if f'grids.results(\\"{grid}\\"' in text]  # quoted in JSON
    more = [spec for grid in asked for part in grids.to_train(grid, study).values() for spec in part]
    more.sort(key=grids.images_seen, reverse=True)
    return ensure_specs([*study.specs(), *more], workers=workers)[: len(study.specs())]


def _execute_all(
    sources: Path, copies: Path, names: Iterable[str], study: Study, cell_timeout: float, workers: int | None
) -> None:
    """Execute notebooks in parallel processes, since papermill changes the folder of its process.

    All are executed to their end, then the failures are raised together.
    """
    copies.mkdir(parents=True, exist_ok=True)
    calls = [(sources / f"{name}.ipynb", copies / f"{name}.ipynb", study, cell_timeout) for name in names]
    workers = min(workers or len(os.sched_getaffinity(0)), len(calls))
    if workers > 1 or (calls and process.is_stoppable()):  # in this process, nbclient would take the signals over
        with process.pool(workers) as pool:
            failures = list(pool.map(_try_to_execute, calls))
    else:
        failures = [_try_to_execute(call) for call in calls]
    if any(failures):
        raise BookError("\n\n".join(filter(None, failures)))


def _try_to_execute(call: tuple) -> str:
    try:
        execute(*call)
    except BookError as error:
        return str(error)
    return ""


def _verify(stage: Path) -> None:
    checked, faults = verify.faults(stage)
    if faults:
        raise BookError("printed numbers do not follow from the stored predictions:\n" + "\n".join(faults))
    tell(f"{checked} printed numbers and tables follow from the stored predictions")


def notebooks_in_order(root: Path) -> list[str]:
    """Return the names of the notebooks in the order of the table of contents."""
    return re.findall(r"file:\s*notebooks/(\w+)", (root / "_toc.yml").read_text("utf-8"))


def _require_executed(study: Study, names: list[str], folder: Path) -> None:
    for name in names:
        path = folder / f"{name}.ipynb"
        if not path.is_file():
            raise InputError(f"{name} has no executed copy at {path}; build the whole book once, without --only")
        made = nbformat.read(path, as_version=4).metadata["beyond_hard_labels"]
        if made["command"] != study.command:
            raise InputError(
                f"{path} was executed with '{made['command']}', not '{study.command}'; build the whole book"
            )


def why_stale(source: Path, copy: Path, study: Study) -> list[fresh.Change]:
    """Return why a notebook must be executed again; nothing if its last copy still holds.

    Prose is no reason: the pages take it from the source.
    """
    if not copy.is_file():
        return [fresh.Change("record", "no executed copy")]
    before = nbformat.read(copy, as_version=4).metadata["beyond_hard_labels"]["inputs"]
    return fresh.changes(before, inputs(source, study))


def inputs(source: Path, study: Study) -> dict[str, dict[str, str]]:
    """Return what an executed notebook depends on, as `runs.changes` compares it, by names for readers."""
    cells = [cell.source for cell in nbformat.read(source, as_version=4).cells if cell.cell_type == "code"]
    parts = {
        "code cells": cells,
        "parameters": [
            study.command,
            study.protocol,
            study.splits,
            study.perplexity,
            study.tsne_iterations,
            study.shared,
        ],
    }
    hashed = {name: _hash(part) for name, part in parts.items()}
    if any("ensure(" in cell for cell in cells):
        hashed["runs"] = _hash([run.manifest["files"] if (run := store.find(spec)) else None for spec in study.specs()])
    for grid in grids.GRIDS:
        if any(f'grids.results("{grid}"' in cell for cell in cells):
            hashed[f"grid {grid}"] = _hash(grids.state(grid, study))
    if any("sections." in cell for cell in cells):
        hashed["real sets"] = _hash(sections.state())
    used = fresh.modules_used("\n".join(cells))
    return {"code": hashed | fresh.code_fingerprints(*used), "versions": fresh.versions(*_SHOWN_PACKAGES)}


def _hash(part) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]


def with_prose_of(source: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the executed notebook with the Markdown cells and cell metadata of its source.

    Both have the same code cells, but for the one of parameters that papermill injects.
    """
    ran = [cell for cell in executed.cells if cell.cell_type == "code"]
    cells = []
    for cell in source.cells:
        if cell.cell_type == "code":
            while "injected-parameters" in ran[0].metadata.get("tags", []):
                cells.append(ran.pop(0))
            cell = ran.pop(0) | {"metadata": cell.metadata}
        cells.append(cell)
    return nbformat.from_dict(executed | {"cells": cells})


def execute(source: Path, target: Path, study: Study, cell_timeout: float) -> None:
    """Execute one notebook with papermill; `target` appears only if every cell ran.

    Raises
    ------
    BookError
        With the notebook, the cell and its last lines; the failed copy stays beside the target.
    """
    import papermill

    os.environ.pop("MPLBACKEND", None)  # kernels show figures in the page; with another backend they show none
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of names that our own check has accepted
    failed = target.with_name(f"{source.stem}.failed.ipynb")
    parameters = {"profile": study.profile, **study.changed}
    if parameters == {"profile": "quick"}:
        parameters = {}  # what the notebook says itself; no injected cell
    started = time.perf_counter()
    try:
        papermill.execute_notebook(
            source,
            failed,
            parameters,
            kernel_name="python3",
            cwd=source.parent,
            progress_bar=False,
            execution_timeout=cell_timeout,
            # It warns at every start that it speaks TCP, and takes the interrupt before its end for an error.
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
        )
    except Exception as error:  # papermill, nbclient and zmq each have their own; all mean that the book stops
        if files.is_full(error):
            failed.unlink(missing_ok=True)  # it is cut short
            raise files.Unwritten(errno.ENOSPC, os.strerror(errno.ENOSPC), str(failed)) from error
        raise BookError(_failure(source, failed, error)) from error
    notebook = nbformat.read(failed, as_version=4)
    if faults := unfinished(notebook):
        raise BookError(f"notebook {source.stem} is not whole, see {failed}: " + "; ".join(faults))
    seconds = time.perf_counter() - started
    notebook.metadata["beyond_hard_labels"] = {
        "command": study.command,
        "seconds": round(seconds, 1),
        "inputs": inputs(source, study),
    }
    files.write(target, (nbformat.writes(_scrubbed(notebook)) + "\n").encode())
    failed.unlink()


def _failure(source: Path, failed: Path, error: Exception) -> str:
    """Say which cell of a notebook failed, how, and its last lines."""
    reason = f"{type(error).__name__}: {error}"
    if "Kernel died" in str(error):
        reason = "its kernel died: killed, or out of memory"
    elif "timed out" in str(error).lower():
        reason = str(error).splitlines()[0]
    cells = nbformat.read(failed, as_version=4).cells if failed.is_file() else []
    started = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    if not started:
        return f"notebook {source.stem} failed before its first cell: {reason}"
    last = started[-1]
    place = [cell.id for cell in nbformat.read(source, as_version=4).cells]  # papermill adds cells of its own
    where = f"cell {place.index(last.id) + 1} ({last.id})" if last.id in place else "its parameters"
    printed = [line for output in last.outputs for line in output.get("text", "").splitlines()]
    lines = ["  | " + line for line in [*last.source.splitlines()[-4:], *printed[-8:]]]
    return "\n".join([f"notebook {source.stem} failed in {where}, see {failed}", *lines, reason])


def unfinished(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what keeps an executed notebook from being whole; nothing if it is.

    Papermill's own record is no proof: it calls a cell completed whose kernel was killed.
    """
    faults = []
    for number, cell in verify.numbered(notebook):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if cell.execution_count is None:
            faults.append(f"cell {number} never ran")
        for output in cell.outputs:
            if output.output_type == "error":
                faults.append(f"cell {number} raised {output.ename}: {output.evalue}")
            elif output.get("name") == "stderr":
                faults.append(f"cell {number} wrote to stderr: {output.text.strip()[:300]}")
    if "language_info" not in notebook.metadata:
        faults.append("no kernel recorded its language")
    return faults


def _scrubbed(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what papermill records of paths and times, so that a copy says nothing of the machine."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    return notebook


def _stage(root: Path, stage: Path, executed: Path, names: list[str], study: Study, found: list[store.Run]) -> None:
    """Lay out the complete book: configuration, pages with their numbers, executed notebooks, source."""
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(root / "book", stage / "book")
    _copy_mathjax(stage / "book" / "_static" / "mathjax")
    shutil.copytree(root / "src", stage / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    _write_config(root / "_config.yml", stage / "_config.yml")
    (stage / "notebooks").mkdir()
    groups, asked = {report.label(found): (study, found)}, set()
    for name in names:
        source, copy = (nbformat.read(f / f"{name}.ipynb", as_version=4) for f in (root / "notebooks", executed))
        if faults := unfinished(copy):
            raise BookError(f"notebook {name} is not whole, see {executed / name}.ipynb: " + "; ".join(faults))
        staged = stage / "notebooks" / f"{name}.ipynb"
        nbformat.write(with_prose_of(source, copy), staged)
        for _, _, record in verify.printed_in(staged):
            if "grids" in record:
                asked |= set(record["grids"])
                continue
            others = verify.runs_of(record)
            groups.setdefault(report.label(others[1]), others)
    for entry in publish.entries():
        if entry.runs:
            groups.setdefault(report.label(entry.runs), (entry.study, entry.runs))
    ours_first = sorted(groups.values(), key=lambda group: all(run.published for run in group[1]))
    part, records = pages.write(stage / "runs", ours_first)
    of_grids = {grid: grids.results(grid, study) for grid in sorted(asked)}
    chapters, of_pages = grid_pages.write(stage / "runs", study, of_grids)
    part["chapters"] += chapters
    records |= of_pages
    contents = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    parts = contents.get("parts", [{"chapters": contents.pop("chapters", [])}])
    (stage / "_toc.yml").write_text(yaml.safe_dump(contents | {"parts": [*parts, part]}, sort_keys=False), "utf-8")
    from_runs = pages.page_texts(study, found) | grid_pages.texts(study, **of_grids)
    named = _page_tables(study, found, executed, names)
    for page in sorted((stage / "book").glob("*.md")):
        text, printed = report.fill(page.read_text("utf-8"), from_runs | named, f"book/{page.name}")
        page.write_text(text, "utf-8")
        printed = {name: text for name, text in printed.items() if name in from_runs}
        records[f"book/{page.name}"] = report.record(study, found, printed)
    store.write_json(stage / "printed.json", records)


def _copy_mathjax(target: Path) -> None:
    """Copy MathJax 3 and its fonts out of the package that carries them, so that pages need no network."""
    source = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    fonts = "output/chtml/fonts/woff-v2"
    shutil.copytree(source / fonts, target / fonts)
    shutil.copy(source / "tex-mml-chtml.js", target)


def _write_config(source: Path, target: Path) -> None:
    """Copy the configuration; where BHL_REPOSITORY_URL gives the address, with links to it and to Binder."""
    config = yaml.safe_load(source.read_text("utf-8"))
    for name in config["sphinx"].pop("local_extensions", ()):  # it stops whoever builds the sources
        config["sphinx"]["config"]["extensions"].remove(name)
    if url := os.environ.get("BHL_REPOSITORY_URL"):
        config["repository"] = {"url": url, "branch": "main", "path_to_book": ""}
        config["launch_buttons"] = {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}
        config["html"] |= {"use_repository_button": True, "use_issues_button": True, "use_edit_page_button": True}
    target.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")


def _page_tables(study: Study, found: list[store.Run], executed: Path, names: list[str]) -> dict[str, str]:
    seconds = {
        name: nbformat.read(executed / f"{name}.ipynb", as_version=4).metadata["beyond_hard_labels"]["seconds"]
        for name in names
    }
    tables = {
        "notebooks": pd.DataFrame({"notebook": list(seconds), "seconds": [f"{s:.1f}" for s in seconds.values()]}),
        "machine": pd.DataFrame(store.machine(found[0].spec.device).items(), columns=["what", "value"]),
        "versions": pd.DataFrame(fresh.versions(*_SHOWN_PACKAGES).items(), columns=["package", "version"]),
    }
    return {f"table.{name}": report.markdown_table(frame, name) for name, frame in tables.items()}


def _build_html(stage: Path, log: Path) -> None:
    """Build the staged book; any warning of Sphinx is an error."""
    tell("building the pages")
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        str(stage),
        "-W",
        "-n",
        "--keep-going",
    ]
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code and shutil.disk_usage(stage).free < 1 << 20:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if code or not (stage / "_build" / "html" / "index.html").is_file():
        lines = log.read_text("utf-8").splitlines()
        shown = [line for line in lines if re.search(r"WARNING|ERROR|CRITICAL", line)] or lines[-20:]
        raise BookError(f"jupyter-book ended with code {code}, see {log}:\n" + "\n".join(shown))
