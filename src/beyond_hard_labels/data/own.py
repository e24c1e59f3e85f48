"""A set made of a user's own files: a table of votes and a folder of images, or an example of both.

A table becomes a long frame (`tables.read`); the images that it names are found in the folder and read (`matching`),
and who voted twice is settled (`_settled`); both make the set. What is done on the way is said, and what is wrong is
collected, and said at once.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_hard_labels.base import files
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.paths import build_folder
from beyond_hard_labels.data import dcic, sets, tables, votes
from beyond_hard_labels.data.images import LabelledImages
from beyond_hard_labels.data.matching import matched, read_images
from beyond_hard_labels.data.pixels import SMALLEST, stack
from beyond_hard_labels.data.records import AS_IT_IS, Options, Table, short

EXAMPLE_IMAGES, EXAMPLE_VOTES = 600, 15
_SHOWN_FAULTS, _MOST_RATINGS = 20, 100_000_000


def import_votes(
    name: str,
    votes_file: Path,
    image_folder: Path,
    image_size: int,
    options: Options = AS_IT_IS,
    *,
    dry_run: bool = False,
) -> list[tuple[str, str]]:
    """Make a set of a folder of images and a file of votes, whole or not at all; return what was done, in pairs.

    Images are turned as their EXIF data say, put on white where they are transparent, and resized to a square of
    `image_size` pixels with antialiasing (bilinear), width and height each on its own: nothing is cropped and
    proportions change. The set is grey if all files are. Files of equal pixels are one image with all its votes. Rows
    are in the order of the images' names. A set of that name made before is replaced; `dry_run` writes nothing.

    Parameters
    ----------
    votes_file : Path
        Any format of `tables`. Classes are the labels that occur, in alphabetical order, or by size if all are
        numbers, or the columns of counts. Where annotators are known, the set has ``ratings``.
    image_folder : Path
        Images are named relative to it, see `matching`. Every image file in it needs votes; others are passed over.

    Raises
    ------
    InputError
        With every fault of table and images, up to twenty, each with its place.
    """
    path, folder = Path(votes_file), Path(image_folder)
    _require(name, folder, image_size)
    table = tables.read(path, options)
    cast = matched(table, folder, options.match)
    images, cast = read_images(table, folder, cast, image_size)
    cast = _settled(table, cast, options.repeats)
    counts = cast.groupby(["image", "label"], observed=False)["weight"].sum().unstack(fill_value=0)
    if counts.shape[1] < 2:
        found = f"{counts.shape[1]} class(es), expected at least 2"
        table.faults.append(f"{path.name}: {found}; --label-column names another column")
    if not table.faults and len(images) < 5:
        few = f"{len(images)} image(s), expected at least 5, or they cannot be split 60/20/20"
        table.faults.append(f"{path.name}: {few}")
    _refuse(table, folder)
    arrays = {"images": stack(images), "counts": np.ascontiguousarray(counts, np.int64)}
    arrays |= {"class_names": np.array([*counts.columns], str), "ids": np.array([*counts.index])}
    if table.format == "dcic":  # whose folds are no part of an image's name
        plain = [re.sub(r"^fold[0-9]+/", "", image_id).replace("%2F", "/") for image_id in counts.index]
        arrays["ids"] = np.array(plain) if len(set(plain)) == len(plain) else arrays["ids"]
    arrays |= _ratings(table, cast, counts)
    table.say("images", len(images))
    table.say(
        "votes", ", ".join(f"{label} {n}" for label, n in counts.sum().items()) + f", in all {counts.to_numpy().sum()}"
    )
    table.say("ties", int(votes.targets(arrays["counts"], "hard").tied.sum()))
    if not dry_run:
        target = sets.folders()[0] / f"{name}.npz"
        with files.writing(target) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    return table.said


def _require(name: str, folder: Path, image_size: int) -> None:
    """Raise what needs no look at the votes."""
    if not sets.NAME.fullmatch(name) or name == sets.SYNTHETIC:
        raise InputError(f"the set's name is '{name}', expected letters, digits, . _ or -, and not '{sets.SYNTHETIC}'")
    if image_size < SMALLEST:
        raise InputError(f"image_size is {image_size}, expected an integer, at least {SMALLEST}")
    if not folder.is_dir():
        what = "a file, expected a folder of images" if folder.exists() else "not there"
        raise InputError(f"there is no folder of images {folder}: it is {what}")


def _refuse(table: Table, folder: Path) -> None:
    """Raise all faults, if there are any, with what else may explain them."""
    if faults := table.faults:
        more = [f"and {len(faults) - _SHOWN_FAULTS} more"] if len(faults) > _SHOWN_FAULTS else []
        more += [
            f"({what}: {found})" for what, found in table.said if what in ("rows left out", "names without a file")
        ]
        listed = "\n  ".join([short(fault, 600) for fault in faults[:_SHOWN_FAULTS]] + more)
        raise InputError(f"{table.path} and {folder} are no set yet, {len(faults)} fault(s):\n  {listed}")


def _settled(table: Table, cast: pd.DataFrame, repeats: str) -> pd.DataFrame:
    """Return the votes, of which those of one annotator on one file, or a second row of counts, are settled."""
    if table.form == "counts":
        again = cast.duplicated(["file", "label"], keep="last" if repeats == "last" else "first")
        rows = cast[again].drop_duplicates("image")
        if repeats == "refuse":
            for row in rows.itertuples():
                table.fault(row.Index, f"a second row for '{row.image}'; --repeats last|all")
        elif len(rows):
            table.say("images with a second row", f"{len(rows)}, --repeats {repeats}")
        cast = cast[~again] if repeats == "last" else cast
    elif (cast["annotator"] != "").any() and table.format != "dcic" and repeats != "all":
        who = (cast["annotator"] != "") & (cast["weight"] == 1)
        same = who & cast.duplicated(["file", "annotator", "label"])
        if same.any():
            line = table.place(cast.index[same.to_numpy()][0])
            table.say(
                "identical rows", f"{same.sum()} repeat a vote of the same annotator and count once, first {line}"
            )
        cast, who = cast[~same], who[~same]
        again = who & cast.duplicated(["file", "annotator"], keep="last" if repeats == "last" else "first")
        for row in cast[again].itertuples() if repeats == "refuse" else ():
            what = f"'{row.annotator}' votes on '{row.file}' again, now '{row.label}'"
            table.fault(row.Index, f"{what}; --repeats last takes the last one, --repeats all counts all")
        if repeats == "last" and again.any():
            table.say("rows left out", f"{again.sum()}: the same annotator voted again later")
            cast = cast[~again]
    for row in cast[cast.groupby("image")["weight"].transform("sum") == 0].drop_duplicates("image").itertuples():
        table.fault(row.Index, f"'{row.image}' has no votes; add some, or take it out")
    return cast


def _ratings(table: Table, cast: pd.DataFrame, counts: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return who rated what, int8 (N, R), with a further column for further votes of one, and the annotators."""
    known = cast["annotator"] != ""
    if not known.all() or (cast["weight"] != 1).any() or table.form == "counts":
        table.say("annotators", "not known" if not known.any() else "not kept: some votes have none, or a weight")
        return {}
    times = cast.groupby(["image", "annotator"]).cumcount()
    column = cast["annotator"].where(times == 0, cast["annotator"] + " #" + (times + 1).astype(str))
    columns = sorted(column.unique())
    people = cast["annotator"].nunique()
    if counts.shape[1] > 127 or len(columns) * len(counts) > _MOST_RATINGS:
        table.say("annotators", f"{people}, not kept: expected at most 127 classes and {_MOST_RATINGS} cells")
        return {}
    ratings = np.full((len(counts), len(columns)), -1, np.int8)
    at = counts.index.get_indexer(cast["image"]), pd.Index(columns).get_indexer(column)
    ratings[at] = cast["label"].cat.codes
    table.say("annotators", f"{people}, of whom {(ratings >= 0).all(axis=0).sum()} rated all images")
    return {"ratings": ratings, "annotators": np.array(columns)}


