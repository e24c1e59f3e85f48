import time
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import numpy as np
import pytest
import yaml

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.process import TimeUp
from beyond_hard_labels.runs import ensure, execute, inputs, study
from conftest import TINY


def test_a_study_holds_both_kinds_of_label_on_every_split():
    specs = study.plan("quick").specs()
    assert [(s.labels, s.split) for s in specs] == [(k, s) for s in range(3) for k in ("hard", "soft")]


@pytest.mark.parametrize("profile", study.PROFILES)
def test_every_profile_gives_every_parameter_once(profile):
    text = resources.files("beyond_hard_labels").joinpath(f"runs/profiles/{profile}.yml").read_text()
    assert set(yaml.safe_load(text)) == set(study.valid_parameters()) - {"profile", "protocol"}


def test_the_paper_profile_is_the_papers_protocol():
    spec = study.plan("paper").spec("soft", 0)
    assert (spec.backbone, spec.weights, spec.batch_size, spec.epochs) == ("densenet121", "imagenet", 128, 60)
    assert (spec.learning_rate, spec.schedule, spec.weight_decay, spec.decay) == (0.1, "cosine", 0.0005, "coupled")
    assert (spec.n_images, study.plan("paper").splits) == (15_000, 3)
    assert (study.plan("paper").perplexity, study.plan("paper").tsne_iterations) == (30, 5000)


def test_as_run_differs_from_as_written_in_learning_rate_and_decay_only():
    written, run = (study.plan("paper", protocol=p).shared for p in ("as_written", "as_run"))
    changed = {name: (written[name], run[name]) for name in written if written[name] != run[name]}
    assert changed == {
        "learning_rate": (0.1, 0.01),
        "schedule": ("cosine", "constant"),
        "weight_decay": (0.0005, 0.00005),
        "decay": ("coupled", "decoupled"),
    }
    assert study.plan("paper", protocol="as_run", learning_rate=0.3).shared["learning_rate"] == 0.3


def test_the_command_of_a_study_makes_it_again():
    from beyond_hard_labels.cli import _parser
    from beyond_hard_labels.commands import _plan

    made = study.plan("smoke", epochs=3, class_weights=True, schedule="constant", learning_rate=0.2)
    again = _plan(_parser().parse_args(["study", *made.command.split()]))
    assert again == made


@pytest.mark.slow
def test_one_worker_and_two_and_another_executor_give_the_same_predictions(tmp_path, monkeypatch):
    predicted = []
    for name, options in (
        ("one", {"workers": 1}),
        ("two", {"workers": 2}),
        ("threads", {"executor": ThreadPoolExecutor(1)}),
    ):
        monkeypatch.setenv("BHL_BUILD_DIR", str(tmp_path / name))
        predicted.append([run.predicted for run in ensure.ensure(study.plan("smoke", **TINY), **options)])
    assert all(np.array_equal(a, b) for other in predicted[1:] for a, b in zip(predicted[0], other, strict=True))


def test_only_missing_runs_are_trained_and_a_time_limit_keeps_those_that_are_finished():
    small = study.plan("smoke", **TINY)
    written = (execute.execute(small.spec("hard", 0)).folder / "manifest.json").stat().st_mtime_ns
    with pytest.raises(TimeUp, match="0 runs finished now, 1 missing"):
        ensure.ensure(small, executor=ThreadPoolExecutor(1), deadline=time.time() - 1)
    found = ensure.ensure(small, executor=ThreadPoolExecutor(1))
    assert [run.spec for run in found] == small.specs()
    assert (found[0].folder / "manifest.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param(
            {"epocs": 3}, r"unknown parameter 'epocs' \(did you mean 'epochs'\?\); valid: .*batch_size", id="typo"
        ),
        pytest.param({"epochs": "3"}, "'epochs' is '3', expected an integer, at least 1", id="text for a number"),
        pytest.param({"epochs": 2.5}, "'epochs' is 2.5, expected an integer", id="fraction for an integer"),
        pytest.param({"epochs": True}, "'epochs' is True, expected an integer", id="truth value for an integer"),
        pytest.param({"epochs": 0}, "'epochs' is 0, expected an integer, at least 1", id="too small"),
        pytest.param(
            {"learning_rate": -0.1}, "'learning_rate' is -0.1, expected a finite number, above 0", id="negative"
        ),
        pytest.param({"learning_rate": float("nan")}, "'learning_rate' is nan, expected a finite number", id="NaN"),
        pytest.param(
            {"learning_rate": float("inf")}, "'learning_rate' is inf, expected a finite number", id="infinite"
        ),
        pytest.param({"schedule": "cosin"}, "expected one of cosine, warm_restarts, constant", id="unknown choice"),
        pytest.param({"class_weights": 1}, "expected true or false", id="number for a truth value"),
        pytest.param({"splits": 0, "ties": "last"}, "'splits' is 0.*; parameter 'ties' is 'last'", id="two at once"),
        pytest.param({"profile": "fast"}, "'fast', expected one of smoke, quick, paper", id="unknown profile"),
        pytest.param({"labels": "soft"}, "unknown parameter 'labels'", id="a field of a run, not of a study"),
    ],
)
def test_bad_parameters_are_named_with_what_was_expected(overrides, message):
    with pytest.raises(InputError, match=message):
        study.plan(**{"profile": "smoke", **overrides})


def test_labels_of_few_votes_are_the_same_votes_for_both_kinds_and_scored_against_the_full_truth():
    made = study.plan("smoke", **TINY, votes_per_image=3)
    data = inputs.images_of(made.spec("soft", 0))
    hard, soft = (inputs.labels_of(made.spec(labels, 0), data) for labels in ("hard", "soft"))
    assert np.allclose(soft.rows * 3, np.round(soft.rows * 3))
    assert (soft.rows[hard.rows == 1] == soft.rows.max(axis=1)).all()
    run, _ = ensure.find_or_train(made.spec("soft", 0))
    assert np.array_equal(run.truth, data.truth[run.index])
    assert run.manifest["training_images_short_of_votes"] == 0


def test_one_vote_an_image_makes_both_kinds_of_label_equal_bit_by_bit():
    made = study.plan("smoke", **TINY, votes_per_image=1)
    hard, soft = (execute.execute(made.spec(labels, 0)) for labels in ("hard", "soft"))
    assert np.array_equal(hard.predicted, soft.predicted)


def test_a_share_of_the_training_images_is_counted_and_validation_and_test_images_stay():
    run, _ = ensure.find_or_train(study.plan("smoke", **TINY, train_share=0.5).spec("soft", 0))
    whole, _ = ensure.find_or_train(study.plan("smoke", **TINY).spec("soft", 0))
    assert (run.manifest["training_images"], whole.manifest["training_images"]) == (30, 60)
    assert np.array_equal(run.index, whole.index)
    assert np.array_equal(run.stored("validation_index"), whole.stored("validation_index"))


def test_smoothing_reaches_the_training_and_not_the_labels_that_a_temperature_is_fitted_to():
    run, _ = ensure.find_or_train(study.plan("smoke", **TINY, label_smoothing=0.3).spec("hard", 0))
    plain, _ = ensure.find_or_train(study.plan("smoke", **TINY).spec("hard", 0))
    assert not np.array_equal(run.predicted, plain.predicted)
    assert np.array_equal(run.stored("validation_labels"), plain.stored("validation_labels"))
    assert set(np.unique(plain.stored("validation_labels"))) == {0, 1}
