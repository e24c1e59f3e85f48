import numpy as np
import pytest

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.learn import tsne


@pytest.fixture(scope="module")
def clusters():
    """Six well separated clusters in twenty dimensions, and one distribution a cluster."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(6), 40)
    return rng.normal(size=(6, 20))[label] * 6 + rng.normal(size=(240, 20)), np.eye(6)[label]


def test_clusters_of_the_features_are_clusters_on_the_map_which_is_the_same_each_time(clusters):
    features, truth = clusters
    plane, again = (tsne.tsne(features, perplexity=15, iterations=500) for _ in range(2))
    assert tsne.neighbour_agreement(truth, plane) > 0.99
    assert tsne.trustworthiness(features, plane) > 0.9
    assert np.array_equal(plane, again)
    noise = np.random.default_rng(1).normal(size=(240, 2))
    assert tsne.trustworthiness(features, noise) < 0.6
    assert tsne.neighbour_agreement(truth, noise) < 0.3


def test_too_few_images_for_the_perplexity_are_refused(clusters):
    with pytest.raises(InputError, match="perplexity is 30 for 90 images"):
        tsne.tsne(clusters[0][:90], perplexity=30, iterations=50)
