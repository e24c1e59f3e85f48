"""A set made of a user's own files: a table of votes and a folder of images, or an example of both.

A table becomes a long frame, one row a vote or a number of votes, with the columns ``image``, ``label``,
``annotator`` and ``weight`` and its line in the file as index (`read_votes`); the images that it names are
found in the folder (`_read_images`); both make the set. What is wrong on the way is collected, and said at once.
"""

import hashlib
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from beyond_hard_labels.base import files
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.paths import build_folder
from beyond_hard_labels.data import sets, votes
from beyond_hard_labels.data.pixels import SMALLEST, grey_or_colour, reading, stack

EXAMPLE_IMAGES, EXAMPLE_VOTES = 600, 15
_SHOWN_FAULTS = 20


def import_votes(name: str, votes_csv: Path, image_folder: Path, image_size: int) -> Path:
    """Make a set of a folder of images and a CSV file of votes, whole or not at all; return its file.

    Images are turned as their EXIF data say and resized to a square of `image_size` pixels with antialiasing
    (bilinear), width and height each on its own: nothing is cropped and proportions change. Transparency is
    dropped. The set is grey if all files are. Rows are in the order of the images' names. A set of that name
    made before is replaced.

    Parameters
    ----------
    votes_csv : Path
        Either one row a vote, with the columns ``image`` and ``label``; further ones are left out. Classes
        are the labels that occur, in alphabetical order, or by size if all are numbers. Or one row an
        image, with ``image`` and one column of counts a class. The column ``label`` tells which of both.
    image_folder : Path
        Images are named relative to it. Every image file in it needs votes; other files are passed over.

    Raises
    ------
    InputError
        With every fault of table and images, up to twenty, each with its place.
    """
    path, folder = Path(votes_csv), Path(image_folder)
    if not sets.NAME.fullmatch(name) or name == sets.SYNTHETIC:
        raise InputError(f"the set's name is '{name}', expected letters, digits, . _ or -, and not '{sets.SYNTHETIC}'")
    if image_size < SMALLEST:
        raise InputError(f"image_size is {image_size}, expected an integer, at least {SMALLEST}")
    if not folder.is_dir():
        raise InputError(f"there is no folder of images {folder}")
    cast, faults = read_votes(path)
    counts = cast.groupby(["image", "label"], observed=False)["weight"].sum().unstack(fill_value=0)
    if counts.shape[1] < 2:
        faults.append(f"{path.name}: {counts.shape[1]} class(es), expected at least 2")
    lines = cast.index.to_series().groupby(cast["image"].to_numpy()).min()
    images = _read_images(path, folder, lines, image_size, faults)
    if not faults and len(images) < 5:
        faults.append(f"{path.name}: {len(images)} image(s), expected at least 5, or they cannot be split 60/20/20")
    if faults:
        more = [f"and {len(faults) - _SHOWN_FAULTS} more"] if len(faults) > _SHOWN_FAULTS else []
        listed = "\n  ".join(faults[:_SHOWN_FAULTS] + more)
        raise InputError(f"{path} and {folder} are no set yet, {len(faults)} fault(s):\n  {listed}")
    arrays = {"images": stack(images), "counts": np.ascontiguousarray(counts, np.int64)}
    arrays |= {"class_names": np.array([*counts.columns], str), "ids": np.array([*counts.index])}
    target = sets.folders()[0] / f"{name}.npz"
    with files.writing(target) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return target


