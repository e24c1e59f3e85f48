"""Sets of images with votes: a file each, found by name, read and checked.

A set is a file ``<NAME>.npz`` with

    images       uint8 (N, H, W) for grey or (N, H, W, 3) for colour, H = W
    counts       int (N, K), votes per class
    class_names  str (K,)

and, where they are known,

    ids          str (N,), names of the images
    labels       int (N,), official labels
    ratings      int8 (N, R), the class that each rater chose, -1 where absent; they make the counts
    fold         int (N,), from 1

It lies in the folder ``sets`` of the build folder, if `own.import_votes` made it, or else in the data
cache: BHL_DATA_DIR, or the folder that the platform keeps for caches, into which only `fetch` writes. The
cache may be read-only, and no file beside a set is needed.
"""

import functools
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tokenize import TokenError

import numpy as np

from beyond_hard_labels.base import files, reads
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.paths import build_folder
from beyond_hard_labels.data import votes
from beyond_hard_labels.data.images import LabelledImages
from beyond_hard_labels.data.pixels import SMALLEST

SYNTHETIC = "synthetic"  # the one set that is generated and has no file
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
UNREADABLE = (OSError, ValueError, EOFError, MemoryError, SyntaxError, zipfile.BadZipFile, zlib.error, TokenError)
_PARTS = ("images", "counts", "class_names", "ids", "labels", "ratings", "fold")


def folders() -> tuple[Path, Path]:
    """Return where sets are looked up, in this order: the user's own ones, the data cache."""
    cache = os.environ.get("BHL_DATA_DIR")
    if not cache:
        from platformdirs import user_cache_dir

        cache = user_cache_dir("beyond-hard-labels")
    return build_folder() / "sets", Path(cache)


def names() -> list[str]:
    """Return the names of all sets that are here, the generated one first."""
    found = {path.stem for folder in folders() for path in folder.glob("*.npz") if NAME.fullmatch(path.stem)}
    return [SYNTHETIC, *sorted(found - {SYNTHETIC})]


def locate(name: str) -> Path:
    """Return the file of a set; raise `InputError`, with what is here, if there is none."""
    if name in names()[1:]:
        found = next(path for folder in folders() if (path := folder / f"{name}.npz").is_file())
        reads.note("set", name, _sha256(*_state(found)))
        return found
    reads.note("set", name, None)
    places = " nor ".join(map(str, folders()))
    raise InputError(
        f"parameter 'dataset' is '{name}', expected one of {', '.join(names())}; neither {places} holds {name}.npz, "
        "bhl data fetch gets a published set, and bhl data import makes one of your own files"
    )


def _state(path: Path) -> tuple[Path, int, int]:
    """Return what a file is known by, so that what was read of it is read again if it changed."""
    found = path.stat()
    return path, found.st_size, found.st_mtime_ns


def fingerprint(name: str) -> str:
    """Return the sha256 of a set's file."""
    return _sha256(*_state(locate(name)))


def is_here(name: str) -> bool:
    """Return whether a set's file is on this machine."""
    try:
        return locate(name).is_file()
    except InputError:
        return False


reads.KINDS["set"] = lambda name: fingerprint(name) if is_here(name) else None


@functools.lru_cache
def _sha256(path: Path, size: int, mtime: int) -> str:
    return files.checksum(path)


def read(name: str, n_images: int | None = None) -> LabelledImages:
    """Return a set, or its first `n_images`; the truth is the share of the votes.

    Raises
    ------
    InputError
        If there is no such set, or its file is broken or holds something else; file and place are
        named. Nothing is ever unpickled.
    """
    data = _read(*_state(locate(name)))
    rows = ("images", "truth", "ids", "votes", "ratings", "fold", "official")
    return replace(data, **{part: getattr(data, part)[:n_images] for part in rows if getattr(data, part) is not None})


