"""What the verbs of ``bhl`` do: each takes its options, prints what it found, and returns an exit code."""

import json
import math
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from beyond_hard_labels.analysis.scores import scores
from beyond_hard_labels.base import files
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.parameters import parse
from beyond_hard_labels.base.paths import build_folder, published_folder
from beyond_hard_labels.base.process import TimeUp
from beyond_hard_labels.book import status as state
from beyond_hard_labels.data import fetch as published_sets
from beyond_hard_labels.data import known, sets
from beyond_hard_labels.learn.metrics import METRICS
from beyond_hard_labels.runs import fresh, grids, packing, publish, store
from beyond_hard_labels.runs.ensure import ensure_specs, find_or_train
from beyond_hard_labels.runs.inputs import images_of
from beyond_hard_labels.runs.study import plan, require_generated, valid_parameters

OWN = ("votes_csv", "image_folder")  # parameters of the chapter on a reader's own votes, which a study has not


def _fault(line: str) -> int:
    print(f"bhl: {line}", file=sys.stderr)
    return 1


def _plan(arguments, own: tuple[str, ...] = ()):
    """Return the study that a command's options ask for; parameters named in `own` are not the study's."""
    overrides = parse(valid_parameters(), [pair for pair in arguments.set if pair.partition("=")[0] not in own])
    if dataset := getattr(arguments, "dataset", None) or getattr(arguments, "name", None):
        overrides["dataset"] = dataset
    return plan(**{"profile": arguments.profile, **overrides})


def _own(arguments) -> dict[str, str]:
    """Return a reader's own files, which must be there, as whole paths: notebooks run in another folder."""
    given = dict(pair.split("=", 1) for pair in arguments.set if pair.startswith(tuple(f"{name}=" for name in OWN)))
    if given and (missing := [name for name in OWN if not given.get(name)]):
        raise InputError(f"parameter '{missing[0]}' is missing, expected {' and '.join(OWN)} together")
    for name, path in given.items():
        if not Path(path).expanduser().exists():
            raise InputError(f"parameter '{name}' is '{path}', expected a path that exists")
    return {name: str(Path(path).expanduser().resolve()) for name, path in given.items()}


def _deadline(arguments) -> float:
    return time.time() + (_seconds("--time-limit", arguments.time_limit) if arguments.time_limit else math.inf)


