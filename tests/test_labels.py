"""Frames about labels that are made of votes."""

import numpy as np
import pytest
from pandas.api.types import is_numeric_dtype

from beyond_hard_labels.analysis import labels
from beyond_hard_labels.data import shapes, votes
from beyond_hard_labels.learn import metrics


@pytest.fixture
def truth():
    return shapes.label_distribution(shapes.draw_parameters(2000, 0))


def test_the_soft_label_approaches_the_truth_at_the_multinomial_rate(truth):
    table = labels.convergence(truth, [1, 4, 16, 64], seed=0)
    assert table["distance"].to_numpy() == pytest.approx(table["expected"].to_numpy(), rel=0.05)
    assert table["wrong"].is_monotonic_decreasing


def test_tie_policies_of_votes_made_by_hand():
    counts = np.array([[2, 2, 0], [0, 3, 3], [3, 1, 0]])
    truth = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [1, 0, 0]])
    table = labels.tie_policies(counts, truth, seed=0).set_index("policy")
    assert table["rows"].to_dict() == {"first": 3, "random": 3, "split": 3, "drop": 1}
    assert table.loc["split", "changed"] == 2
    assert table.loc[["first", "split"], "right"].tolist() == pytest.approx([0.35, 0.4])
    assert np.isnan(table.loc["drop", "right"])


def test_unequal_votes_are_told_apart_by_their_number():
    counts = np.array([[4, 4], [8, 0], [60, 21], [81, 0]])
    table = labels.by_number(counts).set_index("least")
    assert table["most"].to_dict() == {8: 8, 81: 81}
    assert table["images"].to_dict() == {8: 2, 81: 2}
    assert table["tied"].to_dict() == {8: 0.5, 81: 0.0}
    assert table["unanimous"].to_dict() == {8: 0.5, 81: 0.5}
    assert table.loc[8, "standard_error"] == pytest.approx(np.sqrt(0.25 / 8))
    assert table.loc[8, "entropy"] == pytest.approx(np.log(2) / 2)
    assert table.loc[8, "floor"] == metrics.noise_floor(counts[:2])
    many = labels.by_number(np.random.default_rng(0).integers(1, 40, (200, 3)))  # in quarters
    assert (len(many), many["images"].sum()) == (4, 200)
    assert (many["most"].to_numpy()[:-1] < many["least"].to_numpy()[1:]).all()


RATINGS = np.array([[0, 0, 1, 1, 1], [0, 0, -1, -1, -1], [1, 1, -1, -1, -1], [0, 1, -1, -1, -1]], np.int8)


def test_counting_complete_raters_only_says_what_it_changes():
    table = labels.by_raters(RATINGS, 2).set_index("raters")
    assert table["number"].to_dict() == {"all": 5, "complete": 2}
    assert table["votes"].to_dict() == {"all": 11, "complete": 8}
    assert table["majority_changed"].to_dict() == {"all": 0.0, "complete": 0.25}
    assert table.loc["complete", "distance"] == pytest.approx(2 * 0.6 / 4)
    assert table.loc["complete", "tied"] == 0.25
    assert labels.by_raters(np.array([[0, -1], [-1, 1]]), 2)["raters"].tolist() == ["all"]  # none is complete


def test_the_crowd_is_held_against_the_official_label_class_by_class():
    counts = np.array([[3, 1, 0], [1, 3, 0], [0, 4, 0], [4, 0, 0]])
    table = labels.agreement(counts, np.array([0, 0, 1, 1]), ("b", "a", "none")).set_index("official")
    assert table["majority_agrees"].to_dict() == {"b": 0.5, "a": 0.5, "all": 0.5}
    assert table["images"].to_dict() == {"b": 2, "a": 2, "all": 4}
    assert table.loc["b", "votes_agree"] == 0.5


def test_everything_but_names_is_a_number(truth):
    counts = votes.count(votes.simulate(truth, 4, seed=0), 6)
    frames = [labels.convergence(truth, [1, 2], 0), labels.tie_policies(counts, truth, 0), labels.by_number(counts)]
    frames += [labels.by_raters(RATINGS, 2), labels.agreement(counts, truth.argmax(axis=1), shapes.CLASS_NAMES)]
    for frame in frames:
        numeric = frame.drop(columns=["policy", "raters", "official"], errors="ignore")
        assert all(map(is_numeric_dtype, numeric.dtypes))
