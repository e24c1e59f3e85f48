"""What a process read of the store: so a notebook is executed again if that changed, and only then."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from beyond_hard_labels.base import files, paths

VARIABLE = "BHL_READS"  # names the file that reads are appended to


def note(kind: str, name: str, digest: str | None) -> None:
    """Append a read to the file that BHL_READS names, if it names one; no digest means that there was nothing."""
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps([kind, name, digest]) + "\n")


def noted(path: Path) -> dict[tuple[str, str], str | None]:
    """Return the reads in a file, the digest by kind and name."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return {(kind, name): digest for kind, name, digest in map(json.loads, lines)}


def digest(kind: str, name: str) -> str | None:
    """Return the digest that a read would note now; None if there is nothing, or nothing whole."""
    return KINDS[kind](name)


def of_run(folder: Path, sealed: dict[str, str]) -> str:
    """Return the digest of a run with these checksums: of the files that are there, since a pack may leave some out."""
    there = {name: checksum for name, checksum in sealed.items() if (folder / name).is_file()}
    return hashlib.sha256(files.json_text(there).encode()).hexdigest()[:16]


def _run(name: str) -> str | None:
    key = name.removeprefix("published-")
    folder = (paths.build_folder() / "runs" if key == name else paths.published_folder()) / key
    try:
        sealed = files.read_sealed_json(folder / "manifest.json")["files"]
        now = {name: files.checksum(folder / name) for name in sealed if (folder / name).is_file()}
    except (OSError, KeyError, files.Damaged):
        return None
    return of_run(folder, sealed) if now.items() <= sealed.items() else None


def _grid(name: str) -> str | None:
    path = paths.published_folder() / f"grid_{name}.json"
    return files.checksum(path)[:16] if path.is_file() else None


KINDS: dict[str, Callable[[str], str | None]] = {"run": _run, "grid": _grid}  # `data.sets` adds its own
