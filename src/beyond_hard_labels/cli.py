"""The command ``bhl``, also ``python -m beyond_hard_labels``."""

import argparse
import json
import math
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from beyond_hard_labels import __version__
from beyond_hard_labels.base.errors import InputError

UNFINISHED = 75  # exit code of a study that the time limit stopped; calling again goes on
_KEPT = "what was done is kept, the same command goes on"


_FETCH_HELP = """\
published sets, those with (DCIC) from the authors' benchmark:
{sets}

The files are downloaded, compared with their checksums and made into one file NAME.npz in the data
cache: the folder that BHL_DATA_DIR names, or the platform's for caches. A set that is there is not
downloaded again. Then take it with --set dataset=NAME. Mind the licence, which is printed.

examples:
  bhl data fetch fashion_mnist_h
  bhl data fetch micebone --from ~/Downloads/MiceBone.zip
  bhl study --set dataset=fashion_mnist_h
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed, 2 bad input, 75 time is up, 130 or 143 stopped."""
    arguments = _parser().parse_args(argv)
    from concurrent.futures.process import BrokenProcessPool

    from beyond_hard_labels.base.files import Unwritten
    from beyond_hard_labels.base.process import TERMINATED, Terminated, TimeUp, stoppable

    try:
        with stoppable():
            return arguments.command(arguments)
    except InputError as error:
        print(f"bhl: error: {error}", file=sys.stderr)
        return 2
    except TimeUp as error:
        print(f"bhl: {error}", file=sys.stderr)
        return UNFINISHED
    except Unwritten as error:
        print(f"bhl: error: {error}", file=sys.stderr)
        return 1
    except BrokenProcessPool:
        print(f"bhl: error: a process died: killed, or out of memory; {_KEPT}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"bhl: interrupted; {_KEPT}", file=sys.stderr)
        return 130
    except Terminated:
        print(f"bhl: told to stop; {_KEPT}", file=sys.stderr)
        return TERMINATED


def _parser() -> argparse.ArgumentParser:
    from beyond_hard_labels.data import known

    parser = argparse.ArgumentParser(
        prog="bhl",
        description="Reproduce 'Beyond Hard Labels': train on hard and on soft labels, compare, build the book.",
        epilog="Exit codes: 0 done, 1 failed, 2 bad input; 75 stopped at the time limit, 130 by Ctrl-C, 143 by SIGTERM "
        "(call again to go on).",
    )
    parser.add_argument("--version", action="version", version=f"bhl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    book = _add(commands, "book", _book, "execute the notebooks and build the pages under build/book")
    _add_study_options(book)
    _add_workers(book)
    book.add_argument("--only", metavar="NOTEBOOK", help="execute this one only, e.g. 03_training; keep the others")

    book.add_argument("--cell-timeout", default="1h", metavar="1h", help="what one cell may take (s, m or h)")

    verify = "compute again, from stored predictions, every number of the built book and every published score"
    _add(commands, "verify", _verify, verify)

    compare = _add(commands, "compare", _compare, "train a stored run once more and compare the results")
    compare.add_argument("run", metavar="RUN", help="key of a run, or its folder")
    compare.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="METRIC=X",
        help="largest difference of a metric, repeatable (default macro_accuracy=0.02 and kl=0.02)",
    )

    run = _add(commands, "run", _run, "train one run, or find it")
    run.add_argument("--dataset", required=True, metavar="NAME", help="synthetic, or a set that is a file")
    run.add_argument(
        "--labels", required=True, metavar="KIND", help="hard (majority), soft (mean), or a mixture of them"
    )
    run.add_argument("--split", required=True, type=int, metavar="K", help="number of the random split, from 0")
    run.add_argument("--epoch", type=int, metavar="E", help="print the validation metrics after this epoch instead")
    run.add_argument("--json", action="store_true", help="print key, folder, trained and metrics as JSON")
    _add_study_options(run)
    _add_time_limit(run)

    study = _add(commands, "study", _study, "train what is missing of all runs: both kinds of label, all splits")
    _add_study_options(study)
    _add_workers(study)
    study.add_argument(
        "--scheduler", metavar="ADDRESS", help="train on the workers of a dask scheduler, such as tcp://host:8786"
    )
    study.add_argument("--grid", metavar="NAME", help="train a grid of runs beyond the paper instead, such as when")
    study.add_argument("--full", action="store_true", help="the whole of that grid, not the slice that the book trains")
    study.add_argument("--publish", action="store_true", help="write what is finished to results, for the book")
    study.add_argument("--dry-run", action="store_true", help="say what the grid would take, and train nothing")
    _add_time_limit(study)
    study.add_argument(
        "--pack", metavar="FILE", help="at the end, or at the time limit, pack its runs as FILE.0.zip, FILE.1.zip, ..."
    )

    unpack = _add(commands, "unpack", _unpack, "put the runs of a pack into the store, after every checksum")
    unpack.add_argument("parts", nargs="+", metavar="FILE", help="all parts of the pack: FILE.0.zip FILE.1.zip ...")

    status = _add(commands, "status", _status, "say of every run, map and notebook whether it is fresh, or why not")
    status.add_argument("--json", action="store_true", help="print as JSON")
    _add_study_options(status)

    clean = _add(commands, "clean", _clean, "remove what is stale from the build folder, after saying how much")
    clean.add_argument("--stale", action="store_true", required=True, help="what 'bhl status' calls stale")
    clean.add_argument("--dry-run", action="store_true", help="say it only")

    data = _add(commands, "data", None, "look at a set of images, fetch a published one, make or export one")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    describe = _add(actions, "describe", _describe, "print size, moments, classes and ambiguity of a set")
    describe.add_argument("name", metavar="NAME", help="synthetic, or a set that is a file")
    describe.add_argument("--json", action="store_true", help="print as JSON")
    _add_study_options(describe)
    published = _add(actions, "fetch", _fetch, "get a published set of images and votes")
    published.formatter_class = argparse.RawDescriptionHelpFormatter
    listed = "\n".join(f"  {name:18s} {found.words}" for name, found in known.SETS.items())
    published.epilog = _FETCH_HELP.format(sets=listed)
    published.add_argument("name", metavar="NAME", help="one of those below")
    published.add_argument(
        "--from",
        dest="origin",
        metavar="PATH|URL",
        help="take the files from a folder, a file, or below an address (default: where they are published)",
    )
    published.add_argument(
        "--sha256",
        action="append",
        default=[],
        metavar="HASH",
        help="take a file with this checksum although another one is expected, repeatable",
    )
    own = _add(actions, "import", _import, "make a set of a CSV file of votes and a folder of images")
    own.add_argument("name", metavar="NAME", help="name of the new set; replaces one made before")
    own.add_argument(
        "--votes",
        required=True,
        metavar="FILE",
        help="one row a vote (image,label; further columns are left out), or one an image (image, counts per class)",
    )
    own.add_argument("--images", required=True, metavar="DIR", help="folder that the names of images are relative to")
    own.add_argument("--image-size", type=int, default=32, metavar="PX", help="side that all get (default 32)")
    export = _add(actions, "export", _export, "write a set in the folder format of DCIC, with simulated votes")
    export.add_argument("name", metavar="NAME", help="synthetic")
    export.add_argument("folder", metavar="DIR", help="the set goes to DIR/Synthetic, which must not exist")
    export.add_argument("--votes", type=int, default=100, metavar="N", help="annotators (default 100)")
    export.add_argument("--votes-seed", type=int, default=0, metavar="SEED", help="seed of the votes (default 0)")
    _add_study_options(export)
    return parser


def _add(commands, name: str, function, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=function)
    return parser


def _add_study_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="quick", metavar="P", help="smoke, quick (default) or paper")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one parameter of the profile, repeatable; an unknown key lists the valid ones",
    )


