"""What predictions are worth to who decides by them, and the shape of spaces of features."""

from types import SimpleNamespace

import numpy as np
import pytest

from beyond_hard_labels.analysis import structure
from beyond_hard_labels.analysis.decisions import prediction_sets, risk_and_coverage, weighted_quantile
from beyond_hard_labels.data import shapes

RNG = np.random.default_rng(0)


def run(truth, predicted, on_validation=None, validation_truth=None):
    stored = {
        "validation_logits": np.log(predicted if on_validation is None else on_validation),
        "validation_truth": validation_truth,
    }
    spec = SimpleNamespace(labels="soft", split=0)
    return SimpleNamespace(spec=spec, truth=truth, predicted=predicted, stored=stored.get)


def test_risk_is_that_of_the_surest_images():
    truth = np.array([[1.0, 0.0], [0.4, 0.6], [0.2, 0.8], [0.0, 1.0]])
    predicted = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])  # the second is wrong, and least sure
    found = risk_and_coverage([run(truth, predicted)], [0.25, 0.75, 1.0])
    assert found["wrong"].tolist() == [0, 0, 0.25]
    assert found["disagreement"].tolist() == pytest.approx([0, 0.2 / 3, 0.8 / 4])


def test_sets_hold_the_share_of_the_votes_that_was_asked_for_whatever_the_model():
    validation, test = RNG.dirichlet(np.ones(5), (2, 4000))
    of_noise = RNG.dirichlet(np.ones(5), (2, 4000))
    for on_validation, on_test in ((validation, test), of_noise):  # who knows all, and who knows nothing
        found = prediction_sets([run(test, on_test, on_validation, validation)], 0.9)
        assert found["coverage"].item() == pytest.approx(0.9, abs=0.02)


def test_a_weighted_quantile_leaves_at_most_its_share_below():
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([0.5, 0.2, 0.3])
    assert [weighted_quantile(values, weights, share) for share in (0.1, 0.2, 0.3, 0.5, 0.9)] == [1, 2, 2, 3, 3]


def test_a_ring_is_one_and_a_cloud_is_none():
    angle = 2 * np.pi * RNG.random(300)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    assert structure.ring(circle) == 1
    assert structure.ring(np.column_stack([circle, RNG.random(300)])) > 0.8  # and so is a cylinder
    assert structure.ring(RNG.normal(size=(300, 20))) < 0.3


def test_measures_of_a_space_that_is_the_truth_and_of_one_that_is_noise():
    drawn = shapes.draw_parameters(600, seed=0)
    truth = shapes.label_distribution(drawn)
    pure, hue, shape = (drawn[name].to_numpy() for name in ("pure", "hue", "shape"))
    assert np.allclose(structure.positions(truth), (hue, shape), rtol=0, atol=1e-9)
    known = np.column_stack([np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue), shape])
    known = np.column_stack([known * ~pure[:, None], 10 * truth * pure[:, None]])
    found = structure.structure({"known": known, "noise": RNG.normal(size=(600, 9))}, truth)
    assert found["pure_clusters"]["known"] == 1
    assert found["hue_decoded"]["known"] > 0.99 > 0.1 > found["hue_decoded"]["noise"]
    assert found["shape_steps"]["noise"] == pytest.approx(0.4, abs=0.03)  # 1/3 from ambiguous, 1/2 from pure
    assert found["shape_steps"]["known"] < 0.2
    assert found["pure_clusters"]["noise"] < 0.3
