"""A study: the grid of runs behind the book, and how it is executed.

A study is a profile with overrides. Its runs are all kinds of label times all splits; each is looked
up in the store and trained if it is not there.
"""

import contextlib
import functools
import io
import itertools
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from beyond_hard_labels import InputError, checkpoints, embedding, files, process, real_data, runs, votes
from beyond_hard_labels.material import images_of, labels_of, split_of
from beyond_hard_labels.parameters import check, option, options
from beyond_hard_labels.process import tell
from beyond_hard_labels.runs import Run, RunSpec
from beyond_hard_labels.training import Progress, TimeUp, train

PROFILES = ("smoke", "quick", "paper")
PROTOCOLS = ("as_written", "as_run")
OF_FILE = ("n_images", "image_size", "data_seed")  # what the file of a set decides
CHECKPOINT_SECONDS = 20.0  # between two, at least


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid of runs; make one with `plan`."""

    profile: str = option("where defaults come from", choices=PROFILES)
    protocol: str = option("as the paper writes it, or as the authors' code runs", choices=PROTOCOLS)
    splits: int = option("splits, each with both kinds of label", at_least=1)
    perplexity: float = option("of the t-SNE map", at_least=2.0)
    tsne_iterations: int = option("gradient steps of the t-SNE map", at_least=10)
    shared: dict[str, Any]  # the fields that all runs share
    changed: dict[str, Any]  # what was asked for beyond the profile

    def spec(self, labels: str, split: int) -> RunSpec:
        """Return the spec of one run."""
        return RunSpec(labels=labels, split=split, **self.shared)

    def specs(self) -> list[RunSpec]:
        """Return the specs of all runs, split by split."""
        return [self.spec(labels, split) for split in range(self.splits) for labels in votes.LABEL_KINDS]

    def on(self, dataset: str) -> "Study":
        """Return the same study on a set that is a file, which has no seed."""
        kept = {name: value for name, value in self.changed.items() if name != "data_seed"}
        return plan(self.profile, **(kept | {"dataset": dataset}))

    @property
    def counted(self) -> str:
        """The number of splits in words of a text: ``1 split``, ``3 splits``."""
        return f"{self.splits} split{'s' if self.splits > 1 else ''}"

    @property
    def command(self) -> str:
        """The options that make this study again on the command line."""
        sets = [
            f"--set {name}={str(value).lower() if value in (True, False) else value}"
            for name, value in self.changed.items()
        ]
        return " ".join([f"--profile {self.profile}", *sets])


def valid_parameters() -> dict[str, Any]:
    """Return the fields that a user may set, by name."""
    fields = options(Study, RunSpec)
    return {name: field for name, field in fields.items() if name not in ("labels", "split")}


def plan(profile: str = "quick", **overrides) -> Study:
    """Return the study of a profile with some parameters changed.

    A set may have values of its own in a profile (``profiles/sets.yml``), which come before what was
    changed. Where the file of a set is not here, its size is taken from a published run of the study.

    Raises
    ------
    InputError
        On unknown names, wrong types and values out of range, see `parameters.check`; if the set is
        not here, or has not what is asked of it.
    """
    check(valid_parameters(), {"profile": profile})
    changed = dict(sorted(check(valid_parameters(), overrides).items()))
    values = values_of(profile, changed)
    own = {name: values.pop(name) for name in ("protocol", "splits", "perplexity", "tsne_iterations")}
    study = Study(profile=profile, shared=values, changed=changed, **own)
    study.spec("soft", 0)  # checks what the profile says, too
    return study


def values_of(profile: str, changed: dict[str, Any], of_file: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the value of every parameter, from a profile, what was changed, and what a set decides.

    Of a set whose file is not here, `of_file` must say what that decides.
    """
    values = _defaults(profile, changed.get("protocol", "as_written"), changed.get("dataset", real_data.SYNTHETIC))
    values |= changed
    if values["dataset"] != real_data.SYNTHETIC:
        return values | (of_file or _of_set(profile, values, changed))
    if (values["raters"], values["split_kind"]) != ("all", "random"):
        raise InputError(
            "the synthetic set has neither single raters nor folds: expected raters=all, split_kind=random"
        )
    return values


def _defaults(profile: str, protocol: str, dataset: str) -> dict[str, Any]:
    """Return the values of a profile and a protocol; those of the set come before."""
    own = read_profile("sets").get(dataset, {})
    values = read_profile(profile) | {"protocol": protocol, "dataset": dataset} | own.get(profile, {})
    return values | (read_profile("as_run") | own.get("as_run", {}) if protocol == "as_run" else {})


