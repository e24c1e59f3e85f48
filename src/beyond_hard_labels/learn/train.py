"""Training: one function for both kinds of label.

The protocol is the paper's (section 2) where it speaks; what it omits (momentum, head, class
weights, augmentation) comes from the authors' benchmark code, DCIC. What a training is worth is computed
elsewhere, from what it predicts: no metric is imported here.
"""

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.process import TimeUp
from beyond_hard_labels.base.rng import stream, torch_seed
from beyond_hard_labels.data.images import LabelledImages, Split
from beyond_hard_labels.data.votes import Targets
from beyond_hard_labels.learn import augment, models
from beyond_hard_labels.learn.config import TrainConfig, schedule


class Diverged(InputError):
    """The loss or what is predicted is no longer finite, most often since the learning rate is too high."""


class Trained(NamedTuple):
    """What a training returns.

    Attributes
    ----------
    validation_logits, test_logits : np.ndarray
        float32 (N_validation, K) and (N_test, K), rows in the order of the split.
    test_features : np.ndarray
        float32 (N_test, F), pooled.
    curves : dict of str to np.ndarray
        One entry an epoch: ``validation_logits``, float16 (E, N_validation, K), and float64 (E,)
        ``train_loss`` and ``own_loss``, the latter of the validation images against their own targets, in nats.
    state : dict of str to torch.Tensor
        The weights after the last epoch.
    """

    validation_logits: np.ndarray
    test_logits: np.ndarray
    test_features: np.ndarray
    curves: dict[str, np.ndarray]
    state: dict[str, torch.Tensor]


class Progress(NamedTuple):
    """Where a training is; `train` goes on from it to the same last bit.

    Attributes
    ----------
    epoch : int
        The epoch that goes on, from 0.
    step : int
        Its steps that are done.
    tensors : dict of str to torch.Tensor
        On the CPU: weights (``model.*``), momentum (``momentum.*``) and, once an epoch is done, curves
        (``curves.*``); within an epoch also the sum of its losses (``loss``) and the state of the generator of
        dropout (``generator``).
    """

    epoch: int
    step: int
    tensors: dict[str, torch.Tensor]


class _Given(NamedTuple):
    """What no step changes; tensors lie on the device for the whole training."""

    images: torch.Tensor  # uint8 (N, C, H, W)
    weight: torch.Tensor  # float32 (N,)
    targets: Targets
    rows: np.ndarray  # int64, the images that are trained on
    validation: np.ndarray
    config: TrainConfig
    seed: int


@dataclass
class _State:
    """What the steps change; `Progress` holds all of it."""

    model: models.Classifier
    optimiser: torch.optim.SGD
    loss: torch.Tensor  # the sum over the epoch's images so far
    epoch: int = 0
    step: int = 0
    generator: torch.Tensor | None = None  # where dropout's generator goes on within an epoch
    curves: dict[str, list] = field(default_factory=lambda: {n: [] for n in _CURVES})


_CURVES = ("validation_logits", "train_loss", "own_loss")


def sample_weights(targets: np.ndarray) -> np.ndarray:
    """Return the weight of each image, n / (K n_c) for the class c that leads its target: float64 (N,).

    The weights of n images sum to n if every class leads somewhere. The loss divides by the batch
    size: torch's own class weights normalise otherwise, and differently for indices and for
    probabilities, which would favour one kind of label.
    """
    leading = targets.argmax(axis=1)
    size = np.bincount(leading, minlength=targets.shape[1])
    return len(targets) / (targets.shape[1] * size[leading])


def train(
    data: LabelledImages,
    targets: Targets,
    split: Split,
    config: TrainConfig,
    *,
    seed: int,
    deadline: float = math.inf,
    start: Progress | None = None,
    on_step: Callable[[], None] = lambda: None,
    on_epoch: Callable[[int], None] = lambda epoch: None,
    on_checkpoint: Callable[[Callable[[], Progress], bool], None] = lambda progress, stopping: None,
) -> Trained:
    """Train on the split's training images and predict its validation and test images.

    The loss is the cross-entropy between target and prediction, for all kinds of target; nothing is selected on
    validation data. One-hot soft labels give bitwise the weights of hard ones; so does the same call once more.

    Parameters
    ----------
    data, targets, split : LabelledImages, Targets, Split
        Images, whose truth is not looked at, their targets, and the rows of the three parts. Training rows that
        are not to be kept are left out; the weights of the rest are scaled to a mean of 1.
    seed : int
        Seeds initialisation, order, augmentation and dropout, each by a stream of its own.
    deadline : float
        ``time.time()`` after which no further step starts.
    start : Progress, optional
        Where to go on; the other arguments must be those that it was made with.
    on_step, on_epoch : callable
        Called before each step, which may raise to end the training, and with the number of each finished epoch.
    on_checkpoint : callable
        Called after each epoch but the last, and before an early end, with a function that returns the `Progress`
        and with whether this is the end.

    Raises
    ------
    InputError, Diverged, TimeUp
        If device or training images lack; if a loss, looked at once an epoch, or a prediction is not finite; if late.
    """
    given = _place(data, targets, split, config, seed)
    state = _begin(given, start)
    progress = functools.partial(_progress, state)

    def before_step() -> None:
        try:
            on_step()
            if time.time() > deadline:
                raise TimeUp(f"stopped after {state.epoch} of {config.epochs} epochs")
        except BaseException:
            on_checkpoint(progress, True)
            raise

    while state.epoch < config.epochs:
        _train_epoch(state, given, before_step)
        logits = _end_epoch(state, given)
        on_epoch(state.epoch)
        if state.epoch < config.epochs:
            on_checkpoint(progress, False)
    return _result(state, logits, *_predict(state, given, split.test))


