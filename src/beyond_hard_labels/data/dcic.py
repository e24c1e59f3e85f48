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
import zipfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from beyond_hard_labels.base import files, memory
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.rng import stream
from beyond_hard_labels.data import votes
from beyond_hard_labels.data.images import N_FOLDS, LabelledImages
from beyond_hard_labels.data.pixels import SMALLEST, grey_or_colour, reading, stack

LARGEST, MOST_RATERS = 1024, 10_000  # pixels a side; columns
CREATED = "01-01-2024-00-00-00"  # of votes whose time is not known


def export(data: LabelledImages, folder: Path, *, n_votes: int, seed: int, name: str = "Synthetic") -> Path:
    """Write a set with votes of `n_votes` simulated annotators, see `write`; images go to five random folds."""
    fold = stream("folds", seed).permutation(np.arange(len(data.ids)) % N_FOLDS) + 1
    people = [f"INVALID{number}" for number in range(n_votes)]
    paths = [f"fold{number}/{image_id}.png" for number, image_id in zip(fold, data.ids, strict=True)]
    return write(data, Path(folder) / name, paths, votes.simulate(data.truth, n_votes, seed), people)


def write(data: LabelledImages, target: Path, paths: Sequence[str], ratings: np.ndarray, people: Sequence[str]) -> Path:
    """Write a set in this format, whole or not at all; return its folder, which must not be there.

    `paths` are those of the images in it, and `ratings` (N, R) the classes that `people` chose, -1 where one saw none.
    """
    if target.exists():
        raise InputError(f"{target} exists already; name another folder or remove it")
    with files.writing(target) as temporary:
        for number in range(1, N_FOLDS + 1):
            (temporary / f"fold{number}").mkdir(parents=True)
        for path, image in zip(paths, data.images, strict=True):
            Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(temporary / path)
        sets = []  # as text, which takes less memory
        for who, column in zip(people, ratings.T, strict=True):
            annotations = [
                {"image_path": f"{target.name}/{paths[i]}", "created_at": CREATED, "class_label": data.class_names[c]}
                for i, c in enumerate(column)
                if c >= 0
            ]
            about = {"name": who, "dataset_name": target.name, "user_mail": "INVALID", "annotation_time": 0.0}
            sets.append(json.dumps(about | {"annotations": annotations}))
        (temporary / "annotations.json").write_text("[\n" + ",\n".join(sets) + "\n]\n", "utf-8")
    return target


