import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from beyond_hard_labels import cli
from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import sets, votes
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.runs import ensure, execute, fresh, grids, inputs, store, study
from conftest import TINY, remade, set_options

SMALL = TINY | {"n_images": 60}


def put(name, n=80, seed=0):
    """Put a set of so many random images with three classes and up to twelve votes each into the cache."""
    draw = np.random.default_rng(seed)
    counts = draw.multinomial(draw.integers(4, 13, n), [0.5, 0.3, 0.2])
    images = draw.integers(0, 256, (n, 28, 28), dtype=np.uint8)
    folder = sets.folders()[1]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", images=images, counts=counts, class_names=np.array(["a", "b", "c"]))


def small():
    return study.plan("smoke", **SMALL)


def train(specs):
    return ensure.ensure_specs(specs, executor=ThreadPoolExecutor(1))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project's folder of published results that is the test's own."""
    monkeypatch.setattr(paths, "project_folder", lambda: tmp_path)
    return tmp_path / "results"


@pytest.mark.parametrize("grid", grids.GRIDS)
@pytest.mark.parametrize(("profile", "which"), [("quick", "full"), ("quick", "slice"), ("smoke", "slice")])
def test_every_part_varies_only_what_its_rows_show_and_holds_both_arms_of_each_cell(grid, profile, which):
    for name in ("fashion_mnist_h", "cifar10h", "ferplus20k"):
        put(name)
    found = grids.parts(grid, study.plan(profile), which=which)
    assert found or grid in ("ferplus", "structure", "real")  # which have no slice
    for name, specs in found.items():
        assert len({json.dumps({k: v for k, v in asdict(s).items() if k not in grids.VARYING}) for s in specs}) == 1
        assert len(set(specs)) == len(specs)
        arms = [{replace(s, labels="soft") for s in specs if s.labels == kind} for kind in votes.LABEL_KINDS]
        assert arms[0] == arms[1] or name in ("smoothing", "budget") or grid == "mechanism"


def test_the_slices_see_few_images_and_the_full_grids_no_more_than_a_day_of_two_cores_can():
    seen = {
        which: sum(
            grids.plan_table(grids.parts(grid, study.plan("quick"), which=which))["image-epochs"].iloc[-1]
            for grid in grids.GRIDS
        )
        for which in ("slice", "full")
    }
    own_study = sum(map(grids.images_seen, study.plan("quick").specs()[:4]))  # trained anyhow
    assert seen["slice"] - own_study < 8 * 60 * 2 * 1500  # minutes, seconds, cores, images a second that a core trains
    assert seen["full"] < 24 * 3600 * 2 * 1500


def test_what_a_plan_counts_is_what_is_missing_and_each_run_once():
    of_parts = grids.parts("when", small())
    execute.execute(of_parts["main"][0])
    table = grids.plan_table(of_parts | {"again": of_parts["main"]}).set_index("part")
    assert "again" not in table.index
    assert table.loc["main"].tolist() == [6, 5, 36 * (1 + 3 + 3) + 2 * 18]
    assert table.loc["all", "runs"] == len({spec for specs in of_parts.values() for spec in specs})


def test_the_long_runs_of_the_quick_slice_are_those_of_the_books_own_study():
    own = set(study.plan("quick").specs())
    assert {spec for spec in grids.parts("when", study.plan("quick"))["main"] if spec.epochs == 30} < own


def test_parts_on_a_set_that_is_not_here_are_left_out_and_named():
    assert "cifar10h" not in grids.parts("votes", small())
    assert grids.left_out("votes") == {"fashion_mnist_h": "fashion_mnist_h", "cifar10h": "cifar10h"}
    put("cifar10h")
    assert {spec.dataset for spec in grids.parts("votes", small())["cifar10h"]} == {"cifar10h"}
    assert list(grids.left_out("votes")) == ["fashion_mnist_h"]


def test_what_a_study_changes_holds_in_its_grids_but_for_what_the_grid_varies():
    specs = grids.parts("when", study.plan("smoke", **(SMALL | {"batch_size": 8})))["main"]
    assert {(spec.n_images, spec.image_size, spec.batch_size, spec.split) for spec in specs} == {(60, 16, 8, 0)}
    assert {spec.epochs for spec in specs} == {1, 3}
    put("fashion_mnist_h", n=40)
    spec = grids.parts("when", small())["fashion_mnist_h"][0]
    assert (spec.n_images, spec.image_size, spec.augment_flip_y) == (40, 28, False)


def test_an_unknown_grid_is_named_with_the_known_ones():
    with pytest.raises(InputError, match="grid is 'whenever', expected one of when, votes"):
        grids.parts("whenever", small())


def test_a_row_holds_the_metrics_and_temperatures_of_its_run():
    specs = grids.parts("votes", small())["synthetic"][:2]
    run = train(specs)[0]
    row = grids.rows([run]).iloc[0]
    assert (row["kl"], row["macro_accuracy"]) == (run.metrics["kl"], run.metrics["macro_accuracy"])
    assert row["kl_one_hot"] == metrics.one_hot_kl(run.truth, run.predicted)
    assert (row["temperature"], row["kl_scaled"]) == run.temperatures()["own targets"]
    assert (row["temperature_truth"], row["kl_scaled_truth"]) == run.temperatures()["soft truth"]
    assert (row["votes_per_image"], row["training_images"], row["floor"]) == (1, 36, 0)
    assert row["label_floor"] == pytest.approx(((run.truth > 0).sum(axis=1) - 1).mean() / 2)
    pure = (run.truth.max(axis=1) == 1).mean()
    assert row["right"] == pytest.approx(pure * row["right_pure"] + (1 - pure) * row["right_ambiguous"])
    assert row["right_colour"] + row["right_shape"] - 1 <= row["right"] <= min(row["right_colour"], row["right_shape"])


def test_a_curve_counts_epochs_and_the_images_seen():
    run = train(grids.parts("when", study.plan("smoke", **SMALL))["main"][2:4])[0]
    table = grids.curves([run])
    assert table["epoch"].tolist() == list(range(1, run.spec.epochs + 1))
    assert table["examples"].tolist() == [36 * epoch for epoch in table["epoch"]]
    assert table["kl"].tolist() == run.history["kl"].tolist()


def divergence(share, truth):
    return np.where(share > 0, share * np.log(np.where(share > 0, share, 1) / truth), 0).sum(axis=1).mean()


def test_the_floor_of_labels_is_met_by_drawn_votes_and_by_votes_that_are_taken_without_replacement():
    truth, cast = np.tile([0.5, 0.3, 0.2], (20_000, 1)), np.tile([40, 24, 16], (20_000, 1))
    for m in (20, 60):
        drawn = divergence(votes.soft(votes.draw(truth, m, seed=0)), truth)
        taken = divergence(votes.soft(votes.subsample(cast, m, seed=0)[0]), votes.soft(cast))
        assert drawn == pytest.approx(grids.label_floor(truth, m), rel=0.08)
        assert taken == pytest.approx(grids.label_floor(cast, m), rel=0.08)
    assert grids.label_floor(truth, 0) == grids.label_floor(cast, 80) == grids.label_floor(cast, 200) == 0


def test_results_are_the_slice_that_is_trained_where_missing_and_found_again(monkeypatch):
    monkeypatch.setattr(grids, "ensure_specs", train)
    first = grids.results("votes", small())
    assert list(grids.to_train("votes", small())) == list(first.rows["part"].unique()) == ["synthetic", "budget"]
    assert set(first.curves["key"]) == set(first.rows["key"])
    pd.testing.assert_frame_equal(grids.results("votes", small()).rows, first.rows)


# A published grid is made of the smoke profile's slice here, since the full one takes hours.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of the runs of the slice, and the set that one part needs."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHL_BUILD_DIR", str(folder / "build"))
        patch.setenv("BHL_DATA_DIR", str(folder / "cache"))
        put("cifar10h", n=40)
        train([spec for part in grids.parts("votes", small()).values() for spec in part])
    return folder


@pytest.fixture
def published(trained, tmp_path, project, monkeypatch):
    """The slice of the grid `votes`, published as if it were the full one."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    of_size = grids._specs
    monkeypatch.setattr(grids, "_specs", lambda part, asked, which, *rest: of_size(part, asked, "smoke", *rest))
    assert grids.publish("votes", small()) == ["synthetic", "budget", "cifar10h"]
    return project


