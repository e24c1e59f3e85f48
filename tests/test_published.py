"""The studies that come with the project: how they are written, read, and held against themselves."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from beyond_hard_labels.analysis.scores import scores
from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import status
from beyond_hard_labels.data import sets
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.runs import ensure, fresh, maps, publish, store, study
from conftest import ROOT, TINY, remade

ON_FILE = {name: TINY[name] for name in ("epochs", "batch_size", "splits")} | {"tsne_iterations": 50}


def here(made):
    """Train in this process; another one would import everything once more."""
    return ensure.ensure(made, executor=ThreadPoolExecutor(1))


@pytest.fixture
def publishing(tmp_path, monkeypatch):
    """Return a function that trains a study and moves its runs into the project's published ones."""
    monkeypatch.setattr(paths, "project_folder", lambda: tmp_path / "project")
    monkeypatch.setattr(publish, "ensure", here)

    def publishing(made):
        publish.publish(replace(made, perplexity=3.0))
        shutil.rmtree(paths.build_folder() / "runs")
        return made

    return publishing


@pytest.fixture
def drawn(publishing):
    """A published study on the synthetic set, and its runs as they were before."""
    made = study.plan("smoke", **TINY)
    before = here(made)
    kept = [(run.scores(), run.predicted) for run in before]
    publishing(made)
    return made, kept


@pytest.fixture
def one():
    """A study on a set that is a file with votes."""
    draw = np.random.default_rng(0)
    counts = draw.multinomial(9, draw.dirichlet(np.full(3, 0.5), 60))
    images = draw.integers(0, 256, (60, 28, 28), np.uint8)
    folder = sets.folders()[1]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "voted.npz", images=images, counts=counts, class_names=np.array(["a", "b", "c"]))
    return study.plan("smoke", dataset="voted", **ON_FILE)


def take_away_the_set():
    (sets.folders()[1] / "voted.npz").unlink()


def arrays(run):
    with np.load(run.folder / "predictions.npz") as file:
        return dict(file)


def of_project(made):
    return [store.published(spec) for spec in made.specs()]


def test_a_published_run_prints_what_the_local_one_did_and_has_neither_weights_nor_features(drawn):
    made, before = drawn
    for run, (printed, predicted) in zip(of_project(made), before, strict=True):
        stored = json.loads((run.folder / "scores.json").read_text())
        assert publish.as_printed(run.scores()) == publish.as_printed(printed) == publish.as_printed(stored)
        np.testing.assert_allclose(run.predicted, predicted, atol=2e-3)
        names = {path.name for path in run.folder.iterdir()}
        assert names - {"map.npz"} == {*store.PUBLISHED_FILES, "manifest.json"}
        assert ("map.npz" in names) == (run.spec.split == 0)
    plane, settings = of_project(made)[0].published_map()
    assert plane.shape == (len(of_project(made)[0].index), 2)
    assert settings["iterations"] == made.tsne_iterations


def test_a_published_run_without_its_map_is_named(drawn):
    made, _ = drawn
    run = of_project(made)[0]
    (run.folder / "map.npz").unlink()
    with pytest.raises(InputError, match=rf"{run.spec.key} has no map, expected map\.npz"):
        maps.map_of(made, run)
    with pytest.raises(files.Damaged, match=rf"{run.spec.key} is not whole, map\.npz not found"):
        store.load(run.folder)


def test_the_votes_of_others_are_not_passed_on_and_their_scores_are_read(publishing, one):
    before = {run.spec.key: run.scores() for run in here(one)}
    publishing(one)
    assert publish.published_faults() == (0, 2, [])  # nothing to hold them against but checksums
    take_away_the_set()
    for run in of_project(one):
        assert set(arrays(run)) == {"test_index", "test_logits", "validation_index", "validation_logits"}
        assert run.truth is None
        assert publish.as_printed(run.scores()) == publish.as_printed(before[run.spec.key])