def read(archive: zipfile.ZipFile, name: str, class_names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Return what an open archive of this format holds, as the arrays that `sets` states.

    Nothing of it is written to a disk; that no member is larger than it may be is up to the caller. The set is
    grey if all images are so in all their pixels. The ratings have a column for each annotation set, and one
    more for each time that a set rates an image again. Rows are in the order of a hash of the ids, so that the
    first of them are a sample of the whole: the order of names is that of folds and classes.

    Its folder in the archive is called `name`, a # in it apart; without `class_names`, classes are the labels
    that occur, sorted. The first fault is an `InputError` with its place.
    """
    notes, members = _members(archive, name)
    ids = sorted(members, key=lambda image_id: hashlib.sha256(image_id.encode()).digest())
    labels, row_of, column_of, n_columns = _read_votes(archive, notes, ids, class_names)
    class_names = class_names or tuple(sorted(set(labels)))
    if not (2 <= len(class_names) <= 127 and 1 <= n_columns <= MOST_RATERS):
        found = f"{len(class_names)} classes and {n_columns} raters"
        raise InputError(f"{notes}: {found}, expected 2 to 127 and 1 to {MOST_RATERS}")
    ratings = np.full((len(ids), n_columns), -1, np.int8)
    ratings[row_of, column_of] = [class_names.index(label) for label in labels]
    if (unrated := np.flatnonzero((ratings < 0).all(axis=1))).size:
        raise InputError(f"{members[ids[unrated[0]]]}: the image has no votes in {notes}")
    return {
        "images": _read_images(archive, [members[image_id] for image_id in ids]),
        "counts": votes.count(ratings, len(class_names)),
        "class_names": np.array(class_names),
        "ids": np.array(ids),
        "ratings": ratings,
        "fold": np.array([int(PurePosixPath(members[image_id]).parent.name[-1]) for image_id in ids]),
    }


def _image_id(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".png").partition("-[")[0]


def _members(archive: zipfile.ZipFile, name: str) -> tuple[str, dict[str, str]]:
    """Return the names of the annotations and, by id, of the images."""
    notes = [member for member in archive.namelist() if PurePosixPath(member).name == "annotations.json"]
    if [PurePosixPath(member).parent.name.replace("#", "") for member in notes] != [name]:
        raise InputError(f"it holds {', '.join(notes) or 'no annotations.json'}, expected {name}/annotations.json")
    image, members = re.compile(rf"{re.escape(notes[0].removesuffix('annotations.json'))}fold[1-5]/[^/]+\.png"), {}
    for member in filter(image.fullmatch, archive.namelist()):
        if (image_id := _image_id(member)) in members:
            raise InputError(f"{member}: its id '{image_id}' is that of {members[image_id]}, too")
        members[image_id] = member
    return notes[0], members


def _read_votes(
    archive: zipfile.ZipFile, notes: str, ids: list[str], class_names: tuple[str, ...] | None
) -> tuple[list[str], list[int], list[int], int]:
    """Return each vote's label, row and column, and the number of columns."""

    def slim(found: dict):  # a pair of path and label, if it is one, so that a million of them fit into memory
        path, label = found.get("image_path"), found.get("class_label", 0)
        fits = isinstance(path, str) and (label is None or (isinstance(label, str) and label.isprintable()))
        return (sys.intern(path), label and sys.intern(label)) if fits else found

    try:
        sets = [[*one["annotations"]] for one in json.loads(archive.read(notes), object_hook=slim)]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(f"{notes} is no list of annotation sets in JSON: {error!r}") from error
    rows, labels, row_of, column_of, n_columns = {name: row for row, name in enumerate(ids)}, [], [], [], 0
    for number, annotations in enumerate(sets):
        times = Counter()  # that this set has rated a row
        for i, found in enumerate(annotations):
            path, label = found if isinstance(found, tuple) else ("", "")
            if label is None:
                continue
            row = rows.get(_image_id(path))
            if row is None or not label or (class_names and label not in class_names):
                expected = f"an image of the archive and {', '.join(class_names or ('a text',))} or null"
                raise InputError(f"{notes}: [{number}].annotations[{i}] is {found!r:.200}, expected {expected}")
            labels.append(label)
            row_of.append(row)
            column_of.append(n_columns + times[row])
            times[row] += 1
        n_columns += max(times.values(), default=1)
    return labels, row_of, column_of, n_columns


def _read_images(archive: zipfile.ZipFile, members: list[str]) -> np.ndarray:
    """Return the images, uint8 (N, H, H) if all are grey, else (N, H, H, 3); decoders leave other threads running."""
    side = len(_read_image(archive, members[0], range(SMALLEST, LARGEST + 1)))
    memory.require(
        6 * len(members) * side**2, f"{len(members)} images of {side} x {side} pixels"
    )  # one by one, stacked
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return stack(list(pool.map(lambda member: _read_image(archive, member, [side]), members)))


def _read_image(archive: zipfile.ZipFile, member: str, sides: Sequence[int]) -> np.ndarray:
    """Return uint8 (H, H) for a grey image, however it is coded, (H, H, 3) for another."""
    with reading(member), Image.open(io.BytesIO(archive.read(member)), formats=["PNG"]) as file:
        if file.width != file.height or file.width not in sides:
            expected = " to ".join(f"{side} x {side}" for side in sorted({sides[0], sides[-1]}))
            raise InputError(f"{file.width} x {file.height} pixels, expected {expected}")
        image = grey_or_colour(file)
        if image.mode == "RGB":
            red, green, blue = image.split()
            image = red if red.tobytes() == green.tobytes() == blue.tobytes() else image
        return np.asarray(image)
