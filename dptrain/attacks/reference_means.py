"""The references' mean probability of every record, IN and OUT, without the target and its twin.

The mean is over probabilities, handed out as its logarithm. Nothing is subtracted: taking a target's own probability
of 0.99 out of a sum whose other terms are 1e-20 would leave rounding error where the attack reads its evidence.
Instead the sums of all units (a pair of twins, or a model without a twin) before and after a unit are added, so that
every digit is right, in O(MN) time and O(N) memory beside the result.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dptrain.attacks.checks import BoolArray, FloatArray, Floats, IntArray

_CHUNK_VALUES = 1 << 19


@dataclass(frozen=True)
class ReferenceMeans:
    """A piece of C records: what the models outside each of the U units say about them."""

    records: slice
    log_in_UC: FloatArray
    """log of the mean probability over IN references; -inf where there is none."""
    log_out_UC: FloatArray
    """The same over OUT references."""
    num_in_UC: FloatArray
    """Number of IN references, whole numbers."""
    num_out_UC: FloatArray


def reference_means(
    log_probability_MN: Floats, membership_MN: BoolArray | None, unit_M: IntArray
) -> Iterator[ReferenceMeans]:
    """Yield the references' means in pieces of the records, in order.

    A mean that is less than exp(-700) of the largest probability of the record in any model is raised to that.

    Args:
        log_probability_MN: (M, N) finite, at most 0.
        membership_MN: (M, N) bool; None means that every model is OUT.
        unit_M: (M,) unit of every model, 0..U-1, as `model_units` gives.
    """
    num_models, num_records = log_probability_MN.shape
    order = np.argsort(unit_M, kind="stable")
    starts = np.searchsorted(unit_M[order], np.arange(int(unit_M.max()) + 1))
    step = max(1, _CHUNK_VALUES // num_models)
    for start in range(0, num_records, step):
        records = slice(start, min(start + step, num_records))
        values_MC = log_probability_MN[order, records].astype(np.float64)
        member_MC = np.zeros_like(values_MC, dtype=np.bool_)
        if membership_MN is not None:
            member_MC = membership_MN[order, records]
        shift_C = values_MC.max(axis=0)
        probability_MC = np.exp(values_MC - shift_C)
        inside_MC = probability_MC * member_MC
        in_UC = _outside_units(_unit_sums(inside_MC, starts))
        out_UC = _outside_units(_unit_sums(probability_MC - inside_MC, starts))
        num_in_UC = _unit_sums(member_MC.astype(np.float64), starts)
        num_in_UC = num_in_UC.sum(axis=0) - num_in_UC
        num_out_UC = num_models - np.diff(starts, append=num_models)[:, None] - num_in_UC
        yield ReferenceMeans(
            records,
            _log_mean(in_UC, num_in_UC, shift_C),
            _log_mean(out_UC, num_out_UC, shift_C),
            num_in_UC,
            num_out_UC,
        )


def _unit_sums(value_MC: FloatArray, starts: IntArray) -> FloatArray:
    """The sum over the models of each unit; models stand together by unit."""
    if 2 * starts.size == len(value_MC) and np.all(np.diff(starts) == 2):
        return np.asarray(value_MC[0::2] + value_MC[1::2], dtype=np.float64)
    return np.asarray(np.add.reduceat(value_MC, starts, axis=0), dtype=np.float64)


def _outside_units(sum_UC: FloatArray) -> FloatArray:
    """For every unit, the sum over all other units: those before plus those after."""
    others_UC = np.zeros_like(sum_UC)
    np.cumsum(sum_UC[:-1], axis=0, out=others_UC[1:])
    others_UC[:-1] += np.cumsum(sum_UC[:0:-1], axis=0)[::-1]
    return others_UC


def _log_mean(sum_UC: FloatArray, count_UC: FloatArray, shift_C: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        log_mean_UC = np.log(np.maximum(sum_UC, 1e-304)) - np.log(count_UC) + shift_C
    return np.where(count_UC > 0, log_mean_UC, -np.inf)
