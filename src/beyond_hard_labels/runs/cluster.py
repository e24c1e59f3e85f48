"""A study on a cluster: the same specs, trained by the workers of a dask scheduler.

Scheduler, workers and this process share one build folder, into which each worker writes the runs that
it trains, so nothing but specs travels. A worker takes a spec only if it sees that folder and the same
code, versions and data as are here, since otherwise its run would not count here. A worker that is lost
takes nothing along: its spec goes to another one.
"""

import os
import socket
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import sets
from beyond_hard_labels.runs import fresh
from beyond_hard_labels.runs.spec import RunSpec

ANSWER_SECONDS = 10  # in which a scheduler must answer
RETRIES = 2  # of a run that failed; that of a lost worker is sent again in any case


@contextmanager
def workers_of(address: str, specs: list[RunSpec]) -> Iterator[Executor]:
    """Give an executor that trains some specs on the workers of a scheduler, for `study.ensure`.

    Parameters
    ----------
    address : str
        Such as ``tcp://host:8786``.
    specs : list of RunSpec
        What will be trained; the workers that are there are checked against it at once, and each
        worker again before it trains.

    Raises
    ------
    InputError
        If dask is not installed, no scheduler answers, or a worker cannot do what is asked of it.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        message = "--scheduler needs dask.distributed, expected the extra 'dask': pip install -e '.[dask]'"
        raise InputError(message) from error
    try:
        place = urlsplit(address)
        if place.scheme not in ("tcp", "tls"):
            raise ValueError(f"it begins with neither tcp:// nor tls://: {address}")
        # a client that waits in vain hangs now and then when it is freed, so somebody must listen there
        socket.create_connection((place.hostname, place.port), ANSWER_SECONDS).close()
        client = Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"--scheduler is '{address}', expected the address of a dask scheduler such as tcp://host:8786, which "
            f"answers in {ANSWER_SECONDS} s ({error})"
        ) from error
    build = paths.build_folder()
    build.mkdir(parents=True, exist_ok=True)
    token = build / f".shared-{uuid.uuid4().hex}"
    token.touch()
    try:
        with client:
            here = (str(build), str(sets.folders()[1]), token.name)
            _check(client, here, {spec.dataset: spec for spec in specs}.values())
            yield _Workers(client.get_executor(retries=RETRIES), here)
    except KilledWorker as error:
        raise InputError(
            f"a run lost its worker again and again ({error}); do the workers have memory and time enough for it?"
        ) from error
    except CancelledError as error:
        message = f"the scheduler at {address} is gone; finished runs are kept, and the same command goes on"
        raise InputError(message) from error
    finally:
        token.unlink(missing_ok=True)


class _Workers(Executor):
    """An executor that has each worker look before it trains."""

    def __init__(self, executor: Executor, here: tuple[str, str, str]):
        self.executor, self.here = executor, here

    def submit(self, function, spec: RunSpec, /, *more) -> Future:
        return self.executor.submit(_train, self.here, fresh.provenance(spec), function, spec, *more)


def _check(client, here: tuple[str, str, str], specs) -> None:
    """Refuse workers that are there and see another store, code, version or file than is here."""
    if not client.nthreads():
        print("bhl: the scheduler has no workers yet; waiting for them", file=sys.stderr, flush=True)
    for spec in specs:
        try:
            told = client.run(faults, here, fresh.provenance(spec), spec)
        except Exception as error:  # whatever a worker without this package, or with another one, raises
            raise InputError(f"the workers cannot run this package: {type(error).__name__}: {error}") from error
        if wrong := [f"{worker}: {'; '.join(lines)}" for worker, lines in told.items() if lines]:
            raise InputError(f"workers that cannot take part: {' | '.join(wrong)}")


def faults(here: tuple[str, str, str], made: dict[str, dict], spec: RunSpec, dask_worker) -> list[str]:
    """Say, on a worker, what keeps it from training a spec as it would be trained here.

    Parameters
    ----------
    here : tuple of str
        Build folder, data cache, and the name of a file that lies in the build folder now.
    made : dict
        `fresh.provenance` of the spec here.
    spec : RunSpec
    dask_worker : distributed.Worker
        The worker itself; dask fills it in.
    """
    if (threads := dask_worker.state.nthreads) != 1:  # a process trains one run at a time
        return [f"it takes {threads} tasks at once, expected one; start it with --nthreads 1"]
    build, cache, token = here
    os.environ |= {"BHL_BUILD_DIR": build, "BHL_DATA_DIR": cache}
    if not (Path(build) / token).is_file():
        return [f"it does not see the folder {build}, expected one that all machines share"]
    return [fresh.told([change]) for change in fresh.changes(made, fresh.provenance(spec))]


def _train(here: tuple[str, str, str], made: dict[str, dict], function, spec: RunSpec, *more) -> None:
    from distributed import get_worker

    worker = get_worker()
    if wrong := faults(here, made, spec, worker):
        raise InputError(f"the worker {worker.address} cannot take part: {'; '.join(wrong)}")
    function(spec, *more)
