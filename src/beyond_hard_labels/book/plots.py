"""Figures: arrays in, a matplotlib figure out; nothing is computed that a number could hang on.

Colours mean something: hue is the hue of the image; the two arms keep their colours throughout
(blue for hard, orange for soft, which colour-blind readers can tell apart).
"""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.colors import to_rgb

from beyond_hard_labels.data import shapes

ARM_COLOURS = {"hard": "#0072B2", "soft": "#D55E00"}
CLASS_COLOURS = {"b": "#3B6FE0", "g": "#2E9E4F", "r": "#D6423B"}


def class_palette(class_names: tuple[str, ...]) -> np.ndarray:
    """Return a colour a class, float (K, 3).

    Those of the synthetic set are its own, paler for ellipses; of other sets, up to ten can be told apart
    by colour-blind readers, more lie around the hues.
    """
    if class_names != shapes.CLASS_NAMES:
        n = len(class_names)
        return np.array(sns.color_palette("colorblind", n) if n <= 10 else sns.husl_palette(n))
    strength = np.array([[0.5 if name[1] == "e" else 1.0] for name in class_names])
    return 1 - strength * (1 - np.array([to_rgb(CLASS_COLOURS[name[0]]) for name in class_names]))


def use_style() -> None:
    """Set the one style of all figures; white ground, so that dark pages show them as cards."""
    sns.set_theme(style="whitegrid", context="notebook", font_scale=0.9)
    plt.rcParams.update({"figure.dpi": 110, "figure.facecolor": "white", "axes.spines.top": False})
    plt.rcParams.update({"axes.spines.right": False, "svg.hashsalt": "beyond-hard-labels"})


def _picture(axis: plt.Axes, image: np.ndarray, title: str) -> None:
    """Show an image (C, H, W) uint8 under its title."""
    axis.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_title(title, fontsize=9)


def montage(images: np.ndarray, titles: list[str], *, columns: int) -> plt.Figure:
    """Show images (N, C, H, W) uint8 in a grid, each under its title."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.75 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        _picture(axis, image, title)
    figure.tight_layout(pad=0.4)
    return figure


def hue_circle(images: np.ndarray, hues: np.ndarray, shapes: np.ndarray) -> plt.Figure:
    """Show images (len(shapes) * len(hues), 3, H, W) around the hue circle, angle for hue, one ring a shape.

    Hue runs fastest; the first shape is the outer ring. The ground is black, as that of the images.
    """
    figure, axis = plt.subplots(figsize=(8, 6.6), facecolor="black")
    share = 2 * np.pi / len(hues)  # of a ring's radius that an image takes up along the ring
    radii = (1 - share / 2) / (1 + share / 2)
    for image, (ring, hue) in zip(images, [(i, h) for i in range(len(shapes)) for h in hues], strict=True):
        radius = radii**ring
        x, y, half = radius * np.cos(2 * np.pi * hue), radius * np.sin(2 * np.pi * hue), 0.65 * radius * share
        lit = np.concatenate([image, 255 * image.any(axis=0, keepdims=True)])  # black corners would hide neighbours
        axis.imshow(lit.transpose(1, 2, 0), extent=(x - half, x + half, y - half, y + half), interpolation="nearest")
    axis.text(0, 0, "circle outside,\nellipse inside", color="white", ha="center", va="center")
    names = {0: "red 0", 1 / 6: "1/6", 1 / 3: "green 1/3", 1 / 2: "1/2", 2 / 3: "blue 2/3", 5 / 6: "5/6"}
    for hue, name in names.items():
        place = 1.3 * np.cos(2 * np.pi * hue), 1.22 * np.sin(2 * np.pi * hue)
        axis.text(*place, name, color="white", ha="center", va="center")
    axis.set(xlim=(-1.45, 1.45), ylim=(-1.2, 1.2), aspect="equal")
    axis.axis("off")
    figure.tight_layout(pad=0)
    return figure


def distributions(
    images: np.ndarray, rows: dict[str, np.ndarray], titles: list[str], class_names: tuple[str, ...]
) -> plt.Figure:
    """Show images (N, C, H, W) uint8 above what is known of their classes as bars, one colour a named (N, K) array.

    Names that begin with hard or soft get the colour of that arm, all others are grey. Arrays of integers are votes.
    """
    n, k, width = len(titles), len(class_names), 0.8 / len(rows)
    shape = {"figsize": (1.9 * n, 2.1 + 0.3 * k), "height_ratios": (1.7, 0.3 * k), "sharex": "row", "sharey": "row"}
    figure, axes = plt.subplots(2, n, squeeze=False, layout="constrained", **shape)
    votes = all(np.issubdtype(array.dtype, np.integer) for array in rows.values())
    for i, (picture, axis) in enumerate(axes.T):
        _picture(picture, images[i], titles[i])
        picture.axis("off")
        for j, (name, array) in enumerate(rows.items()):
            place = np.arange(k) + (j + 0.5) * width - 0.4
            axis.barh(place, array[i], width, label=name, color=ARM_COLOURS.get(name[:4], "#7F7F7F"))
        axis.set_yticks(range(k), class_names, fontsize=8)
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="x", labelsize=8)
        axis.xaxis.get_major_locator().set_params(integer=votes)
    axes[1, 0].invert_yaxis()
    figure.supxlabel("votes" if votes else "probability", fontsize=10)
    if len(rows) > 1:
        figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def maps(planes: dict[str, np.ndarray], hue: np.ndarray, shape: np.ndarray) -> plt.Figure:
    """Show the maps (N, 2) of both arms as the paper's Figure 1: hue to the left, shape to the right."""
    size = (9, 4.2 * len(planes) + 0.7)
    figure, axes = plt.subplots(len(planes), 2, figsize=size, squeeze=False, layout="constrained")
    for column, what, values, palette, legend in (
        (0, "colour", hue, "hsv", "hue (0 red, 1/3 green, 2/3 blue)"),
        (1, "shape", shape, "viridis", "shape (0 circle, 1 ellipse)"),
    ):
        for axis, (arm, plane) in zip(axes[:, column], planes.items(), strict=True):
            title = f"{arm} labels: {what} position"
            points = _scatter(axis, plane, title, c=values, cmap=palette, vmin=0, vmax=1, s=6)
        figure.colorbar(points, ax=axes[:, column], label=legend, orientation="horizontal", shrink=0.7, aspect=30)
    return figure


def class_maps(planes: dict[str, np.ndarray], truth: np.ndarray, class_names) -> plt.Figure:
    """Show the maps (N, 2) of both arms, each image in the mean of the classes' colours, weighted by its truth."""
    colours = class_palette(class_names)
    figure, axes = plt.subplots(1, len(planes), figsize=(4.5 * len(planes), 5), squeeze=False, layout="constrained")
    for axis, (arm, plane) in zip(axes[0], planes.items(), strict=True):
        _scatter(axis, plane, f"{arm} labels", c=truth @ colours, s=14)
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=colour) for colour in colours]
    figure.legend(handles, class_names, loc="outside lower center", ncols=min(len(class_names), 6), frameon=False)
    return figure


def _scatter(axis: plt.Axes, plane: np.ndarray, title: str, **points):
    """Draw a map without scales: on a t-SNE map only neighbourhoods mean something."""
    axis.set(title=title, xticks=[], yticks=[], aspect="equal")
    axis.grid(False)
    sns.despine(ax=axis, left=True, bottom=True)
    return axis.scatter(*plane.T, linewidths=0, **points)
