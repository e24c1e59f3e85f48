"""What every row shares: measuring in turn, a process a row, the table, and the file of a row.

Ours and the peers take turns, after a round that does not count; rows over a minute have one round.
A ratio says how many times faster ours is than the peer, whatever the unit, and a target is the least
ratio. Seconds belong to one machine; ratios are what travels.
"""

import argparse
import cProfile
import importlib
import importlib.metadata
import os
import platform
import pstats
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import beyond_hard_labels
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.files import write_json
from beyond_hard_labels.base.paths import build_folder

PACKAGE = Path(beyond_hard_labels.__file__).parent
LIMIT = 600  # seconds after which a row is cut
PACKAGES = (
    *("torch", "torchvision", "numpy", "pandas", "scikit-learn", "openTSNE", "pillow"),
    *("crowd-kit", "opencv-python-headless", "torchdr"),
)
ROWS = {  # name -> module with the function of that name, and what the page "How fast it is" calls it, in its order
    "epoch": ("benchmarks.training", "an epoch of the small network, augmentation on"),
    "densenet": ("benchmarks.training", "steps of DenseNet121"),
    "gpu": ("benchmarks.training", "an epoch of DenseNet121 on a GPU"),
    "study": ("benchmarks.training", "six runs in two processes"),
    "tsne": ("benchmarks.maps", "a t-SNE map"),
    "archive": ("benchmarks.data", "a published archive made into a set"),
    "own": ("benchmarks.data", "a table of votes and a folder of images made into a set"),
    "votes": ("benchmarks.data", "ten million votes made into labels"),
    "drawing": ("benchmarks.data", "the synthetic images"),
    "book": ("benchmarks.whole", "the book once more"),
    "start": ("benchmarks.whole", "the start of the command"),
    "memory": ("benchmarks.training", "memory of 1.5 million images"),
}


class Open(Exception):
    """A row cannot be measured here; the message says what it needs."""


class Measured(NamedTuple):
    """One side of a comparison: median, least and greatest of some repeats."""

    median: float
    low: float
    high: float
    repeats: int


class Line(NamedTuple):
    """One comparison of a row.

    Attributes
    ----------
    what, against : str
        What was done, and the peer.
    ours, peer : Measured
        In `unit`; less is better. Without a peer, a row is shown and not compared.
    at_least : float, optional
        The least ratio peer / ours that is the target.
    unit : str
        By default seconds.
    """

    what: str
    against: str
    ours: Measured
    peer: Measured
    at_least: float | None = None
    unit: str = "s"

    @property
    def ratio(self) -> float:
        """How many times faster, or smaller, ours is."""
        return self.peer.median / self.ours.median

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without one."""
        return None if self.at_least is None else self.ratio >= self.at_least


class Result(NamedTuple):
    """What a row found.

    Attributes
    ----------
    lines : list of Line
    equal : str
        What was checked to be the same on both sides; a row whose sides differ raises instead.
    note : str
        What a reader must know to judge the numbers.
    profile : dict of str to float
        Seconds of the parts of ours, which explain a target that is not reached.
    """

    lines: list[Line]
    equal: str
    note: str = ""
    profile: dict[str, float] | None = None


def summary(values: Iterable[float]) -> Measured:
    """Return median, least and greatest of some repeats."""
    values = list(values)
    return Measured(statistics.median(values), min(values), max(values), len(values))


def in_turn(sides: dict[str, Callable[[], Any]], rounds: int, *, warm_up: bool = True) -> tuple[dict, dict]:
    """Call all sides one after another, `rounds` times, and time each call.

    Returns
    -------
    tuple
        By the sides' names: the seconds as `Measured`, and what the last call returned.
    """
    seconds, returned = {name: [] for name in sides}, {}
    for number in range(-warm_up, rounds):
        for name, side in sides.items():
            returned.pop(name, None)  # the last result of a side must not be in memory twice
            started = time.perf_counter()
            returned[name] = side()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: summary(values) for name, values in seconds.items()}, returned


def self_timed(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, Measured]:
    """Call all sides in turn, after a round that does not count; each returns its own seconds."""
    seconds = [{name: side() for name, side in sides.items()} for _ in range(rounds + 1)][1:]
    return {name: summary(taken[name] for taken in seconds) for name in sides}


def require(holds: bool, text: str) -> None:
    """Raise if both sides did not compute the same: a measurement of something else is none."""
    if not holds:
        raise AssertionError(f"the sides differ: {text}")


def functions_of_ours(call: Callable[[], Any], most: int = 6) -> dict[str, float]:
    """Call once under the profiler; return the seconds in the package's slowest functions, what they call included."""
    profiler = cProfile.Profile()
    profiler.runcall(call)
    found = {
        f"{Path(file).relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.')}.{name}": inclusive
        for (file, _, name), (_, _, _, inclusive, _) in pstats.Stats(profiler).stats.items()
        if Path(file).is_relative_to(PACKAGE) and not name.startswith("<")
    }
    return dict(sorted(found.items(), key=lambda part: -part[1])[:most])


