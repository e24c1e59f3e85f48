"""A set made of a user's own files: a folder of images and a CSV file of votes, or an example of both."""

import hashlib
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from beyond_hard_labels.base import files
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.paths import build_folder
from beyond_hard_labels.data import sets, votes
from beyond_hard_labels.data.pixels import SMALLEST, grey_or_colour

EXAMPLE_IMAGES, EXAMPLE_VOTES = 600, 15
_SHOWN_FAULTS = 20


def import_votes(name: str, votes_csv: Path, image_folder: Path, image_size: int) -> Path:
    """Make a set of a folder of images and a CSV file of votes, whole or not at all; return its file.

    Images are turned as their EXIF data say and resized to a square with antialiasing (bilinear),
    width and height each on its own: nothing is cropped and proportions change. Transparency is
    dropped. The set is grey if all files are. Rows are in the order of the images' names.

    Parameters
    ----------
    name : str
        Of the set; one of that name made before is replaced.
    votes_csv : Path
        Either one row a vote, with the columns ``image`` and ``label``; further ones, such as
        ``annotator``, are left out. Classes are the labels that occur, in alphabetical order, or by
        size if all are numbers. Or one row an image, with ``image`` and one column of counts a class.
        Which of both is told by the column ``label``. An image is named relative to the folder.
    image_folder : Path
        Every image file in it needs votes; other files are passed over.
    image_size : int
        Pixels a side.

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
    counts, lines, faults = _read_votes(path)
    if counts.shape[1] < 2:
        faults.append(f"{path.name}: {counts.shape[1]} class(es), expected at least 2")
    images = _read_images(path, folder, lines, image_size, faults)
    if not faults and len(images) < 5:
        faults.append(f"{path.name}: {len(images)} image(s), expected at least 5, or they cannot be split 60/20/20")
    if faults:
        more = [f"and {len(faults) - _SHOWN_FAULTS} more"] if len(faults) > _SHOWN_FAULTS else []
        listed = "\n  ".join(faults[:_SHOWN_FAULTS] + more)
        raise InputError(f"{path} and {folder} are no set yet, {len(faults)} fault(s):\n  {listed}")
    if any(image.ndim == 3 for image in images):
        images = [image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2) for image in images]
    arrays = {"images": np.stack(images), "counts": np.ascontiguousarray(counts.loc[sorted(lines)], np.int64)}
    arrays |= {"class_names": np.array([*counts.columns], str), "ids": np.array(sorted(lines))}
    target = sets.folders()[0] / f"{name}.npz"
    with files.writing(target) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return target


def _read_votes(path: Path) -> tuple[pd.DataFrame, dict[str, int], list[str]]:
    """Return the counts (images x classes), the line on which each image is first named, and all faults."""
    table = _read_table(path)
    names = {cell: PurePosixPath(cell) for cell in table["image"].unique()}
    wrong = {}  # line: what is wrong with it
    for line, cell in table["image"].items():
        if names[cell].is_absolute() or ".." in names[cell].parts:
            wrong[line] = f"'{cell}' leaves the folder of the images"
        elif names[cell] == PurePosixPath():
            wrong[line] = "no image is named"
    table = table.drop(index=list(wrong))
    image = table.pop("image").map({cell: name.as_posix() for cell, name in names.items()})
    lines = dict(zip(image[::-1], image.index[::-1].tolist(), strict=True))  # the first one stays
    if "label" in table:
        wrong |= {line: f"the label of '{image[line]}' is empty" for line in table.index[table["label"] == ""]}
        images, classes, cast = votes.tally(image, table["label"])
        counts = pd.DataFrame(cast, images, classes)
        if all(label.isdecimal() for label in classes):
            counts = counts[sorted(classes, key=int)]
    else:
        whole = table.apply(lambda column: column.str.fullmatch("[0-9]{1,9}"))
        for line, row in table[~whole.all(axis=1)].iterrows():
            cells = ", ".join(f"'{c}' is {cell or 'empty'}" for c, cell in row[~whole.loc[line]].items())
            wrong[line] = f"{cells}; expected whole numbers of at least 0"
        counts = table.where(whole, "0").astype(np.int64)
        for line in table.index[(counts == 0).all(axis=1)].difference([*wrong]):
            wrong[line] = f"'{image[line]}' has no votes"
        for line in image.index[image.duplicated()]:
            wrong[line] = f"a second row for '{image[line]}', after line {lines[image[line]]}"
        counts.index = image
    return counts, lines, [f"{path.name}, line {line}: {what}" for line, what in sorted(wrong.items())]


def _read_table(path: Path) -> pd.DataFrame:
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
    found = f"{path.name}, line 1: the columns are {', '.join(header)}"
    if "image" not in header:
        raise InputError(
            f"{found}; expected 'image', and 'label' with one row a vote, or one column of counts a class with one row "
            "an image, separated by commas"
        )
    if "" in header or len(set(header)) < len(header):
        raise InputError(f"{found}; expected a name for each, all different")
    table = cells.iloc[1:].set_axis(header, axis=1)
    return table[(table != "").any(axis=1)]


def _read_images(path: Path, folder: Path, lines: dict[str, int], size: int, faults: list[str]) -> list[np.ndarray]:
    """Return the images that a table names, by name; add what is wrong with them, or with others, to the faults."""
    from PIL import Image

    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    there = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    for image in sorted(there.keys() - lines.keys()):
        if there[image].suffix.lower() in suffixes and not there[image].name.startswith("."):
            faults.append(f"{folder / image}: the image has no votes in {path.name}")
    images = []
    for image, line in sorted(lines.items()):
        if image not in there:
            faults.append(f"{path.name}, line {line}: votes for '{image}', which is not in {folder}")
            continue
        try:
            images.append(_read_image(there[image], size))
        except Exception as error:  # Pillow's decoders raise of many kinds; all mean that the file cannot be read
            faults.append(f"{there[image]}: the image cannot be read: {error}")
    return images


def _read_image(path: Path, size: int) -> np.ndarray:
    """Return an image as uint8 (size, size), or (size, size, 3) if it has colour."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        upright = grey_or_colour(ImageOps.exif_transpose(file))
    return np.asarray(upright.resize((size, size), Image.Resampling.BILINEAR))


