"""Grids of runs beyond the paper: what they train, what comes of it as tables, and how these are published.

``profiles/grids.yml`` lists the grids in parts. A part is a set of cells, each trained on both kinds of
label on some splits; ``full`` is what is published, ``slice`` what the book trains.

A published grid is three files in ``results``:

    grid_NAME_rows.csv      one row a run of every part, see `rows`
    grid_NAME_curves.csv    one row an epoch of every run, see `curves`
    grid_NAME.json          checksums of these; per part its keys, the fields that its runs share, what they
                            were made of, as their manifests say, and the machines that made them

So a row is as good as a run but for its predictions: its spec is whole, and hashes to its key.
"""

import itertools
import json
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

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
from beyond_hard_labels.runs.study import OF_FILE, Study, read_profile, require_generated, values_of

GRIDS = ("when", "votes")  # those of the book
SIZES = ("full", "slice", "smoke")
VARYING = (  # the fields that may differ within a part, which are columns of its rows
    *("dataset", "labels", "split", "backbone", "epochs", "train_share", "votes_per_image", "label_smoothing"),
    *("data_seed", "ambiguous", "class_weights", "augment_colour", "learning_rate", "schedule"),
    *("weight_decay", "decay", "ties"),
)
RATES = {"small": 1500, "small_mobile": 1800}  # images of 32 px a second that a core trains, by backbone
_START = 5  # seconds until a worker trains
_OF_STUDY = ("profile", "protocol", "splits", "perplexity", "tsne_iterations")  # parameters that a run has not
_NAMES = {"one_hot_kl": "kl_one_hot"}  # columns that are named otherwise than their metric


class Part(NamedTuple):
    """A published part: its tables as in `Results`, the specs of its rows, and what they were made of and on."""

    rows: pd.DataFrame
    curves: pd.DataFrame
    specs: list[RunSpec]
    machines: list[dict[str, str]]  # see `store.machine`
    versions: dict[str, str]
    changes: list[fresh.Change]  # since its runs were trained


class Results(NamedTuple):
    """What is known of a grid; a run may come in several parts."""

    rows: pd.DataFrame  # see `rows`, with the column ``part`` in front
    curves: pd.DataFrame  # see `curves`, likewise
    published: dict[str, Part]  # the parts that are published ones, by name
    trained: list[str]  # the parts of which the slice was trained on this machine
    left_out: dict[str, str]  # the set that a part needs and that is not here, by the part's name


def parts(grid: str, study: Study, *, which: str = "slice") -> dict[str, list[RunSpec]]:
    """Return the specs of each part of a grid, cell by cell, both kinds of label of a split together.

    What a study changes holds here, too, but for what a part decides; ``splits`` is an upper bound. `which` is one
    of `SIZES`; the profile ``smoke`` always has its own in place of ``slice``. Parts without that size, and those
    on a set that is not here, are left out; see `left_out`.
    """
    here = {name: part for name, part in _parts(grid).items() if _is_here(part)}
    return {name: specs for name, part in here.items() if (specs := _specs(part, study, which))}


def left_out(grid: str) -> dict[str, str]:
    """Return the set of each part whose set is not here, by the part's name."""
    return {name: part["dataset"] for name, part in _parts(grid).items() if not _is_here(part)}


def _parts(grid: str) -> dict[str, dict]:
    known = read_profile("grids")
    if grid not in known:
        raise InputError(f"grid is '{grid}', expected one of {', '.join(known)}")
    return known[grid]


def _is_here(part: dict) -> bool:
    return part.get("dataset", sets.SYNTHETIC) in sets.names()


