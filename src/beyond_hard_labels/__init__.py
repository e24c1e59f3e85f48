"""Hard and soft labels compared: the package that the book's notebooks call.

One module per stage, in the order in which data meets them: `shapes` draws the synthetic set, `images`
states what a set of labelled images is, `real_data` reads one from files, `dcic` knows the benchmark's
format, `fetch` gets published ones, `votes` turns votes into targets, `material` gathers what a run is
trained on, `augmentation`, `models` and `training` make it, `metrics` and `embedding` read it, `runs`
stores it, `study` plans a grid of runs, `sections` says what there is of the real sets, `report`, `plots`
and `real_votes` show them, `interactive` lets readers explore them, `run_pages` says where numbers come
from, `verify` proves it, `speed` and `published` show what comes with the project, `book` stages and builds the pages,
`cli` is the command.
Beside them, `files` writes whole or not at all, `process` is told to stop, and `checkpoints` keep a
training that is not finished; `status` says what in the store is stale and why, and `cluster` sends runs
to other machines; `significance`, `grids` and `answers` go beyond the paper.

Importing the package is instant: each module imports what it needs.
"""

__version__ = "0.1.0"


class InputError(ValueError):
    """A value that a user gave and can mend; the command line prints it as one line, exit code 2."""
