import itertools

import numpy as np
import pandas as pd
import pytest

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import shapes, votes


@pytest.fixture
def truth():
    return shapes.label_distribution(shapes.draw_parameters(2000, 0))


def test_a_soft_label_is_the_mean_of_the_votes_and_a_hard_one_of_unanimous_votes_too():
    assert votes.soft(np.array([[2, 1, 0]]))[0] == pytest.approx([2 / 3, 1 / 3, 0])
    counts = np.array([[7, 0, 0], [0, 0, 2]])
    assert np.array_equal(votes.targets(counts, "hard").rows, votes.targets(counts, "soft").rows)


TIED = np.array([[2, 2, 0], [0, 3, 3], [1, 1, 1], [3, 1, 0]])


@pytest.mark.parametrize(
    ("policy", "expected", "kept"),
    [
        pytest.param("first", [[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]], [1, 1, 1, 1], id="first"),
        pytest.param(
            "split", [[0.5, 0.5, 0], [0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3], [1, 0, 0]], [1, 1, 1, 1], id="split"
        ),
        pytest.param("drop", [[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]], [0, 0, 0, 1], id="drop"),
    ],
)
def test_tie_policies_on_votes_made_by_hand(policy, expected, kept):
    made = votes.targets(TIED, "hard", ties=policy)
    assert made.rows == pytest.approx(np.array(expected, float))
    assert made.keep.tolist() == [bool(k) for k in kept]
    assert made.tied.tolist() == [True, True, True, False]
    assert votes.targets(TIED, "soft", ties=policy).keep.all()


def test_random_ties_fall_on_every_leader_alike_and_on_nobody_else():
    many = np.tile(TIED[:1], (6000, 1))
    rows = votes.targets(many, "hard", ties="random", seed=1).rows
    assert rows.mean(axis=0) == pytest.approx([0.5, 0.5, 0], abs=0.03)
    assert np.array_equal(rows, votes.targets(many, "hard", ties="random", seed=1).rows)
    assert not np.array_equal(rows, votes.targets(many, "hard", ties="random", seed=2).rows)


def test_annotators_see_the_truth_and_noise_of_one_makes_votes_uniform(truth):
    counts = votes.count(votes.simulate(truth, 50, seed=0), 6)
    assert (counts[truth == 0] == 0).all()
    assert (counts.sum(axis=1) == 50).all()
    counts = votes.count(votes.simulate(truth, 30, seed=0, noise=1.0), 6)
    assert counts.mean(axis=0) / 30 == pytest.approx([1 / 6] * 6, abs=0.005)
    assert np.array_equal(votes.simulate(truth, 5, seed=0)[:100], votes.simulate(truth[:100], 5, seed=0))


def test_a_confusion_matrix_belongs_to_its_annotator():
    truth = np.tile([1.0, 0.0], (500, 1))
    liar = np.array([[0.0, 1.0], [1.0, 0.0]])
    ratings = votes.simulate(truth, 2, seed=0, confusion=np.stack([np.eye(2), liar]))
    assert (ratings[:, 0] == 0).all()
    assert (ratings[:, 1] == 1).all()


def test_absent_ratings_are_not_counted():
    assert votes.count(np.array([[0, 0, -1], [2, -1, -1]]), 3).tolist() == [[2, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([[1, 2], [3, -1]], r"1 row\(s\) negative: 1 \[3, -1\]"),
        ([[1, 2], [0.5, 1]], r"fractional: 1 \[0.5, 1.0\]"),
        ([[np.nan, 2], [1, 1]], r"not finite: 0 \[nan, 2.0\]"),
        ([[np.inf, 2], [1, 1]], r"not finite: 0"),
        ([[0, 0], [1, 1], [0, 0]], r"2 row\(s\) without any vote: 0 \[0, 0\], 2 \[0, 0\]"),
        ([[1, 2, 3]], r"\(1, 3\), expected \(N, 2\)"),
        ([1, 2], r"expected \(N, 2\)"),
        ([["a", "b"]], r"expected whole numbers"),
        ([[0, -1]] * 9, r"9 row\(s\) negative.*\.\.\."),
        ([[-1, 2], [0.5, 1], [0, 0]], r"negative.*fractional.*without any vote"),
    ],
    ids=str,
)
def test_rows_that_cannot_be_votes_are_named_with_every_kind_of_fault(bad, message):
    with pytest.raises(InputError, match=message):
        votes.validate(bad, 2)


def test_whole_floats_are_votes():
    assert votes.validate([[1.0, 2.0]], 2).dtype == np.int64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_votes": 0}, "n_votes is 0"),
        ({"n_votes": 3, "noise": 1.5}, "noise 1.5"),
        ({"n_votes": 2, "confusion": np.eye(6)}, r"expected \(2, 6, 6\)"),
    ],
)
def test_annotators_that_cannot_be_are_refused(truth, arguments, message):
    with pytest.raises(InputError, match=message):
        votes.simulate(truth, seed=0, **arguments)


