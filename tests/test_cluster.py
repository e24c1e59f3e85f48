"""The same study on a dask cluster: two worker processes on loopback, and what can go wrong with them."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.runs import cluster, ensure, fresh, store, study
from conftest import ROOT, TINY, set_options
from test_rerun import console, fits

SMALL = TINY | {"n_images": 300, "epochs": 12}


@contextmanager
def local_cluster(**options):
    from distributed import LocalCluster

    settings = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
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
    of_pool = arrays(ensure.ensure(small, workers=2))
    killed = []
    monkeypatch.setenv("BHL_BUILD_DIR", str(tmp_path / "shared"))
    with local_cluster() as made, cluster.workers_of(made.scheduler_address) as executor:
        client = executor.executor._client

        def kill_a_worker_in_mid_run():
            while not any(p.read_text().strip().isdigit() for p in (tmp_path / "shared" / "progress").glob("*")):
                time.sleep(0.02)
            busy = next(worker for worker, keys in client.processing().items() if keys)
            killed.append(client.run(os.getpid, workers=[busy])[busy])
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_a_worker_in_mid_run)
        killer.start()
        found = ensure.ensure(small, executor=executor)
        killer.join()
    assert len(killed) == 1
    assert equal(arrays(found), of_pool)
    assert sorted(p.name for p in (tmp_path / "shared" / "runs").iterdir()) == sorted(s.key for s in small.specs())
    assert not list((tmp_path / "shared").glob(".shared-*"))


def test_without_dask_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"--scheduler needs dask\.distributed, expected the extra 'dask'"):
        cluster.workers_of("tcp://127.0.0.1:1").__enter__()


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:1", "nowhere", "ftp://127.0.0.1:8786", "tcp://127.0.0.1:x", "tcp://"]
)
def test_a_scheduler_that_does_not_answer_is_named(address, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 1)
    with pytest.raises(InputError, match=rf"--scheduler is '{address}', expected the address of a dask scheduler"):
        cluster.workers_of(address).__enter__()


@pytest.fixture(scope="module")
def here_alone():
    """A scheduler and a worker in this process, for what is refused before anything is trained."""
    with local_cluster(n_workers=1, processes=False, protocol="tcp://") as made:
        yield made.scheduler_address


def train_on(address, monkeypatch, **worker):
    """Let a worker train a run of a small study, though on the worker something of its provenance may be another."""
    spec = study.plan("smoke", **TINY).specs()[0]
    made = fresh.provenance(spec)
    answers = iter([made])  # here; then on the worker, which is this process, too
    there = {part: content | worker.get(part, {}) for part, content in made.items()}
    monkeypatch.setattr(fresh, "provenance", lambda spec: next(answers, there))
    with cluster.workers_of(address) as executor:
        executor.submit(ensure._execute, spec, 0.0).result()


def test_a_worker_with_other_code_or_versions_is_refused_in_the_words_of_the_status(here_alone, monkeypatch):
    with pytest.raises(InputError, match=r"worker tcp://.* cannot take part: learn\.models changed; torch .* → 9\.9"):
        train_on(here_alone, monkeypatch, code={"learn.models": "other"}, versions={"torch": "9.9"})
    assert not (paths.build_folder() / "runs").exists()


def test_a_worker_that_sees_another_folder_is_refused(here_alone, monkeypatch):
    monkeypatch.setattr(Path, "touch", lambda self, **_: None)
    with pytest.raises(InputError, match=f"it does not see the folder {paths.build_folder()}, expected one that all"):
        train_on(here_alone, monkeypatch)


def test_a_worker_that_trains_two_runs_at_once_is_refused(monkeypatch):
    with (
        local_cluster(n_workers=1, processes=False, threads_per_worker=2, protocol="tcp://") as made,
        pytest.raises(InputError, match="it takes 2 tasks at once, expected one; start it with --nthreads 1"),
    ):
        train_on(made.scheduler_address, monkeypatch)


PAGE = (ROOT / "book" / "cluster.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def test_the_script_for_slurm_asks_for_workers_that_train_one_run_each():
    (script,), with_gpu = blocks("python"), re.search(r"`(job_extra_directives=\[.*?\])`", PAGE)[1]
    wanted = script.partition("cluster.scale(")[0].replace('"ib0"', '"lo"')
    wanted = wanted.replace(
        "SLURMCluster(\n", 'SLURMCluster(\nscheduler_options={"dashboard_address": "127.0.0.1:0"},\n'
    )
    for source in (wanted, wanted.replace("cores=1,", f"cores=1, {with_gpu},")):
        named = {}
        exec(source, named)
        with named["cluster"] as made:
            job = made.job_script()
        assert re.search(r"dask_worker tcp://\S+ .*--nthreads 1 ", job)
        assert "source .venv/bin/activate\n" in job
        assert ("#SBATCH --gres=gpu:1" in job) is (source != wanted)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_the_commands_of_the_page_train_a_study_on_loopback_and_show_what_they_show(tmp_path):
    scheduler, worker, study_command, _ = blocks("bash")
    for block in blocks("bash"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    port = str(free_port())
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT / "src")}

    def typed(command, more=""):
        command = command.replace("node0", "127.0.0.1").replace("8786", port).replace("--nworkers 8", "--nworkers 2")
        return f"exec {command.strip()} {more}"

    def start(command, more):
        with (tmp_path / "log").open("a") as log:
            return subprocess.Popen(["bash", "-c", typed(command, more)], env=environment, stdout=log, stderr=log)

    small = " ".join(set_options(**TINY))
    quiet = "--dashboard-address 127.0.0.1:0"
    started = [start(scheduler, quiet), start(worker, f"{quiet} --local-directory {tmp_path}")]
    try:
        for _ in range(300):
            if "Registered to" in (tmp_path / "log").read_text():
                break
            time.sleep(0.2)
        done = subprocess.run(
            ["bash", "-c", typed(study_command, small)], env=environment, capture_output=True, text=True, check=False
        )
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()
    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
    keys = {spec.key for spec in study.plan("smoke", **TINY).specs()}
    assert all(key in done.stdout for key in keys)
    assert all(store.find(spec) for spec in study.plan("smoke", **TINY).specs())
    ((asked, shown),) = console(PAGE)
    told = subprocess.run(["bash", "-c", asked], env=environment, capture_output=True, text=True, check=True).stdout
    assert fits(shown, told), told
