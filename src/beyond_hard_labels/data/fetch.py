"""How a published set gets into the data cache, whole or not at all.

What is downloaded is not trusted: its checksum is compared where one is known and kept where none is. Beside the
set, ``<cache>/<NAME>.npz``, lies ``<NAME>.json``, which records what it was made of. A file is called what a
publisher calls it only if a checksum says so, or if it came from the publisher's address.
"""

import datetime
import hashlib
import json
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from beyond_hard_labels import __version__
from beyond_hard_labels.base import files
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import formats, known, sets
from beyond_hard_labels.data.known import Published

RETRIES = 2  # of a download
_RECORDED = ("source", "sha256", "fetched", "images", "votes", "classes")


class _Refused(Exception):
    """What a server sends is not wanted, however often it is asked."""


def fetch(name: str, origin: str | None = None, accepted: tuple[str, ...] = ()) -> bool:
    """Put a published set into the data cache, whole or not at all; return False if it is there already.

    Parameters
    ----------
    name : str
        One of `known.SETS`.
    origin : str, optional
        In place of the published addresses: a file (for a set of one file), a folder that holds all files
        of the set by their names, or an address under which they lie.
    accepted : tuple of str
        The sha256 of files that are taken although another checksum is known.

    Raises
    ------
    InputError
        If a file cannot be got, is another than the one expected, or holds something else than the set,
        and if the cache cannot be written to.
    """
    if name not in known.SETS:
        raise InputError(f"there is no published set '{name}', expected one of {', '.join(known.SETS)}")
    accepted = tuple(map(str.lower, accepted))
    if wrong := [digest for digest in accepted if not re.fullmatch("[0-9a-f]{64}", digest)]:
        raise InputError(f"--sha256 is '{wrong[0]}', expected 64 hexadecimal digits")
    published, target = known.SETS[name], sets.folders()[1] / f"{name}.npz"
    places = _places(published, origin)

    def is_there() -> bool:
        remote = all(map(_is_address, places.values()))  # a file on this machine is looked at again
        return target.is_file() and remote and set(accepted) <= set(_made_of(target).values())

    if is_there():
        return False
    try:
        with files.lock(target.with_name(f".{name}.lock"), f"fetches {name}"):
            if is_there():  # another process fetched it meanwhile
                return False
            for leftover in target.parent.glob(f".{name}-*"):  # of a process that was killed
                files.remove(leftover)
            files.sweep(target)
            files.sweep(target.with_suffix(".json"))
            return _make(published, target, places, accepted)
    except OSError as error:
        raise InputError(
            f"{name} cannot be put into the data cache {target.parent}, which must be writable: {error}; BHL_DATA_DIR "
            "names another folder"
        ) from error


def record(path: Path) -> dict:
    """Return what is recorded of the file of a set that was fetched; nothing if it was not."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return {}
    try:
        found = json.loads(beside.read_text("utf-8"))
        if not isinstance(found, dict) or not set(_RECORDED) <= set(found):
            raise ValueError(f"it does not hold {', '.join(_RECORDED)}")
    except (OSError, ValueError) as error:
        raise InputError(f"{beside} is no record of a fetched set, remove it: {error}") from error
    return found


def about(name: str) -> dict:
    """Return what is known of a set that is here, by the checksum of its file and not by its name.

    Returns
    -------
    dict
        ``title``, ``licence``, ``citation`` and ``pixels`` of a file that is known to hold a published set; the
        record of one that was fetched; nothing of any other.
    """
    path, checksum = sets.locate(name), sets.fingerprint(name)
    found = record(path)
    if found.get("made", checksum) != checksum:
        found = {}  # it is of another file
    if published := known.of_file(checksum):
        found |= published.attribution | {"pixels": published.pixels[checksum]}
    return found


def _make(published: Published, target: Path, places: dict[str, str], accepted: tuple[str, ...]) -> bool:
    """Get the files of a set and make its own of them; return False if it is made of these already."""
    before, found, known_ones = _made_of(target), {}, []
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as temporary:
        paths = {file: _obtain(place, Path(temporary)) for file, place in places.items()}
        for (file, path), (address, checksum) in zip(paths.items(), published.files.items(), strict=True):
            found[file], same = _verify(places[file], path, checksum, before.get(file), accepted)
            known_ones.append(same if checksum else places[file] == address)
        if unused := set(accepted) - set(found.values()):
            there = ", ".join(f"{file} ({digest})" for file, digest in found.items())
            raise InputError(f"--sha256 is {unused.pop()}, which is the checksum of none of {there}")
        if target.is_file() and found == before:
            return False
        arrays = formats.read(published, list(paths.values()))
    sets.check(" and ".join(places), arrays)
    arrays["counts"] = arrays["counts"].astype(np.int64)
    sizes = (len(arrays["images"]), int(arrays["counts"].sum()), arrays["class_names"].tolist())
    made = dict(zip(_RECORDED, (places, found, datetime.date.today().isoformat(), *sizes), strict=True))
    with files.writing(target) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        made |= {"made": files.checksum(temporary)} | (published.attribution if all(known_ones) else {})
        files.write_json(target.with_suffix(".json"), made)  # before the set, without which it does no harm
    return True


def _made_of(target: Path) -> dict[str, str]:
    """Return the sha256 of each file that a set was made of; nothing if what is there is not what was made."""
    found = record(target)
    whole = not target.is_file() or found.get("made") in (None, files.checksum(target))
    return found.get("sha256", {}) if whole else {}


def _is_address(place: str) -> bool:
    return re.match("https?://", place) is not None


def _places(published: Published, origin: str | None) -> dict[str, str]:
    """Return where each file of a set is, an address or a path, by the file's name."""
    places = {PurePosixPath(address).name: address for address in published.files}
    if origin is None:
        return places
    if _is_address(origin):
        base = origin.removesuffix(next(iter(places))).rstrip("/")
        return {file: f"{base}/{file}" for file in places}
    path = Path(origin).absolute()
    if path.is_file() and len(places) == 1:
        return dict.fromkeys(places, str(path))
    if missing := [file for file in places if not (path / file).is_file()]:
        expected = "a folder that holds" if len(places) > 1 else "that file, or a folder that holds"
        raise InputError(f"--from is '{origin}', expected {expected} {' and '.join(places)}; no {missing[0]} is there")
    return {file: str(path / file) for file in places}