def test_unknown_kinds_of_label_and_tie_policies_are_refused():
    with pytest.raises(InputError, match="labels 'fuzzy'"):
        votes.targets(TIED, "fuzzy")
    with pytest.raises(InputError, match="ties 'last'"):
        votes.targets(TIED, "hard", ties="last")


def test_more_drawn_votes_contain_the_fewer_and_follow_the_distribution():
    truth = np.tile([0.6, 0.3, 0.1], (4000, 1))
    few, many = votes.draw(truth, 2, seed=1), votes.draw(truth, 5, seed=1)
    assert (few.sum(axis=1) == 2).all()
    assert (many.sum(axis=1) == 5).all()
    assert (few <= many).all()
    assert not np.array_equal(few, votes.draw(truth, 2, seed=2))
    assert many.mean(axis=0) / 5 == pytest.approx([0.6, 0.3, 0.1], abs=4 * np.sqrt(0.25 / 20_000))
    assert np.array_equal(few[:100], votes.draw(truth[:100], 2, seed=1))
    assert np.array_equal(votes.draw(np.eye(3), 4, seed=0), 4 * np.eye(3, dtype=int))


def test_a_subsample_takes_votes_that_were_cast_and_more_contain_the_fewer():
    cast = np.random.default_rng(0).multinomial(8, [0.5, 0.3, 0.2], size=500)
    taken = [votes.subsample(cast, m, seed=3)[0] for m in (1, 3, 8, 20)]
    assert [set(part.sum(axis=1)) for part in taken] == [{1}, {3}, {8}, {8}]
    assert all((few <= many).all() for few, many in itertools.pairwise(taken))
    assert np.array_equal(taken[2], cast)


def test_a_subsample_is_drawn_without_preference_or_replacement_and_says_where_votes_are_few():
    few, short = votes.subsample(np.tile([6, 3, 1], (5000, 1)), 2, seed=0)
    assert not short.any()
    assert few.mean(axis=0) == pytest.approx([1.2, 0.6, 0.2], abs=4 * np.sqrt(0.5 / 5000))
    assert few[:, 2].max() == 1  # there is only one such vote
    few, short = votes.subsample(np.array([[2, 0], [4, 3], [1, 0]]), 2, seed=0)
    assert short.tolist() == [False, False, True]
    assert few.sum(axis=1).tolist() == [2, 2, 1]


@pytest.mark.parametrize("labels", votes.LABEL_KINDS)
def test_smoothing_spreads_its_share_and_none_changes_no_bit(labels):
    plain = votes.targets(np.array([[3.0, 1, 0, 0], [0, 0, 1, 2]]) / 3, labels)
    smoothed = votes.smooth(plain, 0.2)
    assert smoothed.rows == pytest.approx(0.8 * plain.rows + 0.05)
    assert smoothed.rows.sum(axis=1) == pytest.approx(1)
    assert np.array_equal(votes.smooth(plain, 0.0).rows, plain.rows)


@pytest.mark.parametrize("kind", [list, np.array, pd.Series], ids=["list", "array", "series"])
def test_a_tally_is_what_a_loop_over_the_votes_counts(kind):
    names, classes, counts = votes.tally(["a", "b", "a"], ["x", "y", "x"])  # as the docstring says
    assert (names.tolist(), classes.tolist(), counts.tolist()) == (["a", "b"], ["x", "y"], [[2, 0], [0, 1]])
    assert votes.tally([], [])[2].shape == (0, 0)
    random = np.random.default_rng(0)
    images = [f"image {i}" for i in random.integers(0, 40, 500)]
    labels = [["owl", "cat", "bat"][c] for c in random.integers(0, 3, 500)]
    names, classes, counts = votes.tally(kind(images), kind(labels))
    assert names.tolist() == list(dict.fromkeys(images))
    assert classes.tolist() == ["bat", "cat", "owl"]
    expected = {(image, label): 0 for image in names for label in classes}
    for vote in zip(images, labels, strict=True):
        expected[vote] += 1
    assert counts.ravel().tolist() == list(expected.values())


def test_a_vote_without_image_or_label_is_not_counted_as_another():
    with pytest.raises(InputError, match=r"1 vote\(s\) without label, the first in row 1"):
        votes.tally(["a", "b"], ["x", None])
    with pytest.raises(InputError, match=r"without image, the first in row 0"):
        votes.tally([None, "b"], ["x", "y"])
    with pytest.raises(InputError, match="2 images and 1 labels"):
        votes.tally(["a", "b"], ["x"])
