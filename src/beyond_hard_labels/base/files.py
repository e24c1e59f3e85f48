"""Files that are there whole or not at all, and that can tell whether they are as they were written.

What is written goes under a temporary name to the disk and is then renamed, so a process may be killed
at any moment. A JSON file may carry a seal: the checksum of the rest of it. `Damaged` names what is not
as it was written, `Unwritten` what the disk did not take.
"""

import contextlib
import errno
import hashlib
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
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DIGEST = hashlib.sha256().digest_size


class Damaged(InputError):
    """A file is not as it was written: cut short, changed or missing."""


class Unwritten(OSError):
    """A file could not be written, most often for want of space; nothing of it was left."""

    def __str__(self) -> str:
        return f"{self.filename} cannot be written: {self.strerror} in {Path(self.filename).parent}"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary name for a file or a folder, which gets its own name when it is whole on the disk.

    A folder takes the place of one that is there.

    Raises
    ------
    Unwritten
        With the name, for whatever the system says against it.
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
    """Name a file or a folder, and the reason in words, in what the system says against writing it."""
    try:
        yield
    except Unwritten:
        raise
    except OSError as error:
        raise Unwritten(error.errno, error.strerror or str(error), str(path)) from error


def is_full(error: Exception) -> bool:
    """Return whether it was the want of space, or of a quota, that something could not be written for."""
    said = os.strerror(errno.ENOSPC)  # shutil's own errors are lists of texts
    return isinstance(error, OSError) and (error.errno in _FULL or said in str(error))


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
    """Hold a lock, which the system frees if this process dies; wait, with a word, while another holds it.

    Parameters
    ----------
    path : Path
        File of the lock; it stays and names its last holder.
    what : str
        What the holder does, for the word.
    deadline : float
        ``time.time()`` after which to wait no longer.

    Raises
    ------
    TimeUp
        If the deadline passed.
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_text(content) -> str:
    """Return the one way in which content is written as JSON; what is not finite, which JSON has not, is null."""
    return json.dumps(_finite(content), indent=1, sort_keys=True, allow_nan=False) + "\n"


def _finite(content):
    if isinstance(content, dict):
        return {name: _finite(part) for name, part in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(part) for part in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path, content, sealed: bool = False) -> None:
    """Write JSON whole or not at all; sealed, it is an object that carries its own checksum."""
    if sealed:
        content = content | {_SEAL: hashlib.sha256(json_text(content).encode()).hexdigest()}
    write(path, json_text(content).encode())


def read_sealed_json(path: Path) -> dict:
    """Return the content of a sealed JSON file; raise `Damaged` if one bit of it is another."""
    try:
        text = path.read_bytes().decode()
        content = json.loads(text)
        seal = content.pop(_SEAL)
        whole = text == json_text(content | {_SEAL: seal})
        if not whole or seal != hashlib.sha256(json_text(content).encode()).hexdigest():
            raise ValueError("its seal is another")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise Damaged(f"{path} is not as it was written ({type(error).__name__}: {error})") from error
    return content


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file that ends with the checksum of the rest of it."""
    write(path, content + hashlib.sha256(content).digest())


def read_sealed(path: Path) -> bytes:
    """Return the content of such a file; raise `Damaged` if one bit of it is another."""
    found = path.read_bytes()
    content, digest = found[:-_DIGEST], found[-_DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        raise Damaged(f"{path} is not as it was written")
    return content


def set_aside(path: Path, folder: Path) -> Path:
    """Move a damaged file or folder into `folder`, where a later one of its name gets the next number."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(n) for p in folder.iterdir() if (n := p.name.rpartition("-")[2]).isdecimal()), default=0)
    aside = folder / f"{path.name}-{number}"
    path.rename(aside)
    return aside
