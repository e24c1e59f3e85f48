"""Sets whose test images are shared, and the kinds of target that tell why soft labels help."""

import json

import numpy as np
import pandas as pd
import pytest

from beyond_hard_labels.base import process
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import sets, shapes, votes
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.learn import train as training
from beyond_hard_labels.runs import execute, grids, store, study
from beyond_hard_labels.runs.inputs import images_of, labels_of, split_of
from beyond_hard_labels.runs.spec import RunSpec, other_fields
from conftest import ROOT, TINY

SHARED = TINY | {"n_images": 200, "test_images": 60}


def spec(labels="soft", split=0, **changes):
    return study.plan("smoke", **(SHARED | changes)).spec(labels, split)


def made(labels="soft", split=0, **changes):
    """Return the images, the split and the targets of a run."""
    asked = spec(labels, split, **changes)
    data = images_of(asked)
    return data, split_of(asked, data), labels_of(asked, data)


def train(asked, **options):
    data = images_of(asked)
    return training.train(data, labels_of(asked, data), split_of(asked, data), asked, seed=asked.split, **options)


@pytest.mark.parametrize("labels", votes.TARGET_KINDS)
@pytest.mark.parametrize("changed", [{}, {"votes_per_image": 3, "ties": "random"}])
def test_targets_of_every_kind_sum_to_one_in_every_epoch_and_train(labels, changed):
    if labels.startswith("dawid_skene"):  # which need to know who voted
        changed = {"votes_per_image": 3} | changed
    _, _, targets = made(labels, **changed)
    for epoch in range(3):
        assert targets.of_epoch(epoch).sum(axis=1) == pytest.approx(1, abs=1e-12)
    assert np.isfinite(train(spec(labels, **changed)).test_logits).all()


def test_the_test_images_are_shared_by_all_replicates_and_are_in_none_of_them():
    pairs = [made(split=number, data_seed=number)[:2] for number in range(3)]
    for data, split in pairs:
        assert np.array_equal(data.images[split.test], pairs[0][0].images[pairs[0][1].test])
        assert np.array_equal(data.truth[split.test], pairs[0][0].truth[pairs[0][1].test])
        assert [len(part) for part in split] == [150, 50, 60]  # three quarters of a replicate are trained on
        assert np.array_equal(np.sort(np.concatenate(split)), np.arange(len(data.ids)))
    assert len(set().union(*(data.ids for data, _ in pairs))) == 3 * 200 + 60
    assert np.array_equal(images_of(spec(test_images=0)).images, pairs[0][0].images[:200])
    tables = [shapes.draw_parameters(200, seed) for seed in range(50)]
    tables.append(shapes.draw_parameters(60, 0, purpose=shapes.TEST_STREAM))
    assert not pd.concat(tables)[["major", "rotation", "x"]].duplicated().any()


def test_a_soft_colour_or_shape_is_the_truths_and_the_other_the_majoritys():
    data, _, soft = made("soft")
    hard = made("hard")[2].rows.reshape(-1, 3, 2)
    truth = data.truth.reshape(-1, 3, 2)
    colour, shape = (made(f"soft_{part}")[2].rows.reshape(-1, 3, 2) for part in ("colour", "shape"))
    assert colour.sum(axis=2) == pytest.approx(truth.sum(axis=2))
    assert np.array_equal(colour.sum(axis=2).argmax(axis=1), hard.sum(axis=2).argmax(axis=1))
    assert colour.sum(axis=1) == pytest.approx(hard.sum(axis=1))
    assert shape.sum(axis=1) == pytest.approx(truth.sum(axis=1))
    assert shape.sum(axis=2) == pytest.approx(hard.sum(axis=2))
    assert shapes.product(soft.rows, soft.rows) == pytest.approx(soft.rows)  # the exact truth is a product
    entropies = [metrics.entropy(rows.reshape(-1, 6)) for rows in (colour, shape, truth)]
    assert entropies[0] + entropies[1] == pytest.approx(entropies[2])
    pure, half = np.eye(6)[[4]], np.array([[0, 0, 0.5, 0.5, 0, 0]])
    assert shapes.product(pure, half).tolist() == [[0, 0, 0, 0, 0.5, 0.5]]  # as its docstring says


