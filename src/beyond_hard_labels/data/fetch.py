"""Published sets of images with votes: where they are, and how one of them gets into the data cache.

What is downloaded is not trusted: its checksum is compared where one is known and kept where none is,
members of archives are looked at before any is read and are decoded without being written to a disk, and
nothing is ever unpickled. A set lands whole, as ``<cache>/<NAME>.npz`` (see `real_data`) with
``<NAME>.json`` beside it, which records where it comes from.
"""

import datetime
import gzip
import hashlib
import io
import json
import math
import re
import stat
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from beyond_hard_labels import __version__
from beyond_hard_labels.base import files
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import dcic, sets

MOST_MEMBERS, MOST_BYTES = 100_000, 4 << 30  # of an archive; bytes before and after decompression
MOST_OF_IMAGE, MOST_OF_TEXT = 4 << 20, 512 << 20  # bytes of one member
MOST_TEST_IMAGES = 10_000  # of CIFAR-10 and Fashion-MNIST
_RECORDED = ("source", "sha256", "fetched", "images", "votes", "classes", "licence", "citation")
_WAITS = (1, 5)  # seconds before a download is tried again
_CIFAR_ROW = 1 + 3 * 32 * 32  # bytes: the label, then the planes


class Source(NamedTuple):
    """A published set: addresses with known checksums, what makes arrays of the files, and whose it is."""

    files: dict[str, str]
    read: Callable[[list[Path]], dict[str, np.ndarray]]
    licence: str
    citation: str


def fetch(name: str, origin: str | None = None, accepted: tuple[str, ...] = ()) -> bool:
    """Put a published set into the data cache, whole or not at all; return False if it is there already.

    Parameters
    ----------
    name : str
        One of `SETS`.
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
    if name not in SETS:
        raise InputError(f"there is no published set '{name}', expected one of {', '.join(SETS)}")
    accepted = tuple(map(str.lower, accepted))
    if wrong := [digest for digest in accepted if not re.fullmatch("[0-9a-f]{64}", digest)]:
        raise InputError(f"--sha256 is '{wrong[0]}', expected 64 hexadecimal digits")
    source, target = SETS[name], sets.folders()[1] / f"{name}.npz"
    places = _places(source, origin)

    def is_there() -> bool:
        remote = origin is None or re.match("https?://", origin)
        return target.is_file() and remote and set(accepted) <= set(_known(target).values())

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
            return _make(source, target, places, accepted)
    except OSError as error:
        raise InputError(
            f"{name} cannot be put into the data cache {target.parent}, which must be writable: {error}; BHL_DATA_DIR "
            "names another folder"
        ) from error


def _make(source: Source, target: Path, places: dict[str, str], accepted: tuple[str, ...]) -> bool:
    """Get the files of a set and make its own of them; return False if it is made of these already."""
    known = _known(target)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as temporary:
        paths = {file: _obtain(place, Path(temporary)) for file, place in places.items()}
        found = {}
        for (file, path), published in zip(paths.items(), source.files.values(), strict=True):
            found[file] = _verify(places[file], path, published, known.get(file), accepted)
        if unused := set(accepted) - set(found.values()):
            there = ", ".join(f"{file} ({digest})" for file, digest in found.items())
            raise InputError(f"--sha256 is {unused.pop()}, which is the checksum of none of {there}")
        if target.is_file() and found == known:
            return False
        arrays = source.read(list(paths.values()))
    sets.check(" and ".join(places), arrays)
    arrays["counts"] = arrays["counts"].astype(np.int64)
    sizes = (len(arrays["images"]), int(arrays["counts"].sum()), arrays["class_names"].tolist())
    values = (places, found, datetime.date.today().isoformat(), *sizes, source.licence, source.citation)
    with files.writing(target) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        about = dict(zip(_RECORDED, values, strict=True)) | {"made": files.checksum(temporary)}
        files.write_json(target.with_suffix(".json"), about)  # before the set, without which it does no harm
    return True


def _known(target: Path) -> dict[str, str]:
    """Return the checksums of the files that a set was made of; nothing if what is there is not what was made."""
    about = record(target)
    whole = not target.is_file() or about.get("made") in (None, files.checksum(target))
    return about.get("sha256", {}) if whole else {}


def record(path: Path) -> dict:
    """Return what is recorded of the file of a set that was fetched; nothing if it was not."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return {}
    try:
        about = json.loads(beside.read_text("utf-8"))
        if not isinstance(about, dict) or not set(_RECORDED) <= set(about):
            raise ValueError(f"it does not hold {', '.join(_RECORDED)}")
    except (OSError, ValueError) as error:
        raise InputError(f"{beside} is no record of a fetched set, remove it: {error}") from error
    return about


