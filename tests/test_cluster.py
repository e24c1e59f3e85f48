"""The same study on a dask cluster: two worker processes on loopback, and what can go wrong with them."""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from beyond_hard_labels import InputError, cluster, runs, study
from conftest import TINY, sets

SMALL = TINY | {"n_images": 300, "epochs": 12}


@contextmanager
def local_cluster(**options):
    from distributed import LocalCluster

    settings = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(**settings | options) as made:
        yield made


def arrays(found):
    """Everything that a run stores, by name."""
    parts = {}
    for run in found:
        for name in ("predictions.npz", "features.npz"):
            with np.load(run.folder / name, allow_pickle=False) as file:
                parts |= {(run.spec.key, name, part): file[part] for part in file.files}
        parts[run.spec.key, "weights"] = np.frombuffer((run.folder / "weights.safetensors").read_bytes(), np.uint8)
        parts[run.spec.key, "history"] = run.history.to_numpy()
    return parts


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_cluster_gives_the_pools_results_bitwise_also_when_a_worker_is_killed(tmp_path, monkeypatch):
    small = study.plan("smoke", **SMALL)
    of_pool = arrays(study.ensure(small, workers=2))
    killed = []
    monkeypatch.setenv("BHL_BUILD_DIR", str(tmp_path / "shared"))
    with local_cluster() as made, cluster.workers_of(made.scheduler_address, small.specs()) as executor:
        client = executor.executor._client

        def kill_a_worker_in_mid_run():
            while not any(p.read_text().strip().isdigit() for p in (tmp_path / "shared" / "progress").glob("*")):
                time.sleep(0.02)
            busy = next(worker for worker, keys in client.processing().items() if keys)
            killed.append(client.run(os.getpid, workers=[busy])[busy])
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_a_worker_in_mid_run)
        killer.start()
        found = study.ensure(small, executor=executor)
        killer.join()
    assert len(killed) == 1
    assert equal(arrays(found), of_pool)
    assert sorted(p.name for p in (tmp_path / "shared" / "runs").iterdir()) == sorted(s.key for s in small.specs())
    assert not list((tmp_path / "shared").glob(".shared-*"))
