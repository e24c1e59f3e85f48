"""Training: one function for both kinds of label.

The protocol is the paper's (section 2) where it speaks; what it omits (momentum, head, class
weights, augmentation) comes from the authors' benchmark code, DCIC. Measured speed and the machine
stand in each run's environment file.
"""

import functools
import itertools
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.parameters import check, option, options
from beyond_hard_labels.base.process import TimeUp
from beyond_hard_labels.base.rng import stream, torch_seed
from beyond_hard_labels.data.images import LabelledImages, Split
from beyond_hard_labels.data.votes import Targets
from beyond_hard_labels.learn import metrics


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a training does with given images and targets."""

    backbone: str = option("network", choices=("densenet121", "resnet50v2", "small", "small_mobile"))
    weights: str = option("initial weights: none, imagenet, or a safetensors file of the backbone")
    weights_sha256: str = option("checksum of a weights file, empty otherwise")
    head: str = option("linear (after dropout), or mlp (128 and 64 units, batch norm)", choices=("linear", "mlp"))
    dropout: float = option("share of features dropped before a linear head", at_least=0.0, at_most=0.95)
    epochs: int = option("passes over the training images", at_least=1)
    batch_size: int = option("images a step at most; batches differ by one image at most", at_least=2)
    learning_rate: float = option("of the first step", above=0.0)
    momentum: float = option("of SGD", at_least=0.0, at_most=0.999)
    schedule: str = option("of the learning rate, a step at a time", choices=("cosine", "warm_restarts", "constant"))
    weight_decay: float = option("coupled: added to the gradient; decoupled: share of a weight a step", at_least=0.0)
    decay: str = option("coupled (SGD) or decoupled (SGDW)", choices=("coupled", "decoupled"))
    class_weights: bool = option("weight an image by n / (K n_c), c the argmax of its target")
    augment_flip_x: bool = option("flip left and right, probability 0.5")
    augment_flip_y: bool = option("flip top and bottom, probability 0.5")
    augment_rotate: bool = option("rotate by multiples of 90 degrees, probability 0.5")
    augment_shift: int = option("shift by up to so many pixels along each axis, the border repeated", at_least=0)
    augment_zoom: bool = option("zoom to the centre, probability 0.3")
    augment_colour: bool = option("jitter hue, saturation, brightness and contrast")
    device: str = option("what trains", choices=("cpu", "cuda"))
    dtype: str = option("of activations; bfloat16 is autocast and for cuda", choices=("float32", "bfloat16"))
    threads: int = option("CPU threads of a run; other numbers give other last digits", at_least=1)

    def __post_init__(self):
        check(options(type(self)), asdict(self))


class Trained(NamedTuple):
    """What a training returns.

    Attributes
    ----------
    validation_logits, test_logits : np.ndarray
        float32 (N_validation, K) and (N_test, K), rows in the order of the split.
    test_features : np.ndarray
        float32 (N_test, F), pooled.
    history : dict of str to list
        One entry an epoch; losses in nats, metrics on the validation images.
    state : dict of str to torch.Tensor
        The weights after the last epoch.
    """

    validation_logits: np.ndarray
    test_logits: np.ndarray
    test_features: np.ndarray
    history: dict[str, list]
    state: dict


def schedule(config: TrainConfig, progress: float) -> float:
    """Return the learning rate, as a multiple of the first, at `progress` in [0, 1) of all steps.

    Cosine falls from 1 to 0. Warm restarts (Loshchilov and Hutter 2016) do so over the first fifth of
    the steps, then start again over twice as many, and again (DCIC, Keras' defaults): after three
    fifths the third period begins, of which training sees the first half.
    """
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "warm_restarts":
        fifths = 5 * progress + 1e-9  # rounding must not put off a restart by a step
        period = 2 ** math.floor(math.log2(1 + fifths))
        progress = (fifths - (period - 1)) / period
    return 0.5 * (1 + math.cos(math.pi * progress))


def sample_weights(targets: np.ndarray) -> np.ndarray:
    """Return the weight of each image, n / (K n_c) for the class c that leads its target: float64 (N,).

    The weights of n images sum to n if every class leads somewhere. The loss divides by the batch
    size: torch's own class weights normalise otherwise, and differently for indices and for
    probabilities, which would favour one kind of label.
    """
    leading = targets.argmax(axis=1)
    size = np.bincount(leading, minlength=targets.shape[1])
    return len(targets) / (targets.shape[1] * size[leading])


class Progress(NamedTuple):
    """Where a training is; `train` goes on from it to the same last bit.

    Attributes
    ----------
    epoch : int
        The epoch that goes on, from 0.
    step : int
        Its steps that are done.
    history : dict of str to list
        Of the epochs before.
    tensors : dict of str to torch.Tensor
        On the CPU: weights (``model.*``) and momentum (``momentum.*``); within an epoch also the sum of
        its losses (``loss``) and the state of the generator of dropout (``generator``).
    """

    epoch: int
    step: int
    history: dict[str, list]
    tensors: dict


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

    The loss is the cross-entropy between target and prediction, for both kinds of label; the last
    epoch is reported, nothing is selected on validation data. With one-hot soft labels the two kinds
    give bitwise equal weights. The same arguments give bitwise equal results on the same device,
    versions and number of threads.

    Parameters
    ----------
    data : LabelledImages
        All images; the truth is used for the history and never for a step.
    targets : Targets
        Targets of all images; rows that are not to be kept are left out of the training rows. The
        weights of these are scaled to a mean of 1.
    split : Split
        Row indices of the three parts.
    config : TrainConfig
        The protocol.
    seed : int
        Seeds initialisation, order, augmentation and dropout, each by a stream of its own.
    deadline : float
        ``time.time()`` after which no further step starts.
    start : Progress, optional
        Where to go on; the other arguments must be those that it was made with.
    on_step : callable
        Called before each step; what it raises ends the training.
    on_epoch : callable
        Called with the number of each finished epoch, from 1.
    on_checkpoint : callable
        Called after each epoch but the last, and before this function ends early, with a function that
        returns the `Progress` and with whether it ends.

    Raises
    ------
    InputError
        If the device is not there, or too few training images are left.
    TimeUp
        If the deadline passed.
    """
    import torch

    from beyond_hard_labels.learn import augment, models

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
    device = torch.device(config.device)

    images = torch.from_numpy(data.images).to(device)  # uint8 (N, C, H, W), resident
    weight = np.ones(len(images), np.float32)
    if targets.weight is not None:
        weight[rows] = targets.weight[rows] / targets.weight[rows].mean()
    if config.class_weights:
        weight[rows] *= sample_weights(targets.rows[rows])
    weight = torch.from_numpy(weight).to(device)

    model = models.build(config, targets.rows.shape[1], images.shape[1], seed)
    model = model.to(device, memory_format=torch.channels_last)
    coupled = config.weight_decay if config.decay == "coupled" else 0.0
    parameters = list(model.parameters())
    optimiser = torch.optim.SGD(parameters, config.learning_rate, config.momentum, weight_decay=coupled, fused=True)

    def predict(part: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float32 logits and features of the images in `part`, in that order, on the CPU."""
        model.eval()
        with torch.inference_mode(), _autocast(config):
            batches = _batches(torch.from_numpy(part).to(device), 500)
            out = [model(augment.scale(images[here])) for here in batches]
        return tuple(torch.cat(x).float().cpu() for x in zip(*out, strict=True))

    def progress(epoch: int, step: int, loss: torch.Tensor) -> Progress:
        """Return copies of all that later steps depend on, on the CPU."""
        tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        for i, parameter in enumerate(parameters):
            if (momentum := optimiser.state[parameter].get("momentum_buffer")) is not None:
                tensors[f"momentum.{i}"] = momentum
        if step:
            tensors |= {"loss": loss, "generator": _generator(device).get_state()}
        copies = {n: t.detach().clone(memory_format=torch.contiguous_format).cpu() for n, t in tensors.items()}
        return Progress(epoch, step, {name: list(column) for name, column in history.items()}, copies)

    batches_per_epoch = math.ceil(len(rows) / config.batch_size)
    history = {name: [] for name in ("epoch", "train_loss", "loss", "macro_accuracy", "kl")}
    first_epoch = first_step = 0
    if start:
        first_epoch, first_step = start.epoch, start.step
        history = {name: list(start.history[name]) for name in history}
        model.load_state_dict({n.removeprefix("model."): t for n, t in start.tensors.items() if n.startswith("model.")})
        for i, parameter in enumerate(parameters):
            if f"momentum.{i}" in start.tensors:
                momentum = torch.empty_like(parameter).copy_(start.tensors[f"momentum.{i}"])
                optimiser.state[parameter]["momentum_buffer"] = momentum
    for epoch in range(first_epoch, config.epochs):
        # All that the steps need goes to the device once an epoch: no step copies to it, or waits for it.
        order = torch.from_numpy(rows[stream("order", seed, epoch).permutation(len(rows))]).to(device)
        y = torch.from_numpy(targets.of_epoch(epoch).astype(np.float32)).to(device)  # (N, K)
        u = augment.draw(len(images), seed, epoch).to(device)  # (N, 11)
        total = torch.zeros((), device=device)
        model.train()
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(torch_seed("dropout", seed, epoch))
            if first_step:
                total.copy_(start.tensors["loss"])
                _generator(device).set_state(start.tensors["generator"])
            for i, here in itertools.islice(enumerate(_batches(order, config.batch_size)), first_step, None):
                try:
                    on_step()
                    if time.time() > deadline:
                        raise TimeUp(f"stopped after {epoch} of {config.epochs} epochs")
                except BaseException:
                    on_checkpoint(functools.partial(progress, epoch, i, total), True)
                    raise
                factor = schedule(config, (epoch + i / batches_per_epoch) / config.epochs)
                optimiser.param_groups[0]["lr"] = config.learning_rate * factor
                x = augment.augment(images[here], u[here], config)
                with _autocast(config):
                    logits, _ = model(x)
                per_image = -(y[here] * logits.float().log_softmax(1)).sum(1)
                loss = (weight[here] * per_image).sum() / len(here)
                optimiser.zero_grad()
                loss.backward()
                if config.decay == "decoupled":  # Loshchilov and Hutter's SGDW: decay follows the schedule only
                    with torch.no_grad():
                        torch._foreach_mul_(parameters, 1 - config.weight_decay * factor)
                optimiser.step()
                total += loss.detach() * len(here)
        logits, _ = predict(split.validation)
        predicted = metrics.softmax(logits.numpy())
        truth = data.truth[split.validation]
        loss = -(targets.rows[split.validation] * np.log(np.clip(predicted, 1e-30, 1))).sum(axis=1).mean()
        history["epoch"].append(epoch + 1)
        history["train_loss"].append(float(total) / len(rows))
        history["loss"].append(float(loss))
        history["macro_accuracy"].append(metrics.macro_accuracy(truth, predicted))
        history["kl"].append(metrics.kl(truth, predicted))
        first_step = 0
        on_epoch(epoch + 1)
        if epoch + 1 < config.epochs:
            on_checkpoint(functools.partial(progress, epoch + 1, 0, total), False)

    validation_logits, _ = predict(split.validation)
    test_logits, test_features = predict(split.test)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return Trained(validation_logits.numpy(), test_logits.numpy(), test_features.numpy(), history, state)


def _batches(rows, size: int) -> tuple:
    """Cut a tensor of rows into batches of at most `size` that differ by one row at most: none is left with one."""
    return rows.tensor_split(math.ceil(len(rows) / size))


def _generator(device):
    """Return torch's generator of a device, which dropout takes its numbers from."""
    import torch

    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def _autocast(config: TrainConfig):
    import torch

    return torch.autocast(config.device, torch.bfloat16, enabled=config.dtype == "bfloat16")
