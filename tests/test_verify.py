import json
import re

import numpy as np
import pytest

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.book import build, verify
from beyond_hard_labels.runs import study
from conftest import TINY
from test_book import built, notebook, project, small, tiny_runs, without_pages  # noqa: F401

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("without_pages")]

SAY = [
    "from beyond_hard_labels import report",
    "from beyond_hard_labels.runs.study import ensure, plan",
    f"study = plan('smoke', **{TINY})",
    "report.say('KL {{ soft.kl }}, {{ table.one }}', study, ensure(study))",
]


@pytest.fixture
def told(project, small):
    """A book with one page and one notebook that print numbers."""
    import nbformat

    nbformat.write(notebook("\n".join(SAY)), project / "notebooks" / "01_one.ipynb")
    built(project, small)
    return paths.build_folder() / "book"


def change_one_prediction(small, *, sealed=False):
    """Change a stored prediction; sealed, so that the run's own checksums say nothing."""
    folder = paths.build_folder() / "runs" / small.spec("soft", 0).key
    with np.load(folder / "predictions.npz") as file:
        content = dict(file)
    content["test_logits"][0] = -content["test_logits"][0]
    np.savez_compressed(folder / "predictions.npz", **content)
    if sealed:
        manifest = files.read_sealed_json(folder / "manifest.json")
        manifest["files"]["predictions.npz"] = files.checksum(folder / "predictions.npz")
        files.write_json(folder / "manifest.json", manifest, sealed=True)


def test_what_was_just_built_holds(told, bhl):
    done = bhl("verify")
    assert done.returncode == 0, done.stderr
    assert "0 fault(s)" in done.stdout


def test_pages_notebooks_and_run_pages_are_all_checked(told):
    places = {where for where, _, _ in verify.printed(told)}
    assert {"book/intro.md", "01_one, cell 2"} < places
    assert len([where for where in places if where.startswith("runs/")]) == 3


PLACES = ("book/intro.md: soft.kl", "01_one, cell 2: soft.kl", "01_one, cell 2: table.one", "table.metrics")


def test_one_changed_prediction_fails_verify_and_names_file_and_numbers(told, small, bhl):
    change_one_prediction(small)
    done = bhl("verify")
    assert done.returncode == 1
    assert f"{small.spec('soft', 0).key} is damaged, predictions.npz not as it was stored" in done.stderr
    for place in PLACES:
        assert f"{place} cannot be computed again" in done.stderr


def test_predictions_that_give_other_numbers_fail_verify_and_the_book(told, project, small, bhl):
    change_one_prediction(small, sealed=True)
    done = bhl("verify")
    assert done.returncode == 1
    for place in PLACES:
        assert re.search(rf"{re.escape(place)} is printed as .*, the stored predictions give", done.stderr)
    with pytest.raises(build.BookError, match=r"01_one, cell 2: soft\.kl is printed as"):
        build._verify(told)


def test_a_number_that_was_typed_over_is_found(told):
    page = told / "book" / "intro.md"
    page.write_text(page.read_text().replace("KL [", "KL [9"))
    _, found = verify.faults(told)
    assert [line for line in found if line.startswith("book/intro.md: soft.kl was recorded as")]


def test_verify_without_a_book_is_bad_input(bhl):
    done = bhl("verify")
    assert done.returncode == 2
    assert "there is no book at" in done.stderr


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
    change_one_prediction(small, sealed=True)
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


def test_the_record_of_a_page_is_enough_to_name_its_study(told, small):
    record = json.loads((told / "printed.json").read_text())["book/intro.md"]
    found, of = verify.runs_of(record)
    assert found == small == study.plan("smoke", **TINY)
    assert [run.spec for run in of] == small.specs()
