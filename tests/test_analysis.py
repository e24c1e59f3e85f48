"""The frames that the chapters show and draw: numbers worked by hand, and their invariants."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from beyond_hard_labels.analysis import images, paper, scores
from beyond_hard_labels.data import shapes
from beyond_hard_labels.learn.metrics import METRICS, Metric, kl, kl_rows
from beyond_hard_labels.learn.significance import corrected_t
from beyond_hard_labels.runs import ensure, inputs, study
from conftest import TINY

ONE, TWO = np.array([[1.0, 0.0], [0.5, 0.5], [0.3, 0.7]]), np.array([[0.8, 0.2], [0.9, 0.1], [0.4, 0.6]])


def a_run(labels="soft", split=0, accuracies=()):
    """Return what these functions read of a run, with numbers of one's own."""
    history = pd.DataFrame({"epoch": range(1, len(accuracies) + 1), "macro_accuracy": accuracies})
    parts = {"truth": ONE, "predicted": TWO, "index": np.array([10, 11, 12]), "history": history}
    return SimpleNamespace(spec=SimpleNamespace(labels=labels, split=split), name=f"{labels}-{split}", **parts)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHL_BUILD_DIR", str(tmp_path_factory.mktemp("build")))
        return [ensure.find_or_train(spec)[0] for spec in study.plan("smoke", **(TINY | {"splits": 2})).specs()]


def test_scores_have_a_row_a_run_and_a_column_a_metric_one_of_ones_own_too(finished):
    mine = {"agreement": Metric(lambda truth, predicted: float((truth * predicted).sum(axis=1).mean()), "agreement", 1)}
    rows = scores.scores(finished, METRICS | mine)
    assert list(rows.columns) == ["labels", "split", "run", *METRICS, "agreement"]
    for run, row in zip(finished, rows.to_dict("records"), strict=True):
        assert row["kl"] == kl(run.truth, run.predicted)
        assert row["agreement"] == (run.truth * run.predicted).sum(axis=1).mean()


@pytest.mark.parametrize(
    ("mean", "low", "high", "better"),
    [
        pytest.param(0.05, 0.01, 0.09, {("soft", "macro_accuracy"), ("hard", "kl")}, id="above zero"),
        pytest.param(-0.05, -0.09, -0.01, {("hard", "macro_accuracy"), ("soft", "kl")}, id="below zero"),
        pytest.param(0.05, -0.01, 0.11, set(), id="zero within"),
        pytest.param(0.05, np.nan, np.nan, set(), id="one split"),
        pytest.param(0.0, 0.0, 0.0, set(), id="a tie"),
    ],
)
def test_an_arm_is_better_only_where_the_interval_excludes_zero(mean, low, high, better):
    names = ["macro_accuracy", "kl", "one_hot_kl", "unknown"]  # neither side of the last two is better
    gaps = pd.DataFrame({"mean": mean, "low": low, "high": high}, index=names)
    assert scores.better(gaps) == better
    mine = {"unknown": Metric(kl, "a metric of one's own", -1)}
    assert scores.better(gaps, mine) == {(arm, "unknown") for arm, metric in better if metric == "kl"}


def test_curves_have_a_row_an_epoch_of_a_run_with_what_its_history_holds(finished):
    table = scores.curves(finished)
    assert len(table) == len(finished) * TINY["epochs"]
    for run in finished:
        own = table[table["run"] == run.name].drop(columns=["labels", "split", "run"])
        pd.testing.assert_frame_equal(own.reset_index(drop=True), run.history)


def test_the_loss_of_a_pure_image_is_that_of_its_colour_and_that_of_its_shape():
    truth = np.array([[0, 1, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0, 0]])  # the second is not pure
    logits = np.log([[[1, 3, 2, 2, 4, 4], [9, 1, 1, 1, 1, 1]], [[1, 1, 1, 1, 1, 1], [9, 1, 1, 1, 1, 1]]])
    stored = {"validation_truth": truth, "validation_logits": logits}
    made = SimpleNamespace(
        published=False, spec=SimpleNamespace(labels="soft", split=0), stored=lambda n, *_: stored[n]
    )
    parts = scores.loss_parts([made])
    assert parts["colour"].tolist() == pytest.approx(np.log([4, 3]))
    assert parts["shape"].tolist() == pytest.approx(np.log([4 / 3, 2]))


def test_the_first_epoch_at_a_threshold_is_found_run_by_run_and_is_a_gap_where_none_is():
    runs = [a_run("soft", 0, accuracies=(0.5, 0.8, 0.7, 0.9)), a_run("hard", 0, accuracies=(0.5, 0.6, 0.7, 0.8))]
    found = scores.epochs_to(scores.curves(runs), [0.8, 0.9, 1.0])
    assert found["threshold"].tolist() == [0.8, 0.9, 1.0]
    assert found["hard"].tolist() == [4, pd.NA, pd.NA]
    assert found["soft"].tolist() == [2, 4, pd.NA]


