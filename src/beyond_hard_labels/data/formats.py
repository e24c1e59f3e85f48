"""The files of publishers, read without trusting them.

Members of archives are looked at before any is read, are decoded without being written to a disk, and are never
larger than they may be; nothing is ever unpickled.
"""

import contextlib
import gzip
import io
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import dcic, sets
from beyond_hard_labels.data.known import Published

MOST_MEMBERS, MOST_BYTES = 100_000, 4 << 30  # of an archive; bytes before and after decompression
MOST_OF_IMAGE, MOST_OF_TEXT, MOST_OF_TAR = 4 << 20, 512 << 20, 256 << 20  # bytes of members, and of a tar archive
MOST_TEST_IMAGES = 10_000  # of CIFAR-10 and Fashion-MNIST
_CIFAR_ROW = 1 + 3 * 32 * 32  # bytes: the label, then the planes
_EMOTIONS = {  # classes of FER+, and the numbers that they have in FER2013, which knows no contempt
    **{"neutral": 6, "happiness": 3, "surprise": 5, "sadness": 4, "anger": 0, "disgust": 1, "fear": 2},
    "contempt": None,
}
_BATCH = "cifar-10-batches-bin/test_batch.bin"


def read(published: Published, paths: list[Path]) -> dict[str, np.ndarray]:
    """Return the arrays of a set, see `sets`, from its files in the order in which it names them.

    A file that is broken, hostile, or holds something else than the set is an `InputError`.
    """
    of_its_own = {"cifar10h": _cifar10h, "fashion_mnist_h": _fashion_mnist_h, "ferplus": _ferplus}
    if published.name in of_its_own:
        return of_its_own[published.name](*paths) | {"class_names": np.array(published.classes)}
    with _reading(paths[0], "a zip archive"), zipfile.ZipFile(paths[0]) as archive:
        members = archive.infolist()  # which is enough: no more is decompressed of one than it is said to hold
        _refuse_hostile((m.filename, stat.S_IFMT(m.external_attr >> 16), m.file_size) for m in members)
        plain = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # which cannot claim much memory to be decompressed in
        if odd := [m.filename for m in members if m.flag_bits & 1 or m.compress_type not in plain]:
            raise InputError(f"{odd[0]!r:.100} is encrypted, or compressed but not by deflate")
        return dcic.read(archive, Path(next(iter(published.files))).stem, published.classes)


@contextlib.contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Name the file in whatever keeps it from being read."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error
    except (*sets.UNREADABLE, tarfile.TarError, NotImplementedError, OverflowError) as error:
        raise InputError(f"{path.name} cannot be read as {what}: {error}") from error


def _cifar10h(votes: Path, pixels: Path) -> dict[str, np.ndarray]:
    with _reading(votes, "an array of NumPy"):
        counts = np.load(votes, allow_pickle=False)
    with _reading(pixels, "a gzipped tar archive"):
        content = io.BytesIO(_gunzip(pixels, MOST_OF_TAR))
        kinds = {tarfile.REGTYPE: stat.S_IFREG, tarfile.AREGTYPE: stat.S_IFREG, tarfile.DIRTYPE: stat.S_IFDIR}
        with tarfile.open(fileobj=content, mode="r:") as archive:
            members = archive.getmembers()
            _refuse_hostile((m.name, kinds.get(m.type, stat.S_IFLNK), 0) for m in members)
            sizes = [member.size for member in members if member.name == _BATCH]
            if len(sizes) != 1 or sizes[0] % _CIFAR_ROW or not 0 < sizes[0] <= MOST_TEST_IMAGES * _CIFAR_ROW:
                expected = f"one of 1 to {MOST_TEST_IMAGES} rows of {_CIFAR_ROW} bytes"
                raise InputError(f"sizes of {_BATCH}: {sizes}, expected {expected}")
            rows = np.frombuffer(archive.extractfile(_BATCH).read(), np.uint8).reshape(-1, _CIFAR_ROW)
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return {"images": images, "counts": counts, "labels": rows[:, 0].astype(np.int64)}


