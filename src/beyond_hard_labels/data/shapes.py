"""The synthetic set: a table of shape parameters, its label distributions, and its pixels.

Published (paper, section 2, and the data-centric benchmark DCIC that carries the set): red, green
and blue circles and ellipses on black; 15,000 images, 40 % pure members of the six classes and 60 %
interpolations of colour and shape; the label distribution is known exactly; classes in the order
``bc be gc ge rc re``; 224 px; channel means (R, G, B) 0.1577 0.1690 0.1672 and standard deviations
0.3466 0.3571 0.3550; flat colour with hard edges, one shape an image, rotated ellipses of an axis
ratio of about 1.9, centres anywhere, large shapes cut by the border.

Worked out from these numbers: colour is interpolated along the hue circle at full saturation and
value. A pure hue has as much second moment as first, a hue half-way between primaries lights two
channels; the published moments fit 60 % interpolation along the circle and would need 24 % for a
linear mix of channels. The mean share of the image that a shape covers is then about 0.38.

Chosen here, so that the moments hold: the ranges of radius and centre below, the axis ratio of a
pure ellipse (2), a ratio linear in the shape position, an area that does not depend on it, and
uniform draws everywhere.
"""

import numpy as np
import pandas as pd

from beyond_hard_labels.base import memory
from beyond_hard_labels.base.rng import stream
from beyond_hard_labels.data.images import LabelledImages

CLASS_NAMES = ("bc", "be", "gc", "ge", "rc", "re")
PURE_AXIS_RATIO = 2.0
RADIUS = (0.15, 0.55)  # geometric mean of the semi-axes, in image widths
CENTRE = (0.25, 0.75)  # in image widths
TEST_STREAM = "shapes of the test set"  # of its parameters, by seed 0; no seed of a set reaches it
_PRIMARIES = np.array([2, 1, 0])  # blue, green, red as thirds of the hue circle, in class order


def draw_parameters(n_images: int, seed: int, *, purpose: str = "shapes") -> pd.DataFrame:
    """Draw the table of shape parameters; row i depends on the seed and on i alone.

    Parameters
    ----------
    n_images : int
        Number of rows. A longer table begins with the shorter one.
    seed : int
        Seed of the set.
    purpose : str
        Of the stream; another one never draws the same shapes.

    Returns
    -------
    pandas.DataFrame
        One row an image, with the columns ``pure`` (bool; two rows of every five), ``hue`` (position
        on the hue circle in [0, 1): red 0, green 1/3, blue 2/3), ``shape`` (0 circle to 1 ellipse),
        ``major`` and ``minor`` (semi-axes, image widths), ``rotation`` (radians in [0, pi)), ``x``
        and ``y`` (centre, image widths from the top left).
    """
    memory.require(200 * n_images, f"the parameters of n_images={n_images}")
    u = stream(purpose, seed).random((n_images, 7))  # (N, 7), row by row from one sequence
    pure = np.arange(n_images) % 5 < 2
    hue = np.where(pure, np.floor(3 * u[:, 0]) / 3, u[:, 0])
    shape = np.where(pure, np.floor(2 * u[:, 1]), u[:, 1])
    radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * u[:, 2]
    root = np.sqrt(axis_ratio(shape))
    return pd.DataFrame(
        {
            "pure": pure,
            "hue": hue,
            "shape": shape,
            "major": radius * root,
            "minor": radius / root,
            "rotation": np.pi * u[:, 3],
            "x": CENTRE[0] + (CENTRE[1] - CENTRE[0]) * u[:, 4],
            "y": CENTRE[0] + (CENTRE[1] - CENTRE[0]) * u[:, 5],
        }
    )


def interpolation_grid(hues: np.ndarray, shapes: np.ndarray) -> pd.DataFrame:
    """Return a table of centred shapes, one a pair of positions, hue running fastest; to look at."""
    shape, hue = (grid.ravel() for grid in np.meshgrid(shapes, hues, indexing="ij"))
    root = np.sqrt(axis_ratio(shape))
    size = {"major": 0.3 * root, "minor": 0.3 / root}
    return pd.DataFrame({"hue": hue, "shape": shape, **size, "rotation": np.pi / 4, "x": 0.5, "y": 0.5})


def axis_ratio(shape: np.ndarray) -> np.ndarray:
    """Return the axis ratio of a shape position: 1 for a circle (0), 2 for an ellipse (1), linear."""
    return 1 + (PURE_AXIS_RATIO - 1) * np.asarray(shape)


