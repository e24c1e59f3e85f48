"""Packs: what is carried lands bit by bit, or not at all."""

import hashlib
import io
import json
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.runs import packing
from beyond_hard_labels.runs import store as run_store
from beyond_hard_labels.runs.ensure import ensure
from beyond_hard_labels.runs.study import plan
from conftest import TINY, remade, set_options

WITHOUT_WEIGHTS = 450_000  # bytes of a pack in which there is room for the results of both runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A build folder with both runs of a tiny study."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHL_BUILD_DIR", str(folder))
        ensure(study(), executor=ThreadPoolExecutor(1))
    return folder


def study():
    return plan("smoke", **(TINY | {"epochs": 1}))


def keys():
    return [spec.key for spec in study().specs()]


@pytest.fixture
def store(trained):
    """This test's own build folder, with both runs in it."""
    shutil.copytree(trained / "runs", paths.build_folder() / "runs")
    return paths.build_folder() / "runs"


@pytest.fixture
def parts(store, tmp_path, monkeypatch):
    """A pack of several files, which cut members in two."""
    monkeypatch.setattr(packing, "PART_BYTES", 600_000)
    return packing.pack(study().specs(), tmp_path / "pack").parts


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_packed_is_unpacked_bit_by_bit_in_any_order_and_counts_as_trained(parts, store):
    assert 2 < len(parts) <= packing.MOST_PARTS
    assert max(part.stat().st_size for part in parts) <= packing.PART_BYTES
    before = content(store)
    shutil.rmtree(store)
    said = packing.unpack(parts[::-1])
    assert content(store) == before
    assert set(said.values()) == {"put into the store"}
    assert all(run_store.find(spec) for spec in study().specs())
    assert list(store.parent.rglob(".*")) == []


def test_the_same_runs_give_the_same_pack_and_an_older_one_leaves_no_file_behind(parts, tmp_path, monkeypatch):
    first = [part.read_bytes() for part in parts]
    assert [part.read_bytes() for part in packing.pack(study().specs(), tmp_path / "pack.tar").parts] == first
    monkeypatch.setattr(packing, "PART_BYTES", 16 << 20)
    packing.pack(study().specs(), tmp_path / "pack")
    assert [path.name for path in tmp_path.glob("*pack*")] == ["pack.tar.0"]


