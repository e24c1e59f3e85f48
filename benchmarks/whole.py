"""Rows on the whole: how fast the command starts, and how long the book takes again."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat

from benchmarks.harness import Line, Open, Result, in_turn, require, summary
from beyond_hard_labels.base import paths

START_BUDGET = 0.3  # seconds
SENTENCE = "This sentence is new."  # the edit of prose


def start(small, folder):
    """Hold the package's import and the command's help against a budget in seconds."""
    calls = {
        "import beyond_hard_labels": ["-c", "import beyond_hard_labels"],
        "bhl --help": ["-m", "beyond_hard_labels", "--help"],
        "python": ["-c", "pass"],
    }
    sides = {name: lambda call=call: _output(*call) for name, call in calls.items()}
    seconds, printed = in_turn(sides, 2 if small else 9)
    require("study" in printed["bhl --help"].stdout, "the help does not name the commands")
    for name in list(calls)[:2]:
        imported = _output("-X", "importtime", *calls[name]).stderr
        require("beyond_hard_labels" in imported and "torch" not in imported.split(), f"{name} imports torch")
    lines = [
        Line(name, f"a budget of {START_BUDGET} s", seconds[name], summary([START_BUDGET]), 1)
        for name in list(calls)[:2]
    ]
    note = f"The interpreter alone takes {seconds['python'].median:.3f} s of it."
    return Result(lines, "neither imports torch; the help names the commands", note)


def _output(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


def book(small, folder):
    """Make the book again, unchanged and after an edit of prose, against the book from nothing."""
    build = paths.build_folder()
    if small:  # a book of next to nothing
        sizes = {"epochs": 1, "splits": 1, "tsne_iterations": 50}
        sets = [word for name, value in sizes.items() for word in ("--set", f"{name}={value}")]
        build = folder / "from nothing"
        _make_book(paths.project_folder(), build, ["--profile", "smoke", *sets])
    if not (build / "full_book.json").is_file() or not (build / "executed").is_dir():
        raise Open("needs a book made from nothing: make clean book, then make bench ROWS=book")
    full = json.loads((build / "full_book.json").read_text("utf-8"))
    checkout, copy = _copy_of_project(folder / "checkout"), folder / "build"
    shutil.copytree(build, copy, ignore=shutil.ignore_patterns("bench", "*.log"))
    command = full["command"].split()
    _make_book(checkout, copy, command)  # the round that does not count
    unchanged, parts = _make_book(checkout, copy, command)
    _edit_prose(checkout)
    edited, _ = _make_book(checkout, copy, command)
    for page in ("notebooks/02_labels.html", "book/paper.html"):
        require(SENTENCE in (copy / "book" / "_build" / "html" / page).read_text("utf-8"), f"{page} is as before")
    whole = summary([full["seconds"]])
    what = f"the book, {full['command'].partition(' --set')[0].removeprefix('--')}"
    lines = [
        Line(f"{what}, again", f"from nothing, {full['trained']} runs", summary([unchanged]), whole, 20),
        Line(f"{what}, prose edited", f"from nothing, {full['trained']} runs", summary([edited]), whole, 10),
    ]
    note = "Every printed number is computed again from stored predictions each time; no notebook is executed again."
    return Result(lines, "no notebook is executed again; the edited pages show the new sentence", note, parts)


def _copy_of_project(target):
    """Copy what a book is made of, so that no edit touches the checkout."""
    root = paths.project_folder()
    target.mkdir()
    for name in ("book", "notebooks", "src", "results"):
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("_toc.yml", "_config.yml"):
        shutil.copy(root / name, target)
    return target


def _edit_prose(checkout):
    page, path = checkout / "book" / "paper.md", checkout / "notebooks" / "02_labels.ipynb"
    page.write_text(f"{page.read_text('utf-8')}\n{SENTENCE}\n", "utf-8")
    notebook = nbformat.read(path, as_version=4)
    next(cell for cell in notebook.cells if cell.cell_type == "markdown").source += f"\n\n{SENTENCE}"
    nbformat.write(notebook, path)


def _make_book(checkout: Path, build: Path, command: list[str]) -> tuple[float, dict[str, float]]:
    """Make the book in a process; return its seconds, in all and of its parts, and require that it executed nothing.

    The first book of a build folder executes all.
    """
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "BHL_BUILD_DIR": str(build)}
    first, started, log, pages = not build.exists(), time.perf_counter(), [], float("nan")
    with subprocess.Popen(
        [sys.executable, "-m", "beyond_hard_labels", "book", *command],
        cwd=checkout,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr:
            log.append(line)
            if "building the pages" in line:
                pages = time.perf_counter()
    ended = time.perf_counter()
    if process.returncode:
        raise RuntimeError("the book failed:\n" + "".join(log[-20:]))
    executed = [line for line in log if "is executed" in line]
    require(first or not executed, f"notebooks were executed: {executed}")
    return ended - started, {"look-up, staging and verification": pages - started, "pages by Sphinx": ended - pages}