def own_or_example(
    votes_csv: str | None, image_folder: str | None, *, image_size: int, seed: int = 0, n_images: int | None = None
) -> tuple[str, Path, Path]:
    """Return a name for a user's set, its CSV file and its folder; without files, those of an example.

    The name is made of the contents and of `image_size`, so that two notebooks share a set only if they would
    make the same one. `n_images` (by default 600) and `seed` are those of the example.
    """
    if (votes_csv, image_folder) == (None, None):
        table, folder = write_example(n_images or EXAMPLE_IMAGES, image_size, seed)
    elif not all(isinstance(path, str) for path in (votes_csv, image_folder)):
        raise InputError(
            f"votes_csv is {votes_csv!r} and image_folder {image_folder!r}, expected two paths, or neither"
        )
    elif seed:
        raise InputError(f"parameter 'data_seed' is {seed}, expected 0: your files are read, not generated")
    else:
        table, folder = Path(votes_csv), Path(image_folder)
    digest = hashlib.sha256(str(image_size).encode())
    for file in [table, *sorted(folder.rglob("*"))]:  # what is missing is named when the set is made
        if file.is_file():
            digest.update(f"{file.name if file == table else file.relative_to(folder)}{files.checksum(file)}".encode())
    return f"own-{digest.hexdigest()[:8]}", table, folder


def write_example(n_images: int, image_size: int, seed: int) -> tuple[Path, Path]:
    """Write synthetic images as PNG files and the votes of simulated annotators as a CSV file, once.

    Returns
    -------
    tuple of Path
        The CSV file, one row a vote, and the folder of the images; both lie in a folder that is named by
        what they hold.
    """
    from PIL import Image

    from beyond_hard_labels.data import shapes

    data = shapes.synthetic(n_images, image_size, seed)
    ratings = votes.simulate(data.truth, EXAMPLE_VOTES, seed)
    contents = hashlib.sha256(data.images.tobytes() + ratings.tobytes()).hexdigest()[:8]
    target = build_folder() / f"example-{contents}"
    with files.lock(target.with_name(f".{target.name}.lock"), "writes the example"):
        if not target.exists():
            with files.writing(target) as temporary:
                (temporary / "images").mkdir(parents=True)
                rows = ["image,label,annotator"]
                for image_id, image, labels in zip(data.ids, data.images, ratings, strict=True):
                    Image.fromarray(image.transpose(1, 2, 0)).save(temporary / "images" / f"{image_id}.png")
                    rows += [f"{image_id}.png,{data.class_names[c]},{annotator}" for annotator, c in enumerate(labels)]
                (temporary / "votes.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return target / "votes.csv", target / "images"
