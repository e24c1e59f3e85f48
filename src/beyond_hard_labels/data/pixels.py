"""What every reader of image files takes of a picture: 8 bits a channel, grey or colour."""

from beyond_hard_labels.base.errors import InputError

SMALLEST = 16  # pixels a side of a set's images
_GREY, _COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def grey_or_colour(picture):
    """Return a `PIL.Image` as mode L or RGB, without transparency; raise `InputError` on any other depth."""
    if picture.mode not in _GREY + _COLOUR:
        raise InputError(f"its pixels are of mode {picture.mode}, expected 8 bits a channel, grey or colour")
    mode = "L" if picture.mode in _GREY else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)
