"""What a person meets first: pins that resolve, `make` in any folder with any Python, and `jupyter-book build .`."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
import uv
import yaml

from beyond_hard_labels.book import build
from conftest import ROOT

OLDEST, NEWEST = "3.11.0", "3.14.0"


def resolved(arguments, folder):
    """Run uv; skip where the package index is out of reach, but not where CI is set."""
    command = [uv.find_uv_bin(), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if "Failed to fetch" in done.stderr and not os.environ.get("CI"):
        pytest.skip("the package index is out of reach")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    """Return a folder as people have them, with what sets an environment up."""
    target = tmp_path / "my päper dir"
    target.mkdir()
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, target)
    return target


@pytest.mark.parametrize("python", [OLDEST, NEWEST])
def test_the_pins_resolve_to_wheels_for_the_oldest_and_the_newest_python(python, folder):
    where = ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:"]
    resolved(["pip", "compile", "--quiet", *where, "-c", "constraints.txt", "pyproject.toml", "--all-extras"], folder)


def test_the_pins_are_what_the_command_at_their_head_makes_and_name_no_address(folder):
    pinned = (folder / "constraints.txt").read_text("utf-8")
    program, *arguments = shlex.split(pinned.splitlines()[1].removeprefix("#"))
    assert program == "uv"
    resolved([*arguments, "--quiet"], folder)
    assert (folder / "constraints.txt").read_text("utf-8") == pinned
    assert "://" not in pinned


def test_the_workflow_tests_the_oldest_and_the_newest_python():
    check = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text("utf-8"))["jobs"]["check"]
    assert check["strategy"]["matrix"]["python"] == [OLDEST.removesuffix(".0"), NEWEST.removesuffix(".0")]
    assert check["env"]["PYTHON"] == "python${{ matrix.python }}"


# Pythons as they lie on a PATH. Each shell script stands before the Python that runs the tests; what a good one
# sets up notes its calls instead of installing.
SHIM = "echo 'pyenv: command not found' >&2; exit 127"
TOO_OLD = 'case "$*" in *version_info*) exit 1;; esac; exec {python} "$@"'
WITHOUT_VENV = 'case "$*" in *ensurepip*) exit 1;; esac; exec {python} "$@"'
GOOD = """
[ "$1" = -m ] || exec {python} "$@"
[ "$*" = "-m venv --clear .venv" ] || exit 9
mkdir -p .venv/bin
for name in python uv bhl; do
    printf '#!/bin/sh\\necho "%s $*" >> calls\\n' $name > .venv/bin/$name
    chmod +x .venv/bin/$name
done
echo "${{0##*/}} $*" > calls
"""


@pytest.fixture
def make(folder, tmp_path):
    """Return a function that calls make where only the given Pythons are on the PATH."""
    only = tmp_path / "only these"
    only.mkdir()
    for name in ("make", "mkdir", "chmod", "touch"):
        (only / name).symlink_to(shutil.which(name))

    def call(*arguments, cwd=folder, **pythons):
        for name, script in pythons.items():
            path = only / name.replace("_", ".")
            path.write_text("#!/bin/sh\n" + script.format(python=shlex.quote(sys.executable)), "utf-8")
            path.chmod(0o755)
        options = {"cwd": cwd, "env": {"PATH": str(only)}, "capture_output": True, "text": True, "check": False}
        return subprocess.run(["make", *arguments], **options)

    return call


@pytest.mark.parametrize(
    ("pythons", "taken"),
    [
        pytest.param({"python3_12": GOOD, "python3_11": GOOD, "python3": GOOD}, "python3.12", id="the newest"),
        pytest.param({"python3_14": SHIM, "python3_13": WITHOUT_VENV, "python3_11": GOOD}, "python3.11", id="works"),
        pytest.param({"python3_12": SHIM, "python3": GOOD}, "python3", id="no number"),
    ],
)
def test_make_sets_up_with_the_newest_python_that_works(make, folder, pythons, taken):
    done = make("book", "PROFILE=smoke", **pythons)
    assert done.returncode == 0, done.stderr
    assert "Setting up .venv from constraints.txt with Python 3." in done.stdout
    assert (folder / "calls").read_text("utf-8").splitlines() == [
        f"{taken} -m venv --clear .venv",
        "python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv",
        "uv pip install --python .venv --compile-bytecode -c constraints.txt -e .[dev]",
        "bhl book --profile smoke",
    ]


def test_make_takes_the_python_that_is_named_from_another_folder(make, folder, tmp_path):
    make("--version", python3_12=GOOD, python3_11=GOOD)
    done = make("-C", folder, "book", f"PYTHON={sys.executable}-none python3.11", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = make("-C", folder, "book", cwd=tmp_path)
    assert "Setting up" not in again.stdout
    made, *_, first, second = (folder / "calls").read_text("utf-8").splitlines()
    assert made.startswith("python3.11 ")
    assert first == second == "bhl book --profile quick"


@pytest.mark.parametrize(
    ("pythons", "said"),
    [
        pytest.param({}, "none of these works here: python3.14 python3.13 python3.12 python3.11 python3.", id="none"),
        pytest.param({"python3_13": SHIM, "python3": TOO_OLD}, "This needs Python 3.11 or newer", id="too old"),
        pytest.param({"python3_11": WITHOUT_VENV}, "'apt-get install python3.11-venv' brings it", id="without venv"),
    ],
)
def test_make_says_what_is_missing(make, folder, pythons, said):
    done = make("book", **pythons)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (folder / ".venv").exists()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return a copy of what Jupyter Book sees in the checkout."""
    target = tmp_path_factory.mktemp("checkout")
    for name in ("book", "notebooks", "src"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, target)
    return target


@pytest.mark.parametrize(
    ("what", "said"),
    [
        *((name, "make book") for name in (".", "notebooks/01_data.ipynb", "book/paper.md")),
        *((name, "Couldn't find a Table of Contents") for name in ("book", "notebooks")),
    ],
)
def test_jupyter_book_builds_no_book_without_numbers(sources, what, said):
    before = sorted(sources.rglob("*"))
    call = [sys.executable, "-B", "-c", "from jupyter_book.cli.main import main; main()", "build", what]
    done = subprocess.run(call, cwd=sources, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert sorted(sources.rglob("*")) == before


def test_the_stage_is_built_without_what_stops_the_sources():
    there = yaml.safe_load((ROOT / "_config.yml").read_bytes())["sphinx"]
    staged = yaml.safe_load(build.config(ROOT))["sphinx"]
    assert "local_extensions" not in staged
    assert set(there["config"]["extensions"]) - set(staged["config"]["extensions"]) == set(there["local_extensions"])
