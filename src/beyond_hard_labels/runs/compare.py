"""Two proofs of results: that published scores follow from what is published, and that a run can be made again."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.runs import execute, fresh, grids, publish, store
from beyond_hard_labels.runs.inputs import images_of, labels_of, split_of
from beyond_hard_labels.runs.store import Run

TOLERANCES = {"macro_accuracy": 0.02, "kl": 0.02}  # of another device, other versions, or other threads


def compare(run: Run, tolerances: Mapping[str, float] = TOLERANCES) -> tuple[pd.DataFrame, bool]:
    """Train a run's spec again, beside the store, and hold the two against each other.

    Both are compared at the precision in which the run's logits are stored, which is float16 for most
    published ones.

    Parameters
    ----------
    run : Run
    tolerances : mapping of str to float
        The largest difference that counts as the same result, by metric.

    Returns
    -------
    tuple
        One row a metric: ``metric``, ``stored``, ``again``, ``difference``, ``tolerance``, ``within``; and
        whether the predictions are equal to the last bit that is stored.

    Raises
    ------
    InputError
        If a published run without its truth has no score of that name.
    """
    asked = {name: metrics.METRICS[name] for name in tolerances}
    stored, logits = run.score(asked), run.stored("test_logits")
    if unknown := [name for name, value in stored.items() if np.isnan(value)]:
        raise InputError(f"{run.folder} has no score {', '.join(unknown)}, expected some of scores.json")
    with tempfile.TemporaryDirectory() as folder:
        again = execute.execute(run.spec, folder=Path(folder))
        rounded = again.stored("test_logits").astype(logits.dtype)
    found = replace(again, predicted=metrics.softmax(rounded)).score(asked)
    table = pd.DataFrame({"stored": stored, "again": found, "tolerance": dict(tolerances)}).rename_axis("metric")
    table.insert(2, "difference", table["again"] - table["stored"])
    table["within"] = table["difference"].abs() <= table["tolerance"]
    return table.reset_index(), np.array_equal(rounded, logits)


def published_faults() -> tuple[int, int, list[str]]:
    """Hold everything that the project publishes against itself.

    Every file is compared with its checksum, every row of a grid with its key, and the scores of every
    run with those that its predictions give: by the truth that came along, or by that of the set, where
    its file is here.

    Returns
    -------
    tuple
        Of how many runs the scores were computed again, how many, of grids or of sets that are not
        here, were held against checksums only, and one line for each fault.
    """
    again, by_checksum, found = 0, 0, []
    for path in sorted(paths.published_folder().glob("*/spec.json")):
        try:
            run = store.load(path.parent)
            if run.spec.key != path.parent.name:
                found.append(f"{path.parent}: its spec is that of {run.spec.key}")
            if (scores := _scores(run)) is None:
                by_checksum += 1
                continue
            again += 1
            stored = json.loads((path.parent / "scores.json").read_text("utf-8"))
            before, now = publish.as_printed(stored, like=scores), publish.as_printed(scores, like=stored)
            if before != now:
                found.append(f"{path.parent}: its scores are {before}; its predictions give {now}")
        except InputError as error:
            found.append(str(error))
    for grid in grids.GRIDS:
        try:
            by_checksum += sum(len(part.specs) for part in grids.published(grid).values())
        except InputError as error:
            found.append(str(error))
    return again, by_checksum, found


def _scores(run: Run) -> dict | None:
    """Return the scores of a published run, by its own truth or that of its set; None if neither is here."""
    if run.truth is not None:
        return run.scores()
    here = {part: made_of for part, made_of in fresh.provenance(run.spec).items() if part != "versions"}
    if fresh.changes(run.manifest, here):
        return None
    data = images_of(run.spec)
    logits = run.stored("test_logits"), run.stored("validation_logits")
    with tempfile.TemporaryDirectory() as folder:
        store.write_predictions(Path(folder), split_of(run.spec, data), data, labels_of(run.spec, data), *logits)
        return publish.with_predictions_of(run, Path(folder)).scores()
