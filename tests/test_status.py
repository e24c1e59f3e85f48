"""What the store says of itself: each input is touched in turn, and exactly what depends on it becomes stale."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from beyond_hard_labels.base import paths
from beyond_hard_labels.book import status
from beyond_hard_labels.cli import main
from beyond_hard_labels.data import sets
from beyond_hard_labels.learn.train import Progress
from beyond_hard_labels.runs import checkpoints, execute, fresh, maps, store, study
from conftest import ROOT, TINY, remade, set_options

SMALL = TINY | {"epochs": 1, "tsne_iterations": 50, "perplexity": 5.0}
ON_FILE = {name: value for name, value in SMALL.items() if name not in ("n_images", "image_size")}
SYNTHETIC, SET, SLICE = "synthetic", "set", "slice"


def write_set(path, seed=0):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    images = rng.integers(0, 256, (60, 16, 16), np.uint8)
    counts = rng.multinomial(9, [0.5, 0.3, 0.2], 60)
    np.savez(path, images=images, counts=counts, class_names=np.array(["a", "b", "c"]), fold=np.arange(60) % 5 + 1)


def specs():
    """One run each of the generated set, of a set that is a file, and of such a set's own folds."""
    return {
        SYNTHETIC: study.plan("smoke", **SMALL).spec("soft", 0),
        SET: study.plan("smoke", dataset="set", **ON_FILE).spec("soft", 0),
        SLICE: study.plan("smoke", dataset="set", split_kind="slice", **ON_FILE).spec("soft", 0),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three runs, a map of the first and the file of the set, made once for all tests here."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHL_BUILD_DIR", str(folder / "build"))
        patch.setenv("BHL_DATA_DIR", str(folder / "cache"))
        write_set(folder / "cache" / "set.npz")
        first, *_ = (execute.execute(spec) for spec in specs().values())
        maps.map_of(study.plan("smoke", **SMALL), first)
    return folder


@pytest.fixture
def package(tmp_path, made, monkeypatch):
    """A copy of the package's code that fingerprints are taken of, and a build folder in which everything is fresh."""
    root = tmp_path / "checkout" / "beyond_hard_labels"
    shutil.copytree(ROOT / "src" / "beyond_hard_labels", root, ignore=shutil.ignore_patterns("__pycache__"))
    (root.parent / "_toc.yml").write_text("- file: notebooks/01_shapes\n- file: notebooks/02_study\n")
    shutil.copytree(made / "build", tmp_path / "build")
    shutil.copytree(made / "cache", tmp_path / "cache")
    monkeypatch.setattr(paths, "project_folder", lambda: root.parent)
    monkeypatch.setattr(fresh, "PACKAGE", root)
    read_again()
    yield root
    monkeypatch.undo()
    read_again()


def read_again():
    """Forget what fingerprints were taken of."""
    for cached in (fresh.code_fingerprint, fresh.training_modules):
        getattr(cached, "cache_clear", lambda: None)()


def touch(package, module):
    """Add a line of code to a module of the copy."""
    with (package / f"{module.replace('.', '/')}.py").open("a") as file:
        file.write("\nMORE = 1\n")
    read_again()


def small():
    return study.plan("smoke", **SMALL)


def stale():
    """What is stale, by names of this file, with the reasons in words."""
    read_again()
    names = {spec.key: name for name, spec in specs().items()}
    found = [item for item in status.items() if item.kind in ("run", "map") and item.why]
    return {"map" if item.kind == "map" else names[item.name]: fresh.told(item.why) for item in found}


def edit(path, before, after):
    text = path.read_text("utf-8")
    assert before in text, path
    path.write_text(text.replace(before, after, 1), "utf-8")


def test_untouched_everything_is_fresh(package):
    assert stale() == {}
    kept = {item.name for item in status.items(small()) if item.state == "fresh"}
    assert kept > {spec.key for spec in specs().values()}


ALL_RUNS = {SYNTHETIC, SET, SLICE}


@pytest.mark.parametrize("module", ["learn.augment", "data.images", "data.shapes", "runs.inputs"])
def test_a_touched_module_that_determines_results_makes_runs_and_their_maps_stale(package, module):
    touch(package, module)
    found = stale()
    assert found.pop("map") == "its run is stale"
    assert found == dict.fromkeys(ALL_RUNS, f"{module} changed")


@pytest.mark.parametrize(
    ("module", "found"),
    [("learn.tsne", {"map": "learn.tsne changed"}), ("book.status", {}), ("runs.grids", {}), ("cli", {})],
)
def test_a_touched_module_makes_stale_only_what_depends_on_it(package, module, found):
    touch(package, module)
    assert stale() == found


@pytest.mark.parametrize("module", ["learn/augment", "data/shapes"])
def test_a_changed_comment_docstring_or_blank_line_makes_nothing_stale(package, module):
    edit(package / f"{module}.py", '"""', '"""Said in other words. ')
    edit(package / f"{module}.py", "\n\n\n", "\n\n\n\n# a comment\n\n")
    assert stale() == {}