def _specs(part: dict, study: Study, which: str, of_file: dict[str, Any] | None = None) -> list[RunSpec]:
    """Return the specs of a part; of a set whose file is not here, `of_file` says its size."""
    if which not in SIZES:
        raise InputError(f"size of a grid is '{which}', expected one of {', '.join(SIZES)}")
    require_generated(study)
    profile = "smoke" if study.profile == "smoke" else "quick"
    asked = part.get("smoke" if (profile, which) == ("smoke", "slice") else which)
    if asked is None:
        return []
    changed = dict(study.changed)
    splits = min(asked["splits"], changed.pop("splits", asked["splits"]))
    if "dataset" in part:  # its file decides its size
        size = len(sets.read(part["dataset"]).ids) if of_file is None else of_file["n_images"]
        changed = {name: value for name, value in changed.items() if name not in ("data_seed", "image_size")}
        changed |= {"n_images": min(size, changed["n_images"])} if "n_images" in changed else {}
        changed["dataset"] = part["dataset"]
    found = []
    for cell in asked["cells"]:
        options = [value if isinstance(value, list) else [value] for value in cell.values()]
        for choice in itertools.product(*options):
            values = values_of(profile, changed | dict(zip(cell, choice, strict=True)), of_file)
            shared = {name: value for name, value in values.items() if name not in _OF_STUDY}
            kinds = [shared.pop("labels")] if "labels" in shared else part.get("labels", votes.LABEL_KINDS)
            found += [RunSpec(**shared, labels=kind, split=split) for split in range(splits) for kind in kinds]
    if not part.get("replicates"):
        return found
    return [replace(s, data_seed=s.data_seed + s.split) for s in sorted(found, key=lambda spec: spec.split)]


def images_seen(spec: RunSpec) -> int:
    """Return the training images that a run sees, times its epochs, for splits of 60/20/20 or 75/25."""
    return round(spec.epochs * (0.75 if spec.test_images else 0.6) * spec.n_images * spec.train_share)


def seconds(spec: RunSpec) -> float:
    """Return an estimate of what a run takes of a core, from `RATES`; NaN for another backbone or device.

    Validation images are predicted after every epoch, which takes a third of training on them.
    """
    rate = RATES.get(spec.backbone, np.nan) if spec.device == "cpu" else np.nan
    return (images_seen(spec) + spec.epochs * 0.2 * spec.n_images / 3) * (spec.image_size / 32) ** 2 / rate


def plan_table(of_parts: dict[str, list[RunSpec]], *, workers: int) -> pd.DataFrame:
    """Return what the parts of a grid still take, one row a part and one for all.

    A run that several parts have in common counts in the first; minutes are of workers with a core each.
    """
    table, seen = [], set()
    for name, specs in of_parts.items():
        own = [spec for spec in dict.fromkeys(specs) if spec not in seen]
        seen |= set(own)
        missing = [spec for spec in own if find(spec) is None]
        take = sum(map(seconds, missing)) / workers + _START * bool(missing)
        table.append((name, len(own), len(missing), sum(map(images_seen, missing)), take / 60))
    table = pd.DataFrame(table, columns=["part", "runs", "missing", "image-epochs", "minutes"])
    table.loc[len(table)] = ["all", *table.iloc[:, 1:].sum(skipna=False)]
    return table.astype({"runs": int, "missing": int, "image-epochs": int}).round({"minutes": 1})


def rows(found: list[Run]) -> pd.DataFrame:
    """Return one row a run.

    Returns
    -------
    pandas.DataFrame
        The fields `VARYING`; ``training_images``; ``key``; every metric of `metrics.METRICS` on the test
        images, ``one_hot_kl`` under the name ``kl_one_hot``; ``temperature`` and ``kl_scaled``
        (fitted to the run's own targets on the validation images), ``temperature_truth`` and
        ``kl_scaled_truth`` (to the soft truth), see `Run.temperatures`; ``floor``, the KL that a model
        would keep that knows each distribution, since the truth is made of finitely many votes
        (`metrics.noise_floor`, 0 for an exact truth); ``label_floor``, the same of the labels trained
        on, see `label_floor`; ``seconds`` of training. A published row has NaN for a metric that is newer.
    """
    return pd.DataFrame([_row(run) for run in found])


