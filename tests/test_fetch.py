import gzip
import hashlib
import io
import json
import re
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import archives
from beyond_hard_labels import __version__
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import fetch, formats, images, known, sets
from beyond_hard_labels.runs import study
from conftest import TINY, set_options

SMALL = {name: TINY[name] for name in ("epochs", "batch_size", "splits")}
GOOD = archives.micebone()[0]
NOTES = "MiceBone/annotations.json"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def shelf(tmp_path):
    """A folder to serve."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def cache():
    return sets.folders()[1]


def left():
    """Return the names of all files in the cache, but for locks, and of all folders."""
    return sorted(path.name for path in cache().rglob("*") if path.suffix != ".lock") if cache().exists() else []


def mice(shelf, **changes):
    """Put a small MiceBone on the shelf; return its checksum."""
    return (sha256(archives.pack(shelf / "MiceBone.zip", GOOD, **changes)),)


def pigs(shelf):
    archives.pack(shelf / "Pig.zip", {name.replace("MiceBone", "Pig"): content for name, content in GOOD.items()})


# A set of the benchmark, from the server to the study


def test_micebone_is_fetched_read_split_and_trained_on(bhl, shelf):
    (digest,) = mice(shelf)
    with archives.served(shelf) as (url, requests):
        done = bhl("data", "fetch", "micebone", "--from", url, "--sha256", digest)
        assert done.returncode == 0, done.stderr
        assert all(part in done.stdout for part in (f"{url}/MiceBone.zip", digest, "CC BY-SA 4.0", "Schmarje"))
        assert requests == [("/MiceBone.zip", f"beyond-hard-labels/{__version__}")]
    data, truth = sets.read("micebone"), archives.micebone()[1]
    assert data.ratings.tolist() == [truth[image_id][0].tolist() for image_id in data.ids]
    for split in (images.random_split(archives.N, 0), images.slice_split(data.fold, 1)):
        assert [len(part) for part in split] == [36, 12, 12]
        assert len(set(np.concatenate(split))) == archives.N
    shown = json.loads(bhl("data", "describe", "micebone", "--json").stdout)
    assert (shown["votes_least"], shown["votes_most"]) == (8, 81)
    assert shown["source"] == {"MiceBone.zip": f"{url}/MiceBone.zip"}
    studied = bhl("study", "--profile", "smoke", *set_options(dataset="micebone", **SMALL))
    assert studied.returncode == 0, studied.stderr
    assert len(studied.stdout.splitlines()) == 3


def test_what_is_exported_as_a_zip_is_a_published_set(bhl, tmp_path):
    bhl("data", "export", "synthetic", tmp_path, "--votes", 7, *set_options(n_images=50, image_size=24))
    with zipfile.ZipFile(tmp_path / "my.zip", "w") as archive:
        for path in (tmp_path / "Synthetic").rglob("*"):
            archive.write(path, path.relative_to(tmp_path))
    done = bhl("data", "fetch", "dcic-synthetic", "--from", tmp_path / "my.zip")
    assert "50 images, 350 votes, 6 classes" in done.stdout, done.stderr
    assert sets.read("dcic-synthetic").ratings.shape == (50, 7)


def test_the_same_archive_gives_the_same_file(shelf, tmp_path, monkeypatch):
    prints = []
    for place in ("one", "two"):
        monkeypatch.setenv("BHL_DATA_DIR", str(tmp_path / place))
        fetch.fetch("micebone", str(shelf), mice(shelf))
        prints.append(sets.fingerprint("micebone"))
    assert prints[0] == prints[1]


def test_beside_a_set_lies_what_it_is_and_where_it_comes_from(shelf):
    (digest,) = mice(shelf)
    fetch.fetch("micebone", str(shelf / "MiceBone.zip"), (digest,))
    assert left() == ["micebone.json", "micebone.npz"]
    about = json.loads((cache() / "micebone.json").read_text())
    assert about["source"] == {"MiceBone.zip": str(shelf / "MiceBone.zip")}
    assert about["sha256"] == {"MiceBone.zip": digest}
    assert (about["images"], about["votes"], about["classes"]) == (60, 918, ["g", "nr", "ug"])
    assert about["fetched"]


def test_a_set_is_attributed_to_its_publisher_by_checksum_and_not_by_name(shelf, monkeypatch):
    digests = mice(shelf)
    fetch.fetch("micebone", str(shelf), digests)
    assert "licence" not in fetch.about("micebone")  # it was taken although another checksum is known
    (cache() / "micebone.npz").unlink()
    real = known.SETS["micebone"]
    published = replace(real, files=dict.fromkeys(real.files, f"sha256:{digests[0]}"))
    monkeypatch.setitem(known.SETS, "micebone", published)
    fetch.fetch("micebone", str(shelf))
    assert fetch.about("micebone").items() >= real.attribution.items()
    np.savez(cache() / "cifar10h.npz", **np.load(cache() / "micebone.npz"))
    assert fetch.about("cifar10h") == {}  # a file of that name, and no more
    checksum = sets.fingerprint("cifar10h")
    monkeypatch.setitem(known.SETS, "cifar10h", replace(known.SETS["cifar10h"], pixels={checksum: "lossless"}))
    assert fetch.about("cifar10h") == known.SETS["cifar10h"].attribution | {"pixels": "lossless"}
    assert known.of_file(checksum).title == "CIFAR-10H"


def test_without_a_published_checksum_a_set_is_attributed_if_it_comes_from_the_published_address(shelf, monkeypatch):
    pigs(shelf)
    fetch.fetch("dcic-pig", str(shelf))
    assert "licence" not in fetch.about("dcic-pig")
    for path in cache().glob("dcic-pig.*"):
        path.unlink()
    with archives.served(shelf) as (url, _):
        monkeypatch.setitem(known.SETS, "dcic-pig", replace(known.SETS["dcic-pig"], files={f"{url}/Pig.zip": ""}))
        fetch.fetch("dcic-pig")
    assert fetch.about("dcic-pig")["title"] == "Pig"


def test_a_record_of_another_file_says_nothing(shelf):
    fetch.fetch("micebone", str(shelf), mice(shelf))
    content = dict(np.load(cache() / "micebone.npz"))
    np.savez_compressed(cache() / "micebone.npz", **content)
    assert fetch.about("micebone") == {}


# The other published sets

CLASSES = 10
VOTES, PIXELS, LABELS = "fmh_counts.csv", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
COUNTS, IMAGES, BATCH = "cifar10h-counts.npy", "cifar-10-binary.tar.gz", "cifar-10-batches-bin/test_batch.bin"


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tar(members):
    """Return a compressed tar archive of bytes, or of entries of another kind."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
            else:
                entry.type, entry.linkname = content[0], "/etc/passwd"
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return file.getvalue()


