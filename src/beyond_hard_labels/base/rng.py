"""Random streams named by what they are for.

Every random number comes from a stream derived from (purpose, seed, further indices), never from a
global generator. So two purposes never share numbers, a stream can be made anew at any epoch, and
nothing depends on what was drawn before.
"""

import zlib

import numpy as np


def stream(purpose: str, *indices: int) -> np.random.Generator:
    """Return the generator of one purpose, for example ``stream("split", 3)``.

    Parameters
    ----------
    purpose : str
        What the numbers are for; part of the seed.
    *indices : int
        Non-negative integers, for example a seed and an epoch.
    """
    return np.random.default_rng([zlib.crc32(purpose.encode()), *indices])


def torch_seed(purpose: str, *indices: int) -> int:
    """Return a 63-bit seed for torch, derived as in `stream`."""
    return int(stream(purpose, *indices).integers(2**63))
