import functools
import re
import shutil

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest

from beyond_hard_labels.analysis.grids import at, closed, contrasts, crossing, rivals
from beyond_hard_labels.base import files
from beyond_hard_labels.book import build
from beyond_hard_labels.book.notebook import RECORD
from beyond_hard_labels.learn.significance import corrected_t, paired
from beyond_hard_labels.runs import grids
from beyond_hard_labels.runs.study import plan
from conftest import ROOT

SETTINGS = {"dataset": "synthetic", "epochs": 30, "train_share": 1.0, "votes_per_image": 0, "label_smoothing": 0.0}
WOBBLE = (0.000, 0.002, -0.002, 0.001, -0.001)  # of a split, half as much in the soft arm


def run(labels, split, accuracy, kl, **changed):
    """A row of a grid as `runs.grids.rows` makes it."""
    made = SETTINGS | changed
    shifted = WOBBLE[split] * (1 if labels == "hard" else 0.5)
    return made | {
        "part": "main",
        "labels": labels,
        "split": split,
        "key": f"{labels}-{split}-{sorted(changed.items())}",
        "macro_accuracy": accuracy + shifted,
        "kl": kl + shifted,
        "kl_scaled": 1.5 * kl,
        "kl_scaled_truth": 0.5 * kl,
        "floor": 0.0,
    }


def cells(values, splits=5):
    """Rows of both arms: a list of (settings, accuracy and KL of the hard arm, those of the soft arm)."""
    return pd.DataFrame(
        [
            run(labels, split, *pair, **changed)
            for changed, hard, soft in values
            for split in range(splits)
            for labels, pair in (("hard", hard), ("soft", soft))
        ]
    )


def votes(levels, splits=5):
    """Rows at several votes an image (0 for all), the same accuracy and KL in both arms but for the wobble."""
    return cells([({"votes_per_image": m}, (0.9, kl), (0.9, kl)) for m, kl in levels.items()], splits)


def test_a_contrast_is_worked_by_hand():
    rows = pd.DataFrame(
        {"dataset": "a", "split": [0, 1, 0, 1], "epochs": [3, 3, 6, 6], "kl": [0.5, 0.6, 0.7, 0.6], "key": range(4)}
    )
    row = contrasts(rows, "kl", "epochs", 3).iloc[0]
    assert row[["base", "level", "mean", "sd"]].tolist() == pytest.approx([0.55, 0.65, 0.1, np.sqrt(0.02)])
    assert (row["epochs"], row["n"]) == (6, 2)
    assert row[["low", "high"]].tolist() == pytest.approx(list(corrected_t([0.2, 0.0])[1:3]))
    assert row["detectable"] == pytest.approx((row["high"] - row["low"]) / 2)


def test_a_contrast_of_the_arms_is_their_paired_difference():
    rows = cells([({"epochs": n}, (0.9, 0.8), (0.9 + gap, 0.1)) for n, gap in {3: 0.05, 6: -0.05}.items()])
    found = contrasts(rows, "macro_accuracy", "labels", "hard", ["epochs"])
    same = ["epochs", "mean", "sd", "low", "high", "p", "n", "detectable"]
    pd.testing.assert_frame_equal(found[same], paired(rows, "macro_accuracy", ["epochs"])[same])
    assert found["labels"].tolist() == ["soft", "soft"]


def test_a_contrast_changes_its_sign_with_its_base_and_is_the_same_in_any_order_of_rows():
    draw = np.random.default_rng(0)
    rows = votes({1: 0.9, 3: 0.3, 0: 0.1})
    rows["kl"] += draw.normal(0, 0.05, len(rows))
    by = ["dataset", "labels"]
    there = contrasts(rows, "kl", "votes_per_image", 0, by).query("votes_per_image == 3")
    back = contrasts(rows, "kl", "votes_per_image", 3, by).query("votes_per_image == 0")
    assert there["mean"].to_numpy() == pytest.approx(-back["mean"].to_numpy())
    assert there["low"].to_numpy() == pytest.approx(-back["high"].to_numpy())
    shuffled = rows.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(
        contrasts(shuffled, "kl", "votes_per_image", 0, by), contrasts(rows, "kl", "votes_per_image", 0, by)
    )


