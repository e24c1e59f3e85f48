"""Sets of real images with real votes: a file each, found by name, and made from a user's own files.

A set is a file ``<NAME>.npz`` with

    images       uint8 (N, H, W) for grey or (N, H, W, 3) for colour, H = W
    counts       int (N, K), votes per class
    class_names  str (K,)

and, where they are known,

    ids          str (N,), names of the images
    labels       int (N,), official labels
    ratings      int8 (N, R), the class that each rater chose, -1 where absent; they make the counts
    fold         int (N,), from 1

It lies in the folder ``sets`` of the build folder, if `import_votes` made it, or else in the data
cache: BHL_DATA_DIR, or the folder that the platform keeps for caches, into which only `fetch` writes.
"""

import csv
import functools
import re
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.paths import build_folder
from beyond_hard_labels.data import votes
from beyond_hard_labels.data.sets import _NAME, COLOUR_MODES, GREY_MODES, SMALLEST, SYNTHETIC, folders, refuse, write

EXAMPLE_IMAGES, EXAMPLE_VOTES = 600, 15


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
    from PIL import Image

    path, folder = Path(votes_csv), Path(image_folder)
    if not _NAME.fullmatch(name) or name == SYNTHETIC:
        raise InputError(f"the set's name is '{name}', expected letters, digits, . _ or -, and not '{SYNTHETIC}'")
    if image_size < SMALLEST:
        raise InputError(f"image_size is {image_size}, expected an integer, at least {SMALLEST}")
    if not folder.is_dir():
        raise InputError(f"there is no folder of images {folder}")
    faults = []
    class_names, counts, lines = _read_votes(path, faults)
    if len(class_names) < 2:
        faults.append(f"{path.name}: {len(class_names)} class(es), expected at least 2")
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
            images.append(_read_image(there[image], image_size))
        except Exception as error:  # Pillow's decoders raise of many kinds; all mean that the file cannot be read
            faults.append(f"{there[image]}: the image cannot be read: {error}")
    if not faults and len(images) < 5:
        faults.append(f"{path.name}: {len(images)} image(s), expected at least 5, or they cannot be split 60/20/20")
    refuse(f"{path} and {folder} are no set yet", faults)
    if any(image.ndim == 3 for image in images):
        images = [image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2) for image in images]
    arrays = {"images": np.stack(images), "counts": np.array([counts[image] for image in sorted(lines)])}
    arrays |= {"class_names": np.array(class_names), "ids": np.array(sorted(lines))}
    return write(folders()[0] / f"{name}.npz", lambda file: np.savez_compressed(file, **arrays))