@pytest.mark.parametrize(("scale", "kept"), [(1.0, np.float16), (30.1, np.float32)])
def test_logits_are_rounded_only_where_no_printed_score_shows_it(publishing, scale, kept):
    run = here(study.plan("smoke", **TINY))[0]
    content = arrays(run)
    for name in ("test_logits", "validation_logits"):
        content[name] = np.float32(scale) * np.round(content[name], 1).astype(np.float16).astype(np.float32)
    np.savez_compressed(run.folder / "predictions.npz", **content)
    remade(run.folder)
    again = publish.publish_run(store.load(run.folder), None, {})
    assert {arrays(again)[name].dtype for name in ("test_logits", "validation_logits")} == {np.dtype(kept)}


def change_a_logit(run):
    content = arrays(run)
    content["test_logits"][:10] = -content["test_logits"][:10]
    np.savez_compressed(run.folder / "predictions.npz", **content)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_changed_published_run_is_found(drawn, sealed):
    made, _ = drawn
    assert publish.published_faults() == (len(made.specs()), 0, [])
    run = of_project(made)[0]
    change_a_logit(run)
    if sealed:
        remade(run.folder)
    *_, (fault,) = publish.published_faults()
    assert run.spec.key in fault
    assert ("its predictions give" if sealed else "predictions.npz not as it was stored") in fault


def test_a_retrained_run_is_equal_at_the_precision_in_which_it_was_published(drawn):
    made, _ = drawn
    run = of_project(made)[0]
    np.savez_compressed(
        run.folder / "predictions.npz",
        **{n: a.astype(np.float16) if "logits" in n else a for n, a in arrays(run).items()},
    )
    remade(run.folder)
    run = store.load(run.folder)
    table, equal = publish.compare(run, {"kl": 0.0, "macro_accuracy": 0.0})
    assert equal
    assert table["difference"].tolist() == [0, 0]
    assert table["within"].all()
    change_a_logit(run)
    remade(run.folder)
    table, equal = publish.compare(store.load(run.folder), {"kl": 0.0})
    assert not equal
    assert not table["within"].any()


def test_a_new_metric_breaks_no_published_run(drawn, one, publishing, monkeypatch):
    publishing(one)
    before = publish.published_faults()
    metric = metrics.Metric(lambda truth, predicted: float(predicted.max(axis=1).mean()), "confidence", 0)
    monkeypatch.setitem(metrics.METRICS, "confidence", metric)
    assert publish.published_faults() == before
    take_away_the_set()
    known, unknown = (scores(of_project(made))["confidence"] for made in (drawn[0], one))
    assert known.between(0, 1).all()
    assert unknown.isna().all()  # without the truth it cannot be computed
    with pytest.raises(InputError, match="has no score confidence"):
        publish.compare(of_project(one)[0], {"confidence": 0.1})


def test_a_published_run_is_fresh_until_code_that_made_it_changes(drawn, monkeypatch):
    def states():
        return {item.state for item in status.items() if item.kind == "published run"}

    assert states() == {"fresh"}
    monkeypatch.setattr(fresh, "versions", lambda *packages: dict.fromkeys(packages, "0.1"))
    assert states() == {"fresh"}  # a number is no less true with a newer torch
    monkeypatch.setattr(fresh, "code_fingerprints", lambda *modules: dict.fromkeys(modules, "another"))
    assert states() == {"stale"}


def test_every_study_to_publish_has_its_runs_or_none_and_the_command_that_trains_it(publishing, monkeypatch):
    asked = {"profile": "smoke", **TINY}
    monkeypatch.setattr(publish, "read_profile", lambda name: {"tiny": asked, "other": {**asked, "epochs": 3}})
    made = publishing(study.plan(**asked))
    tiny, other = publish.entries()
    assert [run.name for run in tiny.runs] == [run.name for run in of_project(made)]
    assert (other.title, other.runs) == ("other", [])
    assert other.command == other.command.strip()
    assert other.study == study.plan("smoke", **TINY | {"epochs": 3})
    assert all(f"--set {name}=" in other.command for name in TINY)


def test_what_is_here_is_published_again_and_what_is_not_is_refused(publishing, one):
    publishing(one)
    here(one)
    publishing(one)
    take_away_the_set()
    with pytest.raises(InputError, match="published already; nothing to publish"):
        publish.publish(one)


# What the project itself publishes


def test_everything_in_results_follows_from_itself():
    assert paths.published_folder() == ROOT / "results"
    *_, faults = publish.published_faults()
    assert faults == []
