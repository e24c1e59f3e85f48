import base64
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import grid_pages, pages, report, speed
from beyond_hard_labels.learn.metrics import entropy, kl
from beyond_hard_labels.learn.significance import Interval, corrected_t
from beyond_hard_labels.runs import ensure, inputs, study
from conftest import TINY


@pytest.fixture
def finished():
    small = study.plan("smoke", **(TINY | {"splits": 2}))
    return small, [ensure.find_or_train(spec)[0] for spec in small.specs()]


def test_table_one_is_the_mean_and_deviation_of_the_runs_beside_the_papers_numbers(finished):
    _, found = finished
    table = report.table_one(found).set_index("source").rename(index=report.plain)
    kl = [run.metrics["kl"] for run in found if run.spec.labels == "soft"]
    cell = table.loc["this book", "soft: KL to soft truth ↓"].strip("*")
    assert cell == f"{np.mean(kl):.4f} ± {np.std(kl, ddof=1):.4f}"
    assert table.loc["paper", "soft: KL to soft truth ↓"] == "**0.0394 ± 0.0009**"
    assert table.loc["paper", "hard: macro accuracy ↑"] == "0.8247 ± 0.0500"


def test_exactly_one_arm_is_bold_in_each_comparison(finished):
    for _, row in report.table_one(finished[1]).iterrows():
        for heading in ("macro accuracy ↑", "KL to soft truth ↓"):
            assert sum(str(row[f"{arm}: {heading}"]).startswith("**") for arm in ("hard", "soft")) == 1


def test_differences_are_soft_minus_hard_split_by_split(finished):
    table = report.scores(finished[1]).set_index(["labels", "split"])["kl"]
    expected = corrected_t([table["soft", s] - table["hard", s] for s in (0, 1)], 1 / 3)
    assert report.differences(finished[1])["kl"] == pytest.approx(expected)


def test_the_epoch_that_reaches_an_accuracy_is_that_of_the_mean_over_splits():
    made = [
        SimpleNamespace(
            spec=SimpleNamespace(labels="soft"), history=pd.DataFrame({"epoch": [1, 2], "macro_accuracy": a})
        )
        for a in ([0.8, 0.9], [0.9, 0.95])
    ]
    assert report._epochs_to(0.85, made, "soft") == "at epoch 1"
    assert report._epochs_to(0.9, made, "soft") == "at epoch 2"
    assert report._epochs_to(0.99, made, "soft") == "not at all"


@pytest.mark.parametrize(
    ("interval", "name", "expected"),
    [
        ((0.05, 0.01, 0.09), "macro_accuracy", "the soft arm is better.*agrees with the paper"),
        ((-0.05, -0.09, -0.01), "macro_accuracy", "the hard arm is better.*contradicts the paper"),
        ((0.05, -0.01, 0.11), "macro_accuracy", "cannot be told apart.*does not show"),
        ((-0.5, -0.9, -0.1), "kl", "the soft arm is better.*agrees with the paper"),
        ((0.5, 0.1, 0.9), "kl", "the hard arm is better.*contradicts the paper"),
        ((0.05, float("nan"), float("nan")), "kl", "cannot be told apart.*needs two splits"),
    ],
)
def test_a_verdict_follows_the_interval_whichever_way_it_falls(interval, name, expected):
    assert re.search(expected, "".join(report.verdict(Interval(*interval, p=0.0), name)))


def test_placeholders_are_filled_and_unknown_ones_named_with_place(finished):
    named = report.texts(*finished)
    text, printed = report.fill("{{ profile }} and {{soft.kl}}", named, "x")
    assert text == f"smoke and {named['soft.kl']}"
    assert printed == {name: named[name] for name in ("profile", "soft.kl")}
    with pytest.raises(InputError, match=r"page\.md, line 2: unknown placeholder 'soft\.k'.*soft\.kl"):
        report.fill("one\n{{ soft.k }}", named, "page.md")


def test_every_number_of_a_run_links_to_the_page_of_its_runs(finished):
    label = report.label(finished[1])
    for name, text in report.texts(*finished).items():
        if name.startswith(("soft.", "hard.", "verdict.")):
            assert f"](#{label})" in text, name
    for row in report.run_table(finished[1])["run"]:
        assert re.fullmatch(r"\[`(\w{12})`\]\(#run-\1\)", row)


def test_a_notebook_shows_markdown_and_carries_the_record_of_its_numbers(finished):
    data, metadata = report.say("KL {{ soft.kl }}", *finished)._repr_mimebundle_()
    record = metadata["beyond_hard_labels"]
    assert data["text/markdown"] == f"KL {record['printed']['soft.kl']}"
    assert record["runs"] == [run.spec.key for run in finished[1]]
    assert study.plan(**record["study"]) == finished[0]


def test_every_page_can_be_filled(finished):
    from conftest import ROOT

    tables = {f"table.{name}": "" for name in ("machine", "versions", "notebooks")} | {"explorer": ""}
    tables |= dict.fromkeys(grid_pages.texts(finished[0]) | speed.texts() | pages.page_texts(*finished), "")
    for page in (ROOT / "book").glob("*.md"):
        report.fill(page.read_text("utf-8"), report.texts(*finished) | tables, page.name)


