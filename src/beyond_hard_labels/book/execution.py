"""Notebooks executed, and whether their last copies still hold.

A copy holds as long as the code cells, the parameters, the modules that they import, the libraries and what was read
of the store are the same. No kernel trains: it names the runs that it lacks, they are trained here, all at once
and outside of the time that a cell has, and the notebook is executed again.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from beyond_hard_labels.base import files, process, reads
from beyond_hard_labels.book import pages
from beyond_hard_labels.runs import fresh
from beyond_hard_labels.runs.ensure import ensure_specs
from beyond_hard_labels.runs.grids import images_seen
from beyond_hard_labels.runs.spec import RunSpec
from beyond_hard_labels.runs.study import Study

RECORD = "beyond_hard_labels"  # the key of a notebook's metadata


class BookError(Exception):
    """A notebook failed or a page could not be built; the message says which and shows why."""


def why_stale(
    source: Path, copy: Path, study: Study, own: Mapping[str, Any] = (), digest: Callable = reads.digest
) -> list[fresh.Change]:
    """Return why a notebook must be executed again; nothing if its last copy still holds.

    Prose is no reason: the pages take it from the source.
    """
    if not copy.is_file():
        return [fresh.Change("record", "no executed copy")]
    before = read_notebook(copy)["metadata"][RECORD]["inputs"]
    noted = {read: old for read, old in before.get("reads", {}).items() if old is not None}
    now = {read: digest(*read.split(" ", 1)) for read in before.get("reads", {})}
    here = {read: new for read, new in now.items() if read in noted or new is not None}
    return fresh.changes(before | {"reads": noted}, inputs(source, study, own) | {"reads": here})


def inputs(source: Path, study: Study, own: Mapping[str, Any] = ()) -> dict[str, dict[str, str]]:
    """Return what an executed notebook depends on beside what it reads, as `fresh.changes` compares it."""
    cells = [cell["source"] for cell in read_notebook(source)["cells"] if cell["cell_type"] == "code"]
    values = [study.command, study.protocol, study.splits, study.perplexity, study.tsne_iterations, study.shared]
    profiles = {path.name: files.checksum(path) for path in sorted((fresh.PACKAGE / "runs" / "profiles").iterdir())}
    own_code = {"code cells": hashed(cells), "parameters": hashed([*values, dict(own)]), "profiles": hashed(profiles)}
    used = fresh.modules_used("\n".join(cells))
    return {"code": own_code | fresh.code_fingerprints(*used), "versions": fresh.versions(*pages.SHOWN_PACKAGES)}


def hashed(part) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]


def execute_all(sources: Path, copies: Path, executing: Mapping[str, tuple], workers: int | None = None) -> None:
    """Execute notebooks in parallel processes, since papermill changes the folder of its process.

    All are executed to their end, then the failures are raised together. Those that lack runs are executed again
    when these are trained, all at once, the longest first lest one is left to a single core at the end.
    `executing` holds the further arguments of `execute` by the notebook's name.
    """
    copies.mkdir(parents=True, exist_ok=True)
    waiting, trained = dict(executing), set()
    while waiting:
        calls = [(sources / f"{name}.ipynb", copies / f"{name}.ipynb", *rest) for name, rest in waiting.items()]
        processes = min(workers or len(os.sched_getaffinity(0)), len(calls))
        if processes > 1 or process.is_stoppable():  # in this process, nbclient would take the signals over
            with process.pool(processes) as pool:
                results = list(pool.map(_try_to_execute, calls))
        else:
            results = [_try_to_execute(call) for call in calls]
        if failures := [result for result in results if isinstance(result, str)]:
            raise BookError("\n\n".join(failures))
        lacking = {name: specs for name, specs in zip(waiting, results, strict=True) if specs}
        for name, specs in lacking.items():
            if trained.issuperset(specs):
                raise BookError(f"notebook {name} asks for runs that were trained already: {specs[0].key}, ...")
        missing = {spec for specs in lacking.values() for spec in specs}
        if missing:
            ensure_specs(sorted(missing, key=lambda spec: (-images_seen(spec), spec.key)), workers=workers)
        trained |= missing
        waiting = {name: waiting[name] for name in lacking}


def _try_to_execute(call: tuple) -> list[RunSpec] | str:
    try:
        return execute(*call)
    except BookError as error:
        return str(error)


def execute(
    source: Path, target: Path, study: Study, cell_timeout: float, own: Mapping[str, Any] = (), train: str = "ask"
) -> list[RunSpec]:
    """Execute one notebook with papermill; `target` appears only if every cell ran, and no run was missing.

    Returns
    -------
    list of RunSpec
        The missing runs, if it asked for any and training is to ``ask``; with ``never`` they are a failure.

    Raises
    ------
    BookError
        With the notebook, the cell and its last lines; the failed copy stays beside the target.
    """
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of names that our own check has accepted
    failed = target.with_name(f"{source.stem}.failed.ipynb")
    parameters = {"profile": study.profile, **study.changed, **dict(own)}
    if parameters == {"profile": "quick"}:
        parameters = {}  # what the notebook says itself; no injected cell
    made_of, started = inputs(source, study, own), time.perf_counter()  # before, lest an edit meanwhile is missed
    with tempfile.TemporaryDirectory() as folder:
        noted, missing = Path(folder) / "reads", Path(folder) / "missing"
        given = {reads.VARIABLE: str(noted), "BHL_MISSING": str(missing), "BHL_TRAIN": train}
        try:
            with environment(**given, MPLBACKEND=None):  # kernels show figures; with another backend they show none
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
            if not missing.is_file():
                raise BookError(_failure(source, failed, error)) from error
        if missing.is_file():
            failed.unlink(missing_ok=True)
            return [RunSpec(**json.loads(line)) for line in dict.fromkeys(missing.read_text("utf-8").splitlines())]
        made_of["reads"] = {" ".join(read): digest for read, digest in reads.noted(noted).items()}
    notebook = read_notebook(failed)
    if faults := unfinished(notebook):
        raise BookError(f"notebook {source.stem} is not whole, see {failed}: " + "; ".join(faults))
    seconds = round(time.perf_counter() - started, 1)
    record = {"command": study.command, "own": dict(own), "seconds": seconds, "inputs": made_of}
    notebook["metadata"][RECORD] = record
    files.write(target, notebook_text(_scrubbed(notebook)))
    failed.unlink()
    return []


@contextlib.contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Set, or with None unset, variables of this process and of those that it starts."""
    before = {name: os.environ.get(name) for name in values}

    def put(content: Mapping[str, str | None]) -> None:
        for name, value in content.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    put(values)
    try:
        yield
    finally:
        put(before)


