"""What there is of the sets of real images with real votes that the book shows, and why, where one is missing."""

from typing import Any, NamedTuple

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import sets
from beyond_hard_labels.data.images import LabelledImages
from beyond_hard_labels.runs import store
from beyond_hard_labels.runs.ensure import ensure
from beyond_hard_labels.runs.inputs import images_of
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.study import Study, plan, published

SETS = ("micebone", "fashion_mnist_h", "cifar10h")


class Section(NamedTuple):
    """What there is of a set: its study and runs, and its images; and why something is not there.

    Attributes
    ----------
    study : Study or None
    runs : list of Run
        Empty without a study.
    data : LabelledImages or None
    why : str
        A sentence; empty if nothing is missing.
    """

    study: Study | None
    runs: list[Run]
    data: LabelledImages | None
    why: str


def section(study: Study, name: str, asked: dict[str, Any]) -> Section:
    """Return what there is of a set, after training the runs that are missing.

    Parameters
    ----------
    study : Study
        That of the book; its changes hold here, too, but for what a file decides. Beyond the profile
        ``paper`` one split is trained, unless ``splits`` was changed.
    name : str
        One of `SETS`.
    asked : dict
        ``dataset``, the only set to show, and further parameters of the chapter; those that are None
        do not count.
    """
    asked = {parameter: value for parameter, value in asked.items() if value is not None}
    only = asked.pop("dataset", name)
    if only not in SETS:
        raise InputError(f"parameter 'dataset' is {only!r}, expected one of {', '.join(SETS)}")
    if only != name:
        return Section(None, [], None, f"Left out, since the parameter `dataset` of this chapter is `{only}`.")
    fetch = f"`bhl data fetch {name}` brings the set, and the next build trains on it"
    if name in sets.names():
        own = _on(study, name, asked)
        return Section(own, ensure(own), images_of(own.spec("soft", 0)), "")
    if (own := published(name)) is None:
        why = f"The set is not on this machine, and no run on it is published; {fetch}."
        return Section(None, [], None, f"**Profile {study.profile}** · no runs of this set\n\n{why}")
    why = f"The images are not on this machine, so that only what follows from published runs is shown; {fetch}."
    return Section(own, ensure(own), None, why)


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


def state() -> list:
    """Return what decides which sections are shown and of what: files that are here, runs that are published."""
    here = [[name, sets.fingerprint(name)] for name in SETS if name in sets.names()]
    of_project = [store.published(spec) for name in SETS for spec in store.published_specs(name)]
    return [here, [[run.spec.key, run.manifest["files"]] for run in of_project]]