def test_notebooks_are_listed_with_what_the_build_says_of_them(package, monkeypatch):
    why = [fresh.Change("code", "code cells", "1", "2")]
    monkeypatch.setattr(
        "beyond_hard_labels.book.execution.why_stale", lambda source, *_: why if source.stem == "02_study" else []
    )
    found = [(item.name, item.why) for item in status.items(small()) if item.kind == "notebook"]
    assert found == [("01_shapes", []), ("02_study", why)]


def test_another_value_of_a_profile_is_another_run(package):
    asked = study.plan("smoke", **SMALL | {"momentum": 0.8})
    missing = {item.name for item in status.items(asked) if item.kind == "run" and item.state == "missing"}
    assert missing == {spec.key for spec in asked.specs()}


def test_another_data_file_concerns_the_runs_on_that_set(package):
    write_set(sets.folders()[1] / "set.npz", seed=1)
    assert stale() == {SET: "data file changed", SLICE: "data file changed"}


def test_a_run_names_another_library_with_both_versions_other_fields_and_a_missing_file(package):
    folders = {name: paths.build_folder() / "runs" / spec.key for name, spec in specs().items()}
    versions = json.loads((folders[SET] / "manifest.json").read_text())["versions"]
    remade(folders[SET], versions=versions | {"torch": "2.0.1"})
    spec = json.loads((folders[SLICE] / "spec.json").read_text())
    del spec["momentum"]
    (folders[SLICE] / "spec.json").write_text(json.dumps(spec | {"colour": 1}))
    (folders[SYNTHETIC] / "features.npz").unlink()
    assert stale() == {
        SET: f"torch 2.0.1 → {versions['torch']}",
        SLICE: "spec fields changed: +momentum, -colour",
        SYNTHETIC: "it is not whole, features.npz not found",
        "map": "its run is stale",
    }


