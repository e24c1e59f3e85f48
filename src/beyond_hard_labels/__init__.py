"""Hard and soft labels compared: the package that the book's notebooks call.

Six rooms, each of which imports from itself and from those before it:

    base      random streams, files that are written whole or not at all, being told to stop, parameters, paths
    data      images and votes: the synthetic set, sets that are files, and how they get here
    learn     augmentation, networks, training, metrics, intervals, maps
    runs      what a run is, where it is kept, whether it still counts, and how missing ones are trained
    analysis  numeric frames, one function a question
    book      figures, tables and claims of the notebooks; executing, building, verifying

`cli` is the command. Importing the package is instant: each module imports what it needs.
"""

from beyond_hard_labels.base.errors import InputError

__all__ = ["InputError"]
__version__ = "0.1.0"