def test_weights_without_room_are_named_and_the_run_is_there_without_them(store, tmp_path, monkeypatch):
    whole = packing.pack(study().specs(), tmp_path / "whole")
    monkeypatch.setattr(packing, "PART_BYTES", WITHOUT_WEIGHTS // packing.MOST_PARTS)
    less = packing.pack(study().specs(), tmp_path / "less")
    assert less.left_out == [f"runs/{key}/weights.safetensors" for key in keys()]
    shutil.rmtree(store)
    assert set(packing.unpack(less.parts).values()) == {"put into the store without weights.safetensors"}
    run = run_store.find(study().specs()[0])
    assert "weights.safetensors" not in run.files
    assert run.features.shape == (20, 96)
    again = packing.pack(study().specs(), tmp_path / "again")  # and so it travels on
    shutil.rmtree(store)
    packing.unpack(again.parts)
    assert run_store.find(study().specs()[0]).files == run.files
    monkeypatch.undo()
    monkeypatch.setenv("BHL_BUILD_DIR", str(store.parent))
    packing.unpack(whole.parts)  # from a pack that has them the run gets its weights
    assert "weights.safetensors" in run_store.find(study().specs()[0]).files
    assert set(packing.unpack(whole.parts).values()) == {"here already"}


def test_a_run_that_is_too_big_is_left_out_as_a_whole_and_said(store, tmp_path, monkeypatch):
    one = sum(path.stat().st_size for path in (store / keys()[0]).glob("[!w]*"))
    monkeypatch.setattr(packing, "PART_BYTES", (3 * tarfile.RECORDSIZE + 20_000 + one) // packing.MOST_PARTS)
    packed = packing.pack(study().specs(), tmp_path / "pack")
    assert {name.split("/")[1] for name in packed.names} == {keys()[0]}
    assert f"runs/{keys()[1]}/predictions.npz" in packed.left_out


def test_a_fresh_run_with_other_results_stays_and_a_stale_one_is_replaced(parts, store):
    kept, stale = (store / key for key in keys())
    expected = content(stale)
    np.savez(kept / "features.npz", test=np.zeros((20, 96), np.float32))
    remade(kept)
    remade(stale, code={})
    before = content(kept)
    said = packing.unpack(parts)
    assert said[f"runs/{kept.name}"] == "kept as it is here: fresh, and with another features.npz"
    assert said[f"runs/{stale.name}"] == "put into the store"
    assert (content(kept), content(stale)) == (before, expected)


def test_the_last_checkpoint_of_an_unfinished_run_travels_and_never_replaces_one_that_is_farther(store, tmp_path):
    done, begun = keys()
    shutil.rmtree(store / begun)
    folder = store.parent / "checkpoints" / begun
    folder.mkdir(parents=True)
    for name in ("000001-000002", "000001-000004"):
        (folder / f"{name}.json").write_text("{}")
        (folder / f"{name}.safetensors").write_bytes(name.encode())
    packed = packing.pack(study().specs(), tmp_path / "pack")
    shutil.rmtree(folder)
    said = packing.unpack(packed.parts)
    assert content(folder) == {"000001-000004.json": b"{}", "000001-000004.safetensors": b"000001-000004"}
    assert said == {f"runs/{done}": "here already", f"checkpoints/{begun}": "put into the store"}
    for file in list(folder.iterdir()):
        file.rename(file.with_name(file.name.replace("000004", "000009")))
    assert packing.unpack(packed.parts)[f"checkpoints/{begun}"].startswith("not needed")
    assert set(content(folder)) == {"000001-000009.json", "000001-000009.safetensors"}


def refused(parts, store, match):
    """Unpacking is refused, and the store is as it was."""
    shutil.rmtree(store)
    with pytest.raises(InputError, match=match):
        packing.unpack(parts)
    assert [name for name in content(store.parent) if not name.startswith("locks/")] == []


@pytest.mark.parametrize("missing", [0, 1, -1])
def test_a_missing_file_is_noticed(parts, store, missing):
    refused([part for part in parts if part != parts[missing]], store, "no pack, or not all of one")


def test_a_file_that_is_cut_short_or_too_big_is_refused(parts, store, monkeypatch):
    whole = parts[1].read_bytes()
    parts[1].write_bytes(whole[: len(whole) // 2])
    refused(parts, store, r"pack\.tar\.1.*no pack, or not all of one")
    monkeypatch.setattr(packing, "PART_BYTES", 1000)
    with pytest.raises(InputError, match="at most 8 files of at most 1000 bytes"):
        packing.unpack(parts)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_flipped_byte_is_found_wherever_it_is(parts, store, place):
    changed = bytearray(parts[1].read_bytes())
    changed[int(place * len(changed))] ^= 1
    parts[1].write_bytes(changed)
    refused(parts, store, "no pack, or not all of one")


def test_files_of_two_packs_are_not_mixed(parts, store, tmp_path):
    other = packing.pack(study().specs()[:1], tmp_path / "other").parts
    refused([*parts[:-1], other[-1]], store, "no pack, or not all of one")


@pytest.fixture
def rewrite(store, tmp_path):
    """Return a function that changes index and members of a pack of one file, whose checksums are true again."""
    (part,) = packing.pack(study().specs(), tmp_path / "pack").parts

    def rewritten(change=lambda index, members: None, more=()):
        with tarfile.open(part) as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}
        index = json.loads(members.pop("pack.json"))
        change(index, members)
        index["files"] = {name: hashlib.sha256(found).hexdigest() for name, found in members.items()}
        with tarfile.open(part, "w") as archive:
            for name, found in {"pack.json": json.dumps(index).encode(), **members}.items():
                member = tarfile.TarInfo(name)
                member.size = len(found)
                archive.addfile(member, io.BytesIO(found))
            for member in more:
                archive.addfile(member)
        return [part]

    return rewritten


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/passwd",
        "runs/../../x/spec.json",
        "runs/0123456789ab/other.py",
        "runs/0123456789AB/spec.json",
    ],
)
def test_a_path_that_is_none_of_the_store_is_refused(rewrite, store, name):
    refused(rewrite(lambda _, members: members.update({name: b"x"})), store, "which is no file of a run")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(rewrite, store, kind):
    member = tarfile.TarInfo("runs/0123456789ab/spec.json")
    member.type, member.linkname = kind, "/etc/passwd"
    refused(rewrite(more=[member]), store, "is a link, or there twice")


def test_a_member_twice_or_without_a_checksum_is_refused(rewrite, store):
    refused(rewrite(more=[tarfile.TarInfo(f"runs/{keys()[0]}/spec.json")]), store, "is a link, or there twice")
    with pytest.raises(InputError, match=r"does not name runs/0123456789ab/spec\.json"):
        packing.unpack(rewrite(more=[tarfile.TarInfo("runs/0123456789ab/spec.json")]))


def test_a_run_that_is_not_what_its_own_manifest_says_is_refused(rewrite, store):
    name = f"runs/{keys()[1]}/predictions.npz"

    def change(_, members):
        members[name] += b"x"

    refused(rewrite(change), store, f"run {keys()[1]} is not taken.*predictions.npz")


def test_nothing_finished_makes_no_pack(tmp_path):
    assert packing.pack(study().specs(), tmp_path / "pack").parts == []
    assert list(tmp_path.glob("*.tar*")) == []


@pytest.mark.slow
def test_a_study_is_packed_by_the_command_and_found_again_by_it_elsewhere(bhl, tmp_path):
    options = ["study", "--profile", "smoke", *set_options(**(TINY | {"epochs": 1}))]
    first = bhl(*options, "--pack", "carried", BHL_BUILD_DIR=str(tmp_path / "there"))
    assert first.returncode == 0, first.stderr
    assert "packed 2 run(s) and 0 checkpoint(s)" in first.stdout
    unpacked = bhl("unpack", "carried.tar.0", BHL_BUILD_DIR=str(tmp_path / "here"))
    assert unpacked.stdout.count("put into the store") == 2
    again = bhl(*options, BHL_BUILD_DIR=str(tmp_path / "here"))
    assert again.returncode == 0
    assert "training" not in again.stderr
    assert again.stdout in first.stdout


def test_at_the_time_limit_what_is_finished_is_packed_and_the_exit_code_stays(bhl, store, tmp_path):
    shutil.rmtree(store / keys()[1])
    options = ["--profile", "smoke", *set_options(**(TINY | {"epochs": 1}))]
    stopped = bhl("study", *options, "--time-limit", "0s", "--pack", "carried.tar")
    assert stopped.returncode == 75, stopped.stderr
    assert "packed 1 run(s)" in stopped.stdout
    assert (tmp_path / "carried.tar.0").is_file()


def test_a_pack_that_cannot_be_written_is_refused_before_any_training(bhl):
    refused = bhl("study", "--profile", "smoke", "--pack", "no/such/folder/pack")
    assert refused.returncode == 2
    assert "expected a file's name in a folder that exists" in refused.stderr
    assert "training" not in refused.stderr
