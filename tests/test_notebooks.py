import ast
import re

import nbformat
import papermill
import pytest
import yaml

from beyond_hard_labels.book import build, execution
from beyond_hard_labels.runs import study
from conftest import ROOT, TINY

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
DRAWS = re.compile(r"\b(?:sns|plt|plots)\.(?!use_style|\w*palette)\w+\(")


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def markdown(path):
    return "\n\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")


@each_notebook
def test_sources_are_stripped_and_have_cell_ids_of_their_own(path):
    notebook = nbformat.read(path, as_version=4)
    assert all(c.execution_count is None and not c.outputs for c in code_cells(path))
    assert len({c.id for c in notebook.cells}) == len(notebook.cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"


@each_notebook
def test_a_reader_sees_every_cell_and_each_fits_a_screen(path):
    for cell in code_cells(path):
        assert not [tag for tag in cell.metadata.get("tags", []) if tag.startswith("remove")], cell.id
        assert len(cell.source.splitlines()) <= 15, cell.id
    assert "{{" not in path.read_text("utf-8")


@each_notebook
def test_the_first_cell_of_code_holds_parameters_and_the_next_checks_them(path):
    first, second = code_cells(path)[:2]
    assert first.metadata.tags == ["parameters"]
    named = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(first.source).body}
    assert named["profile"] == "quick"
    called = next(
        n for n in ast.walk(ast.parse(second.source)) if getattr(getattr(n, "func", 0), "id", "") == "study_of"
    )
    own = [ast.literal_eval(keyword.value) for keyword in called.keywords if keyword.arg == "own"]
    others = set(named) - {"profile"} - set(*own)
    assert others <= set(study.valid_parameters())
    assert {named[name] for name in others} <= {None}


@each_notebook
def test_every_figure_has_a_caption_a_name_and_an_alternative_text(path):
    for cell in code_cells(path):
        run = [node for node in ast.parse(cell.source).body if not isinstance(node, ast.FunctionDef)]
        if any(DRAWS.search(ast.unparse(node)) for node in run):
            assert cell.metadata.mystnb.figure.keys() == {"caption", "name"}, cell.id
            assert len(cell.metadata.mystnb.image.alt) > 40, cell.id


@each_notebook
def test_what_a_cell_shows_is_its_last_expression_or_nobody_sees_it(path):
    for cell in code_cells(path):
        *before, last = ast.parse(cell.source).body
        unseen = before if isinstance(last, ast.Expr) else [*before, last]
        calls = [n for node in unseen for n in ast.walk(node) if isinstance(n, ast.Call)]
        seen = [shown for n in calls if ast.unparse(n.func) == "display" for shown in n.args]
        called = {ast.unparse(n.func) for n in calls if n not in seen}
        assert not {"show", "say", "claim", "about"} & called, cell.id


@each_notebook
def test_prose_is_one_sentence_a_line(path):
    for line in markdown(path).splitlines():
        if not line.startswith(("```", ":", "#", "-")):
            assert not re.search(r"[.?!] [A-Z]", line), line


def test_the_table_of_contents_names_every_page_and_only_pages_that_exist():
    named = set(re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text("utf-8")))
    there = {f"notebooks/{p.stem}" for p in NOTEBOOKS} | {f"book/{p.stem}" for p in (ROOT / "book").glob("*.md")}
    assert named == there
    assert set(build.notebooks_in_order(ROOT)) == {p.stem for p in NOTEBOOKS}
    assert yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["execute"]["execute_notebooks"] == "off"


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
    assert execution.unfinished(notebook) == []
    assert "application/vnd.jupyter.widget" not in nbformat.writes(notebook)
    assert "epoch/s" not in nbformat.writes(notebook)
