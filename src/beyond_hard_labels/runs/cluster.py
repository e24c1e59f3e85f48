"""A study on a cluster: the same specs, trained by the workers of a dask scheduler.

Scheduler, workers and this process share one build folder, into which each worker writes the runs that it trains, so
nothing but specs travels. A worker takes a spec only if it sees that folder and the same code, versions and data as are
here, since otherwise its run would not count here. A worker that is lost takes nothing along: its spec goes to another
one.
"""

import os
import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.process import tell
from beyond_hard_labels.data import sets
from beyond_hard_labels.runs import fresh
from beyond_hard_labels.runs.spec import RunSpec

ANSWER_SECONDS = 10  # in which a scheduler must answer
RETRIES = 2  # of a run that failed; that of a lost worker is sent again in any case


@contextmanager
def workers_of(address: str) -> Iterator[Executor]:
    """Give an executor that trains specs on the workers of a scheduler, such as ``tcp://host:8786``, for `ensure`.

    Raises `InputError` if dask is not installed, no scheduler answers, or a worker cannot do what is asked of it.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        needed = "--scheduler needs dask.distributed, expected the extra 'dask': pip install -e '.[dask]'"
        raise InputError(needed) from error
    try:
        place = urlsplit(address)
        if place.scheme not in ("tcp", "tls"):
            raise ValueError(f"it begins with neither tcp:// nor tls://: {address}")
        # a client that waits in vain hangs now and then when it is freed, so somebody must listen there
        socket.create_connection((place.hostname, place.port), ANSWER_SECONDS).close()
        client = Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        expected = f"the address of a dask scheduler such as tcp://host:8786, which answers in {ANSWER_SECONDS} s"
        raise InputError(f"--scheduler is '{address}', expected {expected} ({error})") from error
    token = paths.build_folder() / f".shared-{uuid.uuid4().hex}"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch()
    try:
        with client:
            if not client.nthreads():
                tell("the scheduler has no workers yet; waiting for them")
            yield _Workers(client.get_executor(retries=RETRIES), (token, sets.folders()[1]))
    except (KilledWorker, CancelledError, ModuleNotFoundError) as error:
        raise InputError(
            f"the cluster at {address} ended ({type(error).__name__}: {error}), expected a scheduler that stays and "
            "workers with this package and with memory and time enough; finished runs are kept, and the same command "
            "goes on"
        ) from error
    finally:
        token.unlink(missing_ok=True)


class _Workers(Executor):
    """An executor that has each worker look before it trains."""

    def __init__(self, executor: Executor, here: tuple[Path, Path]):
        self.executor, self.here = executor, here

    def submit(self, function, spec: RunSpec, /, *more) -> Future:
        return self.executor.submit(_train, self.here, fresh.provenance(spec), function, spec, *more)


def _train(here: tuple[Path, Path], made: dict[str, dict], function, spec: RunSpec, *more) -> None:
    """Train a spec on a worker, or say what keeps it from training it as it would be trained here.

    `here` are a file that lies in the build folder now, and the data cache; `made` is the provenance here.
    """
    from distributed import get_worker

    worker, (token, cache) = get_worker(), here
    os.environ |= {"BHL_BUILD_DIR": str(token.parent), "BHL_DATA_DIR": str(cache)}
    if (threads := worker.state.nthreads) != 1:  # a process trains one run at a time
        wrong = f"it takes {threads} tasks at once, expected one; start it with --nthreads 1"
    elif not token.is_file():
        wrong = f"it does not see the folder {token.parent}, expected one that all machines share"
    else:
        wrong = fresh.told(fresh.changes(made, fresh.provenance(spec)))
    if wrong:
        raise InputError(f"the worker {worker.address} cannot take part: {wrong}")
    function(spec, *more)