def test_only_splits_that_have_both_values_count_and_one_split_has_no_interval():
    rows = votes({1: 0.9, 3: 0.3, 0: 0.1}).query("labels == 'soft'")
    lacking = rows.query("votes_per_image == 0 or split == 0 or (votes_per_image == 3 and split < 3)")
    table = contrasts(lacking, "kl", "votes_per_image", 0).set_index("votes_per_image")
    assert table["n"].to_dict() == {1: 1, 3: 3}
    assert table["low"].isna().to_dict() == {1: True, 3: False}
    assert contrasts(rows.query("votes_per_image != 0"), "kl", "votes_per_image", 0).empty


def test_several_runs_of_a_split_are_refused_with_the_setting_that_was_left_out():
    rows = cells([({"epochs": n}, (0.9, 0.8), (0.9, 0.1)) for n in (3, 6)])
    with pytest.raises(ValueError, match=r"several runs with the same dataset, labels, .* in epochs"):
        contrasts(rows, "kl", "labels", "hard")
    with pytest.raises(ValueError, match="drop duplicates of key"):
        contrasts(pd.concat([rows, rows]), "kl", "labels", "hard", ["dataset", "epochs"])


def test_the_numbers_of_a_row_are_found_by_a_condition_and_none_are_of_a_part_that_is_not_here():
    table = pd.DataFrame({"arm": ["hard", "soft"], "kl": [0.8, 0.1]})
    assert at(table, "arm == 'soft'")["kl"] == 0.1
    assert at(table)["kl"] == pytest.approx(0.45)
    none = votes({0: 0.1}).query("part == 'other'")
    assert contrasts(none, "kl", "votes_per_image", 0).empty
    assert closed(none, "kl", 0.5).empty
    assert rivals(none).empty
    row = at(contrasts(none, "kl", "votes_per_image", 0), "votes_per_image == 3")
    assert row[["votes_per_image", "base", "level", "mean", "low", "high", "p", "n", "detectable"]].isna().all()


def way(levels, needed=0.5, floor=0.0, splits=5):
    rows = votes(levels, splits).query("labels == 'soft'")
    return closed(rows.assign(kl=rows["kl"] + floor), "kl", needed).set_index("votes_per_image")


def test_the_share_is_of_the_way_from_one_vote_to_all_whatever_the_floor():
    rows = pd.DataFrame({"dataset": "a", "split": 0, "votes_per_image": [1, 3, 0], "kl": [0.2, 0.12, 0.1]})
    assert closed(rows, "kl", 0.5)["share"].tolist() == pytest.approx([0.8])
    free, lifted = (way({1: 0.2, 3: 0.12, 0: 0.1}, floor=floor)["share"] for floor in (0.0, 0.5))
    assert free.tolist() == pytest.approx(lifted.tolist())


@pytest.mark.parametrize(("needed", "shown"), [(0.99, []), (0.95, [10]), (0.9, [5, 10]), (0.1, [5, 10])])
def test_a_number_of_votes_is_enough_where_the_interval_lies_above_the_share(needed, shown):
    table = way({1: 0.9, 5: 0.15, 10: 0.12, 0: 0.1}, needed)
    assert table.index[table["enough"]].tolist() == shown
    assert (table["enough"] == (table["low"] >= needed)).all()


def test_a_number_of_votes_is_not_enough_where_a_larger_one_is_not_or_one_split_shows_it():
    assert way({1: 0.9, 3: 0.11, 5: 0.5, 10: 0.11, 0: 0.1})["enough"].to_dict() == {3: False, 5: False, 10: True}
    assert not way({1: 0.9, 3: 0.11, 0: 0.1}, splits=1)["enough"].any()


def test_a_set_is_judged_by_its_own_numbers_of_votes():
    levels = {1: 0.9, 3: 0.11, 10: 0.6, 0: 0.1}
    one, other = votes(levels), votes({m: levels[m] for m in (1, 3, 0)}).assign(dataset="other")
    rows = pd.concat([one, other]).query("labels == 'soft'")
    table = closed(rows, "kl", 0.5).set_index(["dataset", "votes_per_image"])
    assert table["enough"].to_dict() == {("other", 3): True, ("synthetic", 3): False, ("synthetic", 10): False}


@pytest.mark.parametrize(
    ("gaps", "place"),
    [((0.1, -0.1), 20), ((-0.1, -0.2), np.nan), ((0.1, 0.0), 40), ((-0.1, 0.3), np.nan)],
    ids=["half way in the logarithm", "never above", "at an end", "from below"],
)
def test_a_crossing_is_where_a_difference_falls_through_zero(gaps, place):
    assert crossing([10, 40], gaps) == pytest.approx(place, nan_ok=True)


