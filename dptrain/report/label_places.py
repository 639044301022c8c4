"""Places for the labels of points: beside the point, on no other label, point, bar or line, never outside the axes.

Each label takes the cheapest of a few dozen places around its point, one label after the other; a place further away
costs more and gets a thin line to its point. Deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import NDArray

FONT_SIZE = 9.8
_DISTANCES = (11.0, 20.0, 32.0, 46.0, 62.0, 80.0, 104.0)
_ANGLES = tuple(np.deg2rad(angle) for angle in (0, 25, -25, 90, -90, 50, -50, 130, -130, 155, -155, 180))
_OVERLAP_COST = 60.0
_LABEL_COST = 1000.0
_OUTSIDE_COST = 500.0

Boxes = NDArray[np.float64]
"""(B, 4) x0, y0, x1, y1 in pixels."""


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], colors: Sequence[str]
) -> None:
    """Write `texts` beside `points` (data coordinates), around everything that is drawn in `axes` already."""
    canvas = axes.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()
    pixels = axes.figure.dpi / 72.0  # type: ignore[union-attr]
    drawn = _obstacles(axes, pixels)
    labels = np.empty((0, 4))
    window = axes.get_window_extent(renderer)
    frame = np.array([window.x0 + 3, window.y0 + 3, window.x1 + 4, window.y1 - 2])
    to_data = axes.transData.inverted()
    for place, text, color in zip(
        axes.transData.transform(np.asarray(points, dtype=float)), texts, colors, strict=True
    ):
        written = axes.text(
            0,
            0,
            text,
            color=color,
            fontsize=FONT_SIZE,
            weight="bold",
            ha="center",
            va="center",
            linespacing=1.05,
            zorder=7,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.4},
        )
        size = written.get_window_extent(renderer)
        box = _best_box(place, (size.width, size.height), drawn, labels, frame, pixels)
        labels = np.vstack([labels, box + np.array([-3.0, -2.0, 3.0, 2.0]) * pixels])
        x, y = to_data.transform(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        written.set_position((float(x), float(y)))
        end = np.clip(place, box[:2], box[2:])
        gap = end - place
        length = float(np.hypot(*gap))
        if length > 15.0 * pixels:
            leader = np.array([place + gap / length * 6.0 * pixels, end])
            drawn = np.vstack([drawn, np.repeat(_boxes_along(leader, 1.5 * pixels, pixels), 5, axis=0)])
            line = to_data.transform(leader)
            axes.plot(line[:, 0], line[:, 1], color=color, lw=0.8, zorder=2.5)


def _best_box(
    point: NDArray[np.float64],
    size: tuple[float, float],
    drawn: Boxes,
    labels: Boxes,
    frame: NDArray[np.float64],
    pixels: float,
) -> NDArray[np.float64]:
    distance, angle = (grid.ravel() for grid in np.meshgrid(np.array(_DISTANCES) * pixels, _ANGLES, indexing="ij"))
    direction = np.column_stack([np.cos(angle), np.sin(angle)])
    side = np.where(np.abs(direction[:, 0]) > 0.2, np.sign(direction[:, 0]), 0.0)
    half = np.array(size) / 2
    centre = point + distance[:, None] * direction
    centre[:, 0] += side * half[0]
    centre[:, 1] += direction[:, 1] * half[1]
    boxes = np.hstack([centre - half, centre + half])
    cost = distance / pixels + _OVERLAP_COST * _num_overlaps(boxes, drawn) + _LABEL_COST * _num_overlaps(boxes, labels)
    outside = np.maximum(frame[:2] - boxes[:, :2], 0).sum(axis=1) + np.maximum(boxes[:, 2:] - frame[2:], 0).sum(axis=1)
    return np.asarray(boxes[int(np.argmin(cost + _OUTSIDE_COST * outside))])


def _num_overlaps(boxes: Boxes, taken: Boxes) -> NDArray[np.float64]:
    wide = np.minimum(boxes[:, None, 2], taken[None, :, 2]) - np.maximum(boxes[:, None, 0], taken[None, :, 0])
    high = np.minimum(boxes[:, None, 3], taken[None, :, 3]) - np.maximum(boxes[:, None, 1], taken[None, :, 1])
    return np.asarray(((wide > 0) & (high > 0)).sum(axis=1), dtype=np.float64)


def _obstacles(axes: Axes, pixels: float) -> Boxes:
    """Boxes around markers and along lines and bars."""
    boxes = [np.empty((0, 4))]
    for line in axes.lines:
        path = axes.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float))
        marked = line.get_marker() not in ("None", "", None)
        boxes.append(_boxes_along(path, (7.0 if marked else 1.5) * pixels, pixels))
    for collection in axes.collections:
        for shape in collection.get_paths():
            boxes.append(_boxes_along(axes.transData.transform(shape.vertices), 1.5 * pixels, pixels))
    return np.vstack(boxes)


def _boxes_along(path: NDArray[np.float64], radius: float, pixels: float) -> Boxes:
    points = [path[:1]]
    for start, end in pairwise(path):
        steps = max(1, int(np.hypot(*(end - start)) / (6.0 * pixels)))
        points.append(start + (end - start) * np.linspace(0, 1, steps + 1)[1:, None])
    centre = np.vstack(points)
    return np.hstack([centre - radius, centre + radius])
