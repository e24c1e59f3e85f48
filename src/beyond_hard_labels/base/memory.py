"""What cannot fit into memory is refused before it is begun, and what a training frees is kept for its next step."""

import contextlib
import ctypes
import os
import re
from pathlib import Path

from beyond_hard_labels.base.errors import InputError


def require(n_bytes: int, what: str) -> None:
    """Raise `InputError`, with what is needed and what is free, if so many bytes cannot be had."""
    try:
        free = 1024 * int(re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text("utf-8"))[1])
    except (OSError, TypeError):  # not Linux: what the whole machine has
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if n_bytes > free:
        raise InputError(f"{what} need {n_bytes / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are free here")


def keep_freed() -> None:
    """Have the C library keep what is freed, up to a GiB; mapping it anew takes up to a quarter of a step."""
    with contextlib.suppress(AttributeError, TypeError):  # not glibc, or Windows: only the speed is lost
        mallopt = ctypes.CDLL(None).mallopt
        for parameter in (-3, -1):  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
            mallopt(parameter, 2**30)
