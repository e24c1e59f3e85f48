"""The training of one run: found where it stopped, saved as it goes, stored when it is done."""

import contextlib
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path

from beyond_hard_labels.base import paths, process
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.process import tell
from beyond_hard_labels.data import votes
from beyond_hard_labels.runs import checkpoints, fresh, store
from beyond_hard_labels.runs.inputs import empty_classes, images_of, labels_of, split_of
from beyond_hard_labels.runs.spec import RunSpec
from beyond_hard_labels.runs.store import Run

CHECKPOINT_SECONDS = 20.0  # between two, at least
_CODE = fresh.code_fingerprints(*fresh.training_modules())  # of the code that this process runs


class Moved(InputError):
    """The code or the data of a run changed under it, so that it cannot be said what it was made of."""


def execute(spec: RunSpec, deadline: float = math.inf, folder: Path | None = None) -> Run:
    """Train one run and store it, by default in the build folder.

    There it goes on from the last checkpoint, if one is left, and ends in the same result; the caller holds the
    run's lock. One is made at the end of an epoch, after CHECKPOINT_SECONDS, and whenever it must stop.

    Parameters
    ----------
    deadline : float
        ``time.time()`` after which no step starts.
    folder : Path, optional
        A folder of runs in place of the build folder's; then checkpoints are neither read nor written.

    Raises
    ------
    TimeUp, Terminated, Unwritten
        If the deadline passed, it was told to stop, or the disk is full; a checkpoint is left.
    Diverged
        If the training ends in numbers that are not finite; no checkpoint is left.
    Moved
        If the code changed since this process began, or code or data during the training; nothing is stored.
        Checkpoints stay: they name what they were made of, so they count again once that is back, and not before.
    """
    _require_safetensors()
    from beyond_hard_labels.learn.train import Diverged, train

    made_of = fresh.provenance(spec)  # before anything is read
    _refuse_moved(made_of | {"code": _CODE}, made_of, f"run {spec.key} is not trained: since this process began")
    data = images_of(spec)
    split, labels = split_of(spec, data), labels_of(spec, data)
    tell_empty_classes(spec, empty_classes(split, labels, data))
    start, before = _where_it_was(spec) if folder is None else (None, 0.0)
    started = time.perf_counter() - before
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
                on_checkpoint=_keeper(spec, made_of, started) if folder is None else _keep_nothing,
            )
        except Diverged as error:
            checkpoints.remove(spec)
            raise Diverged(f"run {spec.key} is not stored: {error}") from error
        finally:
            progress_file(spec).unlink(missing_ok=True)
        _refuse_moved(made_of, fresh.provenance(spec), f"run {spec.key} is not stored: while it was trained")
        run = store.save(spec, trained, split, data, labels, made_of, time.perf_counter() - started, folder)
        if folder is None:
            checkpoints.remove(spec)
    process.check()
    return run


def _where_it_was(spec: RunSpec) -> tuple:
    """Return the last checkpoint of a run, None if there is none, and its seconds; what is damaged is set aside."""
    store.set_aside_damaged(spec)
    start, seconds = checkpoints.latest(spec)
    if start:
        tell(f"{spec.key} goes on after {start.epoch} of {spec.epochs} epochs and {start.step} steps")
    return start, seconds


def _refuse_moved(before: dict, after: dict, what: str) -> None:
    if changed := fresh.changes(before, after):
        raise Moved(
            f"{what}, {fresh.told(changed)}; a new process, or a restarted kernel, trains it with what is there now"
        )


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


def _keep_nothing(progress: Callable, stopping: bool) -> None:
    pass


def _require_safetensors() -> None:
    """Raise before a training, not after it, where its weights could not be stored."""
    try:
        import safetensors  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "the package safetensors is not installed, expected for weights and checkpoints: pip install safetensors"
        ) from error


def progress_file(spec: RunSpec) -> Path:
    return paths.build_folder() / "progress" / spec.key


def _show_progress(spec: RunSpec, epoch: int) -> None:
    with contextlib.suppress(OSError):  # it only moves the bar
        progress_file(spec).parent.mkdir(parents=True, exist_ok=True)
        progress_file(spec).write_text(str(epoch), "utf-8")