def _fashion_mnist_h(votes: Path, pixels: Path, official: Path) -> dict[str, np.ndarray]:
    with _reading(votes, "a table of whole numbers"):
        counts = np.ascontiguousarray(pd.read_csv(votes, header=None, dtype=np.int64))
    images = _idx(pixels, rank=3, most=MOST_TEST_IMAGES * 28 * 28)
    labels = _idx(official, rank=1, most=MOST_TEST_IMAGES).astype(np.int64)
    return {"images": images, "counts": counts, "labels": labels}


def _ferplus(votes: Path, pixels: Path) -> dict[str, np.ndarray]:
    """Read FER+: a row of votes for each row of pixels; left out are rows without a name of their own or a vote."""
    with _reading(votes, "the table fer2013new.csv"):
        table = pd.read_csv(votes, dtype={"Image name": str})
        counts = np.ascontiguousarray(table[list(_EMOTIONS)], np.int64)
        fold = table["Usage"].map({"Training": 1, "PublicTest": 2, "PrivateTest": 3}).to_numpy(np.int64)
    with _reading(pixels, "the table fer2013.csv"):
        rows = pd.read_csv(pixels, usecols=["emotion", "pixels"], dtype={"pixels": str})
        if len(rows) != len(table):
            raise InputError(f"it has {len(rows)} rows, expected {len(table)}, as many as {votes.name}")
        official = rows["emotion"].to_numpy(np.int64)
        names = table["Image name"]
        kept = np.flatnonzero(names.notna() & ~names.duplicated(keep=False) & (counts.sum(axis=1) > 0))
        images = np.array([np.array(text.split(), np.uint8) for text in rows["pixels"].iloc[kept]]).reshape(-1, 48, 48)
    order = np.array([list(_EMOTIONS.values()).index(number) for number in range(7)])  # theirs in ours
    parts = {"counts": counts, "labels": order[official], "fold": fold, "ids": np.array([*names.fillna("")])}
    return {"images": images} | {name: values[kept] for name, values in parts.items()}


def _idx(path: Path, rank: int, most: int) -> np.ndarray:
    """Read a gzipped file of the IDX format: two zeros, 8 for bytes, the rank, big-endian sizes, the bytes."""
    with _reading(path, f"a gzipped IDX file of bytes with {rank} dimension(s)"):
        content = _gunzip(path, 4 + 4 * rank + most)
        if content[:4] != bytes([0, 0, 8, rank]):
            raise ValueError(f"it begins with {content[:4].hex(' ')}")
        sizes = np.frombuffer(content, ">u4", rank, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(sizes)


def _gunzip(path: Path, most: int) -> bytes:
    with gzip.open(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"it holds more than {most} bytes, which is more than the published file does")
    return content


def _refuse_hostile(members: Iterable[tuple[str, int, int]]) -> None:
    """Refuse an archive of whose members one, by name, type and size in bytes, is not what a set is made of."""
    total = 0
    for n, (name, kind, size) in enumerate(members, 1):
        total += size
        most = MOST_OF_TEXT if name.endswith(".json") else MOST_OF_IMAGE
        wrong = {
            "is a path out of the archive": re.search(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)", name),
            "is a name that cannot be printed": not (name and name.isprintable()),
            "is a link or a device": kind not in (0, stat.S_IFREG, stat.S_IFDIR),
            f"is {size} bytes large, expected at most {most}": size > most,
            f"is one member of more than {MOST_MEMBERS}": n > MOST_MEMBERS,
            f"brings {total} bytes in all, expected at most {MOST_BYTES}": total > MOST_BYTES,
        }
        if any(wrong.values()):
            raise InputError(f"{name!r:.100} {next(what for what, found in wrong.items() if found)}")
