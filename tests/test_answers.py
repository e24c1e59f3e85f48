import itertools
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from beyond_hard_labels.analysis import answers
from beyond_hard_labels.book import grid_pages, plots, report, sentences, verify
from beyond_hard_labels.book.report import plain
from beyond_hard_labels.learn.significance import corrected_t
from beyond_hard_labels.runs import grids, study

SETTINGS = {
    "dataset": "synthetic",
    "backbone": "small",
    "epochs": 30,
    "train_share": 1.0,
    "votes_per_image": 0,
    "label_smoothing": 0.0,
    "class_weights": False,
    "augment_colour": False,
    "schedule": "cosine",
    "learning_rate": 0.1,
}
WOBBLE = (0.000, 0.002, -0.002, 0.001, -0.001)  # of a split, the same in both arms but for its half


def run(labels, split, accuracy, kl, **changed):
    """A row of a grid as `grids.rows` makes it."""
    made = SETTINGS | changed
    shifted = WOBBLE[split] * (1 if labels == "hard" else 0.5)
    return made | {
        "part": "main",
        "labels": labels,
        "split": split,
        "training_images": round(9000 * made["train_share"]),
        "key": f"{labels}-{split}-{sorted(changed.items())}",
        "macro_accuracy": accuracy + shifted,
        "kl": kl + shifted,
        "kl_one_hot": kl / 2 + shifted,
        "temperature": 2.0,
        "kl_scaled": 0.75 * kl + shifted,
        "temperature_truth": 3.0,
        "kl_scaled_truth": 0.5 * kl + shifted,
        "floor": 0.0,
        "label_floor": 0.5 / made["votes_per_image"] if made["votes_per_image"] else 0.0,
        "seconds": 1.0,
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


def lengths(gaps, splits=5):
    """Rows at several lengths of training, with a given advantage of soft labels in accuracy."""
    return cells([({"epochs": n}, (0.9, 0.8), (0.9 + gap, 0.1)) for n, gap in gaps.items()], splits)


def test_a_gap_is_soft_minus_hard_split_by_split_with_the_corrected_interval():
    rows = lengths({3: 0.05})
    wide = rows.pivot(index="split", columns="labels", values="macro_accuracy")
    expected = corrected_t(wide["soft"] - wide["hard"], 1 / 3)
    assert answers.gaps(rows, "macro_accuracy").loc[0, ["mean", "low", "high", "p"]].tolist() == pytest.approx(expected)


def test_a_run_that_stands_in_two_parts_counts_once():
    rows = lengths({3: 0.05})
    twice = pd.concat([rows, rows.assign(part="other")])
    pd.testing.assert_frame_equal(answers.gaps(twice, "kl"), answers.gaps(rows, "kl"))


def test_a_cell_with_one_arm_has_no_gap():
    rows = lengths({3: 0.05, 6: 0.05})
    assert answers.gaps(rows[(rows["epochs"] == 3) | (rows["labels"] == "hard")], "kl")["epochs"].tolist() == [3]


@pytest.mark.parametrize(("gap", "outcome"), [(0.05, "soft"), (-0.05, "hard"), (0.0, "none")])
def test_the_outcome_of_a_cell_follows_its_interval(gap, outcome):
    assert answers.gaps(lengths({3: gap}), "macro_accuracy")["outcome"].tolist() == [outcome]


def test_the_outcome_minds_that_a_lower_kl_is_better():
    assert answers.gaps(lengths({3: 0.0}), "kl")["outcome"].tolist() == ["soft"]


def test_one_split_shows_nothing_and_says_so():
    table = answers.gaps(lengths({3: 0.05}, splits=1), "macro_accuracy")
    assert table["outcome"].tolist() == ["unknown"]
    assert "one split has no interval" in plain(sentences.tally(table))
    assert sentences.holds(table) == "Not decided here"
    assert "without an interval" in sentences.extremes(table, "macro_accuracy")


def test_holms_correction_makes_the_outcomes_of_many_cells_rarer():
    rows = lengths({3: 0.004})
    alone = answers.gaps(rows, "macro_accuracy")
    many = answers.gaps(lengths({3: 0.004} | dict.fromkeys(range(4, 90), 0.0)), "macro_accuracy")
    assert alone["outcome"][0] == "soft"
    assert many["outcome"][0] == "none"
    assert many["holm"][0] > many["p"][0] == pytest.approx(alone["p"][0])


@pytest.mark.parametrize(
    ("gaps", "held", "told"),
    [
        (
            {3: 0.05, 6: 0.05},
            "Holds in every cell",
            "shown to be better in 2 of 2 cells, hard labels in 0",
        ),
        (
            {3: 0.05, 6: 0.0},
            "Holds in some cells only",
            "better in 1 of 2 cells, hard labels in 0, and no difference",
        ),
        (
            {3: -0.05, 6: 0.0},
            "Not shown in any cell",
            "shown to be better in 0 of 2 cells, hard labels in 1",
        ),
    ],
)
def test_words_follow_the_table_whichever_way_it_comes_out(gaps, held, told):
    table = answers.gaps(lengths(gaps), "macro_accuracy")
    assert sentences.holds(table) == held
    assert told in plain(sentences.tally(table))


def test_lengths_are_listed_by_what_they_show():
    table = answers.gaps(lengths({3: 0.05, 6: 0.05, 12: 0.0, 30: -0.05}), "macro_accuracy")
    assert plain(sentences.by_length(table)) == (
        "soft labels are better at 3 and 6 epochs; hard labels are better at 30 epochs; no difference is shown at "
        "12 epochs"
    )


@pytest.mark.parametrize(
    ("gaps", "told"),
    [
        ({3: 0.05, 30: 0.0}, "from 3 epochs to 30 epochs, a change in favour of hard labels"),
        ({3: 0.0, 30: 0.05}, "a change in favour of soft labels"),
        ({3: 0.05, 30: 0.05}, "no change is shown"),
        ({3: 0.05}, "is known at one value only"),
    ],
)
def test_a_change_of_the_gap_is_tested_itself(gaps, told):
    assert told in plain(sentences.changes(lengths(gaps), "macro_accuracy", "epochs"))


def test_rivals_remove_the_share_of_the_excess_that_they_do_not_leave():
    smooth = [run("hard", split, 0.9, 0.45, label_smoothing=0.1) for split in range(5)]
    rows = pd.concat([cells([({}, (0.9, 0.8), (0.9, 0.1))]), pd.DataFrame(smooth)])
    table = answers.rivals(rows).set_index("rival")
    for rival, kl in {
        "temperature by hard labels": 0.6,
        "temperature by soft truth": 0.4,
        "label smoothing 0.1": 0.45,
    }.items():
        assert table.loc[rival, "mean"] == pytest.approx((0.8 - kl) / 0.7, abs=1e-4)
        assert table.loc[rival, "low"] < table.loc[rival, "mean"] < table.loc[rival, "high"]
        assert table.loc[rival, "kl"] == pytest.approx(kl)


def test_the_nearest_cell_to_the_paper_is_found_with_either_truth():
    paper = {name: mean for name, (mean, _) in report.PAPER["synthetic"].items()}
    soft = (paper["soft", "macro_accuracy"], paper["soft", "kl"])
    rows = cells(
        [
            ({"epochs": 3}, (paper["hard", "macro_accuracy"], 2 * paper["hard", "kl"]), soft),  # by its one-hot KL
            ({"epochs": 30}, (0.97, 0.9), (0.96, 0.013)),
        ]
    )
    table = answers.nearest(rows)
    assert table["epochs"].tolist() == [3, 30]
    assert table["distance_one_hot"][0] == pytest.approx(0, abs=1e-6)
    assert table["distance"][0] == pytest.approx(paper["hard", "kl"] / 0.0836 / 2)  # one of four differs
    assert "the nearest cell (3 epochs) is 0.0 of" in plain(sentences.matched(table))
    assert "against the one-hot majority; 4 of its four numbers are within two" in plain(sentences.matched(table))
    assert sentences.reached(table) == "Reached by a cell"
    assert sentences.reached(answers.nearest(rows[rows["epochs"] == 30])) == "Not reached by any cell"


def test_a_number_beyond_the_papers_own_spread_is_named_and_may_be_within_both():
    hard, soft = (
        [report.PAPER["synthetic"][arm, name][0] for name in ("macro_accuracy", "kl")] for arm in ("hard", "soft")
    )
    rows = cells([({"epochs": 3}, (hard[0], hard[1]), (soft[0], soft[1] + 0.0090))])
    rows = rows.assign(kl_one_hot=rows["kl"])
    for deviation, within_both in ((0.0, 3), (0.0080, 4)):
        some = rows.assign(kl=rows["kl"] + deviation * (rows["labels"] == "soft") * (rows["split"] - 2))
        row = answers.nearest(some).iloc[0]
        assert (row["within"], row["within_both"], row["farthest"]) == (3, within_both, "soft_kl")


def votes(levels, splits=5):
    """Rows at several votes an image (0 for all): accuracy and KL of the hard arm, then of the soft arm."""
    return cells([({"votes_per_image": m}, *pair) for m, pair in levels.items()], splits)


LEVELS = {
    1: ((0.80, 0.90), (0.80, 0.90)),
    2: ((0.85, 0.85), (0.851, 0.50)),
    5: ((0.90, 0.80), (0.93, 0.20)),
    10: ((0.90, 0.80), (0.955, 0.13)),
    0: ((0.90, 0.80), (0.96, 0.10)),
}


def test_enough_votes_are_the_least_from_which_on_the_loss_is_below_the_margin():
    table = answers.enough(votes(LEVELS), "macro_accuracy").set_index("m")
    assert table["mean"].to_dict() == pytest.approx({1: 0.16, 2: 0.109, 5: 0.03, 10: 0.005})
    assert table["enough"].to_dict() == {1: False, 2: False, 5: False, 10: True}
    told = plain(sentences.enough(votes(LEVELS), "macro_accuracy"))
    assert told.startswith("on the synthetic set, 10 by estimate (loss +0.0050")
    assert told.endswith("which is shown")


def test_a_number_of_votes_is_not_enough_where_a_larger_one_is_not():
    table = answers.enough(votes(LEVELS | {3: LEVELS[10]}), "macro_accuracy").set_index("m")
    assert not table.loc[3, "enough"]
    assert not table.loc[3, "estimated"]


def test_a_number_of_votes_may_be_enough_by_its_mean_and_not_by_its_interval():
    rows = votes(LEVELS)
    tilted = rows.assign(macro_accuracy=rows["macro_accuracy"] + 0.01 * rows["split"] * (rows["votes_per_image"] == 10))
    tilted["macro_accuracy"] -= 0.02 * (rows["votes_per_image"] == 10)
    told = plain(sentences.enough(tilted, "macro_accuracy"))
    assert "10 by estimate" in told
    assert told.endswith("shown at none")
    assert "10 votes an image keep within 0.01" in plain(sentences.everywhere(tilted, "macro_accuracy"))
    assert "on 0 of 1 shown" in plain(sentences.everywhere(tilted, "macro_accuracy"))
    assert "on 1 of 1 shown" in plain(sentences.everywhere(rows, "macro_accuracy"))
    more = rows[rows["votes_per_image"] == 0].assign(votes_per_image=20, key=lambda t: "20 " + t["key"].astype(str))
    assert "10 votes" in plain(sentences.everywhere(pd.concat([tilted, more]), "macro_accuracy"))
    assert "on 0 of 1 shown" in plain(sentences.everywhere(pd.concat([tilted, more]), "macro_accuracy"))


def test_no_number_is_called_enough_on_a_set_where_none_is():
    rows = votes(LEVELS | {10: LEVELS[2]})
    assert "none of those tried (1, 2, 5 and 10)" in plain(sentences.enough(rows, "macro_accuracy"))
    assert sentences.everywhere(rows, "macro_accuracy").startswith("no number that was tried keeps within 0.01")


def test_the_hard_arm_is_told_to_be_better_or_worse_with_few_votes_by_the_sign():
    told = plain(sentences.hard_by_votes(votes(LEVELS)))
    assert told.startswith("on the synthetic set by +0.1000")
    assert told.endswith("from all votes to 1")


def test_the_advantage_by_a_margin_has_an_interval_on_the_votes():
    at = answers.thresholds(votes(LEVELS), "macro_accuracy")
    assert (at["estimate"], at["shown"]) == (5, [5, 10, np.inf])
    assert at["low"] <= at["estimate"] <= at["high"]
    assert plain(sentences.advantage(votes(LEVELS), "macro_accuracy")) == "on the synthetic set, at 5, 10 and all"
    nowhere = votes({m: (hard, hard) for m, (hard, _) in LEVELS.items()})
    assert answers.thresholds(nowhere, "kl") == {"estimate": None, "low": None, "high": None, "shown": []}
    assert sentences.advantage(nowhere, "kl") == "on the synthetic set, at none of those tried"


def spend(gain):
    return cells(
        [
            ({"votes_per_image": 1}, (0.9, 0.8), (0.9, 0.8)),
            ({"votes_per_image": 10, "train_share": 0.1}, (0.8, 0.8), (0.9 + gain, 0.8)),
        ]
    )


@pytest.mark.parametrize(
    ("gain", "told"),
    [
        (0.05, "over one vote on each of 9,000 images, 10 votes on each of 900 gain +0.0500"),
        (0.05, "(shown to be better)"),
        (-0.05, "(shown to be worse)"),
        (0.0, "(neither is shown to be better)"),
    ],
)
def test_a_budget_is_compared_within_an_arm(gain, told):
    assert told in plain(sentences.spent(spend(gain), "macro_accuracy", "soft"))
    assert "(shown to be worse)" in sentences.spent(spend(gain), "macro_accuracy", "hard")


TABLES = [
    pytest.param(lambda rows: grid_pages.gap_table(rows, "kl"), id="gaps"),
    pytest.param(grid_pages.rival_table, id="rivals"),
    pytest.param(grid_pages.nearest_table, id="nearest"),
    pytest.param(grid_pages.enough_table, id="enough"),
    pytest.param(grid_pages.threshold_table, id="thresholds"),
    pytest.param(grid_pages.budget_table, id="budget"),
]


@pytest.mark.parametrize("make", TABLES)
@pytest.mark.parametrize("splits", [1, 2, 5])
def test_tables_can_be_shown_of_few_and_many_splits(make, splits):
    shown = report.markdown_table(make(pd.concat([votes(LEVELS, splits), spend(0.0)])))
    assert "nan" not in shown
    assert (make(votes(LEVELS, 1)).map(str) != "").all().all()


def test_figures_have_a_panel_a_metric_and_bars_where_there_are_intervals():
    rows = pd.concat([lengths({3: 0.05, 30: 0.0}), spend(0.0)])
    for splits, drawn in ((5, True), (1, False)):
        some = rows[rows["split"] < splits]
        figure = plots.error_lines(answers.gap_lines(some, "epochs", "train_share"), xlabel="epochs", zero=True)
        assert [axis.get_title() for axis in figure.axes] == ["soft − hard, macro accuracy", "soft − hard, KL"]
        heights = [
            np.ptp(segment[:, 1])
            for axis, bar in itertools.product(figure.axes, (0,))
            for lines in axis.containers
            for segment in lines.lines[2][bar].get_segments()
        ]
        assert any(heights) == drawn


def test_an_empty_table_has_no_figure():
    assert plots.error_lines(pd.DataFrame(), xlabel="x") is None
    assert plots.error_rows(pd.DataFrame(), xlabel="x") is None


def of_specs(grid):
    """A whole grid as it would be published, with the sets of real votes, from the specs of its parts."""
    parts = grids.parts(grid, study.plan("quick"), which="full")
    parts |= {name: parts["main" if grid == "when" else "synthetic"] for name in grids.left_out(grid)}
    tables = []
    for name, specs in parts.items():
        dataset = {"dataset": name} if name in grids.left_out(grid) else {}
        made = []
        for spec in specs:
            settings = {field: getattr(spec, field) for field in grids.VARYING} | dataset
            level = {"hard": (0.9, 0.8), "soft": (0.91, 0.1 + 0.3 / (spec.votes_per_image or 1e9))}[spec.labels]
            made.append(
                run(spec.labels, spec.split, *level) | settings | {"part": name, "key": name * bool(dataset) + spec.key}
            )
        tables.append(pd.DataFrame(made))
    rows = pd.concat(tables, ignore_index=True)
    curves = rows[["part", "key", "macro_accuracy", "kl"]].assign(epoch=1, examples=rows["training_images"])
    return grids.Results(rows, curves, "made here.", {}, {})


@pytest.fixture(scope="module")
def whole():
    return {grid: of_specs(grid) for grid in grids.GRIDS}


def test_a_whole_grid_fills_every_sentence_and_table_and_each_number_leads_to_its_page(whole):
    for name, make in grid_pages.texts(study.plan("quick"), **whole).items():
        text = make()
        assert "nan" not in plain(text), name
        assert sentences.NONE not in text, name
        assert "](#grid)" not in text, name
        if ".table." not in name and re.search(r"\d\.\d{4}", text):
            assert f"](#grid-{name.partition('.')[0]})" in text, name


def test_a_slice_fills_them_too_and_says_what_is_not_there(whole):
    for grid, found in whole.items():
        some = found.rows[(found.rows["part"].isin(["main", "synthetic"])) & (found.rows["split"] < 1)]
        texts = grid_pages.texts(study.plan("quick"), **{grid: found._replace(rows=some)})
        for name, make in texts.items():
            if name.startswith(grid):
                assert "nan" not in plain(make()), name
        if grid == "when":
            assert sentences.NONE in texts["when.protocols.kl"]()
            assert sentences.NONE in texts["when.table.protocols"]()


def test_figures_of_a_whole_grid_name_every_panel(whole):
    when, votes_grid = whole["when"], whole["votes"]
    lines = answers.learning_lines(grid_pages.main(when), when.curves)
    assert plots.error_lines(lines, xlabel="x", band=True).axes[2].get_title() == "macro accuracy, by examples seen"
    assert len(plots.error_rows(answers.gap_rows(grid_pages.protocols(when)), xlabel="x").axes) == 2
    ticks = plots.error_lines(answers.vote_lines(grid_pages.part(votes_grid, "synthetic")), xlabel="m").axes[0]
    assert [tick.get_text() for tick in ticks.get_xticklabels()] == ["1", "2", "3", "5", "10", "20", "all"]
    assert plots.error_lines(answers.budget_lines(grid_pages.budget(votes_grid)), xlabel="m") is not None
    plt.close("all")


def test_verify_computes_what_a_page_says_of_a_grid_again_and_names_what_differs(whole, tmp_path, monkeypatch):
    known = dict(whole)
    monkeypatch.setattr(grids, "results", lambda grid, study: known[grid])
    asked = study.plan("quick")
    text, printed = report.fill("KL {{ when.tally.kl }}", grid_pages.texts(asked), "page.md")
    (tmp_path / "page.md").write_text(text)
    (tmp_path / "printed.json").write_text(json.dumps({"page.md": grid_pages.record(asked, printed)}))
    assert verify.faults(tmp_path) == (1, [])
    rows = whole["when"].rows
    known["when"] = whole["when"]._replace(rows=rows.assign(kl=rows["kl"].where(rows["labels"] == "hard", 0.9)))
    _, found = verify.faults(tmp_path)
    assert len(found) == 1
    assert found[0].startswith("page.md: when.tally.kl is printed as")


@pytest.mark.parametrize(("here", "words"), [((), "is not on this machine"), (("cifar10h",), "Only the full grid has")])
def test_a_set_is_said_to_be_away_only_where_it_is(here, words, monkeypatch):
    monkeypatch.setattr(sentences.real_data, "names", lambda: here)
    assert words in sentences.has(pd.DataFrame(), "cifar10h")
