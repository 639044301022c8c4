"""Leaves as text. A leaf that was withheld gives its reason, one that could not be estimated says so."""

from __future__ import annotations

import math

from dptrain.report.leaves import Count, Figure

NOT_ESTIMABLE = "cannot be estimated"
MINUS = "\N{MINUS SIGN}"
_PERCENT = ("fraction",)
_DECIMALS = {"AUC": 3, "AUROC": 3, "AUPRC": 3, "Brier score": 3, "slope": 2, "relative change": 2, "patients": 1}


def figure(one: Figure | None, *, signed: bool = False, interval: bool = True) -> str:
    """`0.985 (0.952 to 0.996)`."""
    if one is None:
        return "–"
    if one.withheld is not None:
        return one.withheld
    if one.value is None:
        return NOT_ESTIMABLE
    text = number(one.value, one.unit, signed=signed)
    if interval and one.low is not None and one.high is not None:
        text += f" ({number(one.low, one.unit, signed=signed)} to {number(one.high, one.unit, signed=signed)})"
    return text


def count(one: Count | None, *, of: bool = True, interval: bool = True) -> str:
    """`25 of 399 (17 to 36)`; differences carry their sign."""
    if one is None:
        return "–"
    if one.withheld is not None:
        return one.withheld
    if one.value is None:
        return NOT_ESTIMABLE
    text = whole(one.value, signed=one.difference)
    if of and one.of is not None and not one.difference:
        text += f" of {one.of:,}"
    if interval and one.low is not None and one.high is not None:
        ends = (math.floor(one.low), math.ceil(one.high))
        text += f" ({whole(ends[0], signed=one.difference)} to {whole(ends[1], signed=one.difference)})"
    return text


def whole(value: float, *, signed: bool = False) -> str:
    """A number of patients; not whole where patients are tied."""
    text = f"{abs(value):,.0f}" if abs(value - round(value)) < 1e-9 else f"{abs(value):,.1f}"
    return _sign(value, signed) + text


def number(value: float, unit: str, *, signed: bool = False) -> str:
    """A figure in its unit: fractions as percent, p-values with two digits, the rest with fixed decimals."""
    if unit in _PERCENT:
        return _sign(value, signed) + percent(abs(value))
    if unit == "patients" and 0 < value < 0.05:
        return "< 0.1"
    if unit == "p-value":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    decimals = _DECIMALS.get(unit, 3)
    text = f"{abs(value):.{decimals}f}"
    # 0.9999 is not certainty and 0.0001 is not nothing.
    if unit in ("AUC", "AUROC", "AUPRC") and value < 1.0 and float(text) == 1.0 and value > 0:
        text = f"> {1 - 0.5 * 10**-decimals:.{decimals + 1}f}"
    return _sign(0.0 if float(text.lstrip("> ")) == 0 else value, signed) + text


def percent(fraction: float) -> str:
    """Two digits, at least one decimal below 10%."""
    value = 100.0 * fraction
    text = f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.1f}" if value >= 0.095 else f"{value:.2g}"
    return text.removesuffix(".0") + "%"


def p_value(one: Figure) -> str:
    """`p = 0.012` or `p < 0.001`, or why there is none."""
    text = figure(one)
    return text if one.value is None else f"p {text}" if text.startswith("<") else f"p = {text}"


def epsilon(value: float | None) -> str:
    """Three digits, rounded up: never less than was spent."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / step * (1 - 1e-12)) * step:.3g}"


def parameter(value: float | int | None) -> str:
    """A parameter of the mechanism, in full but without a tail of digits."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _sign(value: float, signed: bool) -> str:
    if value < 0:
        return MINUS
    return "+" if signed and value > 0 else ""