def _row(run: Run) -> dict[str, Any]:
    spec, fitted, cast = run.spec, run.temperatures(), run.stored("test_votes")
    return (
        {name: getattr(spec, name) for name in VARYING}
        | {"training_images": run.manifest["training_images"], "key": spec.key}
        | {_NAMES.get(name, name): value for name, value in run.metrics.items()}
        | dict(zip(("temperature", "kl_scaled"), fitted["own targets"], strict=True))
        | dict(zip(("temperature_truth", "kl_scaled_truth"), fitted["soft truth"], strict=True))
        | {"floor": 0.0 if cast is None else metrics.noise_floor(cast)}
        | {"label_floor": label_floor(run.truth if cast is None else cast, spec.votes_per_image)}
        | {"seconds": run.manifest["seconds"]}
    )


def label_floor(distribution: np.ndarray, n_votes: int) -> float:
    """Return how far soft labels of some votes are expected to be from the truth, a KL in nats.

    To first order it is (support - 1) / (2 m), averaged over the images, where m votes are drawn from an
    exact distribution (N, K). Where m of an image's n votes (N, K), int, are taken without replacement, and
    those n are the truth, it is (n - m) / (n - 1) of that. All votes, m = 0, have 0. One vote on two classes
    gives 0.5.
    """
    if n_votes == 0:
        return 0.0
    support = (distribution > 0).sum(axis=1)
    if not np.issubdtype(distribution.dtype, np.integer):
        return float((support - 1).mean() / (2 * n_votes))
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


def results(grid: str, study: Study) -> Results:
    """Return what is known of a grid: the published full parts, and the slice of the others, trained here if missing.

    A published part counts where it is what the study would train: with other parameters or in the
    profile ``smoke`` its specs are others, and the slice is shown.
    """
    of_project, own = _matching(grid, study, published(grid)), to_train(grid, study)
    by_key = {run.spec.key: run for run in ensure_specs([spec for specs in own.values() for spec in specs])}
    tables = [(part.rows, part.curves) for part in of_project.values()]
    tables += [_tables(name, [by_key[spec.key] for spec in specs]) for name, specs in own.items()]
    frames = (pd.concat(column, ignore_index=True) for column in zip(*tables, strict=True))
    absent = {name: dataset for name, dataset in left_out(grid).items() if name not in of_project}
    return Results(*frames, of_project, list(own), absent)


def to_train(grid: str, study: Study) -> dict[str, list[RunSpec]]:
    """Return the specs of each part of the slice that `results` shows for want of a published one."""
    of_project = _matching(grid, study, published(grid))
    return {name: specs for name, specs in parts(grid, study).items() if name not in of_project}


