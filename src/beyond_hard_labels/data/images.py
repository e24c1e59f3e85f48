"""What a set of labelled images is, everywhere in this project, and how it is split."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.rng import stream

N_FOLDS = 5  # of a set of DCIC, the authors' benchmark


@dataclass(frozen=True)
class LabelledImages:
    """Images with the label distribution of each; row order is image order, everywhere.

    Attributes
    ----------
    name : str
        Name of the set.
    images : np.ndarray
        uint8 (N, C, H, W), C = 1 or 3.
    truth : np.ndarray
        float64 (N, K), rows sum to 1: exact for the synthetic set, shares of votes otherwise.
    class_names : tuple of str
        K names, in the order of the columns of `truth`.
    ids : tuple of str
        N names of images.
    votes : np.ndarray or None
        int (N, K), votes per class, where the set has votes.
    ratings : np.ndarray or None
        int8 (N, R), the class that each single rater chose, -1 where absent.
    fold : np.ndarray or None
        int (N,), the fold of each image, where the set has folds.
    official : np.ndarray or None
        int (N,), the class that the publisher of the images gives each, where there is one.

    Raises
    ------
    InputError
        If a shape, a type or a row sum is not as stated.
    """

    name: str
    images: np.ndarray
    truth: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    votes: np.ndarray | None = None
    ratings: np.ndarray | None = None
    fold: np.ndarray | None = None
    official: np.ndarray | None = None

    def __post_init__(self):
        n, k = len(self.ids), len(self.class_names)
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[1] not in (1, 3):
            found = f"{self.images.dtype} {self.images.shape}"
            raise InputError(f"{self.name}: images are {found}, expected uint8 (N, 1 or 3, H, W)")
        widths = {"images": None, "truth": k, "votes": k, "ratings": None, "fold": None, "official": None}
        for part, width in widths.items():
            array = getattr(self, part)
            if array is None:
                continue
            if len(array) != n or (width is not None and array.shape != (n, width)):
                raise InputError(f"{self.name}: {part} is {array.shape}, expected {n} rows for {n} ids")
        off = np.flatnonzero(~(np.abs(self.truth.sum(axis=1) - 1) < 1e-9) | (self.truth < 0).any(axis=1))
        if off.size:
            raise InputError(f"{self.name}: truth is not a distribution in row {off[0]}: {self.truth[off[0]]}")


def shrink(data: LabelledImages, size: int) -> LabelledImages:
    """Return a set with images of `size` pixels a side, each the mean of a block of pixels, rounded.

    Raises
    ------
    InputError
        If `size` does not divide the side of the images.
    """
    n, channels, side = data.images.shape[:3]
    block = side // size
    if block * size != side:
        raise InputError(f"{data.name}: images of {side} pixels a side cannot be shrunk to {size}, no divisor of it")
    if block == 1:
        return data
    shrunk = np.empty((n, channels, size, size), np.uint8)
    for i, image in enumerate(data.images):  # one at a time, to keep memory flat
        total = image.reshape(channels, size, block, size, block).sum(axis=(2, 4), dtype=np.uint32)
        shrunk[i] = (total + block**2 // 2) // block**2
    return replace(data, images=shrunk)


class Split(NamedTuple):
    """Row indices of the three parts of a split, each int64 and sorted."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def thin(split: Split, share: float, seed: int) -> Split:
    """Return the split with a share of its training images; a smaller share is part of a larger one.

    Parameters
    ----------
    split : Split
        Its validation and test images stay as they are.
    share : float
        In (0, 1]; 1 returns all, in their order. 9,000 images and a share of 0.1 give 900.
    seed : int
        Seed of the order in which training images are taken.
    """
    order = stream("thin", seed).permutation(len(split.train))
    return split._replace(train=np.sort(split.train[order[: round(share * len(order))]]))


def random_split(n_images: int, split: int, test_images: int = 0) -> Split:
    """Return split number `split`: 60 % training, 20 % validation, 20 % test, unstratified.

    The paper (section 2) reports three randomly generated splits in these proportions. With `test_images`
    the test part is the so many images that follow, in every split; of the others 75 % are training.
    """
    if n_images < 5:
        raise InputError(f"a set of {n_images} images cannot be split 60/20/20; at least 5 are needed")
    order = stream("split", split).permutation(n_images)
    cuts = [round(0.75 * n_images), n_images] if test_images else [round(0.6 * n_images), round(0.8 * n_images)]
    order = np.concatenate([order, n_images + np.arange(test_images)])
    return Split(*(np.sort(part) for part in np.split(order, cuts)))


def slice_split(fold: np.ndarray, number: int) -> Split:
    """Return a slice of DCIC: of the five folds one validates, the next one tests, three train.

    Slice v validates on fold (v mod 5) + 1 and tests on fold ((v + 1) mod 5) + 1; the benchmark
    reports the slices 1 to 3.

    Parameters
    ----------
    fold : np.ndarray
        int (N,), 1 to 5.
    number : int
        v, at least 0.
    """
    if number < 0 or not np.isin(fold, np.arange(N_FOLDS) + 1).all():
        raise InputError(
            f"slice {number} of the folds {np.unique(fold).tolist()}, expected at least 0 and folds 1 to 5"
        )
    validation, test = fold == number % N_FOLDS + 1, fold == (number + 1) % N_FOLDS + 1
    return Split(*map(np.flatnonzero, (~validation & ~test, validation, test)))