def test_what_many_runs_cost_is_worked_out_from_the_runs_that_there_are(finished):
    costs, seconds = pages.costs(finished[1], 1000, (1, 100)), [r.manifest["seconds"] for r in finished[1]]
    hours = 1000 * sum(seconds) / len(seconds) / 3600
    assert report.plain(costs["cluster.hours"]) == f"{hours:.1f}"
    assert f"| 1 | {hours:.2f} |\n| 100 | {hours / 100:.2f} |" in costs["table.cluster"]


def test_a_markdown_table_puts_numbers_to_the_right_and_shows_gaps():
    frame = pd.DataFrame({"a": ["x", "2 y"], "b": ["**1.0**", None], "c": ["0.1 ± 0.2", "[-1.0, +2.0]"]})
    lines = report.markdown_table(frame).splitlines()
    assert lines[1] == "| :--- | ---: | ---: |"
    assert lines[2:4] == ["| x | **1.0** | 0.1 ± 0.2 |", "| 2 y | – | [-1.0, +2.0] |"]


def test_a_table_can_be_downloaded_as_csv_without_the_marks_of_type_and_links():
    frame = pd.DataFrame({"run": ["[`ab`](#run-ab)"], "x": ["**1.5**"], "i": ["[0.1 (from [-1, 2])](#runs-1)"]})
    address = re.search(r'download="t.csv" href="data:text/csv;base64,([^"]+)"', report.markdown_table(frame, "t"))[1]
    assert base64.b64decode(address).decode() == 'run,x,i\nab,1.5,"0.1 (from [-1, 2])"\n'


@pytest.mark.parametrize(
    ("column", "rule", "shown"),
    [
        pytest.param(["0.10 ± 0.02", "**1.00 ± 0.30**"], "---:", "0.10 ± 0.02", id="mean and deviation"),
        pytest.param(["[-0.1, +0.2]", "[+1.0, +2.0]"], "---:", "[-0.1, +0.2]", id="interval"),
        pytest.param(["< 0.001", "0.200"], "---:", "< 0.001", id="bound"),
        pytest.param([0.5, 0.125], "---:", "0.500", id="equal decimals"),
        pytest.param(["2.14.1", "2"], ":---", "2.14.1", id="release"),
        pytest.param(["32 px", "2"], ":---", "32 px", id="text among numbers"),
        pytest.param([None, None], ":---", "–", id="nothing"),
    ],
)
def test_a_column_of_a_markdown_table_is_aligned_by_what_it_holds(column, rule, shown):
    lines = report.markdown_table(pd.DataFrame({"a": column})).splitlines()
    assert lines[1:3] == [f"| {rule} |", f"| {shown} |"]


def test_the_spread_of_ambiguity_runs_from_the_surest_to_the_least_sure():
    truth = np.array([[0.5, 0.5], [1.0, 0.0], [0.8, 0.2]])
    assert report.spread_of_ambiguity(truth, 3).tolist() == [1, 2, 0]


def test_top_classes_leave_out_what_is_impossible():
    assert report.top_classes(np.array([[1.0, 0], [0.3, 0.7]]), ("rc", "gc")) == ["rc 1.00", "gc 0.70, rc 0.30"]


def test_the_most_ambiguous_and_the_most_wrong_come_first(finished):
    assert report.most_ambiguous(np.array([[0.5, 0.5], [1.0, 0.0], [0.8, 0.2]]), 2).tolist() == [0, 2]
    run = finished[1][0]
    worst = report.most_wrong(run, 3)
    rows = [kl(run.truth[[i]], run.predicted[[i]]) for i in range(len(run.truth))]
    assert [rows[i] for i in worst] == sorted(rows, reverse=True)[:3]
    assert report.kl_titles(run, worst)[0] == f"KL {max(rows):.2f}"


def test_the_table_of_images_spreads_over_the_ambiguity_and_says_what_the_maps_say(finished, monkeypatch):
    n = len(finished[1][0].index)
    plane = np.arange(2.0 * n).reshape(n, 2)
    monkeypatch.setattr(report, "map_of", lambda study, run: plane)
    table, run = report.image_table(*finished, n=5), finished[1][0]
    data = inputs.images_of(run.spec)
    shown = [run.index.tolist().index(data.ids.index(name)) for name in table["image"]]
    ambiguity = entropy(run.truth)
    assert ambiguity[shown].tolist() == sorted(ambiguity[shown])
    assert (ambiguity[shown[0]], ambiguity[shown[-1]]) == (ambiguity.min(), ambiguity.max())
    for row, i in zip(table.to_dict("records"), shown, strict=True):
        assert row["hard labels"].startswith(data.class_names[run.predicted[i].argmax()])
        assert row["place, soft"] == "({:.1f}, {:.1f})".format(*plane[i])
