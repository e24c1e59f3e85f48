"""A finished run: what it was made of, what it predicts, and the scores that follow from that.

Nothing of it is kept that could be computed: metrics, temperatures and curves follow from stored predictions
whenever they are asked for, so that a change in `learn.metrics` retrains nothing. The truth of a published run
on a set of others is not ours to pass on, and its scores are read.
"""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_hard_labels.base import paths
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.learn.metrics import METRICS, Metric
from beyond_hard_labels.runs.spec import RunSpec

CURVES, HISTORY, SCORES, MAP = "curves.npz", "history.csv", "scores.json", "map.npz"
FILES = ("spec.json", "predictions.npz", "features.npz", CURVES, "weights.safetensors")
PUBLISHED_FILES = ("spec.json", "predictions.npz", HISTORY, SCORES)
KNOWN_FILES = (*FILES, HISTORY, SCORES, MAP)


@dataclass(frozen=True)
class Run:
    """A finished run as read from the store.

    Attributes
    ----------
    spec : RunSpec
    folder : Path
    manifest : dict
        Fingerprints, versions and the machine.
    index, predicted : np.ndarray
        The test images' rows in the set (N,) and their predicted distribution (N, K).
    truth : np.ndarray or None
        Their soft truth (N, K); None where a published run may not carry it.
    """

    spec: RunSpec
    folder: Path
    manifest: dict
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
            known = {name: value for name, value in self._as_published("metrics").items() if value is not None}
            return {name: known.get(name, math.nan) for name in asked}
        return {name: metric.function(self.truth, self.predicted) for name, metric in asked.items()}

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch: losses in nats and metrics on the validation images, computed now.

        ``train_loss`` is that of the training images; ``loss`` that of the validation images against their own
        targets; the metrics are against the truth. Of a published run all of it is as published.
        """
        if self.published:
            return pd.read_csv(self.folder / HISTORY)
        truth = self.stored("validation_truth")
        with np.load(self.folder / CURVES, allow_pickle=False) as file:
            predicted = [metrics.softmax(logits) for logits in file["validation_logits"]]
            losses = {"train_loss": file["train_loss"], "loss": file["own_loss"]}
        scores = {n: [METRICS[n].function(truth, p) for p in predicted] for n in ("macro_accuracy", "kl")}
        return pd.DataFrame({"epoch": np.arange(len(predicted)) + 1, **losses, **scores})

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
        return self.folder.parent == paths.published_folder()

    @property
    def files(self) -> list[str]:
        """Names of the files that make it up."""
        return [name for name in KNOWN_FILES if (self.folder / name).is_file()]

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
        return json.loads((self.folder / SCORES).read_text("utf-8"))[part]

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