@functools.lru_cache(maxsize=2)
def _read(path: Path, size: int, mtime: int) -> LabelledImages:
    if _recorded(path) not in (None, _sha256(path, size, mtime)):
        raise files.Damaged(f"{path} is not as it was written; remove it, and bhl data fetch gets it again")
    arrays = _arrays(path)
    check(path, arrays)
    images, counts = arrays["images"], arrays["counts"].astype(np.int64)
    ids = arrays.get("ids", np.array([f"{path.stem}-{i:05d}" for i in range(len(images))]))
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return LabelledImages(
        name=path.stem,
        images=np.ascontiguousarray(images),
        truth=votes.soft(counts),
        class_names=tuple(arrays["class_names"].tolist()),
        ids=tuple(ids.tolist()),
        votes=counts,
        ratings=arrays["ratings"].astype(np.int8) if "ratings" in arrays else None,
        fold=arrays.get("fold"),
        official=arrays.get("labels"),
    )


def _recorded(path: Path) -> str | None:
    """Return the checksum that the record beside a set has of it, if there is one, see `fetch.record`."""
    try:
        return json.loads(path.with_suffix(".json").read_text("utf-8")).get("made")
    except (OSError, ValueError, AttributeError):
        return None  # what is wrong with a record is said where it is shown


def check(path: Path | str, arrays: dict[str, np.ndarray]) -> None:
    """Raise `InputError`, which begins with `path`, if arrays are not the parts of a set as stated above."""
    for part, fits, expected in _expected(arrays):
        if not fits:
            array = arrays[part]
            extent = f" of {array.min()} to {array.max()}" if array.dtype.kind in "iuf" and array.size else ""
            raise InputError(f"{path}: {part} is {array.dtype} {array.shape}{extent}, expected {expected}")
    try:
        counts = votes.validate(arrays["counts"], arrays["class_names"].size)
    except InputError as error:
        raise InputError(f"{path}: counts: {error}") from error
    if "ratings" in arrays:
        made = votes.count(arrays["ratings"], counts.shape[1])
        if (off := np.flatnonzero((made != counts).any(axis=1))).size:
            found = f"ratings of image {off[0]} make the counts {made[off[0]].tolist()}"
            raise InputError(f"{path}: {found}, expected {counts[off[0]].tolist()}")


def _expected(arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, bool, str]]:
    """Yield each part, whether it is as it should be, and how that is."""
    images, class_names = arrays["images"], arrays["class_names"]
    n, k = len(images) if images.ndim else 0, class_names.size
    square = images.ndim in (3, 4) and images.shape[3:] in ((), (3,)) and images.shape[1] == images.shape[2] >= SMALLEST
    yield "images", images.dtype == np.uint8 and square, f"uint8 (N, H, H) or (N, H, H, 3), H at least {SMALLEST}"
    yield "class_names", _are_names(class_names) and k >= 2, "text (K,), K at least 2, all different"
    if "ids" in arrays:
        fits = _are_names(arrays["ids"]) and arrays["ids"].shape == (n,)
        yield "ids", fits, f"text ({n},), one an image, all different"
    yield "counts", arrays["counts"].shape == (n, k), f"({n}, {k}), one row an image and one column a class"
    for part, rank, low, high in (("labels", 1, 0, k - 1), ("fold", 1, 1, 1000), ("ratings", 2, -1, min(k - 1, 127))):
        if (array := arrays.get(part)) is not None:
            whole = array.dtype.kind in "iu" and array.ndim == rank and len(array) == n
            fits = whole and ((array >= low) & (array <= high)).all()
            yield part, fits, f"whole numbers ({n},{' R' * (rank - 1)}) of {low} to {high}"


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file that a set is made of."""
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not a zip archive, or not a whole one")
        with np.load(path, allow_pickle=False) as file:
            arrays = {part: file[part] for part in _PARTS if part in file.files}
    except UNREADABLE as error:
        raise InputError(f"{path} is not a set of images: {error}") from error
    for part in ("images", "counts", "class_names", *arrays):
        if not isinstance(arrays.get(part), np.ndarray):
            raise InputError(f"{path} is not a set of images: it has no array '{part}'")
    return arrays


def _are_names(array: np.ndarray) -> bool:
    return array.dtype.kind == "U" and array.ndim == 1 and len(set(array.tolist()) - {""}) == len(array)