@pytest.mark.parametrize("name", ["spec.json", "manifest.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"data": 3}'])
def test_whatever_a_run_holds_it_is_told_and_never_a_crash(package, name, content):
    (paths.build_folder() / "runs" / specs()[SLICE].key / name).write_bytes(content)
    assert set(stale()) == {SLICE}


def test_a_checkpoint_of_other_code_is_stale_and_a_fresh_one_is_kept(package):
    spec = specs()[SET]
    checkpoints.save(spec, Progress(1, 0, {}), fresh.provenance(spec), 2.0)

    def told():
        return [fresh.told(item.why) for item in status.items() if item.kind == "checkpoint"]

    assert told() == [""]
    touch(package, "learn.augment")
    assert told() == ["learn.augment changed"]
    newest = next((paths.build_folder() / "checkpoints" / spec.key).glob("*.json"))
    newest.write_text("{")
    assert f"{newest.name} is not as it was written" in told()[0]


def test_a_map_whose_run_is_gone_or_that_is_damaged_is_stale(package):
    path = next((paths.build_folder() / "maps").iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    assert stale() == {"map": "it is damaged"}
    path.write_bytes(whole)
    shutil.rmtree(paths.build_folder() / "runs" / specs()[SYNTHETIC].key)
    assert stale() == {"map": "its run is gone"}


@pytest.mark.parametrize("how", ["stale", "damaged"])
def test_a_map_that_does_not_count_is_made_again_and_a_damaged_one_is_named(package, capsys, how):
    run, path = store.find(specs()[SYNTHETIC]), next((paths.build_folder() / "maps").iterdir())
    before, when = maps.map_of(small(), run), path.stat().st_mtime_ns
    assert path.stat().st_mtime_ns == when
    if how == "stale":
        touch(package, "learn.tsne")
    else:
        path.write_bytes(path.read_bytes()[:-30])
    assert np.array_equal(maps.map_of(small(), run), before)
    assert path.stat().st_mtime_ns > when
    assert (f"{path} is not as it was written" in capsys.readouterr().err) == (how == "damaged")
    assert stale() == {}


def files():
    return {str(p.relative_to(paths.build_folder())) for p in paths.build_folder().rglob("*") if p.is_file()}


def make_stale(name):
    remade(paths.build_folder() / "runs" / specs()[name].key, code={"learn.augment": "another"})


def test_clean_frees_what_is_stale_after_saying_how_much_and_leaves_the_rest(package, capsys):
    make_stale(SLICE)
    old, young = (paths.build_folder() / "runs" / f".{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
        (folder / "predictions.npz").write_bytes(b"half")
    os.utime(old, (time.time() - 86400,) * 2)
    key, before = specs()[SLICE].key, files()
    assert main(["clean", "--stale", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert files() == before
    freed = status.size_of(status.removable(status.items())[0])
    assert said.splitlines()[0].startswith(f"run {key}, ")
    assert "learn.augment changed" in said.splitlines()[0]
    assert said.splitlines()[-1] == f"2 stale, {freed}"
    assert main(["clean", "--stale"]) == 0
    assert capsys.readouterr().out == said
    assert files() == {name for name in before if not name.startswith((f"runs/{key}/", "runs/.old/"))}
    assert status.removable(status.items()) == ([], [])


def test_a_run_whose_data_are_away_and_its_map_are_stale_and_kept(package):
    key = specs()[SET].key
    twelve = study.plan("smoke", dataset="set", **ON_FILE | {"perplexity": 3.0})  # test images
    maps.map_of(twelve, store.find(specs()[SET]))
    (sets.folders()[1] / "set.npz").unlink()
    here = {item.name: item for item in status.items()}
    of_set = [item for item in here.values() if item.what.startswith("set, ") or item.what == f"map of {key}"]
    assert [(item.state, [change.kind for change in item.why]) for item in of_set] == [("stale", ["away"])] * 3
    free, kept = status.removable(list(here.values()))
    assert (free, {item.lacking for item in kept}) == ([], {"the set set"})
    assert len(kept) == 3


@pytest.fixture
def from_a_gpu(package):
    """The run of the generated set, with its map and a checkpoint, as if all came from a machine with a GPU; stale."""
    if torch.cuda.is_available():
        pytest.skip("here it could be trained again")
    old, spec = specs()[SYNTHETIC], replace(specs()[SYNTHETIC], device="cuda")
    folder = paths.build_folder() / "runs" / spec.key
    (paths.build_folder() / "runs" / old.key).rename(folder)
    (folder / "spec.json").write_text(json.dumps(asdict(spec)))
    remade(folder, code={"learn.augment": "another"})
    (path,) = (paths.build_folder() / "maps").iterdir()
    path.rename(path.with_name(path.name.replace(old.key, spec.key)))
    return spec.key


def test_what_only_another_machine_can_make_is_kept_with_the_reason_and_removed_by_name(from_a_gpu, capsys):
    before = files()
    make_stale(SLICE)
    assert main(["clean", "--stale"]) == 0
    said = capsys.readouterr().out
    assert {name for name in before if from_a_gpu in name} <= files()
    assert not any(specs()[SLICE].key in name for name in files())
    assert said.count("this machine lacks\n  a GPU to make it again") == 2  # the run, and its map
    assert f"bhl clean --run {from_a_gpu}" in said
    assert main(["clean", "--run", from_a_gpu]) == 0
    assert not any(from_a_gpu in name for name in files())
    assert any(specs()[SET].key in name for name in files())


def test_a_fresh_run_is_removed_by_name_only_an_unknown_one_is_named_and_one_without_a_spec_is_kept(package, capsys):
    key, unknown = specs()[SET].key, specs()[SLICE].key
    assert main(["clean", "--run", key, "--dry-run"]) == 0
    assert main(["clean", "--run", "0123456789ab"]) == 2
    assert "there is no run '0123456789ab'" in capsys.readouterr().err
    assert any(key in name for name in files())
    assert main(["clean", "--run", key]) == 0
    assert not any(key in name for name in files())
    (paths.build_folder() / "runs" / unknown / "spec.json").write_bytes(b"{")
    free, kept = status.removable(status.items())  # nobody knows whether it can be made again
    assert (free, [item.name for item in kept]) == ([], [unknown])


def test_json_and_text_say_the_same(package):
    found = status.items(study.plan("smoke", **SMALL | {"splits": 2}))
    rows, text = json.loads(json.dumps(status.as_json(found))), status.as_text(found)
    states = [row["state"] for row in rows]
    assert {"fresh", "missing"} <= set(states)
    assert all(row["name"] in text for row in rows)
    assert f"{states.count('fresh')} fresh, {states.count('stale')} stale, {states.count('missing')} missing" in text


@pytest.mark.slow
def test_the_command_says_it_of_a_copied_checkout_with_the_real_notebooks(tmp_path):
    """The same through the command line: code, then a comment, then a profile's value in the copy's own files."""
    root = tmp_path / "checkout"
    for folder in ("src", "notebooks"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_toc.yml", root)
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    asked = ("--profile", "smoke", *set_options(**{n: v for n, v in SMALL.items() if n != "batch_size"}))

    def bhl(command, *more):
        line = [sys.executable, "-m", "beyond_hard_labels", command, *asked, *more]
        done = subprocess.run(line, env=environment, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def told():
        found = json.loads(bhl("status", "--json"))
        return {(item["kind"], item["state"], item["why"]) for item in found if item["kind"] == "run"}

    bhl("study", "--workers", "1")
    assert told() == {("run", "fresh", "")}
    package = root / "src" / "beyond_hard_labels"
    edit(package / "learn" / "augment.py", '"""', '"""Said in other words. ')
    assert told() == {("run", "fresh", "")}
    edit(package / "learn" / "augment.py", "import", "MORE = 1\nimport")
    assert told() == {("run", "stale", "learn.augment changed")}
    edit(package / "learn" / "augment.py", "MORE = 1\nimport", "import")
    edit(package / "runs" / "profiles" / "smoke.yml", "batch_size: 32", "batch_size: 20")
    assert told() == {("run", "fresh", ""), ("run", "missing", "it was not trained yet")}
