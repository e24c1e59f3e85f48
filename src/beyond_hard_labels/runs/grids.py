"""Grids of runs beyond the paper: what they train, what comes of it as tables, and how these are published.

``profiles/grids.yml`` lists the grids in parts. A part is a set of cells, each trained on both kinds of label on some
splits; ``full`` is what is published, ``slice`` what the book trains.

A published grid is three files in ``results``:

    grid_NAME_rows.csv      one row a run of every part, see `rows`
    grid_NAME_curves.csv    one row an epoch of every run, see `curves`
    grid_NAME.json          checksums of these; per part its keys, the fields that its runs share, what they
                            were made of, as their manifests say, and the machines that made them

So a row is as good as a run but for its predictions: its spec is whole, and hashes to its key.
"""

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from beyond_hard_labels.base import files, paths, reads
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import sets, votes
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.runs import fresh, store
from beyond_hard_labels.runs.ensure import ensure_specs, find
from beyond_hard_labels.runs.spec import RunSpec
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.study import Study, read_profile, require_generated, values_of

GRIDS = ("ferplus", "mechanism", "real", "replicates", "structure", "when", "votes")  # those of the book
VARYING = (  # the fields that may differ within a part, which are columns of its rows
    *("dataset", "labels", "split", "backbone", "head", "epochs", "train_share", "votes_per_image", "label_smoothing"),
    *("data_seed", "ambiguous", "class_weights", "augment_colour", "learning_rate", "schedule"),
    *("weight_decay", "decay", "ties", "crowd", "noise", "weights", "image_size"),
)
_FIELDS = {field.name: field.type for field in fields(RunSpec)}
_NAMES = {"one_hot_kl": "kl_one_hot"}  # columns that are named otherwise than their metric


class Part(NamedTuple):
    """A published part: its tables as in `Results`, the specs of its rows, and what changed since they were trained."""

    rows: pd.DataFrame
    curves: pd.DataFrame
    specs: list[RunSpec]
    changes: list[fresh.Change]


class Results(NamedTuple):
    """What is known of a grid, with the column ``part`` in front; a run may come in several parts."""

    rows: pd.DataFrame
    curves: pd.DataFrame


def parts(grid: str, study: Study, *, which: str = "slice") -> dict[str, list[RunSpec]]:
    """Return the specs of each part of a grid, cell by cell, both kinds of label of a split together.

    What a study changes holds here, too, but for what a part decides; ``splits`` is an upper bound. `which` is ``full``
    or ``slice``, in place of which the profile ``smoke`` has its own. Parts without that size, and those on a set that
    is not here, see `left_out`, are not among them.
    """
    here = {name: part for name, part in _parts(grid).items() if name not in left_out(grid)}
    return {name: specs for name, part in here.items() if (specs := _specs(part, require_generated(study), which))}


def left_out(grid: str) -> dict[str, str]:
    """Return the set of each part whose set is not here, by the part's name."""
    of_sets = {name: part.get("dataset", sets.SYNTHETIC) for name, part in _parts(grid).items()}
    return {name: dataset for name, dataset in of_sets.items() if dataset not in sets.names()}


def _parts(grid: str) -> dict[str, dict]:
    known = read_profile("grids")
    if grid not in known:
        raise InputError(f"grid is '{grid}', expected one of {', '.join(known)}")
    return known[grid]


def _specs(part: dict, study: Study, which: str) -> list[RunSpec]:
    profile = "smoke" if study.profile == "smoke" else "quick"
    asked = part.get("smoke" if (profile, which) == ("smoke", "slice") else which, {"splits": 0, "cells": []})
    changed, found = study.on(part["dataset"]).changed if "dataset" in part else study.changed, []
    splits = range(min(asked["splits"], changed.get("splits", asked["splits"])))
    for cell in asked["cells"]:
        for choice in itertools.product(*(value if isinstance(value, list) else [value] for value in cell.values())):
            values = values_of(profile, changed | dict(zip(cell, choice, strict=True)))
            kinds = [values["labels"]] if "labels" in values else part.get("labels", votes.LABEL_KINDS)
            shared = {name: value for name, value in values.items() if name in _FIELDS}
            found += [RunSpec(**(shared | {"labels": kind, "split": split})) for split in splits for kind in kinds]
    if not part.get("replicates"):
        return found
    return [replace(s, data_seed=s.data_seed + s.split) for s in sorted(found, key=lambda spec: spec.split)]


def images_seen(spec: RunSpec) -> int:
    """Return the training images that a run sees, times its epochs, for splits of 60/20/20 or 75/25."""
    return round(spec.epochs * (0.75 if spec.test_images else 0.6) * spec.n_images * spec.train_share)


