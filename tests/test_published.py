"""The studies that come with the project: how they are written, read, shown and held against themselves."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import pages, report, status, verify
from beyond_hard_labels.runs import fresh, maps, publish, store, study
from conftest import ROOT, TINY, remade
from test_real_votes import SMALL, here, one, publishing, put, sections_train_here, take_away  # noqa: F401

pytestmark = pytest.mark.usefixtures("sections_train_here")


@pytest.fixture
def drawn(publishing):
    """A published study on the synthetic set, and its runs as they were before."""
    made = study.plan("smoke", **TINY)
    before = here(made)
    kept = [(run.scores(), run.predicted) for run in before]
    publishing(made)
    return made, kept


def arrays(run):
    with np.load(run.folder / "predictions.npz") as file:
        return dict(file)


def test_a_published_run_prints_what_the_local_one_did(drawn):
    made, before = drawn
    for spec, (scores, predicted) in zip(made.specs(), before, strict=True):
        run = store.published(spec)
        assert publish.as_printed(run.scores()) == publish.as_printed(scores)
        stored = json.loads((run.folder / "scores.json").read_text())
        assert publish.as_printed(stored) == publish.as_printed(scores)
        np.testing.assert_allclose(run.predicted, predicted, atol=2e-3)


def test_a_published_run_has_neither_weights_nor_features_and_a_map_in_split_0_only(drawn):
    made, _ = drawn
    for spec in made.specs():
        names = {path.name for path in store.published(spec).folder.iterdir()}
        assert names - {"map.npz"} == {*store.PUBLISHED_FILES, "manifest.json"}
        assert ("map.npz" in names) == (spec.split == 0)
    plane, settings = store.published(made.specs()[0]).published_map()
    assert plane.shape == (len(store.published(made.specs()[0]).index), 2)
    assert settings["iterations"] == made.tsne_iterations


def test_the_votes_of_others_are_not_passed_on_and_their_scores_are_read(publishing, one):
    local = here(one)
    before = {run.spec.key: run.scores() for run in local}
    publishing(one)
    take_away("set")
    for spec in one.specs():
        run = store.published(spec)
        assert set(arrays(run)) == {"test_index", "test_logits", "validation_index", "validation_logits"}
        assert run.truth is None
        assert publish.as_printed(run.scores()) == publish.as_printed(before[spec.key])
    table = report.arm_table([store.published(spec) for spec in one.specs()])
    assert re.fullmatch(r"\d\.\d{4}", table["floor, analytic"][0])


def test_a_published_run_without_a_map_is_named(drawn):
    made, _ = drawn
    run = store.published(made.specs()[0])
    (run.folder / "map.npz").unlink()
    with pytest.raises(InputError, match=rf"{run.spec.key} has no map, expected map\.npz"):
        maps.map_of(made, run)
    with pytest.raises(files.Damaged, match=rf"{run.spec.key} is not whole, map\.npz not found"):
        store.load(run.folder)


def test_of_a_published_run_the_map_is_measured_and_its_features_are_said_not_to_be_there(drawn):
    made, _ = drawn
    table = report.map_quality(made, [store.published(spec) for spec in made.specs()])
    assert set(table["trustworthiness"]) == {"features not published"}
    assert table["neighbour agreement, map"].astype(float).between(0, 1).all()


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
    assert verify.published_faults() == (len(made.specs()), 0, [])
    run = store.published(made.specs()[0])
    change_a_logit(run)
    if sealed:
        remade(run.folder)
    *_, (fault,) = verify.published_faults()
    assert run.spec.key in fault
    assert ("its predictions give" if sealed else "predictions.npz not as it was stored") in fault


def test_scores_without_truth_are_computed_again_where_the_set_is_here(publishing, one):
    publishing(one)
    assert verify.published_faults() == (2, 0, [])
    run = store.published(one.specs()[0])
    change_a_logit(run)
    remade(run.folder)
    *_, (fault,) = verify.published_faults()
    assert "its predictions give" in fault
    take_away("set")
    assert verify.published_faults() == (0, 2, [])  # nothing to hold them against


def test_a_published_run_is_fresh_until_code_that_made_it_changes(drawn, monkeypatch):
    def states():
        return {item.state for item in status.items() if item.kind == "published run"}

    assert states() == {"fresh"}
    monkeypatch.setattr(fresh, "versions", lambda *packages: dict.fromkeys(packages, "0.1"))
    assert states() == {"fresh"}  # a number is no less true with a newer torch
    monkeypatch.setattr(fresh, "code_fingerprints", lambda *modules: dict.fromkeys(modules, "another"))
    assert states() == {"stale"}


def test_every_study_to_publish_is_shown_or_named_with_its_command(publishing, bhl):
    found = publish.entries()
    assert [entry.runs for entry in found] == [[]] * len(found)
    for entry in found:
        assert entry.command in publish.open_rows(found)
    assert publish.badges(found) == "No study is published yet."


def test_a_published_study_has_a_row_below_the_papers_and_a_badge(publishing, monkeypatch):
    asked = {"profile": "smoke", **TINY}
    monkeypatch.setattr(publish, "read_profile", lambda name: {"tiny": asked, "other": {**asked, "epochs": 3}})
    made = publishing(study.plan(**asked))
    found = publish.entries()
    table = publish.table(found)
    assert table["source"].map(report.plain).tolist() == ["paper, Table 1", "tiny"]
    scores = report.scores([store.published(spec) for spec in made.specs()]).groupby("labels")["kl"]
    expected = report.plus_minus(scores.mean()["soft"], scores.std()["soft"])
    assert table["soft: KL ↓"].tolist() == ["0.0394 ± 0.0009", expected]
    assert "published runs, trained on" in publish.badges(found)
    assert "`bhl study --profile smoke" in publish.open_rows(found)
    assert "tiny" not in publish.open_rows(found)


def test_a_class_is_a_colour_and_a_shape_and_each_is_counted(drawn):
    made, _ = drawn
    found = [publish.Entry("tiny", "", made, [store.published(spec) for spec in made.specs()])]
    (row,) = publish.attributes(found).to_dict("records")
    for run in found[0].runs:
        true, said = ([run.manifest["classes"][k] for k in rows.argmax(axis=1)] for rows in (run.truth, run.predicted))
        for place, name in enumerate(("colour", "shape")):
            right = np.mean([a[place] == b[place] for a, b in zip(true, said, strict=True)])
            assert row[f"{run.spec.labels}: {name}"] == f"{right:.4f}"


def test_of_the_papers_size_the_front_page_says_how_many_numbers_are_near_the_papers(drawn, monkeypatch):
    made, _ = drawn
    of_project = [store.published(spec) for spec in made.specs()]
    found = [publish.Entry("tiny", "", replace(made, profile="paper"), of_project)]
    assert "no run at its size" in publish.at_full_size([found[0]._replace(runs=[])])
    measured = {(run.spec.labels, name): run.metrics[name] for run in of_project for name in ("macro_accuracy", "kl")}
    kl = measured["soft", "kl"]
    for far in (0.19, 0.21):  # with a deviation of 0.1
        paper = {name: (value, 0.0) for name, value in measured.items()} | {("soft", "kl"): (kl + far, 0.1)}
        monkeypatch.setitem(report.PAPER, "synthetic", paper)
        said = publish.at_full_size(found)
        assert f"{4 if far < 0.2 else 3} of the four within two" in said
        assert f"/ {kl:.3f} (soft)" in said


def test_pages_of_published_runs_stand_beside_those_of_local_ones_and_follow_from_their_own_predictions(
    drawn, tmp_path
):
    made, _ = drawn
    groups = [(made, here(made)), (made, [store.published(spec) for spec in made.specs()])]
    _, records = pages.write(tmp_path / "runs", groups)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "printed.json").write_text(json.dumps(records))
    keys = [spec.key for spec in made.specs()]
    assert {f"runs/{name}.md" for key in keys for name in (key, f"published-{key}")} < set(records)
    local, of_project = ((tmp_path / "runs" / f"{report.label(found)}.md").read_text() for _, found in groups)
    assert "**Published.**" in of_project
    assert "## Maps" in of_project
    assert "**Published.**" not in local
    checked, faults = verify.faults(tmp_path)
    assert (checked > 20, faults) == (True, [])
    change_a_logit(groups[1][1][0])
    remade(groups[1][1][0].folder)
    _, faults = verify.faults(tmp_path)
    assert faults
    assert all(report.label(groups[1][1]) in fault or f"published-{keys[0]}" in fault for fault in faults)


def test_what_is_here_is_published_again_and_what_is_not_is_refused(publishing, one, bhl):
    publishing(one)
    here(one)
    publishing(one)
    take_away("set")
    with pytest.raises(InputError, match="published already; nothing to publishing"):
        publish.publish(one)


# What the project itself publishes


def test_everything_in_results_follows_from_itself():
    assert paths.published_folder() == ROOT / "results"
    *_, faults = verify.published_faults()
    assert faults == []


def test_the_readme_has_the_rows_of_the_published_studies():
    text = (ROOT / "README.md").read_text()
    for row in publish.table([entry for entry in publish.entries() if entry.runs]).itertuples(index=False):
        for value in row[2:]:
            assert value in text.replace("**", ""), (row.source, value)
