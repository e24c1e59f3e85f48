"""Packs: what is carried lands bit by bit, or not at all."""

import io
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.runs import packing
from beyond_hard_labels.runs import store as run_store
from beyond_hard_labels.runs.ensure import ensure
from beyond_hard_labels.runs.study import plan
from conftest import TINY, remade, set_options

WITHOUT_WEIGHTS = 450_000  # bytes of a pack in which there is room for the results of both runs
OPTIONS = ["--profile", "smoke", *set_options(**(TINY | {"epochs": 1}))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A build folder with both runs of a tiny study."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHL_BUILD_DIR", str(folder))
        ensure(plan("smoke", **(TINY | {"epochs": 1})), executor=ThreadPoolExecutor(1))
    return folder


def specs():
    return plan("smoke", **(TINY | {"epochs": 1})).specs()


def keys():
    return [spec.key for spec in specs()]


@pytest.fixture
def store(trained):
    """This test's own build folder, with both runs in it."""
    return shutil.copytree(trained / "runs", paths.build_folder() / "runs")


@pytest.fixture
def parts(store, tmp_path, monkeypatch):
    """A pack of several files, which cut members in two."""
    monkeypatch.setattr(packing, "PART_BYTES", 600_000)
    return packing.pack(specs(), tmp_path / "pack").parts


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_packed_is_unpacked_bit_by_bit_in_any_order_and_counts_as_trained(parts, store, tmp_path, monkeypatch):
    assert 2 < len(parts) <= packing.MOST_PARTS
    assert max(part.stat().st_size for part in parts) <= packing.PART_BYTES
    before = content(store)
    shutil.rmtree(store)
    assert set(packing.unpack(parts[::-1]).values()) == {"put into the store"}
    assert content(store) == before
    assert all(run_store.find(spec) for spec in specs())
    assert list(store.parent.rglob(".*")) == []
    monkeypatch.setattr(packing, "PART_BYTES", 16 << 20)  # an older pack leaves no file behind
    packing.pack(specs(), tmp_path / "pack.tar")
    assert [path.name for path in tmp_path.glob("*pack*")] == ["pack.tar.0"]
    assert set(packing.unpack([tmp_path / "pack.tar.0"]).values()) == {"here already"}


def test_weights_without_room_are_named_and_the_run_is_there_without_them(store, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "PART_BYTES", WITHOUT_WEIGHTS // packing.MOST_PARTS)
    less = packing.pack(specs(), tmp_path / "less")
    assert less.left_out == [f"runs/{key}/weights.safetensors" for key in keys()]
    shutil.rmtree(store)
    packing.unpack(less.parts)
    run = run_store.find(specs()[0])
    assert "weights.safetensors" not in run.files
    assert run.features.shape == (20, 96)
    again = packing.pack(specs(), tmp_path / "again")  # and so it travels on
    assert (again.names, again.left_out) == (less.names, [])


def test_a_run_that_is_too_big_is_left_out_as_a_whole_and_said(store, tmp_path, monkeypatch):
    one = sum(path.stat().st_size for path in (store / keys()[0]).glob("[!w]*"))
    monkeypatch.setattr(packing, "PART_BYTES", (tarfile.RECORDSIZE + 6000 + one) // packing.MOST_PARTS)
    packed = packing.pack(specs(), tmp_path / "pack")
    assert {name.split("/")[1] for name in packed.names} == {keys()[0]}
    assert f"runs/{keys()[1]}/predictions.npz" in packed.left_out


def test_a_fresh_run_stays_whatever_is_in_the_pack_and_a_stale_one_is_replaced(parts, store):
    kept, stale = (store / key for key in keys())
    expected = content(stale)
    np.savez(kept / "features.npz", test=np.zeros((20, 96), np.float32))
    remade(kept)
    remade(stale, code={})
    before = content(kept)
    said = packing.unpack(parts)
    assert said == {f"runs/{kept.name}": "here already", f"runs/{stale.name}": "put into the store"}
    assert (content(kept), content(stale)) == (before, expected)


def test_the_last_checkpoint_of_an_unfinished_run_travels_and_never_replaces_one_that_is_farther(store, tmp_path):
    done, begun = specs()
    shutil.rmtree(store / begun.key)
    folder = store.parent / "checkpoints" / begun.key
    for name in ("000001-000002", "000001-000004"):
        files.write(folder / f"{name}.safetensors", name.encode())
        about = {"spec": vars(begun), "sha256": files.checksum(folder / f"{name}.safetensors")}
        files.write_json(folder / f"{name}.json", about, sealed=True)
    last = {name: found for name, found in content(folder).items() if "000004" in name}
    packed = packing.pack(specs(), tmp_path / "pack")
    shutil.rmtree(folder)
    said = packing.unpack(packed.parts)
    assert content(folder) == last
    assert said == {f"runs/{done.key}": "here already", f"checkpoints/{begun.key}": "put into the store"}
    for file in list(folder.iterdir()):
        file.rename(file.with_name(file.name.replace("000004", "000009")))
    assert packing.unpack(packed.parts)[f"checkpoints/{begun.key}"] == "here already"
    assert set(content(folder)) == {"000001-000009.json", "000001-000009.safetensors"}


def refused(parts, store, match):
    """Unpacking is refused, and the store is as it was."""
    shutil.rmtree(store)
    with pytest.raises(InputError, match=match):
        packing.unpack(parts)
    assert content(store.parent) == {}


def cut(part):
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])


