"""The training of one run: found where it stopped, saved as it goes, stored when it is done."""

import contextlib
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path

from beyond_hard_labels.base import files, paths, process
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.process import tell
from beyond_hard_labels.data import votes
from beyond_hard_labels.runs import checkpoints, fresh, store
from beyond_hard_labels.runs.inputs import empty_classes, given
from beyond_hard_labels.runs.spec import RunSpec
from beyond_hard_labels.runs.store import Run

CHECKPOINT_SECONDS = 20.0  # between two, at least
_CODE = fresh.code_fingerprints(*fresh.training_modules())  # of the code that this process runs


class Moved(InputError):
    """The code or the data of a run changed under it, so that it cannot be said what it was made of."""


def execute(spec: RunSpec, deadline: float = math.inf, folder: Path | None = None) -> Run:
    """Train one run and store it, by default in the build folder.

    There it goes on from the last checkpoint, if one is left, and ends in the same result; the caller holds the run's
    lock. One is made at the end of an epoch, after CHECKPOINT_SECONDS, and whenever it must stop.

    No step starts after the `deadline`, as of ``time.time()``. `folder` is one of runs in place of the build folder's;
    then checkpoints are neither read nor written.

    Raises
    ------
    TimeUp, Terminated, Unwritten
        If the deadline passed, it was told to stop, or the disk is full; a checkpoint is left.
    Diverged
        If the training ends in numbers that are not finite; no checkpoint is left.
    Moved
        If the code changed since this process began, or code or data during the training; nothing is stored, and
        checkpoints count again once what they were made of is back.
    """
    try:
        import safetensors  # noqa: F401
    except ModuleNotFoundError as error:  # before the training, not after it
        message = "the package safetensors is not installed, expected for weights and checkpoints: pip install it"
        raise InputError(message) from error
    from beyond_hard_labels.learn.train import Diverged, train

    made_of = fresh.provenance(spec)  # before anything is read
    _refuse_moved(made_of | {"code": _CODE}, made_of, f"run {spec.key} is not trained: since this process began")
    of_run = given(spec)
    tell_empty_classes(spec, empty_classes(of_run))
    start, before = checkpoints.latest(spec) if folder is None else (None, 0.0)
    started = time.perf_counter() - before
    kept = {"on_checkpoint": _keeper(spec, made_of, started)} if folder is None else {}
    with process.patient():
        _show_progress(spec, start.epoch if start else 0)
        try:
            trained = train(
                of_run.data,
                votes.smooth(of_run.labels, spec.label_smoothing),
                of_run.split,
                spec,
                seed=spec.split,
                deadline=deadline,
                start=start,
                on_step=process.check,
                on_epoch=functools.partial(_show_progress, spec),
                **kept,
            )
        except Diverged as error:
            files.remove(checkpoints.folder_of(spec))
            raise Diverged(f"run {spec.key} is not stored: {error}") from error
        finally:
            progress_file(spec).unlink(missing_ok=True)
        _refuse_moved(made_of, fresh.provenance(spec), f"run {spec.key} is not stored: while it was trained")
        run = store.save(spec, trained, of_run, made_of, time.perf_counter() - started, folder)
        if folder is None:
            files.remove(checkpoints.folder_of(spec))
    process.check()
    return run


def _refuse_moved(before: dict, after: dict, what: str) -> None:
    if changed := fresh.told(fresh.changes(before, after)):
        raise Moved(f"{what}, {changed}; a new process, or a restarted kernel, trains it with what is there now")


def tell_empty_classes(spec: RunSpec, empty: dict[str, list[str]]) -> None:
    """Say which classes a run has no image of; metrics leave those without a test image out."""
    for part, names in empty.items():
        if names:
            tell(f"{spec.key} has no {part} image of the class{'es' if names[1:] else ''} {', '.join(names)}")


def _keeper(spec: RunSpec, made_of: dict, started: float) -> Callable:
    """Return what `train` is to call with its progress: it keeps some of it."""
    saved = time.perf_counter()

    def keep(progress: Callable, stopping: bool) -> None:
        nonlocal saved
        now = time.perf_counter()
        if stopping or now - saved >= CHECKPOINT_SECONDS:
            made = progress()
            if made.epoch or made.step:  # else there is nothing to keep
                checkpoints.save(spec, made, made_of, now - started)
            saved = time.perf_counter()

    return keep


def progress_file(spec: RunSpec) -> Path:
    return paths.build_folder() / "progress" / spec.key


def _show_progress(spec: RunSpec, epoch: int) -> None:
    with contextlib.suppress(OSError):  # it only moves the bar
        progress_file(spec).parent.mkdir(parents=True, exist_ok=True)
        progress_file(spec).write_text(str(epoch), "utf-8")