def test_a_published_grid_is_shown_in_place_of_runs_also_without_them_and_without_its_set(published, monkeypatch):
    trained = grids.rows(train(grids.parts("votes", small())["cifar10h"]))
    (sets.folders()[1] / "cifar10h.npz").unlink()
    monkeypatch.setenv("BHL_BUILD_DIR", str(published / "elsewhere"))
    monkeypatch.setitem(metrics.METRICS, "newer", metrics.METRICS["kl"])
    of_project, shown = grids.published("votes"), grids.results("votes", study.plan("quick", perplexity=20.0))
    assert list(of_project) == list(shown.rows["part"].unique()) == ["synthetic", "budget", "cifar10h"]
    changes = {name: [(change.kind, change.name) for change in part.changes] for name, part in of_project.items()}
    assert changes == {"synthetic": [], "budget": [], "cifar10h": [("away", "data file")]}
    own = shown.rows[shown.rows["part"] == "cifar10h"].reset_index(drop=True)
    assert own["newer"].isna().all()  # a metric that came later
    pd.testing.assert_frame_equal(own[[*trained]], trained, rtol=1e-5, check_dtype=False)
    assert store.published_specs("cifar10h") == []  # these files are no runs


@pytest.mark.parametrize("asked", [{"profile": "smoke"}, {"profile": "quick", "batch_size": 8}, {"splits": 1}])
def test_a_study_with_other_parameters_is_not_answered_by_the_published_grid(published, asked):
    assert "synthetic" in grids.to_train("votes", study.plan(**asked))
    assert "synthetic" not in grids.to_train("votes", study.plan("quick"))


