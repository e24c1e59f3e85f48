"""What the verbs of ``bhl`` do: each takes its options, prints what it found, and returns an exit code, if not 0."""

import json
import math
import re
import shlex
import sys
import time
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

from beyond_hard_labels.analysis import images, structure
from beyond_hard_labels.analysis.scores import scores
from beyond_hard_labels.base import files
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.parameters import parse
from beyond_hard_labels.base.paths import build_folder, published_folder
from beyond_hard_labels.base.process import TimeUp
from beyond_hard_labels.book import status as state
from beyond_hard_labels.data import dcic, known, sets, tables
from beyond_hard_labels.data import fetch as published_sets
from beyond_hard_labels.data.own import annotators, export_votes, import_votes
from beyond_hard_labels.learn.metrics import METRICS
from beyond_hard_labels.runs import fresh, grids, packing, publish, store
from beyond_hard_labels.runs.cluster import workers_of
from beyond_hard_labels.runs.ensure import ensure_specs, find_or_train
from beyond_hard_labels.runs.inputs import images_of
from beyond_hard_labels.runs.study import plan, require_generated, valid_parameters

OWN = ("votes_csv", "image_folder")  # parameters of the chapter on a reader's own votes, which a study has not


def _plan(arguments):
    """Return the study that a command's options ask for."""
    if (workers := getattr(arguments, "workers", None)) is not None and workers < 1:
        raise InputError(f"--workers is {workers}, expected at least 1")
    overrides = parse(valid_parameters(), arguments.set)
    if dataset := getattr(arguments, "dataset", None) or getattr(arguments, "name", None):
        overrides["dataset"] = dataset
    return plan(**{"profile": arguments.profile, **overrides})