def _read_votes(path: Path, faults: list[str]) -> tuple[list[str], dict[str, list[int]], dict[str, int]]:
    """Return the classes, each image's counts, and the line on which each image is first named."""
    counts, cast, lines = {}, ([], []), {}  # cast: of each vote the image and the label
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            _check_header(path, header)
            take = partial(_take_vote, header, cast) if "label" in header else partial(_take_counts, header, counts)
            for cells in reader:
                cells = [cell.strip() for cell in cells]
                if any(cells) and (fault := _check_row(header, cells) or take(cells, reader.line_num, lines)):
                    faults.append(f"{path.name}, line {reader.line_num}: {fault}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error
    if "label" not in header:
        return [column for column in header if column != "image"], counts, lines
    images, labels, table = votes.tally(*cast)
    class_names = labels.tolist()
    if all(label.isdecimal() for label in class_names):
        order = sorted(range(len(labels)), key=lambda c: int(class_names[c]))
        class_names, table = [class_names[c] for c in order], table[:, order]
    return class_names, dict(zip(images.tolist(), table.tolist(), strict=True)), lines


def _check_header(path: Path, header: list[str]) -> None:
    found = f"{path.name}, line 1: the columns are {', '.join(header) or 'none'}"
    if "image" not in header:
        raise InputError(
            f"{found}; expected 'image', and 'label' with one row a vote, or one column of counts a class with one row "
            "an image, separated by commas"
        )
    if "" in header or len(set(header)) < len(header):
        raise InputError(f"{found}; expected a name for each, all different")


def _check_row(header: list[str], cells: list[str]) -> str:
    """Return what is wrong with a row as such, or nothing."""
    if len(cells) != len(header):
        return f"{len(cells)} cells, expected {len(header)}"
    return _image_name(cells[header.index("image")])[1]


@functools.lru_cache(maxsize=1 << 20)
def _image_name(cell: str) -> tuple[str, str]:
    """Return an image's name, always the same object, and what is wrong with it, or nothing."""
    name = PurePosixPath(cell)
    if (image := name.as_posix()) == ".":
        return image, "no image is named"
    return image, f"'{name}' leaves the folder of the images" if name.is_absolute() or ".." in name.parts else ""


def _take_vote(header: list[str], cast: tuple[list, list], cells: list[str], line: int, lines: dict) -> str:
    """Add one vote to those cast; return what is wrong with it, or nothing."""
    (image, _), label = _image_name(cells[header.index("image")]), cells[header.index("label")]
    lines.setdefault(image, line)
    if not label:
        return f"the label of '{image}' is empty"
    cast[0].append(image)
    cast[1].append(sys.intern(label))
    return ""


def _take_counts(header: list[str], counts: dict, cells: list[str], line: int, lines: dict) -> str:
    """Add the counts of one image; return what is wrong with them, or nothing."""
    row = dict(zip(header, cells, strict=True))
    image, _ = _image_name(row.pop("image"))
    if (before := lines.setdefault(image, line)) != line:
        return f"a second row for '{image}', after line {before}"
    wrong = [f"'{c}' is {cell or 'empty'}" for c, cell in row.items() if not re.fullmatch("[0-9]{1,9}", cell)]
    if wrong:
        return f"{', '.join(wrong)}; expected whole numbers of at least 0"
    counts[image] = [int(cell) for cell in row.values()]
    return "" if any(counts[image]) else f"'{image}' has no votes"


def _read_image(path: Path, size: int) -> np.ndarray:
    """Return an image as uint8 (size, size), or (size, size, 3) if it has colour."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        if file.mode not in GREY_MODES + COLOUR_MODES:
            raise InputError(f"its pixels are of mode {file.mode}, expected 8 bits a channel, grey or colour")
        upright = ImageOps.exif_transpose(file).convert("L" if file.mode in GREY_MODES else "RGB")
    return np.asarray(upright.resize((size, size), Image.Resampling.BILINEAR))


def own_or_example(votes_csv: str | None, image_folder: str | None, study) -> tuple[str, Path, Path]:
    """Return a name for a user's set, its CSV file and its folder; without files, those of an example."""
    given = (votes_csv, image_folder)
    if given == (None, None):
        shared, n_images = study.shared, study.changed.get("n_images", EXAMPLE_IMAGES)
        return "example", *write_example(n_images, shared["image_size"], shared["data_seed"])
    if not all(isinstance(path, str) for path in given):
        raise InputError(
            f"votes_csv is {votes_csv!r} and image_folder {image_folder!r}, expected two paths, or neither"
        )
    if seed := study.changed.get("data_seed"):
        raise InputError(f"parameter 'data_seed' is {seed}, expected 0: your files are read, not generated")
    return "own", Path(votes_csv), Path(image_folder)


def write_example(n_images: int, image_size: int, seed: int) -> tuple[Path, Path]:
    """Write synthetic images as PNG files and the votes of simulated annotators as a CSV file.

    Returns
    -------
    tuple of Path
        The CSV file, one row a vote, and the folder of the images.
    """
    from PIL import Image

    from beyond_hard_labels.data import shapes

    data = shapes.synthetic(n_images, image_size, seed)
    ratings = votes.simulate(data.truth, EXAMPLE_VOTES, seed)
    target = build_folder() / "example"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".example-", dir=target.parent))
    try:
        (temporary / "images").mkdir()
        rows = ["image,label,annotator"]
        for image_id, image, labels in zip(data.ids, data.images, ratings, strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(temporary / "images" / f"{image_id}.png")
            rows += [f"{image_id}.png,{data.class_names[c]},{annotator}" for annotator, c in enumerate(labels)]
        (temporary / "votes.csv").write_text("\n".join(rows) + "\n", "utf-8")
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target / "votes.csv", target / "images"