def test_shuffled_labels_are_those_of_the_same_majority_and_part():
    _, split, targets = made("soft_shuffled")
    soft = made("soft")[2].rows
    leading = soft.argmax(axis=1)
    assert np.array_equal(targets.rows.argmax(axis=1), leading)
    for part in split:
        for c in range(6):
            rows, dealt = (all_rows[part[leading[part] == c]] for all_rows in (soft, targets.rows))
            assert sorted(rows.tolist()) == sorted(dealt.tolist())
    assert (targets.rows != soft).any(axis=1).mean() > 0.5
    assert np.array_equal(targets.rows, made("soft_shuffled")[2].rows)
    assert not np.array_equal(targets.rows, made("soft_shuffled", split=1)[2].rows)


def test_votes_drawn_in_each_epoch_are_one_hot_new_each_time_and_soft_on_average():
    data, _, targets = made("one_vote", n_images=1000)
    drawn = np.stack([targets.of_epoch(epoch) for epoch in range(400)])
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert (drawn.mean(axis=0)[data.truth == 0] == 0).all()
    error = (drawn.mean(axis=0) - data.truth) / np.sqrt(np.clip(data.truth * (1 - data.truth), 1e-12, None) / 400)
    assert error[data.truth % 1 > 0.05].std() == pytest.approx(1, abs=0.05)
    assert targets.rows == pytest.approx(data.truth)
    assert np.array_equal(targets.of_epoch(7), drawn[7])
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(made("one_vote", split=1, n_images=1000)[2].of_epoch(0), drawn[0])


def test_weights_are_the_largest_shares_only_their_ratios_train_and_nothing_is_learned_at_weight_zero():
    data, split, targets = made("hard_weighted", dropout=0.0)
    assert targets.weight == pytest.approx(data.truth.max(axis=1))
    assert np.array_equal(targets.rows, made("hard")[2].rows)

    def logits(**changed):
        return training.train(data, targets._replace(**changed), split, spec("hard_weighted"), seed=0).test_logits

    weighted, plain = logits(), logits(weight=None)
    assert np.array_equal(weighted, logits(weight=4 * targets.weight))
    assert np.array_equal(plain, logits(weight=np.full(len(data.ids), 0.25)))
    assert not np.array_equal(weighted, plain)
    weight, rows = targets.weight.copy(), targets.rows.copy()
    weight[split.train[:40]], rows[split.train[:40]] = 0, np.eye(6)[0]
    assert np.array_equal(logits(weight=weight), logits(weight=weight, rows=rows))


@pytest.mark.parametrize(("ambiguous", "n"), [("left_out", None), ("replaced", 150)])
def test_without_ambiguous_images_only_pure_ones_are_trained_on_and_the_rest_stays(ambiguous, n):
    whole, whole_split, _ = made("hard")
    data, split, targets = made("hard", ambiguous=ambiguous)
    assert (data.truth[split.train].max(axis=1) == 1).all()
    pure = whole_split.train[whole.truth[whole_split.train].max(axis=1) == 1]
    assert np.array_equal(split.train[: len(pure)], pure)
    assert len(split.train) == (n or len(pure)) == len(set(split.train))
    assert np.array_equal(targets.rows[split.train], data.truth[split.train])
    for index, before in zip(split[1:], whole_split[1:], strict=True):  # validation and test images
        assert np.array_equal(index, before)
        assert np.array_equal(data.images[index], whole.images[index])
    fresh = {data.images[i].tobytes() for i in split.train[len(pure) :]}
    assert not fresh & {image.tobytes() for image in whole.images}


def test_the_smoothing_of_the_grid_gives_hard_labels_the_mean_entropy_of_soft_ones():
    truth = shapes.label_distribution(shapes.draw_parameters(100_000, 0))
    assert metrics.entropy(truth).mean() == pytest.approx(0.6, abs=0.003)  # 0.6 of images, 0.5 nats in each of two
    smoothing = {s.label_smoothing for s in grids.parts("mechanism", study.plan("quick"), which="full")["short"]}
    (share,) = smoothing - {0.0}
    smoothed = votes.smooth(votes.targets(truth[:1], "hard"), share).rows
    assert metrics.entropy(smoothed)[0] == pytest.approx(0.6, abs=1e-4)


