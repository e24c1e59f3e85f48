"""The store of finished runs: the one place where results are written and read.

A run is a frozen spec and a directory named by the hash of the spec:

    spec.json          the spec
    manifest.json      fingerprints of data and code, taken before the training, versions, machine, sizes,
                       checksums of the files
    predictions.npz    test and validation: row indices, soft truth, logits; the validation images' labels, zeros
                       for a dropped tie; where the set has them, votes and official labels of the test images
    features.npz       pooled features of the test images
    curves.npz         an entry an epoch: the validation images' logits, float16 (E, N, K), the training loss and
                       the loss against their own targets
    weights.safetensors

Everything is written under a temporary name and renamed once, and read only if its checksums are those
of the manifest, which carries its own.

A published run is such a folder in ``results`` of the project, without features, curves and weights, and with

    history.csv        one row an epoch, as computed from the curves
    scores.json        every score, as computed from the predictions as they lie there
    map.npz            of split 0, the t-SNE map of the test images and its settings

Its logits are rounded to float16 where no printed digit of a score shows it, and truth and votes come
along for a generated set only. It is found by its spec alone, whatever code and versions made it.

`fresh.changes` decides for all of them what is fresh, and says in words what is not.
"""

import hashlib
import io
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beyond_hard_labels.base import files, paths, reads
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.files import Damaged, checksum, write_json
from beyond_hard_labels.base.process import tell
from beyond_hard_labels.data import votes
from beyond_hard_labels.data.images import LabelledImages, Split
from beyond_hard_labels.learn.metrics import softmax
from beyond_hard_labels.runs import fresh
from beyond_hard_labels.runs.fresh import Change
from beyond_hard_labels.runs.inputs import empty_classes
from beyond_hard_labels.runs.run import CURVES, FILES, KNOWN_FILES, MAP, PUBLISHED_FILES, Run
from beyond_hard_labels.runs.spec import RunSpec, other_fields

if TYPE_CHECKING:  # torch takes seconds
    from beyond_hard_labels.learn.train import Trained

__all__ = ["FILES", "MAP", "PUBLISHED_FILES", "Run"]  # beside what is defined here
LEFT_OUT = "left_out.json"  # beside a run that came in a pack: which of its files did not fit in


def find(spec: RunSpec) -> Run | None:
    """Return the local run of a spec if it is there, whole and counts, see `outdated`, else None."""
    folder = paths.build_folder() / "runs" / spec.key
    if not folder.is_dir():
        reads.note("run", spec.key, None)
        return None
    try:
        run = load(folder)
    except Damaged:
        reads.note("run", spec.key, None)
        return None  # it is named and set aside when it is made again
    return None if outdated(run) else run


def set_aside_damaged(spec: RunSpec) -> None:
    """Move the local run of a spec out of the way, with a word, if it is damaged; the caller holds its lock."""
    folder = paths.build_folder() / "runs" / spec.key
    if folder.is_dir():
        try:
            load(folder)
        except Damaged as error:
            aside = files.set_aside(folder, paths.build_folder() / "damaged")
            tell(f"{error}; it is set aside as {aside} and made again")


def published(spec: RunSpec) -> Run | None:
    """Return the published run of a spec, or None."""
    folder = paths.published_folder() / spec.key
    if folder.is_dir():
        return load(folder)
    reads.note("run", f"published-{spec.key}", None)
    return None


def published_specs(dataset: str) -> list[RunSpec]:
    """Return the specs of all published runs on a set, in the order of their keys."""
    found = [load(path.parent).spec for path in sorted(paths.published_folder().glob("*/spec.json"))]
    return [spec for spec in found if spec.dataset == dataset]


def by_name(name: str) -> Run:
    """Return the run of a name, see `Run.name`."""
    key = name.removeprefix("published-")
    return load((paths.build_folder() / "runs" if key == name else paths.published_folder()) / key)


def differences(run: Run) -> list[Change]:
    """Return what a run was made of that is another here, see `fresh.changes`."""
    unsealed = [] if "files" in run.manifest else [Change("record", "it has no checksums of its files")]
    return fresh.changes(run.manifest, fresh.provenance(run.spec)) + unsealed


def outdated(run: Run) -> list[Change]:
    """Return why a local run does not count here, see `fresh.changes`; without its data it does not.

    Other versions matter only where it can be trained again: a run from the machine with the GPU counts
    on one without, whatever is installed there.
    """
    found = differences(run)
    return found if not found or fresh.can_train(run.spec) else [change for change in found if change.kind != "version"]


def required_files(folder: Path) -> list[str]:
    """Return the names of the files that a run in this folder must have."""
    if folder.parent == paths.published_folder():
        return list(PUBLISHED_FILES)
    without = folder / LEFT_OUT
    left_out = json.loads(without.read_text("utf-8")) if without.is_file() else ()
    return [name for name in FILES if name not in left_out]


