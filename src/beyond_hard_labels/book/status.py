"""What is in the store: what is fresh, what is stale and exactly why, and what may be removed.

Nothing is decided here: `fresh.changes` says why something does not count any more, and this module asks it about
everything that lies in the build folder.
"""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import execution
from beyond_hard_labels.book.build import notebooks_in_order
from beyond_hard_labels.data import sets
from beyond_hard_labels.runs import fresh, store
from beyond_hard_labels.runs.fresh import Change
from beyond_hard_labels.runs.maps import map_inputs, read_map
from beyond_hard_labels.runs.spec import RunSpec, other_fields
from beyond_hard_labels.runs.study import Study

REMOVABLE = ("run", "checkpoint", "map", "leftover")
_BEING_WRITTEN = 3600  # seconds in which what has a temporary name may still be written by someone


class Item(NamedTuple):
    """Something in the store, or something of a study that should be there."""

    kind: str  # of `REMOVABLE`, or published run, notebook
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
        return sum(path.stat().st_size for path in [self.path, *self.path.rglob("*")] if path.is_file())


def items(study: Study | None = None) -> list[Item]:
    """Return everything in the store; of a study also its notebooks, and its runs that are missing."""
    build = paths.build_folder()
    runs = {path.name: _run("run", path) for path in sorted((build / "runs").glob("[!.]*"))}
    found = [*runs.values(), *(_run("published run", p.parent) for p in paths.published_folder().glob("*/spec.json"))]
    if study is not None:
        here, never = {item.name for item in found}, [Change("record", "it was not trained yet")]
        missing = [spec for spec in study.specs() if spec.key not in here]
        found += [Item("run", spec.key, _words(spec), never, build / "runs" / spec.key) for spec in missing]
    found.sort(key=lambda item: (item.kind != "run", item.what, item.name))
    found += [_run("checkpoint", path) for path in sorted((build / "checkpoints").glob("[!.]*"))]
    found += [_map(path, runs.get(path.name.partition("-")[0])) for path in sorted((build / "maps").glob("[!.]*"))]
    if study is not None:
        root, copies = paths.project_folder(), build / "executed"
        for source in [root / "notebooks" / f"{name}.ipynb" for name in notebooks_in_order(root)]:
            why = execution.why_stale(source, copies / source.name, study)
            found.append(Item("notebook", source.stem, "", why, copies / source.name))
    begun = [path for kind in ("runs", "checkpoints", "maps") for path in sorted((build / kind).glob(".*"))]
    old = [path for path in begun if time.time() - path.stat().st_mtime > _BEING_WRITTEN]
    left = dict.fromkeys(old, "its writing was never finished")
    left |= dict.fromkeys(sorted((build / "damaged").glob("*")), "it is damaged and was set aside")
    return found + [Item("leftover", path.name, "", [Change("record", why)], path) for path, why in left.items()]


def _run(kind: str, folder: Path) -> Item:
    """Return a run, or the newest checkpoint of one, whatever version of this package wrote it."""
    what, lacking = "", "a spec that can be read, which says what it is made of"
    try:
        record = files.read_sealed_json(max(folder.glob("*.json"))) if kind == "checkpoint" else {}
        values = record["spec"] if record else json.loads((folder / "spec.json").read_text("utf-8"))
        here = SimpleNamespace(**values)
        away = here.dataset not in sets.names()
        lacking = "" if fresh.can_train(here) else f"the set {here.dataset}" if away else "a GPU"
        if other := other_fields(values):
            raise InputError(f"spec fields changed: {other}")
        spec = RunSpec(**values)
        what = _words(spec)
        if record:
            why = fresh.changes(record, fresh.provenance(spec))
        else:
            why = (store.outdated if kind == "run" else store.differences)(store.load(folder))
        if kind == "published run":  # other versions, and data that are not here, make it no less true
            why = [change for change in why if change.kind not in ("away", "version")]
        if spec.key != folder.name:
            why.append(Change("record", f"its spec is that of {spec.key}"))
    except InputError as error:
        why = [Change("record", str(error).replace(f"the run in {folder.resolve()}", "it"))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = [Change("record", f"it cannot be read ({type(error).__name__}: {error})")]
    return Item(kind, folder.name, what, why, folder, lacking)


def _words(spec: RunSpec) -> str:
    words = f"{spec.dataset}, {spec.labels} labels, split {spec.split}, {spec.backbone}, epochs {spec.epochs}"
    words += f", {spec.train_share:.0%} of the training images" if spec.train_share < 1 else ""
    return words + (f", {spec.votes_per_image} votes an image" if spec.votes_per_image else "")


def _map(path: Path, run: Item | None) -> Item:
    """Return a t-SNE map; it is made again if its run is, and waits for data or a GPU as its run does."""
    try:
        _, made_of = read_map(path)
        if run is None:
            why = [Change("record", "its run is gone")]
        elif run.why:
            waits = all(change.kind == "away" for change in run.why)
            why = run.why if waits else [Change("record", "its run is stale")]
        else:
            why = fresh.changes(made_of, map_inputs(files.read_sealed_json(run.path / "manifest.json")))
    except InputError:
        why, run = [Change("record", "it is damaged")], None
    return Item("map", path.name, f"map of {path.name.partition('-')[0]}", why, path, run.lacking if run else "")


def as_json(found: list[Item]) -> list[dict]:
    """Return everything in the store as plain values."""
    shown = ("kind", "name", "what", "state", "bytes", "lacking")
    return [{part: getattr(item, part) for part in shown} | {"why": fresh.told(item.why)} for item in found]


def as_text(found: list[Item]) -> str:
    """Return everything in the store as lines: state, kind, name, size, what it is, and why it is stale."""
    lines = []
    for item in found:
        told = ": ".join(filter(None, [item.what, fresh.told(item.why)]))
        lines.append(f"{item.state:7s}  {item.kind:13s}  {item.name:24s}  {size_of([item]):>9s}  {told}".rstrip())
    states = [item.state for item in found]
    counts = [f"{states.count(state)} {state}" for state in ("fresh", "stale", "missing")]
    lines.append(f"{', '.join(counts)}; {size_of(found)} in all")
    free, _ = removable(found)
    return "\n".join([*lines, f"'bhl clean --stale' frees {size_of(free)}"] if free else lines)


def size_of(found: list[Item]) -> str:
    """Return the size of some items for readers, in kB or MB of 1000."""
    size = sum(item.bytes for item in found)
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


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
