"""t-SNE maps of runs, made once and kept in the build folder until what they were made of changes."""

import io
import json
from pathlib import Path

import numpy as np

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.learn import tsne
from beyond_hard_labels.runs import fresh, store
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.study import Study


def map_of(study: Study, run: Run) -> np.ndarray:
    """Return the t-SNE map of a run's test features, float64 (N, 2); made once and kept in the store.

    It is found again by its run and the study's settings, and made again if it is damaged, or if the features, the code
    or the library that made it changed, see `map_inputs`. A published run has no features, and the map that it came
    with, whatever the settings.
    """
    if run.published:
        if (made := run.published_map()) is None:
            raise InputError(f"{run.folder} has no map, expected map.npz, which published runs of split 0 come with")
        return made[0]
    settings = f"{run.spec.key}-{study.perplexity:g}-{study.tsne_iterations}"
    path, here = paths.build_folder() / "maps" / f"{settings}.npz", map_inputs(run.manifest)
    plane, made_of = store.set_aside_damaged(path, read_map) or (None, {})
    if plane is None or fresh.changes(made_of, here):
        plane = tsne.tsne(run.features, perplexity=study.perplexity, iterations=study.tsne_iterations)
        content = io.BytesIO()
        np.savez(content, plane=plane, made_of=json.dumps(here))
        files.write_sealed(path, content.getvalue())
    return plane


def read_map(path: Path) -> tuple[np.ndarray, dict]:
    """Return a stored map and what it was made of; raise `Damaged` if it is not as it was written."""
    with np.load(io.BytesIO(files.read_sealed(path)), allow_pickle=False) as file:
        return file["plane"], json.loads(file["made_of"].item())


def map_inputs(manifest: dict) -> dict[str, dict]:
    """Return what a map of a run with this manifest depends on, as `fresh.changes` compares it."""
    return {
        "data": {"features of its run": manifest["files"]["features.npz"]},
        "code": fresh.code_fingerprints("learn.tsne"),
        "versions": fresh.versions("openTSNE"),
    }
