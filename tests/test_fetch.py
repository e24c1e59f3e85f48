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


def pigs(shelf, **changes):
    """Put a small set of pigs on the shelf, of which no checksum is published; return its checksum."""
    members = {name.replace("MiceBone", "Pig"): content for name, content in GOOD.items()}
    return sha256(archives.pack(shelf / "Pig.zip", members, **changes))


# A set of the benchmark, from the server to the study


def test_micebone_is_fetched_read_split_and_trained_on(bhl, shelf):
    (digest,) = mice(shelf)
    with archives.served(shelf) as (url, requests):
        done = bhl("data", "fetch", "micebone", "--from", url, "--sha256", digest)
        assert done.returncode == 0, done.stderr
        assert all(part in done.stdout for part in (f"{url}/MiceBone.zip", digest, "CC BY-SA 4.0", "Schmarje"))
        again = bhl("data", "fetch", "micebone")
        assert "is there already; remove it to fetch it again" in again.stdout
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


def test_the_same_archive_gives_the_same_file_and_beside_it_lies_where_it_comes_from(shelf, tmp_path, monkeypatch):
    (digest,), prints = mice(shelf), []
    for place in ("one", "two"):
        monkeypatch.setenv("BHL_DATA_DIR", str(tmp_path / place))
        assert fetch.fetch("micebone", str(shelf), (digest,))
        prints.append(sets.fingerprint("micebone"))
        assert left() == ["micebone.json", "micebone.npz"]
    assert prints[0] == prints[1]
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
    np.savez_compressed(cache() / "micebone.npz", **np.load(cache() / "micebone.npz"))
    assert fetch.about("micebone") == {}  # the record is of another file


def test_without_a_published_checksum_a_set_is_attributed_if_it_comes_from_the_published_address(shelf, monkeypatch):
    pigs(shelf)
    fetch.fetch("dcic-pig", str(shelf))
    assert "licence" not in fetch.about("dcic-pig")
    for path in cache().glob("dcic-pig.*"):
        path.unlink()
    with archives.served(shelf) as (url, _):
        monkeypatch.setitem(known.SETS, "dcic-pig", replace(known.SETS["dcic-pig"], files={f"{url}/Pig.zip": None}))
        fetch.fetch("dcic-pig")
    assert fetch.about("dcic-pig")["title"] == "Pig"


# The other published sets

CLASSES = 10
VOTES, PIXELS, LABELS = "fmh_counts.csv", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
COUNTS, IMAGES, BATCH = "cifar10h-counts.npy", "cifar-10-binary.tar.gz", "cifar-10-batches-bin/test_batch.bin"


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
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
        rows = zip(official, pixels.transpose(0, 3, 1, 2), strict=True)  # label, red plane, green plane, blue plane
        batch = b"".join(bytes([label]) + planes.tobytes() for label, planes in rows)
        more = {"cifar-10-batches-bin/data_batch_1.bin": b"x" * 3073, "cifar-10-batches-bin/readme.html": b"x"}
        (shelf / IMAGES).write_bytes(tar(more | {BATCH: batch}))
    return counts, pixels, official


def all_of(shelf):
    return tuple(sha256(path) for path in shelf.iterdir())


class Encoding(SimpleHTTPRequestHandler):
    """A server that calls the compression of a file an encoding."""

    def end_headers(self):
        self.send_header("Content-Encoding", "gzip")
        super().end_headers()


@pytest.mark.parametrize(("name", "handler"), [("fashion_mnist_h", Encoding), ("cifar10h", SimpleHTTPRequestHandler)])
def test_votes_and_pixels_come_together_from_their_publishers_formats(name, handler, shelf):
    counts, pixels, official = stock(shelf, name)
    with archives.served(shelf, handler) as (url, requests):
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


