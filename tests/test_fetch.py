import contextlib
import gzip
import hashlib
import io
import json
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

import archives
from beyond_hard_labels import __version__
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import fetch, images, sets
from beyond_hard_labels.runs import study
from conftest import TINY, set_options

SMALL = {name: TINY[name] for name in ("epochs", "batch_size", "splits")}
GOOD = archives.micebone()[0]
NOTES = "MiceBone/annotations.json"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(fetch, "_WAITS", (0, 0))


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


# A set of the benchmark, from the server to the study


def test_micebone_is_fetched_read_split_and_trained_on(bhl, shelf):
    (digest,) = mice(shelf)
    with archives.served(shelf) as (url, requests):
        done = bhl("data", "fetch", "micebone", "--from", url, "--sha256", digest)
        assert done.returncode == 0, done.stderr
        assert all(part in done.stdout for part in (f"{url}/MiceBone.zip", digest, "CC BY-SA 4.0", "Schmarje"))
        assert requests == [("/MiceBone.zip", f"beyond-hard-labels/{__version__}")]
    data, truth = sets.read("micebone"), archives.micebone()[1]
    labels, folds, pixels = map(np.array, zip(*(truth[image_id] for image_id in data.ids), strict=True))
    assert np.array_equal(data.ratings, labels)
    assert np.array_equal(data.fold, folds)
    assert np.array_equal(data.images, pixels[:, None])
    assert data.ratings.dtype == np.int8
    assert np.array_equal(data.truth, data.votes / data.votes.sum(axis=1, keepdims=True))

    for split in (images.random_split(archives.N, 0), images.slice_split(data.fold, 1)):
        assert [len(part) for part in split] == [36, 12, 12]
        assert len(set(np.concatenate(split))) == archives.N

    shown = json.loads(bhl("data", "describe", "micebone", "--json").stdout)
    assert (shown["votes_least"], shown["votes_most"], shown["licence"]) == (8, 81, "CC BY-SA 4.0")
    assert shown["citation"] == fetch.SETS["micebone"].citation
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


def test_fewer_images_have_their_own_ratings_and_folds(shelf):
    fetch.fetch("micebone", str(shelf), mice(shelf))
    data, first = sets.read("micebone"), sets.read("micebone", 20)
    for part in ("images", "truth", "ids", "votes", "ratings", "fold"):
        assert np.array_equal(getattr(first, part), getattr(data, part)[:20])
    assert first.official is None


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
    assert about["licence"] and about["citation"] and about["fetched"]


# The other published sets

CLASSES = 10


def gz(path, content):
    with gzip.open(path, "wb") as file:
        file.write(content)
    return path


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def drawn(n, *shape):
    rng = np.random.default_rng(0)
    counts = rng.multinomial(51, np.full(CLASSES, 0.1), n)
    return counts, rng.integers(0, 256, (n, *shape), np.uint8), rng.integers(0, CLASSES, n, np.uint8)


