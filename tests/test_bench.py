"""The benchmarks' harness, and every row at a toy size: that both sides agree, never how long they take."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import harness
from beyond_hard_labels.analysis import speed
from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError
from conftest import ROOT


def command(*arguments):
    """Run ``python -m benchmarks`` as a user does."""
    call = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(call, capture_output=True, text=True, cwd=ROOT, check=False)


def test_sides_are_called_in_turn_after_a_round_that_does_not_count():
    calls = []
    seconds, returned = harness.in_turn({n: lambda n=n: calls.append(n) or len(calls) for n in "ab"}, 3)
    assert calls == list("abababab")
    assert {n: s.repeats for n, s in seconds.items()} == {"a": 3, "b": 3}
    assert returned == {"a": 7, "b": 8}


def test_a_ratio_says_how_many_times_faster_ours_is_a_target_is_the_least_and_sides_that_differ_make_no_row():
    one, two = harness.summary([1.0]), harness.summary([5.0, 1.0, 2.0])
    assert two == (2.0, 1.0, 5.0, 3)
    assert [harness.Line("", "", one, two, least).reached for least in (None, 2.0, 2.1)] == [None, True, False]
    with pytest.raises(AssertionError, match="the sides differ: 3 labels"):
        harness.require(False, "3 labels")


def test_the_command_measures_a_row_in_its_own_process_and_prints_a_table(tmp_path):
    made = command("start", "--small")
    assert made.returncode == 0, made.stderr
    heads, *rows = made.stdout.splitlines()
    assert heads.split() == ["row", "what", "against", "ours", "peer", "ratio", "target", "reached"]
    assert [row.split()[0] for row in rows] == ["start", "start"]
    found = sorted((tmp_path / "build" / "bench").iterdir())  # and nothing that is left of its work
    assert [file.name for file in found] == ["rows.json", "start.small.json"]
    assert json.loads(found[1].read_text())["row"] == "start"


def test_an_unknown_row_is_refused_with_the_names_of_all():
    made = command("epochs", "--small")
    assert made.returncode == 2
    assert "unknown row 'epochs', expected some of epoch, densenet" in made.stderr


def test_a_row_that_takes_too_long_is_cut_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness, "LIMIT", 0.05)
    monkeypatch.chdir(ROOT)
    assert harness.main(["start", "--small"]) == 1
    assert "failed: cut after 0.05 s" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "build" / "bench").iterdir()] == ["rows.json"]


SIDE = {"median": 2.0, "low": 1.0, "high": 3.0, "repeats": 3}
LINE = {"what": "an epoch", "against": "a loop", "ours": SIDE, "peer": SIDE, "unit": "s", "ratio": 1.0}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Return a function that writes published measurements of a row."""
    monkeypatch.setattr(paths, "project_folder", lambda: tmp_path)
    folder = tmp_path / "results" / "bench"
    folder.mkdir(parents=True)
    (folder / "rows.json").write_text(json.dumps([["epoch", "an epoch"], ["gpu", "on a GPU"], ["votes", "labels"]]))
    return lambda row, content: (folder / f"{row}.json").write_text(json.dumps(content))


def test_published_measurements_are_read_as_numbers_and_rows_without_one_are_open(measured):
    assert speed.rows()["measured"].tolist() == [False] * 3
    assert speed.lines().empty
    measured("gpu", {"row": "gpu", "machine": {}, "open": "needs a GPU"})
    measured("votes", {"row": "votes", "lines": [LINE | {"at_least": 1.5, "reached": False}], "note": "One thread."})
    assert speed.rows()["row"].tolist() == ["epoch", "gpu", "votes"]
    assert speed.rows().query("measured")["note"].tolist() == ["One thread."]
    assert speed.lines()[["row", "ours", "peer", "at_least"]].values.tolist() == [["votes", 2, 2, 1.5]]
    measured("votes", {"row": "votes", "lines": [{"what": "an epoch"}]})
    with pytest.raises(InputError, match=r"votes\.json: a line has no 'ours'; make bench ROWS=votes"):
        speed.lines()


def test_the_rows_are_functions_with_a_sentence_and_those_that_are_published():
    for name, (module, about) in harness.ROWS.items():
        assert getattr(importlib.import_module(module), name).__doc__ and about, name
    assert speed.rows()["row"].tolist() == list(harness.ROWS)
    assert set(speed.lines()["row"]) <= set(harness.ROWS)


@pytest.mark.filterwarnings("default::DeprecationWarning", "default::pandas.errors.Pandas4Warning")  # crowd-kit's
@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("archive", "PIL"),
        ("votes", "crowdkit"),
        ("drawing", "cv2"),
        *(
            pytest.param(row, "torch", marks=pytest.mark.slow)
            for row in ("book", "epoch", "densenet", "study", "memory")
        ),
        pytest.param("tsne", "torchdr", marks=pytest.mark.slow),
        pytest.param("gpu", "torch", marks=pytest.mark.slow),  # on any device at its toy size
    ],
)
def test_both_sides_of_a_row_agree(name, needs):
    pytest.importorskip(needs)
    taken = harness.take(name, small=True)
    json.dumps(taken)
    assert taken["lines"] and taken["equal"] and {"processor", "cores", "torch"} <= set(taken["machine"])
    for line in taken["lines"]:
        assert line["ratio"] == line["peer"]["median"] / line["ours"]["median"]


def test_what_a_row_needs_and_does_not_find_is_named_with_the_command():
    torch = pytest.importorskip("torch")
    assert "make clean book" in harness.take("book")["open"]
    assert torch.cuda.is_available() or harness.take("gpu")["open"].startswith("needs a GPU: make bench ROWS=gpu")


def test_the_divergence_of_a_map_is_that_of_all_pairs():
    """Against a slow loop over pairs."""
    from benchmarks.maps import _attraction, _features, divergence

    features = _features(40, 5)
    attraction, plane = _attraction(features, 5.0), features[:, :2].astype(float)
    near = {(i, j): 1 / (1 + ((plane[i] - plane[j]) ** 2).sum()) for i in range(40) for j in range(40) if i != j}
    whole, dense = sum(near.values()), attraction.toarray()
    slow = sum(dense[pair] * np.log(dense[pair] / (q / whole)) for pair, q in near.items() if dense[pair])
    assert divergence(attraction, plane) == pytest.approx(slow, rel=1e-9)