def read_notebook(path: Path) -> dict[str, Any]:
    """Return a notebook with the text of each cell in one piece; nbformat would take seconds to import."""
    notebook = json.loads(path.read_text("utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def notebook_text(notebook: dict[str, Any]) -> bytes:
    """Return a notebook as it is written."""
    return (json.dumps(notebook, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _failure(source: Path, failed: Path, error: Exception) -> str:
    """Say which cell of a notebook failed, how, and its last lines."""
    reason = f"{type(error).__name__}: {error}"
    if "Kernel died" in str(error):
        reason = "its kernel died: killed, or out of memory"
    elif "timed out" in str(error).lower():
        reason = str(error).splitlines()[0]
    cells = read_notebook(failed)["cells"] if failed.is_file() else []
    started = [cell for cell in cells if cell["metadata"].get("papermill", {}).get("start_time")]
    if not started:
        return f"notebook {source.stem} failed before its first cell: {reason}"
    last = started[-1]
    place = [cell["id"] for cell in read_notebook(source)["cells"]]  # papermill adds cells of its own
    where = f"cell {place.index(last['id']) + 1} ({last['id']})" if last["id"] in place else "its parameters"
    printed = [line for output in last["outputs"] for line in "".join(output.get("text", "")).splitlines()]
    lines = ["  | " + line for line in [*last["source"].splitlines()[-4:], *printed[-8:]]]
    return "\n".join([f"notebook {source.stem} failed in {where}, see {failed}", *lines, reason])


def unfinished(notebook: dict[str, Any]) -> list[str]:
    """Return what keeps an executed notebook from being whole; nothing if it is.

    Papermill's own record is no proof: it calls a cell completed whose kernel was killed.
    """
    faults = []
    for number, cell in pages.numbered(notebook):
        if cell["cell_type"] != "code" or not cell["source"].strip():
            continue
        if cell["execution_count"] is None:
            faults.append(f"cell {number} never ran")
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                faults.append(f"cell {number} raised {output['ename']}: {output['evalue']}")
            elif output.get("name") == "stderr":
                faults.append(f"cell {number} wrote to stderr: {''.join(output['text']).strip()[:300]}")
    if "language_info" not in notebook["metadata"]:
        faults.append("no kernel recorded its language")
    return faults


def _scrubbed(notebook: dict[str, Any]) -> dict[str, Any]:
    """Remove what papermill records of paths and times, so that a copy says nothing of the machine."""
    notebook["metadata"].pop("papermill", None)
    for cell in notebook["cells"]:
        cell["metadata"].pop("papermill", None)
        cell["metadata"].pop("execution", None)
    return notebook
