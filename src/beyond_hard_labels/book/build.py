"""From sources to pages: execute the notebooks, fill the pages' numbers, check, build.

    notebooks/*.ipynb --papermill--> build/executed/*.ipynb --check--> build/stage/ --jupyter-book -W--> build/book/

A notebook is executed only if its code cells, its parameters, the modules that it imports, the libraries or
what it read of the store changed since its last copy. It is executed to a temporary file and moved only when
it is whole. No kernel trains: it names the runs that it lacks, they are trained here, and it is executed again.

In the stage only files that changed are written, so that Sphinx reads only these again; it writes all pages, into an
empty folder, which takes the place of the last book when nothing is wrong. So what lies in ``build/book`` was made
completely. If nothing changed at all, nothing of this is done.
"""

import errno
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from beyond_hard_labels.base import files, paths, reads
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.process import tell
from beyond_hard_labels.book import pages
from beyond_hard_labels.book.execution import (
    RECORD,
    BookError,
    environment,
    execute_all,
    hashed,
    notebook_text,
    read_notebook,
    unfinished,
    why_stale,
)
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
    study: Study,
    *,
    workers: int | None = None,
    only: str | None = None,
    cell_timeout: float = 3600,
    own: Mapping[str, str] | None = None,
) -> Path:
    """Execute the notebooks, build the book, and return the path of its first page.

    A book that is made from nothing leaves its wall time in ``build/full_book.json``, which the
    benchmarks hold later ones against.

    Parameters
    ----------
    study : Study
    workers : int, optional
        Processes that train, and that execute notebooks; see `ensure.ensure`.
    only : str, optional
        The one notebook to execute, by the name of its file without ending. The others' last executed
        copies are kept, and must be there and of the same study.
    cell_timeout : float
        Seconds that one cell of a notebook may take.
    own : mapping, optional
        Parameters that only the notebook `OF_READER` has, which are paths: ``votes_csv`` and ``image_folder``.

    Raises
    ------
    BookError
        If a notebook fails or is not whole, a claim does not hold for the published results, or a page
        cannot be built.
    """
    names = notebooks_in_order(paths.project_folder())
    if only is not None and only not in names:
        raise InputError(f"there is no notebook '{only}'; expected one of {', '.join(names)}")
    with files.lock(paths.build_folder() / "locks" / "book", "builds the book"):
        given = {name: str(Path(path).resolve()) for name, path in (own or {}).items()}  # kernels run elsewhere
        return _make(study, names, workers, only, cell_timeout, given)


def _make(study, names, workers, only, cell_timeout, own) -> Path:
    root, build = paths.project_folder(), paths.build_folder()
    made_of, page = _made_of(root, study, own), build / "book" / "_build" / "html" / "index.html"
    if only is None and page.is_file() and _is_fresh(build, made_of):
        tell("nothing to do: nothing that the book is made of changed")
        return page
    if only is not None:
        _require_executed(study, [name for name in names if name != only], build / "executed")
    started, from_nothing = time.perf_counter(), not list((build / "runs").glob("*"))
    with tempfile.TemporaryDirectory() as folder, environment(**{reads.VARIABLE: f"{folder}/reads"}):
        found = ensure_specs(study.specs(), workers=workers)
        for path in sorted((build / "maps").glob("*.npz")):
            store.set_aside_damaged(path, read_map)  # here and not in a notebook, whose page would not show the word
        stale = _stale(root, build / "executed", study, names, only, own)
        executing = {name: (study, cell_timeout, own if name == OF_READER else {}) for name in stale}
        execute_all(root / "notebooks", build / "executed", executing, workers)
        executed = {name: _whole(root, build / "executed" / f"{name}.ipynb") for name in names}
        _require_claims(study, {name: each for name, each in executed.items() if not (own and name == OF_READER)})
        seconds = {name: content["metadata"][RECORD]["seconds"] for name, content in executed.items()}
        content = stage_files(root, executed) | pages.made(root, study, found, executed, seconds)
        noted = {" ".join(read): digest for read, digest in reads.noted(Path(folder) / "reads").items()}
    for name in names:
        noted |= executed[name]["metadata"][RECORD]["inputs"]["reads"]
    made_of |= {"reads": noted, "executed": _executed(build)}
    _build(build, content, made_of)
    if from_nothing and set(stale.values()) == {"no executed copy"} and set(stale) == set(names):
        trained = len(list((build / "runs").glob("*/spec.json")))
        made = {"command": study.command, "seconds": round(time.perf_counter() - started, 1), "trained": trained}
        files.write_json(build / "full_book.json", made)
    return page


def _made_of(root: Path, study: Study, own: dict[str, Any]) -> dict[str, Any]:
    """Return what the pages are made of but for what notebooks read, without importing what executes or builds."""
    sources = [root / "_config.yml", root / "_toc.yml", root / "notebooks", root / "book", root / "src", fresh.PACKAGE]
    found = [path for source in sources for path in (sorted(source.rglob("*")) if source.is_dir() else [source])]
    kept = [path for path in found if path.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)]
    return {
        "files": {str(path): files.checksum(path) for path in kept},
        "versions": fresh.versions(*pages.SHOWN_PACKAGES) | {"python": sys.version},
        "command": study.command,
        "asked": {"profile": study.profile, **study.changed},
        "values": hashed([study.protocol, study.splits, study.perplexity, study.tsne_iterations, study.shared]),
        "own": own,
        "address": os.environ.get("BHL_REPOSITORY_URL"),
    }


