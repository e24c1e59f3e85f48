"""Killed, told to stop, damaged, without space: the next call ends in the same bits as an undisturbed one."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import archives
from beyond_hard_labels import cli
from beyond_hard_labels.base import files, paths, process
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import fetch, sets, votes
from beyond_hard_labels.data.images import random_split
from beyond_hard_labels.learn import train
from beyond_hard_labels.runs import checkpoints, ensure, execute, fresh, inputs, maps, publish, store, study
from conftest import ROOT, TINY, set_options

SMALL = TINY | {"epochs": 3, "dropout": 0.3}  # 4 steps an epoch
ARGUMENTS = [
    *("run", "--dataset", "synthetic", "--labels", "soft", "--split", "0", "--profile", "smoke"),
    *set_options(**SMALL),
]
KILLED = -signal.SIGKILL


def spec():
    return study.plan("smoke", **SMALL).spec("soft", 0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of the run that all others are held against; it is trained once and never changed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHL_BUILD_DIR", str(folder))
        return execute.execute(spec()).folder


@pytest.fixture
def stored(undisturbed):
    """A copy of it in the store."""
    return shutil.copytree(undisturbed, paths.build_folder() / "runs" / undisturbed.name)


def live(tmp_path, *lives):
    """Live lives one after the other; return their exit codes, what was said on both streams, and the run's folder."""
    build = tmp_path / "lives"
    plan = [{"build": str(build), "arguments": ARGUMENTS} | life for life in lives]
    script = [sys.executable, Path(__file__).with_name("lives.py"), json.dumps(plan)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr, build / "runs" / spec().key


def bits(folder):
    """All that a run determines; not its manifest and the times in its archives."""
    arrays = {}
    for archive in ("predictions", "features", "curves"):
        with np.load(folder / f"{archive}.npz") as file:
            arrays |= {f"{archive}.{name}": file[name].tobytes() for name in file.files}
    return arrays | {name: (folder / name).read_bytes() for name in ("weights.safetensors", "spec.json")}


def leftovers(folder):
    """What a finished run should not leave in a build folder."""
    build = folder.parents[1]
    found = [path for name in ("checkpoints", "progress", "damaged") for path in (build / name).glob("**/*")]
    return [path for path in found if path.is_file()] + list((build / "runs").glob(".*"))


# Killed and told to stop


@pytest.mark.parametrize("n", [pytest.param(5, id="five"), pytest.param(20, id="twenty", marks=pytest.mark.slow)])
def test_a_run_that_is_killed_at_random_moments_ends_in_the_same_bits(tmp_path, undisturbed, n):
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    most = {"step": 5, "epoch": 2, "sync": 8, "store": 2}  # so many of them has every life, however late it starts
    ends = [[event := list(most)[i % len(most)], draw.randint(1, most[event]), "kill"] for i in range(1, n)]
    ends = [["sync", draw.randint(1, 4), "kill"], *draw.sample(ends, n - 1)]  # the first is within a checkpoint
    codes, said, folder = live(tmp_path, *({"at": end} for end in ends), {})
    print(f"seed {seed}: {ends}, exit codes {codes}\n{said}")  # shown if the test fails
    assert codes == [*[KILLED] * n, 0]
    assert bits(folder) == bits(undisturbed)
    assert leftovers(folder) == []


def test_a_run_that_is_told_to_stop_within_an_epoch_goes_on_from_that_very_step(tmp_path, undisturbed):
    codes, said, folder = live(
        tmp_path,
        {"at": ["step", 4, "term"]},
        {"at": ["step", 5, "time is up"], "arguments": [*ARGUMENTS, "--time-limit", "9h"]},
        {"at": ["step", 4, "interrupt"]},
        {},
    )
    assert codes == [process.TERMINATED, cli.UNFINISHED, 130, 0]
    for word in ("told to stop", "stopped after 1 of 3 epochs", "interrupted"):
        assert word in said
    places = [f"{epochs} of 3 epochs and {steps} steps" for epochs, steps in ((0, 2), (1, 1), (1, 3))]
    assert [line for line in said.splitlines() if "goes on after" in line] == [
        f"bhl: {spec().key} goes on after {place}" for place in places
    ]
    assert bits(folder) == bits(undisturbed)
    assert leftovers(folder) == []


def test_two_processes_asked_for_the_same_run_train_it_once(tmp_path, undisturbed):
    codes, said, folder = live(tmp_path, {"at": ["step", 2, "wait"], "beside": True}, {"at": ["word", 1, "say"]})
    assert codes == [0, 0]
    assert said.count(f"{spec().key} trained in") == said.count(f"{spec().key} found in") == 1
    assert f"which trains {spec().key}" in said
    assert bits(folder) == bits(undisturbed)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"dropout": 0.5}, id="dropout"),
        pytest.param({"head": "mlp", "decay": "decoupled", "momentum": 0.0}, id="batch norm in the head, no momentum"),
        pytest.param({"schedule": "warm_restarts", "class_weights": True}, id="restarts"),
    ],
)
@pytest.mark.parametrize("steps", [1, 4, 6])
def test_training_goes_on_from_any_step_to_the_same_bits(changed, steps):
    config = study.plan("smoke", **(TINY | {"n_images": 50, "batch_size": 8, **changed})).spec("soft", 0)
    data = inputs.images_of(config)
    given = (data, votes.targets(data.truth, "soft"), random_split(50, 0), config)
    kept, left = [], steps

    def stop():
        nonlocal left
        left -= 1
        if left < 0:
            raise process.Terminated

    whole = train.train(*given, seed=0)
    with pytest.raises(process.Terminated):
        train.train(*given, seed=0, on_step=stop, on_checkpoint=lambda progress, _: kept.append(progress()))
    again = train.train(*given, seed=0, start=kept[-1])
    assert (kept[-1].epoch, kept[-1].step) == divmod(steps, 4)
    assert all(np.array_equal(whole.state[name], again.state[name]) for name in whole.state)
    assert np.array_equal(whole.test_logits, again.test_logits)
    assert all(np.array_equal(whole.curves[name], again.curves[name]) for name in whole.curves)


