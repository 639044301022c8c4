"""A chest film drawn from geometry: how much tissue the rays cross at every pixel.

Coordinates: x from the left edge of the image (-1) to the right (+1), so the patient's left is at x > 0; y from the top
(-1) to the bottom (+1). Everything is an ellipse, a band along a curve or a sum of those, with soft borders, in float32
and for many films at once. Larger values are denser (whiter on the film).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
"""float32 throughout; numpy's types do not follow it through arithmetic with Python numbers."""


@dataclass(frozen=True)
class Anatomy:
    """Geometry of n films; every field (n, 1, 1), lengths in units of half the image."""

    shift_x: Array
    """Where the middle of the body is."""
    shift_y: Array
    """How far everything is lower."""
    turn: Array
    """Radians of rotation in the image plane."""
    scale: Array
    """Size of the body on the film."""
    width: Array
    """Of the thorax, 1 in the average adult."""
    length: Array
    """Of the lungs; more with deep inspiration."""
    heart_size: Array
    """1 in the average adult."""
    heart_side: Array
    """1: heart on the left; -1: on the right (dextrocardia)."""
    diaphragm: Array
    """Height of the domes: larger is higher."""
    rib_slope: Array
    """How steeply ribs fall."""
    rib_phase: Array
    """Where they are."""
    fat: Array
    """Soft tissue over the lungs, 0 (slender) to 1."""
    breast: Array
    """Density of breast shadows; 0 for none."""
    bone: Array
    """Density of bones."""
    vessels: Array
    """(n, 6, 1) phases of the vascular tree."""


def pixel_grid(size: int) -> tuple[Array, Array]:
    """x (1, 1, size) and y (1, size, 1) of pixel centres."""
    place = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    return place[None, None, :], place[None, :, None]


def soft(inside: Array, border: float) -> Array:
    """1 where `inside` is above `border`, 0 where it is below -`border`, smooth between."""
    t = inside * np.float32(0.5 / border)
    t += np.float32(0.5)
    np.clip(t, 0, 1, out=t)
    rest = 3 - 2 * t
    t *= t
    t *= rest
    return t


def ellipse(
    x: Array, y: Array, middle: tuple[Array | float, Array | float], radii: tuple[Array | float, Array | float]
) -> Array:
    """1 in the middle, 0 on the ellipse, negative outside."""
    return 1 - np.square((x - middle[0]) / radii[0]) - np.square((y - middle[1]) / radii[1])


def body_coordinates(a: Anatomy, size: int) -> tuple[Array, Array]:
    """(n, size, size) x and y in the body's own frame, from which pose is gone; the average thorax is 1 wide."""
    x, y = pixel_grid(size)
    x, y = (x - a.shift_x) / a.scale, (y - a.shift_y) / a.scale
    cos, sin = np.cos(a.turn), np.sin(a.turn)
    return cos * x + sin * y, cos * y - sin * x


def lungs(a: Anatomy, x: Array, y: Array) -> tuple[Array, Array]:
    """(right, left) lung as the film shows them: 1 inside, 0 outside; the right one is at x < 0."""
    found = []
    for side in (-1.0, 1.0):
        towards_heart = side * a.heart_side
        across = side * x / a.width
        # Apex narrow and near the middle, base wide; the inner border runs along the mediastinum.
        top, bottom = -0.72 * a.length, 0.50 - 0.10 * a.diaphragm - 0.05 * (towards_heart < 0)
        height = np.clip((y - top) / (bottom - top), -0.2, 1.4)
        outer = 0.80 * np.sqrt(np.clip(1 - np.square(np.clip(1 - height * 1.12, -0.25, 1.0)), 0, 1)) + 0.02
        inner = 0.135 + 0.05 * height
        dome = bottom - 0.17 * (1 - np.square((across - 0.42) / 0.42)) + 0.10 * np.square(across - 0.2)
        shape = np.minimum(np.minimum(outer - across, across - inner), np.minimum(dome - y, (y - top) * 0.7))
        found.append(soft(shape, 0.035))
    return found[0], found[1]


def ribs(a: Anatomy, x: Array, y: Array) -> Array:
    """Posterior ribs falling outwards, anterior ones rising, as bands; 0 to about 1."""
    across = np.abs(x) / a.width
    period = 0.158
    back = y - a.rib_slope * (0.42 * across - 0.55 * np.square(across)) * 0.9 - 0.10 * across + a.rib_phase * period
    front = y + 0.75 * np.square(1 - across) * 0.5 - 0.35 * across + (a.rib_phase + 0.4) * period
    wide = np.cos((2 * np.pi / period) * back)
    narrow = np.cos((2 * np.pi / period) * front)
    cage = soft(0.83 - across, 0.05) * soft(0.62 - y, 0.1) * soft(y + 0.80, 0.05)
    spine_gap = soft(across - 0.10, 0.04)
    edge = 0.55 + 0.45 * np.square(across)
    bands = soft(wide - 0.45, 0.35) + 0.45 * soft(narrow - 0.5, 0.4) * soft(across - 0.3, 0.1)
    return cage * spine_gap * edge * bands


