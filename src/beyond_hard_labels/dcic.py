"""The folder format of DCIC, the authors' benchmark: what its reader expects, written.

Images lie in ``<folder>/<Name>/fold1`` to ``fold5`` as ``<id>.png``. ``<folder>/<Name>/annotations.json``
is a list of annotation sets, one an annotator: an object with ``name`` (holding INVALID, as the
published sets are anonymous), ``dataset_name``, ``user_mail`` (INVALID), ``annotation_time`` and
``annotations``, a list of objects with ``image_path``, ``created_at`` and ``class_label``.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from beyond_hard_labels import InputError, votes
from beyond_hard_labels.images import LabelledImages, Split
from beyond_hard_labels.randomness import stream

N_FOLDS = 5


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


def slice_split(fold: np.ndarray, number: int) -> Split:
    """Return a slice of DCIC: of the five folds one validates, the next one tests, three train.

    Slice v validates on fold (v mod 5) + 1 and tests on fold ((v + 1) mod 5) + 1; the benchmark
    reports the slices 1 to 3.

    Parameters
    ----------
    fold : np.ndarray
        int (N,), 1 to 5.
    number : int
        v, at least 0.
    """
    if number < 0 or not np.isin(fold, np.arange(N_FOLDS) + 1).all():
        raise InputError(
            f"slice {number} of the folds {np.unique(fold).tolist()}, expected at least 0 and folds 1 to 5"
        )
    validation, test = fold == number % N_FOLDS + 1, fold == (number + 1) % N_FOLDS + 1
    return Split(*map(np.flatnonzero, (~validation & ~test, validation, test)))