# Damaged


def spoil(path, how, where):
    """Cut a file off, or turn a bit of it, at a share of its length."""
    content = bytearray(path.read_bytes())
    at = min(int(where * len(content)), len(content) - 1)
    if how == "cut":
        del content[at:]
    else:
        content[at] ^= 1 << random.randrange(8)
    path.write_bytes(content)


SPOILT = [(how, where) for how in ("cut", "turn") for where in (0, 0.5, 1)]


def test_a_file_of_a_run_that_is_cut_short_or_changed_by_a_bit_is_found_and_named(stored):
    for name in (*store.FILES, "manifest.json"):
        whole = (stored / name).read_bytes()
        for how, where in SPOILT:
            spoil(stored / name, how, where)
            with pytest.raises(files.Damaged, match=re.escape(name)):
                store.load(stored)
            assert store.find(spec()) is None
            (stored / name).write_bytes(whole)
    assert store.find(spec()) is not None


def test_a_damaged_run_is_set_aside_with_a_word_and_made_again(stored, undisturbed, capsys):
    spoil(stored / "features.npz", "turn", 0.5)
    before = (stored / "features.npz").read_bytes()
    run, trained = ensure.find_or_train(spec())
    assert trained
    assert bits(run.folder) == bits(undisturbed)
    aside = paths.build_folder() / "damaged" / f"{spec().key}-1"
    assert (aside / "features.npz").read_bytes() == before
    said = capsys.readouterr().err
    assert f"the run in {stored} is damaged, features.npz not as it was stored; it is set aside as {aside}" in said


def test_a_damaged_published_run_is_an_error_that_names_the_file_and_stays_where_it_is(
    tmp_path, monkeypatch, undisturbed
):
    monkeypatch.setattr(paths, "published_folder", lambda: tmp_path / "results")
    folder = publish.publish_run(store.load(undisturbed), None, {}).folder
    assert store.published(spec()).published
    spoil(folder / "predictions.npz", "turn", 0.5)
    with pytest.raises(files.Damaged, match=rf"{folder} is damaged, predictions\.npz"):
        store.published(spec())
    assert folder.is_dir()


@pytest.fixture
def stopped(monkeypatch):
    """The folder of the checkpoints of a run that was stopped in its last epoch, after its first step."""
    left = 10  # checks: at the start, and before each step

    def check():
        nonlocal left
        left -= 1
        if left < 0:
            raise process.Terminated

    with monkeypatch.context() as patch:
        patch.setattr(execute, "CHECKPOINT_SECONDS", 0)
        patch.setattr(process, "check", check)
        with pytest.raises(process.Terminated):
            execute.execute(spec())
    folder = checkpoints.folder_of(spec())
    places = ("000002-000000", "000002-000001")  # of three that were written
    assert {path.name for path in folder.iterdir()} == {f"{p}.{e}" for p in places for e in ("json", "safetensors")}
    return folder


