"""What the project says of itself: its pins, its size, its commands, and the table and findings of the README."""

import ast
import re
import tomllib
from importlib import metadata

import nbformat
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from beyond_hard_labels.analysis.scores import better, differences, scores
from beyond_hard_labels.book.tables import mean_std
from beyond_hard_labels.runs import publish
from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REQUIREMENTS = {canonicalize_name(r.name): r.specifier for r in map(Requirement, PROJECT["dependencies"])}
CONDA = {"pytorch-cpu": "torch"}  # names that differ on conda-forge


def test_what_is_installed_here_is_what_is_pinned_and_every_pin_lies_in_the_range_of_the_package():
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line and line[0] != "#"]
    here = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate()]
    pins = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in here}
    for name, specifier in REQUIREMENTS.items():
        assert specifier.contains(pins[name]), name
        assert metadata.version(name) == pins[name]


def test_conda_has_the_ranges_of_the_package():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    by_pip = dependencies.pop()["pip"]
    assert by_pip.pop() == "-e ."
    dependencies.remove("pip")
    found = {CONDA.get(r.name, canonicalize_name(r.name)): r.specifier for r in map(Requirement, dependencies + by_pip)}
    assert found.pop("python") == Requirement(f"python{PROJECT['requires-python']}").specifier
    assert found == REQUIREMENTS


def test_the_package_is_thin():
    """A doubter reads the science core in an afternoon, and any module or function in one sitting."""
    package, lines = ROOT / "src" / "beyond_hard_labels", {}
    for path in package.rglob("*.py"):
        text = path.read_text("utf-8")
        lines[path.relative_to(package).as_posix()] = text.count("\n")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name}"
    core = ("base/rng.py", "data/images.py", "data/shapes.py", "data/votes.py")
    assert max(lines.values()) <= 350, max(lines, key=lines.get)
    assert sum(n for name, n in lines.items() if name in core or name.startswith("learn/")) <= 1700


def test_the_makefile_has_the_verbs_that_the_readme_names():
    verbs = set(re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text(), re.M)) | {"clean"}
    assert set(re.findall(r"make ([\w-]+)", (ROOT / "README.md").read_text())) <= verbs


def test_the_workflow_calls_what_everybody_can_call():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in commands
    keeps_the_environment = "test ! -e .venv/ready || touch .venv/ready"
    known = rf"\.ci/run|make [\w-]+( \w+=\w+)*|{re.escape(keeps_the_environment)}"
    assert [command for command in commands if not re.fullmatch(known, command)] == []


def test_the_table_of_the_readme_is_what_the_published_runs_come_to():
    table = [line.strip("| ").split(" | ") for line in (ROOT / "README.md").read_text("utf-8").splitlines()]
    shown = {cells[0]: cells[1:] for cells in table if len(cells) == 5}
    columns = [(arm, metric) for arm in ("hard", "soft") for metric in ("macro_accuracy", "kl")]
    for entry in (entry for entry in publish.entries() if entry.runs):
        rows = scores(entry.runs)
        shown_better = better(differences(rows, ["macro_accuracy", "kl"]))
        for column, cell in zip(columns, shown.pop(entry.title), strict=True):
            values = rows.loc[rows["labels"] == column[0], column[1]]
            text = mean_std(values.mean(), values.std())
            assert cell == (f"**{text}**" if column in shown_better else text), (entry.title, column)
    assert len(shown) == 3  # the heads, their line, and the paper


def test_what_the_readme_concludes_are_claims_of_the_book():
    notebooks = [nbformat.read(path, as_version=4) for path in (ROOT / "notebooks").glob("*.ipynb")]
    sources = "".join(cell.source for notebook in notebooks for cell in notebook.cells)
    readme = (ROOT / "README.md").read_text("utf-8")
    concluded = re.findall(r"^- (.+)$", readme[readme.index("What the book concludes") :].split("\n\n")[1], re.M)
    assert len(concluded) == 9
    for sentence in concluded:
        assert f'"{sentence}"' in re.sub(r'"\s+"', "", sources), sentence
