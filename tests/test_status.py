"""What the store says of itself: each input is touched in turn, and exactly what depends on it becomes stale."""

import json
import os
import shutil
import subprocess
import sys
import time

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from beyond_hard_labels.base import paths
from beyond_hard_labels.book import build, status
from beyond_hard_labels.data import sets
from beyond_hard_labels.runs import execute, fresh, maps, store, study
from conftest import ROOT, TINY, remade, set_options

SMALL = TINY | {"epochs": 1, "tsne_iterations": 50, "perplexity": 5.0}
ON_FILE = {name: value for name, value in SMALL.items() if name not in ("n_images", "image_size")}
SYNTHETIC, SET, SLICE, CHAPTERS = "synthetic", "set", "slice", ("01_shapes", "02_study", "03_map", "04_alone")
CELLS = {
    "01_shapes": "from beyond_hard_labels import shapes",
    "02_study": "from beyond_hard_labels.runs.study import ensure, plan\nensure(plan())",
    "03_map": "from beyond_hard_labels import embedding",
    "04_alone": "1 + 1",
}


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
def checkout(tmp_path, made, monkeypatch):
    """A copy of the project's code with four small notebooks, and a build folder in which everything is fresh."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "src" / "beyond_hard_labels", root, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "notebooks").mkdir()
    (root / "_toc.yml").write_text("\n".join(f"- file: notebooks/{name}" for name in CELLS))
    shutil.copytree(made / "build", tmp_path / "build")
    shutil.copytree(made / "cache", tmp_path / "cache")
    monkeypatch.setattr(paths, "project_folder", lambda: root)
    monkeypatch.setattr(fresh, "_module_path", lambda module: root / f"{module}.py")
    fresh.code_fingerprint.cache_clear()
    (tmp_path / "build" / "executed").mkdir()
    for name, cell in CELLS.items():
        source = root / "notebooks" / f"{name}.ipynb"
        nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), new_code_cell(cell)]), source)
        copy = nbformat.read(source, as_version=4)
        copy.metadata["beyond_hard_labels"] = {"inputs": build.inputs(source, small())}
        nbformat.write(copy, tmp_path / "build" / "executed" / f"{name}.ipynb")
    yield root
    fresh.code_fingerprint.cache_clear()


def small():
    return study.plan("smoke", **SMALL)


def stale(made_with=None):
    """What is stale, by names of this file, with the reasons."""
    fresh.code_fingerprint.cache_clear()
    names = {spec.key: name for name, spec in specs().items()}
    kinds = ("run", "notebook", "map")
    found = [item for item in status.items(made_with or small()) if item.kind in kinds and item.path.exists()]
    return {"map" if i.kind == "map" else names.get(i.name, i.name): "; ".join(i.why) for i in found if i.why}


def edit(path, before, after):
    text = path.read_text("utf-8")
    assert before in text, path
    path.write_text(text.replace(before, after, 1), "utf-8")


def test_untouched_everything_is_fresh(checkout):
    assert stale() == {}
    fresh = {item.name for item in status.items(small()) if item.state == "fresh"}
    assert fresh >= {spec.key for spec in specs().values()} | set(CHAPTERS)


ALL_RUNS = {SYNTHETIC, SET, SLICE}


@pytest.mark.parametrize(
    ("module", "concerned", "chapters"),
    [
        pytest.param("augmentation", ALL_RUNS, {"02_study"}, id="the training path"),
        pytest.param("images", ALL_RUNS, {"01_shapes", "02_study"}, id="what splits a set"),
        pytest.param("shapes", {SYNTHETIC}, {"01_shapes", "02_study"}, id="what draws the generated set"),
        pytest.param("dcic", {SLICE}, {"02_study"}, id="what reads folds"),
        pytest.param("metrics", set(), {"02_study"}, id="metrics, which are computed when they are read"),
        pytest.param("embedding", set(), {"02_study", "03_map"}, id="the map"),
        pytest.param("status", set(), set(), id="what no result depends on"),
    ],
)
def test_a_touched_module_makes_stale_what_it_determines_and_nothing_else(checkout, module, concerned, chapters):
    with (checkout / f"{module}.py").open("a") as file:
        file.write("\nMORE = 1\n")
    found = stale()
    maps = {"map"} if SYNTHETIC in concerned or module == "embedding" else set()
    assert set(found) == concerned | maps | chapters
    assert {found[name] for name in concerned} <= {f"{module}.py changed"}
    assert all(f"{module}.py changed" in found[name] for name in chapters)
    assert found.get("map") in (None, f"{module}.py changed" if module == "embedding" else "its run is stale")


@pytest.mark.parametrize("module", ["augmentation", "shapes", "metrics", "dcic"])
def test_a_changed_comment_docstring_or_blank_line_makes_nothing_stale(checkout, module):
    edit(checkout / f"{module}.py", '"""', '"""Said in other words. ')
    edit(checkout / f"{module}.py", "\n\n\n", "\n\n\n\n# a comment\n\n")
    assert stale() == {}


def test_another_value_of_a_profile_is_another_run_and_other_chapters(checkout):
    found = stale(study.plan("smoke", **SMALL | {"momentum": 0.8}))
    assert set(found) == set(CHAPTERS)
    assert found["02_study"] == "parameters changed, runs changed"
    assert found["04_alone"] == "parameters changed"


def test_another_data_file_concerns_the_runs_on_that_set(checkout):
    write_set(sets.folders()[1] / "set.npz", seed=1)
    assert stale() == {SET: "data file changed", SLICE: "data file changed"}


def test_another_library_is_named_with_both_versions(checkout):
    folder = paths.build_folder() / "runs" / specs()[SET].key
    made = json.loads((folder / "manifest.json").read_text())["versions"]
    now = made["torch"]
    remade(folder, versions=made | {"torch": "2.0.1"})
    assert stale() == {SET: f"torch 2.0.1 → {now}"}


def test_a_changed_code_cell_concerns_its_chapter_and_prose_none(checkout):
    edit(checkout / "notebooks" / "01_shapes.ipynb", "# Title", "# Another title")
    assert stale() == {}
    edit(checkout / "notebooks" / "04_alone.ipynb", "1 + 1", "1 + 2")
    assert stale() == {"04_alone": "code cells changed"}


def test_a_run_of_another_version_of_the_package_is_stale_and_names_the_fields(checkout):
    path = paths.build_folder() / "runs" / specs()[SET].key / "spec.json"
    spec = json.loads(path.read_text())
    del spec["momentum"]
    path.write_text(json.dumps(spec | {"colour": 1}))
    assert stale() == {SET: "spec fields changed: +momentum, -colour"}


@pytest.mark.parametrize("name", ["spec.json", "manifest.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"data": 3}'])
def test_whatever_a_run_holds_it_is_told_and_never_a_crash(checkout, name, content):
    (paths.build_folder() / "runs" / specs()[SLICE].key / name).write_bytes(content)
    assert set(stale()) == {SLICE}


def test_a_checkpoint_of_other_code_is_stale_and_a_fresh_one_is_kept(checkout):
    from beyond_hard_labels.learn.train import Progress
    from beyond_hard_labels.runs import checkpoints

    for name in (SET, SLICE):
        checkpoints.save(specs()[name], Progress(1, 0, [], {}), 2.0)
    found = {item.name: item for item in status.items() if item.kind == "checkpoint"}
    assert [item.why for item in found.values()] == [[], []]
    with (checkout / "dcic.py").open("a") as file:
        file.write("\nMORE = 1\n")
    fresh.code_fingerprint.cache_clear()
    found = {item.name: item.why for item in status.items() if item.kind == "checkpoint"}
    assert found == {specs()[SET].key: [], specs()[SLICE].key: ["dcic.py changed"]}
    newest = next((paths.build_folder() / "checkpoints" / specs()[SET].key).glob("*.json"))
    newest.write_text("{")
    found = {item.name: item.why for item in status.items() if item.kind == "checkpoint"}
    assert found[specs()[SET].key][0].startswith(f"{newest.name} is not as it was written")


def test_a_missing_file_of_a_run_is_named(checkout):
    (paths.build_folder() / "runs" / specs()[SET].key / "weights.safetensors").unlink()
    assert stale() == {SET: "it is not whole, weights.safetensors not found"}


def test_a_map_whose_run_is_gone_or_that_is_damaged_is_stale(checkout):
    path = next((paths.build_folder() / "maps").iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    assert stale() == {"map": "it is damaged"}
    path.write_bytes(whole)
    shutil.rmtree(paths.build_folder() / "runs" / specs()[SYNTHETIC].key)
    assert stale() == {"map": "its run is gone", "02_study": "runs changed"}


def test_a_map_is_made_again_when_it_is_stale(checkout):
    run, path = store.find(specs()[SYNTHETIC]), next((paths.build_folder() / "maps").iterdir())
    before, when = maps.map_of(small(), run), path.stat().st_mtime_ns
    assert path.stat().st_mtime_ns == when
    with (checkout / "embedding.py").open("a") as file:
        file.write("\nMORE = 1\n")
    fresh.code_fingerprint.cache_clear()
    again = maps.map_of(small(), run)
    assert path.stat().st_mtime_ns > when
    assert np.array_equal(again, before)
    assert stale().keys() == {"02_study", "03_map"}


def files():
    return {str(p.relative_to(paths.build_folder())) for p in paths.build_folder().rglob("*") if p.is_file()}


def test_clean_frees_what_is_stale_after_saying_how_much_and_leaves_the_rest(checkout, capsys):
    from beyond_hard_labels.cli import main

    with (checkout / "dcic.py").open("a") as file:
        file.write("\nMORE = 1\n")
    old, young = (paths.build_folder() / "runs" / f".{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
        (folder / "predictions.npz").write_bytes(b"half")
    os.utime(old, (time.time() - 86400,) * 2)
    fresh.code_fingerprint.cache_clear()
    key, before = specs()[SLICE].key, files()
    assert main(["clean", "--stale", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert files() == before
    freed = status.size_of(status.removable(status.items()))
    assert said.splitlines()[0].startswith(f"run {key}, ")
    assert said.splitlines()[0].endswith(": dcic.py changed")
    assert said.splitlines()[-1] == f"2 stale, {freed}"
    assert main(["clean", "--stale"]) == 0
    assert capsys.readouterr().out == said
    assert files() == {name for name in before if not name.startswith((f"runs/{key}/", "runs/.old/"))}
    assert status.removable(status.items()) == []


def test_a_run_whose_data_are_away_and_its_map_are_stale_but_not_removed(checkout):
    key = specs()[SET].key
    twelve = study.plan("smoke", dataset="set", **ON_FILE | {"perplexity": 3.0})  # test images
    maps.map_of(twelve, store.find(specs()[SET]))
    (sets.folders()[1] / "set.npz").unlink()
    here = {item.name: item for item in status.items()}
    of_set = [item for item in here.values() if item.what.startswith("set, ") or item.what == f"map of {key}"]
    found = [(item.state, item.why) for item in of_set]
    assert found == [("stale", ["data file is not here"])] * 3
    assert status.removable(list(here.values())) == []


def test_a_damaged_map_is_named_and_made_again(checkout, capsys):
    run, path = store.find(specs()[SYNTHETIC]), next((paths.build_folder() / "maps").iterdir())
    before = maps.map_of(small(), run)
    path.write_bytes(path.read_bytes()[:-30])
    assert np.array_equal(maps.map_of(small(), run), before)
    assert f"{path} is not as it was written" in capsys.readouterr().err
    assert stale() == {}


def test_json_and_text_say_the_same(checkout):
    found = status.items(study.plan("smoke", **SMALL | {"splits": 2}))
    content = json.loads(json.dumps(status.as_json(found)))
    states = [item["state"] for item in content["items"]]
    assert content["bytes"] == sum(item["bytes"] for item in content["items"])
    assert {"fresh", "missing"} <= set(states)
    text = status.as_text(found)
    assert all(item["name"] in text for item in content["items"])
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
        found = json.loads(bhl("status", "--json"))["items"]
        return {(item["kind"], item["state"], "; ".join(item["why"])) for item in found if item["kind"] == "run"}

    bhl("study", "--workers", "1")
    assert told() == {("run", "fresh", "")}
    package = root / "src" / "beyond_hard_labels"
    edit(package / "augmentation.py", '"""', '"""Said in other words. ')
    assert told() == {("run", "fresh", "")}
    edit(package / "augmentation.py", "import", "MORE = 1\nimport")
    assert told() == {("run", "stale", "augmentation.py changed")}
    edit(package / "augmentation.py", "MORE = 1\nimport", "import")
    edit(package / "profiles" / "smoke.yml", "batch_size: 32", "batch_size: 20")
    assert told() == {("run", "fresh", ""), ("run", "missing", "it was not trained yet")}
