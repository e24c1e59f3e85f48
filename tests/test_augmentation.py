import colorsys
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from beyond_hard_labels.data import shapes
from beyond_hard_labels.learn import augment


def config(**on):
    switches = ("flip_x", "flip_y", "rotate", "zoom", "colour", "shift")
    return SimpleNamespace(**{f"augment_{name}": on.get(name, False) for name in switches})


@pytest.fixture
def images():
    return torch.from_numpy(shapes.synthetic(200, 32, 0).images)


def test_nothing_switched_on_only_scales_bytes_to_minus_one_and_one_nor_does_a_zoom_that_no_image_gets(images):
    x = augment.augment(images, augment.draw(200, 0, 0), config())
    assert torch.equal(x, images.float() / 127.5 - 1)
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(augment.augment(images, torch.full((200, 11), 0.9), config(zoom=True)), x)


def test_flips_and_rotations_give_each_of_the_eight_symmetries_and_nothing_else():
    image = torch.arange(9, dtype=torch.uint8).reshape(1, 1, 3, 3)
    symmetries = {tuple(np.rot90(m, k).ravel()) for k in range(4) for m in (image[0, 0].numpy(), image[0, 0].numpy().T)}
    u = augment.draw(400, 0, 0)
    x = augment.augment(image.expand(400, 1, 3, 3), u, config(flip_x=True, flip_y=True, rotate=True))
    seen = {tuple(np.rint((row.ravel() + 1) * 127.5).astype(int)) for row in x.numpy()}
    assert seen == {tuple(int(v) for v in s) for s in symmetries}