def _seconds(option: str, text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match:
        raise InputError(f"{option} is '{text}', expected a number with s, m or h, for example 9m")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _check_workers(arguments) -> int | None:
    if arguments.workers is not None and arguments.workers < 1:
        raise InputError(f"--workers is {arguments.workers}, expected at least 1")
    return arguments.workers


def print_json(content) -> None:
    """Print JSON as the standard has it, which knows neither NaN nor infinity: null stands for them."""

    def finite(value):
        if isinstance(value, dict):
            return {name: finite(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [finite(part) for part in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    print(json.dumps(finite(content), indent=1, allow_nan=False))


def book(arguments) -> int:
    from beyond_hard_labels.book.build import BookError, make

    own = _own(arguments)
    study, timeout = require_generated(_plan(arguments, OWN)), _seconds("--cell-timeout", arguments.cell_timeout)
    try:
        page = make(study, workers=_check_workers(arguments), only=arguments.only, cell_timeout=timeout, own=own)
    except BookError as error:
        return _fault(str(error))
    print(f"The book is at {page}")
    return 0


def verify(arguments) -> int:
    from beyond_hard_labels.book.verify import faults

    again, by_checksum, found = publish.published_faults()
    print(f"published runs: the scores of {again} computed again, {by_checksum} held against checksums only")
    for line in found:
        _fault(line)
    checked, in_book = faults(build_folder() / "book")
    for line in in_book:
        _fault(line)
    total = len(found) + len(in_book)
    print(f"this book: {checked} outputs and pages made again; {total} fault(s) in all")
    return 1 if total else 0


def compare(arguments) -> int:
    given = {}
    for pair in arguments.tolerance:
        name, _, value = pair.partition("=")
        if name not in METRICS or not re.fullmatch(r"\d*\.?\d+", value):
            metrics = ", ".join(METRICS)
            raise InputError(f"--tolerance is '{pair}', expected METRIC=X with X at least 0, METRIC of {metrics}")
        given[name] = float(value)
    places = [folder / arguments.run for folder in (Path(), build_folder() / "runs", published_folder())]
    if not (there := [folder for folder in places if folder.is_dir()]):
        where = f"{places[1].parent} or {places[2].parent}"
        raise InputError(f"there is no run '{arguments.run}', expected a folder, or a key in {where}")
    table, equal = publish.compare(store.load(there[0]), publish.TOLERANCES | given)
    within = table["within"].all()
    print(table.drop(columns="within").to_string(index=False))
    print("predictions equal to the last bit" if equal else "predictions differ in some bits")
    print("within the tolerances" if within else "NOT within the tolerances")
    return 0 if within else 1


def run(arguments) -> int:
    spec, epoch = _plan(arguments).spec(arguments.labels, arguments.split), arguments.epoch
    if epoch is not None and not 1 <= epoch <= spec.epochs:
        raise InputError(f"--epoch is {epoch}, expected 1 to {spec.epochs}")
    run, trained = find_or_train(spec, _deadline(arguments))
    values = run.metrics if epoch is None else run.validation(epoch)
    if arguments.json:
        report = {"key": run.spec.key, "folder": str(run.folder), "trained": trained}
        print_json(report | ({"metrics": values} if epoch is None else {"epoch": epoch, "validation": values}))
    else:
        print(f"{run.spec.key} {'trained' if trained else 'found'} in {run.folder}")
        for name, value in values.items():
            print(f"  {name:20s} {value:.4f}")
    return 0


def study(arguments) -> int:
    if arguments.grid is not None:
        return _grid(arguments)
    for option in ("full", "dry_run"):
        if getattr(arguments, option):
            raise InputError(f"--{option.replace('_', '-')} is of a grid; expected --grid NAME with it")
    study = _plan(arguments)
    with _packing(study.specs(), arguments.pack):
        found = _ensured(arguments, study.specs())
    print(
        scores(found)
        .rename(columns={"run": "key"})[["labels", "split", "key", "macro_accuracy", "kl"]]
        .to_string(index=False)
    )
    if arguments.publish:
        print(f"published {len(publish.publish(study))} runs in {published_folder()}")
    return 0


def _ensured(arguments, specs: list) -> list:
    """Return the runs of some specs after training what is missing, here or on a cluster."""
    workers, deadline = _check_workers(arguments), _deadline(arguments)
    if not arguments.scheduler:
        return ensure_specs(specs, workers=workers, deadline=deadline)
    if workers:
        raise InputError("--workers is for this machine; expected without --scheduler")
    from beyond_hard_labels.runs.cluster import workers_of

    with workers_of(arguments.scheduler) as executor:
        return ensure_specs(specs, deadline=deadline, executor=executor)


@contextmanager
def _packing(specs: list, path: str | None):
    """Pack the runs of a study or a grid when it ends, or stops at its time limit; without a path do nothing."""
    if path is None:
        yield
        return
    packing.check(path)  # before hours of training
    stopped = None
    try:
        yield
    except TimeUp as error:
        stopped = error
    packed = packing.pack(specs, path)
    counts = [len({name.split("/")[1] for name in packed.names if name.startswith(k)}) for k in ("runs", "check")]
    size = sum(part.stat().st_size for part in packed.parts) / 2**20
    what = f"{counts[0]} run(s) and {counts[1]} checkpoint(s), {size:.1f} MiB, as"
    print(*(["packed", what, *packed.parts] if packed.parts else ["nothing to pack: no run is finished or begun"]))
    if packed.left_out:
        print("left out for want of room:", ", ".join(packed.left_out))
    if stopped:
        raise stopped


def unpack(arguments) -> int:
    for name, what in packing.unpack(arguments.parts).items():
        print(f"{name}: {what}")
    return 0


def _grid(arguments) -> int:
    if arguments.publish and not arguments.full:
        raise InputError("--publish is of the whole grid; expected --full with it")
    study, which = _plan(arguments), "full" if arguments.full else "slice"
    parts = grids.parts(arguments.grid, study, which=which)
    print(grids.plan_table(parts).to_string(index=False))
    for name, dataset in grids.left_out(arguments.grid).items():
        print(f"{name} is left out: {dataset} is not on this machine, bhl data fetch {dataset} brings it")
    if arguments.dry_run:
        print("nothing was trained")
        return 0
    specs = [spec for part in parts.values() for spec in part]
    try:
        with _packing(specs, arguments.pack):
            _ensured(arguments, specs)
    finally:
        if arguments.publish:
            done = grids.publish(arguments.grid, study)
            folder = grids.grid_files(arguments.grid)[0].parent
            print(f"published in {folder}: {', '.join(done) or 'no part is whole yet'}")
    print(f"all {len(set(specs))} runs are here")
    return 0


def status(arguments) -> int:
    found = state.items(_plan(arguments))
    if arguments.json:
        print_json(state.as_json(found))
    else:
        print(state.as_text(found))
    return 0


def clean(arguments) -> int:
    found = state.items()
    free, kept = state.removable(found)
    if arguments.run:
        free, kept = [item for key in dict.fromkeys(arguments.run) for item in state.of_run(found, key)], []
    for item in free:
        print(f"{item.kind} {item.name}, {state.size_of([item])}: {fresh.told(item.why) or 'fresh'}")
    for item in kept:
        key = item.name.partition("-")[0]
        print(
            f"{item.kind} {item.name}, {state.size_of([item])}: {fresh.told(item.why)}; kept, since this machine lacks"
        )
        print(f"  {item.lacking} to make it again; bhl clean --run {key} removes it")
    print(f"{len(free)} {'of those named' if arguments.run else 'stale'}, {state.size_of(free)}", flush=True)
    for item in () if arguments.dry_run else free:
        files.remove(item.path)
    return 0


def describe(arguments) -> int:
    from beyond_hard_labels.analysis.images import describe

    described = describe(images_of(_plan(arguments).spec("soft", 0)))
    if arguments.name != sets.SYNTHETIC:
        about = published_sets.about(arguments.name)
        parts = ("title", "source", "fetched", "licence", "citation", "pixels")
        described |= {part: about[part] for part in parts if part in about}
    if arguments.json:
        print_json(described)
    else:
        for name, value in described.items():
            print(f"{name:16s} {value}")
    return 0


def fetch(arguments) -> int:
    fetched = published_sets.fetch(arguments.name, arguments.origin, tuple(arguments.sha256))
    path = sets.folders()[1] / f"{arguments.name}.npz"
    about = published_sets.record(path)
    print(f"{path} {'is made' if fetched else 'is there already; remove it to fetch it again'}")
    if about:
        print(f"{about['images']} images, {about['votes']} votes, {len(about['classes'])} classes")
    for file, digest in about.get("sha256", {}).items():
        print(f"{about['source'][file]}\n  sha256 {digest}")
    published = known.SETS[arguments.name]
    print(f"as published: {published.title}\nlicence: {published.licence}\ncitation: {published.citation}")
    return 0


def import_set(arguments) -> int:
    from beyond_hard_labels.data.own import import_votes

    path = import_votes(arguments.name, arguments.votes, arguments.images, arguments.image_size)
    data = sets.read(arguments.name)
    print(f"{len(data.ids)} images, {data.votes.sum()} votes, {len(data.class_names)} classes, in {path}")
    return 0


def export(arguments) -> int:
    from beyond_hard_labels.data.dcic import export

    data = images_of(_plan(arguments).spec("soft", 0))
    if data.votes is not None:
        raise InputError(f"{data.name} has real votes, and export simulates them; expected synthetic")
    folder = export(data, arguments.folder, n_votes=arguments.votes, seed=arguments.votes_seed)
    print(f"{len(data.ids)} images, {arguments.votes} votes each (seed {arguments.votes_seed}), in {folder}")
    return 0


VERBS = {
    **{"book": book, "verify": verify, "compare": compare, "run": run, "study": study, "unpack": unpack},
    **{"status": status, "clean": clean, "describe": describe, "fetch": fetch, "import": import_set, "export": export},
}