def load(folder: Path) -> Run:
    """Read a run's directory, after a look at the checksums of all its files.

    Raises
    ------
    Damaged
        If a file of the run is missing or not as it was stored.
    InputError
        If the run is missing, or the spec has other fields than a run's.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise InputError(f"there is no run in {folder}; 'bhl book' or 'bhl study' trains what is missing")
    missing = [name for name in (*required_files(folder), "manifest.json") if not (folder / name).is_file()]
    if missing:
        raise Damaged(f"the run in {folder} is not whole, {', '.join(missing)} not found")
    manifest = files.read_sealed_json(folder / "manifest.json")
    content = {name: (folder / name).read_bytes() for name in KNOWN_FILES if (folder / name).is_file()}
    sealed = manifest["files"]
    if folder.parent == paths.published_folder() and (lost := sorted(sealed.keys() - content)):
        raise Damaged(f"the run in {folder} is not whole, {', '.join(lost)} not found")
    changed = [name for name, found in content.items() if hashlib.sha256(found).hexdigest() != sealed.get(name)]
    if changed:
        raise Damaged(f"the run in {folder} is damaged, {', '.join(changed)} not as it was stored")
    spec = json.loads(content["spec.json"])
    if other := other_fields(spec):
        raise InputError(f"{folder / 'spec.json'}: fields differ from a run's: {other}")
    with np.load(io.BytesIO(content["predictions.npz"]), allow_pickle=False) as file:
        index, logits = (file[f"test_{part}"] for part in ("index", "logits"))
        truth = file["test_truth"] if "test_truth" in file.files else None
    run = Run(RunSpec(**spec), folder, manifest, index, truth, softmax(logits))
    if run.published or folder.parent == paths.build_folder() / "runs":
        reads.note("run", run.name, reads.of_run(folder, manifest["files"]))
    return run


def save(
    spec: RunSpec,
    trained: "Trained",
    split: Split,
    data: LabelledImages,
    labels: votes.Targets,
    made_of: dict[str, dict],
    seconds: float,
    store: Path | None = None,
) -> Run:
    """Write a run whole or not at all, replacing a stale one, and return it as read back.

    Parameters
    ----------
    spec : RunSpec
    trained : Trained
    split : Split
    data : LabelledImages
        The whole set.
    labels : Targets
        The labels of all images, before they were smoothed.
    made_of : dict
        What it was made of, as `fresh.provenance` had it before the images were read.
    seconds : float
        Wall time of the training.
    store : Path, optional
        The folder of runs; by default the build folder's.
    """
    from safetensors.numpy import save as to_bytes

    folder = (store or paths.build_folder() / "runs") / spec.key
    files.sweep(folder)
    with files.writing(folder) as temporary:
        temporary.mkdir()
        write_predictions(temporary, split, data, labels, trained.test_logits, trained.validation_logits)
        write_npz(temporary / "features.npz", test=trained.test_features)
        write_npz(temporary / CURVES, **trained.curves)
        weights = to_bytes({name: tensor.numpy() for name, tensor in trained.state.items()})
        (temporary / "weights.safetensors").write_bytes(weights)
        write_json(temporary / "spec.json", asdict(spec))
        manifest = {
            **made_of,
            "machine": machine(spec.device),
            "classes": data.class_names,
            "training_images": len(split.train),
            "tied_training_images": int(labels.tied[split.train].sum()),
            "training_images_short_of_votes": int(labels.short[split.train].sum()),
            "empty_classes": empty_classes(split, labels, data),
            "seconds": round(seconds, 1),
            "files": {name: checksum(temporary / name) for name in FILES},
        }
        write_json(temporary / "manifest.json", manifest, sealed=True)
    return load(folder)


def write_predictions(
    folder: Path,
    split: Split,
    data: LabelledImages,
    labels: votes.Targets,
    test_logits: np.ndarray,
    validation_logits: np.ndarray,
) -> None:
    """Write ``predictions.npz``: what a run predicts, and all that it is scored against."""
    more = {"test_votes": data.votes, "test_official": data.official}
    write_npz(
        folder / "predictions.npz",
        test_index=split.test,
        test_truth=data.truth[split.test],
        test_logits=test_logits,
        validation_index=split.validation,
        validation_truth=data.truth[split.validation],
        validation_logits=validation_logits,
        validation_labels=np.where(labels.keep[:, None], labels.rows, 0.0)[split.validation],
        **{name: rows[split.test] for name, rows in more.items() if rows is not None},
    )


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    content = io.BytesIO()  # zipfile on a full disk would fail a second time when it is closed
    np.savez_compressed(content, **arrays)
    path.write_bytes(content.getbuffer())


def machine(device: str) -> dict[str, str]:
    """Describe what runs here: Python, system, processor and, for cuda, the GPU."""
    described = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    described["cores"] = str(os.cpu_count())
    if device == "cuda":
        import torch

        described["gpu"] = torch.cuda.get_device_name()
    return described