def flip(part, place=0.5):
    changed = bytearray(part.read_bytes())
    changed[int(place * len(changed))] ^= 1
    part.write_bytes(changed)


@pytest.mark.parametrize(
    "damage",
    [
        *(pytest.param(lambda parts, n=n: parts[n].unlink(), id=f"file {n} is gone") for n in (0, 1, -1)),
        pytest.param(lambda parts: cut(parts[1]), id="one is cut short"),
        pytest.param(lambda parts: cut(parts[-1]), id="the last is cut short"),
        *(pytest.param(lambda parts, p=p: flip(parts[1], p), id=f"a bit at {p} is another") for p in (0.2, 0.5, 0.8)),
        pytest.param(lambda parts: flip(parts[0], 0), id="the first bit is another"),
        pytest.param(lambda parts: parts[1].write_bytes(parts[1].read_bytes() * 2), id="too big"),
        pytest.param(lambda parts: parts[1].write_bytes(parts[0].read_bytes()), id="one stands for another"),
    ],
)
def test_a_pack_that_is_not_whole_is_refused(parts, store, damage):
    damage(parts)
    refused([part for part in parts if part.exists()], store, "no pack, or not all of one.*expected every file")


@pytest.mark.parametrize("without", [0, 1, -1])
def test_a_whole_member_that_is_missing_is_noticed(store, tmp_path, monkeypatch, without):
    monkeypatch.setattr(packing, "PART_BYTES", 45 * tarfile.BLOCKSIZE * 20)
    parts = packing.pack(specs(), tmp_path / "pack").parts
    refused([part for part in parts if part != parts[without]], store, "no pack, or not all of one")


def rewritten(tmp_path, change=lambda members: None, more=()):
    """Return a pack of one file with other members."""
    (part,) = packing.pack(specs(), tmp_path / "pack").parts
    with tarfile.open(part) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    change(members)
    with tarfile.open(part, "w") as archive:
        for name, found in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(found)
            archive.addfile(member, io.BytesIO(found))
        for member in more:
            archive.addfile(member)
    return [part]


def of_kind(kind):
    member = tarfile.TarInfo("runs/0123456789ab/spec.json")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    "member",
    [
        *map(tarfile.TarInfo, ("../outside", "/etc/passwd", "runs/../../x/spec.json", "runs/0123456789ab/other.py")),
        *map(tarfile.TarInfo, ("runs/0123456789AB/spec.json", f"runs/{keys()[0]}/spec.json")),
        *map(of_kind, (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)),
    ],
    ids=lambda member: f"{member.name} of type {member.type.decode()}",
)
def test_a_foreign_name_a_link_and_a_member_twice_are_refused(store, tmp_path, member):
    refused(rewritten(tmp_path, more=[member]), store, "which is no file of a run")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda members: members.update({f"runs/{keys()[1]}/predictions.npz": b"x"}), "predictions.npz not as it was"),
        (lambda members: members.pop(f"runs/{keys()[1]}/manifest.json"), "manifest.json not found"),
        (
            lambda members: members.update({n.replace(keys()[0], "0123456789ab"): members[n] for n in list(members)}),
            "the spec of 0123456789ab is that of",
        ),
        (lambda members: members.update({"checkpoints/0123456789ab/000001-000000.json": b"[]"}), "000001-000000.json"),
    ],
    ids=["another file", "no manifest", "another key", "no checkpoint"],
)
def test_a_run_or_a_checkpoint_that_is_not_what_it_says_of_itself_is_refused(store, tmp_path, change, match):
    refused(rewritten(tmp_path, change), store, match)


def test_nothing_finished_makes_no_pack(tmp_path):
    assert packing.pack(specs(), tmp_path / "pack").parts == []
    assert list(tmp_path.glob("*.tar*")) == []


@pytest.mark.slow
def test_a_study_is_packed_by_the_command_and_found_again_by_it_elsewhere(bhl, tmp_path):
    first = bhl("study", *OPTIONS, "--pack", "carried", BHL_BUILD_DIR=str(tmp_path / "there"))
    assert first.returncode == 0, first.stderr
    assert "packed 2 run(s) and 0 checkpoint(s)" in first.stdout
    unpacked = bhl("unpack", "carried.tar.0", BHL_BUILD_DIR=str(tmp_path / "here"))
    assert unpacked.stdout.count("put into the store") == 2
    again = bhl("study", *OPTIONS, BHL_BUILD_DIR=str(tmp_path / "here"))
    assert again.returncode == 0
    assert "training" not in again.stderr
    assert again.stdout in first.stdout


def test_at_the_time_limit_what_is_finished_is_packed_and_a_bad_name_is_refused_before_any_training(
    bhl, store, tmp_path
):
    shutil.rmtree(store / keys()[1])
    stopped = bhl("study", *OPTIONS, "--time-limit", "0s", "--pack", "carried.tar")
    assert stopped.returncode == 75, stopped.stderr
    assert "packed 1 run(s)" in stopped.stdout
    assert (tmp_path / "carried.tar.0").is_file()
    refused = bhl("study", *OPTIONS, "--pack", "no/such/folder/pack")
    assert refused.returncode == 2
    assert "expected a file's name in a folder that exists" in refused.stderr
    assert "training" not in refused.stderr
