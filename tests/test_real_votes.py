"""Training on real votes, published runs, and the chapter that shows both."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import nbformat
import numpy as np
import papermill
import pytest

from beyond_hard_labels.analysis.real import scored
from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import about, execution, pages
from beyond_hard_labels.data import images, sets, votes
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.runs import ensure, execute, inputs, publish, store, study
from conftest import ROOT, TINY, remade

SMALL = {name: TINY[name] for name in ("epochs", "batch_size", "splits")} | {"tsne_iterations": 50}


def here(made):
    """Train in this process; another one would import everything once more."""
    return ensure.ensure_specs(made.specs(), executor=ThreadPoolExecutor(1))


@pytest.fixture(autouse=True)
def sections_train_here(monkeypatch):
    monkeypatch.setattr(ensure, "ensure", here)


def put(name, *, n=60, side=28, colour=False, classes=3, raters=None):
    """Write a small set into the cache; with `raters`, the last ones saw the first third of the images only."""
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.full(classes, 0.5), n)
    arrays = {
        "images": rng.integers(0, 256, (n, side, side, 3)[: 3 + colour], np.uint8),
        "counts": rng.multinomial(9, truth),
        "class_names": np.array([f"class {c}" for c in range(classes)]),
        "labels": truth.argmax(axis=1),
    }
    if raters:
        ratings = votes.simulate(truth, sum(raters), 0).astype(np.int8)
        ratings[n // 3 :, raters[0] :] = -1
        arrays |= {"counts": votes.count(ratings, classes), "ratings": ratings, "fold": np.arange(n) % 5 + 1}
        del arrays["labels"]
    folder = sets.folders()[1]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", **arrays)


@pytest.fixture
def publishing(tmp_path, monkeypatch):
    """Return a function that trains a study and moves its runs into the project's published ones."""
    root = tmp_path / "project"
    for folder in ("notebooks", "book"):
        shutil.copytree(ROOT / folder, root / folder)
    shutil.copy(ROOT / "_toc.yml", root)
    monkeypatch.setattr(paths, "project_folder", lambda: root)
    monkeypatch.setattr(publish, "ensure", here)

    def publishing(made):
        publish.publish(replace(made, perplexity=3.0))
        shutil.rmtree(paths.build_folder() / "runs")
        return made

    return publishing


def take_away(name):
    (sets.folders()[1] / f"{name}.npz").unlink()


# What a set has of its own


def test_the_paper_profile_trains_micebone_as_the_paper_says_unless_something_is_changed():
    put("micebone", side=32)
    spec = study.plan("paper", dataset="micebone").spec("soft", 0)
    assert (spec.backbone, spec.head, spec.schedule, spec.weight_decay) == ("resnet50v2", "mlp", "warm_restarts", 0.001)
    assert (spec.batch_size, spec.epochs, spec.learning_rate, spec.decay) == (128, 60, 0.1, "coupled")
    as_run = study.plan("paper", dataset="micebone", protocol="as_run").spec("soft", 0)
    assert (as_run.learning_rate, as_run.schedule, as_run.weight_decay) == (0.01, "constant", 0.0001)
    made = study.plan("paper", dataset="micebone", head="linear")
    assert (made.shared["head"], made.shared["schedule"]) == ("linear", "warm_restarts")
    assert (study.plan("paper").shared["head"], study.plan("paper").shared["schedule"]) == ("linear", "cosine")


def test_what_has_an_up_and_a_down_is_not_turned_and_a_users_own_set_has_the_profile_as_it_is():
    for name in ("fashion_mnist_h", "cifar10h"):
        put(name)
        for profile in ("quick", "smoke"):
            spec = study.plan(profile, dataset=name).spec("soft", 0)
            assert (spec.augment_flip_x, spec.augment_flip_y, spec.augment_rotate) == (True, False, False)
            assert spec.augment_shift > 0
    put("mine", side=32)
    own, generated = study.plan("quick", dataset="mine").shared, study.plan("quick").shared
    assert {name for name in own if own[name] != generated[name]} == {"dataset", "n_images"}