def about(name: str) -> dict:
    """Return what is known of a set that is here: its record; of a published one, licence and citation anyhow."""
    source = SETS.get(name)
    published = {"licence": source.licence, "citation": source.citation} if source else {}
    return published | record(sets.locate(name))


# Files


def _places(source: Source, origin: str | None) -> dict[str, str]:
    """Return where each file of a set is, an address or a path, by the file's name."""
    places = {PurePosixPath(address).name: address for address in source.files}
    if origin is None:
        return places
    if re.match("https?://", origin):
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
    if not re.match("https?://", place):
        return Path(place)
    import pooch
    import requests
    import urllib3

    pooch.get_logger().setLevel("WARNING")
    for wait in (*_WAITS, None):
        try:
            file = PurePosixPath(place).name
            return Path(pooch.retrieve(place, None, fname=file, path=folder, downloader=_download))
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", 500)
            if wait is None or isinstance(error, ValueError) or (status < 500 and status != 429):
                raise InputError(f"{place} cannot be fetched: {error}; --from names a copy got otherwise") from error
            print(f"bhl: {file} did not come ({type(error).__name__}), trying again in {wait} s", file=sys.stderr)
            time.sleep(wait)


def _download(url: str, path: str, _) -> None:
    """Write what lies at an address into a file, as it is: some servers call the gz of a file its encoding."""
    import requests
    from tqdm import tqdm

    headers = {"User-Agent": f"beyond-hard-labels/{__version__}", "Accept-Encoding": "identity"}
    with requests.get(url, stream=True, timeout=30, headers=headers) as response:
        response.raise_for_status()
        size, seconds = response.headers.get("content-length", ""), 0.5 if sys.stderr.isatty() else 30
        bar = partial(tqdm, unit="B", unit_scale=True, desc=PurePosixPath(url).name, mininterval=seconds)
        with Path(path).open("wb") as file, bar(total=int(size) if size.isdecimal() else None) as progress:
            for piece in response.raw.stream(1 << 18, decode_content=False):
                progress.update(len(piece))
                if progress.n > MOST_BYTES:
                    raise InputError(f"{url} is larger than {MOST_BYTES} bytes")
                file.write(piece)


def _verify(place: str, path: Path, published: str, before: str | None, accepted: tuple[str, ...]) -> str:
    """Return the sha256 of a file; raise if another checksum was expected and this one is not accepted."""
    with path.open("rb") as file:
        start = file.read(1 << 14)
        if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):  # as no archive and no table does
            title = re.search(r"<title[^>]*>(.*?)</title", start.decode("utf-8", "replace"), re.I | re.S)
            words = " ".join("".join(c for c in title[1] if c.isprintable() or c.isspace()).split()) if title else ""
            came = "the server sent" if re.match("https?://", place) else "this is"
            raise InputError(f"{place}: {came} a page, not an archive: {words[:100] or 'without a title'}")
    kind, _, digest = (f"sha256:{before}" if before else published).partition(":")
    kinds = {"sha256", kind} - {""}
    with ThreadPoolExecutor() as pool:  # each reads the file; hashing leaves other threads running
        found = dict(zip(kinds, pool.map(partial(_digest, path), kinds), strict=True))
    if digest and found[kind] != digest and found["sha256"] not in accepted:
        raise InputError(
            f"{place} is another file than the one {'fetched before' if before else 'published'}: its {kind} is "
            f"{found[kind]}, expected {digest}; if it is the one that you want, add --sha256 {found['sha256']}"
        )
    return found["sha256"]


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.new, kind, usedforsecurity=False)).hexdigest()


# Archives


def _unsafe(name: str) -> str:
    """Return what is wrong with the name of a member, or nothing."""
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name):
        return "an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "a path that leaves the archive"
    return "" if name and name.isprintable() else "a name that cannot be printed"


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Open an archive, after a look at what it says of all its members, none of which is read.

    That is enough: `zipfile` decompresses no more than a member is said to hold, and then compares.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{path.name} is not a zip archive, or not a whole one: {error}") from error
    members, faults = archive.infolist(), []
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        most = MOST_OF_TEXT if member.filename.endswith(".json") else MOST_OF_IMAGE
        plain = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        wrong = {
            _unsafe(member.filename): True,
            "a link or a device": kind not in (0, stat.S_IFREG, stat.S_IFDIR),
            "encrypted": member.flag_bits & 1,
            "compressed by another method than deflate": not plain,
            f"{member.file_size} bytes large, expected at most {most}": member.file_size > most,
        }
        faults += [f"{member.filename!r:.100} is {what}" for what, found in wrong.items() if found and what]
    if len(members) > MOST_MEMBERS:
        faults.append(f"{len(members)} members, expected at most {MOST_MEMBERS}")
    if (total := sum(member.file_size for member in members)) > MOST_BYTES:
        faults.append(f"{total} bytes in all, expected at most {MOST_BYTES}")
    if faults:
        archive.close()
    sets.refuse(f"{path.name} is not taken", faults)
    return archive


