import hashlib
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.learn import models


def config(**changes):
    values = {"backbone": "small", "head": "linear", "dropout": 0.0, "weights": "none", "weights_sha256": ""}
    return SimpleNamespace(**(values | changes))


def states_equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def weights_file(tmp_path):
    """A file as timm's hub holds it: backbone and ImageNet head, safetensors."""
    torch.manual_seed(5)
    path = tmp_path / "small.safetensors"
    save_file(timm.create_model(models.BACKBONES["small"], num_classes=1000).state_dict(), path)
    return path


def checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("backbone", "features"),
    [("small", 96), pytest.param("densenet121", 1024), pytest.param("resnet50v2", 2048)],
)
@pytest.mark.parametrize("head", models.HEADS)
def test_every_backbone_takes_every_head(backbone, features, head):
    model = models.build(config(backbone=backbone, head=head), 6, 3, 0).eval()
    logits, pooled = model(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 6)
    assert pooled.shape == (2, features)


def test_resnet50v2_is_pre_activation_with_batch_norm():
    backbone = models.build(config(backbone="resnet50v2"), 3, 3, 0).backbone
    assert isinstance(backbone.stages[0].blocks[0].norm1, torch.nn.BatchNorm2d)
    assert isinstance(backbone.norm, torch.nn.BatchNorm2d)


def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    same = [models.build(config(), 6, 3, seed) for seed in (0, 0, 1)]
    assert states_equal(same[0], same[1])
    assert not states_equal(same[0], same[2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_grey_images_have_a_backbone_of_one_channel():
    assert models.build(config(), 10, 1, 0)(torch.zeros(2, 1, 28, 28))[0].shape == (2, 10)


def test_a_local_weights_file_replaces_the_backbone(weights_file):
    model = models.build(config(weights=str(weights_file), weights_sha256=checksum(weights_file)), 6, 3, 0)
    torch.manual_seed(5)
    expected = timm.create_model(models.BACKBONES["small"], num_classes=1000)
    assert torch.equal(model.backbone.conv1[0].weight, expected.conv1[0].weight)


def test_colour_weights_serve_grey_images_as_a_grey_image_in_three_channels(weights_file):
    named = {"weights": str(weights_file), "weights_sha256": checksum(weights_file)}
    grey, colour = (models.build(config(**named), 6, channels, 0).eval().backbone for channels in (1, 3))
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(grey.forward_features(x), colour.forward_features(x.expand(-1, 3, -1, -1)), atol=1e-4)


def test_imagenet_weights_come_from_the_hubs_cache_where_they_are(tmp_path, monkeypatch, weights_file):
    folder = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    weights_file.rename(folder / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = models.build(config(weights="imagenet"), 6, 3, 0)
    torch.manual_seed(5)
    expected = timm.create_model(models.BACKBONES["small"], num_classes=1000)
    assert torch.equal(model.backbone.conv1[0].weight, expected.conv1[0].weight)


def test_imagenet_weights_that_cannot_be_had_are_an_error_and_not_random_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"ImageNet weights of small .*weights=none"):
        models.build(config(weights="imagenet"), 6, 3, 0)


def test_a_weights_file_must_exist_match_its_checksum_and_fit(tmp_path, weights_file):
    with pytest.raises(InputError, match="does not exist"):
        models.build(config(weights=str(tmp_path / "none.safetensors")), 6, 3, 0)
    with pytest.raises(InputError, match=r"has sha256 .* expected none given"):
        models.build(config(weights=str(weights_file)), 6, 3, 0)
    with pytest.raises(InputError, match=r"does not fit: .*missing, expected"):
        models.build(
            config(backbone="densenet121", weights=str(weights_file), weights_sha256=checksum(weights_file)), 6, 3, 0
        )


def test_a_pickle_is_refused_as_weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="not a safetensors file"):
        models.build(config(weights=str(path), weights_sha256=checksum(path)), 6, 3, 0)


def test_imagenet_weights_of_efficientnet_lite0_come_from_a_package_and_know_a_daisy():
    from sklearn.datasets import load_sample_image

    asked = config(backbone="efficientnet_lite0", weights="imagenet")
    model = models.build(asked, 6, 3, 0).eval()
    image = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)[None].float()
    image = torch.nn.functional.interpolate(image, size=(224, 224), mode="bilinear", antialias=True)
    head = torch.load(models._weights_file(asked), weights_only=True)
    with torch.inference_mode():
        logits = model(image / 127.5 - 1)[1] @ head["_fc.weight"].T + head["_fc.bias"]
    assert logits.argmax().item() == 985  # daisy


def test_weights_in_another_order_are_refused(tmp_path):
    asked = config(backbone="efficientnet_lite0", weights="imagenet")
    found = torch.load(models._weights_file(asked), weights_only=True)
    names = list(found)
    names[1], names[2] = names[2], names[1]
    torch.save({name: found[name] for name in names}, tmp_path / "turned.pth")
    backbone = models.build(config(backbone="efficientnet_lite0"), 6, 3, 0).backbone
    with pytest.raises(InputError, match=r"turned\.pth does not fit: _bn0\.bias for bn1\.weight"):
        models._read_lite0(tmp_path / "turned.pth", backbone)