def batch(pixels, official):
    """Return the bytes of a binary batch: label, red plane, green plane, blue plane, image by image."""
    rows = zip(official, pixels.transpose(0, 3, 1, 2), strict=True)
    return b"".join(bytes([label]) + planes.tobytes() for label, planes in rows)


def stock(shelf, name):
    """Put a small set in its publisher's formats on the shelf; return its votes, pixels and labels."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(51, np.full(CLASSES, 0.1), 30)
    pixels = rng.integers(0, 256, (30, 28, 28) if name == "fashion_mnist_h" else (30, 32, 32, 3), np.uint8)
    official = rng.integers(0, CLASSES, 30, np.uint8)
    if name == "fashion_mnist_h":
        (shelf / VOTES).write_text("".join(",".join(map(str, row)) + "\n" for row in counts))
        (shelf / PIXELS).write_bytes(gzip.compress(idx(pixels)))
        (shelf / LABELS).write_bytes(gzip.compress(idx(official)))
    else:
        (shelf / COUNTS).write_bytes(npy(counts))
        more = {"cifar-10-batches-bin/data_batch_1.bin": b"x" * 3073, "cifar-10-batches-bin/readme.html": b"x"}
        (shelf / IMAGES).write_bytes(tar(more | {BATCH: batch(pixels, official)}))
    return counts, pixels, official


def all_of(shelf):
    return tuple(sha256(path) for path in shelf.iterdir())


@pytest.mark.parametrize("name", ["fashion_mnist_h", "cifar10h"])
def test_votes_and_pixels_come_together_from_their_publishers_formats(name, shelf):
    counts, pixels, official = stock(shelf, name)
    with archives.served(shelf) as (url, requests):
        fetch.fetch(name, url, all_of(shelf))
    assert len(requests) == len(known.SETS[name].files)
    data = sets.read(name)
    assert np.array_equal(data.votes, counts)
    assert np.array_equal(data.official, official)
    assert np.array_equal(data.images, pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2))
    assert data.class_names == known.SETS[name].classes
    assert data.ids[:2] == (f"{name}-00000", f"{name}-00001")
    assert np.array_equal(sets.read(name, 7).official, official[:7])
    assert study.plan("smoke", dataset=name).shared["image_size"] == pixels.shape[1]


def objects():
    file = io.BytesIO()
    np.save(file, np.array([{}] * 30, object), allow_pickle=True)
    return file.getvalue()


ZEROS = np.zeros((30, 28, 28), np.uint8)
OTHERS = {  # a file, its content or a change of it, and what is said of it
    "a row of nine": (VOTES, b"1,2,3,4,5,6,7,8,9\n", f"{VOTES}, line 1: '1,2,3,4,5,6,7,8,9', expected ten counts"),
    "a table of shares": (VOTES, b"0.5,0.5,0,0,0,0,0,0,0,0\n", "line 1: '0.5,0.5"),
    "votes of fewer images": (VOTES, b"1,2,3,4,5,6,7,8,9,0\n", "counts is int64 (1, 10) of 0 to 9, expected (30, 10)"),
    "pixels for labels": (LABELS, gzip.compress(idx(ZEROS[:3])), f"{LABELS} holds 2368 bytes that begin with"),
    "fewer pixels than said": (
        PIXELS,
        gzip.compress(idx(ZEROS)[:-1]),
        "expected an IDX file of bytes with 3 dimension",
    ),
    "a label of no class": (
        LABELS,
        gzip.compress(idx(np.full(30, 10, np.uint8))),
        "labels is int64 (30,) of 10 to 10, ",
    ),
    "a gzip bomb": (PIXELS, lambda _: gzip.compress(bytes(20_000_000)), f"{PIXELS} holds more than 7840016 bytes"),
    "a gzip file cut short": (PIXELS, lambda whole: whole[:9000], f"{PIXELS} is not a gzip file, or not a whole one"),
    "a pickle": (COUNTS, objects(), f"{COUNTS} is not an array of NumPy: Object arrays cannot be loaded"),
    "a broken header": (COUNTS, lambda whole: whole.replace(b"}", b"\x00"), f"{COUNTS} is not an array of NumPy"),
    "an array without end": (
        COUNTS,
        lambda whole: whole.replace(b"(30, 10), }      ", b"(30000000000, 10)}"),
        f"{COUNTS} is not an array of NumPy",
    ),
    "shares for counts": (COUNTS, npy(np.full((30, 10), 0.1)), "counts: votes must be whole numbers"),
    "a batch of another row": (IMAGES, tar({BATCH: bytes(3073 * 30 + 1)}), f"{BATCH} has 92191 bytes, expected rows"),
    "too many images": (IMAGES, lambda _: tar({BATCH: bytes(3073 * 10_001)}), "[30733073], expected one of at most"),
    "the Python edition": (
        IMAGES,
        tar({"cifar-10-batches-py/test_batch": b"x"}),
        f"sizes of {BATCH}: [], expected one",
    ),
    "a path out of a tar": (IMAGES, tar({"../x": b"x"}), f"{IMAGES}: '../x' is a path that leaves the archive"),
    "a link in a tar": (IMAGES, tar({BATCH: [tarfile.SYMTYPE]}), f"'{BATCH}' is a link or a device"),
    "a device in a tar": (IMAGES, tar({"zero": [tarfile.CHRTYPE]}), "'zero' is a link or a device"),
    "a tar cut short": (
        IMAGES,
        lambda whole: gzip.compress(gzip.decompress(whole)[:30_000]),
        f"{IMAGES} is not a tar archive, or not a whole one",
    ),
}


@pytest.mark.parametrize(("file", "content", "message"), OTHERS.values(), ids=OTHERS)
def test_a_broken_file_of_a_set_is_refused_and_nothing_is_left(file, content, message, shelf):
    name = "fashion_mnist_h" if file in (VOTES, PIXELS, LABELS) else "cifar10h"
    stock(shelf, name)
    (shelf / file).write_bytes(content((shelf / file).read_bytes()) if callable(content) else content)
    with pytest.raises(InputError) as raised:
        fetch.fetch(name, str(shelf), all_of(shelf))
    assert message in str(raised.value)
    assert left() == []


# Hostile archives


def with_member(name, content=b"x", mode=0, **flags):
    """Return the bytes of a MiceBone with a member more."""
    entry, file = zipfile.ZipInfo(name), io.BytesIO()
    entry.external_attr = mode << 16
    archives.pack(file, GOOD)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(entry, content, **flags)
    return file.getvalue()


def flipped(content, place, bits):
    return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


MICE = archives.pack(io.BytesIO(), GOOD).getvalue()
BOMB = "MiceBone/fold1/bomb.png"
TEN_MILLION = (10_000_000).to_bytes(4, "little")
LINK, DEVICE = stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o666
HOSTILE = {
    "a path that leaves it": (
        with_member("../evil.png"),
        "MiceBone.zip: '../evil.png' is a path that leaves the archive",
    ),
    "one by backslashes": (with_member("a\\..\\..\\evil.png"), "is a path that leaves the archive"),
    "an absolute path": (with_member("/tmp/evil.png"), "'/tmp/evil.png' is an absolute path"),
    "a path with a drive": (with_member("C:/evil.png"), "'C:/evil.png' is an absolute path"),
    "control characters": (with_member("\x1b[2Jx"), "'\\x1b[2Jx' is a name that cannot be printed"),
    "a member without a name": (with_member("xyz").replace(b"xyz", b"\x00yz"), "'' is a name that cannot be printed"),
    "a link": (
        with_member("MiceBone/fold1/x.png", b"/etc/passwd", LINK),
        "'MiceBone/fold1/x.png' is a link or a device",
    ),
    "a device": (with_member("zero", b"", DEVICE), "'zero' is a link or a device"),
    "an encrypted member": (flipped(MICE, MICE.index(b"PK\x01\x02") + 8, 1), " is encrypted, or "),
    "a method with no bound": (
        with_member("x.png", compress_type=zipfile.ZIP_LZMA),
        "'x.png' is encrypted, or compressed but not by deflate",
    ),
    "an image of megabytes": (
        with_member(BOMB, bytes(5_000_000)),
        f"'{BOMB}' is 5000000 bytes large, expected at most",
    ),
    "a bomb whose headers lie": (
        with_member(BOMB, bytes(10_000_000), compress_type=8).replace(TEN_MILLION, (100).to_bytes(4, "little")),
        f"{BOMB}: the image cannot be read: Bad CRC-32",
    ),
    "an archive cut short": (MICE[:50_000], "MiceBone.zip is not a zip archive, or not a whole one"),
    "a changed byte": (flipped(MICE, 2000, 255), f"{next(iter(GOOD))}: the image cannot be read: "),
    "an empty file": (b"", "MiceBone.zip is not a zip archive"),
    "no members": (archives.pack(io.BytesIO(), {}).getvalue(), "MiceBone.zip: it holds no annotations.json, expected"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_left(content, message, shelf, tmp_path):
    (shelf / "MiceBone.zip").write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as raised:
        fetch.fetch("micebone", str(shelf), all_of(shelf))
    assert message in str(raised.value)
    assert left() == []
    assert sorted(path for path in tmp_path.rglob("*") if path not in (cache(), cache() / ".micebone.lock")) == before


@pytest.mark.parametrize(
    ("bound", "value", "message"),
    [("MOST_MEMBERS", 60, "is one member of more than 60"), ("MOST_BYTES", 10_000, "bytes in all, expected at most")],
)
def test_an_archive_beyond_the_bounds_of_all_members_is_refused(shelf, monkeypatch, bound, value, message):
    digests = mice(shelf)
    monkeypatch.setattr(formats, bound, value)
    with pytest.raises(InputError, match=message):
        fetch.fetch("micebone", str(shelf), digests)
    assert left() == []


# Servers


def failing(times, fail):
    """Return a handler that fails so often, in that way, then serves."""
    failures = iter(range(times))

    class Failing(SimpleHTTPRequestHandler):
        def do_GET(self):
            return super().do_GET() if next(failures, None) is None else fail(self)

    return Failing


def drop(handler):
    """Send a quarter of what was announced, then end."""
    whole = Path(handler.directory + handler.path).read_bytes()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(whole)))
    handler.end_headers()
    handler.wfile.write(whole[: len(whole) // 4])
    handler.close_connection = True


def answer(status):
    return lambda handler: handler.send_error(status)


@pytest.mark.parametrize("fail", [drop, answer(503), answer(429)], ids=["dropped", "busy", "too many"])
def test_a_download_that_fails_on_the_way_is_tried_again(shelf, fail):
    digests = mice(shelf)
    with archives.served(shelf, failing(2, fail)) as (url, requests):
        fetch.fetch("micebone", url, digests)
    assert len(requests) == 3
    assert left() == ["micebone.json", "micebone.npz"]


@pytest.mark.parametrize(
    ("fail", "times", "tries"),
    [(drop, 9, 3), (answer(500), 9, 3), (answer(404), 9, 1), (answer(403), 9, 1)],
    ids=["dropped", "broken", "not there", "forbidden"],
)
def test_a_download_that_fails_for_good_is_named_and_nothing_is_left(shelf, fail, times, tries):
    digests = mice(shelf)
    with archives.served(shelf, failing(times, fail)) as (url, requests):
        with pytest.raises(InputError, match=rf"{url}/MiceBone\.zip cannot be fetched: .*--from names a copy"):
            fetch.fetch("micebone", url, digests)
        assert len(requests) == tries
    assert left() == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://nowhere.invalid", "http://[", "https://127.0.0.1:9/x"])
def test_an_address_without_a_server_is_named(url):
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch.fetch("micebone", url)
    assert left() == []


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("<!DOCTYPE html>\n<html><head><title>Just a\n moment ...</title>", "Just a moment ..."),
        ("<html><body>busy", "without a title"),
        ('\ufeff<?xml version="1.0"?><!-- x --><!DOCTYPE HTML><TITLE lang="en">Sign\x1b[2J in</TITLE>', "Sign[2J in"),
    ],
    ids=["title", "no title", "XHTML"],
)
def test_a_page_in_place_of_an_archive_is_recognised(shelf, page, title):
    (shelf / "MiceBone.zip").write_text(page)
    with archives.served(shelf) as (url, requests), pytest.raises(InputError) as raised:
        fetch.fetch("micebone", url)
    assert str(raised.value) == f"{url}/MiceBone.zip is a page, not an archive: {title}"
    assert len(requests) == 1
    with pytest.raises(InputError, match=r"MiceBone\.zip is a page"):  # that was saved for the archive
        fetch.fetch("micebone", str(shelf))
    assert left() == []


def test_a_file_is_kept_as_it_is_though_the_server_calls_its_compression_an_encoding(shelf):
    counts, _, _ = stock(shelf, "fashion_mnist_h")

    class Encoding(SimpleHTTPRequestHandler):
        def end_headers(self):
            self.send_header("Content-Encoding", "gzip")
            super().end_headers()

    with archives.served(shelf, Encoding) as (url, _):
        fetch.fetch("fashion_mnist_h", url, all_of(shelf))
    assert np.array_equal(sets.read("fashion_mnist_h").votes, counts)


def test_a_download_without_an_end_is_stopped(shelf, monkeypatch):
    digests = mice(shelf)
    monkeypatch.setattr(formats, "MOST_BYTES", 1000)
    with (
        archives.served(shelf) as (url, _),
        pytest.raises(InputError, match="cannot be fetched: it is larger than 1000 bytes"),
    ):
        fetch.fetch("micebone", url, digests)
    assert left() == []


# Checksums


def test_a_file_with_another_checksum_than_the_published_one_is_refused_unless_it_is_named(shelf):
    (digest,) = mice(shelf)
    with archives.served(shelf) as (url, _):
        with pytest.raises(InputError) as raised:
            fetch.fetch("micebone", url)
        assert "is another file than the one published: it is md5:" in str(raised.value)
        assert "expected md5:8a4026c22f07373f022d9ab4818089ec" in str(raised.value)
        assert f"add --sha256 {digest}" in str(raised.value)
        with pytest.raises(InputError, match=r"another file.* add --sha256"):
            fetch.fetch("micebone", url, ("0" * 64,))
        assert left() == []
        assert fetch.fetch("micebone", url, (digest.upper(),))
    assert left() == ["micebone.json", "micebone.npz"]


def test_without_a_published_checksum_the_first_one_is_kept_and_compared(shelf):
    pigs(shelf)
    first = sha256(shelf / "Pig.zip")
    assert fetch.fetch("dcic-pig", str(shelf))
    before = (cache() / "dcic-pig.npz").read_bytes()
    assert fetch.record(cache() / "dcic-pig.npz")["sha256"] == {"Pig.zip": first}
    with zipfile.ZipFile(shelf / "Pig.zip", "a") as archive:
        archive.writestr("more.txt", "x")
    with pytest.raises(InputError, match=f"is another file than the one fetched before: .* expected sha256:{first}"):
        fetch.fetch("dcic-pig", str(shelf))
    assert (cache() / "dcic-pig.npz").read_bytes() == before
    (cache() / "dcic-pig.npz").unlink()
    with archives.served(shelf) as (url, _), pytest.raises(InputError, match="fetched before"):
        fetch.fetch("dcic-pig", url)
    assert fetch.fetch("dcic-pig", str(shelf), (sha256(shelf / "Pig.zip"),))
    assert fetch.record(cache() / "dcic-pig.npz")["sha256"] == {"Pig.zip": sha256(shelf / "Pig.zip")}


def test_a_checksum_that_no_file_has_is_refused(shelf):
    pigs(shelf)
    with pytest.raises(InputError, match=f"{'0' * 64}, which is the checksum of none of Pig.zip"):
        fetch.fetch("dcic-pig", str(shelf), ("0" * 64,))
    assert left() == []


def test_a_set_that_is_there_is_not_downloaded_again(bhl, shelf):
    (digest,) = mice(shelf)
    with archives.served(shelf) as (url, requests):
        assert fetch.fetch("micebone", url, (digest,))
        written = (cache() / "micebone.npz").stat().st_mtime_ns
        for arguments in ((url,), (url, (digest,)), ()):
            assert not fetch.fetch("micebone", *arguments)
        assert len(requests) == 1
        done = bhl("data", "fetch", "micebone")
        assert "is there already; remove it to fetch it again" in done.stdout
        assert all(part in done.stdout for part in (digest, "licence: CC BY-SA 4.0", "citation: "))
        assert not fetch.fetch("micebone", str(shelf))
        assert (cache() / "micebone.npz").stat().st_mtime_ns == written
        (cache() / "micebone.npz").unlink()
        assert fetch.fetch("micebone", url)
        assert len(requests) == 2


def test_a_refused_archive_leaves_the_set_that_is_there(shelf):
    fetch.fetch("micebone", str(shelf), mice(shelf))
    before = {path.name: path.read_bytes() for path in cache().iterdir()}
    digests = mice(shelf, **{NOTES: b"[]"})
    with pytest.raises(InputError, match="expected a list of annotation sets"):
        fetch.fetch("micebone", str(shelf), digests)
    assert {path.name: path.read_bytes() for path in cache().iterdir()} == before


# Where files come from and go to


@pytest.mark.parametrize(
    ("name", "origin", "message"),
    [
        ("mnist", None, "there is no published set 'mnist', expected one of micebone, cifar10h"),
        ("micebone", "nowhere", r"--from is 'nowhere', expected that file, or a folder that holds MiceBone\.zip"),
        ("cifar10h", "{shelf}", r"expected a folder that holds cifar10h-counts\.npy and cifar-10-binary\.tar\.gz"),
    ],
)
def test_what_cannot_be_found_is_named_with_what_was_expected(shelf, name, origin, message):
    with pytest.raises(InputError, match=message):
        fetch.fetch(name, origin and origin.format(shelf=shelf))
    assert left() == []


@pytest.mark.parametrize("digest", ["", "abc", "md5:" + "0" * 60, "g" * 64])
def test_a_checksum_that_is_none_is_refused(digest):
    with pytest.raises(InputError, match="expected 64 hexadecimal digits"):
        fetch.fetch("micebone", None, (digest,))


@pytest.mark.parametrize("end", ["", "/", "/MiceBone.zip"])
def test_an_address_may_be_that_of_the_folder_or_of_the_file(shelf, end):
    digests = mice(shelf)
    with archives.served(shelf) as (url, requests):
        fetch.fetch("micebone", url + end, digests)
    assert [path for path, _ in requests] == ["/MiceBone.zip"]


def test_a_cache_that_cannot_be_written_to_is_named(bhl, shelf):
    """Nobody can write into /proc, not even root, for whom permissions do not count."""
    mice(shelf)
    done = bhl("data", "fetch", "micebone", "--from", shelf, BHL_DATA_DIR="/proc/sets")
    assert done.returncode == 2
    assert "micebone cannot be put into the data cache /proc/sets, which must be writable" in done.stderr
    assert "BHL_DATA_DIR names another folder" in done.stderr


def test_a_disk_that_is_full_leaves_the_set_that_is_there(shelf, monkeypatch):
    fetch.fetch("micebone", str(shelf), mice(shelf))
    before = (cache() / "micebone.npz").read_bytes()

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    digests = mice(shelf, more=b"x")
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match="No space left on device"):
        fetch.fetch("micebone", str(shelf), digests)
    assert (cache() / "micebone.npz").read_bytes() == before
    assert left() == ["micebone.json", "micebone.npz"]


def test_a_record_that_is_none_is_named(shelf):
    fetch.fetch("micebone", str(shelf), mice(shelf))
    for text in ("{", "[]", "{}"):
        (cache() / "micebone.json").write_text(text)
        with pytest.raises(InputError, match=r"micebone\.json is no record of a fetched set, remove it"):
            fetch.fetch("micebone")


# What is known of the sets


@pytest.mark.parametrize("name", known.SETS)
def test_a_published_set_states_where_it_is_and_whose_it_is(name):
    source = known.SETS[name]
    for address, checksum in source.files.items():
        assert address.startswith("https://") or checksum
        assert re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum) or name.startswith("dcic-")
    assert all([*source.attribution.values(), source.words])
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in source.pixels)
    assert (source.name, sets.NAME.fullmatch(name)[0]) == (name, name)


def test_help_names_every_published_set(bhl):
    shown = bhl("data", "fetch", "--help").stdout
    assert set(known.SETS) <= set(shown.split())


def test_a_machine_without_a_downloader_describes_a_set_and_reads_a_local_one(shelf):
    mice(shelf)
    program = (
        "import sys\nsys.modules.update(dict.fromkeys(('pooch', 'requests', 'urllib3')))\n"
        "from beyond_hard_labels.cli import main\n"
        f"sys.exit(main({['data', 'fetch', 'micebone', '--from', str(shelf), '--sha256', *mice(shelf)]!r})\n"
        "or main(['data', 'describe', 'micebone']))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
