"""The store of finished runs: the one place where results are written and read.

A run is a frozen spec and a folder named by the hash of the spec:

    spec.json            the spec
    manifest.json        fingerprints of data and code, taken before the training, versions, machine, sizes,
                         checksums of the files
    predictions.npz      test and validation: row indices, soft truth, logits; the validation images' labels, zeros
                         for a dropped tie; where the set has them, votes and official labels of the test images
    features.npz         pooled features of the test images
    curves.npz           an entry an epoch: the validation images' logits, float16 (E, N, K), the training loss and
                         the loss against their own targets
    weights.safetensors  which nothing here reads, and for which a pack may have had no room

It is read only if its checksums are those of the manifest, which carries its own. Nothing is kept that could be
computed: metrics, temperatures and curves follow from predictions whenever they are asked for.

A published run is such a folder in ``results`` of the project, without features, curves and weights, and with

    history.csv          one row an epoch, as computed from the curves
    scores.json          every score, as computed from the predictions as they lie there
    map.npz              of split 0, the t-SNE map of the test images and its settings

Its logits are rounded to float16 where no printed digit of a score shows it, and truth and votes come along for a
generated set only. It is found by its spec alone, whatever code and versions made it.
"""

import functools
import hashlib
import io
import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from beyond_hard_labels.base import files, paths, reads
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.files import Damaged
from beyond_hard_labels.base.process import tell
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.learn.metrics import METRICS, Metric
from beyond_hard_labels.runs import fresh
from beyond_hard_labels.runs.fresh import Change
from beyond_hard_labels.runs.inputs import Given, empty_classes
from beyond_hard_labels.runs.spec import RunSpec, other_fields

if TYPE_CHECKING:  # torch takes seconds
    from beyond_hard_labels.learn.train import Trained

CURVES, WEIGHTS, HISTORY, SCORES, MAP = "curves.npz", "weights.safetensors", "history.csv", "scores.json", "map.npz"
FILES = ("spec.json", "predictions.npz", "features.npz", CURVES, WEIGHTS)
PUBLISHED_FILES = ("spec.json", "predictions.npz", HISTORY, SCORES)
KNOWN_FILES = (*FILES, HISTORY, SCORES, MAP)


