"""Metrics against slow loops, against scipy, and against the numbers of their docstrings."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from beyond_hard_labels.learn import metrics


def slow_kl(truth, predicted):
    total = 0.0
    for y_row, p_row in zip(truth, predicted, strict=True):
        for y, p in zip(y_row, p_row, strict=True):
            y, p = min(max(y, 1e-5), 1 - 1e-5), min(max(p, 1e-5), 1 - 1e-5)
            total += y * math.log(y / p)
    return total / len(truth)


def slow_macro_accuracy(truth, predicted):
    recalls = []
    for k in range(truth.shape[1]):
        rows = [i for i in range(len(truth)) if list(truth[i]).index(max(truth[i])) == k]
        if rows:
            recalls.append(sum(list(predicted[i]).index(max(predicted[i])) == k for i in rows) / len(rows))
    return sum(recalls) / len(recalls)


def slow_calibration_error(truth, predicted):
    total = 0.0
    for low in range(10):
        rows = [i for i in range(len(truth)) if low / 10 < predicted[i].max() <= (low + 1) / 10]
        total += abs(sum(predicted[i].max() - truth[i][predicted[i].argmax()] for i in rows)) / len(truth)
    return total


def random_rows(n, k, seed, concentration=0.3):
    return np.random.default_rng(seed).dirichlet([concentration] * k, n)


EYE = np.eye(3)
CASES = [
    pytest.param(random_rows(200, 6, 0), random_rows(200, 6, 1), id="random"),
    pytest.param(random_rows(200, 3, 2, 0.01), random_rows(200, 3, 3, 0.01), id="nearly one-hot"),
    pytest.param(EYE, EYE, id="perfect and certain"),
    pytest.param(EYE, EYE[[1, 2, 0]], id="wrong and certain"),
    pytest.param(np.full((4, 3), 1 / 3), EYE[[0, 0, 1, 2]], id="uniform truth"),
    pytest.param(EYE[[0, 0, 1, 1]], random_rows(4, 3, 4), id="one class absent"),
    pytest.param(random_rows(1, 2, 5), random_rows(1, 2, 6), id="a single row"),
    pytest.param(EYE[[0, 1]], np.array([[0.5, 0.5, 0], [0.5, 0.5, 0]]), id="tied prediction"),
]


@pytest.mark.parametrize(("truth", "predicted"), CASES)
def test_metrics_agree_with_slow_loops_and_with_scipy_and_bound_each_other(truth, predicted):
    assert metrics.kl(truth, predicted) == pytest.approx(slow_kl(truth, predicted), rel=1e-12, abs=1e-15)
    assert metrics.macro_accuracy(truth, predicted) == pytest.approx(slow_macro_accuracy(truth, predicted))
    assert metrics.calibration_error(truth, predicted) == pytest.approx(slow_calibration_error(truth, predicted))
    assert metrics.soft_accuracy(truth, predicted) == pytest.approx(1 - metrics.manhattan(truth, predicted) / 2)
    assert metrics.exact_kl(truth, predicted) == pytest.approx(stats.entropy(truth, predicted, axis=1).mean())
    with np.errstate(invalid="ignore"):  # scipy takes the root of a rounding error below zero where rows are equal
        expected = np.nan_to_num(jensenshannon(truth, predicted, axis=1) ** 2).mean()
    assert metrics.jensen_shannon(truth, predicted) == pytest.approx(expected, abs=1e-12)
    assert 0 <= metrics.jensen_shannon(truth, predicted) <= math.log(2) + 1e-12
    assert metrics.manhattan(truth, predicted) ** 2 / 2 <= metrics.exact_kl(truth, predicted) + 1e-12  # Pinsker


@pytest.mark.parametrize("metric", ["kl", "exact_kl", "jensen_shannon", "manhattan", "brier", "calibration_error"])
def test_a_distribution_is_at_no_distance_from_itself(metric):
    rows = random_rows(50, 4, 0, 1.0)
    assert metrics.METRICS[metric].function(rows, rows) == pytest.approx(0, abs=1e-12)


def test_the_numbers_in_the_docstrings():
    first, second, half = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]])
    assert metrics.kl(first, second) == pytest.approx(11.5127, abs=1e-4)
    assert metrics.exact_kl(first, second) == math.inf
    assert metrics.jensen_shannon(first, second) == pytest.approx(math.log(2))
    assert metrics.manhattan(first, second) == metrics.brier(first, second) == 2
    assert (metrics.soft_accuracy(first, second), metrics.soft_accuracy(half, first)) == (0, 0.5)
    assert metrics.macro_accuracy(np.eye(2)[[0, 0, 0, 1]], np.eye(2)[[0, 0, 0, 0]]) == 0.5
    assert metrics.entropy(np.array([[1.0, 0, 0], [1 / 3] * 3])) == pytest.approx([0, math.log(3)])
    assert metrics.noise_floor(np.array([[4, 6], [10, 0]])) == pytest.approx(0.025)


def test_one_hot_kl_scores_against_the_majority():
    truth, predicted = np.array([[0.6, 0.4]]), np.array([[0.9, 0.1]])
    assert metrics.one_hot_kl(truth, predicted) == pytest.approx(-math.log(0.9), abs=2e-4)
    assert metrics.one_hot_kl(truth, predicted) < metrics.kl(truth, predicted)


def test_calibration_compares_confidence_with_the_true_probability_and_loses_no_image():
    truth, sure = np.array([[0.6, 0.4]] * 4), np.array([[0.9, 0.1]] * 4)
    assert metrics.calibration_error(truth, sure) == pytest.approx(0.3)
    bins = metrics.reliability_bins(truth, sure)
    assert bins.size.tolist() == [0] * 8 + [4, 0]
    assert np.isnan(bins.confidence[:8]).all()  # an empty bin is missing, and not 0


def test_entropy_correlation_is_one_for_the_truth_and_missing_for_a_constant():
    rows = random_rows(50, 3, 0)
    assert metrics.entropy_correlation(rows, rows) == pytest.approx(1)
    assert math.isnan(metrics.entropy_correlation(rows, EYE[[0] * 50]))


def test_softmax_survives_large_logits():
    found = metrics.softmax(np.array([[1e4, 0.0], [-1e4, -1e4]], np.float32))
    assert found == pytest.approx(np.array([[1, 0], [0.5, 0.5]]))


def labelled(n=400, k=4, seed=0):
    """Logits that are too sure of themselves by a factor of 2.5, and what they are about."""
    rng = np.random.default_rng(seed)
    calm = 1.5 * rng.standard_normal((n, k))
    return 2.5 * calm, rng.multinomial(20, metrics.softmax(calm)) / 20, np.eye(k)[calm.argmax(axis=1)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["soft", "one-hot with mistakes"])
def test_the_temperature_is_that_of_a_grid_search(kind, seed):
    logits, truth, _ = labelled(seed=seed)
    if kind != "soft":
        truth = np.eye(4)[truth.argmax(axis=1)]

    def best(grid):
        return grid[np.argmin([-(truth * np.log(metrics.softmax(logits / t))).sum(axis=1).mean() for t in grid])]

    coarse = best(np.geomspace(0.05, 100, 200))
    assert metrics.temperature(logits, truth) == pytest.approx(
        best(np.geomspace(coarse / 1.1, coarse * 1.1, 500)), rel=2e-3
    )


def test_a_temperature_undoes_the_factor_that_made_logits_too_sure_and_stays_within_its_bounds():
    logits, truth, right = labelled(n=20_000)
    assert metrics.temperature(logits, truth) == pytest.approx(2.5, rel=0.03)
    assert 0.05 <= metrics.temperature(logits[:400], right[:400]) < 0.06  # never wrong


def draw_votes(p, m, n=20_000):
    counts = np.random.default_rng(0).multinomial(m, p, n)
    return counts, stats.entropy(counts / m[:, None], np.broadcast_to(p, counts.shape), axis=1).mean()


@pytest.mark.parametrize(
    ("p", "least", "most"),
    [
        pytest.param([0.5, 0.5], 40, 80, id="two classes"),
        pytest.param([0.4, 0.3, 0.3], 41, 42, id="odd and even numbers of votes"),
        pytest.param([0.2] * 5, 50, 200, id="unequal numbers"),
    ],
)
def test_both_floors_are_the_kl_of_a_model_that_knows_the_distribution(p, least, most):
    counts, measured = draw_votes(p, np.random.default_rng(1).integers(least, most + 1, 20_000))
    assert metrics.noise_floor(counts) == pytest.approx(measured, rel=0.05)
    assert metrics.split_half_floor(counts) == pytest.approx(measured, rel=0.08)  # its second order is larger


def test_with_rare_classes_both_floors_are_low_and_that_of_halves_is_the_nearer():
    counts, measured = draw_votes([0.9, *[0.01] * 10], np.full(5000, 50), n=5000)
    assert metrics.noise_floor(counts) < metrics.split_half_floor(counts) < measured


def test_unanimous_and_single_votes_have_no_floor():
    for counts in (np.array([[9, 0], [0, 4]]), np.array([[1, 0], [0, 1]])):
        assert metrics.noise_floor(counts) == metrics.split_half_floor(counts) == 0
