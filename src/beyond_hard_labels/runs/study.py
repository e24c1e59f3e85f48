"""A study, the grid of runs behind the book: a profile with overrides, on all kinds of label and all splits."""

import functools
import itertools
from collections import Counter
from dataclasses import asdict, dataclass, replace
from importlib import resources
from typing import Any

import yaml

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.parameters import check, option, options
from beyond_hard_labels.data import sets, votes
from beyond_hard_labels.runs import store
from beyond_hard_labels.runs.spec import RunSpec

PROFILES = ("smoke", "quick", "paper")
PROTOCOLS = ("as_written", "as_run")
OF_FILE = ("n_images", "image_size", "data_seed")  # what the file of a set decides


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid of runs; make one with `plan`."""

    profile: str = option("where defaults come from", choices=PROFILES)
    protocol: str = option("as the paper writes it, or as the authors' code runs", choices=PROTOCOLS)
    splits: int = option("splits, each with both kinds of label", at_least=1)
    perplexity: float = option("of the t-SNE map", at_least=2.0)
    tsne_iterations: int = option("gradient steps of the t-SNE map", at_least=10)
    shared: dict[str, Any]  # the fields that all runs share
    changed: dict[str, Any]  # what was asked for beyond the profile

    def spec(self, labels: str, split: int) -> RunSpec:
        """Return the spec of one run."""
        return RunSpec(labels=labels, split=split, **self.shared)

    def specs(self) -> list[RunSpec]:
        """Return the specs of all runs, split by split."""
        return [self.spec(labels, split) for split in range(self.splits) for labels in votes.LABEL_KINDS]

    def on(self, dataset: str, **asked: Any) -> "Study":
        """Return the same study on a set that is a file, which decides its seed and size; `asked` comes before.

        A number of images that was changed is an upper bound.
        """
        kept = {name: value for name, value in self.changed.items() if name not in ("data_seed", "image_size")}
        if "n_images" in kept:
            kept["n_images"] = min(kept["n_images"], len(sets.read(dataset).ids))
        return plan(self.profile, **(kept | asked | {"dataset": dataset}))

    @property
    def command(self) -> str:
        """The options that make this study again on the command line."""
        return in_words(self.profile, self.changed)


def in_words(profile: str, changed: dict[str, Any]) -> str:
    """Return a profile and what was changed of it as options of the command line."""
    words = {name: str(value).lower() if isinstance(value, bool) else value for name, value in changed.items()}
    return " ".join([f"--profile {profile}", *(f"--set {name}={word}" for name, word in words.items())])


def valid_parameters() -> dict[str, Any]:
    """Return the fields that a user may set, by name."""
    fields = options(Study, RunSpec)
    return {name: field for name, field in fields.items() if name not in ("labels", "split")}


def plan(profile: str = "quick", **overrides) -> Study:
    """Return the study of a profile with some parameters changed.

    A set may have values of its own in a profile (``profiles/sets.yml``), which come before what was changed. Where the
    file of a set is not here, its size is taken from a published run of the study. Raises `InputError` on a parameter
    that `parameters.check` refuses, and if the set is not here, or has not what is asked of it.
    """
    check(valid_parameters(), {"profile": profile})
    changed = dict(sorted(check(valid_parameters(), overrides).items()))
    values = values_of(profile, changed)
    own = {name: values.pop(name) for name in ("protocol", "splits", "perplexity", "tsne_iterations")}
    study = Study(profile=profile, shared=values, changed=changed, **own)
    study.spec("soft", 0)  # checks what the profile says, too
    return study


def values_of(profile: str, changed: dict[str, Any]) -> dict[str, Any]:
    """Return the value of every parameter, from a profile, what was changed, and what a set decides."""
    values = _defaults(profile, changed.get("protocol", "as_written"), changed.get("dataset", sets.SYNTHETIC)) | changed
    if values["dataset"] != sets.SYNTHETIC:
        return values | _of_set(profile, values, changed)
    if (values["raters"], values["split_kind"]) != ("all", "random"):
        expected = "expected raters=all, split_kind=random"
        raise InputError(f"the synthetic set has neither single raters nor folds: {expected}")
    return values


def _defaults(profile: str, protocol: str, dataset: str) -> dict[str, Any]:
    """Return the values of a profile and a protocol; those of the set come before."""
    own = read_profile("sets").get(dataset, {})
    values = read_profile(profile) | {"protocol": protocol, "dataset": dataset} | own.get(profile, {})
    return values | (read_profile("as_run") | own.get("as_run", {}) if protocol == "as_run" else {})


def _of_set(profile: str, values: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that a set decides; raise on those that were changed in vain."""
    dataset = values["dataset"]
    if dataset not in sets.names():
        for spec in store.published_specs(dataset):
            sizes = {name: getattr(spec, name) for name in OF_FILE}
            wanted = values | sizes | changed
            if all(wanted.get(name, value) == value for name, value in asdict(spec).items()):
                return sizes
    data = sets.read(dataset)
    n, size = len(data.ids), data.images.shape[-1]
    own = read_profile("sets").get(dataset, {}).get(profile, {})
    asked = {"n_images": min(n, own.get("n_images", n)), "image_size": min(size, own.get("image_size", size))}
    asked |= {"data_seed": 0} | changed
    given, side, read = values | asked, asked["image_size"], f"{dataset} is read, not generated"
    folds, raters = data.fold is not None, data.ratings is not None and votes.complete_raters(data.ratings).size
    blocks = ", ".join(str(side) for side in range(16, size + 1) if size % side == 0)
    shrunk = f"and the images of {dataset} have {size} pixels a side, shrunk by whole blocks; expected {blocks}"
    again = f"import your own images again: bhl data import {dataset} --image-size {side} ..."
    checks = (
        ("raters", given["raters"] == "all" or raters, f"expected all: no rater of {dataset} has seen all"),
        ("split_kind", given["split_kind"] == "random" or folds, f"expected random: {dataset} has no folds"),
        ("n_images", given["n_images"] <= n, f"expected at most the {n} images of {dataset}"),
        ("image_size", size % side == 0, f"{shrunk}; {again}"),
        ("data_seed", given["data_seed"] == 0, f"expected 0: {read}"),
        ("test_images", given["test_images"] == 0, f"expected 0: {read}"),
        ("ambiguous", given["ambiguous"] != "replaced", f"expected kept or left_out: {read}"),
    )
    faults = [f"parameter '{name}' is {given[name]}, {expected}" for name, fits, expected in checks if not fits]
    if faults:
        raise InputError("; ".join(faults))
    return {name: asked[name] for name in OF_FILE}


