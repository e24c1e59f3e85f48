"""The errors that a user can mend."""


class InputError(ValueError):
    """A value that a user gave and can mend; the command line prints it as one line, exit code 2."""