def test_a_preset_of_size_is_a_bound_and_not_a_demand():
    for n, taken in ((400, 300), (50, 50)):
        put("cifar10h", n=n, side=32)
        assert study.plan("smoke", dataset="cifar10h").shared["n_images"] == taken
    for side, taken in ((64, 32), (20, 20)):
        put("micebone", side=side)
        assert study.plan("quick", dataset="micebone").shared["image_size"] == taken
    put("micebone", side=50)  # no size is chosen in silence
    with pytest.raises(InputError, match=r"'image_size' is 32, and the images of micebone have 50 .* expected 25, 50"):
        study.plan("quick", dataset="micebone")


def test_images_are_shrunk_by_the_means_of_whole_blocks():
    put("set", side=48, colour=True)
    whole = inputs.images_of(study.plan("smoke", dataset="set").spec("soft", 0))
    small = inputs.images_of(study.plan("smoke", dataset="set", image_size=16).spec("soft", 0))
    block = whole.images[7, 2, 3:6, 9:12].astype(int)
    assert small.images.shape == (60, 3, 16, 16)
    assert small.images[7, 2, 1, 3] == int(block.sum() / 9 + 0.5)
    with pytest.raises(InputError, match=r"'image_size' is 20, and the images of set have 48 .* expected 16, 24, 48"):
        study.plan("smoke", dataset="set", image_size=20)
    with pytest.raises(InputError, match="of 48 pixels a side cannot be shrunk to 20"):
        images.shrink(whole, 20)


# Raters and folds


def test_complete_raters_are_those_of_the_whole_set_whatever_part_of_it_is_used():
    put("micebone", side=32, raters=(4, 8))
    asked = {"dataset": "micebone", "n_images": 15}
    all_of_them, complete = (
        inputs.images_of(study.plan("smoke", raters=raters, **asked).spec("soft", 0)) for raters in ("all", "complete")
    )
    assert set(all_of_them.votes.sum(axis=1)) == {12}
    assert set(complete.votes.sum(axis=1)) == {4}
    ratings = sets.read("micebone").ratings[:15, :4]
    assert np.array_equal(complete.truth, votes.count(ratings, 3) / 4)


def test_a_slice_is_the_split_of_the_folds_and_counted_from_one():
    put("micebone", side=32, raters=(4, 8))
    spec = study.plan("smoke", dataset="micebone", split_kind="slice").spec("soft", 1)
    data = inputs.images_of(spec)
    split = inputs.split_of(spec, data)
    assert set(data.fold[split.validation]) == {3}
    assert set(data.fold[split.test]) == {4}
    assert set(data.fold[split.train]) == {1, 2, 5}


@pytest.mark.parametrize(
    ("dataset", "asked", "message"),
    [
        ("set", {"raters": "complete"}, "'raters' is complete, expected all: no rater"),
        ("set", {"split_kind": "slice"}, "'split_kind' is slice, expected random: set has no"),
        ("set", {"raters": "some"}, "'raters' is 'some', expected one of all, complete"),
        ("synthetic", {"raters": "complete"}, "neither single raters nor folds"),
        ("synthetic", {"split_kind": "slice"}, "neither single raters nor folds"),
    ],
    ids=str,
)
def test_what_a_set_has_not_cannot_be_asked_of_it(dataset, asked, message):
    put("set")
    with pytest.raises(InputError, match=message):
        study.plan("smoke", dataset=dataset, **asked)


# Published runs


@pytest.fixture
def one():
    put("set")
    return study.plan("smoke", dataset="set", **SMALL)


def test_a_published_run_stands_in_where_the_data_are_not_and_only_there(publishing, one):
    publishing(one)
    take_away("set")
    again = study.plan("smoke", dataset="set", **SMALL)
    assert again == one
    found = ensure.ensure(again)
    assert [run.published for run in found] == [True, True]
    assert [run.spec for run in found] == one.specs()
    assert all(np.isfinite(run.metrics["kl"]) for run in found)
    with pytest.raises(InputError, match="'dataset' is 'set', expected one of synthetic"):
        study.plan("smoke", dataset="set", **SMALL | {"epochs": 3})
    put("set")
    assert [run.published for run in here(one)] == [False, False]
    spec = one.spec("soft", 0)
    assert ensure.find(spec).name == spec.key
    take_away("set")
    assert ensure.find(spec).name == f"published-{spec.key}"
    assert store.by_name(spec.key).folder != store.by_name(f"published-{spec.key}").folder


