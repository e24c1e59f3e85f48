"""From sources to pages: execute the notebooks, fill the pages' numbers, check, build.

    notebooks/*.ipynb --papermill--> build/executed/*.ipynb --check--> build/stage/ --jupyter-book -W--> build/book/

Which notebooks are executed, and how, says `execution`. In the stage only files that changed are written, so that
Sphinx reads only these again; it writes all pages, into an empty folder, which takes the place of the last book when
nothing is wrong. So what lies in ``build/book`` was made completely. If no file of the stage changed, nothing is built.
"""

import contextlib
import errno
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from beyond_hard_labels.base import files, paths, reads
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.process import tell
from beyond_hard_labels.book import execution, pages
from beyond_hard_labels.book.execution import BookError, read_notebook
from beyond_hard_labels.book.pages import RECORD
from beyond_hard_labels.runs import fresh, store
from beyond_hard_labels.runs.ensure import ensure_specs
from beyond_hard_labels.runs.maps import read_map
from beyond_hard_labels.runs.study import Study

OF_READER = "your_votes"  # the notebook that takes a reader's own files
_SPHINX = """\
import sys
from pathlib import Path
from jupyter_book.sphinx import build_sphinx
stage = Path(sys.argv[1])
asked = {"external_toc_path": str(stage / "_toc.yml"), "latex_individualpages": False, "nitpicky": True}
code = build_sphinx(stage, stage / "_build" / "html", noconfig=True, path_config=stage / "_config.yml",
                    confoverrides=asked, force_all=True, warningiserror=True, keep_going=True)
sys.exit(code if isinstance(code, int) else 1)
"""  # as jupyter-book build -W -n --keep-going does, but every page is written, so that every link is looked up


def make(
    study: Study, *, workers: int | None = None, only: str | None = None, cell_timeout: float = 3600, own: Mapping = ()
) -> Path:
    """Execute the notebooks, build the book, and return the path of its first page.

    A book that is made from nothing leaves its wall time in ``build/full_book.json``, for the benchmarks.

    Parameters
    ----------
    study : Study
    workers : int, optional
        Processes that train, and that execute notebooks; see `ensure.ensure`.
    only : str, optional
        The one notebook to execute; the others' last copies are kept, and must be there and of the same study.
    cell_timeout : float
        Seconds that one cell of a notebook may take.
    own : mapping, optional
        Parameters that only the notebook `OF_READER` has, which are paths: ``votes_csv`` and ``image_folder``.

    Raises
    ------
    BookError
        If a notebook fails or is not whole, a claim does not hold for the published results, or a page fails.
    """
    root, build = paths.project_folder(), paths.build_folder()
    names, copies = notebooks_in_order(root), build / "executed"
    page = build / "book" / "_build" / "html" / "index.html"
    own = {name: str(Path(path).resolve()) for name, path in dict(own).items()}  # kernels run elsewhere
    if only not in (None, *names):
        raise InputError(f"there is no notebook '{only}'; expected one of {', '.join(names)}")
    with files.lock(build / "locks" / "book", "builds the book"):
        for copy in [copies / f"{name}.ipynb" for name in names if only not in (None, name)]:
            if not copy.is_file() or read_notebook(copy)["metadata"][RECORD]["command"] != study.command:
                what = f"{copy.stem} has no executed copy at {copy} of '{study.command}'"
                raise InputError(f"{what}; build the whole book once, without --only")
        started, from_nothing = time.perf_counter(), not list((build / "runs").glob("*"))
        found = ensure_specs(study.specs(), workers=workers)
        for path in sorted((build / "maps").glob("*.npz")):
            store.set_aside_damaged(path, read_map)  # here and not in a notebook, whose page would not show the word
        given = {name: own if name == OF_READER else {} for name in names}
        stale = {only: "asked for"} if only else _stale(root, copies, study, given)
        executing = {name: (study, cell_timeout, given[name]) for name in stale}
        execution.execute_all(root / "notebooks", copies, executing, workers)
        executed = {name: _whole(root, copies / f"{name}.ipynb") for name in names}
        _require_claims(study, {name: each for name, each in executed.items() if not given[name]})
        content = stage_files(root, executed) | pages.made(root, study, found, executed)
        digests = {name: hashlib.sha256(each).hexdigest() for name, each in content.items()}
        made_of = {"asked": {"profile": study.profile, **study.changed}, "own": own, "files": digests}
        with contextlib.suppress(files.Damaged):
            if page.is_file() and files.read_sealed_json(build / "book" / "book.json") == made_of:
                tell("nothing to do: nothing that the book is made of changed")
                return page
        _build(build, content, made_of)
        if from_nothing and list(stale.values()) == ["no executed copy"] * len(names):
            made = {"command": study.command, "seconds": round(time.perf_counter() - started, 1)}
            made["trained"] = len(list((build / "runs").glob("*/spec.json")))
            files.write_json(build / "full_book.json", made)
    return page


def notebooks_in_order(root: Path) -> list[str]:
    """Return the names of the notebooks in the order of the table of contents."""
    return re.findall(r"file:\s*notebooks/(\w+)", (root / "_toc.yml").read_text("utf-8"))


