"""Randomness for a model that is released: AES-256 in counter mode, keyed by the operating system, key never stored.

Why not torch's or numpy's generators. torch's CPU generator uses 32 bits of its seed, whatever seed it is given: four
billion candidates, which an attacker who knows the other patients can try one by one, subtract the noise and look.
Mersenne Twister and PCG64 are also not meant to withstand anybody who sees their output. Opacus has `secure_mode` for
this, which needs torchcsprng, for which there is no installable release.

Formal guarantee. `SecureStream()` is a stream that nobody, this program included, can draw a second time: its 256-bit
key comes from `os.urandom`, lives in this object's memory only and is not derived from any configuration.

Gaussians are Box and Muller's, in float64 from 53-bit uniforms, and the sum of four of them divided by two, so that the
floating-point pattern of a sample does not give its origin away (Mironov 2012, doi 10.1145/2382196.2382264; Holohan and
Braghin 2021, arXiv 2107.10138, section 4; the same construction as Opacus's secure mode). Values beyond 8.5 standard
deviations cannot occur; that happens with probability 2e-17 per value.
"""

from __future__ import annotations

import math
import os
import secrets
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

NUM_SUMMED = 4
"""Normals that are added up for one value of noise."""
CHUNK = 1 << 20
"""Values drawn at a time: bounds the memory that noise needs beside the result."""
_TO_UNIT = 2.0**-53


class SecureStream:
    """A stream of random numbers that cannot be drawn twice. It cannot be copied or pickled."""

    def __init__(self) -> None:
        self._encryptor = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()
        self.name = secrets.token_hex(16)
        """Random name of this stream, unrelated to its key: two streams with one name are one stream."""

    def random(self, size: int) -> NDArray[np.float64]:
        """(size,) uniform numbers in [0, 1), multiples of 2^-53."""
        words = np.frombuffer(self._encryptor.update(bytes(8 * size)), dtype=np.uint64)
        return (words >> np.uint64(11)).astype(np.float64) * _TO_UNIT

    def integer(self) -> int:
        """A whole number in [0, 2^63)."""
        return int.from_bytes(self._encryptor.update(bytes(8)), "big") >> 1

    def normal(self, size: int) -> NDArray[np.float64]:
        """(size,) standard normal numbers."""
        result = np.empty(size)
        for start in range(0, size, CHUNK):
            part = result[start : start + CHUNK]
            part[:] = self._box_muller(NUM_SUMMED * len(part)).reshape(NUM_SUMMED, -1).sum(axis=0)
        return result / math.sqrt(NUM_SUMMED)

    def spawn(self, num: int) -> list[SecureStream]:
        """`num` new streams, each with a key of its own from the operating system."""
        return [SecureStream() for _ in range(num)]

    def _box_muller(self, size: int) -> NDArray[np.float64]:
        half = size // 2
        radius = np.sqrt(-2.0 * np.log1p(-self.random(half)))
        angle = 2.0 * np.pi * self.random(half)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])

    def __reduce__(self) -> Any:
        raise TypeError("A SecureStream cannot be copied or stored: its numbers would be drawn twice.")