def _gunzip(path: Path, most: int) -> bytes:
    try:
        with gzip.open(path) as file:
            content = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path.name} is not a gzip file, or not a whole one: {error}") from error
    if len(content) > most:
        raise InputError(f"{path.name} holds more than {most} bytes, which is more than the published file does")
    return content


def _tar_member(path: Path, name: str, most: int) -> bytes:
    """Return a member of a compressed tar archive, after a look at all of them."""
    content, faults = io.BytesIO(_gunzip(path, 256 << 20)), []
    try:
        with tarfile.open(fileobj=content, mode="r:") as archive:
            members = archive.getmembers()
            for member in members:
                what = _unsafe(member.name) or ("" if member.isreg() or member.isdir() else "a link or a device")
                faults += [f"{member.name!r:.100} is {what}"] if what else []
            sets.refuse(f"{path.name} is not taken", faults)
            found = [member for member in members if member.name == name and member.isreg()]
            if len(found) != 1 or found[0].size > most:
                sizes = ", ".join(f"{member.size} bytes" for member in found) or "none"
                raise InputError(f"{path.name}: {name} is {sizes}, expected one file of at most {most} bytes")
            return archive.extractfile(found[0]).read()
    except InputError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{path.name} is not a tar archive, or not a whole one: {error}") from error


# Formats


def _dcic(name: str, class_names: tuple[str, ...] | None, paths: list[Path]) -> dict[str, np.ndarray]:
    with _open_zip(paths[0]) as archive:
        return dcic.read(archive, name, class_names)