def _add_time_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--time-limit", metavar="9m", help="save and stop after this long (s, m or h)")


def _deadline(arguments) -> float:
    return time.time() + (_seconds("--time-limit", arguments.time_limit) if arguments.time_limit else math.inf)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, metavar="N", help="processes that train (default: the cores)")


def _plan(arguments):
    from beyond_hard_labels.base.parameters import parse
    from beyond_hard_labels.runs.study import plan, valid_parameters

    overrides = parse(valid_parameters(), arguments.set)
    if dataset := getattr(arguments, "dataset", None) or getattr(arguments, "name", None):
        overrides["dataset"] = dataset
    return plan(**{"profile": arguments.profile, **overrides})


def _check_workers(arguments) -> int | None:
    if arguments.workers is not None and arguments.workers < 1:
        raise InputError(f"--workers is {arguments.workers}, expected at least 1")
    return arguments.workers


def _book(arguments) -> int:
    from beyond_hard_labels.book.build import BookError, make
    from beyond_hard_labels.runs.study import require_generated

    study = require_generated(_plan(arguments))
    try:
        timeout = _seconds("--cell-timeout", arguments.cell_timeout)
        page = make(study, workers=_check_workers(arguments), only=arguments.only, cell_timeout=timeout)
    except BookError as error:
        print(f"bhl: {error}", file=sys.stderr)
        return 1
    print(f"The book is at {page}")
    return 0


