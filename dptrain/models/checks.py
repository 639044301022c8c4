"""What the builders ask of their options and of the records: problems in words, collected before anything is built."""

from __future__ import annotations

from collections.abc import Sequence

from dptrain.errors import ConfigError

KINDS: dict[int, tuple[str, str, tuple[str, ...]]] = {
    1: ("vectors (features,)", "tables, or any data behind a frozen encoder, give",
        ("linear", "mlp", "tab_resnet", "linear_probe")),
    2: ("signals (leads, samples)", "data=ecg, ptbxl and sim_ecg give", ("resnet1d", "ecg_transformer")),
    3: ("images (channels, height, width)", "data=images, npz, medmnist and sim_imaging give",
        ("small_cnn", "wrn", "vit", "monai")),
}  # fmt: skip
"""Number of axes of a record -> what it is, which data give it, and which models take it (linear and mlp take all)."""


def at_least_one(options: object, *names: str) -> list[str]:
    """A problem for each of these options that is below 1."""
    return [f"model.{name}={getattr(options, name)} must be >= 1." for name in names if not getattr(options, name) >= 1]


def fraction_problems(options: object, *names: str) -> list[str]:
    """A problem for each of these options that is no probability below 1."""
    return [
        f"model.{name}={getattr(options, name)} must be in [0, 1): it is a fraction."
        for name in names
        if not 0 <= getattr(options, name) < 1
    ]


def group_problems(num_groups: int, channels: int, what: str) -> list[str]:
    """A problem if GroupNorm cannot cut `channels` into `num_groups`; `what` says where the channels come from."""
    if num_groups < 1 or channels < 1 or channels % num_groups == 0:
        return []
    fitting = [str(n) for n in range(1, min(channels, 64) + 1) if channels % n == 0]
    return [f"model.num_groups={num_groups} must divide {what}={channels}: take one of {', '.join(fitting)}."]


def image_shape(model: str, input_shape: Sequence[int], min_side: int = 1) -> tuple[int, int, int]:
    """(channels, height, width); ConfigError if the records are no images or smaller than `min_side`."""
    channels, height, width = _expect(model, input_shape, 3)
    if min(height, width) < min_side:
        raise ConfigError(
            f"model.name={model} halves images until few pixels are left: {height} x {width} is too small, it needs "
            f"{min_side} x {min_side}. Take larger images (data.size), or fewer stages."
        )
    return channels, height, width


def signal_shape(model: str, input_shape: Sequence[int], min_samples: int = 1) -> tuple[int, int]:
    """(leads, samples); ConfigError if the records are no signals or shorter than `min_samples`."""
    leads, samples = _expect(model, input_shape, 2)
    if samples < min_samples:
        raise ConfigError(
            f"model.name={model} needs at least {min_samples} samples per record; these have {samples}. Take longer "
            "records or a higher sampling rate."
        )
    return leads, samples


def vector_length(model: str, input_shape: Sequence[int]) -> int:
    """Number of features; ConfigError if the records are no vectors."""
    return _expect(model, input_shape, 1)[0]


def patch_problem(name: str, size: int, sides: Sequence[int], what: str) -> list[str]:
    """A problem if patches of `size` do not tile every one of `sides`."""
    if size < 1 or all(side % size == 0 for side in sides):
        return []
    fitting = [str(n) for n in range(2, min(sides) + 1) if all(side % n == 0 for side in sides)]
    shown = " x ".join(str(side) for side in sides)
    return [f"model.{name}={size} must divide {what} {shown}: take one of {', '.join(fitting[:12]) or '1'}."]


def raise_if(problems: list[str]) -> None:
    """ConfigError with all problems, if there are any."""
    if problems:
        raise ConfigError(problems)


def _expect(model: str, input_shape: Sequence[int], axes: int) -> tuple[int, ...]:
    if len(input_shape) == axes:
        return tuple(input_shape)
    wanted, source, _ = KINDS[axes]
    shape = "(" + ", ".join(str(side) for side in input_shape) + ("," if len(input_shape) == 1 else "") + ")"
    message = f"model.name={model} takes {wanted}, which {source}; the records of these data have shape {shape}"
    if len(input_shape) in KINDS:
        found, _, models = KINDS[len(input_shape)]
        raise ConfigError(f"{message}: {found}. For those take model={' or '.join(models)}.")
    raise ConfigError(f"{message}. For other shapes take model=mlp, or your own class (model=custom).")
