"""The studies that the project publishes: which they are, and how they get into ``results``."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import sets
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.runs import store
from beyond_hard_labels.runs.ensure import ensure
from beyond_hard_labels.runs.maps import map_of
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.study import Study, plan, read_profile


class Entry(NamedTuple):
    """A study to publish.

    Attributes
    ----------
    title, command : str
        What it is, and the options of ``bhl study`` that train it.
    study : Study or None
        None if it is on a set that is neither here nor published.
    runs : list of Run
        Its published runs; empty unless all are there, so nobody takes a part of it for the whole.
    """

    title: str
    command: str
    study: Study | None
    runs: list[Run]


def entries() -> list[Entry]:
    """Return all studies that are to be published, in the order of ``profiles/published.yml``."""
    found = []
    for title, asked in read_profile("published").items():
        changed = {name: value for name, value in asked.items() if name != "profile"}
        command = " ".join([f"--profile {asked['profile']}", *(f"--set {n}={value}" for n, value in changed.items())])
        known = asked.get("dataset", sets.SYNTHETIC)
        here = known in (sets.SYNTHETIC, *sets.names()) or store.published_specs(known)
        study = plan(**asked) if here else None
        of_project = [store.published(spec) for spec in study.specs()] if study else [None]
        found.append(Entry(title, command, study, [] if None in of_project else of_project))
    return found


def publish(study: Study) -> list[Run]:
    """Write all runs of a study into ``results``, those of split 0 with their maps; return them as read back.

    Raises
    ------
    InputError
        If a run is neither here nor can be trained here.
    """
    done = []
    for run in ensure(study):
        if run.published:
            raise InputError(f"run {run.spec.key} is not on this machine, but published already; nothing to publish")
        settings = {"perplexity": study.perplexity, "iterations": study.tsne_iterations}
        done.append(publish_run(run, map_of(study, run) if run.spec.split == 0 else None, settings))
    return done


def publish_run(run: Run, plane: np.ndarray | None, settings: dict) -> Run:
    """Write a run into the project's published ones, in place of an older one, and return it as read back.

    Parameters
    ----------
    run : Run
        A local one, with its truth.
    plane : np.ndarray or None
        Its t-SNE map (N, 2), where one is to come along, made with these `settings`.
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
            scores = with_predictions_of(run, temporary).scores()
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


def with_predictions_of(run: Run, folder: Path) -> Run:
    """Return a run with the predictions, and the truth, that lie in another folder."""
    with np.load(folder / "predictions.npz", allow_pickle=False) as file:
        index, truth, logits = (file[f"test_{part}"] for part in ("index", "truth", "logits"))
        return replace(run, folder=folder, index=index, truth=truth, predicted=metrics.softmax(logits))


def as_printed(scores, like=None) -> str:
    """Return the scores of a run with as many digits as pages print, only those that `like` has, too.

    A metric that is newer than a published run is not among its scores, and does not make it another.
    """
    if isinstance(scores, dict):
        like = scores if like is None else like
        return ", ".join(f"{name} {as_printed(scores[name], like[name])}" for name in sorted(scores.keys() & like))
    if isinstance(scores, list):
        return " with KL ".join(map(as_printed, scores))  # a temperature
    return "none" if scores is None else f"{scores:.4f}"
