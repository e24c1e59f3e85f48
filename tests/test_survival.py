"""Killed, told to stop, damaged, without space: the next call ends in the same bits as an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from beyond_hard_labels import study
from conftest import TINY, sets

SMALL = TINY | {"epochs": 3, "dropout": 0.3}  # 4 steps an epoch
ARGUMENTS = ["run", "--dataset", "synthetic", "--labels", "soft", "--split", "0", "--profile", "smoke"]
KILLED = -signal.SIGKILL


def live(tmp_path, lives, **changed):
    """Live some lives one after the other; return their exit codes, what was said, and the run that is left, if any."""
    options = [*ARGUMENTS, *sets(**(SMALL | changed))]
    plan = [{"build": str(tmp_path / "lives"), "arguments": options} | life for life in lives]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("lives.py"), json.dumps(plan)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "lives" / "runs" / study.plan("smoke", **(SMALL | changed)).spec("soft", 0).key
    return json.loads(done.stdout.splitlines()[-1]), done.stderr, folder


def undisturbed(**changed):
    return study.execute(study.plan("smoke", **(SMALL | changed)).spec("soft", 0)).folder


def contents(folder):
    with np.load(folder / "predictions.npz") as file, np.load(folder / "features.npz") as features:
        arrays = {name: file[name].tobytes() for name in file.files} | {"features": features["test"].tobytes()}
    return arrays | {name: (folder / name).read_bytes() for name in ("weights.safetensors", "history.csv", "spec.json")}


def left(build):
    """What lies in a build folder beside runs and locks."""
    return [str(path) for name in ("checkpoints", "progress") for path in (build / name).glob("**/*")]


@pytest.mark.parametrize("n", [pytest.param(5, id="five"), pytest.param(20, id="twenty", marks=pytest.mark.slow)])
def test_a_run_that_is_killed_at_random_moments_ends_in_the_same_bits(tmp_path, n):
    seed = random.randrange(10**6)
    print("seed", seed)  # shown if the test fails
    draw = random.Random(seed)
    events = {"step": 7, "epoch": 2, "checkpoint": 1, "sync": 8, "store": 2}  # and how many a life has at least
    ends = [[event := list(events)[i % 5], draw.randint(1, events[event]), "kill"] for i in range(n)]
    draw.shuffle(ends)
    codes, said, folder = live(tmp_path, [*({"ends": end} for end in ends), {}])
    print(ends, codes, said)
    assert codes == [*[KILLED] * n, 0]
    assert contents(folder) == contents(undisturbed())
    assert left(tmp_path / "lives") == []
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