ZEROS = np.zeros((30, 28, 28), np.uint8)
OTHERS = {  # a file, its content or a change of it, and what is said of it
    "a row of nine": (VOTES, b"1,2,3,4,5,6,7,8,9\n", "expected (N, 10), one column a class"),
    "a short row": (VOTES, b"1,2\n3\n", f"{VOTES} cannot be read as a table of whole numbers"),
    "a table of shares": (VOTES, b"0.5,0.5,0,0,0,0,0,0,0,0\n", f"{VOTES} cannot be read as a table of whole numbers"),
    "too much": (VOTES, b"9" * 30 + b",0,0,0,0,0,0,0,0,0\n", f"{VOTES} cannot be read as a table of whole numbers"),
    "votes of fewer images": (VOTES, b"1,2,3,4,5,6,7,8,9,0\n", "truth is (1, 10), expected 30 rows"),
    "pixels for labels": (LABELS, gzip.compress(idx(ZEROS[:3])), f"{LABELS} cannot be read as a gzipped IDX file"),
    "fewer pixels than said": (PIXELS, gzip.compress(idx(ZEROS)[:-1]), "IDX file of bytes with 3 dimension"),
    "a label of no class": (LABELS, gzip.compress(idx(np.full(30, 10, np.uint8))), "labels is int64 (30,), expected"),
    "a gzip bomb": (PIXELS, lambda _: gzip.compress(bytes(20_000_000)), f"{PIXELS}: it holds more than 7840016 bytes"),
    "a gzip file cut short": (PIXELS, lambda whole: whole[:9000], f"{PIXELS} cannot be read as a gzipped IDX file"),
    "a pickle": (COUNTS, npy(np.array([{}] * 30, object)), "as an array of NumPy: Object arrays cannot be loaded"),
    "a broken header": (COUNTS, lambda whole: whole.replace(b"}", b"\x00"), f"{COUNTS} cannot be read as an array of"),
    "an array without end": (
        COUNTS,
        lambda whole: whole.replace(b"(30, 10), }      ", b"(30000000000, 10)}"),
        f"{COUNTS} cannot be read as an array of NumPy",
    ),
    "shares for counts": (COUNTS, npy(np.full((30, 10), 0.1)), "votes must be whole numbers"),
    "a batch of another row": (IMAGES, tar({BATCH: bytes(3073 * 30 + 1)}), "[92191], expected one of 1 to 10000 rows"),
    "too many images": (IMAGES, lambda _: tar({BATCH: bytes(3073 * 10_001)}), "[30733073], expected one of 1 to 10000"),
    "the Python edition": (
        IMAGES,
        tar({"cifar-10-batches-py/test_batch": b"x"}),
        f"sizes of {BATCH}: [], expected one",
    ),
    "a path out of a tar": (IMAGES, tar({"../x": b"x"}), f"{IMAGES}: '../x' is a path out of the archive"),
    "a link in a tar": (IMAGES, tar({BATCH: [tarfile.SYMTYPE]}), f"'{BATCH}' is a link or a device"),
    "a device in a tar": (IMAGES, tar({"zero": [tarfile.CHRTYPE]}), "'zero' is a link or a device"),
    "a tar cut short": (
        IMAGES,
        lambda whole: gzip.compress(gzip.decompress(whole)[:30_000]),
        f"{IMAGES} cannot be read as a gzipped tar archive",
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
TEN_MILLION, HUNDRED = (10_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")
FIRST = next(iter(GOOD))
LIES = archives.pack(io.BytesIO(), GOOD, **{FIRST: bytes(10_000_000)}).getvalue().replace(TEN_MILLION, HUNDRED)
LINK, DEVICE = stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o666
HOSTILE = {
    "a path that leaves it": (with_member("../evil.png"), "MiceBone.zip: '../evil.png' is a path out of the archive"),
    "one by backslashes": (with_member("a\\..\\..\\evil.png"), "is a path out of the archive"),
    "an absolute path": (with_member("/tmp/evil.png"), "'/tmp/evil.png' is a path out of the archive"),
    "a path with a drive": (with_member("C:/evil.png"), "'C:/evil.png' is a path out of the archive"),
    "control characters": (with_member("\x1b[2Jx"), "'\\x1b[2Jx' is a name that cannot be printed"),
    "a member without a name": (with_member("xyz").replace(b"xyz", b"\x00yz"), "'' is a name that cannot be printed"),
    "a link": (with_member("MiceBone/fold1/x.png", b"/etc/passwd", LINK), "fold1/x.png' is a link or a device"),
    "a device": (with_member("zero", b"", DEVICE), "'zero' is a link or a device"),
    "an encrypted member": (flipped(MICE, MICE.index(b"PK\x01\x02") + 8, 1), " is encrypted, or "),
    "a method with no bound": (
        with_member("x.png", compress_type=zipfile.ZIP_LZMA),
        "'x.png' is encrypted, or compres",
    ),
    "an image of megabytes": (
        with_member(BOMB, bytes(5_000_000)),
        f"'{BOMB}' is 5000000 bytes large, expected at most",
    ),
    "a bomb whose headers lie": (LIES, f"{FIRST}: the image cannot be read: Bad CRC-32"),
    "an archive cut short": (MICE[:50_000], "MiceBone.zip cannot be read as a zip archive: "),
    "a changed byte": (flipped(MICE, 2000, 255), f"{FIRST}: the image cannot be read: "),
    "an empty file": (b"", "MiceBone.zip cannot be read as a zip archive"),
    "no members": (archives.pack(io.BytesIO(), {}).getvalue(), "MiceBone.zip: it holds no annotations.json, expected"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_left(content, message, shelf, tmp_path):
    (shelf / "MiceBone.zip").write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as raised:
        fetch.fetch("micebone", str(shelf), all_of(shelf))
    assert message in str(raised.value)
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


@pytest.mark.parametrize("fail", [drop, lambda handler: handler.send_error(503)], ids=["dropped", "busy"])
def test_a_download_that_fails_is_tried_again_and_named_if_that_does_not_help(shelf, fail):
    digests = mice(shelf)
    with archives.served(shelf, failing(9, fail)) as (url, requests):
        with pytest.raises(InputError, match=rf"{url}/MiceBone\.zip cannot be fetched: .*--from names a copy"):
            fetch.fetch("micebone", url, digests)
        assert (len(requests), left()) == (3, [])
    with archives.served(shelf, failing(2, fail)) as (url, requests):
        assert fetch.fetch("micebone", url, digests)
        assert (len(requests), left()) == (3, ["micebone.json", "micebone.npz"])


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://nowhere.invalid", "http://[", "https://127.0.0.1:9/x"])
def test_an_address_without_a_server_is_named(url):
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch.fetch("micebone", url)
    assert left() == []


@pytest.mark.parametrize("page", ["<!DOCTYPE html>\n<html>", '\ufeff <?xml version="1.0"?>'], ids=["HTML", "XHTML"])
def test_a_page_in_place_of_an_archive_is_recognised(shelf, page):
    (shelf / "Pig.zip").write_text(page)
    with archives.served(shelf) as (url, _):
        for origin in (url, str(shelf)):
            with pytest.raises(InputError, match=r"Pig\.zip is a page of the web, and not the file"):
                fetch.fetch("dcic-pig", origin)
    assert left() == []


# Checksums


def test_a_file_with_another_checksum_than_the_published_one_is_refused_unless_it_is_named(shelf):
    (digest,) = mice(shelf)
    with archives.served(shelf) as (url, _):
        for accepted in ((), ("0" * 64,), ("",)):
            with pytest.raises(InputError) as raised:
                fetch.fetch("micebone", url, accepted)
            assert "is another file than the one expected: it is md5:" in str(raised.value)
            assert "expected md5:8a4026c22f07373f022d9ab4818089ec" in str(raised.value)
            assert f"add --sha256 {digest}" in str(raised.value)
        assert left() == []
        assert fetch.fetch("micebone", url, (digest.upper(),))
    assert left() == ["micebone.json", "micebone.npz"]


def test_without_a_published_checksum_the_one_asked_for_or_the_first_one_counts_ever_after(shelf):
    first = pigs(shelf)
    with pytest.raises(InputError, match=f"is another file than the one expected: .*{first}, expected {'0' * 64}"):
        fetch.fetch("dcic-pig", str(shelf), ("0" * 64,))
    assert left() == []
    assert fetch.fetch("dcic-pig", str(shelf))
    assert not fetch.fetch("dcic-pig", str(shelf))
    (cache() / "dcic-pig.npz").unlink()
    second = pigs(shelf, more=b"x")
    with archives.served(shelf) as (url, _):
        for origin in (url, str(shelf)):
            with pytest.raises(InputError, match=f"than the one fetched before: .* expected sha256:{first}"):
                fetch.fetch("dcic-pig", origin)
    assert fetch.fetch("dcic-pig", str(shelf), (second,))
    assert sets.record(cache() / "dcic-pig.npz")["sha256"] == {"Pig.zip": second}


# Where files come from and go to


@pytest.mark.parametrize(
    ("name", "origin", "message"),
    [
        ("mnist", None, "there is no published set 'mnist', expected one of micebone, cifar10h"),
        ("micebone", "nowhere", r"--from is 'nowhere', expected a folder that holds MiceBone\.zip"),
        ("cifar10h", "{shelf}", r"expected a folder that holds cifar10h-counts\.npy and cifar-10-binary\.tar\.gz"),
    ],
)
def test_what_cannot_be_found_is_named_with_what_was_expected(shelf, name, origin, message):
    with pytest.raises(InputError, match=message):
        fetch.fetch(name, origin and origin.format(shelf=shelf))
    assert left() == []


@pytest.mark.parametrize("end", ["/", "/MiceBone.zip"])
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


def test_a_record_that_is_none_is_named(shelf):
    fetch.fetch("micebone", str(shelf), mice(shelf))
    for text in ("{", "[1]", '{"made": 1}'):
        (cache() / "micebone.json").write_text(text)
        with pytest.raises(InputError, match=r"micebone\.json is no record of a fetched set, remove it"):
            sets.record(cache() / "micebone.npz")


# What is known of the sets


@pytest.mark.parametrize("name", known.SETS)
def test_a_published_set_states_where_it_is_and_whose_it_is(name):
    source = known.SETS[name]
    for address, checksum in source.files.items():
        assert address.startswith("https://") or checksum
        assert checksum or name.startswith("dcic-") or "kaggle.com" in address  # which gives files to its users only
        assert re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}|None", str(checksum))
    assert all([*source.attribution.values(), source.words])
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in source.pixels)
    assert (source.name, sets.NAME.fullmatch(name)[0]) == (name, name)


def test_help_names_every_published_set(bhl):
    shown = bhl("data", "fetch", "--help").stdout
    assert set(known.SETS) <= set(shown.split())


def test_a_machine_without_a_downloader_describes_a_set_and_reads_a_local_one(shelf):
    program = (
        "import sys\nsys.modules.update(dict.fromkeys(('pooch', 'requests', 'urllib3')))\n"
        "from beyond_hard_labels.cli import main\n"
        f"sys.exit(main({['data', 'fetch', 'micebone', '--from', str(shelf), '--sha256', *mice(shelf)]!r})\n"
        "or main(['data', 'describe', 'micebone']))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_fer_plus_is_read_from_its_two_tables_without_what_cannot_be_told_apart(tmp_path):
    names = ["fer0000000.png", "", "fer0000002.png", "fer0000003.png", "fer0000003.png", "fer0000005.png"]
    names += [f"fer000000{i}.png" for i in range(6, 12)]
    emotions = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"]
    cast = [[0] * 10 for _ in names]
    for i, row in enumerate(cast):
        row[i % 8] += 9
        row[9] += 1
    cast[2] = [0] * 8 + [6, 4]  # nobody saw an emotion
    usage = ["Training"] * 10 + ["PublicTest", "PrivateTest"]
    rows = [",".join(map(str, [use, name, *row])) for use, name, row in zip(usage, names, cast, strict=True)]
    (tmp_path / "fer2013new.csv").write_text("\n".join([",".join(["Usage", "Image name", *emotions]), *rows]) + "\n")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 48, 48))
    rows = [f"{i % 7},{' '.join(map(str, image.ravel()))},{usage[i]}" for i, image in enumerate(pixels)]
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n" + "\n".join(rows) + "\n")
    own = [hashlib.sha256((tmp_path / f"{name}.csv").read_bytes()).hexdigest() for name in ("fer2013new", "fer2013")]
    assert fetch.fetch("ferplus", str(tmp_path), own)
    data, kept = sets.read("ferplus"), [0, 5, 6, 7, 8, 9, 10, 11]
    assert data.ids == tuple(names[i] for i in kept)
    assert np.array_equal(data.images[:, 0], pixels[kept])
    assert np.array_equal(data.votes, np.array(cast)[kept, :8])
    assert data.fold.tolist() == [1, 1, 1, 1, 1, 1, 2, 3]
    order = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]  # that of FER2013
    assert [data.class_names[c] for c in data.official] == [order[i % 7] for i in kept]
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n" + "\n".join(rows[:-1]) + "\n")
    for made in sets.folders()[1].glob("ferplus.*"):
        made.unlink()
    own.append(hashlib.sha256((tmp_path / "fer2013.csv").read_bytes()).hexdigest())
    with pytest.raises(InputError, match=r"fer2013\.csv: it has 11 rows, expected 12"):
        fetch.fetch("ferplus", str(tmp_path), own)
