"""Augmentation of records as tensors: pure functions, deterministic from a generator, vectorised over the batch.

In private training every record of a sampled unit gets `copies` random variants inside the clipped unit (augmentation
multiplicity, De et al. 2022, arXiv 2204.13650, section 3.4): the unit's gradient is the mean over its records and
their copies, clipped once, so the guarantee is the one without augmentation. What is drawn for a record does not
depend on any record, and a record's copies depend on that record alone. Copies come record by record:

    augment(features, spec, copies, generator)          # (B * copies, ...)
    labels.repeat_interleave(copies, dim=0)
    owner.repeat_interleave(copies)

Pixels and samples that come from outside of a record repeat its edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dptrain.config import AugmentSpec
from dptrain.errors import ConfigError

KINDS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("tables", ("noise", "dropout")),
    2: ("signals (leads, samples)", ("shift", "scale", "noise")),
    3: ("images (channels, height, width)", ("flip", "shift", "rotate", "crop")),
}
"""Number of axes of a record -> what it is, and the operations for it."""


def check_operations(spec: AugmentSpec, record_shape: tuple[int, ...], where: str = "training.augment") -> None:
    """Raise ConfigError with every operation that is on and does not exist for records of this shape."""
    what, known = KINDS.get(len(record_shape), (f"records of shape {record_shape}", ()))
    expected = f"For them there is {', '.join(known)}." if known else "There is no augmentation for them."
    problems = [
        f"{where}.{name}={getattr(spec, name)} does not exist for {what}. {expected}"
        for name in spec.active
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)


def augment(features: Tensor, spec: AugmentSpec, copies: int, generator: torch.Generator) -> Tensor:
    """(B, ...) records -> (B * copies, ...) random variants: all copies of the first record, then of the second, ...

    The features are left alone. Draws come from `generator` (on any device) and depend on B * copies and `spec` only.
    Raises ConfigError if an operation does not exist for such records, ValueError for copies < 1.
    """
    if copies < 1:
        raise ValueError(f"copies={copies} must be >= 1.")
    check_operations(spec, tuple(features.shape[1:]))
    out = features.repeat_interleave(copies, dim=0) if copies > 1 else features
    num, sides = len(out), out.shape[2:]

    def uniform(*shape: int) -> Tensor:
        """[0, 1)."""
        return torch.rand(num, *shape, generator=generator, device=generator.device).to(out.device)

    def symmetric(*shape: int) -> Tensor:
        """[-1, 1)."""
        return 2 * uniform(*shape) - 1

    if spec.flip:
        out = mirror(out, uniform() < spec.flip)
    if spec.shift:
        most = torch.tensor([round(spec.shift * side) for side in sides], device=out.device)
        out = move(out, (symmetric(len(sides)) * (most + 0.5)).round().long().clamp(-most, most))
    if spec.rotate or spec.crop < 1:
        side = 1 - uniform() * (1 - spec.crop)
        out = turn_and_crop(out, math.radians(spec.rotate) * symmetric(), side, uniform(2))
    if spec.scale:
        out = out * (1 + spec.scale * symmetric()).to(out.dtype).view(-1, *[1] * (out.dim() - 1))
    if spec.noise:
        noise = torch.randn(out.shape, generator=generator, device=generator.device)
        out = out + spec.noise * noise.to(out.device, out.dtype)
    if spec.dropout:
        out = out.masked_fill(uniform(*out.shape[1:]) < spec.dropout, 0.0)
    return out


@dataclass(frozen=True)
class Augmenter:
    """What a training does to the records of a step; draws from a stream that nothing else uses."""

    spec: AugmentSpec
    copies: int
    generator: torch.Generator

    def __call__(self, features: Tensor, labels: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, ...), (B, ...), (B,) -> the same with `copies` random variants of every record, record by record."""
        if not self.spec.active:
            return features, labels, owner
        varied = augment(features, self.spec, self.copies, self.generator)
        return varied, labels.repeat_interleave(self.copies, dim=0), owner.repeat_interleave(self.copies)


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """(B, C, H, W), (B,) bool -> (B, C, H, W): left and right exchanged where `mirrored`."""
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


def move(records: Tensor, offsets: Tensor) -> Tensor:
    """(B, C, *sides), (B, len(sides)) whole steps -> (B, C, *sides): out[x] = in[x - offset], edges repeated."""
    for axis in range(offsets.shape[1]):
        dim = axis + 2
        side = records.shape[dim]
        source = (torch.arange(side, device=records.device) - offsets[:, axis, None]).clamp(0, side - 1)
        shape = [len(records), *[1] * (records.dim() - 1)]
        shape[dim] = side
        records = records.gather(dim, source.view(shape).expand_as(records))
    return records


def turn_and_crop(images: Tensor, angle: Tensor, side: Tensor, place: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W), bilinear: a crop, turned about its own centre, enlarged to the whole image.

    `angle` (B,) in radians, counter-clockwise as the image is seen; `side` (B,) fraction of height and width that the
    crop keeps; `place` (B, 2) in [0, 1]: where the crop lies between the top (left) and the bottom (right) edge.
    """
    height, width = images.shape[-2:]
    # Pixel i covers [i, i + 1); coordinates are those of pixel centres.
    rows = torch.arange(height, device=images.device) + 0.5 - height / 2
    columns = torch.arange(width, device=images.device) + 0.5 - width / 2
    sine, cosine = (side * angle.sin()).view(-1, 1, 1), (side * angle.cos()).view(-1, 1, 1)
    centre = place * (1 - side)[:, None] + side[:, None] / 2
    y = centre[:, 0, None, None] * height + cosine * rows[:, None] + sine * columns
    x = centre[:, 1, None, None] * width - sine * rows[:, None] + cosine * columns
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1).to(images.dtype)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
