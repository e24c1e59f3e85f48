"""The store of finished runs: the one place where results are written and read.

A run is a frozen spec and a directory named by the hash of the spec:

    spec.json          the spec
    manifest.json      fingerprints of data and code, versions, machine, sizes, checksums of the files
    predictions.npz    test and validation: row indices, soft truth, logits; the validation images' labels, zeros
                       for a dropped tie; where the set has them, votes and official labels of the test images
    features.npz       pooled features of the test images
    history.csv        one row an epoch
    weights.safetensors

Everything is written under a temporary name and renamed once, and read only if its checksums are those
of the manifest, which carries its own. Metrics are not stored: they are computed from the predictions
whenever they are read, so a change in `metrics` retrains nothing.

A published run is such a folder in ``results`` of the project, without features and weights, and with

    scores.json        every score, as computed from the predictions as they lie there
    map.npz            of split 0, the t-SNE map of the test images and its settings

Its logits are rounded to float16 where no printed digit of a score shows it, and truth and votes come
along for a generated set only: those of others are not ours to pass on, and their scores are read. It
is found by its spec alone, whatever code and versions made it.

`changes` decides for all of them what is fresh, and says in words what is not.
"""

import hashlib
import io
import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_hard_labels.base import files
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.files import Damaged, checksum, write_json
from beyond_hard_labels.base.paths import build_folder, published_folder
from beyond_hard_labels.base.process import tell
from beyond_hard_labels.data import votes
from beyond_hard_labels.data.images import LabelledImages, Split
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.learn.metrics import METRICS, Metric
from beyond_hard_labels.learn.train import Trained
from beyond_hard_labels.runs.fresh import Change, can_train, changes, provenance
from beyond_hard_labels.runs.spec import RunSpec, other_fields

FILES = ("spec.json", "predictions.npz", "features.npz", "history.csv", "weights.safetensors")
PUBLISHED_FILES = ("spec.json", "predictions.npz", "history.csv", "scores.json")
MAP = "map.npz"
_KNOWN_FILES = (*FILES, "scores.json", MAP)
LEFT_OUT = "left_out.json"  # beside a run that came in a pack: which of its files did not fit in


@dataclass(frozen=True)
class Run:
    """A finished run as read from the store.

    Attributes
    ----------
    spec : RunSpec
    folder : Path
    manifest : dict
        Fingerprints, versions and the machine.
    history : pandas.DataFrame
        One row an epoch, metrics on the validation images.
    index, predicted : np.ndarray
        The test images' rows in the set (N,) and their predicted distribution (N, K).
    truth : np.ndarray or None
        Their soft truth (N, K); None where a published run may not carry it.
    """

    spec: RunSpec
    folder: Path
    manifest: dict
    history: pd.DataFrame
    index: np.ndarray
    truth: np.ndarray | None
    predicted: np.ndarray

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric on the test images, computed now; without the truth as published."""
        return self.score(METRICS)

    def score(self, asked: Mapping[str, Metric]) -> dict[str, float]:
        """Return some metrics on the test images by name, computed now.

        Without the truth they are as published, NaN where that has none of the name.
        """
        if self.truth is None:
            known = self._as_published("metrics")
            return {name: known.get(name, math.nan) for name in asked}
        return {name: metric.function(self.truth, self.predicted) for name, metric in asked.items()}

    def validation(self, epoch: int) -> dict[str, float]:
        """Return the metrics on the validation images after an epoch, counted from 1."""
        return self.history.set_index("epoch").loc[epoch].drop("train_loss").to_dict()

    @property
    def name(self) -> str:
        """Its key, and whose it is: a local and a published run of one spec have pages of their own."""
        return f"published-{self.spec.key}" if self.published else self.spec.key

    @property
    def published(self) -> bool:
        """Whether this is one of the project's published runs."""
        return self.folder.parent == published_folder()

    @property
    def files(self) -> list[str]:
        """Names of the files that make it up."""
        return [name for name in _KNOWN_FILES if (self.folder / name).is_file()]

    def stored(self, part: str) -> np.ndarray | None:
        """Return an array of the predictions, such as ``validation_logits``; None if the set has no such."""
        with np.load(self.folder / "predictions.npz", allow_pickle=False) as file:
            return file[part] if part in file.files else None

    def temperatures(self) -> dict[str, tuple[float, float]]:
        """Return the temperature that fits the validation images, and the test KL with it, by what it fits.

        Who has hard labels only can fit it to nothing but those, the run's ``own targets``, before they
        were smoothed; the ``soft truth`` shows what scaling could do at best. Without the truth both are
        as published.
        """
        if self.truth is None:
            return {name: tuple(pair) for name, pair in self._as_published("temperatures").items()}
        soft, logits, test_logits = map(self.stored, ("validation_truth", "validation_logits", "test_logits"))
        own = self.stored("validation_labels")
        labelled = own.any(axis=1)  # a dropped tie has no label
        fitted = {
            "own targets": metrics.temperature(logits[labelled], own[labelled]),
            "soft truth": metrics.temperature(logits, soft),
        }
        return {name: (t, metrics.kl(self.truth, metrics.softmax(test_logits / t))) for name, t in fitted.items()}

    def floors(self) -> dict[str, float] | None:
        """Return both estimates of the KL that remains for who knows each distribution; None if the truth is exact."""
        if self.truth is None:
            return self._as_published("floors")
        if (cast := self.stored("test_votes")) is None:
            return None
        return {"analytic": metrics.noise_floor(cast), "halves": metrics.split_half_floor(cast)}

    def official_accuracy(self) -> float | None:
        """Return the macro accuracy against the official labels of the test images, None if the set has none."""
        if self.truth is None:
            return self._as_published("official_accuracy")
        if (official := self.stored("test_official")) is None:
            return None
        return metrics.macro_accuracy(np.eye(self.truth.shape[1])[official], self.predicted)

    def scores(self) -> dict:
        """Return all that follows from predictions and truth, as ``scores.json`` of a published run has it."""
        return {
            "metrics": self.metrics,
            "temperatures": {name: list(pair) for name, pair in self.temperatures().items()},
            "floors": self.floors(),
            "official_accuracy": self.official_accuracy(),
        }

    def _as_published(self, part: str):
        return json.loads((self.folder / "scores.json").read_text("utf-8"))[part]

    @property
    def features(self) -> np.ndarray:
        """Pooled features of the test images, float32 (N, F)."""
        with np.load(self.folder / "features.npz", allow_pickle=False) as file:
            return file["test"]

    def published_map(self) -> tuple[np.ndarray, dict] | None:
        """Return the t-SNE map (N, 2) that a published run came with, and its settings; None if there is none."""
        if not (self.folder / MAP).is_file():
            return None
        with np.load(self.folder / MAP, allow_pickle=False) as file:
            return file["plane"], json.loads(file["settings"].item())


