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
from beyond_hard_labels.learn.train import Progress, train
from beyond_hard_labels.runs import checkpoints, store
from beyond_hard_labels.runs.inputs import images_of, labels_of, split_of
from beyond_hard_labels.runs.spec import RunSpec
from beyond_hard_labels.runs.store import Run

CHECKPOINT_SECONDS = 20.0  # between two, at least


def execute(spec: RunSpec, deadline: float = math.inf, folder: Path | None = None) -> Run:
    """Train one run and store it, by default in the build folder.

    There it goes on from the last checkpoint, if one is left, and ends in the same result; the caller
    holds the run's lock. A checkpoint is made at the end of an epoch, after CHECKPOINT_SECONDS of
    training, and whenever it must stop.

    Parameters
    ----------
    spec : RunSpec
    deadline : float
        ``time.time()`` after which no step starts.
    folder : Path, optional
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
    if folder is None:
        store.set_aside_damaged(spec)
        start, before = checkpoints.latest(spec)
    if start:
        tell(f"{spec.key} goes on after {start.epoch} of {spec.epochs} epochs and {start.step} steps")
    started = saved = time.perf_counter()

    def keep(progress: Callable[[], Progress], stopping: bool) -> None:
        nonlocal saved
        now = time.perf_counter()
        if folder is None and (stopping or now - saved >= CHECKPOINT_SECONDS):
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
            progress_file(spec).unlink(missing_ok=True)
        run = store.save(spec, trained, split, data, labels, before + time.perf_counter() - started, folder)
        if folder is None:
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


def progress_file(spec: RunSpec) -> Path:
    return paths.build_folder() / "progress" / spec.key


def _show_progress(spec: RunSpec, epoch: int) -> None:
    with contextlib.suppress(OSError):  # it only moves the bar
        progress_file(spec).parent.mkdir(parents=True, exist_ok=True)
        progress_file(spec).write_text(str(epoch))
