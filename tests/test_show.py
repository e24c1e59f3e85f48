"""What notebooks show: frames as tables, numbers and claims with their records, parameters in any order."""

import base64
import io
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from myst_parser.config.main import MdParserConfig
from myst_parser.mdit_to_docutils.base import DocutilsRenderer
from myst_parser.parsers.mdit import create_md_parser

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import notebook, tables
from beyond_hard_labels.runs import study

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "a|b",
    "one\ntwo",
    "`code`",
    "{ref}`role`",
    "$x^2$",
    "**bold** _it_",
    "[link](https://example.org)",
    "![](x.png)",
    "&lt;",
    "\\|",
    "http://example.org <http://example.org>",
    "# title",
)


def lines(frame, **options):
    return tables.markdown(frame, **options).splitlines()


def parsed(markdown):
    """The tokens of a text as the book's parser has them, with the extensions of `_config.yml`."""
    config = MdParserConfig(enable_extensions={"amsmath", "colon_fence", "deflist", "dollarmath"})
    parser: MarkdownIt = create_md_parser(config, DocutilsRenderer)
    return [token for block in parser.parse(markdown) for token in [block, *(block.children or [])]]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_in_a_cell_a_heading_and_a_sentence(name):
    table = tables.markdown(pd.DataFrame({name: [name, "plain"]}, index=pd.Index([name, "b"], name="who")))
    said = notebook.say(f"Annotator {tables.text(name)} left.").markdown
    for text in (table.rpartition("\n\n")[0], said):
        kinds = {token.type for token in parsed(text)}
        allowed = ("table", "thead", "tbody", "tr", "th", "td", "paragraph")
        assert kinds <= {"text", "inline", *(f"{kind}_{end}" for kind in allowed for end in ("open", "close"))}, kinds
    cells = ["".join(part.content for part in t.children) for t in parsed(table) if t.type == "inline"]
    assert cells[2] == cells[3] == " ".join(name.split())  # below the heading
    words = "".join(token.content for token in parsed(said) if token.type == "text")
    assert words == f"Annotator {' '.join(name.split())} left."


def test_numbers_stand_to_the_right_with_equal_decimals_and_text_to_the_left():
    frame = pd.DataFrame({"a b": ["x", None], "n": [1000, 2], "x": [0.5, np.nan], "sure": [True, False]})
    assert lines(frame, digits=2)[:4] == [
        "| a b | n | x | sure |",
        "| :--- | ---: | ---: | ---: |",
        "| x | 1,000 | 0.50 | yes |",
        "| – | 2 | – | no |",
    ]


@pytest.mark.parametrize(
    ("value", "options", "shown"),
    [
        (-0.00001, {}, "0.0000"),
        (-0.00001, {"signed": True}, "+0.0000"),
        (12345, {"signed": True}, "+12,345"),
        (np.float32(3), {}, "3.0000"),
        (np.int8(-3), {}, "-3"),
        (np.bool_(True), {}, "yes"),
        (pd.NA, {}, "–"),
        (None, {}, "–"),
        (float("inf"), {}, "inf"),
        (2.5, {"digits": 0}, "2"),
    ],
)
def test_a_number_is_written_by_its_type(value, options, shown):
    assert tables.number(value, **options) == shown


def test_numbers_are_numbers_also_in_a_column_of_objects_and_mixed_ones_are_text():
    frame = pd.DataFrame({"kept": [3, None], "mixed": [1, "two"], "list": [[1, 2], {"a": 1}]}, dtype=object)
    assert lines(frame)[1:3] == ["| ---: | :--- | :--- |", "| 3 | 1 | &#91;1, 2&#93; |"]
    assert lines(pd.DataFrame({"n": pd.array([None], "Int64")}))[2] == "| – |"


def test_mean_and_deviation_and_the_bounds_of_an_interval_become_one_column_each():
    frame = pd.DataFrame({("kl", "mean"): [0.5, 0.1], ("kl", "std"): [0.25, np.nan]}, index=pd.Index(["hard", "soft"]))
    assert lines(frame)[0:4:2] == ["| KL to soft truth ↓ |", "| 0.5000 ± 0.2500 |"]
    assert lines(frame)[3] == "| 0.1000 |"  # of a single split
    gaps = pd.DataFrame({"mean": [0.2, 0.1], "low": [0.1, np.nan], "high": [0.3, np.nan]})
    assert lines(gaps)[0] == "| mean | 95 % interval |"
    assert lines(gaps)[2:4] == ["| 0.2000 | [+0.1000, +0.3000] |", "| 0.1000 | – |"]
    for half in ("low", "high", "mean", "std"):
        assert lines(pd.DataFrame({half: [0.5]}))[0:3:2] == [f"| {half} |", "| 0.5000 |"]
        assert lines(pd.DataFrame({("kl", half): [0.5]}))[2] == "| 0.5000 |"