def plan_table(of_parts: dict[str, list[RunSpec]]) -> pd.DataFrame:
    """Return what the parts of a grid still take, one row a part and one for all.

    A run that several parts have in common counts in the first; ``image-epochs`` are of the runs that are missing.
    """
    every = [(name, spec) for name, specs in of_parts.items() for spec in specs]
    table = pd.DataFrame(every, columns=["part", "spec"]).drop_duplicates("spec")
    table["missing"] = [find(spec) is None for spec in table["spec"]]
    table["image-epochs"] = table["spec"].map(images_seen) * table["missing"]
    counted = table.groupby("part", sort=False).agg({"spec": "size", "missing": "sum", "image-epochs": "sum"})
    counted.loc["all"] = counted.sum()
    return counted.rename(columns={"spec": "runs"}).reset_index()


def rows(found: list[Run]) -> pd.DataFrame:
    """Return one row a run; a published one has NaN for a metric that is newer.

    Returns
    -------
    pandas.DataFrame
        The fields `VARYING`; ``training_images``; ``key``; every metric of `metrics.METRICS` on the test images,
        ``one_hot_kl`` under the name ``kl_one_hot``; ``temperature`` and ``kl_scaled`` (fitted to the run's own targets
        on the validation images), ``temperature_truth`` and ``kl_scaled_truth`` (to the soft truth), see
        `Run.temperatures`; ``floor``, the KL that a model would keep that knows each distribution, see
        `metrics.noise_floor`, 0 for an exact truth; `label_floor` of the labels trained on; ``right``, the
        share of the images whose leading class is predicted; of the synthetic set ``right_colour`` and ``right_shape``,
        shares of the images whose predicted class has the colour or the shape of the leading one, and ``right_pure``
        and ``right_ambiguous``, shares of these images that are predicted right; ``seconds`` of training.
    """
    table = []
    for run in found:
        fitted, cast = run.temperatures(), run.stored("test_votes")
        row = {name: getattr(run.spec, name) for name in VARYING}
        row |= {"training_images": run.manifest["training_images"], "key": run.spec.key}
        row |= {_NAMES.get(name, name): value for name, value in run.metrics.items()}
        row["temperature"], row["kl_scaled"] = fitted["own targets"]
        row["temperature_truth"], row["kl_scaled_truth"] = fitted["soft truth"]
        row["floor"] = 0.0 if cast is None else metrics.noise_floor(cast)
        row["label_floor"] = label_floor(run.truth if cast is None else cast, run.spec.votes_per_image)
        if run.truth is not None:
            true, guess, pure = run.truth.argmax(axis=1), run.predicted.argmax(axis=1), run.truth.max(axis=1) == 1
            row["right"] = (true == guess).mean()
            if run.spec.dataset == sets.SYNTHETIC:  # whose classes are three colours, each as circle and ellipse
                right = {"colour": true // 2 == guess // 2, "shape": true % 2 == guess % 2}
                right |= {"pure": (true == guess)[pure], "ambiguous": (true == guess)[~pure]}
                row |= {f"right_{name}": hits.mean() if hits.size else np.nan for name, hits in right.items()}
        table.append(row | {"seconds": run.manifest["seconds"]})
    return pd.DataFrame(table)


def label_floor(distribution: np.ndarray, n_votes: int) -> float:
    """Return how far soft labels of some votes are expected to be from the truth, a KL in nats.

    To first order it is (support - 1) / (2 m), averaged over the images, where m votes are drawn from an exact
    distribution (N, K). Where m of an image's n votes (N, K), int, are taken without replacement, and those n are the
    truth, it is (n - m) / (n - 1) of that. All votes, m = 0, have 0. One vote on two classes gives 0.5.
    """
    if n_votes == 0:
        return 0.0
    support, left = (distribution > 0).sum(axis=1), 1.0
    if np.issubdtype(distribution.dtype, np.integer):
        total = distribution.sum(axis=1)
        left = np.clip(total - n_votes, 0, None) / np.maximum(total - 1, 1)
    return float(((support - 1) * left).mean() / (2 * n_votes))


def curves(found: list[Run]) -> pd.DataFrame:
    """Return one row an epoch of each run: ``key``, ``epoch``, ``examples``, ``macro_accuracy``, ``kl``.

    Examples are the training images seen by then; both metrics are of the validation images.
    """
    sizes = [(run, run.manifest["training_images"]) for run in found]
    tables = [run.history.assign(key=run.spec.key, examples=run.history["epoch"] * size) for run, size in sizes]
    return pd.concat(tables, ignore_index=True)[["key", "epoch", "examples", "macro_accuracy", "kl"]]


def _tables(name: str, found: list[Run]) -> Results:
    """Return rows and curves of a part's runs, with its name in front."""
    tables = Results(rows(found), curves(found))
    for table in tables:
        table.insert(0, "part", name)
    return tables


def results(grid: str, study: Study) -> Results:
    """Return the published full parts of a grid and the slice of the others, which is trained here if missing."""
    of_project, own = _shown(grid, study), to_train(grid, study)
    trained = {run.spec: run for run in ensure_specs([spec for specs in own.values() for spec in specs])}
    tables = [part[:2] for part in of_project.values()]
    tables += [_tables(name, [trained[spec] for spec in specs]) for name, specs in own.items()]
    return Results(*(pd.concat(column, ignore_index=True) for column in zip(*tables, strict=True)))


def to_train(grid: str, study: Study) -> dict[str, list[RunSpec]]:
    """Return the specs of each part of the slice that `results` shows for want of a published one."""
    of_project = _shown(grid, study)
    return {name: specs for name, specs in parts(grid, study).items() if name not in of_project}


def _shown(grid: str, study: Study) -> dict[str, Part]:
    """Return the published parts, none if a parameter of runs was changed or the profile is smoke."""
    changed = study.changed.keys() - {"perplexity", "tsne_iterations"}
    return {} if changed or study.profile == "smoke" else published(grid)


def grid_files(grid: str) -> list[Path]:
    """Return where a published grid lies: what it is made of, its rows, its curves."""
    names = (f"grid_{grid}.json", f"grid_{grid}_rows.csv", f"grid_{grid}_curves.csv")
    return [paths.published_folder() / name for name in names]


def published(grid: str) -> dict[str, Part]:
    """Return the published parts of a grid; none without the files.

    Raises `Damaged` if a file is missing or not as it was written, or a row's spec does not hash to its key.
    """
    path, *tables = grid_files(grid)
    reads.note("grid", grid, reads.digest("grid", grid))
    if not path.is_file():
        return {}
    about, found = files.read_sealed_json(path), {}
    for table in tables:
        expected = about["files"][table.name]
        here = f"of sha256 {files.checksum(table)}" if table.is_file() else "missing"
        if not here.endswith(expected):
            raise files.Damaged(f"{table} is {here}, expected sha256 {expected} as in {path.name}; restore it")
    frames = [pd.read_csv(table) for table in tables]
    newer = {_NAMES.get(name, name) for name in metrics.METRICS} - set(frames[0])
    frames[0] = frames[0].assign(**dict.fromkeys(sorted(newer), np.nan))
    for name in (name for name in _parts(grid) if name in about["parts"]):
        part = about["parts"][name]
        own, curves_of = (table[table["part"] == name].reset_index(drop=True) for table in frames)
        columns = [f for f in VARYING if f not in part["shared"] and f in own and own[f].notna().all()]
        specs = [
            RunSpec(**part["shared"], **{f: _FIELDS[f](value) for f, value in row.items()})
            for row in own[columns].to_dict("records")
        ]
        if [spec.key for spec in specs] != own["key"].tolist() or own["key"].tolist() != part["keys"]:
            raise files.Damaged(
                f"{path}: the rows of part '{name}' are not the runs of its keys; publish the grid again"
            )
        lacking = {field: [getattr(spec, field) for spec in specs] for field in VARYING if field not in own}
        changes = fresh.changes(part["made_of"], fresh.provenance(specs[0]))
        found[name] = Part(own.assign(**lacking), curves_of, specs, changes)
    return found


def publish(grid: str, study: Study, more: Callable[[list[Run]], pd.DataFrame] | None = None) -> list[str]:
    """Write the files of a grid with every part that is trained in full here; return the names of those.

    A part that was published before stays as it is where it is not trained here. `more` returns further columns of
    the rows for some runs, with their ``key``. Raises `InputError`, and writes
    nothing, if the runs of a part were not all made of the same data, code and versions.
    """
    path, *tables = grid_files(grid)
    before = published(grid)
    about = files.read_sealed_json(path)["parts"] if before else {}
    kept, done = {name: part[:2] for name, part in before.items()}, []
    for name, specs in parts(grid, study, which="full").items():
        found = [store.find(spec) for spec in specs]
        if None in found:
            continue
        made_of = _distinct({part: run.manifest[part] for part in ("data", "code", "versions")} for run in found)
        if made_of[1:]:
            differing = fresh.told(fresh.changes(*made_of[:2]))
            raise InputError(
                f"part '{name}' is not published: its runs were not all made of the same ({differing}); remove those "
                "with 'bhl clean --run KEY' and train again"
            )
        about[name] = {
            "shared": {field: value for field, value in asdict(specs[0]).items() if field not in VARYING},
            "keys": [spec.key for spec in specs],
            "made_of": made_of[0],
            "machines": _distinct(run.manifest["machine"] for run in found),
        }
        kept[name] = _tables(name, found)
        if more:
            kept[name] = kept[name]._replace(rows=kept[name].rows.merge(more(found), on="key"))
        done.append(name)
    if done:
        kept = {name: kept[name] for name in _parts(grid) if name in kept}
        for table, frames in zip(tables, zip(*kept.values(), strict=True), strict=True):
            files.write(table, pd.concat(frames).to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())
        checksums = {table.name: files.checksum(table) for table in tables}
        files.write_json(path, {"files": checksums, "parts": about}, sealed=True)
    return done


def _distinct(values: Iterable[dict]) -> list[dict]:
    return [json.loads(text) for text in sorted({json.dumps(value, sort_keys=True) for value in values})]