def _verify(arguments) -> int:
    from beyond_hard_labels.base.paths import build_folder
    from beyond_hard_labels.book.verify import faults, published_faults

    again, by_checksum, found = published_faults()
    print(f"published runs: the scores of {again} computed again, {by_checksum} held against checksums only")
    for line in found:
        print(f"bhl: {line}", file=sys.stderr)
    checked, in_book = faults(build_folder() / "book")
    for line in in_book:
        print(f"bhl: {line}", file=sys.stderr)
    found += in_book
    print(f"this book: {checked} printed numbers and tables computed again; {len(found)} fault(s) in all")
    return 1 if found else 0


def _compare(arguments) -> int:
    from beyond_hard_labels.base.paths import build_folder, published_folder
    from beyond_hard_labels.learn.metrics import METRICS
    from beyond_hard_labels.runs.store import load

    given = {}
    for pair in arguments.tolerance:
        name, _, value = pair.partition("=")
        if name not in METRICS or not re.fullmatch(r"\d*\.?\d+", value):
            metrics = ", ".join(METRICS)
            raise InputError(f"--tolerance is '{pair}', expected METRIC=X with X at least 0, METRIC of {metrics}")
        given[name] = float(value)
    folder = Path(arguments.run)
    if not folder.is_dir():
        folder = build_folder() / "runs" / arguments.run
    published = published_folder() / arguments.run
    if not folder.is_dir() and not published.is_dir():
        raise InputError(
            f"there is no run '{arguments.run}', expected a folder, or a key in {folder.parent} or {published.parent}"
        )
    from beyond_hard_labels.book.verify import TOLERANCES, compare

    table, within, equal = compare(load(folder if folder.is_dir() else published), TOLERANCES | given)
    print(table.to_string(index=False))
    print("predictions equal to the last bit" if equal else "predictions differ in some bits")
    print("within the tolerances" if within else "NOT within the tolerances")
    return 0 if within else 1


def _run(arguments) -> int:
    from beyond_hard_labels.runs.ensure import find_or_train

    spec, epoch = _plan(arguments).spec(arguments.labels, arguments.split), arguments.epoch
    if epoch is not None and not 1 <= epoch <= spec.epochs:
        raise InputError(f"--epoch is {epoch}, expected 1 to {spec.epochs}")
    run, trained = find_or_train(spec, _deadline(arguments))
    values = run.metrics if epoch is None else run.validation(epoch)
    if arguments.json:
        report = {"key": run.spec.key, "folder": str(run.folder), "trained": trained}
        report |= {"metrics": values} if epoch is None else {"epoch": epoch, "validation": values}
        print(json.dumps(report, indent=1))
    else:
        print(f"{run.spec.key} {'trained' if trained else 'found'} in {run.folder}")
        for name, value in values.items():
            print(f"  {name:20s} {value:.4f}")
    return 0


def _study(arguments) -> int:
    from beyond_hard_labels.base.paths import published_folder
    from beyond_hard_labels.book.report import scores

    if arguments.grid is not None:
        return _grid(arguments)
    for option in ("full", "dry_run"):
        if getattr(arguments, option):
            raise InputError(f"--{option.replace('_', '-')} is of a grid; expected --grid NAME with it")
    study = _plan(arguments)
    with _packing(study.specs(), arguments.pack):
        found = _ensured(arguments, study.specs())
    print(scores(found)[["labels", "split", "key", "macro_accuracy", "kl"]].to_string(index=False))
    if arguments.publish:
        from beyond_hard_labels.runs.publish import publish

        print(f"published {len(publish(study))} runs in {published_folder()}")
    return 0


def _ensured(arguments, specs: list) -> list:
    """Return the runs of some specs after training what is missing, here or on a cluster."""
    from beyond_hard_labels.runs.ensure import ensure_specs

    workers, deadline = _check_workers(arguments), _deadline(arguments)
    if not arguments.scheduler:
        return ensure_specs(specs, workers=workers, deadline=deadline)
    if workers:
        raise InputError("--workers is for this machine; expected without --scheduler")
    from beyond_hard_labels.runs.cluster import workers_of

    with workers_of(arguments.scheduler, specs) as executor:
        return ensure_specs(specs, deadline=deadline, executor=executor)


@contextmanager
def _packing(specs: list, path: str | None):
    """Pack the runs of a study or a grid when it ends, or stops at its time limit; without a path do nothing."""
    if path is None:
        yield
        return
    from beyond_hard_labels.base.process import TimeUp
    from beyond_hard_labels.runs import packing

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