@dataclass(frozen=True)
class Run:
    """A finished run as read from the store."""

    spec: RunSpec
    folder: Path
    manifest: dict
    index: np.ndarray  # the test images' rows in the set (N,)
    truth: np.ndarray | None  # their soft truth (N, K); None where a published run may not carry it
    predicted: np.ndarray  # their predicted distribution (N, K)

    @property
    def name(self) -> str:
        """Its key, and whose it is: a local and a published run of one spec have pages of their own."""
        return f"published-{self.spec.key}" if self.published else self.spec.key

    @property
    def published(self) -> bool:
        """Whether this is one of the project's published runs."""
        return self.folder.parent == paths.published_folder()

    @property
    def files(self) -> list[str]:
        """Names of the files that make it up."""
        return [name for name in KNOWN_FILES if (self.folder / name).is_file()]

    def stored(self, part: str, file: str = "predictions.npz") -> np.ndarray | None:
        """Return an array of the predictions, such as ``validation_logits``; None if the set has no such."""
        with np.load(self.folder / file, allow_pickle=False) as arrays:
            return arrays[part] if part in arrays.files else None

    @property
    def features(self) -> np.ndarray:
        """Pooled features of the test images, float32 (N, F)."""
        return self.stored("test", "features.npz")

    def published_map(self) -> tuple[np.ndarray, dict] | None:
        """Return the t-SNE map (N, 2) that a published run came with, and its settings; None if there is none."""
        if not (self.folder / MAP).is_file():
            return None
        return self.stored("plane", MAP), json.loads(self.stored("settings", MAP).item())

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric on the test images, computed now; without the truth as published."""
        return self.score(METRICS)

    def score(self, asked: Mapping[str, Metric]) -> dict[str, float]:
        """Return some metrics on the test images by name; without the truth as published, NaN for one that is not."""
        if self.truth is None:
            known = self.scores()["metrics"]
            return {name: math.nan if known.get(name) is None else known[name] for name in asked}
        return {name: metric.function(self.truth, self.predicted) for name, metric in asked.items()}

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch, computed now, or as published: losses in nats and metrics on the validation images.

        ``train_loss`` is that of the training images, ``loss`` that of the validation images against their own targets;
        the metrics are against the truth.
        """
        if self.published:
            return pd.read_csv(self.folder / HISTORY)
        truth, logits = self.stored("validation_truth"), self.stored("validation_logits", CURVES)
        table = {"epoch": np.arange(len(logits)) + 1, "train_loss": self.stored("train_loss", CURVES)}
        table["loss"] = self.stored("own_loss", CURVES)
        for name in ("macro_accuracy", "kl"):
            table[name] = [METRICS[name].function(truth, metrics.softmax(of_epoch)) for of_epoch in logits]
        return pd.DataFrame(table)

    def validation(self, epoch: int) -> dict[str, float]:
        """Return the metrics on the validation images after an epoch, counted from 1."""
        return self.history.set_index("epoch").loc[epoch].drop("train_loss").to_dict()

    def temperatures(self) -> dict[str, tuple[float, float]]:
        """Return the temperature that fits the validation images, and the test KL with it, by what it fits.

        Who has hard labels only can fit it to nothing but those, the run's ``own targets``, before they were smoothed;
        the ``soft truth`` shows what scaling could do at best.
        """
        if self.truth is None:
            return {name: tuple(pair) for name, pair in self.scores()["temperatures"].items()}
        soft, logits, test_logits = map(self.stored, ("validation_truth", "validation_logits", "test_logits"))
        own = self.stored("validation_labels")
        labelled = own.any(axis=1)  # a dropped tie has no label
        fitted = {
            "own targets": metrics.temperature(logits[labelled], own[labelled]),
            "soft truth": metrics.temperature(logits, soft),
        }
        return {name: (t, metrics.kl(self.truth, metrics.softmax(test_logits / t))) for name, t in fitted.items()}

    def scores(self) -> dict:
        """Return all that follows from predictions and truth; without the truth as ``scores.json`` has it.

        That is ``metrics``; ``temperatures``; ``floors``, both estimates of the KL that remains for who knows each
        distribution, None if the truth is exact; ``official_accuracy``, the macro accuracy against the official labels
        of the test images, None if the set has none.
        """
        if self.truth is None:
            return json.loads((self.folder / SCORES).read_text("utf-8"))
        cast, official = self.stored("test_votes"), self.stored("test_official")
        found = {"metrics": self.metrics, "floors": None, "official_accuracy": None}
        found["temperatures"] = {name: list(pair) for name, pair in self.temperatures().items()}
        if cast is not None:
            found["floors"] = {"analytic": metrics.noise_floor(cast), "halves": metrics.split_half_floor(cast)}
        if official is not None:
            one_hot = np.eye(self.truth.shape[1])[official]
            found["official_accuracy"] = metrics.macro_accuracy(one_hot, self.predicted)
        return found


def find(spec: RunSpec) -> Run | None:
    """Return the local run of a spec if it is there, whole and counts, see `outdated`, else None."""
    folder = paths.build_folder() / "runs" / spec.key
    try:
        run = load(folder) if folder.is_dir() else None
    except Damaged:
        run = None  # it is named and set aside when it is made again
    if run is None:
        reads.note("run", spec.key, None)
    return None if run is None or outdated(run) else run


def set_aside_damaged(path: Path, read: Callable[[Path], Any]) -> Any:
    """Return what `read` makes of a file or a folder, None if it is not there; one that is damaged is moved away."""
    try:
        return read(path) if path.exists() else None
    except Damaged as error:
        aside = files.set_aside(path, paths.build_folder() / "damaged")
        tell(f"{error}; it is set aside as {aside} and made again")
        return None


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
    return fresh.changes(run.manifest, fresh.provenance(run.spec))


