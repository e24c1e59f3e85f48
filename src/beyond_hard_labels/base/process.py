"""What passes between this process and who started it: words, and being told to stop.

Told to stop by SIGTERM, Ctrl-C or a time limit, work that can be saved goes on to the end of its step
and is saved (`patient`); anything else stops where it is. A pool of processes passes the word on, and
its workers end, too, if the process that started them is killed.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, connection, get_context, parent_process

TERMINATED = 128 + signal.SIGTERM  # exit code, as shells have it
_told: type[BaseException] | None = None  # what to raise when the step is done
_patient = 0


class Terminated(BaseException):
    """Told to stop by SIGTERM; no Exception, so that nothing takes it for a failure."""


class TimeUp(Exception):
    """The deadline passed."""


def check() -> None:
    """Raise `Terminated` or KeyboardInterrupt if this process was told to stop meanwhile."""
    if _told:
        raise _told


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Put off a stop until `check` is called, which must be often."""
    global _patient
    check()
    _patient += 1
    try:
        yield
    finally:
        _patient -= 1


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Handle SIGTERM and Ctrl-C as stated above; whatever handled them before does so again afterwards."""
    global _told
    before = {number: signal.signal(number, _on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        _told = None
        for number, handler in before.items():
            signal.signal(number, handler)


def is_stoppable() -> bool:
    """Return whether this process is within `stoppable`."""
    return signal.getsignal(signal.SIGTERM) is _on_signal


def _on_signal(number: int, _) -> None:
    global _told
    again = _told is not None
    _told = KeyboardInterrupt if number == signal.SIGINT else Terminated
    if not _patient or (again and number == signal.SIGINT):  # who presses Ctrl-C twice does not want to wait
        if parent_process():  # of a pool: there is nothing to save, and nobody to hear of it
            os._exit(TERMINATED)
        raise _told


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of spawned processes that save and end if this one fails, is told to stop, or is killed."""
    others = set(active_children())
    executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_be_a_worker)
    try:
        yield executor
    except BaseException:
        for child in set(active_children()) - others:
            child.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _be_a_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent passes it on
    signal.signal(signal.SIGTERM, _on_signal)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    connection.wait([parent_process().sentinel])
    while True:  # till what this worker saves is saved
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython and ipython.get_ipython(), "kernel")


def tell(line: str) -> None:
    """Say a line on stderr; of a kernel, whose notebook must not keep it, on that of the process that started it."""
    if not in_notebook():
        print(f"bhl: {line}", file=sys.stderr, flush=True)
    elif original := getattr(sys.stderr, "_original_stdstream_copy", None):  # what ipykernel has put its own before
        os.write(original, f"bhl: {line}\n".encode())