def machine() -> dict[str, str]:
    """Describe the machine and the versions of what was compared."""
    model = platform.processor() or "unknown"
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    described = {"processor": model, "cores": str(cores()), "system": f"{platform.system()} {platform.machine()}"}
    return described | {"python": platform.python_version()} | versions


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def take(name: str, *, small: bool = False) -> dict[str, Any]:
    """Measure a row in this process and return what its file holds."""
    started = time.perf_counter()
    home = build_folder() / "bench"
    home.mkdir(parents=True, exist_ok=True)
    taken: dict[str, Any] = {"row": name, "machine": machine(), "taken": datetime.now(UTC).date().isoformat()}
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home) as folder:
        try:
            result = getattr(importlib.import_module(ROWS[name][0]), name)(small, Path(folder))
        except Open as error:
            return taken | {"open": str(error)}
    taken |= {"equal": result.equal, "note": result.note, "profile": result.profile or {}}
    taken["lines"] = [
        {**line._asdict(), "ours": line.ours._asdict(), "peer": line.peer._asdict()}
        | {"ratio": line.ratio, "reached": line.reached}
        for line in result.lines
    ]
    return taken | {"seconds": round(time.perf_counter() - started, 1)}


def table(taken: list[dict[str, Any]]) -> str:
    """Return measured rows as the lines of a table."""
    rows = [("row", "what", "against", "ours", "peer", "ratio", "target", "reached")]
    for row in taken:
        if problem := row.get("open") or row.get("failed"):
            rows.append((row["row"], problem, *[""] * 6))
        for line in row.get("lines", ()):
            least = line["at_least"]
            sides = [f"{line[side]['median']:.4g} {line['unit']}" for side in ("ours", "peer")]
            target = ("", "") if least is None else (f"≥ {least:g}", "yes" if line["reached"] else "NO")
            rows.append((row["row"], line["what"], line["against"], *sides, f"{line['ratio']:.3g}", *target))
    widths = [max(len(row[i]) for row in rows if row[3] or i == 0) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def main(argv: list[str] | None = None) -> int:
    """Measure rows, each in a process of its own; print the table; return 1 if one failed or was cut."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all by default")
    parser.add_argument("--small", action="store_true", help="toy sizes, which test the rows and measure nothing")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # the process of one row
    arguments = parser.parse_args(argv)
    try:
        if unknown := set(arguments.rows) - set(ROWS):
            raise InputError(f"unknown row '{unknown.pop()}', expected some of {', '.join(ROWS)}")
    except InputError as error:
        print(f"benchmarks: error: {error}", file=sys.stderr)
        return 2
    if arguments.here:
        (name,) = arguments.rows
        write_json(_file(name, arguments.small), take(name, small=arguments.small))
        return 0
    write_json(build_folder() / "bench" / "rows.json", [[name, about] for name, (_, about) in ROWS.items()])
    taken = [_in_own_process(name, arguments.small) for name in arguments.rows or ROWS]
    print(table(taken))
    return int(any("failed" in row for row in taken))


def _file(name: str, small: bool) -> Path:
    return build_folder() / "bench" / f"{name}{'.small' if small else ''}.json"


def _in_own_process(name: str, small: bool) -> dict[str, Any]:
    """Measure a row in a process of its own, so that neither its threads nor its imports reach another."""
    import json

    print(f"benchmarks: {name} ...", file=sys.stderr, flush=True)
    path = _file(name, small)
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks", name, "--here", *(["--small"] if small else [])]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        code = f"cut after {LIMIT} s"
    finally:
        _end(process)
        for left in path.parent.glob(f".{name}-*"):  # the folder of a row that was killed
            shutil.rmtree(left, ignore_errors=True)
    return json.loads(path.read_text("utf-8")) if path.is_file() else {"row": name, "failed": f"failed: {code}"}


def _end(process: subprocess.Popen) -> None:
    """Kill a row and what it started."""
    import signal

    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
