import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "agg")

ROOT = Path(__file__).resolve().parents[1]
TINY = {"n_images": 100, "image_size": 16, "epochs": 2, "batch_size": 16, "splits": 1}


@pytest.fixture(autouse=True)
def own_build_folder(tmp_path, monkeypatch):
    """Keep every test's runs and sets to itself; what a test writes is gone with it."""
    monkeypatch.setenv("BHL_BUILD_DIR", str(tmp_path / "build"))
    monkeypatch.setenv("BHL_DATA_DIR", str(tmp_path / "cache"))


@pytest.fixture
def bhl(tmp_path):
    """Return a function that runs the command in a process of its own."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "beyond_hard_labels", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **environment},
            check=False,
        )

    return run


def sets(**values) -> list[str]:
    """Return ``--set`` options."""
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
