"""Stops `jupyter-book build` in the checkout: its pages are sources, whose numbers are not filled in.

`bhl book`, which `make book` calls, lays out the pages with their numbers and leaves this extension out there.
"""

MESSAGE = """
Nothing was built: these are the sources of the book, without the numbers that its code computes.
The book is made by

    make book

or, without make, by `bhl book`, and its first page is build/book/_build/html/index.html.
"""


def setup(app):
    """End before Sphinx makes a folder; no error that Jupyter Book would catch, and show with a traceback."""
    raise SystemExit(MESSAGE)