def _unpack(arguments) -> int:
    from beyond_hard_labels.runs import packing

    for name, what in packing.unpack(arguments.parts).items():
        print(f"{name}: {what}")
    return 0


def _grid(arguments) -> int:
    import os

    from beyond_hard_labels.runs import grids

    if arguments.publish and not arguments.full:
        raise InputError("--publish is of the whole grid; expected --full with it")
    study, which = _plan(arguments), "full" if arguments.full else "slice"
    workers = _check_workers(arguments)
    parts = grids.parts(arguments.grid, study, which=which)
    left_out = grids.left_out(arguments.grid)
    cores = workers or len(os.sched_getaffinity(0))
    print(grids.plan_table(parts, workers=cores).to_string(index=False))
    for name, dataset in left_out.items():
        print(f"{name} is left out: {dataset} is not on this machine, bhl data fetch {dataset} brings it")
    if arguments.dry_run:
        print(f"minutes are an estimate for {cores} core(s); nothing was trained")
        return 0
    try:
        specs = [spec for part in parts.values() for spec in part]
        with _packing(specs, arguments.pack):
            _ensured(arguments, specs)
    finally:
        if arguments.publish:
            done = grids.publish(arguments.grid, study)
            print(f"published in {grids.paths(arguments.grid)[0].parent}: {', '.join(done) or 'no part is whole yet'}")
    print(f"all {len(set(specs))} runs are here")
    return 0


def _status(arguments) -> int:
    from beyond_hard_labels.book import status

    found = status.items(_plan(arguments))
    print(json.dumps(status.as_json(found), indent=1) if arguments.json else status.as_text(found))
    return 0


def _clean(arguments) -> int:
    from beyond_hard_labels.book import status

    found = status.removable(status.items())
    for item in found:
        print(f"{item.kind} {item.name}, {status.size_of([item])}: {'; '.join(item.why)}")
    print(f"{len(found)} stale, {status.size_of(found)}", flush=True)
    if not arguments.dry_run:
        status.remove(found)
    return 0


def _seconds(option: str, text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match:
        raise InputError(f"{option} is '{text}', expected a number with s, m or h, for example 9m")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _describe(arguments) -> int:
    from beyond_hard_labels.book.report import describe
    from beyond_hard_labels.data import fetch, sets
    from beyond_hard_labels.runs.inputs import images_of

    described = describe(images_of(_plan(arguments).spec("soft", 0)))
    if arguments.name != sets.SYNTHETIC:
        about = fetch.about(arguments.name)
        described |= {
            part: about[part]
            for part in ("title", "source", "fetched", "licence", "citation", "pixels")
            if part in about
        }
    if arguments.json:
        print(json.dumps(described, indent=1))
    else:
        for name, value in described.items():
            print(f"{name:16s} {value}")
    return 0


def _fetch(arguments) -> int:
    from beyond_hard_labels.data import fetch, known, sets

    fetched = fetch.fetch(arguments.name, arguments.origin, tuple(arguments.sha256))
    path = sets.folders()[1] / f"{arguments.name}.npz"
    about = fetch.record(path)
    print(f"{path} {'is made' if fetched else 'is there already; remove it to fetch it again'}")
    if about:
        print(f"{about['images']} images, {about['votes']} votes, {len(about['classes'])} classes")
    for file, digest in about.get("sha256", {}).items():
        print(f"{about['source'][file]}\n  sha256 {digest}")
    published = known.SETS[arguments.name]
    print(f"as published: {published.title}\nlicence: {published.licence}\ncitation: {published.citation}")
    return 0


def _import(arguments) -> int:
    from beyond_hard_labels.data.own import import_votes
    from beyond_hard_labels.data.sets import read

    path = import_votes(arguments.name, arguments.votes, arguments.images, arguments.image_size)
    data = read(arguments.name)
    print(f"{len(data.ids)} images, {data.votes.sum()} votes, {len(data.class_names)} classes, in {path}")
    return 0


def _export(arguments) -> int:
    from beyond_hard_labels.data.dcic import export
    from beyond_hard_labels.runs.inputs import images_of

    data = images_of(_plan(arguments).spec("soft", 0))
    if data.votes is not None:
        raise InputError(f"{data.name} has real votes, and export simulates them; expected synthetic")
    folder = export(data, arguments.folder, n_votes=arguments.votes, seed=arguments.votes_seed)
    print(f"{len(data.ids)} images, {arguments.votes} votes each (seed {arguments.votes_seed}), in {folder}")
    return 0