@pytest.fixture
def fashion(shelf):
    counts, pixels, official = drawn(30, 28, 28)
    (shelf / "fmh_counts.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in counts))
    gz(shelf / "t10k-images-idx3-ubyte.gz", idx(pixels))
    gz(shelf / "t10k-labels-idx1-ubyte.gz", idx(official))
    return counts, pixels, official


def tar(path, members):
    """Write bytes, or an entry of another kind, into a compressed tar archive."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
            else:
                entry.type, entry.linkname = content["kind"], "/etc/passwd"
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)


def batch(pixels, official):
    """Return the bytes of a binary batch: label, red plane, green plane, blue plane, image by image."""
    rows = zip(official, pixels.transpose(0, 3, 1, 2), strict=True)
    return b"".join(bytes([label]) + planes.tobytes() for label, planes in rows)


@pytest.fixture
def cifar(shelf):
    counts, pixels, official = drawn(30, 32, 32, 3)
    np.save(shelf / "cifar10h-counts.npy", counts)
    members = {"cifar-10-batches-bin/data_batch_1.bin": b"x" * 3073, "cifar-10-batches-bin/readme.html": b"x"}
    tar(shelf / "cifar-10-binary.tar.gz", {**members, "cifar-10-batches-bin/test_batch.bin": batch(pixels, official)})
    return counts, pixels, official


def all_of(shelf):
    return tuple(sha256(path) for path in shelf.iterdir())


@pytest.mark.parametrize("name", ["fashion_mnist_h", "cifar10h"])
def test_votes_and_pixels_come_together_from_their_publishers_formats(name, shelf, request):
    counts, pixels, official = request.getfixturevalue({"fashion_mnist_h": "fashion", "cifar10h": "cifar"}[name])
    with archives.served(shelf) as (url, requests):
        fetch.fetch(name, url, all_of(shelf))
    assert len(requests) == len(fetch.SETS[name].files)
    data = sets.read(name)
    assert np.array_equal(data.votes, counts)
    assert np.array_equal(data.official, official)
    assert np.array_equal(data.images, pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2))
    assert data.ids[:2] == (f"{name}-00000", f"{name}-00001")
    assert np.array_equal(sets.read(name, 7).official, official[:7])
    assert study.plan("smoke", dataset=name).shared["image_size"] == pixels.shape[1]


OTHERS = {
    "a table with a row of nine": (
        "fashion_mnist_h",
        lambda shelf: (shelf / "fmh_counts.csv").write_text("1,2,3,4,5,6,7,8,9\n"),
        "fmh_counts.csv is not a table of votes, 1 fault(s):\n  line 1 is '1,2,3,4,5,6,7,8,9', expected ten counts",
    ),
    "a table of shares": (
        "fashion_mnist_h",
        lambda shelf: (shelf / "fmh_counts.csv").write_text("0.5,0.5,0,0,0,0,0,0,0,0\n"),
        "line 1 is '0.5,0.5",
    ),
    "a table of fewer images": (
        "fashion_mnist_h",
        lambda shelf: (shelf / "fmh_counts.csv").write_text("1,2,3,4,5,6,7,8,9,0\n"),
        "counts is int64 (1, 10), expected (30, 10)",
    ),
    "pixels in place of labels": (
        "fashion_mnist_h",
        lambda shelf: gz(shelf / "t10k-labels-idx1-ubyte.gz", idx(np.zeros((3, 28, 28), np.uint8))),
        "t10k-labels-idx1-ubyte.gz holds 2368 bytes that begin with",
    ),
    "fewer pixels than the header says": (
        "fashion_mnist_h",
        lambda shelf: gz(shelf / "t10k-images-idx3-ubyte.gz", idx(np.zeros((30, 28, 28), np.uint8))[:-1]),
        "expected an IDX file of bytes with 3 dimension(s)",
    ),
    "a label beyond the classes": (
        "fashion_mnist_h",
        lambda shelf: gz(shelf / "t10k-labels-idx1-ubyte.gz", idx(np.full(30, 10, np.uint8))),
        "labels is int64 (30,) of 10 to 10, expected whole numbers (30,) of 0 to 9",
    ),
    "a gzip bomb": (
        "fashion_mnist_h",
        lambda shelf: gz(shelf / "t10k-images-idx3-ubyte.gz", bytes(20_000_000)),
        "t10k-images-idx3-ubyte.gz holds more than 7840016 bytes, which is more than the published file does",
    ),
    "a gzip file cut short": (
        "fashion_mnist_h",
        lambda shelf: cut(shelf / "t10k-images-idx3-ubyte.gz", 9000),
        "t10k-images-idx3-ubyte.gz is not a gzip file, or not a whole one",
    ),
    "a pickle for an array": (
        "cifar10h",
        lambda shelf: np.save(shelf / "cifar10h-counts.npy", np.array([{}] * 30, object), allow_pickle=True),
        "cifar10h-counts.npy is not an array of NumPy: Object arrays cannot be loaded",
    ),
    "an array with a broken header": (
        "cifar10h",
        lambda shelf: (shelf / "cifar10h-counts.npy").write_bytes(
            (shelf / "cifar10h-counts.npy").read_bytes().replace(b"}", b"\x00")
        ),
        "cifar10h-counts.npy is not an array of NumPy",
    ),
    "an array that claims to be endless": (
        "cifar10h",
        lambda shelf: (shelf / "cifar10h-counts.npy").write_bytes(
            (shelf / "cifar10h-counts.npy").read_bytes().replace(b"(30, 10), }      ", b"(30000000000, 10)}")
        ),
        "cifar10h-counts.npy is not an array of NumPy",
    ),
    "shares for counts": (
        "cifar10h",
        lambda shelf: np.save(shelf / "cifar10h-counts.npy", np.full((30, 10), 0.1)),
        "counts: votes must be whole numbers",
    ),
    "a batch of another row": (
        "cifar10h",
        lambda shelf: tar(
            shelf / "cifar-10-binary.tar.gz", {"cifar-10-batches-bin/test_batch.bin": bytes(3073 * 30 + 1)}
        ),
        "cifar-10-binary.tar.gz: test_batch.bin has 92191 bytes, expected rows of 3073",
    ),
    "more images than the test set has": (
        "cifar10h",
        lambda shelf: tar(
            shelf / "cifar-10-binary.tar.gz", {"cifar-10-batches-bin/test_batch.bin": bytes(3073 * 10_001)}
        ),
        "test_batch.bin is 30733073 bytes, expected one file of at most 30730000 bytes",
    ),
    "the Python edition of the images": (
        "cifar10h",
        lambda shelf: tar(shelf / "cifar-10-binary.tar.gz", {"cifar-10-batches-py/test_batch": b"x"}),
        "cifar-10-batches-bin/test_batch.bin is none, expected one file",
    ),
    "a tar with a path that leaves it": (
        "cifar10h",
        lambda shelf: tar(shelf / "cifar-10-binary.tar.gz", {"../x": b"x"}),
        "cifar-10-binary.tar.gz is not taken, 1 fault(s):\n  '../x' is a path that leaves the archive",
    ),
    "a tar with a link": (
        "cifar10h",
        lambda shelf: tar(
            shelf / "cifar-10-binary.tar.gz", {"cifar-10-batches-bin/test_batch.bin": {"kind": tarfile.SYMTYPE}}
        ),
        "'cifar-10-batches-bin/test_batch.bin' is a link or a device",
    ),
    "a tar with a device": (
        "cifar10h",
        lambda shelf: tar(shelf / "cifar-10-binary.tar.gz", {"zero": {"kind": tarfile.CHRTYPE}}),
        "'zero' is a link or a device",
    ),
    "a tar cut short": (
        "cifar10h",
        lambda shelf: gz(
            shelf / "cifar-10-binary.tar.gz", gzip.decompress((shelf / "cifar-10-binary.tar.gz").read_bytes())[:30_000]
        ),
        "cifar-10-binary.tar.gz is not a tar archive, or not a whole one",
    ),
}


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(("name", "spoil", "message"), OTHERS.values(), ids=OTHERS)
def test_a_broken_file_of_a_set_is_refused_and_nothing_is_left(name, spoil, message, shelf, request):
    request.getfixturevalue({"fashion_mnist_h": "fashion", "cifar10h": "cifar"}[name])
    spoil(shelf)
    with pytest.raises(InputError) as raised:
        fetch.fetch(name, str(shelf), all_of(shelf))
    assert message in str(raised.value)
    assert left() == []


# Hostile archives


def with_member(shelf, name, content=b"x", mode=None, **flags):
    """Write a MiceBone with a member more."""
    mice(shelf)
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (mode or 0) << 16
    with zipfile.ZipFile(shelf / "MiceBone.zip", "a") as archive:
        archive.writestr(entry, content, **flags)


def patch(shelf, old, new):
    path = shelf / "MiceBone.zip"
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def encrypted(shelf):
    """Set the first bit of the flags in the directory of the archive."""
    mice(shelf)
    content = bytearray((shelf / "MiceBone.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (shelf / "MiceBone.zip").write_bytes(content)


def lying(shelf):
    """Say in all headers of a member of ten million zeros that it has a hundred."""
    mice(shelf, **{"MiceBone/fold1/bomb.png": bytes(10_000_000)})
    patch(shelf, (10_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))


def changed_byte(shelf):
    """Change a byte of the first image, after its compression."""
    mice(shelf)
    content = bytearray((shelf / "MiceBone.zip").read_bytes())
    content[2000] ^= 255
    (shelf / "MiceBone.zip").write_bytes(content)


HOSTILE = {
    "a path that leaves the archive": (
        lambda shelf: with_member(shelf, "../evil.png"),
        "MiceBone.zip is not taken, 1 fault(s):\n  '../evil.png' is a path that leaves the archive",
    ),
    "one that leaves by backslashes": (
        lambda shelf: with_member(shelf, "a\\..\\..\\evil.png"),
        "is a path that leaves the archive",
    ),
    "an absolute path": (lambda shelf: with_member(shelf, "/tmp/evil.png"), "'/tmp/evil.png' is an absolute path"),
    "a path with a drive": (lambda shelf: with_member(shelf, "C:/evil.png"), "'C:/evil.png' is an absolute path"),
    "a name with control characters": (
        lambda shelf: with_member(shelf, "\x1b[2Jx"),
        "'\\x1b[2Jx' is a name that cannot be printed",
    ),
    "a member without a name": (
        lambda shelf: [mice(shelf, xyz=b""), patch(shelf, b"xyz", b"\x00yz")],
        "'' is a name that cannot be printed",
    ),
    "a link": (
        lambda shelf: with_member(shelf, "MiceBone/fold1/x.png", b"/etc/passwd", stat.S_IFLNK | 0o777),
        "'MiceBone/fold1/x.png' is a link or a device",
    ),
    "a device": (lambda shelf: with_member(shelf, "zero", b"", stat.S_IFCHR | 0o666), "'zero' is a link or a device"),
    "an encrypted member": (encrypted, " is encrypted"),
    "a method of compression with no bound": (
        lambda shelf: with_member(shelf, "x.png", compress_type=zipfile.ZIP_LZMA),
        "'x.png' is compressed by another method than deflate",
    ),
    "an image of many megabytes": (
        lambda shelf: mice(shelf, **{"MiceBone/fold1/bomb.png": bytes(5_000_000)}),
        "'MiceBone/fold1/bomb.png' is 5000000 bytes large, expected at most 4194304",
    ),
    "a bomb whose header lies": (lying, "MiceBone/fold1/bomb.png: the image cannot be read: Bad CRC-32"),
    "an archive cut short": (
        lambda shelf: [mice(shelf), cut(shelf / "MiceBone.zip", 50_000)],
        "MiceBone.zip is not a zip archive, or not a whole one",
    ),
    "a member with a changed byte": (
        changed_byte,
        f"{next(iter(GOOD))}: the image cannot be read: ",
    ),
    "an empty file": (lambda shelf: (shelf / "MiceBone.zip").write_bytes(b""), "MiceBone.zip is not a zip archive"),
    "an archive without members": (
        lambda shelf: archives.pack(shelf / "MiceBone.zip", {}),
        "MiceBone.zip holds no annotations.json, expected MiceBone/annotations.json",
    ),
    "annotations that are none": (
        lambda shelf: mice(shelf, **{NOTES: b'[{"annotations": 1}]'}),
        "MiceBone/annotations.json: [0] is no annotation set",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_left(spoil, message, shelf, tmp_path):
    spoil(shelf)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as raised:
        fetch.fetch("micebone", str(shelf), all_of(shelf))
    assert message in str(raised.value)
    assert left() == []
    assert sorted(path for path in tmp_path.rglob("*") if path not in (cache(), cache() / ".micebone.lock")) == before


@pytest.mark.parametrize(
    ("bound", "value", "message"),
    [("MOST_MEMBERS", 60, "61 members, expected at most 60"), ("MOST_BYTES", 10_000, "bytes in all, expected at most")],
)
def test_an_archive_beyond_the_bounds_of_all_members_is_refused(shelf, monkeypatch, bound, value, message):
    digests = mice(shelf)
    monkeypatch.setattr(fetch, bound, value)
    with pytest.raises(InputError, match=message):
        fetch.fetch("micebone", str(shelf), digests)
    assert left() == []


# Servers


class Failing(SimpleHTTPRequestHandler):
    """Fails as often as `failures` says, in the way that `how` says, then serves."""

    failures = 1

    def do_GET(self):
        if type(self).failures:
            type(self).failures -= 1
            return self.fail()
        return super().do_GET()


def failing(times, fail):
    return type("OneFailing", (Failing,), {"failures": times, "fail": fail})


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
def test_a_download_that_fails_on_the_way_is_tried_again(shelf, fail, capsys):
    digests = mice(shelf)
    with archives.served(shelf, failing(2, fail)) as (url, requests):
        fetch.fetch("micebone", url, digests)
    assert len(requests) == 3
    assert capsys.readouterr().err.count("trying again in 0 s") == 2
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
    assert str(raised.value) == f"{url}/MiceBone.zip: the server sent a page, not an archive: {title}"
    assert len(requests) == 1
    assert left() == []


def test_a_page_that_was_saved_for_an_archive_is_recognised(shelf):
    (shelf / "MiceBone.zip").write_text("<html><title>Record not found</title>")
    with pytest.raises(InputError, match=r"MiceBone\.zip: this is a page, not an archive: Record not found"):
        fetch.fetch("micebone", str(shelf))


def test_a_file_is_kept_as_it_is_though_the_server_calls_its_compression_an_encoding(shelf, fashion):
    class Encoding(SimpleHTTPRequestHandler):
        def end_headers(self):
            self.send_header("Content-Encoding", "gzip")
            super().end_headers()

    with archives.served(shelf, Encoding) as (url, _):
        fetch.fetch("fashion_mnist_h", url, all_of(shelf))
    assert np.array_equal(sets.read("fashion_mnist_h").votes, fashion[0])


def test_a_download_without_an_end_is_stopped(shelf, monkeypatch):
    digests = mice(shelf)
    monkeypatch.setattr(fetch, "MOST_BYTES", 1000)
    with archives.served(shelf) as (url, _), pytest.raises(InputError, match="is larger than 1000 bytes"):
        fetch.fetch("micebone", url, digests)
    assert left() == []


# Checksums


def test_a_file_with_another_checksum_than_the_published_one_is_refused_unless_it_is_named(shelf):
    (digest,) = mice(shelf)
    with archives.served(shelf) as (url, _):
        with pytest.raises(InputError) as raised:
            fetch.fetch("micebone", url)
        assert "is another file than the one published: its md5 is" in str(raised.value)
        assert "expected 8a4026c22f07373f022d9ab4818089ec" in str(raised.value)
        assert f"add --sha256 {digest}" in str(raised.value)
        with pytest.raises(InputError, match=r"another file.* add --sha256"):
            fetch.fetch("micebone", url, ("0" * 64,))
        assert left() == []
        assert fetch.fetch("micebone", url, (digest.upper(),))
    assert left() == ["micebone.json", "micebone.npz"]


def test_without_a_published_checksum_the_first_one_is_kept_and_compared(shelf):
    archives.pack(shelf / "Pig.zip", {name.replace("MiceBone", "Pig"): content for name, content in GOOD.items()})
    first = sha256(shelf / "Pig.zip")
    assert fetch.fetch("dcic-pig", str(shelf))
    before = (cache() / "dcic-pig.npz").read_bytes()
    assert fetch.record(cache() / "dcic-pig.npz")["sha256"] == {"Pig.zip": first}
    with zipfile.ZipFile(shelf / "Pig.zip", "a") as archive:
        archive.writestr("more.txt", "x")
    with pytest.raises(InputError, match=f"is another file than the one fetched before: .* expected {first}"):
        fetch.fetch("dcic-pig", str(shelf))
    assert (cache() / "dcic-pig.npz").read_bytes() == before
    (cache() / "dcic-pig.npz").unlink()
    with archives.served(shelf) as (url, _), pytest.raises(InputError, match="fetched before"):
        fetch.fetch("dcic-pig", url)
    assert fetch.fetch("dcic-pig", str(shelf), (sha256(shelf / "Pig.zip"),))
    assert fetch.record(cache() / "dcic-pig.npz")["sha256"] == {"Pig.zip": sha256(shelf / "Pig.zip")}


def test_a_checksum_that_no_file_has_is_refused(shelf):
    archives.pack(shelf / "Pig.zip", {name.replace("MiceBone", "Pig"): content for name, content in GOOD.items()})
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
        ("mnist", None, "there is no published set 'mnist', expected one of micebone, dcic-benthic"),
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


@pytest.mark.parametrize("name", fetch.SETS)
def test_a_published_set_states_where_it_is_and_whose_it_is(name):
    source = fetch.SETS[name]
    for address, checksum in source.files.items():
        assert address.startswith(("https://", "http://fashion-mnist.s3-website"))
        digits = {"md5": 32, "sha256": 64}
        kind, _, digest = checksum.partition(":")
        assert not checksum or (len(digest) == digits[kind] and not set(digest) - set("0123456789abcdef"))
        assert checksum or name.startswith("dcic-")
    assert source.licence and source.citation
    assert sets._NAME.fullmatch(name)


def test_help_names_every_published_set(bhl):
    shown = bhl("data", "fetch", "--help").stdout
    assert set(fetch.SETS) <= set(shown.split())


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


def test_an_interrupted_download_leaves_nothing(shelf, monkeypatch):
    digests = mice(shelf)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_verify", interrupt)
    with archives.served(shelf) as (url, _), contextlib.suppress(KeyboardInterrupt):
        fetch.fetch("micebone", url, digests)
    assert left() == []
