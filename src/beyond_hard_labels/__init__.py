"""Hard and soft labels compared: the package that the book's notebooks call.

Six rooms, each of which imports from itself and from those before it: base, data, learn, runs, analysis, book.
`cli` is the command. Importing the package is instant: each module imports what it needs.
"""

__version__ = "0.1.0"