def published(dataset: str) -> Study | None:
    """Return the study that the published runs of a set make up, named by the profile nearest to it, or None.

    Of several, it is the one with the most splits, and then the most and largest images.
    """
    soft = [replace(spec, split=0) for spec in store.published_specs(dataset) if spec.labels == "soft"]
    if not (splits := Counter(soft)):
        return None
    best = max(splits, key=lambda spec: (splits[spec], spec.n_images, spec.image_size, spec.key))
    profile, changed = nearest(best, splits=splits[best])
    return plan(profile, **changed)


def nearest(spec: RunSpec, **asked: Any) -> tuple[str, dict[str, Any]]:
    """Return the profile that is nearest to a run, and what is to be changed of it to plan that run.

    Further parameters may be `asked` for, such as ``splits``.
    """
    decided = () if spec.dataset == sets.SYNTHETIC else OF_FILE
    made = {name: value for name, value in asdict(spec).items() if name not in (*decided, "labels", "split")}
    named = []
    for profile, protocol in itertools.product(reversed(PROFILES), PROTOCOLS):
        values = _defaults(profile, protocol, spec.dataset) | {"protocol": "as_written"}
        given = sorted({"protocol": protocol, **asked, **made}.items())
        changed = {name: value for name, value in given if value != values[name]}
        named.append((profile, changed | ({"dataset": spec.dataset} if decided else {})))
    return min(named, key=lambda pair: len(pair[1]))


@functools.cache
def read_profile(name: str) -> dict[str, Any]:
    """Return what a file of the package's folder ``profiles`` says; not to be changed."""
    text = resources.files("beyond_hard_labels.runs").joinpath(f"profiles/{name}.yml").read_text("utf-8")
    return yaml.safe_load(text)


def require_generated(study: Study) -> Study:
    """Return the study, or refuse it: the book's chapters draw and colour the shapes of the synthetic set."""
    if study.shared["dataset"] != sets.SYNTHETIC:
        raise InputError(
            f"parameter 'dataset' is '{study.shared['dataset']}', expected synthetic in the book; for another set take "
            "notebooks/your_votes.ipynb or bhl study"
        )
    return study
