"""What is in the store: what is fresh, what is stale and exactly why, and what may be removed.

Nothing is decided here: `fresh.changes` says why a run, a checkpoint, a map or a notebook does not count
any more, and this module asks it about everything that lies in the build folder.
"""

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import sets
from beyond_hard_labels.runs import fresh, grids, store
from beyond_hard_labels.runs.fresh import Change
from beyond_hard_labels.runs.maps import map_inputs, read_map
from beyond_hard_labels.runs.spec import RunSpec, other_fields
from beyond_hard_labels.runs.study import Study

KINDS = ("run", "published run", "published grid", "checkpoint", "map", "notebook", "leftover")
REMOVABLE = ("run", "checkpoint", "map", "leftover")
_BEING_WRITTEN = 3600  # seconds in which what has a temporary name may still be written by someone


class Item(NamedTuple):
    """Something in the store, or something of a study that should be there."""

    kind: str  # one of `KINDS`
    name: str  # key of the run, name of the notebook or of the file
    what: str  # in words
    why: list[Change]  # it does not count; empty if it is fresh
    path: Path
    lacking: str = ""  # here to make it again, in words

    @property
    def state(self) -> str:
        """``fresh``, ``stale``, or ``missing`` where there is nothing."""
        return "missing" if not self.path.exists() else "stale" if self.why else "fresh"

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        found = [self.path, *self.path.rglob("*")] if self.path.is_dir() else [self.path]
        return sum(path.stat().st_size for path in found if path.is_file())


def items(study: Study | None = None) -> list[Item]:
    """Return everything in the store; of a study also its notebooks, and its runs that are missing."""
    build = paths.build_folder()
    lying = [path for kind in ("runs", "checkpoints", "maps") for path in sorted((build / kind).glob("*"))]
    whole = [path for path in lying if not path.name.startswith(".")]
    found = [_run(p.parent.name.removesuffix("s"), p) for p in whole if p.is_dir() and p.parent.name != "maps"]
    runs = {item.name: item for item in found if item.kind == "run"}
    found += [_map(path, runs.get(path.name.partition("-")[0])) for path in whole if path.parent.name == "maps"]
    found += [_run("published run", path.parent) for path in paths.published_folder().glob("*/spec.json")]
    found += [_grid(grid) for grid in grids.GRIDS if grids.grid_files(grid)[0].is_file()]
    left = [path for path in lying if path not in whole and time.time() - path.stat().st_mtime > _BEING_WRITTEN]
    found += [Item("leftover", path.name, "", [_fault("its writing was never finished")], path) for path in left]
    aside = sorted((build / "damaged").glob("*"))
    found += [Item("leftover", path.name, "", [_fault("it is damaged and was set aside")], path) for path in aside]
    if study is not None:
        here = {item.name for item in found if item.kind in ("run", "published run")}
        missing = {spec.key: spec for spec in study.specs() if spec.key not in here}
        never = [_fault("it was not trained yet")]
        found += [Item("run", key, _words(spec), never, build / "runs" / key) for key, spec in missing.items()]
        found += _notebooks(study)
    return sorted(found, key=lambda item: (KINDS.index(item.kind), item.what, item.name))


