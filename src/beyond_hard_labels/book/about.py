"""The line of a page that says what its numbers come from, in words that a stranger understands."""

from collections.abc import Sequence

from beyond_hard_labels.base.paths import published_folder
from beyond_hard_labels.data.sets import SYNTHETIC
from beyond_hard_labels.runs import fresh
from beyond_hard_labels.runs.store import Run, differences
from beyond_hard_labels.runs.study import Study

NETWORKS = {
    "small": "a small network",
    "small_mobile": "a small network of inverted residuals",
    "densenet121": "DenseNet121",
    "resnet50v2": "ResNet50v2",
}


def line(study: Study, runs: Sequence[Run] = ()) -> str:
    """Return one line: profile, images, training, splits, and where the runs were trained."""
    shared, changed = study.shared, ", ".join(f"{name} = {value}" for name, value in study.changed.items())
    what = "generated images" if shared["dataset"] == SYNTHETIC else f"images of {shared['dataset']}"
    parts = [
        f"**Profile {study.profile}**{f' with {changed}' if changed else ''}",
        f"{shared['n_images']:,} {what} of {shared['image_size']} pixels a side",
    ]
    if runs:
        weights = {"none": "random weights", "imagenet": "ImageNet weights"}.get(shared["weights"], "given weights")
        times = "as the paper writes it" if study.protocol == "as_written" else "as the authors' code runs"
        parts += [
            f"{NETWORKS[shared['backbone']]} from {weights}, {shared['epochs']} epochs, {times}",
            f"{study.splits} random split{'s' if study.splits > 1 else ''}",
            trained(runs),
        ]
    return " · ".join(parts)


def trained(runs: Sequence[Run]) -> str:
    """Return where some runs were trained, and of published ones what has changed since."""
    published = [run for run in runs if run.folder.parent == published_folder()]
    if not published:
        away = any(run.spec.device == "cuda" and not fresh.can_train(run.spec) for run in runs)
        return "trained on another machine, with a GPU" if away else "trained on this machine"
    machine = published[0].manifest["machine"]
    where = machine.get("gpu", f"{machine['system']} with {machine['cores']} cores")
    since = fresh.told(sorted({change for run in published for change in differences(run)}))
    return f"published runs, trained on {where}" + (f"; since then: {since}" if since else "")
