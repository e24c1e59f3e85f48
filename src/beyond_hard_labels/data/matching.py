"""Names in a table matched to files, and the files read as images."""

import contextlib
import difflib
import hashlib
import os
import posixpath
import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data.pixels import grey_or_colour, reading
from beyond_hard_labels.data.records import Table, short


def _keys(name: str, match: str | None) -> list[str]:
    """Return by what a name in a table is looked up among the files, most exact first.

    A folder in front, a backslash, an address, %20 and the hash of an upload are other spellings of the same path;
    letters' case and a lacking or other extension are not, and only --match name or stem passes over them.
    """
    clean = re.sub(r"^.*[?&]d=", "", name.replace("\\", "/"))
    clean = re.sub(r"[?#].*$", "", clean) if "://" in clean else clean
    whole = [posixpath.normpath(unicodedata.normalize("NFC", spelt)) for spelt in (clean, unquote(clean))]
    if match:
        last = whole[1].rsplit("/", 1)[-1].casefold()
        lasts = [last, re.sub(r"^[0-9a-f]{8}-", "", last)]
        return [re.sub(r"\.[a-z]{1,5}$", "", one) for one in lasts] if match == "stem" else lasts
    tails = ["/".join(parts[i:]) for parts in (one.split("/") for one in whole) for i in range(len(parts))]
    return [name, *tails, *(re.sub(r"(^|/)[0-9a-f]{8}-([^/]*)$", r"\1\2", tail) for tail in tails)]


def matched(table: Table, folder: Path, match: str | None) -> pd.DataFrame:
    """Return the votes with the files' names in place of the table's; what does not fit is a fault, with a guess."""
    from PIL import Image

    if match not in (None, "path", "name", "stem"):
        raise InputError(f"--match is '{match}', expected path, name or stem")
    match = None if match == "path" else match
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    there, known, cast = _walk(folder), {}, table.votes
    for file in there:
        for key in (
            {file, file.strip(), unicodedata.normalize("NFC", file)} if match is None else {_keys(file, match)[0]}
        ):
            known.setdefault(key, []).append(file)
    found, lost, claimed = {}, [], {}
    for name, line in cast.index.to_series().groupby(cast["image"].to_numpy()).min().sort_values(kind="stable").items():
        keys = [name] if match is None and name in known else _keys(name, match)
        fits = next((known[key] for key in keys if key in known), [])
        if match and len(fits) > 1:
            fits = [file for file in fits if file == name] or table.fault(line, f"'{name}' may be {fits[:5]}") or []
        elif not fits:
            lost.append((line, name))
        for file in fits[:1]:
            found[name] = file
            claimed.setdefault(file, []).append(name)
    for file, names in claimed.items():
        if len({posixpath.normpath(name.replace("\\", "/")) for name in names}) > 1:
            table.say("one file by several names", f"{file}: {short(', '.join(names))}")
    left = [f for f in there if f not in claimed and Path(f).suffix.lower() in suffixes and Path(f).name[0] != "."]
    out = {
        file for name in table.left for key in _keys(name, match)[-1 if match else 0 :] for file in known.get(key, [])
    }
    if without := [file for file in left if file in out]:
        table.say("images left out", f"{len(without)}, of which all rows were left out: {short(', '.join(without))}")
        left = [file for file in left if file not in out]
    other = sum(name != file for name, file in found.items())
    if other:
        name, file = next(pair for pair in found.items() if pair[0] != pair[1])
        table.say("names matched", f"{other} in another spelling, such as {name!r} to {file!r}")
    for line, name in lost:
        table.fault(line, f"votes for '{name}', which is not in {folder}")
    none = f"the image has no votes in {table.path.name}; add some, or move it elsewhere"
    table.faults += [f"{folder / file}: {none}" for file in left]
    if lost and there:
        guess = difflib.get_close_matches(posixpath.basename(lost[0][1]), there, 1, 0.3) or ["none"]
        names, files_there = (short(", ".join(map(repr, some[:5]))) for some in ([n for _, n in lost], left or there))
        remedy = f"--match name (case and folder do not count) or --match stem (nor do extensions); guess: {guess[0]!r}"
        table.say("names without a file", f"{names}; files without votes: {files_there}; {remedy}")
    cast = cast[cast["image"].isin(list(found))]
    return cast.assign(image=cast["image"].map(found).astype(object))


def _walk(folder: Path) -> list[str]:
    """Return all files of a folder, by their path in it; links are followed, and circles left."""
    there, seen = [], set()
    for place, inner, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            inner.clear()
            continue
        seen.add(real)
        inside = os.path.relpath(place, folder)
        there += [posixpath.join(inside, name) for name in names if Path(place, name).is_file()]
    return sorted(file.removeprefix("./") for file in there)


def read_images(table: Table, folder: Path, cast: pd.DataFrame, size: int) -> tuple[list, pd.DataFrame]:
    """Return the images, in order, and the votes, those on copies as votes on the first of equal images."""
    from PIL import Image, ImageOps

    images, first, copies, done = [], {}, {}, {}
    for image in sorted(cast["image"].unique()):
        path = f"{folder}/{image}"  # for tens of thousands a Path each takes a while
        try:
            with reading(path), Image.open(path) as file:
                if getattr(file, "n_frames", 1) > 1:
                    done.setdefault("only the first of several frames or pages", []).append(image)
                if file.tile and ";16" in str(file.tile[0][3]):
                    done.setdefault("16 bits a channel, cut to 8", []).append(image)
                ImageOps.exif_transpose(file, in_place=True)  # else it copies each
                upright = file
                if upright.has_transparency_data and upright.mode in ("LA", "PA", "RGBA", "P", "L", "RGB"):
                    clear, grey = upright.convert("RGBA"), upright.mode in ("L", "LA")
                    if clear.getextrema()[3][0] < 255:
                        done.setdefault("transparent, put on white", []).append(image)
                        upright = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
                        upright = upright.convert("L" if grey else "RGB")
                upright = grey_or_colour(upright)
                pixels = np.asarray(upright)
                same = f"{pixels.shape}{hashlib.sha256(pixels).hexdigest()}"
                if first.setdefault(same, image) != image:
                    copies[image] = first[same]
                    continue
                if upright.size != (size, size):
                    pixels = np.asarray(upright.resize((size, size), Image.Resampling.BILINEAR))
                images.append(pixels)
        except InputError as error:
            table.faults.append(f"{error}{_kind(Path(path))}; replace it, or take it and its votes out")
    for what, some in done.items():
        table.say(what, f"{len(some)}: {short(', '.join(some))}")
    if copies:
        pairs = ", ".join(f"{copy} = {image}" for copy, image in copies.items())
        table.say("equal pictures", f"{len(copies)}, each one image with all its votes: {short(pairs)}")
    cast = cast.assign(file=cast["image"])
    return images, cast if not copies else cast.assign(image=cast["image"].map(lambda image: copies.get(image, image)))


def _kind(file: Path) -> str:
    """Return words for what a file is that is no image that can be read."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        start = opened.read(200)
        kinds = {"it is empty": not start, "it is HEIC, save it as PNG or JPEG": start[4:8] == b"ftyp"}
        kinds |= {
            "it is SVG, save it as PNG": b"<svg" in start,
            "it is text": start.isascii() and start.decode().isprintable(),
        }
        return next((f" ({kind})" for kind, fits in kinds.items() if fits), "")
    return ""