def _cifar10h(paths: list[Path]) -> dict[str, np.ndarray]:
    votes, pixels = paths
    try:
        counts = np.load(votes, allow_pickle=False)
        if not isinstance(counts, np.ndarray):
            raise ValueError("it is an archive")
    except sets.UNREADABLE as error:
        raise InputError(f"{votes.name} is not an array of NumPy: {error}") from error
    content = _tar_member(pixels, "cifar-10-batches-bin/test_batch.bin", MOST_TEST_IMAGES * _CIFAR_ROW)
    if not content or len(content) % _CIFAR_ROW:
        raise InputError(f"{pixels.name}: test_batch.bin has {len(content)} bytes, expected rows of {_CIFAR_ROW}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_ROW)
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    return {"images": images, "counts": counts, "class_names": np.array(names), "labels": rows[:, 0].astype(np.int64)}


def _fashion_mnist_h(paths: list[Path]) -> dict[str, np.ndarray]:
    votes, pixels, official = paths
    faults, counts = [], []
    text = votes.read_text("utf-8", "replace") if votes.stat().st_size < MOST_OF_IMAGE else ""
    for number, line in enumerate(text.splitlines(), 1):
        if not re.fullmatch("[0-9]{1,6}(,[0-9]{1,6}){9}", line):
            faults.append(f"line {number} is {line!r:.60}, expected ten counts, separated by commas")
        else:
            counts.append([int(cell) for cell in line.split(",")])
    sets.refuse(f"{votes.name} is not a table of votes", faults)
    names = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    return {
        "images": _idx(pixels, rank=3, most=MOST_TEST_IMAGES * 28 * 28),
        "counts": np.array(counts, np.int64).reshape(-1, 10),
        "class_names": np.array(names),
        "labels": _idx(official, rank=1, most=MOST_TEST_IMAGES).astype(np.int64),
    }


def _idx(path: Path, rank: int, most: int) -> np.ndarray:
    """Read a gzipped file of the IDX format: two zeros, 8 for bytes, the rank, big-endian sizes, the bytes."""
    head = 4 + 4 * rank
    content = _gunzip(path, head + most)
    sizes = np.frombuffer(content[4:head], ">u4").tolist() if len(content) >= head else []
    if content[:4] != bytes([0, 0, 8, rank]) or len(content) != head + math.prod(sizes):
        found = f"{len(content)} bytes that begin with {content[:head].hex(' ', 4)}"
        raise InputError(f"{path.name} holds {found}, expected an IDX file of bytes with {rank} dimension(s)")
    return np.frombuffer(content, np.uint8, offset=head).reshape(sizes)


# What is published


_BENCHMARK = (
    "Schmarje, Grossmann, Zelenka, Dippel, Kiko, Oszust, Pastell, Stracke, Valros, Volkmann and Koch (2022): Is one "
    "annotation enough? A data-centric image classification benchmark for noisy and ambiguous label estimation. "
    "NeurIPS Datasets and Benchmarks. doi:10.5281/zenodo.8115942"
)
_CIFAR10H = (
    "Peterson, Battleday, Griffiths and Russakovsky (2019): Human uncertainty makes classification more robust. ICCV. "
    "Images: Krizhevsky (2009): Learning multiple layers of features from tiny images"
)


_ARBORETUM = "Images: (c) President and Fellows of Harvard College (2015), Arnold Arboretum"
_FASHION_MNIST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_RAW = "https://raw.githubusercontent.com"


def _of_benchmark(name: str, images: str = "", *, licence: str = "CC BY-SA 4.0", md5: str = "", classes: str = ""):
    """Return a set of DCIC; `images` names the work that its images come from."""
    address = f"https://zenodo.org/records/8115942/files/{name}.zip"
    read = partial(_dcic, name, tuple(classes.split()) or None)
    return Source({address: md5}, read, licence, f"{images}. {_BENCHMARK}" if images else _BENCHMARK)


SETS = {
    "micebone": _of_benchmark(
        "MiceBone",
        "Images: Schmarje, Zelenka, Geisen, Glüer and Koch (2019): 2D and 3D segmentation of uncertain local collagen "
        "fiber orientations in SHG microscopy. GCPR",
        md5="md5:8a4026c22f07373f022d9ab4818089ec",
        classes="g nr ug",
    ),
    "dcic-benthic": _of_benchmark(
        "Benthic",
        "Images: Langenkämper, van Kevelaer, Purser and Nattkemper (2020): Gear-induced concept drift in marine images "
        "and its effect on deep learning classification. Frontiers in Marine Science 7",
    ),
    "dcic-cifar10h": _of_benchmark("CIFAR10H", _CIFAR10H, licence="CC BY-NC-SA 4.0; the images state none"),
    "dcic-pig": _of_benchmark("Pig"),
    "dcic-plankton": _of_benchmark(
        "Plankton",
        "Images: Schmarje, Brünger, Santarossa, Schröder, Kiko and Koch (2021): Fuzzy overclustering. Sensors 21",
    ),
    "dcic-qualitymri": _of_benchmark(
        "QualityMRI",
        "Images: Obuchowicz, Oszust and Piórkowski (2020): Interobserver variability in quality assessment of magnetic "
        "resonance images. BMC Medical Imaging 20",
    ),
    "dcic-synthetic": _of_benchmark("Synthetic", classes="bc be gc ge rc re"),
    "dcic-treeversity1": _of_benchmark("Treeversity1", _ARBORETUM),
    "dcic-treeversity6": _of_benchmark("Treeversity6", _ARBORETUM),
    "dcic-turkey": _of_benchmark(
        "Turkey",
        "Images: Volkmann, Brünger, Stracke, Zelenka, Koch, Kemper and Spindler (2021): Learn to train: improving "
        "training data for a neural network to detect pecking injuries in turkeys. Animals 11",
    ),
    "cifar10h": Source(
        {
            f"{_RAW}/jcpeterson/cifar-10h/48da312b193b82e6939ec20f23d1f09cbdd849c8/data/cifar10h-counts.npy": "sha256:"
            "9b36b4550349af56c79083356312eb4af856cc5fd3caf1f669d40b9d0bbb69ff",
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530",
        },
        _cifar10h,
        "votes CC BY-NC-SA 4.0; the images state none",
        _CIFAR10H,
    ),
    "fashion_mnist_h": Source(
        {
            f"{_RAW}/takashiishida/irreducible/4bc347d387c103c355d2ebff0b3983e73f4a9bc2/data/fmh_counts.csv": "sha256:"
            "bec7efff5d6f901a6224758d71caadb436dbd8de1284b0be7089d193be94ddbc",
            f"{_FASHION_MNIST}/t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
            f"{_FASHION_MNIST}/t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
        _fashion_mnist_h,
        "votes from a repository under GPL-3.0; images MIT",
        "Ishida, Yamane, Charoenphakdee, Niu and Sugiyama (2023): Is the performance of my deep network too good to be "
        "true? ICLR. Images: Xiao, Rasul and Vollgraf (2017): Fashion-MNIST. arXiv:1708.07747",
    ),
}
