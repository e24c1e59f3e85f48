"""Files that are there whole or not at all, and that can tell whether they are as they were written.

What is written goes under a temporary name to the disk and is then renamed, so a process may be killed
at any moment. A sealed file carries the checksum of the rest of it.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.process import TimeUp, tell

_SEAL = "seal"


class Damaged(InputError):
    """A file is not as it was written: cut short, changed or missing."""


class Unwritten(OSError):
    """A file could not be written, most often for want of space; nothing of it was left."""

    def __str__(self) -> str:
        return f"{self.filename} cannot be written: {self.strerror} in {Path(self.filename).parent}"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary name for a file or a folder, which takes its own name when it is whole on the disk.

    What was there is replaced. Whatever the system says against it is raised as `Unwritten`.
    """
    temporary, replaced = (path.with_name(f".{path.name}.{os.getpid()}{end}") for end in ("", ".replaced"))
    with naming(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove(temporary)
            yield temporary
            for file in [temporary, *(temporary.rglob("*") if temporary.is_dir() else ())]:
                _sync(file)
            if path.is_dir():
                path.rename(replaced)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            remove(temporary)
            remove(replaced)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file or a folder in what the system says against writing it."""
    try:
        yield
    except Unwritten:
        raise
    except OSError as error:
        raise Unwritten(error.errno, error.strerror or str(error), str(path)) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)  # a folder, too, which `open` does not take
    os.fsync(descriptor)
    os.close(descriptor)


def is_full(error: Exception) -> bool:
    """Return whether it was the want of space, or of a quota, that something could not be written for."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return full or (isinstance(error, OSError) and os.strerror(errno.ENOSPC) in str(error))  # shutil's are lists


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, see `writing`."""
    with writing(path) as temporary:
        temporary.write_bytes(content)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove what processes that were killed have left of writing a path; call it under a lock."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        remove(leftover)


@contextlib.contextmanager
def lock(path: Path, what: str, deadline: float = math.inf) -> Iterator[None]:
    """Hold a lock, which the system frees if this process dies; its file stays and names the last holder.

    While another process holds it, say `what` that one does and wait; `TimeUp` is raised at the `deadline`,
    a ``time.time()``.
    """
    from filelock import FileLock, Timeout

    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path)
        try:
            held.acquire(timeout=0)
        except Timeout:
            tell(f"waiting for {path.read_text('utf-8') or 'another process'}, which {what}")
            try:
                held.acquire(timeout=-1 if deadline == math.inf else max(0, deadline - time.time()))
            except Timeout as error:
                raise TimeUp(f"time limit: another process {what}; the same command goes on") from error
        path.write_text(f"process {os.getpid()} on {platform.node()}", "utf-8")
    try:
        yield
    finally:
        held.release()


def checksum(path: Path, kind: str = "sha256") -> str:
    """Return the SHA-256 of a file, or its checksum of another kind."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def json_text(content) -> str:
    """Return the one way in which content is written as JSON; what is not finite, which JSON has not, is null."""
    finite = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return json.dumps(finite, indent=1, sort_keys=True) + "\n"


def write_json(path: Path, content, sealed: bool = False) -> None:
    """Write JSON whole or not at all; sealed, it is an object that carries its own checksum."""
    write(path, (_sealed(content) if sealed else json_text(content)).encode())


def _sealed(content: dict) -> str:
    return json_text(content | {_SEAL: hashlib.sha256(json_text(content).encode()).hexdigest()})


def read_sealed_json(path: Path) -> dict:
    """Return the content of a sealed JSON file; raise `Damaged` if one bit of it is another."""
    try:
        text = path.read_bytes().decode()
        content = json.loads(text)
        del content[_SEAL]
        if text != _sealed(content):
            raise ValueError("its seal is another")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{path} is not as it was written ({type(error).__name__}: {error})") from error
    return content


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file that ends with the checksum of the rest of it."""
    write(path, content + hashlib.sha256(content).digest())


def read_sealed(path: Path) -> bytes:
    """Return the content of such a file; raise `Damaged` if one bit of it is another."""
    found = path.read_bytes()
    content = found[:-32]
    if found != content + hashlib.sha256(content).digest():
        raise Damaged(f"{path} is not as it was written")
    return content


def set_aside(path: Path, folder: Path) -> Path:
    """Move a damaged file or folder into `folder`, under its name with the first number that is free."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = next(free for n in itertools.count(1) if not (free := folder / f"{path.name}-{n}").exists())
    path.rename(aside)
    return aside
