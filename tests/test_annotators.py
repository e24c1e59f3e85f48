"""Annotators who err, and what models of annotators make of their votes."""

import numpy as np
import pytest

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import annotators, shapes, votes
from beyond_hard_labels.runs import study
from beyond_hard_labels.runs.inputs import images_of, labels_of
from conftest import TINY

K = len(shapes.CLASS_NAMES)
EXACT = shapes.label_distribution(shapes.draw_parameters(2000, 0))
PURE = np.eye(K)[np.arange(2000) % K]  # images of which no honest annotator could say another class


@pytest.mark.parametrize("crowd", annotators.CROWDS)
def test_who_errs_does_so_as_often_as_asked(crowd):
    matrices = annotators.confusions(crowd, 0.3, K)
    assert matrices.sum(axis=2) == pytest.approx(1)
    given = annotators.ratings(PURE, annotators.POOL, crowd, 0.3, 0)
    wrong = (given != PURE.argmax(axis=1)[:, None]).mean(axis=0)
    expected = 1 - matrices.diagonal(axis1=1, axis2=2).mean(axis=1)
    assert wrong == pytest.approx(expected, abs=0.05)
    most = {"exact": 0, "uniform": 0.3, "one_sided": 0.15, "spammers": 1 - 1 / K}[crowd]
    assert expected.max() == pytest.approx(most)


def test_more_votes_contain_the_fewer_and_each_image_has_as_many_as_asked():
    few, many = (annotators.ratings(EXACT, n, "uniform", 0.2, 5) for n in (3, 10))
    assert ((few >= 0).sum(axis=1) == 3).all()
    assert ((many >= 0).sum(axis=1) == 10).all()
    assert (many[few >= 0] == few[few >= 0]).all()
    assert np.unique((few >= 0).sum(axis=0) > 0).tolist() == [True]  # everybody votes somewhere


@pytest.mark.parametrize("model", annotators.MODELS)
def test_a_model_of_annotators_finds_the_classes_of_unambiguous_images_among_spammers(model):
    given = annotators.ratings(PURE[:300], 5, "spammers", 0.3, 1)
    believed = annotators.aggregate(given, model, K)
    majority = votes.targets(votes.count(given, K), "hard").rows
    right = [(rows.argmax(axis=1) == PURE[:300].argmax(axis=1)).mean() for rows in (believed, majority)]
    assert believed.sum(axis=1) == pytest.approx(1)
    assert right[0] > right[1] - 0.01
    assert right[0] > 0.85


def test_dawid_and_skene_find_who_errs_where_there_is_one_truth_and_take_ambiguity_for_errors_where_there_is_none():
    true = annotators.confusions("spammers", 0.2, K)
    found = annotators.dawid_skene_confusions(annotators.ratings(PURE, 10, "spammers", 0.2, 0), K)
    assert np.abs(found - true).mean() < 0.03
    of_honest = annotators.dawid_skene_confusions(annotators.ratings(EXACT, 10, "exact", 0.0, 0), K)
    assert of_honest.diagonal(axis1=1, axis2=2).mean() < 0.85  # and nobody erred


def spec(labels, **changes):
    return study.plan("smoke", **(TINY | changes)).spec(labels, 0)


def test_the_targets_of_a_crowd_are_those_of_its_votes():
    asked = {labels: spec(labels, crowd="uniform", noise=0.2, votes_per_image=5) for labels in votes.TARGET_KINDS}
    data = images_of(asked["soft"])
    counts = votes.count(annotators.ratings(data.truth, 5, "uniform", 0.2, 0), K)
    rows = {labels: labels_of(each, data).rows for labels, each in asked.items()}
    assert rows["soft"] == pytest.approx(votes.soft(counts))
    assert (rows["hard"] == votes.targets(counts, "hard").rows).all()
    assert (rows["dawid_skene_hard"] == np.eye(K)[rows["dawid_skene"].argmax(axis=1)]).all()
    assert not np.allclose(rows["dawid_skene"], rows["soft"])


def test_errors_of_annotators_need_a_number_of_votes():
    asked = spec("hard", crowd="uniform", noise=0.2)
    with pytest.raises(InputError, match=r"crowd is 'uniform' with 0 votes an image.*votes_per_image"):
        labels_of(asked, images_of(asked))
