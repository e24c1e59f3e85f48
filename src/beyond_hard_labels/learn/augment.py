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

import functools

import torch
import torch.nn.functional as F

from beyond_hard_labels.base.rng import torch_seed

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
    x = images.to(torch.float32, memory_format=torch.channels_last)  # a new tensor, changed in place below
    return x.div_(127.5).sub_(1)


def augment(images: torch.Tensor, u: torch.Tensor, config) -> torch.Tensor:
    """Augment and scale a batch.

    Nothing here waits for the device.

    Parameters
    ----------
    images : torch.Tensor
        uint8 (B, C, H, W) on any device, H = W.
    u : torch.Tensor
        (B, 11) on the same device, the images' rows of `draw`.
    config : TrainConfig
        Its fields that begin with ``augment_``.

    Returns
    -------
    torch.Tensor
        float32 (B, C, H, W) in [-1, 1].
    """
    x = scale(_move(images, u, config))
    if config.augment_colour:
        x = _jitter(x, u[:, :, None, None])
    return _zoom(x, u) if config.augment_zoom else x


def _move(images: torch.Tensor, u: torch.Tensor, config) -> torch.Tensor:
    """Flip, turn and shift: every pixel of the result is one of the image, so all is one gather of pixels."""
    n, channels, size, _ = images.shape
    way = torch.zeros(n, dtype=torch.long, device=u.device)
    if config.augment_flip_x:
        way += u[:, _FLIP_X] < 0.5
    if config.augment_flip_y:
        way += 2 * (u[:, _FLIP_Y] < 0.5)
    if config.augment_rotate:  # 0 to 3 quarter turns
        way += 4 * torch.where(u[:, _TURN] < 0.5, (8 * u[:, _TURN]).long(), 0)
    source = _ways(size, u.device).index_select(0, way)  # (B, H * W)
    if config.augment_shift:
        source = source.gather(1, _shifted(size, u[:, _SHIFT], config.augment_shift))
    source += size**2 * torch.arange(n, device=u.device)[:, None]
    pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)
    return pixels.index_select(0, source.flatten()).view(n, size, size, channels).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=4)
def _ways(size: int, device: torch.device) -> torch.Tensor:
    """Return where each pixel comes from, (16, H * W), row = flip_x + 2 flip_y + 4 quarter turns."""
    pixels = torch.arange(size**2, device=device).view(size, size)
    flipped = [pixels, pixels.flip(1), pixels.flip(0), pixels.flip((0, 1))]
    return torch.stack([way.rot90(turns).flatten() for turns in range(4) for way in flipped])


def _shifted(size: int, u: torch.Tensor, most: int) -> torch.Tensor:
    """Return where each pixel comes from, (B, H * W), if images move by up to `most` pixels; the border is repeated."""
    by = (u * (2 * most + 1)).floor().long() - most  # (B, 2)
    source = (torch.arange(size, device=u.device) - by[:, :, None]).clamp(0, size - 1)  # (B, 2, H)
    return (size * source[:, 0, :, None] + source[:, 1, None, :]).flatten(1)


def _zoom(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Zoom the images that draw it; a GPU enlarges all, which is less than waiting for their number."""
    n, channels, size, _ = x.shape
    zooms, to = u[:, _ZOOM] < 0.3, 0.80 + 0.19 * u[:, _ZOOM_TO]
    if x.is_cuda:
        return torch.where(zooms[:, None, None, None], _enlarge(x, to), x)
    chosen = torch.nonzero(zooms)[:, 0]
    if not len(chosen):  # as in a small batch
        return x
    rows = x.permute(0, 2, 3, 1).flatten(1)  # whole images are copied faster
    few = rows.index_select(0, chosen).view(-1, size, size, channels).permute(0, 3, 1, 2)
    enlarged = _enlarge(few, to[chosen]).permute(0, 2, 3, 1).flatten(1)
    return rows.index_copy_(0, chosen, enlarged).view(n, size, size, channels).permute(0, 3, 1, 2)


def _enlarge(x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """Enlarge the central share `to` (B,) of each image to the whole, bilinearly."""
    grid = _grid(x.shape[-1], x.device) * to[:, None, None, None]
    return F.grid_sample(x, grid, align_corners=False, padding_mode="border")


@functools.lru_cache(maxsize=4)
def _grid(size: int, device: torch.device) -> torch.Tensor:
    """Return where the pixels of a whole image lie, in [-1, 1]: (1, H, W, 2)."""
    return F.affine_grid(torch.eye(2, 3, device=device)[None], (1, 1, size, size), align_corners=False)


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
