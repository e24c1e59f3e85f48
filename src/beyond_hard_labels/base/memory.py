"""How much memory is free, so that what cannot fit is refused before it is begun."""

import os
from pathlib import Path

from beyond_hard_labels.base.errors import InputError


def available() -> int | None:
    """Return the bytes that are free for this process; None where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("utf-8").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # of the whole machine
    except (ValueError, OSError, AttributeError):
        return None


def require(n_bytes: int, what: str) -> None:
    """Raise `InputError`, with what is needed and what is free, if so many bytes cannot be had."""
    free = available()
    if free is not None and n_bytes > free:
        raise InputError(f"{what} need {n_bytes / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are free here")