def _obtain(place: str, folder: Path) -> Path:
    """Return the path of a file, after a download if its place is an address."""
    if not _is_address(place):
        return Path(place)
    import pooch
    import requests

    file = PurePosixPath(place).name
    shelf = pooch.create(folder, base_url="", registry={file: None}, urls={file: place}, retry_if_failed=RETRIES)
    try:
        return Path(shelf.fetch(file, downloader=_download))
    except (requests.RequestException, _Refused) as error:
        raise InputError(f"{place} cannot be fetched: {error}; --from names a copy got otherwise") from error


def _download(url: str, path: str, _) -> None:
    """Write what lies at an address into a file, as it is: some servers call the gz of a file its encoding."""
    import requests
    from tqdm import tqdm

    headers = {"User-Agent": f"beyond-hard-labels/{__version__}", "Accept-Encoding": "identity"}
    with requests.get(url, stream=True, timeout=30, headers=headers) as response:
        if 400 <= response.status_code < 500 and response.status_code != 429:
            raise _Refused(f"{response.status_code} {response.reason}")
        response.raise_for_status()
        response.raw.headers.pop("content-encoding", None)
        size, seconds = response.headers.get("content-length", ""), 0.5 if sys.stderr.isatty() else 30
        bar = tqdm(total=int(size) if size.isdecimal() else None, unit="B", unit_scale=True, mininterval=seconds)
        with Path(path).open("wb") as file, bar:
            for piece in response.iter_content(1 << 18):
                bar.update(len(piece))
                if bar.n > formats.MOST_BYTES:
                    raise _Refused(f"it is larger than {formats.MOST_BYTES} bytes")
                file.write(piece)


def _verify(place: str, path: Path, published: str, before: str | None, accepted: tuple[str, ...]) -> tuple[str, bool]:
    """Return the sha256 of a file, and whether it is the published one; raise if it is not the one expected."""
    _refuse_page(place, path)
    with ThreadPoolExecutor() as pool:  # each reads the file; hashing leaves other threads running
        md5, sha256 = pool.map(partial(_digest, path), ("md5", "sha256"))
    found, expected = (f"md5:{md5}", f"sha256:{sha256}"), f"sha256:{before}" if before else published
    if expected and expected not in found and sha256 not in accepted:
        raise InputError(
            f"{place} is another file than the one {'fetched before' if before else 'published'}: it is "
            f"{' and '.join(found)}, expected {expected}; if it is the one that you want, add --sha256 {sha256}"
        )
    return sha256, published in found


def _refuse_page(place: str, path: Path) -> None:
    """Raise if a file is a page of the web, as servers send in place of what they have not."""
    with path.open("rb") as file:
        start = file.read(1 << 14)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):  # as no archive and no table does
        title = re.search(r"<title[^>]*>(.*?)</title", start.decode("utf-8", "replace"), re.I | re.S)
        words = " ".join("".join(c for c in title[1] if c.isprintable() or c.isspace()).split()) if title else ""
        raise InputError(f"{place} is a page, not an archive: {words[:100] or 'without a title'}")


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.new, kind, usedforsecurity=False)).hexdigest()
