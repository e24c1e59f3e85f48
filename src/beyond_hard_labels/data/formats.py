"""The files of publishers, read without trusting them.

Members of archives are looked at before any is read, are decoded without being written to a disk, and are never
larger than they may be; nothing is ever unpickled.
"""

import gzip
import io
import math
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import dcic, sets
from beyond_hard_labels.data.known import Published

MOST_MEMBERS, MOST_BYTES = 100_000, 4 << 30  # of an archive; bytes before and after decompression
MOST_OF_IMAGE, MOST_OF_TEXT = 4 << 20, 512 << 20  # bytes of one member
MOST_TEST_IMAGES = 10_000  # of CIFAR-10 and Fashion-MNIST
_CIFAR_ROW = 1 + 3 * 32 * 32  # bytes: the label, then the planes
_BATCH = "cifar-10-batches-bin/test_batch.bin"


def read(published: Published, paths: list[Path]) -> dict[str, np.ndarray]:
    """Return the arrays of a set, see `sets`, from its files in the order in which it names them.

    Raises
    ------
    InputError
        If a file is broken, hostile, or holds something else than the set.
    """
    if published.name == "cifar10h":
        arrays = _cifar10h(*paths)
    elif published.name == "fashion_mnist_h":
        arrays = _fashion_mnist_h(*paths)
    else:
        with _open_zip(paths[0]) as archive:
            return dcic.read(archive, Path(next(iter(published.files))).stem, published.classes)
    return arrays | {"class_names": np.array(published.classes)}


def _cifar10h(votes: Path, pixels: Path) -> dict[str, np.ndarray]:
    try:
        counts = np.load(votes, allow_pickle=False)
        if not isinstance(counts, np.ndarray):
            raise ValueError("it is an archive")
    except sets.UNREADABLE as error:
        raise InputError(f"{votes.name} is not an array of NumPy: {error}") from error
    content = _tar_member(pixels, _BATCH, MOST_TEST_IMAGES * _CIFAR_ROW)
    if not content or len(content) % _CIFAR_ROW:
        raise InputError(f"{pixels.name}: {_BATCH} has {len(content)} bytes, expected rows of {_CIFAR_ROW}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_ROW)
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return {"images": images, "counts": counts, "labels": rows[:, 0].astype(np.int64)}


def _fashion_mnist_h(votes: Path, pixels: Path, official: Path) -> dict[str, np.ndarray]:
    text = votes.read_text("utf-8", "replace") if votes.stat().st_size < MOST_OF_IMAGE else ""
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if not re.fullmatch("[0-9]{1,6}(,[0-9]{1,6}){9}", line):
            raise InputError(f"{votes.name}, line {number}: {line!r:.60}, expected ten counts, separated by commas")
    return {
        "images": _idx(pixels, rank=3, most=MOST_TEST_IMAGES * 28 * 28),
        "counts": np.array([line.split(",") for line in lines], np.int64).reshape(-1, 10),
        "labels": _idx(official, rank=1, most=MOST_TEST_IMAGES).astype(np.int64),
    }


def _idx(path: Path, rank: int, most: int) -> np.ndarray:
    """Read a gzipped file of the IDX format: two zeros, 8 for bytes, the rank, big-endian sizes, the bytes."""
    head = 4 + 4 * rank
    content = _gunzip(path, head + most)
    sizes = np.frombuffer(content[4:head], ">u4").tolist() if len(content) >= head else []
    if content[:4] != bytes([0, 0, 8, rank]) or len(content) != head + math.prod(sizes):
        found = f"{len(content)} bytes that begin with {content[:head].hex(' ', 4)}"
        raise InputError(f"{path.name} holds {found}, expected an IDX file of bytes with {rank} dimension(s)")
    return np.frombuffer(content, np.uint8, offset=head).reshape(sizes)


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Open an archive, after a look at what it says of all its members, none of which is read.

    That is enough: `zipfile` decompresses no more than a member is said to hold, and then compares.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{path.name} is not a zip archive, or not a whole one: {error}") from error
    plain = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # which cannot claim much memory to be decompressed in
    try:
        _look_at(path, ((m.filename, stat.S_IFMT(m.external_attr >> 16), m.file_size) for m in archive.infolist()))
        for member in archive.infolist():
            if member.flag_bits & 1 or member.compress_type not in plain:
                raise InputError(
                    f"{path.name}: {member.filename!r:.100} is encrypted, or compressed but not by deflate"
                )
    except InputError:
        archive.close()
        raise
    return archive


def _tar_member(path: Path, name: str, most: int) -> bytes:
    """Return a member of a compressed tar archive, after a look at all of them."""
    content = io.BytesIO(_gunzip(path, 256 << 20))
    kinds = {tarfile.REGTYPE: stat.S_IFREG, tarfile.AREGTYPE: stat.S_IFREG, tarfile.DIRTYPE: stat.S_IFDIR}
    try:
        with tarfile.open(fileobj=content, mode="r:") as archive:
            members = archive.getmembers()
            _look_at(path, ((m.name, kinds.get(m.type, stat.S_IFLNK), 0) for m in members))
            found = [member for member in members if member.name == name and member.isreg()]
            if len(found) != 1 or found[0].size > most:
                sizes = [member.size for member in found]
                raise InputError(f"{path.name}: sizes of {name}: {sizes}, expected one of at most {most} bytes")
            return archive.extractfile(found[0]).read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path.name} is not a tar archive, or not a whole one: {error}") from error


def _look_at(path: Path, members: Iterable[tuple[str, int, int]]) -> None:
    """Refuse an archive of whose members one, by name, type and size in bytes, is not what a set is made of."""
    n, total = 0, 0
    for name, kind, size in members:
        n, total = n + 1, total + size
        most = MOST_OF_TEXT if name.endswith(".json") else MOST_OF_IMAGE
        wrong = {
            "is an absolute path": name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name),
            "is a path that leaves the archive": ".." in re.split(r"[/\\]", name),
            "is a name that cannot be printed": not (name and name.isprintable()),
            "is a link or a device": kind not in (0, stat.S_IFREG, stat.S_IFDIR),
            f"is {size} bytes large, expected at most {most}": size > most,
            f"is one member of more than {MOST_MEMBERS}": n > MOST_MEMBERS,
            f"brings {total} bytes in all, expected at most {MOST_BYTES}": total > MOST_BYTES,
        }
        for what, found in wrong.items():
            if found:
                raise InputError(f"{path.name}: {name!r:.100} {what}")


def _gunzip(path: Path, most: int) -> bytes:
    try:
        with gzip.open(path) as file:
            content = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path.name} is not a gzip file, or not a whole one: {error}") from error
    if len(content) > most:
        raise InputError(f"{path.name} holds more than {most} bytes, which is more than the published file does")
    return content
