"""Every operation against a slow twin, one record, pixel and sample at a time; what is drawn; the unit's gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from dptrain.errors import ConfigError
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.mechanism import Mechanism
from dptrain.training.augment import AugmentSpec, augment, mirror, move, turn_and_crop
from dptrain.training.losses import binary_loss

SPECS = {
    "table": (AugmentSpec(noise=0.1, dropout=0.3), (9,)),
    "signal": (AugmentSpec(shift=0.2, scale=0.1, noise=0.05), (3, 40)),
    "image": (AugmentSpec(flip=0.5, shift=0.1, rotate=15, crop=0.8), (2, 10, 13)),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def records(num: int, *shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(num, *shape, generator=seeded(seed), dtype=torch.float64)


def slow_move(record: NDArray, offsets: list[int]) -> NDArray:
    out = np.empty_like(record)
    for index in np.ndindex(*record.shape):
        source = [index[0]]
        for position, offset, side in zip(index[1:], offsets, record.shape[1:], strict=True):
            source.append(min(max(position - offset, 0), side - 1))
        out[index] = record[tuple(source)]
    return out


def slow_turn_and_crop(image: NDArray, angle: float, side: float, place: tuple[float, float]) -> NDArray:
    channels, height, width = image.shape
    out = np.empty_like(image)
    centre_y = place[0] * (1 - side) * height + side * height / 2
    centre_x = place[1] * (1 - side) * width + side * width / 2
    for row in range(height):
        for column in range(width):
            up, right = height / 2 - (row + 0.5), column + 0.5 - width / 2
            # A picture that is turned counter-clockwise shows at a place what was there clockwise before.
            source_right = math.cos(angle) * right + math.sin(angle) * up
            source_up = -math.sin(angle) * right + math.cos(angle) * up
            y, x = centre_y - side * source_up - 0.5, centre_x + side * source_right - 0.5
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            top, left = min(int(y), height - 1), min(int(x), width - 1)
            bottom, right_of = min(top + 1, height - 1), min(left + 1, width - 1)
            for channel in range(channels):
                pixels = image[channel]
                above = pixels[top, left] * (1 - x + left) + pixels[top, right_of] * (x - left)
                below = pixels[bottom, left] * (1 - x + left) + pixels[bottom, right_of] * (x - left)
                out[channel, row, column] = above * (1 - y + top) + below * (y - top)
    return out


def test_mirror() -> None:
    images = records(5, 2, 3, 4)
    chosen = torch.tensor([True, False, True, True, False])
    for image, is_chosen, out in zip(images, chosen, mirror(images, chosen), strict=True):
        for index in np.ndindex(2, 3, 4):
            source = (index[0], index[1], 3 - index[2]) if is_chosen else index
            assert out[index] == image[source]


@pytest.mark.parametrize("shape", [(3, 12), (2, 6, 9)])
def test_move(shape: tuple[int, ...]) -> None:
    inputs = records(6, *shape)
    offsets = torch.randint(-5, 6, (6, len(shape) - 1), generator=seeded())
    for record, offset, out in zip(inputs, offsets, move(inputs, offsets), strict=True):
        np.testing.assert_array_equal(out.numpy(), slow_move(record.numpy(), offset.tolist()))


@given(
    angle=st.floats(-3.2, 3.2),
    side=st.floats(0.1, 1),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    shape=st.sampled_from([(1, 5, 5), (2, 4, 7), (1, 1, 6), (1, 8, 1)]),
)
def test_turn_and_crop(angle: float, side: float, place: tuple[float, float], shape: tuple[int, ...]) -> None:
    images = records(2, *shape)
    out = turn_and_crop(
        images,
        torch.tensor([angle, 0.3], dtype=torch.float64),
        torch.tensor([side, 0.7], dtype=torch.float64),
        torch.tensor([place, (0.2, 0.9)], dtype=torch.float64),
    )
    np.testing.assert_allclose(out[0], slow_turn_and_crop(images[0].numpy(), angle, side, place), atol=1e-9)
    np.testing.assert_allclose(out[1], slow_turn_and_crop(images[1].numpy(), 0.3, 0.7, (0.2, 0.9)), atol=1e-9)


def test_a_quarter_turn_is_that_of_numpy_and_no_turn_changes_nothing() -> None:
    images = records(1, 2, 6, 6)
    one, centre = torch.ones(1, dtype=torch.float64), torch.full((1, 2), 0.5, dtype=torch.float64)
    turned = turn_and_crop(images, one * math.pi / 2, one, centre)
    np.testing.assert_allclose(turned[0], np.rot90(images[0], axes=(1, 2)), atol=1e-12)
    np.testing.assert_allclose(turn_and_crop(images, 0 * one, one, centre), images, atol=1e-12)


def test_augment_is_the_operations_in_order_with_the_draws_of_the_generator() -> None:
    """The twin draws as `augment` does and works record by record."""
    spec, shape = SPECS["image"]
    images = records(4, *shape)
    out = augment(images, spec, 3, seeded(7))
    generator = seeded(7)
    flips = torch.rand(12, generator=generator) < spec.flip
    coins = 2 * torch.rand(12, 2, generator=generator) - 1
    sides = 1 - torch.rand(12, generator=generator) * (1 - spec.crop)
    angles = math.radians(spec.rotate) * (2 * torch.rand(12, generator=generator) - 1)
    places = torch.rand(12, 2, generator=generator)
    for index in range(12):
        image = images[index // 3].numpy()
        if flips[index]:
            image = image[:, :, ::-1].copy()
        most = [round(spec.shift * side) for side in shape[1:]]
        offset = [round(float(c) * (m + 0.5)) for c, m in zip(coins[index], most, strict=True)]
        assert all(abs(o) <= m for o, m in zip(offset, most, strict=True))
        image = slow_move(image, offset)
        place = (float(places[index, 0]), float(places[index, 1]))
        image = slow_turn_and_crop(image, float(angles[index]), float(sides[index]), place)
        np.testing.assert_allclose(out[index], image, atol=1e-4)


def test_scale_noise_and_dropout_record_by_record() -> None:
    signals = records(3, 2, 50)
    out = augment(signals, AugmentSpec(scale=0.2), 2, seeded(3))
    factors = 1 + 0.2 * (2 * torch.rand(6, generator=seeded(3)) - 1)
    for index in range(6):
        np.testing.assert_allclose(out[index], signals[index // 2] * float(factors[index]), rtol=1e-6)
    noisy = augment(signals, AugmentSpec(noise=0.5), 2, seeded(3))
    noise = torch.randn(6, 2, 50, generator=seeded(3))
    for index in range(6):
        np.testing.assert_allclose(noisy[index], signals[index // 2] + 0.5 * noise[index], rtol=1e-6)
    table = records(3, 8)
    dropped = augment(table, AugmentSpec(dropout=0.4), 2, seeded(3))
    coins = torch.rand(6, 8, generator=seeded(3))
    for index, column in np.ndindex(6, 8):
        assert dropped[index, column] == (0 if coins[index, column] < 0.4 else table[index // 2, column])


@pytest.mark.parametrize("kind", SPECS)
def test_same_generator_same_copies_and_the_input_is_left_alone(kind: str) -> None:
    spec, shape = SPECS[kind]
    inputs = records(5, *shape).float()
    before = inputs.clone()
    first, again, other = (augment(inputs, spec, 2, seeded(s)) for s in (1, 1, 2))
    assert first.shape == (10, *shape)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(inputs, before)
    assert not torch.equal(first[0], first[1]), "two copies of a record are the same"


@pytest.mark.parametrize("kind", SPECS)
def test_copies_of_a_record_depend_on_that_record_alone(kind: str) -> None:
    spec, shape = SPECS[kind]
    inputs = records(5, *shape)
    changed = inputs.clone()
    changed[2] = torch.nan
    before, after = augment(inputs, spec, 3, seeded()), augment(changed, spec, 3, seeded())
    for index in range(15):
        if index // 3 != 2:
            assert torch.equal(before[index], after[index])


@pytest.mark.parametrize("shape", [(5,), (2, 9), (1, 4, 4)])
@pytest.mark.parametrize("num", [0, 3])
def test_without_operations_copies_are_the_record(shape: tuple[int, ...], num: int) -> None:
    inputs = records(num, *shape)
    assert torch.equal(augment(inputs, AugmentSpec(), 2, seeded()), inputs.repeat_interleave(2, dim=0))
    assert (
        augment(inputs, SPECS[{1: "table", 2: "signal", 3: "image"}[len(shape)]][0], 1, seeded()).shape == inputs.shape
    )


def test_what_is_drawn_fills_its_range() -> None:
    ramp = torch.arange(100.0).expand(2000, 1, 100)
    middle = augment(ramp, AugmentSpec(shift=0.05), 1, seeded())[:, 0, 50] - 50
    counts = np.bincount((middle + 5).long().numpy(), minlength=11)
    assert len(counts) == 11
    assert counts.min() > 0.7 * 2000 / 11, "each whole shift is as likely"
    amplitude = augment(torch.ones(2000, 1, 4), AugmentSpec(scale=0.3), 1, seeded())[:, 0, 0]
    assert 0.7 <= float(amplitude.min()) < 0.72
    assert 1.28 < float(amplitude.max()) <= 1.3
    image = torch.zeros(2000, 1, 1, 2)
    image[..., 1] = 1
    assert float(augment(image, AugmentSpec(flip=0.3), 1, seeded())[..., 0].mean()) == pytest.approx(0.3, abs=0.04)
    kept = augment(torch.ones(500, 10), AugmentSpec(dropout=0.2), 1, seeded())
    assert float(kept.mean()) == pytest.approx(0.8, abs=0.03)


def test_the_clipped_unit_holds_all_copies_of_all_its_records() -> None:
    """The step with copies is the clipped mean over records and copies of each unit, computed here one by one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 1)).double()
    start = torch.cat([param.detach().flatten() for param in model.parameters()])
    signals, labels, owner = records(4, 2, 4), torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 2])
    copies, spec, clipping_norm = 3, AugmentSpec(shift=0.3, scale=0.5, noise=0.2), 0.4
    many = augment(signals, spec, copies, seeded())
    expected = torch.zeros_like(start)
    for unit in range(3):
        gradients = []
        for row in [r for r in range(4 * copies) if owner[r // copies] == unit]:
            loss = binary_loss(model(many[row : row + 1]), labels[row // copies : row // copies + 1]).sum()
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
        mean = torch.stack(gradients).mean(0)
        expected += mean * min(1.0, clipping_norm / (float(mean.norm()) + 1e-6))
    engine = PrivateEngine(
        model,
        binary_loss,
        torch.optim.SGD(model.parameters(), lr=1.0),
        Mechanism("patient", 0.5, 0.0, clipping_norm, 1, 1.0, 1e-3),
        torch.Generator(),
        np.ones(3, dtype=bool),
    )
    engine.step(
        many, labels.repeat_interleave(copies), owner.repeat_interleave(copies), np.arange(3), max_records=copies
    )
    after = torch.cat([param.detach().flatten() for param in engine.close().parameters()])
    torch.testing.assert_close(start - after, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options, details", [
    ({"flip": 50, "shift": 0.6, "rotate": -1, "crop": 0, "scale": 1, "noise": math.inf, "dropout": math.nan},
     ["augment.flip=50 must be in [0, 1], a fraction, not percent", "shift=0.6 must be in [0, 0.5]",
      "rotate=-1 must be in [0, 180], in degrees", "crop=0 must be in [0.1, 1]", "scale=1 must be in [0, 0.9]",
      "noise=inf must be a finite number >= 0", "dropout=nan must be in [0, 0.9]"]),
])  # fmt: skip
def test_bad_settings(options: dict[str, float], details: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        AugmentSpec(**options)
    for detail in details:
        assert detail in str(caught.value)


@pytest.mark.parametrize("shape, details", [
    ((12, 100), ["training.augment.flip=0.5 does not exist for signals", "rotate=5", "there is shift, scale, noise"]),
    ((7,), ["flip=0.5 does not exist for tables", "shift=0.1 does not exist", "there is noise, dropout"]),
    ((1, 8, 8, 8), ["does not exist for records of shape (1, 8, 8, 8)", "There is no augmentation for them"]),
])  # fmt: skip
def test_operations_of_another_kind_of_record(shape: tuple[int, ...], details: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        augment(torch.zeros(2, *shape), AugmentSpec(flip=0.5, shift=0.1, rotate=5), 1, seeded())
    for detail in details:
        assert detail in str(caught.value)


def test_no_copies_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="copies=0"):
        augment(torch.zeros(2, 3), AugmentSpec(), 0, seeded())
