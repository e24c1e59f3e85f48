"""What a run is trained on: the images, the split and the labels that its spec names."""

import functools
from dataclasses import replace

import numpy as np

from beyond_hard_labels.data import sets, votes
from beyond_hard_labels.data.images import LabelledImages, Split, random_split, shrink, slice_split, thin
from beyond_hard_labels.runs.spec import RunSpec


def images_of(spec: RunSpec) -> LabelledImages:
    """Return the images that a run is trained on; generated or read once a process."""
    if spec.dataset == sets.SYNTHETIC:
        return _generate(spec.n_images, spec.image_size, spec.data_seed)
    return _prepare(spec.dataset, sets.fingerprint(spec.dataset), spec.n_images, spec.image_size, spec.raters)


@functools.lru_cache(maxsize=2)
def _prepare(dataset: str, fingerprint: str, n_images: int, image_size: int, raters: str) -> LabelledImages:
    data = sets.read(dataset, n_images)
    if raters == "complete":
        of_whole_set = votes.complete_raters(sets.read(dataset).ratings)
        counts = votes.count(of_whole_set[:n_images], len(data.class_names))
        data = replace(data, votes=counts, truth=votes.soft(counts))
    return shrink(data, image_size)


@functools.lru_cache(maxsize=2)
def _generate(n_images: int, image_size: int, data_seed: int) -> LabelledImages:
    from beyond_hard_labels.data import shapes

    return shapes.synthetic(n_images, image_size, data_seed)


def split_of(spec: RunSpec, data: LabelledImages) -> Split:
    """Return the split of a run."""
    if spec.split_kind == "random":
        split = random_split(len(data.ids), spec.split)
    else:
        split = slice_split(data.fold, spec.split + 1)  # slices are counted from 1
    return thin(split, spec.train_share, spec.split)


def labels_of(spec: RunSpec, data: LabelledImages) -> votes.Targets:
    """Return the labels of all images as a run is given them: of how many votes, and of which kind."""
    cast, short = (data.truth if data.votes is None else data.votes), np.zeros(len(data.ids), bool)
    if spec.votes_per_image and data.votes is None:
        cast = votes.draw(data.truth, spec.votes_per_image, spec.split)
    elif spec.votes_per_image:
        cast, short = votes.subsample(cast, spec.votes_per_image, spec.split)
    return votes.targets(cast, spec.labels, ties=spec.ties, seed=spec.split)._replace(short=short)