def _place(data: LabelledImages, targets: Targets, split: Split, config: TrainConfig, seed: int) -> _Given:
    """Check what a training is given, and put on the device what stays there."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, and torch finds no GPU here; say device=cpu, which is another run")
    if config.dtype == "bfloat16" and config.device != "cuda":
        raise InputError("dtype bfloat16 is for device=cuda; say dtype=float32")
    rows = split.train[targets.keep[split.train]]
    if len(rows) < 2:
        raise InputError(f"{len(rows)} training images are left, expected at least 2")
    if config.device == "cuda":  # cuBLAS is deterministic only so, and reads it at its first call
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads any; a tenth of the time
    weight = np.ones(len(data.images), np.float32)
    if targets.weight is not None:
        weight[rows] = targets.weight[rows] / targets.weight[rows].mean()
    if config.class_weights:
        weight[rows] *= sample_weights(targets.rows[rows])
    images, weight = (torch.from_numpy(array).to(config.device) for array in (data.images, weight))
    return _Given(images, weight, targets, rows, split.validation, config, seed)


def _begin(given: _Given, start: Progress | None) -> _State:
    """Return the state before the first step, or where a training was."""
    config, images = given.config, given.images
    model = models.build(config, given.targets.rows.shape[1], images.shape[1], given.seed)
    model = model.to(images.device, memory_format=torch.channels_last)
    coupled = config.weight_decay if config.decay == "coupled" else 0.0
    optimiser = torch.optim.SGD(
        list(model.parameters()), config.learning_rate, config.momentum, weight_decay=coupled, fused=True
    )
    state = _State(model, optimiser, torch.zeros((), device=images.device))
    if start:
        _restore(state, start)
    return state


def _train_epoch(state: _State, given: _Given, before_step: Callable[[], None]) -> None:
    """Take the steps of an epoch that are left; raise `Diverged` at its end if one of their losses is not finite."""
    # All that the steps need goes to the device once an epoch: no step copies to it, or waits for it.
    config, device = given.config, given.images.device
    order = given.rows[stream("order", given.seed, state.epoch).permutation(len(given.rows))]
    batches = _batches(torch.from_numpy(order).to(device), config.batch_size)
    y = torch.from_numpy(given.targets.of_epoch(state.epoch).astype(np.float32)).to(device)  # (N, K)
    u = augment.draw(len(given.images), given.seed, state.epoch).to(device)  # (N, 11)
    first, losses = state.step, []
    state.model.train()
    with _dropout(state, given):
        for i, here in enumerate(batches[first:], first):
            before_step()
            factor = schedule(config, (state.epoch + i / len(batches)) / config.epochs)
            losses.append(_step(state, given, here, y, u, factor))
    if not (finite := torch.stack(losses).isfinite()).all():
        step = first + int(finite.int().argmin())
        rate = config.learning_rate * schedule(config, (state.epoch + step / len(batches)) / config.epochs)
        raise Diverged(
            f"the loss is not finite in epoch {state.epoch + 1} from step {step + 1} of {len(batches)} on, "
            f"at a learning rate of {rate:g}; set a lower learning_rate"
        )


def _step(state: _State, given: _Given, here, y, u, factor: float) -> torch.Tensor:
    """Take a step on the images `here` at `factor` times the learning rate; return its loss, without waiting for it."""
    config, parameters = given.config, state.optimiser.param_groups[0]["params"]
    state.optimiser.param_groups[0]["lr"] = config.learning_rate * factor
    x = augment.augment(given.images[here], u[here], config)
    with _autocast(config):
        logits, _ = state.model(x)
    per_image = -(y[here] * logits.float().log_softmax(1)).sum(1)
    loss = (given.weight[here] * per_image).sum() / len(here)
    state.optimiser.zero_grad()
    loss.backward()
    if config.decay == "decoupled":  # Loshchilov and Hutter's SGDW: decay follows the schedule only
        with torch.no_grad():
            torch._foreach_mul_(parameters, 1 - config.weight_decay * factor)
    state.optimiser.step()
    loss = loss.detach()
    state.loss += loss * len(here)
    state.step += 1
    return loss


def _end_epoch(state: _State, given: _Given) -> torch.Tensor:
    """Predict the validation images, float32 (N_validation, K), write down the epoch, and go to the next one."""
    state.step, state.epoch = 0, state.epoch + 1
    logits, _ = _predict(state, given, given.validation)
    own = given.targets.rows[given.validation]
    most = np.finfo(np.float16).max  # what lies beyond it is as sure
    state.curves["validation_logits"].append(logits.numpy().clip(-most, most).astype(np.float16))
    state.curves["train_loss"].append(float(state.loss) / len(given.rows))
    state.curves["own_loss"].append(float(-(own * logits.double().log_softmax(1).numpy()).sum(axis=1).mean()))
    state.loss.zero_()
    return logits


def _predict(state: _State, given: _Given, part: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 logits and features of the images in `part`, in that order, on the CPU."""
    state.model.eval()
    with torch.inference_mode(), _autocast(given.config):
        batches = _batches(torch.from_numpy(part).to(given.images.device), 500)
        out = [state.model(augment.scale(given.images[here])) for here in batches]
    logits, features = (torch.cat(x).float().cpu() for x in zip(*out, strict=True))
    if not (logits.isfinite().all() and features.isfinite().all()):
        rate = given.config.learning_rate
        raise Diverged(f"a prediction after epoch {state.epoch} is not finite; set a lower learning_rate than {rate:g}")
    return logits, features