def outdated(run: Run) -> list[Change]:
    """Return why a local run does not count here, see `fresh.changes`; without its data it does not.

    Other versions matter only where it can be trained again: a run from the machine with the GPU counts on one without,
    whatever is installed there.
    """
    found = differences(run)
    return found if not found or fresh.can_train(run.spec) else [change for change in found if change.kind != "version"]


def load(folder: Path) -> Run:
    """Read a run's folder, after a look at the checksums of all its files.

    Raises `Damaged` if a file of the run is missing or not as it was stored, and `InputError` if there is none, or its
    spec has other fields than a run's.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise InputError(f"there is no run in {folder}; 'bhl book' or 'bhl study' trains what is missing")
    of_project, record = folder.parent == paths.published_folder(), folder / "manifest.json"
    manifest = files.read_sealed_json(record) if record.is_file() else {"files": {record.name: "not there"}}
    sealed, content = manifest["files"], {p.name: p.read_bytes() for p in folder.iterdir() if p.name in KNOWN_FILES}
    needed = {*sealed, *(PUBLISHED_FILES if of_project else FILES)} - {WEIGHTS}
    if lost := sorted(needed - content.keys()):
        raise Damaged(f"the run in {folder} is not whole, {', '.join(lost)} not found")
    if changed := [name for name, found in content.items() if hashlib.sha256(found).hexdigest() != sealed.get(name)]:
        raise Damaged(f"the run in {folder} is damaged, {', '.join(changed)} not as it was stored")
    spec = json.loads(content["spec.json"])
    if other := other_fields(spec):
        raise InputError(f"{folder / 'spec.json'}: fields differ from a run's: {other}")
    with np.load(io.BytesIO(content["predictions.npz"]), allow_pickle=False) as file:
        index, logits = (file[f"test_{part}"] for part in ("index", "logits"))
        truth = file["test_truth"] if "test_truth" in file.files else None
    run = Run(RunSpec(**spec), folder, manifest, index, truth, metrics.softmax(logits))
    if of_project or folder.parent == paths.build_folder() / "runs":
        reads.note("run", run.name, reads.of_run(folder, sealed))
    return run


def save(
    spec: RunSpec, trained: "Trained", given: Given, made_of: dict, seconds: float, store: Path | None = None
) -> Run:
    """Write a run whole or not at all, in place of a stale one, and return it as read back.

    `made_of` is what `fresh.provenance` had before the images were read, `seconds` the wall time of the training, and
    `store` the folder of runs, by default the build folder's.
    """
    from safetensors.numpy import save as to_bytes

    data, (train, validation, test), labels = given
    folder = (store or paths.build_folder() / "runs") / spec.key
    files.sweep(folder)
    set_aside_damaged(folder, load)
    more = {"test_votes": data.votes, "test_official": data.official}
    with files.writing(folder) as temporary:
        temporary.mkdir()
        write_npz(
            temporary / "predictions.npz",
            test_index=test,
            test_truth=data.truth[test],
            test_logits=trained.test_logits,
            validation_index=validation,
            validation_truth=data.truth[validation],
            validation_logits=trained.validation_logits,
            validation_labels=np.where(labels.keep[:, None], labels.rows, 0.0)[validation],
            **{name: rows[test] for name, rows in more.items() if rows is not None},
        )
        write_npz(temporary / "features.npz", test=trained.test_features)
        write_npz(temporary / CURVES, **trained.curves)
        weights = to_bytes({name: tensor.numpy() for name, tensor in trained.state.items()})
        (temporary / WEIGHTS).write_bytes(weights)
        files.write_json(temporary / "spec.json", asdict(spec))
        manifest = {
            **made_of,
            "machine": machine(spec.device),
            "classes": data.class_names,
            "training_images": len(train),
            "tied_training_images": int(labels.tied[train].sum()),
            "training_images_short_of_votes": int(labels.short[train].sum()),
            "empty_classes": empty_classes(given),
            "seconds": round(seconds, 1),
            "files": {name: files.checksum(temporary / name) for name in FILES},
        }
        files.write_json(temporary / "manifest.json", manifest, sealed=True)
    return load(folder)


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
