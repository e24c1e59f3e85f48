"""The protocol of a training as parameters; nothing here needs torch."""

import math
from dataclasses import asdict, dataclass

from beyond_hard_labels.base.parameters import check, option, options


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a training does with given images and targets."""

    backbone: str = option(
        "network", choices=("densenet121", "resnet50v2", "small", "small_mobile", "efficientnet_lite0")
    )
    weights: str = option("initial weights: none, imagenet, or a safetensors file of the backbone")
    weights_sha256: str = option("checksum of a weights file, empty otherwise")
    head: str = option(
        "linear (after dropout), mlp (128 and 64 units, batch norm), or additive: a logit a colour and one a shape",
        choices=("linear", "mlp", "additive"),
    )
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
