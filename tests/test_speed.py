"""The page on speed: from published measurements, however many there are."""

import json
import re
import subprocess
import sys

import pytest

from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import report, speed, status
from beyond_hard_labels.runs import store
from conftest import ROOT

SIDE = {"median": 2.0, "low": 1.0, "high": 3.0, "repeats": 3}


def row(name, ratio=2.0, at_least=1.5, **changes):
    """Return what the benchmarks write of a row."""
    line = {"what": "an epoch", "against": "a loop", "ours": SIDE, "peer": SIDE | {"repeats": 1}, "unit": "s"}
    line |= {"ratio": ratio, "at_least": at_least, "reached": None if at_least is None else ratio >= at_least}
    about = {"machine": {"cores": "2"}, "taken": "2026-11-25", "profile": {"forward": 1.5, "backward": 3.25}}
    return {"row": name, "lines": [line], "equal": "all labels", "note": "One thread.", **about} | changes


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Return a function that publishes rows in a project of the test's own."""
    monkeypatch.setattr(paths, "published_folder", lambda: tmp_path / "results")
    (tmp_path / "results" / "bench").mkdir(parents=True)

    def write(*rows):
        for found in rows:
            (tmp_path / "results" / "bench" / f"{found['row']}.json").write_text(json.dumps(found))
        return speed.texts()

    return write


def test_the_rows_of_the_page_are_those_of_the_benchmarks():
    from benchmarks import harness

    assert set(speed.ROWS) == set(harness.ROWS)


def test_without_any_measurement_every_row_is_open_with_its_command(publish):
    texts = publish()
    assert re.findall(r"`make bench ROWS=(\w+)`", texts["speed.open"]) == list(speed.ROWS)
    assert texts["speed.unreached"] == "Nothing has been measured yet."


def test_with_all_measurements_none_is_open(publish):
    texts = publish(*map(row, speed.ROWS))
    assert texts["speed.open"] == "Every row has been measured."
    assert texts["speed.unreached"] == "Every target of the rows measured so far is reached."
    assert texts["speed.table"].count("| 1.5, reached |") == len(speed.ROWS)


def test_a_row_that_was_open_where_it_was_taken_stays_open(publish):
    texts = publish({"row": "gpu", "machine": {}, "taken": "2026-11-25", "open": "needs a GPU"}, row("votes"))
    assert "make bench ROWS=gpu" in texts["speed.open"]
    assert "make bench ROWS=votes" not in texts["speed.open"]


def test_a_target_that_is_not_reached_is_explained_by_the_rows_own_profile(publish):
    texts = publish(row("epoch", ratio=1.25), row("votes"))
    assert texts["speed.table"].count("1.5, **not reached**") == 1
    said = "- `epoch`, an epoch, against a loop: 1.25 in place of 1.5."
    assert texts["speed.unreached"].splitlines() == [
        said,
        "  One thread. Where the time of ours goes, a call with all that it calls: `backward` 3.25 s, `forward` 1.5 s.",
    ]


def test_a_row_without_a_profile_is_explained_by_its_note(publish):
    assert "One thread." in publish(row("epoch", ratio=1.25, profile={}))["speed.unreached"]


def test_the_table_shows_spread_where_there_are_repeats_and_ratios_as_numbers(publish):
    lines = publish(row("epoch"))["speed.table"].splitlines()
    assert lines[1] == "| :--- | :--- | :--- | :--- | :--- | ---: | :--- |"
    assert "| 2 s (1 to 3) | 2 s | 2.00 | 1.5, reached |" in lines[2]


def test_machines_that_differ_have_a_column_each(publish):
    texts = publish(row("epoch"), row("votes"), row("gpu", machine={"cores": "16"}))
    assert texts["speed.machines"].startswith("| measured with | `epoch`, `votes` | `gpu` |")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "epoch.json cannot be read: .*; make bench ROWS=epoch writes it again"),
        ("[]", "epoch.json is no row of the benchmarks, expected one of epoch, densenet"),
        (json.dumps(row("votes")), "epoch.json is no row"),
        (json.dumps({**row("epoch"), "lines": [{}]}), "epoch.json: a line lacks some of against, at_least"),
    ],
)
def test_a_damaged_file_stops_the_book_and_is_named(publish, tmp_path, content, message):
    (tmp_path / "results" / "bench" / "epoch.json").write_text(content)
    with pytest.raises(InputError, match=message):
        speed.texts()


def test_every_placeholder_of_the_page_is_there_and_it_has_no_number_of_its_own(publish):
    text = (ROOT / "book" / "speed.md").read_text()
    filled, printed = report.fill(text, {"badge": "**Profile quick**", **publish(row("epoch"))}, "book/speed.md")
    assert "{{" not in filled and set(printed) == {"badge", *speed.texts()}
    assert not re.search(r"\d", text)


def test_measurements_are_no_published_run(publish):
    publish(row("epoch"))
    assert store.published_specs("synthetic") == []
    assert status.items() == []


def test_no_process_waits_for_the_import_of_what_few_need():
    code = "import sys; from beyond_hard_labels import report, study; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "pandas" in imported
    assert {"torch", "matplotlib", "sklearn", "scipy.stats", "scipy.optimize", "openTSNE"}.isdisjoint(imported)
