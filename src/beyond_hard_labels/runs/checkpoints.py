"""Checkpoints: what a training in progress needs to go on from where it was, to the same last bit.

They lie in ``build/checkpoints/<run>/`` while a run is trained, two at most. One is two files named by its step:
``.safetensors`` holds the weights, the optimiser's momentum, the curves so far and, within an epoch, the sum of the
losses and the state of the generator of dropout; ``.json`` holds its place, what the run is made of as its manifest
will, and the checksum of both. All other randomness is a stream made from seed and epoch.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.process import tell
from beyond_hard_labels.runs import fresh
from beyond_hard_labels.runs.spec import RunSpec

if TYPE_CHECKING:  # torch takes seconds
    from beyond_hard_labels.learn.train import Progress

KEPT = 2  # the newest may be damaged


def folder_of(spec: RunSpec) -> Path:
    """Return the folder of a run's checkpoints."""
    return paths.build_folder() / "checkpoints" / spec.key


def save(spec: RunSpec, progress: "Progress", made_of: dict[str, dict], seconds: float) -> None:
    """Write a checkpoint whole or not at all, and remove all but the last two.

    The training was made of `made_of`, as of `fresh.provenance` before the images were read, and took so many seconds.
    Raises `Unwritten` if the disk does not take it; the one before is kept.
    """
    from safetensors.torch import save as to_bytes

    path = folder_of(spec) / f"{progress.epoch:06d}-{progress.step:06d}.json"
    content = to_bytes(progress.tensors)
    about = {"spec": asdict(spec), **made_of, "seconds": seconds, "epoch": progress.epoch, "step": progress.step}
    files.write(path.with_suffix(".safetensors"), content)
    files.write_json(path, about | {"sha256": hashlib.sha256(content).hexdigest()}, sealed=True)
    for old in sorted(path.parent.glob("*.json"))[:-KEPT]:
        _remove(old)


def read(path: Path) -> tuple[dict, bytes]:
    """Return what a checkpoint's ``.json`` says, and its tensors; raise `Damaged` if a bit of them is another."""
    about, tensors = files.read_sealed_json(path), path.with_suffix(".safetensors")
    content = tensors.read_bytes() if tensors.is_file() else b""
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise files.Damaged(f"{tensors} is not as it was written")
    return about, content


def latest(spec: RunSpec) -> "tuple[Progress | None, float]":
    """Return the last checkpoint of a run that is whole and of the same data, code and versions, and its seconds.

    Others are removed, with a word. The caller holds the run's lock.
    """
    from safetensors.torch import load as from_bytes

    from beyond_hard_labels.learn.train import Progress

    files.sweep(folder_of(spec) / "*")
    for path in sorted(folder_of(spec).glob("*.json"), reverse=True):
        try:
            about, content = read(path)
            if changed := fresh.changes(about, fresh.provenance(spec)):
                raise files.Damaged(f"{path} is no longer what it was: {fresh.told(changed)}")
            tell(f"{spec.key} goes on after {about['epoch']} of {spec.epochs} epochs and {about['step']} steps")
            return Progress(about["epoch"], about["step"], from_bytes(content)), about["seconds"]
        except files.Damaged as error:
            tell(f"a checkpoint is not used: {error}")
            _remove(path)
    return None, 0.0


def _remove(path: Path) -> None:
    files.remove(path)  # first what says that the other is whole
    files.remove(path.with_suffix(".safetensors"))
