"""The synthetic set: its published moments, its geometry and colours, and that a row depends on nothing but itself."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from beyond_hard_labels.analysis import paper
from beyond_hard_labels.analysis.images import describe
from beyond_hard_labels.data import shapes


def row(hue, shape):
    """Return a table of one centred shape."""
    return shapes.interpolation_grid(np.array([hue]), np.array([shape]))


def test_the_whole_set_at_224_px_has_the_published_moments_and_balanced_classes():
    described = describe(shapes.synthetic(15_000, 224, 0))
    assert described["channel_mean"] == pytest.approx(paper.CHANNELS["mean"], abs=0.01)
    assert described["channel_std"] == pytest.approx(paper.CHANNELS["std"], abs=0.01)
    assert 0.14 * 15_000 < min(described["majority"].values()) <= max(described["majority"].values()) < 0.20 * 15_000


def test_forty_percent_are_pure_only_they_are_unanimous_and_the_rest_mixes_two_neighbouring_colours_at_most():
    table = shapes.draw_parameters(15_000, 0)
    truth = shapes.label_distribution(table)
    assert table["pure"].mean() == 0.4
    assert np.array_equal(truth.max(axis=1) == 1, table["pure"])
    assert truth.sum(axis=1) == pytest.approx(1, abs=1e-12)
    assert ((truth.reshape(-1, 3, 2).sum(axis=2) > 1e-12).sum(axis=1) <= 2).all()


@pytest.mark.parametrize(
    ("hue", "shape", "expected"),
    [
        pytest.param(0, 0, {"rc": 1.0}, id="red circle"),
        pytest.param(1 / 3, 1, {"ge": 1.0}, id="green ellipse"),
        pytest.param(2 / 3, 0, {"bc": 1.0}, id="blue circle"),
        pytest.param(1 / 12, 0, {"rc": 0.75, "gc": 0.25}, id="a quarter of the way from red to green"),
        pytest.param(5 / 6, 0.5, {"rc": 0.25, "re": 0.25, "bc": 0.25, "be": 0.25}, id="magenta, half-way in shape"),
        pytest.param(1 - 1e-9, 0, {"rc": 1.0}, id="the circle closes at red"),
    ],
)
def test_label_distribution_is_linear_in_hue_angle_and_shape(hue, shape, expected):
    found = dict(zip(shapes.CLASS_NAMES, shapes.label_distribution(row(hue, shape))[0], strict=True))
    assert found == pytest.approx({name: expected.get(name, 0.0) for name in shapes.CLASS_NAMES}, abs=1e-8)


@pytest.mark.parametrize(
    ("hue", "colour"),
    [(0, (255, 0, 0)), (1 / 6, (255, 255, 0)), (1 / 3, (0, 255, 0)), (1 / 2, (0, 255, 255)), (2 / 3, (0, 0, 255))],
)
def test_the_hue_circle_passes_through_primaries_and_their_full_mixtures(hue, colour):
    assert tuple(shapes.render(row(hue, 0), 9)[0, :, 4, 4]) == colour


def test_area_does_not_give_the_shape_away_and_a_pure_ellipse_has_the_stated_axis_ratio():
    areas = [(shapes.render(row(0, s), 300)[0, 0] > 0).sum() for s in (0, 0.5, 1)]
    assert areas == pytest.approx([np.pi * 0.09 * 300**2] * 3, rel=0.005)
    lit = shapes.render(row(0, 1).assign(rotation=0.0), 600)[0, 0] > 0
    assert lit.any(axis=0).sum() / lit.any(axis=1).sum() == pytest.approx(shapes.PURE_AXIS_RATIO, rel=0.02)


def test_edges_are_hard_and_colour_is_flat():
    images = shapes.render(shapes.draw_parameters(50, 0), 64)
    for image in images:
        assert len(np.unique(image.reshape(3, -1), axis=1).T) == 2


def test_rows_do_not_depend_on_how_many_are_drawn():
    pd.testing.assert_frame_equal(shapes.draw_parameters(1000, 7).head(100), shapes.draw_parameters(100, 7))
    assert not shapes.draw_parameters(100, 7).equals(shapes.draw_parameters(100, 8))


def test_an_image_does_not_depend_on_batch_or_order():
    table = shapes.draw_parameters(60, 0)
    order = np.random.default_rng(0).permutation(60)
    whole = shapes.render(table, 48)
    assert np.array_equal(shapes.render(table.iloc[order], 48), whole[order])
    assert np.array_equal(shapes.render(table.iloc[10:13], 48), whole[10:13])


def test_another_process_draws_the_same_bytes():
    program = (
        "import hashlib; from beyond_hard_labels.data import shapes; d = shapes.synthetic(200, 40, 5);"
        "print(hashlib.sha256(d.images.tobytes() + d.truth.tobytes()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    there = subprocess.check_output([sys.executable, "-c", program], text=True, env=environment)
    here = shapes.synthetic(200, 40, 5)
    assert there.strip() == hashlib.sha256(here.images.tobytes() + here.truth.tobytes()).hexdigest()
