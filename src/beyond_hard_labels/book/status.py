"""What is in the store: what is fresh, what is stale and exactly why, and what it takes to free the space.

Nothing is decided here: `runs.changes` says why a run, a checkpoint, a map or a notebook does not count
any more, and this module asks it about everything that lies in the build folder.
"""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.runs import fresh, grids, store
from beyond_hard_labels.runs.fresh import Change
from beyond_hard_labels.runs.maps import map_inputs, read_map
from beyond_hard_labels.runs.spec import RunSpec, other_fields
from beyond_hard_labels.runs.study import Study

KINDS = ("run", "published run", "published grid", "checkpoint", "map", "notebook", "leftover")
REMOVABLE = ("run", "checkpoint", "map", "leftover")
_BEING_WRITTEN = 3600  # seconds in which what has a temporary name may still be written by someone


class Item(NamedTuple):
    """Something in the store, or something of a study that should be there.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    name : str
        Key of the run, name of the notebook or of the file.
    what : str
        What it is, in words.
    why : list of Change
        Why it does not count; empty if it is fresh.
    path : Path
    """

    kind: str
    name: str
    what: str
    why: list[Change]
    path: Path

    @property
    def state(self) -> str:
        """``fresh``, ``stale``, or ``missing`` where there is nothing."""
        return "missing" if not self.path.exists() else "stale" if self.why else "fresh"

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        paths = [self.path, *self.path.rglob("*")] if self.path.is_dir() else [self.path]
        return sum(path.stat().st_size for path in paths if path.is_file())


def items(study: Study | None = None) -> list[Item]:
    """Return everything in the store; of a study also its notebooks, and its runs that are missing."""
    build = paths.build_folder()
    local, leftovers = _folders(build / "runs")
    found = [_run("run", folder) for folder in local]
    found += [_run("published run", path.parent) for path in paths.published_folder().glob("*/spec.json")]
    found += [_grid(grid) for grid in grids.GRIDS if grids.grid_files(grid)[0].is_file()]
    in_progress, more = _folders(build / "checkpoints")
    found += [_run("checkpoint", folder) for folder in in_progress]
    stale = {item.name: item.why for item in found if item.kind == "run" and item.why}
    maps = sorted((build / "maps").glob("*"))
    found += [_map(path, stale) for path in maps if not path.name.startswith(".")]
    leftovers += [*more, *(path for path in maps if path.name.startswith("."))]
    found += [
        Item("leftover", path.name, "", [_fault("its writing was never finished")], path)
        for path in leftovers
        if time.time() - path.stat().st_mtime > _BEING_WRITTEN
    ]
    found += [
        Item("leftover", path.name, "", [_fault("it is damaged and was set aside")], path)
        for path in sorted((build / "damaged").glob("*"))
    ]
    if study is not None:
        here = {item.name for item in found if item.kind in ("run", "published run")}
        missing = [spec for spec in study.specs() if spec.key not in here]
        found += [
            Item("run", s.key, _words(s), [_fault("it was not trained yet")], build / "runs" / s.key) for s in missing
        ]
        found += _notebooks(study)
    return sorted(found, key=lambda item: (KINDS.index(item.kind), item.what, item.name))


