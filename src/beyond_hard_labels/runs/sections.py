"""What there is of a set of real images with real votes on this machine: its runs, its images, or why not."""

from typing import Any, NamedTuple

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import sets
from beyond_hard_labels.data.images import LabelledImages
from beyond_hard_labels.runs.ensure import ensure
from beyond_hard_labels.runs.inputs import images_of
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.study import Study, plan, published

SETS = ("micebone", "fashion_mnist_h", "cifar10h")


class Section(NamedTuple):
    """What there is of a set.

    Attributes
    ----------
    study : Study
        Of the runs.
    runs : list of Run
        Trained here where the images are here, the project's published ones otherwise.
    data : LabelledImages or None
        None where the images are not here.
    """

    study: Study
    runs: list[Run]
    data: LabelledImages | None


def sections(study: Study, asked: dict[str, Any]) -> dict[str, Section]:
    """Return what there is of each set, by its name, after training the runs that are missing.

    A set of which there is nothing, neither images nor published runs, is left out.

    Parameters
    ----------
    study : Study
        That of the book; its changes hold here, too, but for what a file decides. Beyond the profile
        ``paper`` one split is trained, unless ``splits`` was changed.
    asked : dict
        ``dataset``, the only set to show, and further parameters of the chapter; None stands for no wish.
    """
    asked = {name: value for name, value in asked.items() if value is not None}
    only = asked.pop("dataset", None)
    if only is not None and only not in SETS:
        raise InputError(f"parameter 'dataset' is {only!r}, expected one of {', '.join(SETS)}")
    found = {}
    for name in [only] if only else SETS:
        here = name in sets.names()
        own = _on(study, name, asked) if here else published(name)
        if own is not None:
            found[name] = Section(own, ensure(own), images_of(own.spec("soft", 0)) if here else None)
    return found


def _on(study: Study, name: str, asked: dict[str, Any]) -> Study:
    """Return the study of the book on another set."""
    n_images = len(sets.read(name).ids)
    changed = {key: value for key, value in study.changed.items() if key not in ("data_seed", "image_size")}
    if "n_images" in changed:
        changed["n_images"] = min(n_images, changed["n_images"])
    one = {} if study.profile == "paper" else {"splits": 1}
    own = plan(study.profile, **(one | changed | asked | {"dataset": name}))
    most = max(2.0, own.shared["n_images"] / 5 / 4)  # a map needs more than three times its perplexity in test images
    return own if own.perplexity <= most else plan(own.profile, **(own.changed | {"perplexity": most}))