@pytest.mark.parametrize("name", ["000002-000001.json", "000002-000001.safetensors"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(stopped, tmp_path, undisturbed, capsys, name):
    shutil.copytree(stopped, tmp_path / "whole")
    for how, where in SPOILT:
        spoil(stopped / name, how, where)
        progress, _ = checkpoints.latest(spec())
        assert (progress.epoch, progress.step) == (2, 0)
        assert f"a checkpoint is not used: {stopped / name} is not as it was written" in capsys.readouterr().err
        shutil.copytree(tmp_path / "whole", stopped, dirs_exist_ok=True)
    spoil(stopped / name, "turn", 0.5)
    run = execute.execute(spec())
    assert bits(run.folder) == bits(undisturbed)
    assert leftovers(run.folder) == []


def test_a_checkpoint_of_other_code_is_not_used(stopped, monkeypatch, capsys):
    made_of = fresh.provenance(spec())
    made_of["code"] = made_of["code"] | {"learn.models": "another"}
    monkeypatch.setattr(fresh, "provenance", lambda _: made_of)
    assert checkpoints.latest(spec()) == (None, 0.0)
    assert "is no longer what it was: learn.models changed" in capsys.readouterr().err
    assert list(stopped.iterdir()) == []


def test_a_damaged_map_is_found_wherever_it_is_damaged(stored):
    asked = study.plan("smoke", **SMALL, perplexity=5.0, tsne_iterations=10)
    plane = maps.map_of(asked, store.load(stored))
    (path,) = (paths.build_folder() / "maps").iterdir()
    whole = path.read_bytes()
    for how, where in SPOILT:
        spoil(path, how, where)
        with pytest.raises(files.Damaged, match=path.name):
            maps.read_map(path)
        path.write_bytes(whole)
    assert np.array_equal(maps.map_of(asked, store.load(stored)), plane)


def test_a_damaged_set_is_named_and_can_be_fetched_again(tmp_path):
    archives.pack(tmp_path / "MiceBone.zip", archives.micebone()[0])
    given = ("micebone", str(tmp_path / "MiceBone.zip"), (files.checksum(tmp_path / "MiceBone.zip"),))
    assert fetch.fetch(*given)
    path = sets.locate("micebone")
    whole = path.read_bytes()
    for how, where in SPOILT:
        spoil(path, how, where)
        with pytest.raises(InputError, match=f"{path} is not as it was written"):
            sets.read("micebone")
        if (how, where) != SPOILT[-1]:
            path.write_bytes(whole)
    path.unlink()
    assert fetch.fetch(*given)
    assert path.read_bytes() == whole


def test_a_fetch_that_is_killed_is_done_by_the_next_one_and_leaves_nothing(tmp_path):
    archive = archives.pack(tmp_path / "MiceBone.zip", archives.micebone()[0])
    fetching = ["data", "fetch", "micebone", "--from", str(archive), "--sha256", files.checksum(archive)]
    kills = [{"arguments": fetching, "at": ["sync", n, "kill"]} for n in (1, 3)]  # before the record, before the set
    codes, said, _ = live(tmp_path, *kills, {"arguments": fetching}, {"arguments": fetching})
    assert codes == [KILLED, KILLED, 0, 0], said
    assert (said.count("is made"), said.count("is there already")) == (1, 1)
    left = {path.name for path in sets.folders()[1].iterdir()}
    assert left == {"micebone.npz", "micebone.json", ".micebone.lock"}


# Without space


def halves(folder):
    """What was written in part: files with a temporary name."""
    return [path for path in folder.rglob(".*") if path.suffix != ".lock"]


@pytest.mark.parametrize("what", ["checkpoint", "result"])
def test_a_full_disk_is_named_nothing_is_left_in_part_and_with_room_the_run_goes_on(
    disk, full, monkeypatch, capsys, undisturbed, what
):
    monkeypatch.setattr(execute, "CHECKPOINT_SECONDS", {"checkpoint": 0, "result": 100}[what])
    filler = full(left=200_000)
    assert cli.main(ARGUMENTS) == 1
    said = capsys.readouterr().err
    place = checkpoints.folder_of(spec()) if what == "checkpoint" else paths.build_folder() / "runs"
    assert f"bhl: error: {place}" in said
    assert f"cannot be written: No space left on device in {place}" in said
    assert len(said.splitlines()) == 1
    assert halves(disk) == []
    filler.unlink()
    assert cli.main(ARGUMENTS) == 0
    assert bits(paths.build_folder() / "runs" / spec().key) == bits(undisturbed)


# Whole commands, as they are called


def command(build, *arguments, **options):
    """Start ``bhl`` in a session of its own."""
    environment = {**os.environ, "BHL_BUILD_DIR": str(build), **options.pop("environment", {})}
    environment.pop("MPLBACKEND", None)
    return subprocess.Popen(
        [sys.executable, "-m", "beyond_hard_labels", *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def members(session):
    """The processes of a session that are still running."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of_session = stat.read_text().rpartition(")")[2].split()[:4]
            found += [int(stat.parent.name)] if int(of_session) == session and state != "Z" else []
    return found


def wait_until(true, process=None):
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        assert process is None or process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.mark.slow
def test_a_study_of_two_workers_is_stopped_and_killed_and_ends_in_the_same_bits(tmp_path):
    changed = TINY | {"epochs": 60, "dropout": 0.3}
    specs = study.plan("smoke", **changed).specs()
    build, arguments = tmp_path / "killed", ["study", "--profile", "smoke", "--workers", "2", *set_options(**changed)]

    def started(then):
        """Start the study, wait till both runs have gone on by an epoch, and do something to it."""
        running = command(build, *arguments, stdout=subprocess.DEVNULL)
        epochs = [build / "progress" / spec.key for spec in specs]
        wait_until(lambda: all(path.is_file() for path in epochs), running)
        before = [path.read_text() for path in epochs]
        pairs = list(zip(epochs, before, strict=True))
        wait_until(lambda: all(path.is_file() and path.read_text() not in ("", b) for path, b in pairs), running)
        then(running.pid)
        said = running.communicate()[1]
        wait_until(lambda: members(running.pid) == [])
        return running.returncode, said

    code, said = started(lambda pid: os.kill(pid, signal.SIGTERM))
    assert code == process.TERMINATED
    assert "told to stop" in said
    kept = {spec.key: sorted((build / "checkpoints" / spec.key).iterdir()) for spec in specs}
    assert all(kept.values())
    code, _ = started(lambda pid: os.kill(pid, signal.SIGKILL))  # its workers save, and end with it
    assert code == KILLED
    later = {spec.key: sorted((build / "checkpoints" / spec.key).iterdir()) for spec in specs}
    assert all(later[key][-1] > kept[key][-1] for key in kept)
    code, _ = started(lambda pid: os.killpg(pid, signal.SIGKILL))
    assert code == KILLED
    code, said = started(lambda pid: None)
    assert (code, "goes on after" in said) == (0, True)
    for spec in specs:
        assert bits(build / "runs" / spec.key) == bits(execute.execute(spec).folder)
        assert leftovers(build / "runs" / spec.key) == []


@pytest.mark.slow
@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_a_book_that_ends_in_the_middle_of_a_notebook_is_built_by_the_next_call(tmp_path, end):
    root, build, flag, go = (tmp_path / name for name in ("project", "build", "flag", "go"))
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    for name in ("references.bib", "runs.md"):
        shutil.copy(ROOT / "book" / name, root / "book")
    shutil.copy(ROOT / "_config.yml", root)
    chapters = "chapters:\n  - file: notebooks/01_one\n  - file: book/runs\n"
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: book/intro\n{chapters}")
    (root / "book" / "intro.md").write_text("# Title\n\nProfile {{ profile }}.\n")
    (root / "notebooks").mkdir()
    wait = f"import time, pathlib\npathlib.Path('{flag}').touch()\n"
    wait += f"while not pathlib.Path('{go}').exists():\n    time.sleep(0.05)"
    made = new_notebook(cells=[new_markdown_cell("# One"), new_code_cell(wait), new_code_cell("print('to the end')")])
    made.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(made, root / "notebooks" / "01_one.ipynb")
    environment = {"PYTHONPATH": str(root / "src")}
    given = {"cwd": root, "environment": environment, "stdout": subprocess.PIPE}
    arguments = ["book", "--profile", "smoke", *set_options(**TINY)]

    first = command(build, *arguments, **given)
    wait_until(flag.exists, first)
    trained = {path: path.stat().st_mtime_ns for path in build.glob("runs/*/manifest.json")}
    getattr(first, end)()
    said = first.communicate()[1]
    assert first.returncode == {"terminate": process.TERMINATED, "kill": KILLED}[end]
    assert ("told to stop" in said) is (end == "terminate")
    wait_until(lambda: members(first.pid) == [])  # nor a kernel
    assert not (build / "executed" / "01_one.ipynb").exists()
    assert not (build / "book").exists()
    go.touch()
    second = command(build, *arguments, **given)
    said = second.communicate()
    assert second.returncode == 0, said
    assert len(trained) == 2
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    html = build / "book" / "_build" / "html"
    assert "to the end" in (html / "notebooks" / "01_one.html").read_text()
    assert "Profile smoke." in (html / "book" / "intro.html").read_text()
