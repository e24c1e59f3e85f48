"""Rows on the whole: how fast the command starts, and how long the book takes again."""

import subprocess
import sys

from benchmarks.harness import Line, Result, in_turn, require, summary

START_BUDGET = 0.3  # seconds


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