def clavicles(a: Anatomy, x: Array, y: Array) -> Array:
    """Two bands from the sternum outwards and up."""
    across = np.abs(x) / a.width
    line = -0.60 - 0.16 * np.square(across) - 0.05 * np.sin(5 * across) + 0.02 * a.rib_slope
    band = soft(0.032 - np.abs(y - line), 0.02)
    return band * soft(across - 0.08, 0.03) * soft(0.86 - across, 0.06)


def heart(a: Anatomy, x: Array, y: Array) -> Array:
    """Heart shadow, great vessels and aortic knob: 0 to about 1."""
    side = a.heart_side
    size = a.heart_size
    # The long axis points down to the apex, more steeply in slender people.
    right, down = side * x - 0.13 * size, y - 0.20
    along, over = 0.84 * right + 0.54 * down, 0.84 * down - 0.54 * right
    body = soft(ellipse(along, over, (0.0, 0.0), (0.37 * size, 0.27 * size)), 0.15)
    atrium = soft(ellipse(right, down, (-0.16 * size, -0.02), (0.17 * size, 0.22 * size)), 0.2)
    vessels = soft(ellipse(side * x, y, (0.02, -0.20), (0.145, 0.45)), 0.25)
    knob = soft(ellipse(side * x, y, (0.13, -0.33), (0.085, 0.085)), 0.35)
    return np.maximum(np.maximum(body, atrium), np.maximum(0.75 * vessels, 0.8 * knob))


def vessel_tree(a: Anatomy, x: Array, y: Array) -> Array:
    """Hila and the vessels that leave them, fading outwards."""
    found = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
    for side in (-1.0, 1.0):
        across, down = side * x / a.width - 0.17, y + 0.02
        distance = np.sqrt(np.square(across) + np.square(down)) + 1e-3
        angle = np.arctan2(down, across)
        rays = np.zeros_like(found)
        for index, number in enumerate((5, 9, 14)):
            phase = a.vessels[:, 2 * index : 2 * index + 1]
            rays += np.square(np.square(np.cos(number / 2 * angle + phase + side + 2.5 * distance * np.sin(phase * 3))))
        outward = across > -0.05
        found += outward * (0.5 * rays * np.exp(-distance / 0.26) + 0.9 * soft(0.11 - distance, 0.06))
    return found


def tissue(a: Anatomy, size: int) -> tuple[Array, Array]:
    """((n, size, size) density, (n, size, size) lung field) of films without a lesion."""
    x, y = body_coordinates(a, size)
    wide = a.width * (0.97 + 0.06 * a.fat)
    trunk = soft(1 - np.abs(x / wide) - 0.10 * np.square(y), 0.05)
    shoulders = soft(ellipse(x, y, (0.0, -0.10), (1.35 * a.width, 0.86)), 0.10)
    neck = soft(0.26 - np.abs(x), 0.05) * soft(-y - 0.4, 0.2)
    arms = soft(ellipse(np.abs(x), y, (1.2 * a.width, -0.15), (0.32, 0.62)), 0.2)
    arms *= soft(np.abs(x) - 0.98 * a.width, 0.05)
    body = np.maximum(np.maximum(trunk * soft(y + 0.78, 0.12), shoulders), neck)
    right, left = lungs(a, x, y)
    air = np.maximum(right, left)
    density = 0.62 * body + 0.10 * a.fat * body + 0.12 * arms
    density += 0.16 * soft(y - 0.42, 0.16) * body
    density -= 0.52 * air * (1 - 0.18 * a.fat)
    density += heart(a, x, y) * (0.205 + 0.195 * air)
    density += 0.11 * vessel_tree(a, x, y) * air
    density += a.bone * (0.115 * ribs(a, x, y) + 0.15 * clavicles(a, x, y))
    spine = soft(0.085 - np.abs(x), 0.035)
    discs = 0.75 + 0.25 * np.cos(2 * np.pi * y / 0.115 + 6 * a.rib_phase)
    density += a.bone * 0.17 * spine * discs * body
    trachea = soft(0.048 - np.abs(x - 0.012 * a.heart_side), 0.025) * soft(-0.26 - y, 0.08)
    density -= 0.17 * trachea
    scapula = soft(ellipse(np.abs(x), y, (0.80 * a.width, -0.34), (0.13, 0.33)), 0.3)
    density += a.bone * 0.07 * scapula
    for side in (-1.0, 1.0):
        density += 0.10 * a.breast * soft(ellipse(x, y, (side * 0.48 * a.width, 0.30), (0.34, 0.27)), 0.30)
    bubble = soft(ellipse(a.heart_side * x, y, (0.40, 0.60 - 0.08 * a.diaphragm), (0.14, 0.07)), 0.4)
    density -= 0.16 * bubble * body
    return density, air
