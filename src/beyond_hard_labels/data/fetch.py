"""How a published set gets into the data cache, whole or not at all.

What is downloaded is not trusted: its checksum is compared where one is known and kept where none is. Beside the
set, ``<cache>/<NAME>.npz``, lies ``<NAME>.json``, which records what it was made of. A file is called what a
publisher calls it only if a checksum says so, or if it came from the publisher's address.
"""

import datetime
import sys
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np

from beyond_hard_labels import __version__
from beyond_hard_labels.base import files
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import formats, known, sets
from beyond_hard_labels.data.known import Published


def fetch(name: str, origin: str | None = None, accepted: tuple[str, ...] = ()) -> bool:
    """Put a published set into the data cache, whole or not at all; return False if one of its name is there already.

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
        If a file cannot be got, or is not the one expected, and if the cache cannot be written to.
    """
    if name not in known.SETS:
        raise InputError(f"there is no published set '{name}', expected one of {', '.join(known.SETS)}")
    published, target = known.SETS[name], sets.folders()[1] / f"{name}.npz"
    places = _places(published, origin)
    try:
        if target.is_file():
            return False
        with files.lock(target.with_name(f".{name}.lock"), f"fetches {name}"):
            for path in (target, target.with_suffix(".json")):
                files.sweep(path)
            if not (there := target.is_file()):  # unless another process fetched it meanwhile
                _make(published, target, places, {digest.lower() for digest in accepted})
            return not there
    except OSError as error:
        raise InputError(
            f"{name} cannot be put into the data cache {target.parent}, which must be writable: {error}; BHL_DATA_DIR "
            "names another folder"
        ) from error


def about(name: str) -> dict:
    """Return what is known of a set that is here, by the checksum of its file and not by its name.

    This is ``title``, ``licence``, ``citation`` and ``pixels`` of a file that is known to hold a published set, the
    record of one that was fetched, and nothing of any other.
    """
    checksum, found = sets.fingerprint(name), sets.record(sets.locate(name))
    if found.get("made") != checksum:
        found = {}  # it is of another file
    for published in known.SETS.values():
        if checksum in published.pixels:
            found |= published.attribution | {"pixels": published.pixels[checksum]}
    return found


def _is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


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
        raise InputError(
            f"--from is '{origin}', expected a folder that holds {' and '.join(places)}; no {missing[0]} is there"
        )
    return {file: str(path / file) for file in places}


def _make(published: Published, target: Path, places: dict[str, str], accepted: set[str]) -> None:
    """Get the files of a set, and make its own and the record of them."""
    before, found, paths, of_publisher = sets.record(target).get("sha256", {}), {}, [], True
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        for (file, place), (address, checksum) in zip(places.items(), published.files.items(), strict=True):
            paths.append(_download(place, Path(temporary) / file) if _is_address(place) else Path(place))
            _refuse_page(place, paths[-1])
            found[file] = digest = files.checksum(paths[-1])
            sums = f"md5:{files.checksum(paths[-1], 'md5')}", f"sha256:{digest}"
            expected = f"sha256:{before[file]}" if file in before else checksum or " or ".join(accepted)
            if expected and expected not in sums and digest not in accepted:
                raise InputError(
                    f"{place} is another file than the one {'fetched before' if file in before else 'expected'}: it is "
                    f"{' and '.join(sums)}, expected {expected}; if it is the one that you want, add --sha256 {digest}"
                )
            of_publisher &= checksum in sums if checksum else place == address
        arrays = formats.read(published, paths)
    data = sets.labelled(" and ".join(places), target.stem, arrays)
    arrays["counts"] = data.votes
    made = (places, found, datetime.date.today().isoformat(), len(data.ids), int(data.votes.sum()), data.class_names)
    with files.writing(target) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        about = dict(zip(sets.RECORDED, (*made, files.checksum(temporary)), strict=True))
        about |= published.attribution if of_publisher else {}
        files.write_json(target.with_suffix(".json"), about)  # before the set, without which it does no harm


def _download(address: str, path: Path) -> Path:
    """Write what lies at an address into a file, as it is, and return that."""
    import pooch
    import requests
    from tqdm import tqdm

    def as_it_is(response, **_) -> None:
        response.raw.headers.pop("content-encoding", None)  # some servers call the gz of a file its encoding

    headers = {"User-Agent": f"beyond-hard-labels/{__version__}", "Accept-Encoding": "identity"}
    seconds = 0.5 if sys.stderr.isatty() else 30
    shelf = pooch.create(path.parent, "", registry={path.name: None}, urls={path.name: address}, retry_if_failed=2)
    with tqdm(total=1, unit="B", unit_scale=True, mininterval=seconds) as bar:
        request = pooch.HTTPDownloader(bar, 1 << 18, headers=headers, timeout=30, hooks={"response": as_it_is})
        try:
            return Path(shelf.fetch(path.name, downloader=request))
        except requests.RequestException as error:
            raise InputError(f"{address} cannot be fetched: {error}; --from names a copy got otherwise") from error


def _refuse_page(place: str, path: Path) -> None:
    """Raise if a file is a page of the web, as servers send in place of what they have not."""
    with path.open("rb") as file:
        if file.read(1 << 10).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):  # as no archive and no table does
            raise InputError(f"{place} is a page of the web, and not the file; --from names a copy got otherwise")