def _tables(name: str, found: list[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rows and curves of a part's runs, with its name in front."""
    tables = rows(found), curves(found)
    for table in tables:
        table.insert(0, "part", name)
    return tables


def grid_files(grid: str) -> list[Path]:
    """Return where a published grid lies: what it is made of, its rows, its curves."""
    names = (f"grid_{grid}.json", f"grid_{grid}_rows.csv", f"grid_{grid}_curves.csv")
    return [paths.published_folder() / name for name in names]


def _matching(grid: str, study: Study, of_project: dict[str, Part]) -> dict[str, Part]:
    """Return the published parts that are what the study would train in full."""
    known, same = _parts(grid), {}
    for name, part in of_project.items():
        of_file = None if _is_here(known[name]) else {field: getattr(part.specs[0], field) for field in OF_FILE}
        if set(_specs(known[name], study, "full", of_file)) == set(part.specs):
            same[name] = part
    return same


def published(grid: str) -> dict[str, Part]:
    """Return the published parts of a grid; none without the files.

    Raises
    ------
    Damaged
        If a file is missing or not as it was written, or a row's spec does not hash to its key.
    """
    manifest, *tables = grid_files(grid)
    reads.note("grid", grid, reads.digest("grid", grid))
    if not manifest.is_file():
        return {}
    about = files.read_sealed_json(manifest)
    for table in tables:
        expected = about["files"][table.name]
        found = f"of sha256 {files.checksum(table)}" if table.is_file() else "missing"
        if not found.endswith(expected):
            raise files.Damaged(f"{table} is {found}, expected sha256 {expected} as in {manifest.name}; restore it")
    frames = [pd.read_csv(table) for table in tables]
    newer = {_NAMES.get(name, name) for name in metrics.METRICS} - set(frames[0])
    frames[0] = frames[0].assign(**dict.fromkeys(sorted(newer), np.nan))
    known = [name for name in _parts(grid) if name in about["parts"]]
    return {name: _published_part(manifest, name, about["parts"][name], *frames) for name in known}


def _published_part(path: Path, name: str, about: dict, *tables: pd.DataFrame) -> Part:
    own, curves_of = (table[table["part"] == name].reset_index(drop=True) for table in tables)
    types = {field.name: field.type for field in fields(RunSpec)}
    columns = [name for name in VARYING if name not in about["shared"] and name in own and own[name].notna().all()]
    varied = [dict(zip(columns, values, strict=True)) for values in own[columns].itertuples(index=False)]
    specs = [RunSpec(**about["shared"], **{field: types[field](v) for field, v in each.items()}) for each in varied]
    if [spec.key for spec in specs] != own["key"].tolist() or own["key"].tolist() != about["keys"]:
        raise files.Damaged(f"{path}: the rows of part '{name}' are not the runs of its keys; publish the grid again")
    own = own.assign(**{name: [getattr(spec, name) for spec in specs] for name in VARYING if name not in own})
    changes = fresh.changes(about["made_of"], fresh.provenance(specs[0]))
    return Part(own, curves_of, specs, about["machines"], about["made_of"]["versions"], changes)


def publish(grid: str, study: Study) -> list[str]:
    """Write the files of a grid with every part that is trained in full here; return the names of those.

    A part that was published before stays as it is where it is not trained here.

    Raises
    ------
    InputError
        If the runs of a part were not all made of the same data, code and versions; nothing is written.
    """
    path, *tables = grid_files(grid)
    before = published(grid)
    about = files.read_sealed_json(path)["parts"] if before else {}
    kept, done = {name: part[:2] for name, part in before.items()}, []
    for name, specs in parts(grid, study, which="full").items():
        found = [store.find(spec) for spec in specs]
        if None in found:
            continue
        about[name] = {
            "shared": {field: value for field, value in asdict(specs[0]).items() if field not in VARYING},
            "keys": [spec.key for spec in specs],
            "made_of": _made_of(name, found),
            "machines": _distinct(run.manifest["machine"] for run in found),
        }
        kept[name] = _tables(name, found)
        done.append(name)
    if done:
        kept = {name: kept[name] for name in _parts(grid) if name in kept}
        for table, frames in zip(tables, zip(*kept.values(), strict=True), strict=True):
            files.write(table, pd.concat(frames).to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())
        checksums = {table.name: files.checksum(table) for table in tables}
        files.write_json(path, {"files": checksums, "parts": about}, sealed=True)
    return done


def _made_of(name: str, found: list[Run]) -> dict[str, dict]:
    """Return what the runs of a part were made of, as it was recorded when they were trained."""
    first, *others = _distinct({part: run.manifest[part] for part in ("data", "code", "versions")} for run in found)
    if others:
        raise InputError(
            f"part '{name}' is not published: its runs were not all made of the same ("
            f"{fresh.told(fresh.changes(first, others[0]))}); remove those with 'bhl clean --run KEY' and train again"
        )
    return first


def _distinct(values: Iterable[dict]) -> list[dict]:
    return [json.loads(text) for text in sorted({json.dumps(value, sort_keys=True) for value in values})]