def test_indices_and_headings_of_several_levels_are_shown_and_names_of_metrics_are_words():
    index = pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["set", "split"])
    frame = pd.DataFrame({("hard", "kl"): [0.5, 0.25], ("soft", "kl"): [1, 2]}, index=index)
    assert lines(frame)[0] == "| set | split | hard, KL to soft truth ↓ | soft, KL to soft truth ↓ |"
    assert lines(frame, bold={(("a", 1), ("hard", "kl"))})[2] == "| a | 1 | **0.5000** | 1 |"
    assert lines(pd.DataFrame({"metric": ["macro_accuracy", "a|b"]}))[2:4] == ["| macro accuracy ↑ |", "| a&#124;b |"]


def test_what_is_missing_is_never_bold():
    frame = pd.DataFrame({"kl": [np.nan, 0.5]}, index=pd.Index(["hard", "soft"], name="labels"))
    assert lines(frame, bold={("hard", "kl"), ("soft", "kl")})[2:4] == ["| hard | – |", "| soft | **0.5000** |"]


def test_a_table_is_downloaded_with_the_numbers_of_its_frame():
    frame = pd.DataFrame({("x", "mean"): [1 / 3], ("x", "std"): [np.nan], ("who", ""): ["<b>"]})
    found = re.search(r'download="t.csv" href="data:text/csv;base64,([^"]+)"', tables.markdown(frame, name="t"))[1]
    read = pd.read_csv(io.BytesIO(base64.b64decode(found)))
    assert read.to_dict("records") == [{"x mean": 1 / 3, "x std": pytest.approx(np.nan, nan_ok=True), "who": "<b>"}]


def test_a_frame_of_nothing_is_a_dash_and_two_columns_of_one_name_are_refused():
    assert tables.markdown(pd.DataFrame()) == "–"
    assert lines(pd.DataFrame(columns=["a"]))[:2] == ["| a |", "| :--- |"]
    with pytest.raises(InputError, match="table 't' has the column 'a' twice"):
        tables.markdown(pd.DataFrame([[1, 2]], columns=["a", "a"]), name="t")


# Records


RUNS = ["abc", "published-def"]


def recorded(shown):
    data, metadata = shown._repr_mimebundle_()
    return data["text/markdown"], metadata["beyond_hard_labels"]


def test_every_output_names_its_runs_and_links_to_their_list():
    shown = notebook.show(pd.DataFrame({"run": [*RUNS, "other"], "x": [1, 2, 3]}), RUNS, name="t")
    said = notebook.say("Said.", RUNS, n=1.5, words="about 2")
    for each in (shown, said, notebook.claim("Claimed.", np.True_, RUNS, name="c")):
        text, record = recorded(each)
        assert record["runs"] == RUNS
        assert text.endswith(f" [2 runs](#{notebook.label(RUNS)})")
    text, record = recorded(shown)
    assert "[`abc`](#run-abc)" in text
    assert "[`def`](#run-published-def)" in text
    assert "#run-other" not in text
    assert record["table"] == "t"
    assert recorded(said)[1]["numbers"] == {"n": "1.5000", "words": "about 2"}


@pytest.mark.parametrize(
    ("holds", "decided", "verdict"),
    [
        (True, True, "holds in these runs"),
        (False, True, "does not hold in these runs"),
        (False, False, "not decided by these runs"),
        (True, False, "not decided by these runs"),
    ],
)
def test_a_claim_says_whether_it_holds(holds, decided, verdict):
    text, record = recorded(notebook.claim("It is so.", holds, RUNS, name="so", decided=decided))
    assert text.startswith(f"> It is so. *({verdict})*")
    parts = {"claim": "so", "sentence": "It is so.", "holds": holds, "decided": decided}
    assert record == {"runs": RUNS, **parts}
    text, _ = recorded(notebook.claim("It is so.", holds, name="so", decided=decided))  # of a calculation alone
    assert text == f"> It is so. *({' '.join(verdict.split()[:-3])})*"


