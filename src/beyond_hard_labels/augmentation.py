"""The protocol's augmentation: every image draws its own parameters, anew in every epoch.

The draws of an epoch are one matrix, row = image of the set, so that what happens to an image depends
on the seed, the epoch and the image, and not on its batch or the device.

Steps, ranges and probabilities are DCIC's level 1: colour always (hue +-0.08 of the circle,
saturation 0.6 to 1.6, brightness +-0.2 on the scale of [-1, 1], contrast 0.5 to 1.5), centre zoom to
0.80 to 0.99 of the width (probability 0.3), a flip of each axis (0.5 each), a rotation by a random
multiple of 90 degrees (0.5). Two differences: hue and saturation are changed on [0, 1], where they
are defined, and flips and rotations come first, on bytes, which changes nothing since they commute
with the rest.

For real images, which have an up and a down, each axis flips on its own switch, and there is a step
that DCIC has not: a shift by up to some whole pixels along each axis, the border repeated.
"""

import torch
import torch.nn.functional as F

from beyond_hard_labels.randomness import torch_seed

_COLUMNS = 11
_FLIP_X, _FLIP_Y, _TURN, _ZOOM, _ZOOM_TO, _HUE, _SATURATION, _BRIGHTNESS, _CONTRAST = range(_COLUMNS - 2)
_SHIFT = slice(_COLUMNS - 2, _COLUMNS)  # down, right


def draw(n_images: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the uniform draws of one epoch, float32 (N, 11) on the CPU, one row an image of the set."""
    generator = torch.Generator().manual_seed(torch_seed("augmentation", seed, epoch))
    # The shift is drawn last, so that the other draws are the same as without it.
    parts = [torch.rand((n_images, n), generator=generator) for n in (_SHIFT.start, _COLUMNS - _SHIFT.start)]
    return torch.cat(parts, dim=1)


def scale(images: torch.Tensor) -> torch.Tensor:
    """Scale bytes to [-1, 1] as x / 127.5 - 1 (DCIC): float32, channels last in memory."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def augment(images: torch.Tensor, u: torch.Tensor, config) -> torch.Tensor:
    """Augment and scale a batch.

    Parameters
    ----------
    images : torch.Tensor
        uint8 (B, C, H, W) on any device, H = W.
    u : torch.Tensor
        (B, 11) on the CPU, the images' rows of `draw`; on the CPU, since choosing the few images that
        zoom would otherwise wait for the device.
    config : TrainConfig
        Its fields that begin with ``augment_``.

    Returns
    -------
    torch.Tensor
        float32 (B, C, H, W) in [-1, 1].
    """
    coin = (u < 0.5).to(images.device)[:, :, None, None, None]  # (B, 11, 1, 1, 1)
    if config.augment_flip_x:
        images = torch.where(coin[:, _FLIP_X], images.flip(3), images)
    if config.augment_flip_y:
        images = torch.where(coin[:, _FLIP_Y], images.flip(2), images)
    if config.augment_rotate:
        turns = torch.where(u[:, _TURN] < 0.5, (8 * u[:, _TURN]).long(), 0)  # 0 to 3 quarter turns
        turns = turns.to(images.device)[:, None, None, None]
        images = torch.where(turns % 2 == 1, images.transpose(2, 3).flip(2), images)
        images = torch.where(turns >= 2, images.flip((2, 3)), images)
    if config.augment_shift:
        images = _shift(images, u[:, _SHIFT].to(images.device), config.augment_shift)
    x = scale(images)
    if config.augment_colour:
        x = _jitter(x, u.to(x.device)[:, :, None, None])
    if config.augment_zoom:
        chosen = torch.nonzero(u[:, _ZOOM] < 0.3)[:, 0]
        to = 0.80 + 0.19 * u[chosen, _ZOOM_TO]
        if len(chosen):  # a small batch may have none
            x[chosen.to(x.device)] = _zoom(x[chosen.to(x.device)], to.to(x.device))
    return x


def _shift(images: torch.Tensor, u: torch.Tensor, most: int) -> torch.Tensor:
    """Move each image by a whole number of pixels from -most to most along each axis; the border is repeated."""
    size = images.shape[-1]
    by = (u * (2 * most + 1)).floor().long() - most  # (B, 2)
    source = (torch.arange(size, device=images.device) - by[:, :, None]).clamp(0, size - 1)  # (B, 2, H)
    rows, columns = source[:, 0, None, :, None], source[:, 1, None, None, :]
    batch, channels = (torch.arange(n, device=images.device) for n in images.shape[:2])
    return images[batch[:, None, None, None], channels[None, :, None, None], rows, columns]


def _zoom(x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """Enlarge the central share `to` (B,) of each image to the whole, bilinearly."""
    transform = torch.zeros((len(x), 2, 3), device=x.device)
    transform[:, 0, 0] = transform[:, 1, 1] = to
    grid = F.affine_grid(transform, x.shape, align_corners=False)
    return F.grid_sample(x, grid, align_corners=False, padding_mode="border")


def _jitter(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Change hue, saturation, brightness and contrast of x in [-1, 1]; grey images keep the first two."""
    if x.shape[1] == 3:
        x = _turn_hue((x + 1) / 2, 0.16 * u[:, _HUE] - 0.08, 0.6 + u[:, _SATURATION]) * 2 - 1
    x = x + 0.4 * u[:, _BRIGHTNESS, None] - 0.2
    mean = x.mean((2, 3), keepdim=True)  # per channel
    return ((x - mean) * (0.5 + u[:, _CONTRAST, None]) + mean).clamp(-1, 1)


def _turn_hue(rgb: torch.Tensor, turn: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Turn the hue of rgb (B, 3, H, W) in [0, 1] by `turn` of the circle, scale its saturation."""
    value, least = rgb.amax(1), rgb.amin(1)  # (B, H, W)
    chroma = value - least
    r, g, b = rgb.unbind(1)
    safe = chroma.clamp_min(1e-12)
    sixth = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    saturation = (chroma / value.clamp_min(1e-12) * factor).clamp(0, 1)
    hue = sixth + 6 * turn
    # Each channel falls from value to value * (1 - saturation) as the hue leaves its own peak.
    channels = []
    for peak in (5.0, 3.0, 1.0):
        k = (peak + hue) % 6
        channels.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)