def test_a_published_run_stands_in_where_the_device_is_not_there(publishing, one, monkeypatch):
    from torch import cuda

    publishing(one)
    spec = one.spec("soft", 0)
    there = paths.published_folder() / spec.key
    on_gpu = study.plan("smoke", dataset="set", device="cuda", **SMALL).spec("soft", 0)
    content = json.loads((there / "spec.json").read_text()) | {"device": "cuda"}
    (there / "spec.json").write_text(json.dumps(content))
    remade(there)
    there.rename(there.with_name(on_gpu.key))
    for available in (False, True):
        monkeypatch.setattr(cuda, "is_available", lambda available=available: available)
        assert (ensure.find(on_gpu) is not None) is not available


def test_the_line_of_a_page_says_that_runs_are_published_and_what_differs(publishing, one):
    assert "trained on this machine" in about.line(one, here(one))
    publishing(one)
    take_away("set")
    folder = paths.published_folder() / one.spec("hard", 0).key
    made = json.loads((folder / "manifest.json").read_text())
    machine = {"system": "Plan9 mips", "cores": "3", "python": "3.11"}
    changed = {"machine": machine, "versions": made["versions"] | {"torch": "1.0"}}
    changed["code"] = made["code"] | {"learn.train": "another"}
    remade(folder, **changed)
    line = about.line(one, ensure.ensure(one))
    assert "trained on this machine" not in line
    for part in ("published", "Plan9 mips", "3 cores", "learn.train changed", "torch 1.0", "data file is not here"):
        assert part in line


def test_a_published_run_needs_fewer_files_and_each_of_them(publishing, one):
    publishing(one)
    folder = paths.published_folder() / one.spec("soft", 0).key
    for name in (*store.PUBLISHED_FILES, "manifest.json"):
        (folder / name).rename(folder / "away")
        with pytest.raises(InputError, match=rf"is not whole, {re.escape(name)} not found"):
            store.load(folder)
        (folder / "away").rename(folder / name)


def test_the_published_runs_of_a_set_are_named_by_the_profile_nearest_to_them(publishing):
    put("micebone", side=32)
    publishing(study.plan("smoke", dataset="micebone", **SMALL | {"splits": 2}))
    take_away("micebone")
    found = study.published("micebone")
    assert (found.profile, found.splits, found.shared["epochs"]) == ("smoke", 2, 2)
    assert found.changed == {"dataset": "micebone", "epochs": 2, "batch_size": 16}
    assert study.plan(found.profile, **found.changed) == found
    assert study.published("cifar10h") is None


def test_accuracy_against_official_labels_stands_beside_that_against_the_majority():
    put("fashion_mnist_h")
    found = here(study.plan("smoke", dataset="fashion_mnist_h", **SMALL))
    official = sets.read("fashion_mnist_h").official
    for row, run in zip(scored(found).to_dict("records"), found, strict=True):
        assert row["official"] == metrics.macro_accuracy(np.eye(3)[official[run.index]], run.predicted)
        assert row["macro_accuracy"] == run.metrics["macro_accuracy"]
        assert row["floor"] == metrics.noise_floor(sets.read("fashion_mnist_h").votes[run.index])
        assert row["kl_T_own"] == run.temperatures()["own targets"][1]


# The chapter


