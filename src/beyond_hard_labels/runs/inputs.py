"""What a run is trained on: the images, the split and the labels that its spec names."""

import functools
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from beyond_hard_labels.base import memory
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import annotators, sets, votes
from beyond_hard_labels.data.images import LabelledImages, Split, random_split, shrink, slice_split, thin
from beyond_hard_labels.runs.spec import RunSpec

_BYTES_BESIDE = 1000  # of an image of the synthetic set: its parameters, distribution and name


class Given(NamedTuple):
    """What a run is given: the whole set, its split, and the labels of all images, before they are smoothed."""

    data: LabelledImages
    split: Split
    labels: votes.Targets


def given(spec: RunSpec) -> Given:
    """Return what a run is given, see `images_of`, `split_of` and `labels_of`."""
    data = images_of(spec)
    return Given(data, split_of(spec, data), labels_of(spec, data))


def images_of(spec: RunSpec) -> LabelledImages:
    """Return the images that a run is trained on; generated or read once a process.

    Raises `InputError` if they do not fit into the memory that is free, before any is drawn, and if a set's file
    changed while it was read.
    """
    if spec.dataset == sets.SYNTHETIC:
        more_pure = spec.n_images if spec.ambiguous == "replaced" else 0  # always enough
        n_images = spec.n_images + spec.test_images + more_pure
        memory.require(n_images * (3 * spec.image_size**2 + _BYTES_BESIDE), f"n_images={n_images} of the synthetic set")
        return _generate(spec.n_images, spec.image_size, spec.data_seed, spec.test_images, more_pure)
    return _prepare(spec.dataset, sets.fingerprint(spec.dataset), spec.n_images, spec.image_size, spec.raters)


@functools.lru_cache(maxsize=2)
def _prepare(dataset: str, fingerprint: str, n_images: int, image_size: int, raters: str) -> LabelledImages:
    data = sets.read(dataset, n_images)
    if raters == "complete":
        of_whole_set = votes.complete_raters(sets.read(dataset).ratings)
        counts = votes.count(of_whole_set[:n_images], len(data.class_names))
        data = replace(data, votes=counts, truth=votes.soft(counts))
    if sets.fingerprint(dataset) != fingerprint:
        raise InputError(f"the file of {dataset} changed while it was read; the same command starts again")
    return shrink(data, image_size)


@functools.lru_cache(maxsize=2)
def _generate(n_images: int, image_size: int, data_seed: int, test_images: int, more_pure: int) -> LabelledImages:
    from beyond_hard_labels.data import shapes

    return shapes.synthetic(n_images, image_size, data_seed, test_images=test_images, more_pure=more_pure)


def split_of(spec: RunSpec, data: LabelledImages) -> Split:
    """Return the split of a run; its ambiguous training images are those without unanimous labels."""
    if spec.split_kind == "random":
        split = random_split(spec.n_images, spec.split, spec.test_images)
    else:
        split = slice_split(data.fold, spec.split + 1)  # slices are counted from 1
    split = thin(split, spec.train_share, spec.split)
    if spec.ambiguous == "kept":
        return split
    pure = split.train[data.truth[split.train].max(axis=1) == 1]
    more = np.arange(spec.n_images + spec.test_images, len(data.ids))  # none unless they are replaced
    return split._replace(train=np.concatenate([pure, more[: len(split.train) - len(pure)]]))


def labels_of(spec: RunSpec, data: LabelledImages) -> votes.Targets:
    """Return the labels of all images as a run is given them: of how many votes, and of which kind.

    ``hard`` and ``soft`` are the paper's (`votes.targets`). ``hard_weighted`` counts an image as much as its largest
    share. ``soft_colour`` and ``soft_shape`` are soft in the one and hard in the other. ``soft_shuffled`` is the soft
    label of another image of the same majority and part of the split. ``one_vote`` is drawn anew from the soft label in
    each epoch. ``dawid_skene`` is what that model of annotators believes, and ``dawid_skene_hard`` the class that it
    believes in most.
    """
    cast, short = (data.truth if data.votes is None else data.votes), np.zeros(len(data.ids), bool)
    given = ratings_of(spec, data)
    if given is not None:
        k = len(data.class_names)
        believed = annotators.aggregate(given, "dawid_skene", k) if spec.labels.startswith("dawid_skene") else None
        cast = votes.count(given, k) if believed is None else believed
    elif spec.votes_per_image and data.votes is None:
        cast = votes.draw(data.truth, spec.votes_per_image, spec.split)
    elif spec.votes_per_image:
        cast, short = votes.subsample(cast, spec.votes_per_image, spec.split)
    hard, soft = (
        votes.targets(cast, kind, ties=spec.ties, seed=spec.split)._replace(short=short) for kind in votes.LABEL_KINDS
    )
    match spec.labels:
        case "hard_weighted":
            return hard._replace(weight=soft.rows.max(axis=1))
        case "one_vote":
            return soft._replace(vote_seed=spec.split)
        case "soft_shuffled":
            return soft._replace(rows=votes.shuffle(soft.rows, split_of(spec, data), spec.split))
        case "soft_colour" | "soft_shape":
            from beyond_hard_labels.data import shapes

            if data.class_names != shapes.CLASS_NAMES:
                raise InputError(f"labels are '{spec.labels}', which {data.name} has not: expected the synthetic set")
            pair = (soft.rows, hard.rows) if spec.labels == "soft_colour" else (hard.rows, soft.rows)
            return hard._replace(rows=shapes.product(*pair))
    return hard if spec.labels in ("hard", "dawid_skene_hard") else soft


def ratings_of(spec: RunSpec, data: LabelledImages) -> np.ndarray | None:
    """Return what each annotator of a run says of each image, int64 (N, R), -1 for nothing; None if nobody is known.

    A model of annotators has the votes of those who voted, and a simulated crowd votes on the exact truth.
    """
    if spec.crowd != "exact" or (spec.labels.startswith("dawid_skene") and data.votes is None):
        if data.votes is not None or not spec.votes_per_image:
            raise InputError(
                f"crowd is '{spec.crowd}' with {spec.votes_per_image} votes an image of {data.name}, expected a number "
                "of votes (votes_per_image) and a set without annotators of its own"
            )
        return annotators.ratings(data.truth, spec.votes_per_image, spec.crowd, spec.noise, spec.split)
    if spec.labels.startswith("dawid_skene") and data.ratings is None:
        raise InputError(f"labels are '{spec.labels}', and it is not known who voted in {data.name}")
    return data.ratings if spec.labels.startswith("dawid_skene") else None


def empty_classes(given: Given) -> dict[str, list[str]]:
    """Return the classes that lead no label of a training image that is kept, and no truth of a test image."""
    data, split, labels = given
    rows = split.train[labels.keep[split.train]]
    leading = {"training": labels.rows[rows].argmax(axis=1), "test": data.truth[split.test].argmax(axis=1)}
    return {part: [name for c, name in enumerate(data.class_names) if c not in of] for part, of in leading.items()}
