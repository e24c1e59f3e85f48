import re
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from beyond_hard_labels.runs.fresh import code_without_comments
from conftest import ROOT

CONDA = {"pytorch-cpu": "torch"}  # names that differ on conda-forge


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def requirements():
    return [Requirement(text) for text in project()["dependencies"]]


def pins():
    """Return the pinned releases for this Python and this system."""
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line and line[0] != "#"]
    found = [Requirement(line) for line in lines]
    here = [pin for pin in found if pin.marker is None or pin.marker.evaluate()]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in here}


def test_every_pin_lies_in_the_range_of_the_package():
    for requirement in requirements():
        assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)]), requirement


def test_conda_has_the_ranges_of_the_package():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    by_pip = dependencies.pop()["pip"]
    assert by_pip.pop() == "-e ."
    dependencies.remove("pip")
    found = {CONDA.get(r.name, canonicalize_name(r.name)): r.specifier for r in map(Requirement, dependencies + by_pip)}
    assert found.pop("python") == Requirement(f"python{project()['requires-python']}").specifier
    assert found == {canonicalize_name(r.name): r.specifier for r in requirements()}


def test_what_is_installed_here_is_what_is_pinned():
    for requirement in requirements():
        assert metadata.version(requirement.name) == pins()[canonicalize_name(requirement.name)]


PARTS = {  # the most lines that each may have, without docstrings and comments
    "shapes images real_data dcic fetch": 1050,
    "randomness parameters votes material augmentation models training metrics embedding runs study sections": 1550,
    "files process checkpoints status packing cluster": 700,
    "grids significance answers sentences": 750,
}


def test_the_package_is_thin():
    """What determines results can be read in an afternoon; so can where data come from, and what shows them."""
    size = {
        path.stem: len(code_without_comments(path.read_text()).splitlines())
        for path in (ROOT / "src" / "beyond_hard_labels").glob("*.py")
    }
    for modules, most in PARTS.items():
        assert sum(size.pop(module, 0) for module in modules.split()) <= most, modules
    assert sum(size.values()) <= 2550


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


@pytest.mark.parametrize("name", ["LICENSE", "CITATION.cff", "CONTRIBUTING.md", "README.md"])
def test_the_project_says_what_it_is(name):
    assert len((ROOT / name).read_text()) > 200


def test_the_citation_file_is_valid_yaml_with_the_papers_authors():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    names = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    assert names == ["Grossmann", "Schmarje", "Koch"]
