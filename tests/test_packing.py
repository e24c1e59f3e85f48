import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.runs import packing
from beyond_hard_labels.runs import store as run_store
from beyond_hard_labels.runs.ensure import ensure
from beyond_hard_labels.runs.study import plan
from conftest import TINY, set_options

SMALL = 400_000  # bytes of a part, so that weights are cut into pieces


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A build folder with both runs of a tiny study."""
    folder = tmp_path_factory.mktemp("trained")
    before = os.environ.get("BHL_BUILD_DIR")
    os.environ["BHL_BUILD_DIR"] = str(folder)
    ensure(study(), workers=1)
    os.environ["BHL_BUILD_DIR"] = before or ""
    return folder


def study():
    return plan("smoke", **(TINY | {"epochs": 1}))


@pytest.fixture
def store(trained):
    """This test's own build folder, with both runs in it."""
    shutil.copytree(trained / "runs", paths.build_folder() / "runs")
    return paths.build_folder() / "runs"


@pytest.fixture
def parts(store, tmp_path, monkeypatch):
    """A pack of several parts."""
    monkeypatch.setattr(packing, "PART_BYTES", SMALL)
    return packing.pack(study().specs(), tmp_path / "pack").parts


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_packed_is_unpacked_bit_by_bit_and_counts_as_trained(parts, store):
    before = content(store)
    shutil.rmtree(store)
    said = packing.unpack(parts[::-1])
    assert content(store) == before
    assert set(said.values()) == {"put into the store"}
    assert all(run_store.find(spec) for spec in study().specs())
    assert list(store.parent.rglob(".*")) == []


def test_every_part_is_smaller_than_allowed_and_weights_are_cut_where_a_part_is_full(parts):
    assert 2 < len(parts) <= packing.MOST_PARTS
    assert max(part.stat().st_size for part in parts) < SMALL
    assert any(".safetensors.1" in name for name in zipfile.ZipFile(parts[1]).namelist())


def test_the_same_runs_give_the_same_pack_and_an_older_one_leaves_no_part_behind(parts, tmp_path, monkeypatch):
    first = [part.read_bytes() for part in parts]
    assert [part.read_bytes() for part in packing.pack(study().specs(), tmp_path / "pack.zip").parts] == first
    monkeypatch.setattr(packing, "PART_BYTES", 16 << 20)
    packing.pack(study().specs(), tmp_path / "pack")
    assert sorted(path.name for path in tmp_path.glob("*pack*")) == ["pack.0.zip"]


def test_weights_for_which_there_is_no_room_are_named_and_the_run_is_there_without_them(store, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "PART_BYTES", 100_000)
    packed = packing.pack(study().specs(), tmp_path / "pack")
    keys = [spec.key for spec in study().specs()]
    assert packed.left_out == [f"runs/{key}/weights.safetensors" for key in keys]
    shutil.rmtree(store)
    assert set(packing.unpack(packed.parts).values()) == {"put into the store without weights.safetensors"}
    run = run_store.find(study().specs()[0])
    assert "weights.safetensors" not in run.files
    assert run.features.shape == (20, 96)
    again = packing.pack(study().specs(), tmp_path / "again")  # and so it travels on
    shutil.rmtree(store)
    packing.unpack(again.parts)
    assert run_store.find(study().specs()[0]).files == run.files


def test_a_run_that_came_without_weights_gets_them_from_a_pack_that_has_them(parts, store, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "PART_BYTES", 100_000)
    less = packing.pack(study().specs(), tmp_path / "less")
    shutil.rmtree(store)
    packing.unpack(less.parts)
    monkeypatch.setattr(packing, "PART_BYTES", SMALL)
    packing.unpack(parts)
    assert "weights.safetensors" in run_store.find(study().specs()[0]).files
    assert set(packing.unpack(less.parts).values()) == {"here already"}


def test_results_for_which_there_is_no_room_are_left_out_as_a_whole(store, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "MOST_PARTS", 1)
    first = sum(path.stat().st_size for path in (store / study().specs()[0].key).glob("[!w]*"))
    monkeypatch.setattr(packing, "PART_BYTES", packing._PER_PART + packing._PER_FILE * 12 + first + 1000)
    packed = packing.pack(study().specs(), tmp_path / "pack")
    assert {name.split("/")[1] for name in packed.names} == {study().specs()[0].key}
    assert f"runs/{study().specs()[1].key}/predictions.npz" in packed.left_out


def test_a_fresh_run_with_other_results_stays_and_a_stale_one_is_replaced(parts, store):
    kept, stale = (store / spec.key for spec in study().specs())
    expected = content(stale)
    for folder, changed in ((kept, "files"), (stale, "code")):
        manifest = json.loads((folder / "manifest.json").read_text())
        if changed == "files":
            np.savez(folder / "features.npz", test=np.zeros((20, 96), np.float32))
            manifest["files"]["features.npz"] = files.checksum(folder / "features.npz")
        else:
            manifest["code"]["training.py"] = "another"
        seal(folder, manifest)
    before = content(kept)
    said = packing.unpack(parts)
    assert said[f"runs/{kept.name}"] == "kept as it is here: fresh, and with another features.npz"
    assert said[f"runs/{stale.name}"] == "put into the store"
    assert content(kept) == before
    assert content(stale) == expected


