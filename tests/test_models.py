"""Networks and their pre-trained weights: every backbone with every head, and no silent replacement of weights."""

import hashlib
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.parameters import options
from beyond_hard_labels.book import about
from beyond_hard_labels.learn import models
from beyond_hard_labels.learn.config import TrainConfig


def build(channels=3, seed=0, n_classes=6, **changes):
    values = {"backbone": "small", "head": "linear", "dropout": 0.0, "weights": "none", "weights_sha256": ""}
    return models.build(SimpleNamespace(**(values | changes)), n_classes, channels, seed)


@pytest.fixture
def pretrained():
    torch.manual_seed(5)
    return timm.create_model(models.BACKBONES["small"], num_classes=1000)


@pytest.fixture
def named(tmp_path, pretrained):
    """A file as timm's hub holds it, backbone and ImageNet head, as parameters name it."""
    path = tmp_path / "small.safetensors"
    save_file(pretrained.state_dict(), path)
    return {"weights": str(path), "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.mark.parametrize(("backbone", "features"), [("small", 96), ("densenet121", 1024), ("resnet50v2", 2048)])
@pytest.mark.parametrize("head", options(TrainConfig)["head"].metadata["choices"])
def test_every_backbone_takes_every_head(backbone, features, head):
    model = build(backbone=backbone, head=head).eval()
    logits, pooled = model(torch.zeros(2, 3, 32, 32))
    assert (logits.shape, pooled.shape) == ((2, 6), (2, features))
    if backbone == "resnet50v2":  # pre-activation, with batch norm
        assert isinstance(model.backbone.stages[0].blocks[0].norm1, torch.nn.BatchNorm2d)
        assert isinstance(model.backbone.norm, torch.nn.BatchNorm2d)


def test_an_additive_head_has_one_difference_of_circle_and_ellipse_for_all_colours_and_wants_six_classes():
    logits, _ = build(head="additive").eval()(torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    shape = (logits[:, 0::2] - logits[:, 1::2]).detach()  # (5, 3 colours)
    assert shape.std(dim=0).min() > 0
    assert torch.allclose(shape, shape[:, :1].expand_as(shape), atol=1e-5)
    with pytest.raises(InputError, match="expected linear or mlp for 10 classes"):
        build(head="additive", n_classes=10)


def test_every_backbone_has_a_name_that_pages_show():
    assert set(about.NETWORKS) == set(models.BACKBONES)


def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    first, same, other = (list(build(seed=seed).state_dict().values()) for seed in (0, 0, 1))
    assert all(map(torch.equal, first, same))
    assert not all(map(torch.equal, first, other))
    assert torch.equal(before, torch.random.get_rng_state())


def test_grey_images_have_a_backbone_of_one_channel_and_of_colour_weights_what_three_grey_ones_would_give(named):
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert build(1)(x)[0].shape == (2, 6)
    grey, colour = (build(channels, **named).eval().backbone for channels in (1, 3))
    assert torch.allclose(grey.forward_features(x), colour.forward_features(x.expand(-1, 3, -1, -1)), atol=1e-4)


def test_weights_are_those_of_a_local_file_or_of_the_hubs_cache(tmp_path, monkeypatch, named, pretrained):
    assert torch.equal(build(**named).backbone.conv1[0].weight, pretrained.conv1[0].weight)
    folder = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    save_file(pretrained.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert torch.equal(build(weights="imagenet").backbone.conv1[0].weight, pretrained.conv1[0].weight)


def test_imagenet_weights_that_cannot_be_had_are_an_error_and_not_random_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"ImageNet weights of small .*weights=none"):
        build(weights="imagenet")


def test_a_weights_file_must_exist_match_its_checksum_fit_and_be_no_pickle(tmp_path, named):
    pickled = tmp_path / "weights.safetensors"
    torch.save({"conv1.weight": torch.zeros(1)}, pickled)
    digest = hashlib.sha256(pickled.read_bytes()).hexdigest()
    for changes, message in (
        ({"weights": str(tmp_path / "none.safetensors")}, "does not exist"),
        ({"weights": named["weights"]}, r"has sha256 .* expected none given"),
        ({"backbone": "densenet121", **named}, r"does not fit: .*missing, expected"),
        ({"weights": str(pickled), "weights_sha256": digest}, "not a safetensors file"),
    ):
        with pytest.raises(InputError, match=message):
            build(**changes)


def test_imagenet_weights_of_efficientnet_lite0_come_from_a_package_and_know_a_daisy(tmp_path):
    from sklearn.datasets import load_sample_image

    model = build(backbone="efficientnet_lite0", weights="imagenet").eval()
    image = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)[None].float()
    image = torch.nn.functional.interpolate(image, size=(224, 224), mode="bilinear", antialias=True)
    path = models._weights_file(SimpleNamespace(backbone="efficientnet_lite0", weights="imagenet"))
    found = torch.load(path, weights_only=True)
    with torch.inference_mode():
        logits = model(image / 127.5 - 1)[1] @ found["_fc.weight"].T + found["_fc.bias"]
    assert logits.argmax().item() == 985  # daisy
    names = list(found)
    names[1], names[2] = names[2], names[1]
    torch.save({name: found[name] for name in names}, tmp_path / "turned.pth")
    with pytest.raises(InputError, match=r"turned\.pth does not fit: _bn0\.bias for bn1\.weight"):
        models._read_lite0(tmp_path / "turned.pth", model.backbone)