@pytest.mark.parametrize("steps", [1, 10, 14])
def test_votes_drawn_in_each_epoch_go_on_from_any_step_to_the_same_bits(steps):
    asked, kept, left = spec("one_vote", dropout=0.5), [], iter([None] * steps)

    def stop():
        if next(left, "over"):
            raise process.Terminated

    whole = train(asked)
    with pytest.raises(process.Terminated):
        train(asked, on_step=stop, on_checkpoint=lambda progress, _: kept.append(progress()))
    assert (kept[-1].epoch, kept[-1].step) == divmod(steps, 10)
    again = train(asked, start=kept[-1])
    assert np.array_equal(whole.test_logits, again.test_logits)
    assert all(np.array_equal(whole.curves[name], again.curves[name]) for name in whole.curves)


def test_a_run_with_shared_test_images_is_stored_and_read_with_its_scores():
    run = execute.execute(spec("one_vote", label_smoothing=0.1))
    assert np.array_equal(run.index, np.arange(200, 260))
    assert run.manifest["training_images"] == 150
    assert np.isfinite(list(run.metrics.values())).all()
    assert run.temperatures()["own targets"] == run.temperatures()["soft truth"]  # their expectation is the truth
    assert store.load(run.folder).spec == run.spec


def test_a_further_field_is_part_of_the_key_only_where_it_is_not_what_published_runs_had_before():
    folders = [path.parent for path in (ROOT / "results").glob("*/spec.json")]
    assert len(folders) > 20
    for folder in folders:
        assert RunSpec(**json.loads((folder / "spec.json").read_text())).key == folder.name
    plain = spec(test_images=0)
    without = {n: v for n, v in vars(plain).items() if n not in ("test_images", "ambiguous")}
    assert RunSpec(**without) == plain
    assert other_fields(without) == ""
    keys = {plain.key, spec().key, spec(ambiguous="left_out").key, spec(test_images=0, ambiguous="left_out").key}
    assert len(keys) == 4


def test_replicates_are_sets_of_their_own_one_after_the_other_and_the_mechanism_has_their_arms():
    plan = study.plan("quick")
    (both_arms,), of_targets = (grids.parts(g, plan, which="full").values() for g in ("replicates", "mechanism"))
    for specs in (both_arms, *of_targets):
        assert len(specs) == len(set(specs))
        assert all(s.split == s.data_seed for s in specs)
        assert [s.split for s in specs] == sorted(s.split for s in specs)
        assert {(s.n_images, s.test_images, s.backbone) for s in specs} == {(12000, 6000, "small")}
    for specs in of_targets:
        common, replicates = set(specs) & set(both_arms), {s.split for s in specs} & {s.split for s in both_arms}
        assert len(common) == 2 * len(replicates) > 0


def test_a_set_that_is_read_has_no_images_beyond_it_and_no_colour():
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16), dtype=np.uint8)
    folder = sets.folders()[1]
    folder.mkdir(parents=True)
    counts = np.tile([[3, 1, 0], [0, 2, 0]], (30, 1))
    np.savez(folder / "other.npz", images=images, counts=counts, class_names=np.array(["a", "b", "c"]))
    small = {"dataset": "other", "n_images": 60, "image_size": 16, "epochs": 1}
    for change in ({"test_images": 10}, {"ambiguous": "replaced"}):
        with pytest.raises(InputError, match="other is read, not generated"):
            study.plan("smoke", **small, **change)
    with pytest.raises(InputError, match="labels are 'soft_colour', which other has not"):
        execute.execute(study.plan("smoke", **small).spec("soft_colour", 0))
    data, split, _ = made("hard", **(small | {"test_images": 0, "ambiguous": "left_out"}))
    assert (data.votes[split.train].max(axis=1) == data.votes[split.train].sum(axis=1)).all()
    assert 0 < len(split.train) < 36
