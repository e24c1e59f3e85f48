"""The command ``bhl``, also ``python -m beyond_hard_labels``: its options; `commands` does what it is told."""

import argparse
import sys

from beyond_hard_labels import __version__
from beyond_hard_labels.base.errors import InputError

UNFINISHED = 75  # exit code of a study that the time limit stopped; calling again goes on
_KEPT = "what was done is kept, the same command goes on"
_FETCH_HELP = """\
published sets, those with (DCIC) from the authors' benchmark:
{sets}

Files are downloaded, held against their checksums and made into NAME.npz in the data cache: the folder that
BHL_DATA_DIR names, or the platform's. Mind the licence, which is printed.

examples:
  bhl data fetch fashion_mnist_h
  bhl data fetch micebone --from ~/Downloads/MiceBone.zip
  bhl study --set dataset=fashion_mnist_h
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed, 2 bad input, 75 time is up, 130 or 143 stopped."""
    arguments = _parser().parse_args(argv)
    from concurrent.futures.process import BrokenProcessPool

    from beyond_hard_labels import commands
    from beyond_hard_labels.base.files import Unwritten
    from beyond_hard_labels.base.process import TERMINATED, Terminated, TimeUp, stoppable

    try:
        with stoppable():
            return commands.VERBS[arguments.command](arguments)
    except InputError as error:
        return _say(f"error: {error}", 2)
    except TimeUp as error:
        return _say(str(error), UNFINISHED)
    except Unwritten as error:
        return _say(f"error: {error}", 1)
    except BrokenProcessPool:
        return _say(f"error: a process died: killed, or out of memory; {_KEPT}", 1)
    except KeyboardInterrupt:
        return _say(f"interrupted; {_KEPT}", 130)
    except Terminated:
        return _say(f"told to stop; {_KEPT}", TERMINATED)


