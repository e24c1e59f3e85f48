"""Finding runs and training those that are missing, over processes or machines."""

import contextlib
import json
import math
import os
import sys
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from beyond_hard_labels.base import files, memory, paths, process
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.process import TimeUp
from beyond_hard_labels.data import sets
from beyond_hard_labels.data.images import LabelledImages
from beyond_hard_labels.runs import fresh, store
from beyond_hard_labels.runs.execute import execute, progress_file, tell_empty_classes
from beyond_hard_labels.runs.inputs import images_of
from beyond_hard_labels.runs.spec import RunSpec
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.study import Study, published

TRAIN, MISSING = "BHL_TRAIN", "BHL_MISSING"  # variables: whether runs are trained here, and a file, see `NotTrained`


SETS = ("micebone", "fashion_mnist_h", "cifar10h")  # of real images with real votes, in a chapter of their own


class NotTrained(InputError):
    """Runs are missing where the variable BHL_TRAIN is ``never`` or ``ask``.

    With ``ask`` their specs are appended to the file that BHL_MISSING names, one a line of JSON.
    """


def find_or_train(spec: RunSpec, deadline: float = math.inf) -> tuple[Run, bool]:
    """Return a run and whether it had to be trained, in this process; of several processes, one trains."""
    if found := find(spec):
        return found, False
    _require_training([spec])
    with files.lock(paths.build_folder() / "locks" / spec.key, f"trains {spec.key}", deadline):
        if found := find(spec):  # it was trained meanwhile
            return found, False
        memory.keep_freed()
        return execute(spec, deadline), True


def find(spec: RunSpec) -> Run | None:
    """Return the local run of a spec, or else a published one if it cannot be trained here, or None."""
    return store.find(spec) or (None if fresh.can_train(spec) else store.published(spec))


def ensure(study: Study, **options) -> list[Run]:
    """Return all runs of a study, in the order of its specs, as `ensure_specs` does, which says what `options` are."""
    return ensure_specs(study.specs(), **options)


def ensure_specs(
    specs: list[RunSpec],
    *,
    workers: int | None = None,
    deadline: float = math.inf,
    executor: Executor | None = None,
) -> list[Run]:
    """Return the runs of some specs, each once, after training those that are missing in that order; see `find`.

    Parameters
    ----------
    workers : int, optional
        Processes; by default as many as the cores hold at the threads of a run, one for cuda. No result depends on it.
    deadline : float
        ``time.time()`` after which no step starts. If runs are missing then, `TimeUp` is raised; another call goes on.
    executor : concurrent.futures.Executor, optional
        Runs the trainings in place of a process pool; it must see the same build folder.

    Raises `NotTrained` if runs are missing and none may be trained here.
    """
    specs = list(dict.fromkeys(specs))
    missing = [spec for spec in specs if find(spec) is None]
    if missing:
        _require_training(missing)
        if workers is None:
            workers = 1 if missing[0].device == "cuda" else max(1, len(os.sched_getaffinity(0)) // missing[0].threads)
        used = contextlib.nullcontext(executor) if executor else process.pool(min(workers, len(missing)))
        with used as pool:
            _train_all(missing, pool, deadline)
    runs = [find(spec) for spec in specs]
    for run in runs:
        if run.spec not in missing:  # else it was said when it was trained
            tell_empty_classes(run.spec, run.manifest.get("empty_classes", {}))
    return runs


def _require_training(missing: list[RunSpec]) -> None:
    """Raise `NotTrained`, as it says, if BHL_TRAIN does not let this process train."""
    mode = os.environ.get(TRAIN)
    if mode not in ("never", "ask"):
        return
    if mode == "ask":
        with Path(os.environ[MISSING]).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(spec)) + "\n" for spec in missing)
    named = ", ".join(f"{s.key} ({s.dataset}, {s.labels} labels, split {s.split})" for s in missing[:10])
    more = f" and {len(missing) - 10} more" if missing[10:] else ""
    raise NotTrained(f"{len(missing)} run(s) are missing and {TRAIN}={mode} lets none be trained here: {named}{more}")


def _train_all(specs: list[RunSpec], pool: Executor, deadline: float) -> None:
    futures = {pool.submit(_execute, spec, deadline): spec for spec in specs}
    pending, stopped, epochs = set(futures), 0, 0
    with _bar(sum(spec.epochs for spec in specs)) as bar:
        while pending:
            seconds = min(0.5 + len(pending) / 50, 5.0)  # to look after hundreds takes a while
            done, pending = wait(pending, timeout=seconds, return_when=FIRST_COMPLETED)
            for future in done:
                if isinstance(future.exception(), TimeUp):
                    stopped += 1
                    continue
                future.result()
                epochs += futures[future].epochs
            now = epochs + sum(_epochs_done(futures[future]) for future in pending)
            bar.update(max(0, now - bar.n))  # a run that is being stored has no progress for a moment
    if stopped:
        done = len(specs) - stopped
        raise TimeUp(f"time limit: {done} runs finished now, {stopped} missing; the same command goes on")


def _execute(spec: RunSpec, deadline: float) -> None:
    find_or_train(spec, deadline)  # the run stays in the store, nothing of it travels between the processes


def _epochs_done(spec: RunSpec) -> int:
    try:
        return int(progress_file(spec).read_text("utf-8") or 0)
    except (FileNotFoundError, ValueError):  # between two epochs of another process
        return 0


def _bar(total: int):
    """Return a progress bar of epochs; in a notebook it is an output of its own, which is empty at the end."""
    from tqdm import tqdm

    options = {"total": total, "unit": "epoch", "desc": "training"}
    if not process.in_notebook():
        return tqdm(**options, mininterval=0.5 if sys.stderr.isatty() else 30)  # a log gets a line now and then
    from IPython.display import display

    shown = display({"text/plain": ""}, raw=True, display_id=True)
    line = SimpleNamespace(write=lambda text: shown.update({"text/plain": text.strip()}, raw=True), flush=lambda: None)
    return tqdm(**options, mininterval=0.5, file=line, leave=False)


class Section(NamedTuple):
    """What there is of a set of real images with real votes on this machine."""

    study: Study  # of the runs
    runs: list[Run]  # trained here where the images are here, the project's published ones otherwise
    data: LabelledImages | None  # None where the images are not here


def sections(study: Study, asked: dict[str, Any]) -> dict[str, Section]:
    """Return what there is of each of `SETS`, by its name, after training the runs that are missing.

    A set of which there is nothing, neither images nor published runs, is left out. What was changed of the `study`
    holds here, too, but for what a file decides; beyond the profile ``paper`` one split is trained, unless ``splits``
    was changed. `asked` has ``dataset``, the only set to show, and further parameters, None for no wish.
    """
    asked = {name: value for name, value in asked.items() if value is not None}
    only = asked.pop("dataset", None)
    if only is not None and only not in SETS:
        raise InputError(f"parameter 'dataset' is {only!r}, expected one of {', '.join(SETS)}")
    splits = {} if study.profile == "paper" or "splits" in study.changed else {"splits": 1}
    found = {}
    for name in [only] if only else SETS:
        if name in sets.names():
            own = study.on(name, **(splits | asked))
            most = max(2.0, own.shared["n_images"] / 5 / 4)  # of test images a map needs thrice its perplexity
            own = own if own.perplexity <= most else own.on(name, perplexity=most)
            found[name] = Section(own, ensure(own), images_of(own.spec("soft", 0)))
        elif own := published(name):
            found[name] = Section(own, ensure(own), None)
    return found