def test_reliability_is_against_both_kinds_of_truth_and_leaves_out_empty_bins():
    table = scores.reliability([a_run(), a_run(split=1)]).set_index(["labels", "against"])
    soft, one_hot = table.loc[("soft", "soft truth")], table.loc[("soft", "one-hot truth")]
    assert soft["size"].tolist() == one_hot["size"].tolist() == [2, 2, 2]  # both runs, a bin an image
    assert soft["confidence"].tolist() == pytest.approx([0.6, 0.8, 0.9])
    assert soft["agreement"].tolist() == pytest.approx([0.7, 1.0, 0.5])
    assert one_hot["agreement"].tolist() == [1, 1, 1]


def test_by_image_has_what_each_prediction_comes_to():
    found = images.by_image([a_run(), a_run("hard", 1)])
    assert found["labels"].tolist() == ["soft"] * 3 + ["hard"] * 3
    own = found[:3]
    assert own["image"].tolist() == [10, 11, 12]
    assert own["leading"].tolist() == own["predicted"].tolist() == [0, 0, 1]
    assert own["right"].all() and own["pure"].tolist() == [True, False, False]
    assert own["margin"].tolist() == pytest.approx([1, 0, 0.4])
    assert own["confidence"].tolist() == pytest.approx([0.8, 0.9, 0.6])
    assert own["overlap"].tolist() == pytest.approx([0.8, 0.6, 0.9])
    assert own["entropy"].tolist()[:2] == pytest.approx([0, np.log(2)])
    assert own["kl"].tolist() == kl_rows(ONE, TWO).tolist()


def test_the_spread_of_ambiguity_runs_from_the_surest_to_the_least_sure():
    truth = np.array([[0.5, 0.5], [1.0, 0.0], [0.8, 0.2]])
    assert images.spread_of_ambiguity(truth, 3).tolist() == [1, 2, 0]
    assert images.spread_of_ambiguity(truth, 2).tolist() == [1, 0]


@pytest.mark.parametrize(("channels", "names"), [(3, ["red", "green", "blue"]), (1, ["grey"])])
def test_channel_moments_are_those_of_the_pixels(channels, names):
    pixels = np.random.default_rng(0).integers(0, 256, (4, channels, 5, 6), dtype=np.uint8)
    found = images.channel_moments(pixels)
    assert found.index.tolist() == names
    assert found["mean"].tolist() == pytest.approx((pixels / 255).mean(axis=(0, 2, 3)))
    assert found["std"].tolist() == pytest.approx((pixels / 255).std(axis=(0, 2, 3)))


def test_a_description_of_a_set_counts_images_classes_and_ambiguity():
    found = images.describe(shapes.synthetic(50, 16, 0))
    assert (found["images"], found["shape"], found["unanimous"]) == (50, [3, 16, 16], 0.4)
    assert sum(found["majority"].values()) == 50
    assert "tied" not in found  # it has no votes


def test_the_papers_differences_lie_within_the_bounds_that_its_deviations_leave():
    found = paper.differences().set_index(["dataset", "metric"])
    accuracy, divergence = found.loc[("synthetic", "macro_accuracy")], found.loc[("synthetic", "kl")]
    assert (accuracy["mean"], accuracy["least"]) == pytest.approx((0.0849, 0.1276), abs=5e-5)
    assert (divergence["mean"], divergence["most"]) == pytest.approx((-0.3743, 0.2969), abs=5e-5)
    assert found.loc[("micebone", "macro_accuracy"), "least"] == pytest.approx(0.0714, abs=5e-5)
    assert found.loc[("micebone", "kl"), "most"] == pytest.approx(0.4623, abs=5e-5)


@pytest.mark.parametrize("correlation", [-1, 0, 0.5, 1])
def test_no_correlation_of_the_arms_gives_an_interval_outside_the_papers_bounds(correlation):
    basis = np.linalg.qr(np.array([[1, 1, 0], [1, -1, 1], [1, 0, -1]]))[0][:, 1:]  # two directions of mean 0
    hard = 0.05002 * np.sqrt(2) * basis[:, 0]
    soft = 0.0137 * np.sqrt(2) * (correlation * basis[:, 0] + np.sqrt(1 - correlation**2) * basis[:, 1])
    interval, bounds = corrected_t(soft - hard + 0.0849), paper.differences().iloc[3]
    assert bounds["least"] - 1e-9 <= (interval.high - interval.low) / 2 <= bounds["most"] + 1e-9


def test_the_exact_set_is_what_the_comparison_with_the_archive_takes_it_for():
    data = inputs.images_of(study.plan("smoke").spec("soft", 0))
    assert (data.truth > 0).sum(axis=1).mean() == pytest.approx(0.4 * 1 + 0.6 * 4)