def _say(line: str, code: int) -> int:
    print(f"bhl: {line}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bhl",
        description="Reproduce 'Beyond Hard Labels': train on hard and on soft labels, compare, build the book.",
        epilog="Exit codes: 0 done, 1 failed, 2 bad input; 75 stopped at the time limit, 130 by Ctrl-C, 143 by SIGTERM "
        "(call again to go on).",
    )
    parser.add_argument("--version", action="version", version=f"bhl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_book(commands)
    _add_training(commands)
    _add_store(commands)
    data = _add(commands, "data", "look at a set of images, fetch a published one, make or export one")
    _add_data(data.add_subparsers(required=True, metavar="ACTION"))
    return parser


def _add_book(commands) -> None:
    book = _add(commands, "book", "execute the notebooks and build the pages under build/book")
    book.epilog = "Your own votes: --set votes_csv=FILE --set image_folder=DIR, which only the chapter on them takes."
    _add_options(book, "profile", "workers")
    book.add_argument("--only", metavar="NOTEBOOK", help="execute this one only, e.g. 03_training; keep the others")
    book.add_argument("--cell-timeout", default="1h", metavar="1h", help="what one cell may take (s, m or h)")
    verify = "make again, without training, all that the built book shows, and every published score"
    _add(commands, "verify", verify)
    compare = _add(commands, "compare", "train a stored run once more and compare the results")
    compare.add_argument("run", metavar="RUN", help="key of a run, or its folder")
    tolerance = "largest difference of a metric, repeatable (default macro_accuracy=0.02 and kl=0.02)"
    compare.add_argument("--tolerance", action="append", default=[], metavar="METRIC=X", help=tolerance)


def _add_training(commands) -> None:
    run = _add(commands, "run", "train one run, or find it")
    run.add_argument("--dataset", required=True, metavar="NAME", help="synthetic, or a set that is a file")
    run.add_argument(
        "--labels", required=True, metavar="KIND", help="hard (majority), soft (mean), or a mixture of them"
    )
    run.add_argument("--split", required=True, type=int, metavar="K", help="number of the random split, from 0")
    run.add_argument("--epoch", type=int, metavar="E", help="print the validation metrics after this epoch instead")
    _add_options(run, "json", "profile", "time limit")
    study = _add(commands, "study", "train what is missing of all runs: both kinds of label, all splits")
    _add_options(study, "profile", "workers", "time limit")
    scheduler = "train on the workers of a dask scheduler, such as tcp://host:8786"
    study.add_argument("--scheduler", metavar="ADDRESS", help=scheduler)
    study.add_argument("--grid", metavar="NAME", help="train a grid of runs beyond the paper instead, such as when")
    study.add_argument("--full", action="store_true", help="the whole of that grid, not the slice that the book trains")
    study.add_argument("--publish", action="store_true", help="write what is finished to results, for the book")
    study.add_argument("--dry-run", action="store_true", help="say what the grid would take, and train nothing")
    pack = "at the end, or at the time limit, pack its runs as FILE.tar.0, FILE.tar.1, ..."
    study.add_argument("--pack", metavar="FILE", help=pack)


def _add_store(commands) -> None:
    unpack = _add(commands, "unpack", "put the runs of a pack into the store, after every checksum")
    unpack.add_argument("parts", nargs="+", metavar="FILE", help="all files of the pack: FILE.tar.0 FILE.tar.1 ...")
    status = _add(commands, "status", "say of every run, map and notebook whether it is fresh, or why not")
    _add_options(status, "json", "profile")
    clean = _add(commands, "clean", "remove runs, checkpoints and maps from the build folder, after saying so")
    what = clean.add_mutually_exclusive_group(required=True)
    what.add_argument("--stale", action="store_true", help="what 'bhl status' calls stale and can be made again here")
    what.add_argument(
        "--run", action="append", default=[], metavar="KEY", help="whatever there is of a run, repeatable"
    )
    clean.add_argument("--dry-run", action="store_true", help="say it only")


def _add_data(actions) -> None:
    from beyond_hard_labels.data import known

    describe = _add(actions, "describe", "print size, moments, classes and ambiguity of a set")
    describe.add_argument("name", metavar="NAME", help="synthetic, or a set that is a file")
    _add_options(describe, "json", "profile")
    published = _add(actions, "fetch", "get a published set of images and votes")
    published.formatter_class = argparse.RawDescriptionHelpFormatter
    listed = "\n".join(f"  {name:18s} {found.words}" for name, found in known.SETS.items())
    published.epilog = _FETCH_HELP.format(sets=listed)
    published.add_argument("name", metavar="NAME", help="one of those below")
    origin = "take the files from a folder, a file, or below an address (default: where they are published)"
    published.add_argument("--from", dest="origin", metavar="PATH|URL", help=origin)
    digest = "take a file with this checksum although another one is expected, repeatable"
    published.add_argument("--sha256", action="append", default=[], metavar="HASH", help=digest)
    own = _add(actions, "import", "make a set of a CSV file of votes and a folder of images")
    own.add_argument("name", metavar="NAME", help="name of the new set; replaces one made before")
    table = "one row a vote (image,label; further columns are left out), or one an image (image, counts per class)"
    own.add_argument("--votes", required=True, metavar="FILE", help=table)
    own.add_argument("--images", required=True, metavar="DIR", help="folder that the names of images are relative to")
    own.add_argument("--image-size", type=int, default=32, metavar="PX", help="side that all get (default 32)")
    export = _add(actions, "export", "write a set in the folder format of DCIC, with simulated votes")
    export.add_argument("name", metavar="NAME", help="synthetic")
    export.add_argument("folder", metavar="DIR", help="the set goes to DIR/Synthetic, which must not exist")
    export.add_argument("--votes", type=int, default=100, metavar="N", help="annotators (default 100)")
    export.add_argument("--votes-seed", type=int, default=0, metavar="SEED", help="seed of the votes (default 0)")
    _add_options(export, "profile")


def _add(commands, name: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=name)
    return parser


def _add_options(parser: argparse.ArgumentParser, *which: str) -> None:
    """Add options that several commands have."""
    if "json" in which:
        parser.add_argument("--json", action="store_true", help="print as JSON, with null for what is no number")
    if "profile" in which:
        parser.add_argument("--profile", default="quick", metavar="P", help="smoke, quick (default) or paper")
        change = "change one parameter of the profile, repeatable; an unknown key lists the valid ones"
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=change)
    if "workers" in which:
        parser.add_argument("--workers", type=int, metavar="N", help="processes that train (default: the cores)")
    if "time limit" in which:
        parser.add_argument("--time-limit", metavar="9m", help="save and stop after this long (s, m or h)")