def read_votes(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return a table's votes as a long frame, its labels categories in the order of the classes, and all faults."""
    table = _read_csv(path)
    table["image"] = table["image"].map(lambda cell: PurePosixPath(cell).as_posix())
    if "label" in table:
        classes, again = sorted(set(table["label"])), []
        if all(label.isdecimal() for label in classes):
            classes.sort(key=int)
        cast = table[["image", "label"]].assign(annotator=table.get("annotator", ""), weight="1")
    else:
        classes, again = table.columns.drop("image"), table.index[table["image"].duplicated()]
        cast = table[["image"]].loc[table.index.repeat(len(classes))].assign(annotator="")
        cast = cast.assign(label=np.tile(classes, len(table)), weight=table[classes].to_numpy().ravel())
    whole = cast["weight"].str.fullmatch("[0-9]{1,9}").astype(bool)
    weight = cast["weight"].where(whole, "1").astype(np.int64)
    nowhere = {
        "no image is named": cast["image"] == ".",
        "'{image}' leaves the folder of the images": cast["image"].str.contains(r"^/|(?:^|/)\.\.(?:/|$)"),
    }
    wrong = nowhere | {
        "a second row for '{image}'": cast.index.isin(again),
        "the label of '{image}' is empty": cast["label"] == "",
        "'{label}' is {weight!r}, expected a whole number of at least 0": ~whole,
        "'{image}' has no votes": weight.groupby(cast["image"]).transform("sum") == 0,
    }
    rows = [(row, what) for what, cells in wrong.items() for row in cast[cells].itertuples()]
    faults = sorted({(row.Index, what.format(**row._asdict())) for row, what in rows})
    cast = cast.assign(weight=weight, label=pd.Categorical(cast["label"], classes))
    return cast[~np.any([*nowhere.values()], axis=0)], [f"{path.name}, line {line}: {what}" for line, what in faults]


def _read_csv(path: Path) -> pd.DataFrame:
    """Return a CSV file as text without spaces around it, each row with its line in the file as index."""
    try:
        cells = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig"
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error
    breaks = cells.apply(lambda column: column.str.count("\n")).sum(axis=1).cumsum()  # within cells
    cells = cells.apply(lambda column: column.str.strip()).set_index(cells.index + 1 + breaks)
    header = cells.iloc[0].tolist()
    if "image" not in header or "" in header or len(set(header)) < len(header):
        raise InputError(
            f"{path.name}, line 1: the columns are {', '.join(header)}; expected 'image', and 'label' with one row a "
            "vote, or one column of counts a class with one row an image, separated by commas, all of different names"
        )
    table = cells.iloc[1:].set_axis(header, axis=1)
    return table[(table != "").any(axis=1)]


def _read_images(path: Path, folder: Path, lines: pd.Series, size: int, faults: list[str]) -> list[np.ndarray]:
    """Return the images that a table names on its lines; add what is wrong with them, or with others, to the faults."""
    from PIL import Image, ImageOps

    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    there = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    for image, file in there.items():
        if image not in lines and file.suffix.lower() in suffixes and not file.name.startswith("."):
            faults.append(f"{file}: the image has no votes in {path.name}")
    images = []
    for image, line in lines.items():
        try:
            if image not in there:
                raise InputError(f"{path.name}, line {line}: votes for '{image}', which is not in {folder}")
            with reading(there[image]), Image.open(there[image]) as file:
                upright = grey_or_colour(ImageOps.exif_transpose(file))
                images.append(np.asarray(upright.resize((size, size), Image.Resampling.BILINEAR)))
        except InputError as error:
            faults.append(str(error))
    return images


def own_or_example(
    votes_csv: str | None, image_folder: str | None, *, image_size: int, seed: int = 0, n_images: int | None = None
) -> tuple[str, Path, Path]:
    """Return a name for a user's set, its CSV file and its folder; without files, those of an example.

    The name is made of the contents and of `image_size`, so that two notebooks share a set only if they would
    make the same one. `n_images` (by default 600) and `seed` are those of the example.
    """
    if (votes_csv, image_folder) == (None, None):
        table, folder = _write_example(n_images or EXAMPLE_IMAGES, image_size, seed)
    elif not all(isinstance(path, str) for path in (votes_csv, image_folder)):
        raise InputError(
            f"votes_csv is {votes_csv!r} and image_folder {image_folder!r}, expected two paths, or neither"
        )
    elif seed:
        raise InputError(f"parameter 'data_seed' is {seed}, expected 0: your files are read, not generated")
    else:
        table, folder = Path(votes_csv), Path(image_folder)
    digest = hashlib.sha256(str(image_size).encode())
    for file in filter(Path.is_file, [table, *sorted(folder.rglob("*"))]):  # what is missing is named later
        digest.update(f"{file.name if file == table else file.relative_to(folder)}{files.checksum(file)}".encode())
    return f"own-{digest.hexdigest()[:8]}", table, folder


def _write_example(n_images: int, image_size: int, seed: int) -> tuple[Path, Path]:
    """Write synthetic images and the votes of simulated annotators, once, into a folder named by what it holds."""
    from PIL import Image

    from beyond_hard_labels.data import shapes

    data = shapes.synthetic(n_images, image_size, seed)
    ratings = votes.simulate(data.truth, EXAMPLE_VOTES, seed)
    names = [f"{image_id}.png" for image_id in data.ids]
    target = build_folder() / f"example-{hashlib.sha256(data.images.tobytes() + ratings.tobytes()).hexdigest()[:8]}"
    with files.lock(target.with_name(f".{target.name}.lock"), "writes the example"):
        if not target.exists():
            with files.writing(target) as temporary:
                (temporary / "images").mkdir(parents=True)
                for name, image in zip(names, data.images, strict=True):
                    Image.fromarray(image.transpose(1, 2, 0)).save(temporary / "images" / name)
                table = pd.DataFrame({"image": np.repeat(names, EXAMPLE_VOTES)})
                table["label"] = np.array(data.class_names)[ratings.ravel()]
                table["annotator"] = np.tile(np.arange(EXAMPLE_VOTES), n_images)
                table.to_csv(temporary / "votes.csv", index=False)
    return target / "votes.csv", target / "images"
