"""The studies that the project publishes: which they are, how they get into ``results``, and two proofs of them.

Published scores follow from what is published (`published_faults`), and a run can be made again (`compare`).
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import sets
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.runs import execute, grids, store
from beyond_hard_labels.runs.ensure import ensure
from beyond_hard_labels.runs.maps import map_of
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.study import Study, in_words, plan, read_profile

TOLERANCES = {"macro_accuracy": 0.02, "kl": 0.02}  # of another device, other versions, or other threads


class Entry(NamedTuple):
    """A study to publish."""

    title: str
    command: str  # the options of ``bhl study`` that train it
    study: Study | None  # None if it is on a set that is neither here nor published
    runs: list[Run]  # its published runs; empty unless all are there, so nobody takes a part of it for the whole


def entries() -> list[Entry]:
    """Return all studies that are to be published, in the order of ``profiles/published.yml``."""
    found = []
    for title, asked in read_profile("published").items():
        known = asked.get("dataset", sets.SYNTHETIC)
        here = known in sets.names() or store.published_specs(known)
        study = plan(**asked) if here else None
        of_project = [store.published(spec) for spec in study.specs()] if study else [None]
        changed = {name: value for name, value in asked.items() if name != "profile"}
        runs = [] if None in of_project else of_project
        found.append(Entry(title, in_words(asked["profile"], changed), study, runs))
    return found


def publish(study: Study) -> list[Run]:
    """Write all runs of a study into ``results``, those of split 0 with their maps; return them as read back.

    Raises `InputError` if a run is neither here nor can be trained here.
    """
    done = []
    for run in ensure(study):
        if run.published:
            raise InputError(f"run {run.spec.key} is not on this machine, but published already; nothing to publish")
        settings = {"perplexity": study.perplexity, "iterations": study.tsne_iterations}
        done.append(publish_run(run, map_of(study, run) if run.spec.split == 0 else None, settings))
    return done


def publish_run(run: Run, plane: np.ndarray | None, settings: dict) -> Run:
    """Write a local run into the project's published ones, in place of an older one, and return it as read back.

    Its t-SNE map `plane` (N, 2), where one is to come along, was made with these `settings`.
    """
    with np.load(run.folder / "predictions.npz", allow_pickle=False) as file:
        arrays = dict(file)
    slim = {name: rows.astype(np.float16) for name, rows in arrays.items() if name.endswith("_logits")}
    folder = paths.published_folder() / run.spec.key
    files.sweep(folder)
    with files.writing(folder) as temporary:
        temporary.mkdir()
        (temporary / "spec.json").write_bytes((run.folder / "spec.json").read_bytes())
        run.history.to_csv(temporary / "history.csv", index=False)
        for kept in (arrays | slim, arrays):  # float16 where it is exact enough
            store.write_npz(temporary / "predictions.npz", **kept)
            scores = replace(run, folder=temporary, predicted=metrics.softmax(kept["test_logits"])).scores()
            if as_printed(scores) == as_printed(run.scores()):
                break
        if run.spec.dataset != sets.SYNTHETIC:
            ours = ("_index", "_logits")  # the rest is made of the votes
            store.write_npz(temporary / "predictions.npz", **{n: rows for n, rows in kept.items() if n.endswith(ours)})
        files.write_json(temporary / "scores.json", scores)
        if plane is not None:
            store.write_npz(temporary / store.MAP, plane=plane.astype(np.float32), settings=json.dumps(settings))
        checksums = {path.name: files.checksum(path) for path in sorted(temporary.iterdir())}
        files.write_json(temporary / "manifest.json", run.manifest | {"files": checksums}, sealed=True)
    return store.load(folder)


def as_printed(scores: dict) -> dict:
    """Return the scores of a run as text, with as many digits as pages print."""
    return json.loads(files.json_text(scores), parse_float=lambda number: f"{float(number):.4f}")


def compare(run: Run, tolerances: Mapping[str, float] = TOLERANCES) -> tuple[pd.DataFrame, bool]:
    """Train a run's spec again, beside the store, and hold the two against each other.

    Both are compared at the precision in which the run's logits are stored, which is float16 for most published ones.
    `tolerances` are the largest differences that count as the same result, by metric. Raises `InputError` if a
    published run without its truth has no score of a name.

    Return one row a metric: ``metric``, ``stored``, ``again``, ``difference``, ``tolerance``, ``within``; and whether
    the predictions are equal to the last bit that is stored.
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

    Every file is compared with its checksum, every row of a grid with its key, and the scores of every run that may
    carry its truth with those that its predictions give. Return of how many runs the scores were computed again, how
    many were held against checksums only, and one line for each fault.
    """
    again, by_checksum, found = 0, 0, []
    for folder in sorted(path.parent for path in paths.published_folder().glob("*/spec.json")):
        try:
            run = store.load(folder)
            again, by_checksum = again + (run.truth is not None), by_checksum + (run.truth is None)
            before, now = json.loads((folder / store.SCORES).read_text("utf-8")), run.scores()
            known = sorted(before["metrics"].keys() & now["metrics"].keys())  # others are newer, or no more
            pair = [as_printed(each | {"metrics": {n: each["metrics"][n] for n in known}}) for each in (before, now)]
            if pair[0] != pair[1]:
                found.append(f"{folder}: its scores are {pair[0]}; its predictions give {pair[1]}")
            if run.spec.key != folder.name:
                found.append(f"{folder}: its spec is that of {run.spec.key}")
        except InputError as error:
            found.append(str(error))
    for grid in grids.GRIDS:
        try:
            by_checksum += sum(len(part.specs) for part in grids.published(grid).values())
        except InputError as error:
            found.append(str(error))
    return again, by_checksum, found
