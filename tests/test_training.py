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


def run(spec=None, targets=None, labels="soft", **changes):
    spec = spec or plan("smoke", **(TINY | changes)).spec(labels, 0)
    data = images_of(spec)
    targets = targets or votes.targets(data.truth, labels)
    return train.train(data, targets, random_split(len(data.ids), 0), spec, seed=0)


def equal(a, b):
    return all(torch.equal(a.state[name], b.state[name]) for name in a.state)


def truth():
    return images_of(plan("smoke", **TINY).spec("soft", 0)).truth


def test_one_hot_soft_labels_train_bitwise_the_same_weights_as_hard_labels():
    one_hot = np.eye(6)[truth().argmax(axis=1)]
    hard = run(labels="hard", class_weights=True, augment_colour=True)
    soft = run(targets=votes.targets(one_hot, "soft"), class_weights=True, augment_colour=True)
    assert equal(hard, soft)
    assert np.array_equal(hard.test_logits, soft.test_logits)


def test_hard_and_soft_labels_of_ambiguous_images_train_different_weights():
    assert not equal(run(labels="hard"), run(labels="soft"))


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


def test_what_comes_back_has_the_shapes_of_the_split_and_curves_of_the_epochs():
    trained = run()
    assert trained.validation_logits.shape == trained.test_logits.shape == (N // 5, 6)
    assert trained.test_features.shape == (N // 5, 96)
    assert {name: column.shape for name, column in trained.curves.items()} == {
        "validation_logits": (2, N // 5, 6),
        "train_loss": (2,),
        "own_loss": (2,),
    }


def test_the_curves_end_with_what_is_predicted_and_its_cross_entropy_with_the_targets():
    trained = run()
    predicted = metrics.softmax(trained.validation_logits)
    assert np.array_equal(trained.curves["validation_logits"][-1], trained.validation_logits.astype(np.float16))
    own = -(truth()[random_split(N, 0).validation] * np.log(predicted)).sum(axis=1).mean()
    assert trained.curves["own_loss"][-1] == pytest.approx(own, rel=1e-12)


def test_no_step_sees_the_truth_or_the_targets_of_held_out_images():
    split = random_split(N, 0)
    rows = truth().copy()
    rows[np.concatenate([split.validation, split.test])] = 1 / 6
    assert equal(run(), run(targets=votes.targets(rows, "soft")))


def test_dropped_ties_are_not_trained_on():
    rows = truth().copy()
    tied = random_split(N, 0).train[:30]
    rows[tied] = [0.5, 0.5, 0, 0, 0, 0]
    other = rows.copy()
    other[tied] = [0, 0, 0, 0, 0.5, 0.5]
    made = [votes.targets(r, "hard", ties="drop") for r in (rows, other)]
    assert equal(run(targets=made[0]), run(targets=made[1]))


def test_sample_weights_are_balanced_and_sum_to_the_number_of_images():
    targets = np.eye(3)[[0, 0, 0, 0, 1, 1, 2]]
    weights = train.sample_weights(targets)
    assert weights.sum() == pytest.approx(7)
    assert weights == pytest.approx([7 / 12] * 4 + [7 / 6] * 2 + [7 / 3])


@pytest.mark.parametrize(
    ("name", "progress", "expected"),
    [
        ("constant", 0.9, 1.0),
        ("cosine", 0.0, 1.0),
        ("cosine", 0.5, 0.5),
        ("cosine", 1.0, 0.0),
        ("warm_restarts", 0.1, 0.5),
        pytest.param("warm_restarts", 0.2, 1.0, id="first restart, after a fifth"),
        pytest.param("warm_restarts", 0.4, 0.5, id="second period is twice as long"),
        pytest.param("warm_restarts", 0.6, 1.0, id="second restart"),
        pytest.param("warm_restarts", 0.9999999, 0.5, id="training ends half-way through the third period"),
    ],
)
def test_schedules(name, progress, expected):
    config = plan("smoke", schedule=name).spec("soft", 0)
    assert train.schedule(config, progress) == pytest.approx(expected, abs=1e-6)


def test_decoupled_decay_shrinks_weights_by_its_own_share_a_step_whatever_the_learning_rate():
    shared = {"schedule": "constant", "decay": "decoupled", "weight_decay": 0.01, "learning_rate": 1e-12, "epochs": 1}
    before = run(**(shared | {"weight_decay": 0.0})).state["head.1.weight"]
    after = run(**shared).state["head.1.weight"]
    steps = math.ceil(0.6 * N / TINY["batch_size"])
    assert torch.allclose(after, before * 0.99**steps, rtol=1e-5)


def test_coupled_decay_is_multiplied_by_the_learning_rate():
    shared = {"schedule": "constant", "decay": "coupled", "learning_rate": 1e-12, "epochs": 1}
    assert torch.equal(
        run(**shared, weight_decay=0.01).state["head.1.weight"], run(**shared, weight_decay=0.0).state["head.1.weight"]
    )


@pytest.mark.parametrize("n", [2, 17, 33, 100])
def test_no_batch_is_left_with_a_single_image(n):
    batches = train._batches(torch.arange(n), 16)
    assert torch.equal(torch.cat(batches), torch.arange(n))
    assert max(len(b) for b in batches) <= 16
    assert min(len(b) for b in batches) >= 2


def test_a_passed_deadline_stops_before_the_next_epoch():
    spec = plan("smoke", **TINY).spec("soft", 0)
    data = images_of(spec)
    with pytest.raises(train.TimeUp, match="0 of 2 epochs"):
        train.train(data, votes.targets(data.truth, "soft"), random_split(N, 0), spec, seed=0, deadline=time.time() - 1)


def test_a_training_that_diverges_ends_with_epoch_step_learning_rate_and_remedy():
    with pytest.raises(
        train.Diverged, match=r"epoch 1 from step \d of 4 on, at a learning rate of .*lower learning_rate"
    ):
        run(learning_rate=1e30, schedule="constant")


def test_a_training_that_has_diverged_is_no_progress_to_keep():
    def stop():
        stop.left -= 1
        if stop.left < 0:
            raise KeyboardInterrupt

    stop.left = 3
    spec = plan("smoke", **TINY, learning_rate=1e30).spec("soft", 0)
    data = images_of(spec)
    given = (data, votes.targets(data.truth, "soft"), random_split(N, 0), spec)
    with pytest.raises(train.Diverged):
        train.train(*given, seed=0, on_step=stop, on_checkpoint=lambda progress, _: progress())


def test_a_gpu_that_is_not_there_is_an_error_and_not_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no GPU here"):
        run(device="cuda")


def test_bfloat16_is_refused_on_a_cpu():
    with pytest.raises(InputError, match="bfloat16 is for device=cuda"):
        run(dtype="bfloat16")


@pytest.mark.parametrize("backbone", ["densenet121", "resnet50v2", "small_mobile"])
@pytest.mark.parametrize("protocol", ["as_written", "as_run"])
def test_the_other_networks_train_under_both_protocols(backbone, protocol):
    trained = run(backbone=backbone, protocol=protocol, head="mlp", n_images=40, image_size=32, epochs=1)
    assert np.isfinite(trained.test_logits).all()