def label_distribution(table: pd.DataFrame) -> np.ndarray:
    """Return the exact label distribution of each row, float64 (N, 6), in the order of `CLASS_NAMES`.

    Colour and shape are independent: (1 - t, t) over the two neighbouring primaries, where t is the
    way from the one to the other in hue angle, times (1 - s, s) over circle and ellipse. A hue a
    quarter of the way from red to green on a circle is ``rc`` 0.75 and ``gc`` 0.25.
    """
    position = 3 * table["hue"].to_numpy()[:, None]  # (N, 1), in thirds of the circle
    distance = np.abs((position - _PRIMARIES + 1.5) % 3 - 1.5)  # (N, 3), thirds, at most 1.5
    colour = np.clip(1 - distance, 0, 1)  # (N, 3)
    colour /= colour.sum(axis=1, keepdims=True)  # removes the last bit of rounding
    s = table["shape"].to_numpy()[:, None, None]
    shape = np.concatenate([1 - s, s], axis=2)  # (N, 1, 2)
    return (colour[:, :, None] * shape).reshape(len(table), 6)


def hue_to_rgb(hue: np.ndarray) -> np.ndarray:
    """Return the colour of a hue at full saturation and value, float64 (N, 3) in [0, 1]."""
    offset = np.array([0.0, 1.0, 2.0])  # where on the circle each channel peaks, in thirds
    distance = np.abs((3 * np.asarray(hue)[..., None] - offset + 1.5) % 3 - 1.5)
    return np.clip(2 - 2 * distance, 0, 1)


def render(table: pd.DataFrame, size: int) -> np.ndarray:
    """Draw each row of the table: uint8 (N, 3, size, size).

    A pixel belongs to the shape if its centre does; edges are hard, as in the published images. Each
    image depends on its own row and on the size alone.
    """
    colour = np.round(255 * hue_to_rgb(table["hue"].to_numpy())).astype(np.uint8)  # (N, 3)
    images = np.empty((len(table), 3, size, size), np.uint8)
    pixel = (np.arange(size) + 0.5) / size
    columns = ["x", "y", "major", "minor", "rotation"]
    for i, (x, y, major, minor, rotation) in enumerate(table[columns].to_numpy()):
        dx, dy = pixel - x, pixel[:, None] - y  # (W,), (H, 1)
        cosine, sine = np.cos(rotation), np.sin(rotation)
        along, across = (cosine * dx + sine * dy) / major, (cosine * dy - sine * dx) / minor
        inside = along * along + across * across <= 1  # (H, W)
        np.multiply(inside, colour[i, :, None, None], out=images[i])
    return images


def product(colour_of: np.ndarray, shape_of: np.ndarray) -> np.ndarray:
    """Return the shares of colour of one distribution (N, 6) times those of shape of another: float64 (N, 6).

    The exact truth is the product of its own two. A red circle of (rc 1) and a half-way ellipse of
    (gc 0.5, ge 0.5) make (rc 0.5, re 0.5).
    """
    colour = colour_of.reshape(-1, 3, 2).sum(axis=2)  # (N, 3)
    shape = shape_of.reshape(-1, 3, 2).sum(axis=1)  # (N, 2)
    return (colour[:, :, None] * shape[:, None]).reshape(-1, 6)


def synthetic(n_images: int, size: int, seed: int, *, test_images: int = 0, more_pure: int = 0) -> LabelledImages:
    """Draw, label and render the synthetic set: `n_images` images of `size` pixels a side.

    After them come `test_images` that are the same for every seed and part of none of their sets, and
    `more_pure` further pure images of the seed.
    """
    fresh = draw_parameters(-(-5 * more_pure // 2), seed, purpose="more pure shapes")
    tables = {
        str(seed): draw_parameters(n_images, seed),
        "test": draw_parameters(test_images, 0, purpose=TEST_STREAM),
        f"{seed}-pure": fresh[fresh["pure"]][:more_pure],
    }
    table = pd.concat(tables.values(), ignore_index=True)
    return LabelledImages(
        name="synthetic",
        images=render(table, size),
        truth=label_distribution(table),
        class_names=CLASS_NAMES,
        ids=tuple(f"synthetic-{name}-{i:05d}" for name, part in tables.items() for i in range(len(part))),
    )