def _of_set(profile: str, values: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that a set decides; raise on those that were changed in vain."""
    dataset = values["dataset"]
    if dataset not in real_data.names():
        for spec in runs.published_specs(dataset):
            sizes = {name: getattr(spec, name) for name in OF_FILE}
            wanted = values | sizes | changed
            if all(wanted.get(name, value) == value for name, value in asdict(spec).items()):
                return sizes
    data = real_data.read(dataset)
    n, size = len(data.ids), data.images.shape[-1]
    own = read_profile("sets").get(dataset, {}).get(profile, {})
    asked = {"n_images": min(n, own.get("n_images", n)), "image_size": min(size, own.get("image_size", size))}
    asked |= {"data_seed": 0} | changed
    faults = []
    if values["raters"] == "complete" and (data.ratings is None or not votes.complete_raters(data.ratings).size):
        faults.append(f"parameter 'raters' is complete, expected all: no rater of {dataset} is known to have seen all")
    if values["split_kind"] == "slice" and data.fold is None:
        faults.append(f"parameter 'split_kind' is slice, expected random: {dataset} has no folds")
    if asked["n_images"] > n:
        faults.append(f"parameter 'n_images' is {asked['n_images']}, expected at most the {n} images of {dataset}")
    if size % asked["image_size"]:
        blocks = [str(side) for side in range(16, size + 1) if size % side == 0]
        faults.append(
            f"parameter 'image_size' is {asked['image_size']}, and the images of {dataset} have {size} pixels a side, "
            f"which are shrunk by whole blocks; expected {', '.join(blocks)}; "
            f"import your own images again: bhl data import {dataset} --image-size {asked['image_size']} ..."
        )
    if asked["data_seed"] != 0:
        faults.append(f"parameter 'data_seed' is {asked['data_seed']}, expected 0: {dataset} is read, not generated")
    if values["test_images"] or values["ambiguous"] == "replaced":
        faults.append(
            f"test_images and ambiguous=replaced take images beyond the set: {dataset} is read, not generated"
        )
    if faults:
        raise InputError("; ".join(faults))
    return {name: asked[name] for name in OF_FILE}


def published(dataset: str) -> Study | None:
    """Return the study that the published runs of a set make up, named by the profile nearest to it, or None.

    Of several, it is the one with the most splits, and then the most and largest images.
    """
    groups = defaultdict(set)
    for spec in runs.published_specs(dataset):
        groups[replace(spec, labels="soft", split=0)].add((spec.labels, spec.split))
    whole = {spec: _whole_splits(found) for spec, found in groups.items()}
    if not any(whole.values()):
        return None
    best = max(whole, key=lambda spec: (whole[spec], spec.n_images, spec.image_size, spec.key))
    made = {name: value for name, value in asdict(best).items() if name not in (*OF_FILE, "labels", "split")}
    named = []
    for profile, protocol in itertools.product(reversed(PROFILES), PROTOCOLS):
        values = _defaults(profile, protocol, dataset) | {"protocol": "as_written"}
        asked = {"protocol": protocol, "splits": whole[best], **made}
        changed = {name: value for name, value in asked.items() if value != values[name]}
        named.append((profile, changed | {"dataset": dataset}))
    profile, changed = min(named, key=lambda pair: len(pair[1]))
    return plan(profile, **changed)


def _whole_splits(found: set[tuple[str, int]]) -> int:
    """Return how many splits, from 0, have a run of each kind of label."""
    return next(n for n in itertools.count() if any((labels, n) not in found for labels in votes.LABEL_KINDS))


@functools.cache
def read_profile(name: str) -> dict[str, Any]:
    """Return what a file of the package's folder ``profiles`` says; not to be changed."""
    text = resources.files("beyond_hard_labels").joinpath(f"profiles/{name}.yml").read_text("utf-8")
    return yaml.safe_load(text)


def require_generated(study: Study) -> Study:
    """Return the study, or refuse it: the book's chapters draw and colour the shapes of the synthetic set."""
    if study.shared["dataset"] != real_data.SYNTHETIC:
        raise InputError(
            f"parameter 'dataset' is '{study.shared['dataset']}', expected synthetic in the book; for another set take "
            "notebooks/your_votes.ipynb or bhl study"
        )
    return study


def from_notebook(namespace: Mapping[str, Any], own: tuple[str, ...] = ()) -> Study:
    """Return the study that a notebook's parameters ask for; call it as ``from_notebook(globals())``.

    Papermill only warns of a parameter that a notebook does not know; the cell after the injected one
    sees the stray name, and this function refuses it. Names in `own` are the notebook's own affair.
    """
    plain = (str, int, float, bool, list, dict, tuple, type(None))
    ipython = ("In", "Out")
    given = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, plain) and not name.startswith("_") and name not in (*ipython, *own)
    }
    wanted = {name: value for name, value in given.items() if value is not None or name not in valid_parameters()}
    check(valid_parameters(), wanted)
    return require_generated(plan(**wanted))


