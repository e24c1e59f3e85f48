"""What a reader of the chapters may do with them: change a cell, and see tables and claims follow."""

import nbformat
import papermill
import pytest

from conftest import ROOT, TINY

MINE = """
def hits(truth, predicted): return (truth.argmax(axis=1) == predicted.argmax(axis=1)).mean()
metrics["hits"] = Metric(hits, "hits", 1)
columns.append("hits")
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what kernels and their clients warn of is not ours
def test_a_metric_that_is_added_in_chapter_04_alone_stands_in_its_tables_and_one_split_decides_nothing(tmp_path):
    notebook = nbformat.read(ROOT / "notebooks" / "04_metrics.ipynb", as_version=4)
    place = [cell.id for cell in notebook.cells].index("04-metrics") + 1
    notebook.cells.insert(place, nbformat.v4.new_code_cell(MINE.strip()))
    copy, out = tmp_path / "copy.ipynb", tmp_path / "out.ipynb"
    nbformat.write(notebook, copy)
    given = {"profile": "smoke", **TINY}
    papermill.execute_notebook(copy, out, given, kernel_name="python3", progress_bar=False, cwd=tmp_path)

    shown = {
        cell.id: output
        for cell in nbformat.read(out, as_version=4).cells
        for output in cell.get("outputs", [])
        if "text/markdown" in output.get("data", {})
    }
    arms = shown["04-scores"]["data"]["text/markdown"]
    assert "| hits |" in arms.splitlines()[0]
    assert "**" not in arms
    assert "| hits |" in shown["04-all"]["data"]["text/markdown"]
    claims = {
        cell: found for cell, output in shown.items() if "claim" in (found := output["metadata"]["beyond_hard_labels"])
    }
    of_both_arms = {"04-kl", "04-which-claim", "04-colour-claim", "04-agreement-claim"}
    assert of_both_arms <= claims.keys()
    assert not any(claims[cell]["decided"] for cell in of_both_arms)