def test_rivals_are_the_hard_arm_scaled_and_smoothed_each_run_once():
    rows = cells([({}, (0.9, 0.8), (0.95, 0.1))])
    smoothed = pd.DataFrame([run("hard", split, 0.92, 0.45, label_smoothing=0.1) for split in range(5)])
    arms = rivals(pd.concat([rows, rows.assign(part="other"), smoothed]))
    expected = {"hard": 0.8, "hard, own T": 1.2, "hard, true T": 0.4, "hard, smoothed": 0.45, "soft": 0.1}
    assert arms.groupby("arm")["kl"].mean().to_dict() == pytest.approx(expected)
    assert arms.groupby("arm").size().eq(5).all()
    accuracy = arms.groupby("arm")["macro_accuracy"].mean()
    assert accuracy["hard, own T"] == accuracy["hard, true T"] == accuracy["hard"]


def executed(name, folder, edit=lambda source: source, **parameters):
    """Execute a copy of a notebook after an edit of its cells, and return it; published rows need no training."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = edit(cell.source)
    nbformat.write(notebook, folder / "copy.ipynb")
    quiet = {"kernel_name": "python3", "progress_bar": False, "cwd": folder}
    papermill.execute_notebook(folder / "copy.ipynb", folder / "out.ipynb", parameters, **quiet)
    return nbformat.read(folder / "out.ipynb", as_version=4)


def claims(notebook):
    """Return whether each claim of an executed notebook holds, None where it is not decided, by its name."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    records = [output.metadata[RECORD] for output in outputs if RECORD in output.get("metadata", {})]
    return {record["claim"]: record["holds"] if record["decided"] else None for record in records if "claim" in record}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what kernels and their clients warn of is not ours
@pytest.mark.parametrize(("needed", "holds"), [("0.8", True), ("0.95", False)])
def test_the_table_and_the_claim_follow_the_share_in_the_cell(needed, holds, tmp_path):
    edit = functools.partial(re.sub, r"needed = [\d.]+", f"needed = {needed}")
    notebook = executed("08_how_many", tmp_path, edit)
    found = claims(notebook)
    assert found.pop("ten_votes_enough") is holds
    assert all(found.values())
    shown = next(c for c in notebook.cells if c.get("id") == "08-enough-table").outputs[0].data["text/markdown"]
    row = next(line for line in shown.splitlines() if "KL" in line and "fashion" in line and "| 10 |" in line)
    assert row.split(" | ")[-1].strip(" |") == ("yes" if holds else "no")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_every_claim_of_when_soft_labels_help_holds_for_the_published_grid(tmp_path):
    found = claims(executed("07_when", tmp_path))
    assert found
    assert all(found.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("chapter", "grid", "where", "column", "claim"),
    [
        ("05_tsne", "structure", "labels == 'soft'", "pure_clusters", "structure_on_sets"),
        ("06_real_votes", "real", "labels == 'hard'", "kl", "fresh_splits_kl"),
        ("07_when", "replicates", "epochs == 30 and labels == 'soft'", "macro_accuracy", "lead_then_behind"),
        ("07_when", "mechanism", "labels == 'soft_colour'", "macro_accuracy", "colour_alone"),
        ("08_how_many", "votes", "dataset == 'fashion_mnist_h' and votes_per_image == 10", "kl", "ten_votes_enough"),
    ],
    ids=["05", "06", "07, length", "07, targets", "08"],
)
def test_one_number_turned_round_in_a_copy_of_the_results_makes_its_claim_fail_and_the_book_with_it(
    tmp_path, monkeypatch, chapter, grid, where, column, claim
):
    for name in ("src", "results"):
        shutil.copytree(ROOT / name, tmp_path / "copy" / name)
    shutil.copy(ROOT / "_toc.yml", tmp_path / "copy")
    about, table, _ = (tmp_path / "copy" / "results" / path.name for path in grids.grid_files(grid))
    rows = pd.read_csv(table)
    rows.loc[rows.query(where).index[-1], column] *= -1
    rows.to_csv(table, index=False)
    of_grid = files.read_sealed_json(about)
    of_grid["files"][table.name] = files.checksum(table)
    files.write_json(about, of_grid, sealed=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "copy" / "src"))
    own = {"profile": "smoke"} if chapter[:2] in ("05", "06") else {}  # which have runs of their own, too
    notebook = executed(chapter, tmp_path, **own)
    assert claims(notebook)[claim] is False
    with pytest.raises(build.BookError, match=f"(?s)do not hold in these runs.*{chapter}"):
        build._require_claims(plan("quick"), {chapter: notebook})