def test_a_set_is_left_out_trained_on_or_shown_as_published_by_what_there_is_of_it(publishing):
    assert ensure.sections(study.plan("smoke", **SMALL), {"dataset": None}) == {}
    put("fashion_mnist_h")
    small = {name: value for name, value in SMALL.items() if name != "splits"}
    for splits, n_runs in (({}, 2), ({"splits": 2}, 4)):  # one split, unless more are asked for
        ((name, part),) = ensure.sections(study.plan("smoke", **small, **splits), {}).items()
        assert (name, len(part.data.ids), len(part.runs)) == ("fashion_mnist_h", 60, n_runs)
        assert not any(run.published for run in part.runs)
    take_away("fashion_mnist_h")
    put("cifar10h")
    publishing(study.plan("smoke", dataset="cifar10h", **SMALL))
    take_away("cifar10h")
    part = ensure.sections(study.plan("quick"), {})["cifar10h"]
    assert part.data is None
    assert [run.published for run in part.runs] == [True, True]
    assert np.isfinite(scored(part.runs)["floor"]).all()


def test_the_parameters_of_the_chapter_choose_set_raters_and_split(publishing):
    put("micebone", side=32, raters=(4, 8))
    put("fashion_mnist_h")
    asked = {"dataset": "micebone", "raters": "complete", "split_kind": "slice"}
    ((name, part),) = ensure.sections(study.plan("smoke", **SMALL), asked).items()
    assert name == "micebone"
    assert {run.spec.raters for run in part.runs} == {"complete"}
    assert set(part.runs[0].stored("test_votes").sum(axis=1)) == {4}
    assert set(part.data.fold[part.runs[0].index]) == {3}
    with pytest.raises(InputError, match="'dataset' is 'mnist', expected one of micebone, fashion_mnist_h, cifar10h"):
        ensure.sections(study.plan("smoke"), {"dataset": "mnist"})


def test_a_temperature_is_fitted_on_validation_images_and_scored_on_test_images():
    put("fashion_mnist_h")
    run = execute.execute(study.plan("smoke", dataset="fashion_mnist_h", **SMALL).spec("hard", 0))
    logits, soft = run.stored("validation_logits"), run.stored("validation_truth")
    one_hot = np.eye(3)[soft.argmax(axis=1)]
    for name, truth in (("own targets", one_hot), ("soft truth", soft)):
        t, kl = run.temperatures()[name]
        assert t == metrics.temperature(logits, truth)
        assert kl == metrics.kl(run.truth, metrics.softmax(run.stored("test_logits") / t))
    soft_run = execute.execute(study.plan("smoke", dataset="fashion_mnist_h", **SMALL).spec("soft", 0))
    assert len(set(soft_run.temperatures().values())) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("sets", "n_figures", "n_sets"),
    [
        pytest.param("none", 0, 0, id="without any real set"),
        pytest.param("all", 7, 3, id="with all three"),
        pytest.param("published", 1, 1, id="with published runs of one alone"),
    ],
)
def test_the_chapter_is_whole_whatever_sets_there_are(tmp_path, monkeypatch, publishing, sets, n_figures, n_sets):
    monkeypatch.delenv("MPLBACKEND", raising=False)
    if sets == "all":
        put("micebone", side=32, raters=(4, 8))
        put("fashion_mnist_h")
        put("cifar10h", side=32, colour=True)
    if sets == "published":
        put("cifar10h")
        publishing(study.plan("smoke", dataset="cifar10h", **SMALL))
        take_away("cifar10h")
    shutil.copytree(ROOT / "src", paths.project_folder() / "src")  # the kernel's package is that of the project
    (paths.project_folder() / "results").mkdir(exist_ok=True)
    for table in (ROOT / "results").glob("grid_*"):
        shutil.copy(table, paths.project_folder() / "results")
    monkeypatch.setenv("PYTHONPATH", str(paths.project_folder() / "src"))
    chapter, out = paths.project_folder() / "notebooks" / "06_real_votes.ipynb", tmp_path / "out.ipynb"
    papermill.execute_notebook(chapter, out, {"profile": "smoke", **SMALL}, kernel_name="python3", progress_bar=False)
    notebook = nbformat.read(out, as_version=4)
    assert execution.unfinished(notebook) == []
    figures = [o for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(figures) == n_figures
    claims = {o.record["claim"]: o.record for o in pages.outputs("06", notebook) if "claim" in o.record}
    assert claims["kl_real"]["decided"] is (n_sets > 0)