def _stale(root: Path, copies: Path, study: Study, given: Mapping[str, dict]) -> dict[str, str]:
    """Return the notebooks to execute, with the reason, and tell it of all."""
    reasons, digest = {}, functools.cache(reads.digest)
    for name, own in given.items():
        source, copy = root / "notebooks" / f"{name}.ipynb", copies / f"{name}.ipynb"
        if reason := fresh.told(execution.why_stale(source, copy, study, own, digest)):
            reasons[name] = reason
        tell(f"{name} is executed: {reason}" if reason else f"{name} is kept: fresh")
    return reasons


def _whole(root: Path, copy: Path) -> dict[str, Any]:
    """Return an executed copy with the Markdown cells and cell metadata of its source; raise if it is not whole.

    Both have the same code cells, but for the one of parameters that papermill injects.
    """
    executed, cells = read_notebook(copy), []
    execution.require_whole(executed, copy)
    ran = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    for cell in read_notebook(root / "notebooks" / copy.name)["cells"]:
        if cell["cell_type"] == "code":
            while "injected-parameters" in ran[0]["metadata"].get("tags", []):
                cells.append(ran.pop(0))
            cell = ran.pop(0) | {"metadata": cell["metadata"]}
        cells.append(cell)
    return executed | {"cells": cells}


def _require_claims(study: Study, executed: Mapping[str, dict]) -> None:
    """Raise if a claim does not hold for what is published: the profile quick, as it is."""
    shown = [output for name, content in executed.items() for output in pages.outputs(name, content)]
    false = [each for each in shown if each.record.get("decided") and not each.record["holds"]]
    if false and (study.profile, study.changed) == ("quick", {}):
        lines = [f"{each.chapter}, cell {each.cell}: {each.record['sentence']}" for each in false]
        raise BookError("\n".join(["claims that do not hold in these runs:", *lines]))


def stage_files(root: Path, executed: Mapping[str, dict]) -> dict[str, bytes]:
    """Return what the book is built from, but for its pages, by path: notebooks, code, configuration, scripts."""
    content = {f"notebooks/{name}.ipynb": execution.notebook_text(each) for name, each in executed.items()}
    found = [path for pattern in ("book/**/*", "src/**/*.py") for path in sorted(root.glob(pattern))]
    kept = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    content |= {path.relative_to(root).as_posix(): path.read_bytes() for path in kept}
    mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    for path in [mathjax / "tex-mml-chtml.js", *sorted((mathjax / "output/chtml/fonts/woff-v2").iterdir())]:
        content[f"book/_static/mathjax/{path.relative_to(mathjax).as_posix()}"] = path.read_bytes()
    return content | {"_config.yml": config(root), "_toc.yml": (root / "_toc.yml").read_bytes()}


def config(root: Path) -> bytes:
    """Return the configuration of the stage; with links to the address in BHL_REPOSITORY_URL, and to Binder."""
    found = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    for name in found["sphinx"].pop("local_extensions", ()):  # it stops whoever builds the sources
        found["sphinx"]["config"]["extensions"].remove(name)
    if url := os.environ.get("BHL_REPOSITORY_URL"):
        found["repository"] = {"url": url, "branch": "main", "path_to_book": ""}
        found["launch_buttons"] = {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}
        found["html"] |= {"use_repository_button": True, "use_issues_button": True, "use_edit_page_button": True}
    return yaml.safe_dump(found, sort_keys=False).encode()


def _build(build: Path, content: Mapping[str, bytes], made_of: dict[str, Any]) -> None:
    """Lay out the stage, build its pages, and let the book take the place of the last one."""
    stage, book = build / "stage", build / "book.staging"
    with files.naming(stage):
        _lay_out(stage, content)
        build_html(stage, build / "book.log")
        shutil.rmtree(book, ignore_errors=True)
        _lay_out(book, {name: each for name, each in content.items() if not name.startswith(("src/", "book/_static/"))})
        (book / "_build").mkdir()
        (stage / "_build" / "html").rename(book / "_build" / "html")
        files.write_json(book / "book.json", made_of, sealed=True)
        shutil.rmtree(build / "book", ignore_errors=True)
        book.rename(build / "book")


def _lay_out(folder: Path, content: Mapping[str, bytes]) -> None:
    """Make a folder hold these files and no others, but for what Sphinx keeps; write only those that differ."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        name = path.relative_to(folder).as_posix()
        if name not in content and not name.startswith("_build/"):
            path.unlink()
    for name, each in content.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != each:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(each)


def build_html(stage: Path, log: Path) -> None:
    """Build the staged book into an empty folder; any warning of Sphinx is an error.

    What Sphinx knows of unchanged files is kept from one build to the next, but never from one that failed or was
    killed, whose warnings would not come again.
    """
    tell("building the pages")
    kept, unfinished = stage / "_build", stage / "_build" / "unfinished"
    shutil.rmtree(kept if unfinished.is_file() else kept / "html", ignore_errors=True)
    kept.mkdir(exist_ok=True)
    unfinished.touch()
    with log.open("w", encoding="utf-8") as file:
        command = [sys.executable, "-c", _SPHINX, str(stage)]
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code and shutil.disk_usage(stage).free < 1 << 20:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if code or not (kept / "html" / "index.html").is_file():
        lines = log.read_text("utf-8").splitlines()
        shown = [line for line in lines if re.search(r"WARNING|ERROR|CRITICAL", line)] or lines[-20:]
        raise BookError(f"jupyter-book ended with code {code}, see {log}:\n" + "\n".join(shown))
    unfinished.unlink()