def _result(state: _State, validation_logits, test_logits, test_features) -> Trained:
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.model.state_dict().items()}
    curves = {name: np.stack(column) for name, column in state.curves.items()}
    return Trained(validation_logits.numpy(), test_logits.numpy(), test_features.numpy(), curves, weights)


def _progress(state: _State) -> Progress:
    """Return copies of all that later steps depend on, on the CPU; raise `Diverged` if there is nothing to go on."""
    if not state.loss.isfinite():
        raise Diverged(f"the loss is not finite in epoch {state.epoch + 1}; set a lower learning_rate")
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    for i, parameter in enumerate(state.optimiser.param_groups[0]["params"]):
        if (momentum := state.optimiser.state[parameter].get("momentum_buffer")) is not None:
            tensors[f"momentum.{i}"] = momentum
    if state.step:
        tensors |= {"loss": state.loss, "generator": _generator(state.loss.device).get_state()}
    if state.epoch:
        tensors |= {f"curves.{n}": torch.from_numpy(np.stack(column)) for n, column in state.curves.items()}
    copies = {n: t.detach().clone(memory_format=torch.contiguous_format).cpu() for n, t in tensors.items()}
    return Progress(state.epoch, state.step, copies)


def _restore(state: _State, start: Progress) -> None:
    """Put a new state where a training was."""
    state.epoch, state.step, tensors = start
    state.model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    for i, parameter in enumerate(state.optimiser.param_groups[0]["params"]):
        if f"momentum.{i}" in tensors:
            momentum = torch.empty_like(parameter).copy_(tensors[f"momentum.{i}"])
            state.optimiser.state[parameter]["momentum_buffer"] = momentum
    if state.step:
        state.loss.copy_(tensors["loss"])
        state.generator = tensors["generator"]
    if state.epoch:
        state.curves = {name: list(tensors[f"curves.{name}"].numpy()) for name in _CURVES}


def _batches(rows, size: int) -> tuple:
    """Cut a tensor of rows into batches of at most `size` that differ by one row at most: none is left with one."""
    return rows.tensor_split(math.ceil(len(rows) / size))


@contextlib.contextmanager
def _dropout(state: _State, given: _Given) -> Iterator[None]:
    """Give torch's generator, which dropout takes its numbers from, the state of the epoch, and then its own back."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(torch_seed("dropout", given.seed, state.epoch))
        if state.step:
            _generator(given.images.device).set_state(state.generator)
        yield


def _generator(device):
    """Return torch's generator of a device."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def _autocast(config: TrainConfig):
    return torch.autocast(config.device, torch.bfloat16, enabled=config.dtype == "bfloat16")