def find(spec: RunSpec) -> Run | None:
    """Return the local run of a spec if it is there, whole and counts, see `outdated`, else None."""
    folder = build_folder() / "runs" / spec.key
    if not folder.is_dir():
        return None
    try:
        run = load(folder)
    except Damaged:
        return None  # it is named and set aside when it is made again
    return None if outdated(run) else run


def set_aside_damaged(spec: RunSpec) -> None:
    """Move the local run of a spec out of the way, with a word, if it is damaged; the caller holds its lock."""
    folder = build_folder() / "runs" / spec.key
    if folder.is_dir():
        try:
            load(folder)
        except Damaged as error:
            aside = files.set_aside(folder, build_folder() / "damaged")
            tell(f"{error}; it is set aside as {aside} and made again")


def published(spec: RunSpec) -> Run | None:
    """Return the published run of a spec, or None."""
    folder = published_folder() / spec.key
    return load(folder) if folder.is_dir() else None


def published_specs(dataset: str) -> list[RunSpec]:
    """Return the specs of all published runs on a set, in the order of their keys."""
    found = [load(path.parent).spec for path in sorted(published_folder().glob("*/spec.json"))]
    return [spec for spec in found if spec.dataset == dataset]


def by_name(name: str) -> Run:
    """Return the run of a name, see `Run.name`."""
    key = name.removeprefix("published-")
    return load((build_folder() / "runs" if key == name else published_folder()) / key)


def differences(run: Run) -> list[Change]:
    """Return what a run was made of that is another here, see `changes`."""
    unsealed = [] if "files" in run.manifest else [Change("record", "it has no checksums of its files")]
    return changes(run.manifest, provenance(run.spec)) + unsealed


def outdated(run: Run) -> list[Change]:
    """Return why a local run does not count here, see `changes`; without its data it does not.

    Other versions matter only where it can be trained again: a run from the machine with the GPU counts
    on one without, whatever is installed there.
    """
    found = differences(run)
    return found if not found or can_train(run.spec) else [change for change in found if change.kind != "version"]


def required_files(folder: Path) -> list[str]:
    """Return the names of the files that a run in this folder must have."""
    if folder.parent == published_folder():
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
    content = {name: (folder / name).read_bytes() for name in _KNOWN_FILES if (folder / name).is_file()}
    sealed = manifest["files"]
    if folder.parent == published_folder() and (lost := sorted(sealed.keys() - content)):
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
    return Run(
        spec=RunSpec(**spec),
        folder=folder,
        manifest=manifest,
        history=pd.read_csv(io.BytesIO(content["history.csv"])),
        index=index,
        truth=truth,
        predicted=metrics.softmax(logits),
    )


def save(
    spec: RunSpec,
    trained: Trained,
    split: Split,
    data: LabelledImages,
    labels: votes.Targets,
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
    seconds : float
        Wall time of the training.
    store : Path, optional
        The folder of runs; by default the build folder's.
    """
    from safetensors.numpy import save as to_bytes

    folder = (store or build_folder() / "runs") / spec.key
    files.sweep(folder)
    with files.writing(folder) as temporary:
        temporary.mkdir()
        write_predictions(temporary, split, data, labels, trained.test_logits, trained.validation_logits)
        write_npz(temporary / "features.npz", test=trained.test_features)
        pd.DataFrame(trained.history).to_csv(temporary / "history.csv", index=False)
        weights = to_bytes({name: tensor.numpy() for name, tensor in trained.state.items()})
        (temporary / "weights.safetensors").write_bytes(weights)
        write_json(temporary / "spec.json", asdict(spec))
        manifest = {
            **provenance(spec),
            "machine": machine(spec.device),
            "classes": data.class_names,
            "training_images": len(split.train),
            "tied_training_images": int(labels.tied[split.train].sum()),
            "training_images_short_of_votes": int(labels.short[split.train].sum()),
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
