import ast
import re

import nbformat
import papermill
import pytest
import yaml

from beyond_hard_labels.book import build
from beyond_hard_labels.runs import study
from conftest import ROOT, TINY

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def markdown(path):
    return "\n\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")


@each_notebook
def test_sources_are_stripped_and_have_stable_cell_ids(path):
    notebook = nbformat.read(path, as_version=4)
    assert all(c.execution_count is None and not c.outputs for c in code_cells(path))
    assert [c.id for c in notebook.cells] == [f"{path.stem[:2]}-{i:02d}" for i in range(len(notebook.cells))]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"


@each_notebook
def test_notebooks_are_thin(path):
    cells = [c for c in code_cells(path) if "parameters" not in c.metadata.get("tags", [])]
    assert len(cells) <= 25
    for cell in cells:
        assert len(cell.source.splitlines()) <= 12, cell.source
        nodes = list(ast.walk(ast.parse(cell.source)))
        banned = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.With)
        assert not any(isinstance(node, banned) for node in nodes), cell.source


def of_its_own(assignments):
    """The argument that names the parameters which a notebook has beyond the common ones."""
    names = [node.targets[0].id for node in ast.parse(assignments).body if node.value.value is None]
    return ", own=({})".format(", ".join(f'"{name}"' for name in names)) if assignments else ""


@each_notebook
def test_every_notebook_has_the_same_parameters_and_checks_them_in_the_next_cell(path):
    first, second = code_cells(path)[:2]
    common = code_cells(NOTEBOOKS[0])[0].source
    own = first.source.removeprefix(common)
    assert first.source.startswith(common)
    assert first.metadata.tags[0] == "parameters"
    assert f"study = from_notebook(globals(){of_its_own(own)})" in second.source
    names = {node.targets[0].id: node.value.value for node in ast.parse(common).body}
    assert names.pop("profile") == "quick"
    assert set(names.values()) == {None}
    assert set(names) < set(study.valid_parameters())


@each_notebook
def test_every_figure_has_a_caption_a_name_and_an_alternative_text(path):
    for cell in code_cells(path):
        if "_ = plots." in cell.source:
            assert cell.metadata.mystnb.figure.keys() == {"caption", "name"}
            assert len(cell.metadata.mystnb.image.alt) > 40


@each_notebook
def test_prose_is_one_sentence_a_line_and_types_no_result(path):
    for line in markdown(path).splitlines():
        if line.startswith(("```", ":", "#", "-")):
            continue
        assert not re.search(r"[.?!] [A-Z]", line), line
        assert not re.search(r"\d\.\d{3}", line), line


def test_the_table_of_contents_names_every_page_and_only_pages_that_exist():
    named = set(re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text()))
    there = {f"notebooks/{p.stem}" for p in NOTEBOOKS} | {f"book/{p.stem}" for p in (ROOT / "book").glob("*.md")}
    assert named == there
    assert build.notebooks_in_order(ROOT) == [p.stem for p in NOTEBOOKS]
    assert yaml.safe_load((ROOT / "_config.yml").read_text())["execute"]["execute_notebooks"] == "off"


def execute(path, tmp_path, **parameters):
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        path, out, {"profile": "smoke", **parameters}, kernel_name="python3", progress_bar=False, cwd=tmp_path
    )
    return nbformat.read(out, as_version=4)


@pytest.mark.filterwarnings("default")  # what kernels and their clients warn of is not ours
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epocs": 3}, "unknown parameter 'epocs'"),
        ({"epochs": "3"}, "'epochs' is '3', expected an integer"),
        ({"backbone": "vgg"}, "'backbone' is 'vgg', expected one of densenet121"),
    ],
)
def test_plain_papermill_stops_at_bad_parameters(tmp_path, parameters, message):
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        execute(NOTEBOOKS[0], tmp_path, **parameters)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@each_notebook
def test_every_notebook_runs_alone_under_plain_papermill_with_other_parameters(path, tmp_path):
    parameters = TINY | {"n_images": 300, "image_size": 24, "perplexity": 10.0, "tsne_iterations": 300}
    notebook = execute(path, tmp_path, **parameters)
    assert build.unfinished(notebook) == []
    assert "application/vnd.jupyter.widget" not in nbformat.writes(notebook)
    assert "epoch/s" not in nbformat.writes(notebook)
