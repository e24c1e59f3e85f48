"""Rows on data: drawing images, counting votes, reading an archive."""

import numpy as np

from benchmarks.harness import Line, Result, in_turn, require
from beyond_hard_labels import shapes

CHUNK = 1000  # images in memory at a time


def drawing(small, folder):
    """Draw the synthetic set by the package, by OpenCV and by Pillow."""
    n, sizes = (40, (32,)) if small else (15_000, (32, 64, 224))
    table, lines, equal = shapes.draw_parameters(n, 0), [], []
    drawers = {"ours": shapes.render, "OpenCV": _by_opencv, "Pillow": _by_pillow}
    for size in sizes:
        drawn = {name: draw(table[:200], size) for name, draw in drawers.items()}
        same = {name: float((drawn[name] == drawn["ours"]).mean()) for name in ("OpenCV", "Pillow")}
        require(min(same.values()) > 0.95, f"at {size} px only {same} of the bytes are equal")
        equal.append(f"{100 * min(same.values()):.1f} % at {size} px")
        sides = {name: lambda draw=draw, size=size: _all(draw, table, size) for name, draw in drawers.items()}
        seconds, _ = in_turn(sides, 1 if small or size > 64 else 3, warm_up=size <= 64)
        what = f"{n:,} images, {size} px"
        lines += [Line(what, name, seconds["ours"], seconds[name]) for name in same]
    note = "Peers round outlines to whole or fractional pixels of their own; ours tests every pixel's centre."
    return Result(lines, f"bytes equal to ours, outlines apart: {', '.join(equal)}", note)


def _all(draw, table, size):
    """Draw a whole table in parts, so that no side is measured on memory."""
    for first in range(0, len(table), CHUNK):
        draw(table[first : first + CHUNK], size)


def _rows(table):
    columns = ["x", "y", "major", "minor", "rotation"]
    colours = np.round(255 * shapes.hue_to_rgb(table["hue"].to_numpy())).astype(int).tolist()
    return zip(table[columns].to_numpy().tolist(), colours, strict=True)


def _by_opencv(table, size):
    import cv2

    images = np.zeros((len(table), size, size, 3), np.uint8)
    bits = 4  # of a pixel's fraction
    for image, ((x, y, major, minor, rotation), colour) in zip(images, _rows(table), strict=True):
        points = [round((v * size - 0.5) * 2**bits) for v in (x, y)]
        axes = [round(v * size * 2**bits) for v in (major, minor)]
        cv2.ellipse(image, points, axes, np.degrees(rotation), 0, 360, colour, -1, cv2.LINE_8, bits)
    return images.transpose(0, 3, 1, 2)


def _by_pillow(table, size):
    from PIL import Image, ImageDraw

    images = np.empty((len(table), size, size, 3), np.uint8)
    turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    for row, ((x, y, major, minor, rotation), colour) in enumerate(_rows(table)):
        along, across = circle * np.array([[major], [minor]])
        cosine, sine = np.cos(rotation), np.sin(rotation)
        points = np.stack([x + cosine * along - sine * across, y + sine * along + cosine * across], axis=1)
        image = Image.new("RGB", (size, size))
        ImageDraw.Draw(image).polygon(list(map(tuple, (points * size - 0.5).tolist())), fill=tuple(colour))
        images[row] = image
    return images.transpose(0, 3, 1, 2)