def _deadline(arguments) -> float:
    if arguments.time_limit is None:
        return math.inf
    if not (match := re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", arguments.time_limit)):
        raise InputError(f"--time-limit is '{arguments.time_limit}', expected a number with s, m or h, for example 9m")
    return time.time() + float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def as_json(content) -> str:
    """Return JSON as the standard has it, which knows neither NaN nor infinity: null stands for them."""
    return json.dumps(json.loads(json.dumps(content), parse_constant=lambda _: None), indent=1)


def book(arguments) -> int | None:
    from beyond_hard_labels.book.build import BookError, make

    given = [pair.partition("=")[::2] for pair in arguments.set]
    own = {name: Path(path).expanduser() for name, path in given if name in OWN and path}
    arguments.set = [pair for pair in arguments.set if pair.partition("=")[0] not in OWN]
    for name in OWN if own else ():
        if name not in own or not own[name].exists():
            found = f"is '{own[name]}'" if name in own else "is missing"
            raise InputError(f"parameter '{name}' {found}, expected {' and '.join(OWN)}, two paths that exist")
    try:
        page = make(require_generated(_plan(arguments)), workers=arguments.workers, only=arguments.only, own=own)
    except BookError as error:
        print(f"bhl: {error}", file=sys.stderr)
        return 1
    print(f"The book is at {page}")


def verify(_) -> int:
    from beyond_hard_labels.book.verify import faults

    again, by_checksum, found = publish.published_faults()
    print(f"published runs: the scores of {again} computed again, {by_checksum} held against checksums only")
    checked, in_book = faults(build_folder() / "book")
    for line in found + in_book:
        print(f"bhl: {line}", file=sys.stderr)
    print(f"this book: {checked} outputs and pages made again; {len(found + in_book)} fault(s) in all")
    return 1 if found + in_book else 0


def compare(arguments) -> int:
    tolerances = dict(publish.TOLERANCES)
    for pair in arguments.tolerance:
        name, _, value = pair.partition("=")
        if name not in METRICS or not re.fullmatch(r"\d*\.?\d+", value):
            metrics = ", ".join(METRICS)
            raise InputError(f"--tolerance is '{pair}', expected METRIC=X with X at least 0, METRIC of {metrics}")
        tolerances[name] = float(value)
    folders = [folder / arguments.run for folder in (Path(), build_folder() / "runs", published_folder())]
    if not (there := [folder for folder in folders if folder.is_dir()]):
        raise InputError(f"there is no run '{arguments.run}', expected {' or '.join(map(str, folders))}")
    table, equal = publish.compare(store.load(there[0]), tolerances)
    within = table.pop("within").all()
    print(table.to_string(index=False))
    print("predictions equal to the last bit" if equal else "predictions differ in some bits")
    print("within the tolerances" if within else "NOT within the tolerances")
    return 0 if within else 1


def run(arguments) -> None:
    spec, epoch = _plan(arguments).spec(arguments.labels, arguments.split), arguments.epoch
    if epoch is not None and not 1 <= epoch <= spec.epochs:
        raise InputError(f"--epoch is {epoch}, expected 1 to {spec.epochs}")
    run, trained = find_or_train(spec, _deadline(arguments))
    values = run.metrics if epoch is None else run.validation(epoch)
    report = {"key": run.spec.key, "folder": str(run.folder), "trained": trained}
    report |= {"metrics": values} if epoch is None else {"epoch": epoch, "validation": values}
    lines = [f"{run.spec.key} {'trained' if trained else 'found'} in {run.folder}"]
    lines += [f"  {name:20s} {value:.4f}" for name, value in values.items()]
    print(as_json(report) if arguments.json else "\n".join(lines))


def study(arguments) -> None:
    if arguments.grid is not None:
        return _grid(arguments)
    for option in ("full", "dry_run"):
        if getattr(arguments, option):
            raise InputError(f"--{option.replace('_', '-')} is of a grid; expected --grid NAME with it")
    study = _plan(arguments)
    rows = scores(_ensured(arguments, study.specs())).rename(columns={"run": "key"})
    print(rows[["labels", "split", "key", "macro_accuracy", "kl"]].to_string(index=False))
    if arguments.publish:
        print(f"published {len(publish.publish(study))} runs in {published_folder()}")


def _ensured(arguments, specs: list) -> list:
    """Return the runs of some specs after training what is missing; pack them at the end or at the time limit."""
    address, deadline, pack = arguments.scheduler, _deadline(arguments), arguments.pack
    if address and arguments.workers:
        raise InputError("--workers is for this machine; expected without --scheduler")
    if pack is not None:
        packing.check(pack)  # before hours of training
    try:
        with workers_of(address) if address else nullcontext() as executor:
            found = ensure_specs(specs, workers=arguments.workers, deadline=deadline, executor=executor)
    except TimeUp:
        _pack(specs, pack)
        raise
    _pack(specs, pack)
    return found


def _pack(specs: list, path: str | None) -> None:
    if path is None:
        return
    packed = packing.pack(specs, path)
    folders = {name.rpartition("/")[0] for name in packed.names}
    runs, size = sum(name.startswith("runs/") for name in folders), sum(part.stat().st_size for part in packed.parts)
    what = f"packed {runs} run(s) and {len(folders) - runs} checkpoint(s), {size / 2**20:.1f} MiB, as"
    print(*[what, *packed.parts] if packed.parts else ["nothing to pack: no run is finished or begun"])
    if packed.left_out:
        print("left out for want of room:", ", ".join(packed.left_out))


def unpack(arguments) -> None:
    print("\n".join(f"{name}: {what}" for name, what in packing.unpack(arguments.parts).items()))


def _grid(arguments) -> None:
    if arguments.publish and not arguments.full:
        raise InputError("--publish is of the whole grid; expected --full with it")
    study, which = _plan(arguments), "full" if arguments.full else "slice"
    parts = grids.parts(arguments.grid, study, which=which)
    print(grids.plan_table(parts).to_string(index=False))
    for name, dataset in grids.left_out(arguments.grid).items():
        print(f"{name} is left out: {dataset} is not on this machine, bhl data fetch {dataset} brings it")
    if arguments.dry_run:
        print("nothing was trained")
        return
    specs = [spec for part in parts.values() for spec in part]
    try:
        _ensured(arguments, specs)
    finally:
        if arguments.publish:
            more = structure.by_run if arguments.grid == "structure" else None
            done = grids.publish(arguments.grid, study, more)
            folder = grids.grid_files(arguments.grid)[0].parent
            print(f"published in {folder}: {', '.join(done) or 'no part is whole yet'}")
    print(f"all {len(set(specs))} runs are here")


def status(arguments) -> None:
    found = state.items(_plan(arguments))
    print(as_json(state.as_json(found)) if arguments.json else state.as_text(found))


def clean(arguments) -> None:
    found = state.items()
    free, kept = state.removable(found)
    if arguments.run:
        free, kept = [item for key in dict.fromkeys(arguments.run) for item in state.of_run(found, key)], []
    for item in (*free, *kept):
        words = f"{item.kind} {item.name}, {state.size_of([item])}: {fresh.told(item.why) or 'fresh'}"
        if item in kept:
            words += f"; kept, since this machine lacks\n  {item.lacking} to make it again; "
            words += f"bhl clean --run {item.name.partition('-')[0]} removes it"
        print(words)
    print(f"{len(free)} {'of those named' if arguments.run else 'stale'}, {state.size_of(free)}", flush=True)
    for item in () if arguments.dry_run else free:
        files.remove(item.path)


def describe(arguments) -> None:
    found = images.describe(images_of(_plan(arguments).spec("soft", 0)))
    about = {} if arguments.name == sets.SYNTHETIC else published_sets.about(arguments.name)
    parts = ("title", "source", "fetched", "licence", "citation", "pixels")
    found |= {part: about[part] for part in parts if part in about}
    if arguments.json:
        print(as_json(found))
        return
    for name, value in found.items():
        parts = [f"{k} {v}" for k, v in value.items()] if isinstance(value, dict) else value
        words = ", ".join(map(str, parts)) if isinstance(parts, list) else "not defined" if parts is None else parts
        print(f"{name.replace('_', ' '):16s} {words}")


def fetch(arguments) -> None:
    fetched = published_sets.fetch(arguments.name, arguments.origin, tuple(arguments.sha256))
    path = sets.folders()[1] / f"{arguments.name}.npz"
    about = sets.record(path)
    print(f"{path} {'is made' if fetched else 'is there already; remove it to fetch it again'}")
    if about:
        print(f"{about['images']} images, {about['votes']} votes, {len(about['classes'])} classes")
    for file, digest in about.get("sha256", {}).items():
        print(f"{about['source'][file]}\n  sha256 {digest}")
    published = known.SETS[arguments.name]
    print(f"as published: {published.title}\nlicence: {published.licence}\ncitation: {published.citation}")


def import_set(arguments) -> None:
    given = {one.name: getattr(arguments, one.name) for one in fields(tables.Options)}
    options = tables.Options(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})
    said = import_votes(
        arguments.name, arguments.votes, arguments.images, arguments.image_size, options, dry_run=arguments.dry_run
    )
    if arguments.json:
        print(json.dumps(said))
        return
    print("\n".join(f"{what + ':':26s}{found}" for what, found in said))
    if not arguments.dry_run:
        data = sets.read(arguments.name)
        path = sets.locate(arguments.name)
        print(f"{len(data.ids)} images, {data.votes.sum()} votes, {len(data.class_names)} classes, in {path}")


def export(arguments) -> None:
    if arguments.name != sets.SYNTHETIC:
        data = sets.read(arguments.name)
        folder = export_votes(data, annotators(arguments.name), arguments.folder, arguments.format)
        print(f"{len(data.ids)} images, {data.votes.sum()} votes, in {folder}; to import them again:")
        table, inner = ("votes.csv", "images") if arguments.format == "long" else ("annotations.json", ".")
        again = ["bhl", "data", "import", data.name, "--votes", str(folder / table), "--images", str(folder / inner)]
        again += ["--image-size", str(data.images.shape[2]), "--classes", ",".join(data.class_names)]
        print(shlex.join(again))
        return
    data = images_of(_plan(arguments).spec("soft", 0))
    folder = dcic.export(data, arguments.folder, n_votes=arguments.votes, seed=0)
    print(f"{len(data.ids)} images, {arguments.votes} votes each, in {folder}")