def execute(spec: RunSpec, deadline: float = math.inf, store: Path | None = None) -> Run:
    """Train one run and store it, by default in the build folder.

    There it goes on from the last checkpoint, if one is left, and ends in the same result; the caller
    holds the run's lock. A checkpoint is made at the end of an epoch, after CHECKPOINT_SECONDS of
    training, and whenever it must stop.

    Parameters
    ----------
    spec : RunSpec
    deadline : float
        ``time.time()`` after which no step starts.
    store : Path, optional
        A folder of runs in place of the build folder's; then checkpoints are neither read nor written.

    Raises
    ------
    TimeUp, Terminated
        If the deadline passed, or the process was told to stop; a checkpoint is left.
    Unwritten
        If the disk does not take what must be written.
    """
    _require_safetensors()
    data = images_of(spec)
    split = split_of(spec, data)
    labels = labels_of(spec, data)
    start, before = None, 0.0
    if store is None:
        runs.set_aside_damaged(spec)
        start, before = checkpoints.latest(spec)
    if start:
        tell(f"{spec.key} goes on after {start.epoch} of {spec.epochs} epochs and {start.step} steps")
    started = saved = time.perf_counter()

    def keep(progress: Callable[[], Progress], stopping: bool) -> None:
        nonlocal saved
        now = time.perf_counter()
        if store is None and (stopping or now - saved >= CHECKPOINT_SECONDS):
            made = progress()
            if made.epoch or made.step:  # else there is nothing to keep
                checkpoints.save(spec, made, before + now - started)
            saved = time.perf_counter()

    with process.patient():
        _show_progress(spec, start.epoch if start else 0)
        try:
            trained = train(
                data,
                votes.smooth(labels, spec.label_smoothing),
                split,
                spec,
                seed=spec.split,
                deadline=deadline,
                start=start,
                on_step=process.check,
                on_epoch=functools.partial(_show_progress, spec),
                on_checkpoint=keep,
            )
        finally:
            _progress_file(spec).unlink(missing_ok=True)
        run = runs.save(spec, trained, split, data, labels, before + time.perf_counter() - started, store)
        if store is None:
            checkpoints.remove(spec)
    process.check()
    return run


def _require_safetensors() -> None:
    """Raise before a training, not after it, where its weights could not be stored."""
    try:
        import safetensors  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "the package safetensors is not installed, expected for weights and checkpoints: pip install safetensors"
        ) from error


def _progress_file(spec: RunSpec) -> Path:
    return runs.build_folder() / "progress" / spec.key


def _show_progress(spec: RunSpec, epoch: int) -> None:
    with contextlib.suppress(OSError):  # it only moves the bar
        _progress_file(spec).parent.mkdir(parents=True, exist_ok=True)
        _progress_file(spec).write_text(str(epoch))


def find_or_train(spec: RunSpec, deadline: float = math.inf) -> tuple[Run, bool]:
    """Return a run and whether it had to be trained, in this process; of several processes, one trains."""
    if found := find(spec):
        return found, False
    with files.lock(runs.build_folder() / "locks" / spec.key, f"trains {spec.key}", deadline):
        found = find(spec)  # it may have been trained meanwhile
        return found or execute(spec, deadline), found is None


def find(spec: RunSpec) -> Run | None:
    """Return the local run of a spec, or else a published one if it cannot be trained here, or None."""
    return runs.find(spec) or (None if runs.can_train(spec) else runs.published(spec))


def ensure(
    study: Study, *, workers: int | None = None, deadline: float = math.inf, executor: Executor | None = None
) -> list[Run]:
    """Return all runs of a study, in the order of its specs, after training those that are missing.

    A published run counts where training is not possible, see `find`.

    Parameters
    ----------
    study : Study
    workers : int, optional
        Processes; by default as many as the cores hold at the study's threads a run, one for cuda. No
        result depends on it.
    deadline : float
        ``time.time()`` after which no step starts.
    executor : concurrent.futures.Executor, optional
        Runs the trainings in place of a process pool; it must see the same build folder.

    Raises
    ------
    TimeUp
        If runs are missing at the deadline; what was done is kept, so another call goes on.
    """
    return ensure_specs(study.specs(), workers=workers, deadline=deadline, executor=executor)


