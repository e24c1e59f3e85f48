"""The line of a page that says what its numbers come from, in words that a stranger understands."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from beyond_hard_labels.book.tables import text
from beyond_hard_labels.data.sets import SYNTHETIC
from beyond_hard_labels.runs import fresh
from beyond_hard_labels.runs.store import Run, differences
from beyond_hard_labels.runs.study import Study, nearest

NETWORKS = {
    "small": "a small network",
    "small_mobile": "a small network of inverted residuals",
    "densenet121": "DenseNet121",
    "resnet50v2": "ResNet50v2",
    "efficientnet_lite0": "EfficientNet-Lite0",
}
PROTOCOLS = {"as_written": "as the paper writes it", "as_run": "as the authors' code runs"}
WEIGHTS = {"none": "random weights", "imagenet": "ImageNet weights"}


def line(study: Study, runs: Sequence[Run] = ()) -> str:
    """Return one line: profile, images, training, splits, and where the runs were trained."""
    splits = f"{study.splits} random split{'s' if study.splits > 1 else ''}"
    return _line(study.profile, study.changed, study.shared, study.protocol, splits, runs)


def line_of_run(run: Run) -> str:
    """Return the same of a single run."""
    profile, changed = nearest(run.spec)
    which = f"{run.spec.labels} labels, split {run.spec.split}"
    return _line(profile, changed, asdict(run.spec), changed.get("protocol", "as_written"), which, [run])


def _line(profile: str, changed: Mapping, values: Mapping[str, Any], protocol: str, which: str, runs: Sequence) -> str:
    given = ", ".join(f"{text(name)} = {text(value)}" for name, value in changed.items())
    what = "generated images" if values["dataset"] == SYNTHETIC else f"images of {text(values['dataset'])}"
    size, epochs = values["image_size"], f"{values['epochs']} epoch{'s' if values['epochs'] > 1 else ''}"
    parts = [f"**Profile {profile}**" + (f" with {given}" if given else "")]
    parts.append(f"{values['n_images']:,} {what} of {size} × {size} pixels")
    if runs:
        network = f"{NETWORKS[values['backbone']]} from {WEIGHTS.get(values['weights'], 'given weights')}"
        parts += [f"{network}, {epochs}, {PROTOCOLS[protocol]}", which, trained(runs)]
    return " · ".join(parts)


def trained(runs: Sequence[Run]) -> str:
    """Return where some runs were trained, and of published ones what has changed since."""
    published = [run for run in runs if run.published]
    if not published:
        away = any(run.spec.device == "cuda" and not fresh.can_train(run.spec) for run in runs)
        return "trained on another machine, with a GPU" if away else "trained on this machine"
    machines = [run.manifest["machine"] for run in published]
    where = sorted({m.get("gpu", f"{m['system']} with {m['cores']} cores") for m in machines})
    since = fresh.told(sorted({change for run in published for change in differences(run)}, key=str))
    count = "published" if len(published) == len(runs) else f"{len(published)} of {len(runs)} published"
    words = f"{count} run{'s' if len(runs) > 1 else ''}, trained on {' and '.join(where)}"
    return words + (f"; since then: {since}" if since else "")