def test_what_the_project_publishes_of_its_grids_is_what_its_study_trains_in_full():
    for grid in grids.GRIDS:
        full = grids.parts(grid, study.plan("quick"), which="full")
        of_project = grids.published(grid)
        assert full or grids.left_out(grid)
        assert all(set(of_project[name].specs) == set(specs) for name, specs in full.items())


def test_a_published_part_that_cannot_be_trained_here_is_kept_when_others_are_published_again(published, monkeypatch):
    before = grids.published("votes")["cifar10h"]
    (sets.folders()[1] / "cifar10h.npz").unlink()
    assert grids.publish("votes", small()) == ["synthetic", "budget"]
    pd.testing.assert_frame_equal(grids.published("votes")["cifar10h"].rows, before.rows)


def test_a_part_that_is_not_wholly_trained_is_not_published(project):
    made = study.plan("smoke", **SMALL)
    train(grids.parts("when", made, which="full")["smoothing"][:1])
    assert grids.publish("when", made) == []
    assert not project.exists()


def test_a_part_is_made_of_what_its_runs_record_and_not_of_what_is_here_when_it_is_published(published, monkeypatch):
    monkeypatch.setattr(store, "find", lambda spec: store.load(paths.build_folder() / "runs" / spec.key))
    monkeypatch.setattr(fresh, "versions", lambda *packages: dict.fromkeys(packages, "9.9"))
    grids.publish("votes", small())
    changes = grids.published("votes")["synthetic"].changes
    assert {(change.kind, change.after) for change in changes} == {("version", "9.9")}


def test_a_part_of_runs_that_were_made_differently_is_refused_with_what_differs(published, monkeypatch):
    before = {path.name: path.read_bytes() for path in published.iterdir()}
    monkeypatch.setattr(store, "find", lambda spec: store.load(paths.build_folder() / "runs" / spec.key))
    first = grids.parts("votes", small(), which="full")["budget"][0]
    remade(paths.build_folder() / "runs" / first.key, versions={"torch": "0.1"})
    with pytest.raises(InputError, match=r"part 'budget' is not published: .*torch 0\.1 → |→ 0\.1"):
        grids.publish("votes", small())
    assert {path.name: path.read_bytes() for path in published.iterdir()} == before


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def other_number(path):
    manifest = path.with_name("grid_votes.json")
    about = files.read_sealed_json(manifest)
    path.write_text(path.read_text().replace("soft,0,small,linear,1", "soft,0,small,linear,2"))
    about["files"][path.name] = files.checksum(path)
    files.write_json(manifest, about, sealed=True)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("grid_votes_rows.csv", cut, "grid_votes_rows.csv is of sha256 .*, expected sha256"),
        ("grid_votes_curves.csv", lambda path: path.unlink(), "grid_votes_curves.csv is missing, expected sha256"),
        ("grid_votes.json", cut, "grid_votes.json is not as it was written"),
        ("grid_votes_rows.csv", other_number, "the rows of part '.*' are not the runs of its keys"),
    ],
)
def test_a_damaged_published_file_is_named_and_never_shown(published, name, damage, message):
    damage(published / name)
    with pytest.raises(InputError, match=message):
        grids.results("votes", study.plan("quick"))


def test_the_command_says_what_a_grid_takes_trains_nothing_and_refuses_options_that_do_not_fit(capsys):
    assert cli.main(["study", "--grid", "when", "--full", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "main " in said
    assert "fashion_mnist_h is left out" in said
    assert not (paths.build_folder() / "runs").exists()
    for options, message in (
        (["--grid", "when", "--publish"], "--publish is of the whole grid; expected --full with it"),
        (["--dry-run"], "--dry-run is of a grid; expected --grid NAME with it"),
        (["--grid", "nothing"], "grid is 'nothing', expected one of when, votes"),
    ):
        assert cli.main(["study", *options]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_grid_is_trained_by_processes_stopped_at_a_limit_and_gone_on_with_by_the_same_command(bhl):
    command = ["study", "--grid", "votes", "--profile", "smoke", *set_options(**SMALL)]
    stopped = bhl(*command, "--full", "--publish", "--time-limit", "0s")
    assert stopped.returncode == 75, stopped.stderr
    assert "no part is whole yet" in stopped.stdout
    done = bhl(*command)
    assert done.returncode == 0, done.stderr
    assert "all 8 runs are here" in done.stdout
    again = bhl(*command)
    assert "training" not in again.stderr
    assert "all 8 runs are here" in again.stdout


@pytest.mark.slow
def test_real_votes_are_taken_from_those_of_each_image_and_images_that_have_fewer_are_counted():
    put("cifar10h")
    spec = replace(grids.parts("votes", small())["cifar10h"][0], votes_per_image=6)
    data = inputs.images_of(spec)
    run = execute.execute(spec)
    few = data.votes[inputs.split_of(spec, data).train].sum(axis=1) < 6
    assert 0 < run.manifest["training_images_short_of_votes"] == few.sum()
    assert np.array_equal(run.stored("test_votes"), data.votes[run.index])
