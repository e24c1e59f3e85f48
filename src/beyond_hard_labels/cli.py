"""The command ``bhl``, also ``python -m beyond_hard_labels``: its options; `commands` does what it is told."""

import argparse
import sys
from concurrent.futures.process import BrokenProcessPool

from beyond_hard_labels import __version__
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.files import Unwritten
from beyond_hard_labels.base.process import TERMINATED, Terminated, TimeUp, stoppable
from beyond_hard_labels.data import known

UNFINISHED = 75  # exit code of a study that the time limit stopped; calling again goes on
_KEPT = "what was done is kept, the same command goes on"
_SETS = """Sets, those with (DCIC) from the authors' benchmark, which become NAME.npz in the data cache, the folder
that BHL_DATA_DIR names or the platform's. Mind the licence, which is printed. Then: bhl study --set dataset=NAME\n
"""
_IMPORTS = """Formats: tables with , ; tabs or |, a row a vote, a column an annotator, or a column of counts a class;
crowd-kit, Label Studio (CSV, JSON, JSON-MIN), MTurk, Toloka, Zooniverse, Appen, Prodigy, doccano, CVAT for images,
FER+, CIFAR-10H, DCIC. What was read as what is printed. Examples:
  bhl data import pets --votes project-4.json --images uploads
  bhl data import pets --votes Batch_1_results.csv --images images --label-column Answer.category.label
  bhl data import pets --votes raters.csv --images images --form wide --drop-label skip
"""
_MANY = {"action": "append", "default": []}


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed, 2 bad input, 75 time is up, 130 or 143 stopped."""
    arguments = _parser().parse_args(argv)
    from beyond_hard_labels import commands  # which takes a second, and help does not need it

    ends = {
        InputError: ("error: {}", 2),
        TimeUp: ("{}", UNFINISHED),
        Unwritten: ("error: {}", 1),
        BrokenProcessPool: (f"error: a process died: killed, or out of memory; {_KEPT}", 1),
        KeyboardInterrupt: (f"interrupted; {_KEPT}", 130),
        Terminated: (f"told to stop; {_KEPT}", TERMINATED),
    }
    try:
        with stoppable():
            return getattr(commands, arguments.verb)(arguments) or 0
    except tuple(ends) as error:
        words, code = next(end for kind, end in ends.items() if isinstance(error, kind))
        print(f"bhl: {words.format(error)}", file=sys.stderr)
        return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bhl",
        description="Reproduce 'Beyond Hard Labels': train on hard and on soft labels, compare, build the book.",
        epilog="Exit codes: 0 done, 1 failed, 2 bad input; 75 stopped at the time limit, 130 by Ctrl-C, 143 by SIGTERM "
        "(call again to go on).",
    )
    parser.add_argument("--version", action="version", version=f"bhl {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_book_and_runs(verbs)
    data = _add(verbs, "data", "look at a set of images, fetch a published one, make or export one")
    _add_data(data.add_subparsers(required=True, metavar="ACTION"))
    return parser


def _add(verbs, name: str, text: str, *shared: str, **more) -> argparse.ArgumentParser:
    """Add a verb, with those of the options that several verbs have."""
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", **more)
    parser.set_defaults(verb="import_set" if name == "import" else name)
    if "json" in shared:
        parser.add_argument("--json", action="store_true", help="print as JSON, with null for what is no number")
    if "profile" in shared:
        parser.add_argument("--profile", default="quick", metavar="P", help="smoke, quick (default) or paper")
        change = "change one parameter of the profile, repeatable; an unknown key lists the valid ones"
        parser.add_argument("--set", **_MANY, metavar="KEY=VALUE", help=change)
    if "workers" in shared:
        parser.add_argument("--workers", type=int, metavar="N", help="processes that train (default: the cores)")
    if "time limit" in shared:
        parser.add_argument("--time-limit", metavar="9m", help="save and stop after this long (s, m or h)")
    return parser


def _add_book_and_runs(verbs) -> None:
    own = "Your own votes: --set votes_csv=FILE --set image_folder=DIR, which only the chapter on them takes."
    book = _add(verbs, "book", "execute the notebooks and build the pages", "profile", "workers", epilog=own)
    book.add_argument("--only", metavar="NOTEBOOK", help="execute this one only, e.g. 03_training; keep the others")
    _add(verbs, "verify", "make again, without training, all that the built book shows, and every published score")
    add = _add(verbs, "compare", "train a stored run once more and compare the results").add_argument
    add("run", metavar="RUN", help="key of a run, or its folder")
    add("--tolerance", **_MANY, metavar="METRIC=X", help="largest difference (default macro_accuracy=0.02, kl=0.02)")
    add = _add(verbs, "run", "train one run, or find it", "json", "profile", "time limit").add_argument
    add("--dataset", required=True, metavar="NAME", help="synthetic, or a set that is a file")
    add("--labels", required=True, metavar="KIND", help="hard (majority), soft (mean), or a mixture of them")
    add("--split", required=True, type=int, metavar="K", help="number of the random split, from 0")
    add("--epoch", type=int, metavar="E", help="print the validation metrics after this epoch instead")
    what = "train what is missing of all runs: both kinds of label, all splits"
    add = _add(verbs, "study", what, "profile", "workers", "time limit").add_argument
    add("--scheduler", metavar="ADDRESS", help="train on the workers of a dask scheduler, such as tcp://host:8786")
    add("--grid", metavar="NAME", help="train a grid of runs beyond the paper instead, such as when")
    add("--full", action="store_true", help="the whole of that grid, not the slice that the book trains")
    add("--publish", action="store_true", help="write what is finished to results, for the book")
    add("--dry-run", action="store_true", help="say what the grid would take, and train nothing")
    add("--pack", metavar="FILE", help="at the end, or at the time limit, pack its runs as FILE.tar.0, FILE.tar.1, ...")
    add = _add(verbs, "unpack", "put the runs of a pack into the store, after every checksum").add_argument
    add("parts", nargs="+", metavar="FILE", help="all files of the pack: FILE.tar.0 FILE.tar.1 ...")
    _add(verbs, "status", "say of every run, map and notebook whether it is fresh, or why not", "json", "profile")
    clean = _add(verbs, "clean", "remove runs, checkpoints and maps from the build folder, after saying so")
    clean.add_argument("--dry-run", action="store_true", help="say it only")
    add = clean.add_mutually_exclusive_group(required=True).add_argument
    add("--stale", action="store_true", help="what 'bhl status' calls stale and can be made again here")
    add("--run", **_MANY, metavar="KEY", help="whatever there is of a run, repeatable")


def _add_data(verbs) -> None:
    described = _add(verbs, "describe", "print size, moments, classes and ambiguity of a set", "json", "profile")
    described.add_argument("name", metavar="NAME", help="synthetic, or a set that is a file")
    listed = _SETS + "\n".join(f"  {name:18s} {found.words}" for name, found in known.SETS.items())
    raw = {"epilog": listed, "formatter_class": argparse.RawDescriptionHelpFormatter}
    add = _add(verbs, "fetch", "get a published set of images and votes", **raw).add_argument
    add("name", metavar="NAME", help="one of those below")
    add("--from", dest="origin", metavar="PATH|URL", help="folder, file or address to take the files from instead")
    add("--sha256", **_MANY, metavar="HASH", help="take a file with this checksum although another is expected")
    raw["epilog"] = _IMPORTS
    add = _add(verbs, "import", "make a set of a file of votes and a folder of images", "json", **raw).add_argument
    add("name", metavar="NAME", help="name of the new set; replaces one made before")
    add("--votes", required=True, metavar="FILE", help="a table, or the export of a tool")
    add("--images", required=True, metavar="DIR", help="folder that the names of images are relative to")
    add("--image-size", type=int, default=32, metavar="PX", help="side that all get (default 32)")
    add("--dry-run", action="store_true", help="say what would be done, and write nothing")
    add("--format", metavar="F", help="the format of the file, if it is not recognised rightly; a wrong one lists all")
    add("--form", metavar="F", help="long: a row a vote; wide: a column an annotator; counts: a column a class")
    for column in ("image", "label", "annotator", "count"):
        add(f"--{column}-column", metavar="NAME", help=f"the column that holds the {column}")
    add("--classes", type=lambda text: tuple(text.split(",")), default=(), metavar="A,B", help="all classes, in order")
    add(
        "--where",
        **_MANY,
        metavar="COLUMN=VALUE",
        help="take such rows only, repeatable; a value more of a column adds",
    )
    add("--drop-label", **_MANY, metavar="LABEL", help="leave out such votes, repeatable")
    add("--repeats", default="refuse", metavar="R", help="an annotator who votes again: refuse (default), last or all")
    add("--match", metavar="M", help="names fit files by path (default), by name without folder and case, or by stem")
    add("--encoding", metavar="E", help="of the text, such as latin-1 (default UTF-8, and UTF-16 with its mark)")
    what = "write a set as images and votes, the synthetic one in the format of DCIC with simulated votes"
    add = _add(verbs, "export", what, "profile").add_argument
    add("name", metavar="NAME", help="synthetic, or a set that is a file")
    add("folder", metavar="DIR", help="the set goes to DIR/NAME, or DIR/Synthetic, which must not exist")
    add("--votes", type=int, default=100, metavar="N", help="simulated annotators of the synthetic set (default 100)")
    add(
        "--format",
        default="long",
        choices=("long", "dcic"),
        help="of other sets: votes.csv and images (default), or DCIC",
    )