def _run(kind: str, folder: Path) -> Item:
    """Return a run, or the newest checkpoint of one, whatever version of this package wrote it."""
    what, lacking = "", "a spec that can be read, which says what it is made of"
    try:
        if kind == "checkpoint":
            about = files.read_sealed_json(max(folder.glob("*.json"), default=folder / "checkpoint.json"))
            spec = about["spec"]
        else:
            spec = json.loads((folder / "spec.json").read_text("utf-8"))
        lacking = _lacking(spec)
        if other := other_fields(spec):
            return Item(kind, folder.name, "", [_fault(f"spec fields changed: {other}")], folder, lacking)
        spec = RunSpec(**spec)
        what = _words(spec)
        if kind == "checkpoint":
            why = fresh.changes(about, fresh.provenance(spec))
        else:
            run = store.load(folder)
            why = store.outdated(run) if kind == "run" else _of_published(store.differences(run))
        why += [_fault(f"its spec is that of {spec.key}")] if spec.key != folder.name else []
    except InputError as error:  # damaged
        why = [_fault(str(error).replace(f"the run in {folder.resolve()}", "it").replace(f"{folder.resolve()}/", ""))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = [_fault(f"it cannot be read ({type(error).__name__}: {error})")]
    return Item(kind, folder.name, what, why, folder, lacking)


def _lacking(spec: dict) -> str:
    """Say what this machine lacks to train a spec, also one of another version of this package."""
    if spec["dataset"] != sets.SYNTHETIC and not sets.is_here(spec["dataset"]):
        return f"the set {spec['dataset']}"
    if spec["device"] != "cuda":
        return ""
    import torch

    return "" if torch.cuda.is_available() else "a GPU"


def _grid(grid: str) -> Item:
    path, what, why = grids.grid_files(grid)[0], "", []
    try:
        parts = grids.published(grid)
        what = f"{len(parts)} parts, {sum(len(part.specs) for part in parts.values())} runs"
        changed = [(name, change) for name, part in parts.items() for change in _of_published(part.changes)]
        why = [change._replace(name=f"{name}: {change.name}") for name, change in changed]
    except InputError as error:
        why = [_fault(str(error))]
    return Item("published grid", grid, what, why, path)


def _of_published(changes: list[Change]) -> list[Change]:
    """Leave out what makes a published result no less true: other versions, and data that are not here."""
    return [change for change in changes if change.kind not in ("away", "version")]


def _fault(words: str) -> Change:
    """Return what is wrong with something whose record cannot be compared."""
    return Change("record", words)


def _words(spec: RunSpec) -> str:
    epochs = f"{spec.epochs} epoch{'s' if spec.epochs > 1 else ''}"
    words = f"{spec.dataset}, {spec.labels} labels, split {spec.split}, {spec.backbone}, {epochs}"
    words += f", {spec.train_share:.0%} of the training images" if spec.train_share < 1 else ""
    return words + (f", {spec.votes_per_image} votes an image" if spec.votes_per_image else "")


def _map(path: Path, run: Item | None) -> Item:
    """Return a t-SNE map; it is made again if its run is, and waits for data or a GPU as its run does."""
    key = path.name.partition("-")[0]
    try:
        _, made_of = read_map(path)
        if run is None or run.why:
            waits = run and all(change.kind == "away" for change in run.why)
            why = run.why if waits else [_fault("its run is stale" if run else "its run is gone")]
        else:
            why = fresh.changes(made_of, map_inputs(files.read_sealed_json(run.path / "manifest.json")))
    except InputError:
        return Item("map", path.name, f"map of {key}", [_fault("it is damaged")], path)
    return Item("map", path.name, f"map of {key}", why, path, run.lacking if run else "")


def _notebooks(study: Study) -> Iterator[Item]:
    from beyond_hard_labels.book.build import notebooks_in_order
    from beyond_hard_labels.book.execution import why_stale

    root, executed = paths.project_folder(), paths.build_folder() / "executed"
    for name in notebooks_in_order(root):
        copy = executed / f"{name}.ipynb"
        why = why_stale(root / "notebooks" / f"{name}.ipynb", copy, study)
        yield Item("notebook", name, "", why, copy)


def as_json(found: list[Item]) -> dict:
    """Return everything in the store as plain values, with the totals in bytes."""
    rows = [
        {part: getattr(item, part) for part in ("kind", "name", "what", "state", "bytes", "lacking")}
        | {"why": [fresh.told([change]) for change in item.why], "changes": [c._asdict() for c in item.why]}
        for item in found
    ]
    return {"items": rows, "bytes": _bytes(found), "stale_bytes": _bytes(removable(found)[0])}


def as_text(found: list[Item]) -> str:
    """Return everything in the store as lines: state, name, size, what it is, and why it is stale."""
    lines = []
    for kind, own in itertools.groupby(found, key=lambda item: item.kind):
        own = list(own)
        lines.append(f"{kind}s")
        width = max(len(item.name) for item in own)
        for item in own:
            told = ": ".join(filter(None, [item.what, fresh.told(item.why)]))
            size = size_of([item]) if item.path.exists() else ""
            lines.append(f"  {item.state:7s}  {item.name:{width}s}  {size:>9s}  {told}".rstrip())
    counts = [f"{sum(item.state == state for item in found)} {state}" for state in ("fresh", "stale", "missing")]
    lines.append(f"{', '.join(counts)}; {size_of(found)} in all")
    free, _ = removable(found)
    return "\n".join(lines + [f"'bhl clean --stale' frees {size_of(free)}"] * bool(free))


def size_of(found: list[Item]) -> str:
    """Return the size of some items for readers, in kB or MB of 1000."""
    size = _bytes(found)
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


def _bytes(found: list[Item]) -> int:
    return sum(item.bytes for item in found)


def removable(found: list[Item]) -> tuple[list[Item], list[Item]]:
    """Return what is stale and can be removed, and what is only if it is asked for by name.

    The latter this machine cannot make again. Published runs belong to the project, notebooks are executed again.
    """
    stale = [item for item in found if item.state == "stale" and item.kind in REMOVABLE]
    return [item for item in stale if not item.lacking], [item for item in stale if item.lacking]


def of_run(found: list[Item], key: str) -> list[Item]:
    """Return the run of a key, its checkpoints and its maps; raise `InputError` if there is none of them."""
    own = [item for item in found if item.kind in ("run", "checkpoint", "map") and item.name.partition("-")[0] == key]
    if not own:
        raise InputError(f"there is no run '{key}' in {paths.build_folder()}; bhl status lists what there is")
    return own
