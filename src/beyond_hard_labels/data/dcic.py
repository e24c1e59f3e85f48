"""The folder format of DCIC, the authors' benchmark, written and read.

Images lie in ``<folder>/<Name>/fold1`` to ``fold5`` as ``<id>.png``. ``<folder>/<Name>/annotations.json``
is a list of annotation sets, one an annotator: an object with ``name`` (holding INVALID, as the
published sets are anonymous), ``dataset_name``, ``user_mail`` (INVALID), ``annotation_time`` and
``annotations``, a list of objects with ``image_path``, ``created_at`` and ``class_label``, which may be
null. An image is known by its id: the last part of its path without ``.png``, cut at ``-[``. What else
its name says, such as a class in front, is not a label.
"""

import hashlib
import io
import json
import os
import re
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.rng import stream
from beyond_hard_labels.data import votes
from beyond_hard_labels.data.images import N_FOLDS, LabelledImages
from beyond_hard_labels.data.pixels import SMALLEST, grey_or_colour

LARGEST, MOST_RATERS, MOST_BYTES = 1024, 10_000, 8 << 30  # pixels a side; columns; bytes of all images in colour
_BROKEN = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


def export(data: LabelledImages, folder: Path, *, n_votes: int, seed: int, name: str = "Synthetic") -> Path:
    """Write a set with votes of `n_votes` simulated annotators; returns the folder of the set.

    Images go to five random folds of equal size. Nothing appears under its final name before all is
    written.

    Raises
    ------
    InputError
        If the folder of the set exists already; it is left as it is.
    """
    target = Path(folder) / name
    if target.exists():
        raise InputError(f"{target} exists already; name another folder or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    fold = stream("folds", seed).permutation(np.arange(len(data.ids)) % N_FOLDS) + 1
    ratings = votes.simulate(data.truth, n_votes, seed)  # (N, A)
    paths = [f"{name}/fold{number}/{image_id}.png" for number, image_id in zip(fold, data.ids, strict=True)]
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as temporary:
        for number in range(1, N_FOLDS + 1):
            (Path(temporary) / name / f"fold{number}").mkdir(parents=True)
        for path, image in zip(paths, data.images, strict=True):
            Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(Path(temporary) / path)
        with (Path(temporary) / name / "annotations.json").open("w", encoding="utf-8") as file:
            for annotator, classes in enumerate(ratings.T):  # one set at a time, to keep memory flat
                file.write(",\n" if annotator else "[\n")
                annotations = [
                    {"image_path": path, "created_at": "01-01-2024-00-00-00", "class_label": data.class_names[c]}
                    for path, c in zip(paths, classes, strict=True)
                ]
                about = {"name": f"INVALID{annotator}", "dataset_name": name, "user_mail": "INVALID"}
                json.dump(about | {"annotation_time": 0.0, "annotations": annotations}, file)
            file.write("\n]\n")
        (Path(temporary) / name).rename(target)
    return target


def read(archive: zipfile.ZipFile, name: str, class_names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Return what a zip archive of this format holds, as the arrays that `sets` states.

    Nothing of it is written to a disk. Images that are grey in all their pixels become grey, if all are.
    The ratings have a column for each annotation set, and one more for each time that a set rates an
    image again. Rows are in the order of a hash of the ids, so that the first of them are a sample of
    the whole: in the order of names they would be sorted by fold and by what the names say of classes.

    Parameters
    ----------
    archive : zipfile.ZipFile
        Open for reading. That no member is larger than it may be is up to the caller.
    name : str
        Name of the set, that of its folder in the archive; a # in the latter does not count.
    class_names : tuple of str, optional
        All classes; by default the labels that occur, sorted.

    Raises
    ------
    InputError
        At the first fault, with its place.
    """
    where = Path(archive.filename).name
    try:
        annotations, members = _members(archive, name)
        ids = sorted(members, key=lambda image_id: hashlib.sha256(image_id.encode()).digest())
        with ThreadPoolExecutor(1) as pool:  # decoding images leaves this thread running, which reads votes meanwhile
            reading = pool.submit(_read_images, archive, [members[image_id] for image_id in ids])
            labels, row_of, column_of, n_columns = _read_votes(archive, annotations, ids, class_names)
            images = reading.result()
        class_names = class_names or tuple(sorted(set(labels)))
        if not (2 <= len(class_names) <= 127 and 1 <= n_columns <= MOST_RATERS):
            found = f"{len(class_names)} classes and {n_columns} raters"
            raise InputError(f"{annotations}: {found}, expected 2 to 127 and 1 to {MOST_RATERS}")
        ratings = np.full((len(ids), n_columns), -1, np.int8)
        ratings[row_of, column_of] = [class_names.index(label) for label in labels]
        if (unrated := np.flatnonzero((ratings < 0).all(axis=1))).size:
            raise InputError(f"{members[ids[unrated[0]]]}: the image has no votes in {annotations}")
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    folds = [int(PurePosixPath(members[image_id]).parent.name[-1]) for image_id in ids]
    arrays = {"images": images, "counts": votes.count(ratings, len(class_names)), "class_names": np.array(class_names)}
    return arrays | {"ids": np.array(ids), "ratings": ratings, "fold": np.array(folds)}


def _image_id(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".png").partition("-[")[0]


def _members(archive: zipfile.ZipFile, name: str) -> tuple[str, dict[str, str]]:
    """Return the names of the annotations and, by id, of the images."""
    paths = [PurePosixPath(info.filename) for info in archive.infolist() if not info.is_dir()]
    roots = [path.parent for path in paths if path.parts[-2:] == (path.parent.name, "annotations.json")]
    if [root.name.replace("#", "") for root in roots] != [name]:
        found = ", ".join(f"{root}/annotations.json" for root in roots) or "no annotations.json"
        raise InputError(f"it holds {found}, expected {name}/annotations.json")
    members = {}
    for path in [path for path in paths if path.suffix == ".png" and path.is_relative_to(roots[0])]:
        image_id = _image_id(path.name)
        if not re.fullmatch(f"fold[1-{N_FOLDS}]", path.parent.name) or path.parent.parent != roots[0]:
            raise InputError(f"{path}: the image is in none of the folders fold1 to fold{N_FOLDS}")
        if image_id in members:
            raise InputError(f"{path}: its id '{image_id}' is that of {members[image_id]}, too")
        members[image_id] = str(path)
    if not members:
        raise InputError(f"{roots[0]}: there is no image in fold1 to fold{N_FOLDS}")
    return f"{roots[0]}/annotations.json", members


def _read_votes(
    archive: zipfile.ZipFile, member: str, ids: list[str], class_names: tuple[str, ...] | None
) -> tuple[list[str], list[int], list[int], int]:
    """Return each vote's label, row and column, and the number of columns."""
    rows, labels, row_of, column_of, n_columns = {name: row for row, name in enumerate(ids)}, [], [], [], 0
    expected = f"an image of the archive and {', '.join(class_names or ('a text',))} or null"
    for number, annotations in enumerate(_annotation_sets(archive, member)):
        times = Counter()  # that this set has rated a row
        for i, found in enumerate(annotations):
            path, label = found if isinstance(found, tuple) else (found, "")
            row = rows.get(_image_id(path)) if isinstance(path, str) else None
            if label is None and isinstance(path, str):
                continue
            if row is None or not label or (class_names and label not in class_names):
                raise InputError(f"{member}: [{number}].annotations[{i}] is {found!r:.200}, expected {expected}")
            labels.append(label)
            row_of.append(row)
            column_of.append(n_columns + times[row])
            times[row] += 1
        n_columns += max(times.values(), default=1)
    return labels, row_of, column_of, n_columns


def _annotation_sets(archive: zipfile.ZipFile, member: str) -> list[list]:
    """Return the annotations of each set, each a path and a label as long as both are texts, else as it is."""

    def slim(found: dict):  # so that a million of them fit into memory
        path, label = found.get("image_path"), found.get("class_label", 0)
        fits = isinstance(path, str) and (label is None or (isinstance(label, str) and label.isprintable()))
        return (sys.intern(path), label and sys.intern(label)) if fits else found

    try:
        found = json.loads(archive.read(member).decode("utf-8"), object_hook=slim)
    except _BROKEN as error:
        raise InputError(f"{member} cannot be read: {error}") from error
    if not isinstance(found, list) or not found:
        raise InputError(f"{member} is {type(found).__name__}, expected a list of annotation sets, one at least")
    for number, one in enumerate(found):
        if not isinstance(one, dict) or not isinstance(one.get("annotations"), list):
            raise InputError(f"{member}: [{number}] is no annotation set, expected an object with a list 'annotations'")
        if "INVALID" not in str(one.get("name")) or one.get("user_mail", "INVALID") != "INVALID":
            raise InputError(f"{member}: [{number}] is not anonymous, expected INVALID in name and user_mail")
    return [one["annotations"] for one in found]  # whose names are not repeated, whatever they are


def _read_images(archive: zipfile.ZipFile, members: list[str]) -> np.ndarray:
    """Return the images, uint8 (N, H, H) if all are grey, else (N, H, H, 3).

    Pillow's decoder leaves other threads running.
    """
    side = len(_read_image(archive, members[0]))
    if (size := 3 * len(members) * side**2) > MOST_BYTES:
        raise InputError(f"the images are {size} bytes in memory, expected at most {MOST_BYTES}")
    planes = np.zeros((3, len(members), side, side), np.uint8)  # memory that is not written to is not taken

    def put(row: int) -> bool:
        pixels = _read_image(archive, members[row])
        if len(pixels) != side:
            sizes = f"{len(pixels)} x {len(pixels)} pixels, expected {side} x {side} as of {members[0]}"
            raise InputError(f"{members[row]}: {sizes}")
        if pixels.ndim == 2:
            planes[0, row] = pixels
        else:
            planes[:, row] = pixels.transpose(2, 0, 1)
        return pixels.ndim == 3

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        coloured = np.array(list(pool.map(put, range(len(members)))))
    if not coloured.any():
        return planes[0]
    planes[1:, ~coloured] = planes[0, ~coloured]
    return planes.transpose(1, 2, 3, 0)


def _read_image(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """Return uint8 (H, H) for a grey image, however it is coded, (H, H, 3) for another."""
    try:
        with Image.open(io.BytesIO(archive.read(member)), formats=["PNG"]) as file:
            width, height = file.size
            if width != height or not SMALLEST <= width <= LARGEST:
                raise InputError(f"{width} x {height} pixels, expected a square of {SMALLEST} to {LARGEST}")
            image = grey_or_colour(file)
            if image.mode == "RGB":
                red, green, blue = image.split()
                image = red if red.tobytes() == green.tobytes() == blue.tobytes() else image
            return np.asarray(image)
    except Exception as error:  # Pillow's decoders raise of many kinds; all mean that the file cannot be read
        raise InputError(f"{member}: the image cannot be read: {error}") from error
