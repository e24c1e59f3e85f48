import re

import numpy as np
import pytest

from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import execution, verify
from conftest import remade
from test_book import CLAIM, SETUP, SOFT, built, notebook, project, small, tiny_runs, without_pages, write  # noqa: F401

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("without_pages")]

FIGURE = "import matplotlib.pyplot as plt\n_ = plt.figure(figsize=(1, 1)).add_subplot().plot([kl, 1])"


@pytest.fixture
def book(project, small):
    """A book with one page and one notebook that show numbers, a table, a claim and a figure."""
    write(project, "01_one", SETUP, SOFT, CLAIM, "show(runs[0].history, runs)", FIGURE)
    (project / "book" / "intro.md").write_text("# Title\n\nKL {{ number('01_one', 'kl') }}\n")
    built(project, small)
    return paths.build_folder() / "book"


def change_one_prediction(small):
    """Change a stored prediction so that the run's own checksums say nothing."""
    folder = paths.build_folder() / "runs" / small.spec("soft", 0).key
    with np.load(folder / "predictions.npz") as file:
        content = dict(file)
    content["test_logits"][0] = -content["test_logits"][0]
    np.savez_compressed(folder / "predictions.npz", **content)
    remade(folder)


def test_what_was_just_built_comes_out_again(book):
    checked, found = verify.faults(book, workers=1)
    assert found == []
    assert checked > 10  # outputs with their records, and pages


def test_predictions_that_give_other_numbers_are_named_where_they_are_shown(book, small):
    change_one_prediction(small)
    _, found = verify.faults(book, workers=1)
    told = "\n".join(found)
    for who in ("the book", "again"):
        assert re.search(rf"^{who}: 01_one, cell 3, text/markdown: KL 0\.\d+\.", told, re.M)
        assert re.search(rf'^{who}: 01_one, cell 3, record: +"kl": ', told, re.M)
        assert re.search(rf"^{who}: 01_one, cell 6, image/png: a picture, \w+$", told, re.M)
        assert re.search(rf"^{who}: book/intro\.md: KL ", told, re.M)
    assert "01_one, cell 5" not in told  # the history is the same


def test_a_missing_run_is_not_trained_and_is_named(book, small):
    (paths.build_folder() / "runs" / small.spec("soft", 0).key / "manifest.json").write_text("{}")
    _, found = verify.faults(book, workers=1)
    assert re.search(r"notebook 01_one failed in cell 2 (.|\n)*1 run\(s\) are missing", "\n".join(found))


def test_what_was_typed_over_and_cells_that_are_others_are_found(book):
    path = book / "notebooks" / "01_one.ipynb"
    shown, again = execution.read_notebook(path), execution.read_notebook(path)
    cells = {cell["source"]: cell for cell in shown["cells"]}
    cells[SOFT]["outputs"][0]["data"]["text/markdown"] = "KL 9.999."
    cells[FIGURE]["outputs"] = []
    cells[CLAIM]["source"] = "1"
    found = verify.differences(verify.lines("01_one", shown), verify.lines("01_one", again))
    assert found[0] == "the book: 01_one, cell 3, text/markdown: KL 9.999."
    assert found[1].startswith("again: 01_one, cell 3, text/markdown: KL 0.")
    assert found[2:4] == ["the book: 01_one, cell 4, code: 1", f"again: 01_one, cell 4, code: {CLAIM}"]
    assert found[4].startswith("again: 01_one, cell 6, image/png: a picture")


def test_verify_without_a_book_is_bad_input():
    with pytest.raises(InputError, match=r"there is no whole book at .*; build one with 'bhl book'"):
        verify.faults(paths.build_folder() / "book")


@pytest.mark.slow
def test_a_run_made_again_is_equal_to_the_last_bit(tiny_runs, project, small, bhl):
    key = small.spec("soft", 0).key
    before = {path: path.stat().st_mtime_ns for path in (paths.build_folder() / "runs" / key).iterdir()}
    done = bhl("compare", key, "--tolerance", "kl=0")
    assert done.returncode == 0, done.stderr
    assert "predictions equal to the last bit" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_run_that_differs_by_more_than_the_tolerance_fails(project, small, bhl):
    folder = paths.build_folder() / "runs" / small.spec("soft", 0).key
    change_one_prediction(small)
    assert bhl("compare", folder, "--tolerance", "kl=9", "--tolerance", "macro_accuracy=1").returncode == 0
    done = bhl("compare", folder, "--tolerance", "kl=0.0001")
    assert done.returncode == 1
    assert "NOT within the tolerances" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["nothing"], "there is no run 'nothing'", id="no such run"),
        pytest.param(["x", "--tolerance", "kl"], "--tolerance is 'kl', expected METRIC=X", id="no value"),
        pytest.param(["x", "--tolerance", "speed=1"], "METRIC of macro_accuracy", id="no such metric"),
    ],
)
def test_bad_comparisons_are_bad_input(bhl, arguments, message):
    done = bhl("compare", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