def ensure_specs(
    specs: list[RunSpec],
    *,
    workers: int | None = None,
    deadline: float = math.inf,
    executor: Executor | None = None,
) -> list[Run]:
    """Return the runs of some specs, each once, after training those that are missing in that order; see `ensure`."""
    specs = list(dict.fromkeys(specs))
    missing = [spec for spec in specs if find(spec) is None]
    if missing:
        if workers is None:
            workers = 1 if missing[0].device == "cuda" else max(1, len(os.sched_getaffinity(0)) // missing[0].threads)
        used = contextlib.nullcontext(executor) if executor else process.pool(min(workers, len(missing)))
        with used as pool:
            _train_all(missing, pool, deadline)
    return [find(spec) for spec in specs]


def _train_all(specs: list[RunSpec], pool: Executor, deadline: float) -> None:
    futures = {pool.submit(_execute, spec, deadline): spec for spec in specs}
    pending, stopped, epochs = set(futures), 0, 0
    with _bar(sum(spec.epochs for spec in specs)) as bar:
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                if isinstance(future.exception(), TimeUp):
                    stopped += 1
                    continue
                future.result()
                epochs += futures[future].epochs
            bar.update(epochs + sum(_epochs_done(futures[future]) for future in pending) - bar.n)
    if stopped:
        raise TimeUp(
            f"time limit: {len(specs) - stopped} runs finished now, {stopped} missing; the same command goes on"
        )


def _execute(spec: RunSpec, deadline: float) -> None:
    find_or_train(spec, deadline)  # the run stays in the store, nothing of it travels between the processes


def _epochs_done(spec: RunSpec) -> int:
    try:
        return int(_progress_file(spec).read_text() or 0)
    except (FileNotFoundError, ValueError):  # between two epochs of another process
        return 0


def map_of(study: Study, run: Run) -> np.ndarray:
    """Return the t-SNE map of a run's test features, float64 (N, 2); made once and kept in the store.

    It is found again by its run and the study's settings, and made again if the features, the code or
    the library that made it changed, see `map_inputs`. A published run has no features, and the map that
    it came with, whatever the settings.
    """
    if run.published:
        if (made := run.published_map()) is None:
            raise InputError(f"{run.folder} has no map, expected map.npz, which published runs of split 0 come with")
        return made[0]
    settings = f"{run.spec.key}-{study.perplexity:g}-{study.tsne_iterations}"
    path = runs.build_folder() / "maps" / f"{settings}.npz"
    here = map_inputs(run.manifest)
    set_aside_damaged_map(path)
    if path.is_file():
        plane, made_of = read_map(path)
        if not runs.changes(made_of, here):
            return plane
    plane = embedding.tsne(run.features, perplexity=study.perplexity, iterations=study.tsne_iterations)
    content = io.BytesIO()
    np.savez(content, plane=plane, made_of=json.dumps(here))
    files.write_sealed(path, content.getvalue())
    return plane


def read_map(path: Path) -> tuple[np.ndarray, dict]:
    """Return a stored map and what it was made of; raise `Damaged` if it is not as it was written."""
    with np.load(io.BytesIO(files.read_sealed(path)), allow_pickle=False) as file:
        return file["plane"], json.loads(file["made_of"].item())


def set_aside_damaged_map(path: Path) -> None:
    """Move a map out of the way, with a word, if it is damaged; it is made again when it is asked for."""
    try:
        if path.is_file():
            read_map(path)
    except files.Damaged as error:
        aside = files.set_aside(path, runs.build_folder() / "damaged")
        tell(f"{error}; it is set aside as {aside} and made again")


def map_inputs(manifest: dict) -> dict[str, dict]:
    """Return what a map of a run with this manifest depends on, as `runs.changes` compares it."""
    return {
        "data": {"features of its run": manifest["files"]["features.npz"]},
        "code": runs.code_fingerprints("embedding"),
        "versions": runs.versions("openTSNE"),
    }


def _bar(total: int):
    """Return a progress bar of epochs; in a notebook it is plain text that vanishes at the end."""
    import sys

    from tqdm import tqdm

    in_notebook = process.in_notebook()
    file = sys.stdout if in_notebook else sys.stderr
    seconds = 0.5 if in_notebook or file.isatty() else 30  # a log gets a line now and then
    bar = tqdm(total=total, unit="epoch", desc="training", file=file, mininterval=seconds)
    if in_notebook:
        from IPython.display import clear_output

        close = bar.close
        bar.close = lambda: (close(), clear_output())
    return bar