def _folders(parent: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders of runs, and those whose writing was not finished."""
    found = sorted(path for path in parent.glob("*") if path.is_dir())
    return tuple([path for path in found if path.name.startswith(".") is hidden] for hidden in (False, True))


def _run(kind: str, folder: Path) -> Item:
    """Return a run, or the newest checkpoint of one, whatever version of this package wrote it."""
    what, why = "", []
    try:
        if kind == "checkpoint":
            newest = max(folder.glob("*.json"), default=folder / "checkpoint.json")
            about = files.read_sealed_json(newest)
            spec = about["spec"]
        else:
            spec = json.loads((folder / "spec.json").read_text("utf-8"))
        if other := other_fields(spec):
            return Item(kind, folder.name, "", [_fault(f"spec fields changed: {other}")], folder)
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
    return Item(kind, folder.name, what, why, folder)


def _grid(grid: str) -> Item:
    """Return a published grid."""
    path, what, why = grids.grid_files(grid)[0], "", []
    try:
        parts = grids.published(grid)
        what = f"{len(parts)} parts, {sum(len(part.specs) for part in parts.values())} runs"
        why = [
            c._replace(name=f"{name}: {c.name}") for name, part in parts.items() for c in _of_published(part.changes)
        ]
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


def _map(path: Path, stale: dict[str, list[Change]]) -> Item:
    """Return a t-SNE map; it is made again if its run is, and waits for data as its run does."""
    key = path.name.partition("-")[0]
    folder = paths.build_folder() / "runs" / key
    what = f"map of {key}"
    if key in stale:
        waits = all(change.kind == "away" for change in stale[key])
        return Item("map", path.name, what, stale[key] if waits else [_fault("its run is stale")], path)
    try:
        _, made_of = read_map(path)
    except InputError:
        return Item("map", path.name, what, [_fault("it is damaged")], path)
    if not folder.is_dir():
        return Item("map", path.name, what, [_fault("its run is gone")], path)
    try:
        here = map_inputs(files.read_sealed_json(folder / "manifest.json"))
    except InputError:
        return Item("map", path.name, what, [_fault("its run is damaged")], path)
    return Item("map", path.name, what, fresh.changes(made_of, here), path)


def _notebooks(study: Study) -> Iterator[Item]:
    from beyond_hard_labels.book import build

    root, executed = paths.project_folder(), paths.build_folder() / "executed"
    for name in build.notebooks_in_order(root):
        copy = executed / f"{name}.ipynb"
        why = build.why_stale(root / "notebooks" / f"{name}.ipynb", copy, study)
        yield Item("notebook", name, "", why, copy)


def as_json(found: list[Item]) -> dict:
    """Return everything in the store as plain values, with the totals in bytes."""
    rows = [
        {part: getattr(item, part) for part in ("kind", "name", "what", "state", "bytes")}
        | {"why": [fresh.told([change]) for change in item.why]}
        for item in found
    ]
    return {"items": rows, "bytes": _bytes(found), "stale_bytes": _bytes(removable(found))}


def as_text(found: list[Item]) -> str:
    """Return everything in the store as lines: state, name, size, what it is, and why it is stale."""
    lines = []
    for kind in KINDS:
        own = [item for item in found if item.kind == kind]
        lines += [f"{kind}s"] if own else []
        width = max((len(item.name) for item in own), default=0)
        for item in own:
            told = [item.what, fresh.told(item.why)]
            size = size_of([item]) if item.path.exists() else ""
            lines.append(
                f"  {item.state:7s}  {item.name:{width}s}  {size:>9s}  {': '.join(filter(None, told))}".rstrip()
            )
    counts = [f"{sum(item.state == state for item in found)} {state}" for state in ("fresh", "stale", "missing")]
    lines.append(f"{', '.join(counts)}; {size_of(found)} in all")
    if free := removable(found):
        lines.append(f"'bhl clean --stale' frees {size_of(free)}")
    return "\n".join(lines)


def size_of(found: list[Item]) -> str:
    """Return the size of some items for readers, in kB or MB of 1000."""
    size = _bytes(found)
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


def _bytes(found: list[Item]) -> int:
    return sum(item.bytes for item in found)


def removable(found: list[Item]) -> list[Item]:
    """Return what is stale and can be removed.

    Published runs belong to the project, notebooks are executed again, and what is stale only because
    its data are away counts again when they are back.
    """
    stale = [item for item in found if item.state == "stale" and item.kind in REMOVABLE]
    return [item for item in stale if not all(change.kind == "away" for change in item.why)]


def remove(found: list[Item]) -> None:
    """Remove items from the disk."""
    for item in found:
        if item.path.is_dir():
            shutil.rmtree(item.path)
        else:
            item.path.unlink()
