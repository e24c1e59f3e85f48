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

import contextlib
import functools
import json
import os
import re
import zipfile
import zlib
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
PARTS = ("images", "counts", "class_names", "ids", "labels", "ratings", "fold")  # three are needed
RECORDED = ("source", "sha256", "fetched", "images", "votes", "classes", "made")  # beside a set that was fetched


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


@functools.lru_cache
def _sha256(path: Path, size: int, mtime: int) -> str:
    return files.checksum(path)


def fingerprint(name: str) -> str:
    """Return the sha256 of a set's file."""
    return _sha256(*_state(locate(name)))


def is_here(name: str) -> bool:
    """Return whether a set's file is on this machine."""
    with contextlib.suppress(InputError):
        return locate(name).is_file()
    return False


reads.KINDS["set"] = lambda name: fingerprint(name) if is_here(name) else None


def record(path: Path) -> dict:
    """Return what is recorded beside the file of a set that was fetched, see `RECORDED`; nothing if it was not."""
    beside = path.with_suffix(".json")
    try:
        found = json.loads(beside.read_text("utf-8")) if beside.is_file() else {}
        return found and found | {part: found[part] for part in RECORDED}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{beside} is no record of a fetched set, remove it: {error!r}") from error


def read(name: str, n_images: int | None = None) -> LabelledImages:
    """Return a set, or its first `n_images`; the truth is the share of the votes.

    A set that is not here, and a file that is broken or holds something else, are an `InputError` with file
    and place. Nothing is ever unpickled.
    """
    data = _read(*_state(locate(name)))
    rows = ("images", "truth", "ids", "votes", "ratings", "fold", "official")
    return replace(data, **{part: getattr(data, part)[:n_images] for part in rows if getattr(data, part) is not None})


@functools.lru_cache(maxsize=2)
def _read(path: Path, size: int, mtime: int) -> LabelledImages:
    if record(path).get("made") not in (None, _sha256(path, size, mtime)):
        raise files.Damaged(f"{path} is not as it was written; remove it, and bhl data fetch gets it again")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not a zip archive, or not a whole one")
        with np.load(path, allow_pickle=False) as file:
            arrays = {part: file[part] for part in PARTS if part in file}
    except UNREADABLE as error:
        raise InputError(f"{path} is not a set of images: {error}") from error
    return labelled(str(path), path.stem, arrays)


def labelled(where: str, name: str, arrays: dict[str, np.ndarray]) -> LabelledImages:
    """Return the parts of a set, see above, as labelled images; raise `InputError`, which begins with `where`."""
    for part in PARTS[:3]:
        if not isinstance(arrays.get(part), np.ndarray):
            raise InputError(f"{where} is not a set of images: it has no array '{part}'")

    def require(part: str, fits: bool, expected: str) -> None:
        if not fits:
            raise InputError(f"{where}: {part} is {arrays[part].dtype} {arrays[part].shape}, expected {expected}")

    images, k = arrays["images"], arrays["class_names"].size
    square = images.ndim in (3, 4) and images.shape[3:] in ((), (3,)) and images.shape[1] == images.shape[2] >= SMALLEST
    require("images", square and images.dtype == np.uint8, f"uint8 (N, H, H) or (N, H, H, 3), H at least {SMALLEST}")
    for part, least in (("class_names", 2), ("ids", 0)):
        text = arrays.get(part, np.zeros(0, str))
        named = text.dtype.kind == "U" and text.ndim == 1 and len({*text.tolist()} - {""}) == len(text) >= least
        require(part, named, f"text of one dimension, all different, at least {least}")
    for part, rank, low, high in (("labels", 1, 0, k - 1), ("fold", 1, 1, 1000), ("ratings", 2, -1, min(k - 1, 127))):
        array = arrays.get(part, np.ones((0,) * rank, int))
        whole = array.dtype.kind in "iu" and array.ndim == rank and ((array >= low) & (array <= high)).all()
        require(part, whole, f"whole numbers of {rank} dimension(s), from {low} to {high}")
    try:
        counts, ratings = votes.validate(arrays["counts"], k), arrays.get("ratings")
        data = LabelledImages(
            name=name,
            images=np.ascontiguousarray(images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)),
            truth=votes.soft(counts),
            class_names=tuple(arrays["class_names"].tolist()),
            ids=tuple(arrays.get("ids", np.array([f"{name}-{i:05d}" for i in range(len(images))])).tolist()),
            votes=counts,
            ratings=None if ratings is None else ratings.astype(np.int8),
            fold=arrays.get("fold"),
            official=arrays.get("labels"),
        )
        if ratings is not None and (off := np.flatnonzero((votes.count(ratings, k) != counts).any(axis=1))).size:
            raise InputError(f"the ratings of image {off[0]} do not make its counts, {counts[off[0]].tolist()}")
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return data