def seal(folder, manifest):
    manifest.pop("seal")
    files.write_json(folder / "manifest.json", manifest, sealed=True)


def test_the_last_checkpoint_of_an_unfinished_run_travels_and_never_replaces_one_that_is_farther(store, tmp_path):
    done, begun = (spec.key for spec in study().specs())
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


def test_a_missing_part_is_named(parts, store):
    refused(parts[:1] + parts[2:], store, "part 1 is missing")


def test_a_part_that_is_cut_short_is_refused(parts, store):
    whole = parts[1].read_bytes()
    parts[1].write_bytes(whole[: len(whole) // 2])
    refused(parts, store, r"pack\.1\.zip is no part of a pack, or not a whole one")


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_flipped_byte_is_found_wherever_it_is(parts, store, place):
    changed = bytearray(parts[1].read_bytes())
    changed[int(place * len(changed))] ^= 1
    parts[1].write_bytes(changed)
    refused(parts, store, "not a whole one|another checksum")


def rewrite(part, change):
    """Write a part again with another index or other members."""
    with zipfile.ZipFile(part) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    index = json.loads(members.pop("index.json"))
    change(index, members)
    with zipfile.ZipFile(part, "w") as archive:
        for name, found in {"index.json": json.dumps(index), **members}.items():
            archive.writestr(name, found)


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
def test_a_path_that_is_none_of_the_store_is_refused(store, tmp_path, name):
    part = packing.pack(study().specs(), tmp_path / "pack").parts[0]

    def change(index, members):
        about = index["files"].pop(f"runs/{study().specs()[0].key}/spec.json")
        index["files"][name] = about

    rewrite(part, change)
    refused([part], store, "which is no file of a run")


def test_a_member_that_the_index_does_not_name_is_refused(store, tmp_path):
    part = packing.pack(study().specs(), tmp_path / "pack").parts[0]
    rewrite(part, lambda index, members: members.update({"../../evil": b"x"}))
    refused([part], store, "evil.*which its index does not name")


def test_a_run_that_is_not_what_its_own_manifest_says_is_refused(store, tmp_path):
    import hashlib

    part = packing.pack(study().specs(), tmp_path / "pack").parts[0]
    name = f"runs/{study().specs()[1].key}/history.csv"

    def change(index, members):
        members[name] = members[name].replace(b"epoch", b"epoxx")
        index["files"][name]["sha256"] = hashlib.sha256(members[name]).hexdigest()

    rewrite(part, change)
    refused([part], store, f"run {study().specs()[1].key} is not taken.*history.csv")


def test_parts_of_two_packs_are_not_mixed(parts, store, tmp_path):
    other = packing.pack(study().specs()[:1], tmp_path / "other").parts
    refused([*parts[:-1], other[-1]], store, "another pack")


def test_nothing_finished_makes_no_pack(tmp_path):
    assert packing.pack(study().specs(), tmp_path / "pack").parts == []
    assert list(tmp_path.glob("*.zip")) == []


@pytest.mark.slow
def test_a_study_is_packed_by_the_command_and_found_again_by_it_elsewhere(bhl, tmp_path):
    options = ["study", "--profile", "smoke", *set_options(**(TINY | {"epochs": 1}))]
    first = bhl(*options, "--pack", "carried", BHL_BUILD_DIR=str(tmp_path / "there"))
    assert first.returncode == 0, first.stderr
    assert "packed 2 run(s) and 0 checkpoint(s)" in first.stdout
    unpacked = bhl("unpack", "carried.0.zip", BHL_BUILD_DIR=str(tmp_path / "here"))
    assert unpacked.stdout.count("put into the store") == 2
    again = bhl(*options, BHL_BUILD_DIR=str(tmp_path / "here"))
    assert again.returncode == 0
    assert "training" not in again.stderr
    assert again.stdout in first.stdout


def test_at_the_time_limit_what_is_finished_is_packed_and_the_exit_code_stays(bhl, store, tmp_path):
    shutil.rmtree(store / study().specs()[1].key)
    options = ["--profile", "smoke", *set_options(**(TINY | {"epochs": 1}))]
    stopped = bhl("study", *options, "--time-limit", "0s", "--pack", "carried.zip")
    assert stopped.returncode == 75, stopped.stderr
    assert "packed 1 run(s)" in stopped.stdout
    assert (tmp_path / "carried.0.zip").is_file()


def test_a_pack_that_cannot_be_written_is_refused_before_any_training(bhl):
    refused = bhl("study", "--profile", "smoke", "--pack", "no/such/folder/pack")
    assert refused.returncode == 2
    assert "expected a file's name in a folder that exists" in refused.stderr
    assert "training" not in refused.stderr
