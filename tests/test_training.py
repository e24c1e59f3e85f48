"""Training: what the labels decide, what a seed decides, and how it ends where it cannot go on."""

import math
import time

import numpy as np
import pytest
import torch

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import votes
from beyond_hard_labels.data.images import random_split
from beyond_hard_labels.learn import metrics, train
from beyond_hard_labels.runs.inputs import images_of
from beyond_hard_labels.runs.study import plan
from conftest import TINY

N = TINY["n_images"]
SPLIT = random_split(N, 0)


def run(targets=None, labels="soft", options=None, **changes):
    spec = plan("smoke", **(TINY | changes)).spec(labels, 0)
    data = images_of(spec)
    targets = targets or votes.targets(data.truth, labels)
    return train.train(data, targets, random_split(len(data.ids), 0), spec, seed=0, **(options or {}))


def equal(a, b):
    return all(torch.equal(a.state[name], b.state[name]) for name in a.state)


@pytest.fixture
def truth():
    return images_of(plan("smoke", **TINY).spec("soft", 0)).truth.copy()


def test_one_hot_soft_labels_train_bitwise_the_same_weights_as_hard_labels_and_others_do_not(truth):
    options = {"class_weights": True, "augment_colour": True}
    one_hot = votes.targets(np.eye(6)[truth.argmax(axis=1)], "soft")
    hard, same, soft = run(labels="hard", **options), run(one_hot, **options), run(**options)
    assert equal(hard, same)
    assert np.array_equal(hard.test_logits, same.test_logits)
    assert not equal(hard, soft)


def test_training_twice_gives_the_same_bits_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    first, second = run(dropout=0.5), run(dropout=0.5)
    assert equal(first, second)
    assert np.array_equal(first.test_features, second.test_features)
    assert all(np.array_equal(first.curves[name], second.curves[name]) for name in first.curves)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_loss_falls_on_64_images_within_twenty_steps():
    losses = run(epochs=20, batch_size=64, learning_rate=0.05).curves["train_loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_what_comes_back_has_the_shapes_of_the_split_and_curves_that_end_with_what_is_predicted(truth):
    trained = run()
    assert trained.validation_logits.shape == trained.test_logits.shape == (N // 5, 6)
    assert trained.test_features.shape == (N // 5, 96)
    shapes = {name: column.shape for name, column in trained.curves.items()}
    assert shapes == {"validation_logits": (2, N // 5, 6), "train_loss": (2,), "own_loss": (2,)}
    assert np.array_equal(trained.curves["validation_logits"][-1], trained.validation_logits.astype(np.float16))
    own = -(truth[SPLIT.validation] * np.log(metrics.softmax(trained.validation_logits))).sum(axis=1).mean()
    assert trained.curves["own_loss"][-1] == pytest.approx(own, rel=1e-12)


def test_no_step_sees_the_truth_or_the_targets_of_held_out_images(truth):
    truth[np.concatenate([SPLIT.validation, SPLIT.test])] = 1 / 6
    assert equal(run(), run(votes.targets(truth, "soft")))


def test_dropped_ties_are_not_trained_on(truth):
    trained = []
    for pair in ([0.5, 0.5, 0, 0, 0, 0], [0, 0, 0, 0, 0.5, 0.5]):
        truth[SPLIT.train[:30]] = pair
        trained.append(run(votes.targets(truth, "hard", ties="drop")))
    assert equal(*trained)


def test_sample_weights_are_balanced_and_sum_to_the_number_of_images():
    weights = train.sample_weights(np.eye(3)[[0, 0, 0, 0, 1, 1, 2]])
    assert weights.sum() == pytest.approx(7)
    assert weights == pytest.approx([7 / 12] * 4 + [7 / 6] * 2 + [7 / 3])


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("constant", {0.9: 1.0}),
        ("cosine", {0.0: 1.0, 0.5: 0.5, 1.0: 0.0}),
        # restarts after a fifth and, since the second period is twice as long, after three; it ends half-way
        ("warm_restarts", {0.1: 0.5, 0.2: 1.0, 0.4: 0.5, 0.6: 1.0, 0.9999999: 0.5}),
    ],
)
def test_schedules(name, factors):
    config = plan("smoke", schedule=name).spec("soft", 0)
    for progress, expected in factors.items():
        assert train.schedule(config, progress) == pytest.approx(expected, abs=1e-6)


def test_decoupled_decay_shrinks_weights_by_its_own_share_a_step_and_coupled_by_the_learning_rates():
    shared = {"schedule": "constant", "learning_rate": 1e-12, "epochs": 1}
    none, coupled, decoupled = (
        run(decay=decay, weight_decay=share, **shared).state["head.1.weight"]
        for decay, share in (("decoupled", 0.0), ("coupled", 0.01), ("decoupled", 0.01))
    )
    assert torch.allclose(decoupled, none * 0.99 ** math.ceil(0.6 * N / TINY["batch_size"]), rtol=1e-5)
    assert torch.equal(coupled, none)


@pytest.mark.parametrize("n", [2, 17, 33, 100])
def test_no_batch_is_left_with_a_single_image(n):
    batches = train._batches(torch.arange(n), 16)
    assert torch.equal(torch.cat(batches), torch.arange(n))
    assert 2 <= min(map(len, batches)) <= max(map(len, batches)) <= 16


def test_a_passed_deadline_stops_before_the_next_epoch():
    with pytest.raises(train.TimeUp, match="0 of 2 epochs"):
        run(options={"deadline": time.time() - 1})


def test_a_training_that_diverges_ends_with_epoch_step_learning_rate_and_remedy_and_keeps_no_progress():
    says = r"epoch 1 from step \d of 4 on, at a learning rate of .*lower learning_rate"
    with pytest.raises(train.Diverged, match=says):
        run(learning_rate=1e30, schedule="constant")
    steps = iter([None] * 3)

    def stop():
        if next(steps, "over"):
            raise KeyboardInterrupt

    with pytest.raises(train.Diverged):
        run(learning_rate=1e30, options={"on_step": stop, "on_checkpoint": lambda progress, _: progress()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"device": "cuda"}, "torch finds no GPU here"), ({"dtype": "bfloat16"}, "bfloat16 is for device=cuda")],
)
def test_what_needs_a_gpu_is_refused_and_not_left_to_a_cpu(monkeypatch, changes, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=message):
        run(**changes)


@pytest.mark.parametrize("backbone", ["densenet121", "resnet50v2", "small_mobile"])
@pytest.mark.parametrize("protocol", ["as_written", "as_run"])
def test_the_other_networks_train_under_both_protocols(backbone, protocol):
    trained = run(backbone=backbone, protocol=protocol, head="mlp", n_images=40, image_size=32, epochs=1)
    assert np.isfinite(trained.test_logits).all()
