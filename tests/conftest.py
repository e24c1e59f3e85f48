import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "agg")

ROOT = Path(__file__).resolve().parents[1]
TINY = {"n_images": 100, "image_size": 16, "epochs": 2, "batch_size": 16, "splits": 1}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(autouse=True)
def own_build_folder(tmp_path, monkeypatch):
    """Keep every test's runs and sets to itself; what a test writes is gone with it."""
    monkeypatch.setenv("BHL_BUILD_DIR", str(tmp_path / "build"))
    monkeypatch.setenv("BHL_DATA_DIR", str(tmp_path / "cache"))


@pytest.fixture
def full(tmp_path):
    """Return a function that fills a small disk, but for some bytes, on which builds and the data cache lie."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk, since this user may not mount one: {mounted.stderr.strip()}")

    def fill(left):
        filler = disk / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - left))
        return filler

    yield fill
    subprocess.run(["umount", disk], check=True)


@pytest.fixture
def disk(full, tmp_path, monkeypatch):
    monkeypatch.setenv("BHL_BUILD_DIR", str(tmp_path / "disk" / "build"))
    monkeypatch.setenv("BHL_DATA_DIR", str(tmp_path / "disk" / "cache"))
    return tmp_path / "disk"


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


def remade(folder: Path, **changes) -> None:
    """Change a stored run's manifest, and store its files as they are now: it is another run, and not a damaged one."""
    from beyond_hard_labels.base import files

    manifest = files.read_sealed_json(folder / "manifest.json") | changes
    manifest["files"] |= {
        name: files.checksum(folder / name) for name in manifest["files"] if (folder / name).is_file()
    }
    files.write_json(folder / "manifest.json", manifest, sealed=True)


def set_options(**values) -> list[str]:
    """Return ``--set`` options."""
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")  # not the session's: while it is open, its event loop runs in this thread
def browser():
    """The system's Chromium without a window, which can reach nothing but this machine."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse(f"no browser for the tests of the pages: none of {', '.join(BROWSERS)} is on PATH")
    quiet = ["background-networking", "component-update", "sync", "gpu", "quic"]
    flags = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    flags.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=flags)
        yield opened
        opened.close()
