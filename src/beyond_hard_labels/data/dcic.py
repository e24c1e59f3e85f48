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
import math
import os
import re
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.rng import stream
from beyond_hard_labels.data import votes
from beyond_hard_labels.data.images import N_FOLDS, LabelledImages
from beyond_hard_labels.data.sets import COLOUR_MODES, GREY_MODES, SMALLEST, refuse

LARGEST, MOST_RATERS, MOST_BYTES = 1024, 10_000, 4 << 30  # pixels a side; columns; bytes of all images
_AT_ONCE = 256  # images that wait to be put into the array
_BROKEN = (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


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
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    try:
        for number in range(1, N_FOLDS + 1):
            (temporary / f"fold{number}").mkdir()
        paths = [f"fold{number}/{image_id}.png" for number, image_id in zip(fold, data.ids, strict=True)]
        for path, image in zip(paths, data.images, strict=True):
            Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(temporary / path)
        with (temporary / "annotations.json").open("w", encoding="utf-8") as file:
            file.write("[")
            for annotator, classes in enumerate(ratings.T):  # one set at a time, to keep memory flat
                file.write(",\n" if annotator else "\n")
                json.dump(_annotation_set(name, annotator, paths, classes, data.class_names), file)
            file.write("\n]\n")
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _annotation_set(name: str, annotator: int, paths: list[str], classes: np.ndarray, class_names) -> dict:
    annotations = [
        {"image_path": f"{name}/{path}", "created_at": "01-01-2024-00-00-00", "class_label": class_names[c]}
        for path, c in zip(paths, classes, strict=True)
    ]
    return {
        "name": f"INVALID{annotator}",
        "dataset_name": name,
        "user_mail": "INVALID",
        "annotation_time": 0.0,
        "annotations": annotations,
    }


def read(archive: zipfile.ZipFile, name: str, class_names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Return what a zip archive of this format holds, as the arrays that `real_data` states.

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
        With every fault of annotations and images, up to twenty, each with its place.
    """
    where = Path(archive.filename).name
    faults = []
    annotations, members = _members(archive, where, name, faults)
    ids = sorted(members, key=lambda image_id: hashlib.sha256(image_id.encode()).digest())
    rows = {image_id: row for row, image_id in enumerate(ids)}
    of_images = []
    with ThreadPoolExecutor(1) as pool:  # decoding images leaves this thread running, which reads the votes meanwhile
        reading = pool.submit(_read_images, archive, [members[image_id] for image_id in ids], of_images)
        n_raters, raters, row_of, labels = _read_annotations(archive, annotations, rows, class_names, faults)
        images = reading.result()
    class_names = class_names or tuple(sorted(set(labels)))
    for n, kind, least, most in ((len(class_names), "classes", 2, 127), (n_raters, "raters", 1, MOST_RATERS)):
        if not least <= n <= most:
            faults.append(f"{annotations}: the number of {kind} is {n}, expected {least} to {most}")
    unrated = np.ones(len(ids), bool)
    unrated[row_of] = False
    faults += [f"{members[ids[row]]}: the image has no votes in {annotations}" for row in np.flatnonzero(unrated)]
    faults += of_images
    refuse(f"{where} is not a set in the format of DCIC", faults)
    ratings = np.full((len(ids), n_raters), -1, np.int8)
    ratings[row_of, raters] = [class_names.index(label) for label in labels]
    folds = [int(PurePosixPath(members[image_id]).parent.name[-1]) for image_id in ids]
    counts = np.stack([(ratings == c).sum(axis=1) for c in range(len(class_names))], axis=1)
    arrays = {"images": images, "counts": counts, "class_names": np.array(class_names), "ids": np.array(ids)}
    return arrays | {"ratings": ratings, "fold": np.array(folds)}


def _image_id(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".png").partition("-[")[0]


def _members(archive: zipfile.ZipFile, where: str, name: str, faults: list[str]) -> tuple[str, dict[str, str]]:
    """Return the names of the annotations and, by id, of the images."""
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    found = [n for n in names if PurePosixPath(n).parts[-2:] == (PurePosixPath(n).parent.name, "annotations.json")]
    roots = [PurePosixPath(n).parent for n in found]
    if [root.name.replace("#", "") for root in roots] != [name]:
        raise InputError(f"{where} holds {', '.join(found) or 'no annotations.json'}, expected {name}/annotations.json")
    members = {}
    for path in map(PurePosixPath, names):
        if path.suffix != ".png" or not path.is_relative_to(roots[0]):
            continue
        image_id = _image_id(path.name)
        if not re.fullmatch(f"fold[1-{N_FOLDS}]", path.parent.name) or path.parent.parent != roots[0]:
            faults.append(f"{path}: the image is in none of the folders fold1 to fold{N_FOLDS}")
        elif image_id in members:
            faults.append(f"{path}: its id '{image_id}' is that of {members[image_id]}, too")
        else:
            members[image_id] = str(path)
    if not members:
        faults.append(f"{roots[0]}: there is no image in fold1 to fold{N_FOLDS}")
    return found[0], members


def _read_annotations(
    archive: zipfile.ZipFile, member: str, rows: dict[str, int], class_names, faults: list[str]
) -> tuple[int, list[int], list[int], list[str]]:
    """Return the number of columns, and each vote's column, row and label."""
    raters, row_of, labels, unknown, n_columns = [], [], [], set(), 0
    for number, (fault, annotations) in enumerate(_annotation_sets(archive, member)):
        place = f"{member}: [{number}]"
        faults += [f"{place}{fault}"] if fault else []
        again, columns = Counter(), 1
        for i, annotation in enumerate(annotations):
            if not isinstance(annotation, tuple):
                found = f"{annotation!r:.80}"
                faults.append(
                    f"{place}.annotations[{i}] is {found}, expected a text image_path, class_label text or null"
                )
                continue
            path, label = annotation
            image_id = _image_id(path)
            if label is None:
                continue
            if image_id not in rows:
                if image_id not in unknown:
                    faults.append(f"{place}.annotations[{i}]: votes for {path!r:.100}, which is not in the archive")
                unknown.add(image_id)
            elif class_names and label not in class_names:
                expected = ", ".join(class_names)
                faults.append(f"{place}.annotations[{i}]: class_label is {label!r:.50}, expected {expected} or null")
            else:
                raters.append(n_columns + again[image_id])
                row_of.append(rows[image_id])
                labels.append(label)
                again[image_id] += 1
                columns = max(columns, again[image_id])
        n_columns += columns
    return n_columns, raters, row_of, labels


def _annotation_sets(archive: zipfile.ZipFile, member: str) -> list[tuple[str, list]]:
    """Return of each annotation set what is wrong with it as a whole, and its annotations.

    An annotation is a path and a label as long as it is as it should be, so that a million of them fit
    into memory, and else what the file holds.
    """

    def slim(found: dict):
        path, label = found.get("image_path"), found.get("class_label", 0)
        if not isinstance(path, str) or not (
            label is None or (isinstance(label, str) and label and label.isprintable())
        ):
            return found
        return sys.intern(path), label and sys.intern(label)

    where = f"{Path(archive.filename).name}: {member}"
    try:
        text = archive.read(member).decode("utf-8")
        sets = json.loads(text, object_hook=slim)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON at byte {len(text[: error.pos].encode())}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 at byte {error.start}: {error.reason}") from error
    except (*_BROKEN, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{where} cannot be read: {error}") from error
    if not isinstance(sets, list) or not sets:
        raise InputError(f"{where} is {type(sets).__name__}, expected a list of annotation sets, one at least")
    return [_annotations_of(found) for found in sets]


def _annotations_of(found) -> tuple[str, list]:
    if not isinstance(found, dict) or not isinstance(found.get("annotations"), list):
        return " is no annotation set, expected an object with a list 'annotations'", []
    if not isinstance(name := found.get("name"), str) or "INVALID" not in name:
        return ".name is not anonymous, expected INVALID in it", []  # and what it is instead is not repeated
    if found.get("user_mail", "INVALID") != "INVALID":
        return ".user_mail is not anonymous, expected INVALID", []
    return "", found["annotations"]


def _read_images(archive: zipfile.ZipFile, members: list[str], faults: list[str]) -> np.ndarray | None:
    """Return the images, uint8 (N, H, H) if all are grey, else (N, H, H, 3).

    Pillow's decoder leaves other threads running, and only some images at a time are not in the array
    yet.
    """
    images, first, where = None, "", Path(archive.filename).name
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for start in range(0, len(members), _AT_ONCE):
            batch = members[start : start + _AT_ONCE]
            for row, pixels in enumerate(pool.map(partial(_read_image, archive), batch), start):
                if isinstance(pixels, str):
                    faults.append(f"{members[row]}: {pixels}")
                    continue
                if images is None:
                    images, first = _zeros(where, len(members), *pixels.shape), members[row]
                if pixels.shape[:2] != images.shape[1:3]:
                    sizes = [f"{shape[1]} x {shape[0]} pixels" for shape in (pixels.shape, images.shape[1:])]
                    faults.append(f"{members[row]}: {sizes[0]}, expected {sizes[1]} as of {first}")
                    continue
                if pixels.ndim == 3 and images.ndim == 3:
                    grey, images = images, _zeros(where, *images.shape, 3)
                    images[:row] = grey[:row, :, :, None]
                images[row] = pixels if pixels.ndim == images.ndim - 1 else pixels[:, :, None]
    return images


def _zeros(where: str, *shape: int) -> np.ndarray:
    if (size := math.prod(shape)) > MOST_BYTES:
        raise InputError(f"{where}: the images are {size} bytes in memory, {shape}, expected at most {MOST_BYTES}")
    return np.zeros(shape, np.uint8)


def _read_image(archive: zipfile.ZipFile, member: str) -> np.ndarray | str:
    """Return uint8 (H, W) for a grey image, however it is coded, (H, W, 3) for another, or what is wrong with it."""
    try:
        with Image.open(io.BytesIO(archive.read(member)), formats=["PNG"]) as file:
            width, height = file.size
            if width != height or not SMALLEST <= width <= LARGEST:
                return f"{width} x {height} pixels, expected a square of {SMALLEST} to {LARGEST}"
            if file.mode not in GREY_MODES + COLOUR_MODES:
                return f"its pixels are of mode {file.mode}, expected 8 bits a channel, grey or colour"
            mode = "L" if file.mode in GREY_MODES else "RGB"
            image = file if file.mode == mode else file.convert(mode)
            if mode == "RGB":
                red, green, blue = image.split()
                image = red if red.tobytes() == green.tobytes() == blue.tobytes() else image
            return np.asarray(image)
    except Exception as error:  # Pillow's decoders raise of many kinds; all mean that the file cannot be read
        return f"the image cannot be read: {error}"
