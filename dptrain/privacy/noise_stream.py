"""Gaussian noise of the models of a study: AES-256 in counter mode, keyed by a seed, and Box and Muller's formula.

A study's noise must be the same after a kill, so its key comes from the seed tree and whoever knows the seed can redraw
it; noise of a released model comes from `secure_random.py`, never from here. AES in counter mode is used because it is
a generator of the best known quality that processors compute in hardware: 25,000 values take 23 microseconds, a quarter
of what torch's Mersenne Twister takes, and all 63 bits of the seed count (torch uses 32).

A value is r cos(a) or r sin(a) with r = sqrt(-2 log u) and a = 2 pi v for 32-bit uniforms u and v (Box and Muller 1958,
doi 10.1214/aoms/1177706645), in float32: logarithm, sine and cosine are polynomials with an error of about 1e-7
(Moshier's Cephes library), so that the loops vectorise. The slow twin in float64 is in the tests. Values beyond 6.66
standard deviations cannot occur, which happens with probability 3e-11 per value.
"""

from __future__ import annotations

import functools
import hashlib
import math
import threading

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

from dptrain.compiled import compiled

i32, f32 = np.int32, np.float32
TILE = 512
"""Pairs of values that are worked on at a time, in the first-level cache."""


class NoiseStream:
    """Standard normal numbers, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        key = hashlib.sha256(f"dptrain noise {seed}".encode()).digest()
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self.name = hashlib.sha256(b"name" + key).hexdigest()[:32]
        """Equal for two streams if and only if they draw the same numbers; does not tell the key."""

    def fill(self, out: Tensor, scale: float) -> None:
        """Overwrite `out` (P,), on the CPU, with noise of standard deviation `scale`."""
        bits = self._words(out.numel())
        if out.dtype == torch.float32 and bits.size == out.numel():
            box_muller(bits, out.numpy(), f32(scale))
            return
        values = np.empty(bits.size, dtype=np.float32)
        box_muller(bits, values, f32(1.0))
        torch.mul(torch.from_numpy(values[: out.numel()]), scale, out=out)

    def add(self, sums: Tensor, scale: float, divisor: float, noised: Tensor) -> None:
        """noised (P,) = (sums (P,) + the noise that `fill` would draw, to rounding) / divisor, on the CPU."""
        if sums.dtype == torch.float32:
            add_box_muller(self._words(sums.numel()), sums.numpy(), f32(scale), f32(divisor), noised.numpy())
            return
        self.fill(noised, scale)
        noised.add_(sums).div_(divisor)

    def normal(self, size: int) -> NDArray[np.float64]:
        """(size,) standard normal numbers."""
        values = torch.empty(size, dtype=torch.float32)
        self.fill(values, 1.0)
        found: NDArray[np.float64] = values.numpy().astype(np.float64)
        return found

    def _words(self, num: int) -> NDArray[np.uint32]:
        """The next `num` random words, or one more to make it even; until the next call of a stream in this thread."""
        zeros, words, bits = _scratch(num + num % 2, threading.get_ident())
        self._encryptor.update_into(zeros, words)
        return bits


@functools.lru_cache(maxsize=2)
def _scratch(size: int, thread: int) -> tuple[bytes, bytearray, NDArray[np.uint32]]:
    """Zeros to encrypt, and where `size` words of them go, as bytes and as numbers. All streams of a thread share them:
    what one has just used is in the cache. (A block cipher may write up to a block more than it was given.)"""
    words = bytearray(4 * size + 16)
    return bytes(4 * size), words, np.frombuffer(words, dtype=np.uint32, count=size)


@compiled
def box_muller(bits: NDArray[np.uint32], out: NDArray[np.float32], scale: np.float32) -> None:
    """(2 n,) random words -> (2 n,) independent normal numbers times `scale`."""
    n = out.size // 2
    u, exponent, quarter = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, i32)
    for start in range(0, n, TILE):
        stop = min(start + TILE, n)
        _pairs(bits[start:stop], bits[n + start : n + stop], scale, out[start:stop], out[n + start : n + stop],
               u, exponent, quarter)  # fmt: skip


@compiled
def add_box_muller(
    bits: NDArray[np.uint32], sums: NDArray[np.float32], scale: np.float32, divisor: np.float32,
    noised: NDArray[np.float32],
) -> None:  # fmt: skip
    """noised (P,) = (sums (P,) + the first P numbers that `box_muller` makes of the words) / divisor."""
    n = bits.size // 2
    u, exponent, quarter = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, i32)
    left, right = np.empty(TILE, f32), np.empty(TILE, f32)
    for start in range(0, n, TILE):
        stop = min(start + TILE, n)
        _pairs(bits[start:stop], bits[n + start : n + stop], scale, left, right, u, exponent, quarter)
        _add(sums[start:stop], left, divisor, noised[start:stop])
        _add(sums[n + start : n + stop], right, divisor, noised[n + start : n + stop])


@compiled
def _add(
    sums: NDArray[np.float32], noise: NDArray[np.float32], divisor: np.float32, noised: NDArray[np.float32]
) -> None:
    for i in range(sums.size):
        noised[i] = (sums[i] + noise[i]) / divisor


@compiled
def _pairs(
    first: NDArray[np.uint32], second: NDArray[np.uint32], scale: np.float32, left: NDArray[np.float32],
    right: NDArray[np.float32], u: NDArray[np.float32], exponent: NDArray[np.float32], quarter: NDArray[np.int32],
) -> None:  # fmt: skip
    """Two words each -> two normal numbers; the last three arrays are for work."""
    m = first.size
    pattern = u.view(i32)
    # u in (0, 1) is 2^exponent (1 + x) with 1 + x in [0.71, 1.41).
    for i in range(m):
        u[i] = (f32(first[i]) + f32(0.5)) * f32(2.0**-32)
    for i in range(m):
        word = pattern[i]
        power = i32(i32(word - i32(0x3F3504F3)) >> i32(23))
        pattern[i] = i32(word - i32(power << i32(23)))
        exponent[i] = f32(power)
    for i in range(m):
        # Near 1 what is left to 1 has more digits than u itself.
        rest = (f32(np.uint32(~first[i])) + f32(0.5)) * f32(-(2.0**-32))
        x = rest if exponent[i] == f32(0.0) else u[i] - f32(1.0)
        p = f32(7.0376836292e-2)
        p = p * x + f32(-1.1514610310e-1)
        p = p * x + f32(1.1676998740e-1)
        p = p * x + f32(-1.2420140846e-1)
        p = p * x + f32(1.4249322787e-1)
        p = p * x + f32(-1.6668057665e-1)
        p = p * x + f32(2.0000714765e-1)
        p = p * x + f32(-2.4999993993e-1)
        p = p * x + f32(3.3333331174e-1)
        log = exponent[i] * f32(math.log(2.0)) + (x - f32(0.5) * x * x + x * x * x * p)
        u[i] = np.sqrt(f32(-2.0) * log) * scale
    # The angle is a quarter of a turn times `quarter`, and at most an eighth of a turn more or less.
    for i in range(m):
        turn = i32(second[i])
        nearest = i32(i32(turn + i32(0x20000000)) >> i32(30))
        quarter[i] = nearest
        exponent[i] = f32(i32(turn - i32(nearest << i32(30)))) * f32(math.pi / 2**31)
    for i in range(m):
        a, turns = exponent[i], quarter[i]
        s = a * a
        sine = a + a * s * (f32(-1.6666654611e-1) + s * (f32(8.3321608736e-3) + s * f32(-1.9515295891e-4)))
        cosine = f32(1.0) - f32(0.5) * s + s * s * (
            f32(4.166664568298827e-2) + s * (f32(-1.388731625493765e-3) + s * f32(2.443315711809948e-5))
        )
        odd = i32(turns & i32(1)) != 0
        up = cosine if odd else sine
        along = sine if odd else cosine
        left[i] = u[i] * (-along if i32(i32(turns + i32(1)) & i32(2)) != 0 else along)
        right[i] = u[i] * (-up if i32(turns & i32(2)) != 0 else up)
