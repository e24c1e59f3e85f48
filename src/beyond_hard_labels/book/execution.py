"""Notebooks executed, and whether their last copies still hold.

A copy holds as long as the code cells, the parameters, the modules that they import, the libraries and what was read
of the store are the same. No kernel trains: it names the runs that it lacks, and is started again when they are there.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

from beyond_hard_labels.base import files, process, reads
from beyond_hard_labels.book import pages
from beyond_hard_labels.book.pages import RECORD
from beyond_hard_labels.runs import fresh
from beyond_hard_labels.runs.ensure import ensure_specs
from beyond_hard_labels.runs.grids import images_seen
from beyond_hard_labels.runs.spec import RunSpec
from beyond_hard_labels.runs.study import Study


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
    noted = {read: old for read, old in before["reads"].items() if old is not None}
    now = {read: digest(*read.split(" ", 1)) for read in before["reads"]}
    here = {read: new for read, new in now.items() if read in noted or new is not None}
    return fresh.changes(before | {"reads": noted}, inputs(source, study, own) | {"reads": here})


def inputs(source: Path, study: Study, own: Mapping[str, Any] = ()) -> dict[str, dict[str, str]]:
    """Return what an executed notebook depends on beside what it reads, as `fresh.changes` compares it."""
    cells = [cell["source"] for cell in read_notebook(source)["cells"] if cell["cell_type"] == "code"]
    profiles = {path.name: files.checksum(path) for path in sorted((fresh.PACKAGE / "runs" / "profiles").iterdir())}
    parts = {"code cells": cells, "parameters": [asdict(study), dict(own)], "profiles": profiles}
    used = fresh.code_fingerprints(*fresh.modules_used("\n".join(cells)))
    code = {name: hashed(part) for name, part in parts.items()} | used
    return {"code": code, "versions": fresh.versions(*pages.SHOWN_PACKAGES)}


def hashed(part: Any) -> str:
    """Return the hash of plain values."""
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
        lacking = {name: set(specs) for name, specs in zip(waiting, results, strict=True) if specs}
        for name, specs in lacking.items():
            if specs <= trained:
                raise BookError(f"notebook {name} asks for runs that were trained already: {min(s.key for s in specs)}")
        missing = set().union(*lacking.values())
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

    Missing runs are returned, if training is to ``ask``; with ``never`` they are a failure as any other, a `BookError`
    with the notebook, the cell and its last lines, and the failed copy stays beside the target.
    """
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of names that our own check has accepted
    failed = target.with_name(f"{source.stem}.failed.ipynb")
    parameters = {"profile": study.profile, **study.changed, **dict(own)}
    parameters = {} if parameters == {"profile": "quick"} else parameters  # as it says itself; no injected cell
    made_of, started = inputs(source, study, own), time.perf_counter()  # before, lest an edit meanwhile is missed
    with tempfile.TemporaryDirectory() as folder:
        noted, missing = Path(folder) / "reads", Path(folder) / "missing"
        given = {reads.VARIABLE: str(noted), "BHL_MISSING": str(missing), "BHL_TRAIN": train}
        given["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # with another one, kernels show no figures
        options = {"kernel_name": "python3", "progress_bar": False, "execution_timeout": cell_timeout}
        # A kernel warns at every start that it speaks TCP, and takes the interrupt before its end for an error.
        options["extra_arguments"] = ["--IPKernelApp.log_level=CRITICAL"]
        try:
            with mock.patch.dict(os.environ, given):
                papermill.execute_notebook(source, failed, parameters, cwd=source.parent, **options)
        except Exception as error:  # papermill, nbclient and zmq each have their own; all mean that the book stops
            if files.is_full(error):
                raise files.Unwritten(error.errno, error.strerror, str(failed)) from error
            if not missing.is_file():
                raise BookError(_failure(source, failed, error)) from error
        if missing.is_file():
            failed.unlink(missing_ok=True)
            return [RunSpec(**json.loads(line)) for line in dict.fromkeys(missing.read_text("utf-8").splitlines())]
        made_of["reads"] = {" ".join(read): digest for read, digest in reads.noted(noted).items()}
    notebook = read_notebook(failed)
    require_whole(notebook, failed)
    for part in [notebook, *notebook["cells"]]:  # paths and times, which say something of the machine
        for name in ("papermill", "execution"):
            part["metadata"].pop(name, None)
    seconds = round(time.perf_counter() - started, 1)
    notebook["metadata"][RECORD] = {"command": study.command, "seconds": seconds, "inputs": made_of}
    files.write(target, notebook_text(notebook))
    failed.unlink()
    return []


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
    cells = pages.numbered(read_notebook(failed)) if failed.is_file() else ()
    started = [pair for pair in cells if pair[1]["metadata"].get("papermill", {}).get("start_time")]
    if not started:
        return f"notebook {source.stem} failed before its first cell: {reason}"
    number, last = started[-1]
    printed = [line for output in last["outputs"] for line in "".join(output.get("text", "")).splitlines()]
    lines = ["  | " + line for line in [*last["source"].splitlines()[-4:], *printed[-8:]]]
    return "\n".join([f"notebook {source.stem} failed in cell {number} ({last['id']}), see {failed}", *lines, reason])


def require_whole(notebook: dict[str, Any], path: Path) -> None:
    """Raise `BookError` with all that keeps an executed notebook from being whole.

    Papermill's own record is no proof: it calls a cell completed whose kernel was killed.
    """
    if faults := unfinished(notebook):
        raise BookError(f"notebook {path.name.partition('.')[0]} is not whole, see {path}: " + "; ".join(faults))


def unfinished(notebook: dict[str, Any]) -> list[str]:
    """Return what keeps an executed notebook from being whole; nothing if it is."""
    faults = [] if "language_info" in notebook["metadata"] else ["no kernel recorded its language"]
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
    return faults
