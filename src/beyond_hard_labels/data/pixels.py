"""What every reader of image files takes of a picture: 8 bits a channel, grey or colour."""

import contextlib
from collections.abc import Iterator

import numpy as np

from beyond_hard_labels.base.errors import InputError

SMALLEST = 16  # pixels a side of a set's images
_GREY, _COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


@contextlib.contextmanager
def reading(where) -> Iterator[None]:
    """Name the place in whatever keeps an image from being read."""
    try:
        yield
    except Exception as error:  # Pillow's decoders raise of many kinds
        raise InputError(f"{where}: the image cannot be read: {error}") from error


def grey_or_colour(picture):
    """Return a `PIL.Image` as mode L or RGB, without transparency; raise `InputError` on any other depth."""
    if picture.mode not in _GREY + _COLOUR:
        raise InputError(f"its pixels are of mode {picture.mode}, expected 8 bits a channel, grey or colour")
    return picture.convert("L" if picture.mode in _GREY else "RGB")


def stack(pictures: list[np.ndarray]) -> np.ndarray:
    """Return pictures of one size as uint8 (N, H, W) if all are grey, else all in colour, (N, H, W, 3)."""
    if any(picture.ndim == 3 for picture in pictures):
        pictures = [picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2) for picture in pictures]
    return np.stack(pictures)