@pytest.mark.parametrize("grid", ["grid:when", SimpleNamespace(name="when")])
def test_what_rests_on_a_grid_links_to_the_grid(grid):
    text, record = recorded(notebook.show(pd.DataFrame({"run": ["abc"]}), grid))
    assert text.endswith(" [grid when](#grid-when)")
    assert record["runs"] == []
    assert record["grid"] == "when"
    assert "#run-abc" not in text


def test_runs_are_no_text():
    with pytest.raises(InputError, match=r"runs are 'when', expected runs, .*'grid:when'"):
        notebook.say("x", "when")


# Parameters


PARAMETERS = 'profile = "smoke"  # smoke, quick or paper\nsplits = None\nepochs = {}'
SETUP = "from beyond_hard_labels.book.notebook import study_of\nstudy = study_of(globals())"
ANALYSIS = "margin = 0.05"


def of_cells(*cells, own=()):
    """Run cells as a kernel does, and return the study of the last one."""
    space = {"In": [""]}
    for cell in cells:
        space["In"].append(cell)
        if cell != SETUP:
            exec(cell, space)
        if cell == SETUP:
            space["study"] = notebook.study_of(space, own)
    return space["study"]


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param([PARAMETERS.format(3), SETUP], id="once"),
        pytest.param(
            [PARAMETERS.format(5), SETUP, ANALYSIS, PARAMETERS.format(3), SETUP, ANALYSIS], id="all cells twice"
        ),
        pytest.param([PARAMETERS.format(3), SETUP, ANALYSIS, SETUP], id="the set-up again"),
        pytest.param([PARAMETERS.format(5), SETUP, ANALYSIS, "epochs = 3", SETUP], id="a value from another cell"),
        pytest.param([PARAMETERS.format(3), ANALYSIS, SETUP], id="an analysis between"),
        pytest.param([PARAMETERS.format(5) + "\nepocs = 1", PARAMETERS.format(3), SETUP], id="a mistake mended"),
        pytest.param([PARAMETERS.format(5), "# Parameters\nepochs = 3\n", SETUP], id="by papermill"),
        pytest.param(
            [PARAMETERS.format(5), '# Parameters\nprofile = "smoke"\nepochs = 3\n', SETUP],
            id="by papermill, with profile",
        ),
    ],
)
def test_parameters_are_what_the_newest_cells_say_in_any_order(cells):
    assert of_cells(*cells) == study.plan("smoke", epochs=3)


@pytest.mark.parametrize(
    "cells",
    [
        [PARAMETERS.format(3) + "\nepocs = 3", SETUP],
        [PARAMETERS.format(3), SETUP, ANALYSIS, PARAMETERS.format(3) + "\nepocs = None", SETUP],
        [PARAMETERS.format(3), "# Parameters\nepocs = 3\n", SETUP],
        [PARAMETERS.format(3) + "\nepocs = 3", '# Parameters\nprofile = "smoke"\n', SETUP],
    ],
)
def test_a_mistyped_parameter_is_refused_in_a_fresh_and_in_a_used_kernel(cells):
    with pytest.raises(InputError, match=r"unknown parameter 'epocs' \(did you mean 'epochs'\?\)"):
        of_cells(*cells)


def test_parameters_of_the_notebook_itself_are_left_to_it():
    cells = [PARAMETERS.format(3) + "\nvotes_csv = None", SETUP]
    assert of_cells(*cells, own=("votes_csv",)) == study.plan("smoke", epochs=3)


@pytest.mark.filterwarnings("default")
def test_a_kernel_takes_other_parameters_as_often_as_its_cells_are_run():
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:

        def run(cell):
            reply = client.execute_interactive(cell, timeout=120, output_hook=lambda _: None)
            return reply["content"].get("evalue", "")

        check = "assert study.shared['epochs'] == {}, study"
        for epochs in (3, 5):
            assert [run(c) for c in (PARAMETERS.format(epochs), SETUP, check.format(epochs), ANALYSIS)] == [""] * 4
        assert [run(SETUP), run(check.format(5))] == ["", ""]
        assert [run("epochs = 4"), run(SETUP), run(check.format(4))] == [""] * 3
        assert "unknown parameter 'epocs'" in [run(c) for c in (PARAMETERS.format(3) + "\nepocs = 3", SETUP)][1]
        assert [run(c) for c in (PARAMETERS.format(3), SETUP, check.format(3))] == [""] * 3
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