def annotators(name: str) -> list[str]:
    """Return the names of a set's annotators, as the columns of its ratings are; numbers where it has none."""
    with np.load(sets.locate(name), allow_pickle=False) as file:
        if "annotators" in file:
            return file["annotators"].tolist()
        return [f"{i:04d}" for i in range(file["ratings"].shape[1])] if "ratings" in file else []


def export_votes(data: LabelledImages, people: list[str], folder: Path, form: str) -> Path:
    """Write a set's images as PNG files and its votes, whole or not at all; return its folder, DIR/NAME.

    ``long`` is ``images`` and ``votes.csv``, with a row an annotator's vote or, where they are not known, with a row an
    image and a class that has a count; ``dcic`` is the format of DCIC, which needs annotators and has folds, here all
    images in the first. What was exported imports again to the same pixels, counts and ratings, at the same size.
    """
    from PIL import Image

    target = Path(folder) / data.name
    stems = [re.sub(r"\.[A-Za-z]{1,5}$", "", image_id) for image_id in data.ids]
    stems = stems if len(set(stems)) == len(stems) else list(data.ids)
    if form == "dcic":
        if data.ratings is None:
            raise InputError(f"{data.name} has no known annotators, which the format of DCIC needs; --format long")
        paths = [f"fold1/{stem.replace('/', '%2F')}.png" for stem in stems]
        return dcic.write(data, target, paths, data.ratings, people)
    if target.exists():
        raise InputError(f"{target} exists already; name another folder or remove it")
    with files.writing(target) as temporary:
        for stem, image in zip(stems, data.images, strict=True):
            path = temporary / "images" / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(path)
        given = data.votes if data.ratings is None else data.ratings
        row, column = np.nonzero(given > 0 if data.ratings is None else given >= 0)
        table = pd.DataFrame({"image": np.array([f"{stem}.png" for stem in stems])[row]})
        if data.ratings is None:
            table["label"], table["count"] = np.array(data.class_names)[column], given[row, column]
        else:
            table["label"] = np.array(data.class_names)[given[row, column]]
            table["annotator"] = np.array(people)[column]
        table.to_csv(temporary / "votes.csv", index=False)
    return target


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