def _is_fresh(build: Path, made_of: dict[str, Any]) -> bool:
    """Return whether the last book is made of the same, and what it read is still there, whole."""
    try:
        before = files.read_sealed_json(build / "book" / "book.json")
    except files.Damaged:
        return False
    noted, executed = before.pop("reads"), before.pop("executed")
    return (before, executed) == (made_of, _executed(build)) and all(
        reads.digest(*read.split(" ", 1)) == digest for read, digest in noted.items()
    )


def _executed(build: Path) -> dict[str, str]:
    return {path.name: files.checksum(path) for path in sorted((build / "executed").glob("*.ipynb"))}


def _stale(root: Path, copies: Path, study: Study, names: list[str], only: str | None, own: dict) -> dict[str, str]:
    """Return the notebooks to execute, with the reason, and tell it of all."""
    reasons, digest = {}, functools.cache(reads.digest)
    for name in names:
        source, copy = root / "notebooks" / f"{name}.ipynb", copies / f"{name}.ipynb"
        if only is None:
            reason = fresh.told(why_stale(source, copy, study, own if name == OF_READER else {}, digest))
        else:
            reason = "asked for" if name == only else ""
        if reason:
            reasons[name] = reason
        tell(f"{name} is executed: {reason}" if reason else f"{name} is kept: {'not asked for' if only else 'fresh'}")
    return reasons


def notebooks_in_order(root: Path) -> list[str]:
    """Return the names of the notebooks in the order of the table of contents."""
    return re.findall(r"file:\s*notebooks/(\w+)", (root / "_toc.yml").read_text("utf-8"))


def _require_executed(study: Study, names: list[str], folder: Path) -> None:
    for name in names:
        path = folder / f"{name}.ipynb"
        if not path.is_file():
            raise InputError(f"{name} has no executed copy at {path}; build the whole book once, without --only")
        command = read_notebook(path)["metadata"][RECORD]["command"]
        if command != study.command:
            raise InputError(f"{path} was executed with '{command}', not '{study.command}'; build the whole book")


def _require_claims(study: Study, executed: Mapping[str, dict]) -> None:
    """Raise if a claim does not hold for what is published: the profile quick, as it is."""
    if (study.profile, study.changed) != ("quick", {}):
        return
    false = [
        f"{chapter}, cell {cell}: {record['sentence']}"
        for name, content in executed.items()
        for chapter, cell, _, record in pages.outputs(name, content)
        if record.get("decided") and not record["holds"]
    ]
    if false:
        raise BookError("claims that do not hold in these runs:\n" + "\n".join(false))


def with_prose_of(source: dict, executed: dict) -> dict:
    """Return the executed notebook with the Markdown cells and cell metadata of its source.

    Both have the same code cells, but for the one of parameters that papermill injects.
    """
    ran = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    cells = []
    for cell in source["cells"]:
        if cell["cell_type"] == "code":
            while "injected-parameters" in ran[0]["metadata"].get("tags", []):
                cells.append(ran.pop(0))
            cell = ran.pop(0) | {"metadata": cell["metadata"]}
        cells.append(cell)
    return executed | {"cells": cells}


def _whole(root: Path, copy: Path) -> dict[str, Any]:
    """Return an executed copy with the prose of its source; raise if it is not whole."""
    executed = read_notebook(copy)
    if faults := unfinished(executed):
        raise BookError(f"notebook {copy.stem} is not whole, see {copy}: " + "; ".join(faults))
    return with_prose_of(read_notebook(root / "notebooks" / copy.name), executed)


def stage_files(root: Path, executed: Mapping[str, dict]) -> dict[str, bytes]:
    """Return what the book is built from, but for its pages, by path: notebooks, code, configuration, scripts."""
    content = {f"notebooks/{name}.ipynb": notebook_text(notebook) for name, notebook in executed.items()}
    for folder, pattern in ((root / "book", "*"), (root / "src", "*.py")):
        found = [path for path in sorted(folder.rglob(pattern)) if path.is_file() and "__pycache__" not in path.parts]
        content |= {path.relative_to(root).as_posix(): path.read_bytes() for path in found}
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
    try:
        _lay_out(stage, content)
        build_html(stage, build / "book.log")
        shutil.rmtree(book, ignore_errors=True)
        _lay_out(book, {name: each for name, each in content.items() if not name.startswith(("src/", "book/_static/"))})
        (book / "_build").mkdir()
        (stage / "_build" / "html").rename(book / "_build" / "html")
    except OSError as error:
        if files.is_full(error):
            for folder in (stage, book):  # they take the room that is missing
                shutil.rmtree(folder, ignore_errors=True)
            raise files.Unwritten(errno.ENOSPC, os.strerror(errno.ENOSPC), str(stage)) from error
        raise
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
    kept, unfinished_build = stage / "_build", stage / "_build" / "unfinished"
    if unfinished_build.is_file():
        shutil.rmtree(kept)
    shutil.rmtree(kept / "html", ignore_errors=True)
    kept.mkdir(exist_ok=True)
    unfinished_build.touch()
    with log.open("w", encoding="utf-8") as file:
        command = [sys.executable, "-c", _SPHINX, str(stage)]
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code and shutil.disk_usage(stage).free < 1 << 20:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if code or not (kept / "html" / "index.html").is_file():
        lines = log.read_text("utf-8").splitlines()
        shown = [line for line in lines if re.search(r"WARNING|ERROR|CRITICAL", line)] or lines[-20:]
        raise BookError(f"jupyter-book ended with code {code}, see {log}:\n" + "\n".join(shown))
    unfinished_build.unlink()