@pytest.mark.parametrize(("name", "share"), [("zoom", 0.3), ("flip_x", 0.5), ("flip_y", 0.5), ("rotate", 0.375)])
def test_the_share_of_images_that_a_step_changes_is_its_probability(name, share):
    images = torch.randint(0, 256, (4000, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x = augment.augment(images, augment.draw(4000, 1, 2), config(**{name: True}))
    changed = (x != augment.scale(images)).flatten(1).any(1).float().mean()
    assert changed == pytest.approx(share, abs=0.03)


def test_zoom_enlarges_the_centre():
    centre = torch.zeros((1, 1, 32, 32), dtype=torch.uint8)
    centre[..., 8:24, 8:24] = 255
    u = torch.full((1, 11), 0.0)  # zooms, to 0.80 of the width
    lit = (augment.augment(centre, u, config(zoom=True)) > 0).float().sum()
    assert lit == pytest.approx(256 / 0.8**2, rel=0.02)


def test_every_image_draws_for_itself_and_is_augmented_alike_in_any_batch(images):
    everything = config(flip_x=True, flip_y=True, rotate=True, shift=3, zoom=True, colour=True)
    u = augment.draw(200, 3, 4)
    whole = augment.augment(images[:1].expand(200, -1, -1, -1), u, everything)
    assert len(torch.unique(whole.flatten(1), dim=0)) == 200
    assert torch.equal(augment.augment(images[:1].expand(7, -1, -1, -1), u[50:57], everything), whole[50:57])


def test_draws_differ_between_epochs_and_seeds_and_repeat_for_the_same_a_shift_or_none():
    from beyond_hard_labels.base.rng import torch_seed

    draws = [augment.draw(10, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert torch.equal(draws[0], draws[3])
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    generator = torch.Generator().manual_seed(torch_seed("augmentation", 3, 1))  # as before there was a shift
    assert torch.equal(augment.draw(20, 3, 1)[:, :9], torch.rand((20, 9), generator=generator))


def test_hue_and_saturation_agree_with_the_standard_library():
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand((20, 3, 1, 1), generator=generator)
    turn, factor = torch.rand((2, 20, 1, 1), generator=generator)
    turned = augment._turn_hue(rgb, 0.16 * turn - 0.08, 0.6 + factor)
    for before, t, f, after in zip(rgb, turn, factor, turned, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before.flatten().tolist())
        expected = colorsys.hsv_to_rgb((h + 0.16 * t.item() - 0.08) % 1, min(s * (0.6 + f.item()), 1), v)
        assert after.flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_shifts_move_the_image_by_every_whole_number_up_to_the_most_and_repeat_the_border():
    image = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    x = augment.augment(image.expand(400, 1, 8, 8), augment.draw(400, 0, 0), config(shift=2))
    padded = np.pad(image[0, 0].numpy(), 2, mode="edge")
    expected = {tuple(padded[i : i + 8, j : j + 8].ravel().tolist()) for i in range(5) for j in range(5)}
    seen = {tuple(np.rint((row.ravel() + 1) * 127.5).astype(int).tolist()) for row in x.numpy()}
    assert seen == expected


def plainly(images, u, config):
    """Augment one step after the other, each on the whole batch, as the module's docstring says it."""
    coin = (u < 0.5)[:, :, None, None, None]
    if config.augment_flip_x:
        images = torch.where(coin[:, 0], images.flip(3), images)
    if config.augment_flip_y:
        images = torch.where(coin[:, 1], images.flip(2), images)
    if config.augment_rotate:
        turns = torch.where(u[:, 2] < 0.5, (8 * u[:, 2]).long(), 0)
        images = torch.stack([image.rot90(int(n), (1, 2)) for image, n in zip(images, turns, strict=True)])
    if most := config.augment_shift:
        padded = F.pad(images.float(), [most] * 4, mode="replicate")
        corners, size = most - ((u[:, 9:] * (2 * most + 1)).floor().long() - most), images.shape[-1]
        cut = [x[:, down : down + size, right : right + size] for x, (down, right) in zip(padded, corners, strict=True)]
        images = torch.stack(cut)
    x = (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
    if config.augment_colour:
        x = augment._jitter(x, u[:, :, None, None])
    if config.augment_zoom:
        zooms, to = u[:, 3] < 0.3, 0.80 + 0.19 * u[:, 4]
        shrink = torch.zeros((int(zooms.sum()), 2, 3))
        shrink[:, 0, 0] = shrink[:, 1, 1] = to[zooms]
        grid = F.affine_grid(shrink, x[zooms].shape, align_corners=False)
        x[zooms] = F.grid_sample(x[zooms], grid, align_corners=False, padding_mode="border")
    return x


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 17, 48])
def test_every_choice_of_steps_gives_bit_by_bit_what_one_step_after_the_other_gives(channels, size):
    generator = torch.Generator().manual_seed(size)
    images = torch.randint(0, 256, (20, channels, size, size), generator=generator, dtype=torch.uint8)
    u = augment.draw(20, size, 0)
    before = images.clone()
    for switches in itertools.product(*[(False, True)] * 5, (0, 3)):
        chosen = config(**dict(zip(("flip_x", "flip_y", "rotate", "zoom", "colour", "shift"), switches, strict=True)))
        x = augment.augment(images, u, chosen)
        assert torch.equal(x, plainly(images, u, chosen)), chosen
        assert x.abs().max() <= 1 + 1e-6
    assert torch.equal(images, before)


def test_a_gpu_that_enlarges_all_images_and_takes_the_zooming_ones_gets_what_enlarging_those_alone_gives(images):
    u, x = augment.draw(200, 0, 0), augment.scale(images)
    everything = augment._enlarge(x, 0.80 + 0.19 * u[:, 4])
    assert torch.equal(torch.where((u[:, 3] < 0.3)[:, None, None, None], everything, x), augment._zoom(x, u))


@pytest.mark.parametrize("channels", [1, 3])
def test_on_a_gpu_nothing_depends_on_what_the_numbers_are_so_nothing_waits_for_them(monkeypatch, channels):
    """Tensors without content, as torch's compiler traces them, refuse whatever would read them."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    for cached in ("_ways", "_grid"):  # nothing without content may stay behind
        monkeypatch.setattr(augment, cached, getattr(augment, cached).__wrapped__)
    everything = config(flip_x=True, flip_y=True, rotate=True, zoom=True, colour=True, shift=2)
    with FakeTensorMode():
        images = torch.empty((8, channels, 32, 32), dtype=torch.uint8, device="cuda")
        x = augment.augment(images, torch.empty((8, 11), device="cuda"), everything)
    assert (x.device.type, x.shape, x.dtype) == ("cuda", images.shape, torch.float32)
