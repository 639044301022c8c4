"""The attacks by name, and the one shape they all have.

An attack takes the signals of all models on all records and the membership, and returns a score for every
attacked model and record. HIGHER MEANS MEMBER. Most attacks want log odds (`compute_signals`); some want
log-probabilities (`compute_log_probabilities`) and records that no model has seen: the entry in `ATTACKS` says so.
A new attack is one file with one such function and one line in `ATTACKS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

import numpy.typing as npt

from dptrain.attacks.checks import FloatArray
from dptrain.attacks.gaussian import Variance
from dptrain.attacks.lira import SHRUNK_BELOW, lira_offline, lira_online
from dptrain.attacks.rmia import rmia_offline, rmia_one_reference, rmia_online
from dptrain.attacks.threshold import threshold_scores

SignalKind = Literal["log_odds", "log_probability"]
"""log_odds: `compute_signals`; log_probability: `compute_log_probabilities`."""


class AttackFunction(Protocol):
    """What an attack computes."""

    def __call__(
        self,
        signals_MN: npt.ArrayLike,
        membership_MN: npt.ArrayLike,
        *,
        targets: npt.ArrayLike | None = None,
        population_MZ: npt.ArrayLike | None = None,
    ) -> FloatArray:
        """Return (T, N) scores of the targets, from (M, N) signals and membership. HIGHER MEANS MEMBER.

        `population_MZ` are signals of records that no model was trained on; attacks that do not need them
        ignore them.
        """
        ...


@dataclass(frozen=True)
class Attack:
    """A named attack."""

    name: str
    description: str
    """One sentence for people who are not specialists."""
    function: AttackFunction
    min_models: int = 1
    """Fewest models in twins with which it works."""
    needs_population: bool = False
    """Whether `population_MZ` must be given."""
    signal: SignalKind = "log_odds"
    """What `signals_MN` and `population_MZ` must hold."""


def _threshold(
    signals_MN: npt.ArrayLike,
    membership_MN: npt.ArrayLike,
    *,
    targets: npt.ArrayLike | None = None,
    population_MZ: npt.ArrayLike | None = None,
) -> FloatArray:
    return threshold_scores(signals_MN, targets=targets)


def _lira(online: bool, variance: Variance) -> AttackFunction:
    def attack(
        signals_MN: npt.ArrayLike,
        membership_MN: npt.ArrayLike,
        *,
        targets: npt.ArrayLike | None = None,
        population_MZ: npt.ArrayLike | None = None,
    ) -> FloatArray:
        lira = lira_online if online else lira_offline
        return lira(signals_MN, membership_MN, variance, targets=targets)

    return attack


class _Rmia(Protocol):
    def __call__(
        self,
        log_probability_MN: npt.ArrayLike,
        membership_MN: npt.ArrayLike,
        population_MZ: npt.ArrayLike,
        *,
        targets: npt.ArrayLike | None = None,
    ) -> FloatArray: ...


def _rmia(name: str, function: _Rmia) -> AttackFunction:
    def attack(
        signals_MN: npt.ArrayLike,
        membership_MN: npt.ArrayLike,
        *,
        targets: npt.ArrayLike | None = None,
        population_MZ: npt.ArrayLike | None = None,
    ) -> FloatArray:
        if population_MZ is None:
            raise ValueError(
                f"attack={name!r} needs population_MZ: log-probabilities of records that no model was trained on, of "
                "patients who are not audited, for example the test patients."
            )
        return function(signals_MN, membership_MN, population_MZ, targets=targets)

    return attack


_ONLINE = "compares the model's answer with those of models trained with and without the record"
_OFFLINE = "asks how unusually confident the answer is compared with models trained without the record"
_SPREADS: dict[Variance, tuple[str, str]] = {
    "per_record": ("", "each record's own spread"),
    "pooled": ("_pooled", "one common spread"),
    "shrunk": ("_shrunk", "each record's spread drawn towards a common one, for few reference models"),
}


_RMIA: tuple[tuple[str, str, _Rmia], ...] = (
    ("rmia_online", "models trained with and without the record", rmia_online),
    ("rmia_offline", "models trained without the record", rmia_offline),
    ("rmia_one_reference", "a single other model", rmia_one_reference),
)


def _all_attacks() -> dict[str, Attack]:
    attacks = [
        Attack(
            "threshold",
            "calls a record a member if the model is confident and right; needs no other model",
            _threshold,
        )
    ]
    for family, words in (("lira_online", _ONLINE), ("lira_offline", _OFFLINE)):
        for variance, (suffix, spread) in _SPREADS.items():
            function = _lira(family == "lira_online", variance)
            attacks.append(Attack(family + suffix, f"{words} ({spread})", function, min_models=4))
    for name, references, rmia in _RMIA:
        words = f"asks how much surer the model is than {references}, beside patients whom no model has seen"
        attacks.append(
            Attack(name, words, _rmia(name, rmia), min_models=4, needs_population=True, signal="log_probability")
        )
    return {attack.name: attack for attack in attacks}


ATTACKS: Mapping[str, Attack] = MappingProxyType(_all_attacks())
"""threshold; lira_online and lira_offline (per-record variance, as published), each also with _pooled and
_shrunk; rmia_online, rmia_offline and rmia_one_reference (continuous score)."""


def attack_named(name: str, variance: Variance | None = None) -> Attack:
    """Return the attack called `name`, or the member of the family `name` that uses `variance`.

    Raises:
        ValueError: no such attack, or a variance for an attack that has none.
    """
    full = name if variance is None else name + _SPREADS.get(variance, ("?", ""))[0]
    if full not in ATTACKS or (variance is not None and not name.startswith("lira_")):
        raise ValueError(
            f"attack={name!r} with variance={variance!r} is unknown; expected one of {', '.join(ATTACKS)}, "
            "or lira_online / lira_offline with variance per_record, pooled or shrunk."
        )
    return ATTACKS[full]


def default_attack(num_models: int) -> Attack:
    """Return the attack that a study of `num_models` models in twins reports first.

    Online LiRA, with shrunk variance while a target has fewer than 64 references (its twin is not one); the
    threshold attack below 4 models, where there is nothing to compare with.

    Raises:
        ValueError: `num_models` below 1.
    """
    if num_models < 1:
        raise ValueError(f"num_models={num_models} must be at least 1.")
    if num_models < 4:
        return ATTACKS["threshold"]
    return ATTACKS["lira_online_shrunk" if num_models - 2 < SHRUNK_BELOW else "lira_online"]
