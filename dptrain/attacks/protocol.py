"""The attacks by name, and the one shape they all have.

An attack takes the signals of all models on all records and the membership, and returns a score for every
attacked model and record. HIGHER MEANS MEMBER. Most attacks want log odds (`compute_signals`); some want
log-probabilities (`compute_log_probabilities`) and records that no model has seen: the entry in `ATTACKS` says so.
A new attack is one file with one such function and one line in `ATTACKS`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import FloatArray, checked_targets
from dptrain.attacks.gaussian import Variance
from dptrain.attacks.lira import SHRUNK_BELOW, lira_offline, lira_online, lira_pieces
from dptrain.attacks.rmia import Attacker, rmia_offline, rmia_one_reference, rmia_online, rmia_pieces
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


Pieces = Iterator[tuple[int, slice, FloatArray]]
"""(place in targets, records, the target's scores of these records)."""


class PiecesFunction(Protocol):
    """The same scores piece by piece, every target and record once, in any order."""

    def __call__(
        self,
        signals_MN: npt.ArrayLike,
        membership_MN: npt.ArrayLike,
        *,
        targets: npt.ArrayLike | None = None,
        population_MZ: npt.ArrayLike | None = None,
    ) -> Pieces: ...


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
    in_pieces: PiecesFunction | None = None
    """For fleets whose (T, N) scores do not fit into memory; None: there is no such way."""

    def pieces(
        self,
        signals_MN: npt.ArrayLike,
        membership_MN: npt.ArrayLike,
        *,
        targets: npt.ArrayLike | None = None,
        population_MZ: npt.ArrayLike | None = None,
    ) -> Pieces:
        """Yield the scores of `function` as (place in targets, records, scores), in little memory where possible."""
        if self.in_pieces is not None:
            yield from self.in_pieces(signals_MN, membership_MN, targets=targets, population_MZ=population_MZ)
            return
        scores_TN = self.function(signals_MN, membership_MN, targets=targets, population_MZ=population_MZ)
        for place, scores in enumerate(scores_TN):
            yield place, slice(0, scores.size), scores


def _threshold(
    signals_MN: npt.ArrayLike,
    membership_MN: npt.ArrayLike,
    *,
    targets: npt.ArrayLike | None = None,
    population_MZ: npt.ArrayLike | None = None,
) -> FloatArray:
    return threshold_scores(signals_MN, targets=targets)


def _threshold_pieces(
    signals_MN: npt.ArrayLike,
    membership_MN: npt.ArrayLike,
    *,
    targets: npt.ArrayLike | None = None,
    population_MZ: npt.ArrayLike | None = None,
) -> Pieces:
    for place, target in enumerate(checked_targets(targets, len(np.asanyarray(signals_MN)))):
        scores = threshold_scores(np.asanyarray(signals_MN)[target : target + 1])[0]
        yield place, slice(0, scores.size), scores


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


def _lira_pieces(online: bool, variance: Variance) -> PiecesFunction:
    def pieces(
        signals_MN: npt.ArrayLike,
        membership_MN: npt.ArrayLike,
        *,
        targets: npt.ArrayLike | None = None,
        population_MZ: npt.ArrayLike | None = None,
    ) -> Pieces:
        return lira_pieces(signals_MN, membership_MN, variance, online=online, targets=targets)

    return pieces


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
        return function(signals_MN, membership_MN, _population(name, population_MZ), targets=targets)

    return attack


def _rmia_pieces(name: str, attacker: Attacker) -> PiecesFunction:
    def pieces(
        signals_MN: npt.ArrayLike,
        membership_MN: npt.ArrayLike,
        *,
        targets: npt.ArrayLike | None = None,
        population_MZ: npt.ArrayLike | None = None,
    ) -> Pieces:
        population = _population(name, population_MZ)
        return rmia_pieces(signals_MN, membership_MN, population, attacker=attacker, targets=targets)

    return pieces


def _population(name: str, population_MZ: npt.ArrayLike | None) -> npt.ArrayLike:
    if population_MZ is None:
        raise ValueError(
            f"attack={name!r} needs population_MZ: log-probabilities of records that no model was trained on, of "
            "patients who are not audited, for example the test patients."
        )
    return population_MZ


_ONLINE = "compares the model's answer with those of models trained with and without the record"
_OFFLINE = "asks how unusually confident the answer is compared with models trained without the record"
_SPREADS: dict[Variance, tuple[str, str]] = {
    "per_record": ("", "each record's own spread"),
    "pooled": ("_pooled", "one common spread"),
    "shrunk": ("_shrunk", "each record's spread drawn towards a common one, for few reference models"),
}


_RMIA: tuple[tuple[Attacker, str, _Rmia], ...] = (
    ("online", "models trained with and without the record", rmia_online),
    ("offline", "models trained without the record", rmia_offline),
    ("one_reference", "a single other model", rmia_one_reference),
)


def _all_attacks() -> dict[str, Attack]:
    attacks = [
        Attack(
            "threshold",
            "calls a record a member if the model is confident and right; needs no other model",
            _threshold,
            in_pieces=_threshold_pieces,
        )
    ]
    for family, words in (("lira_online", _ONLINE), ("lira_offline", _OFFLINE)):
        for variance, (suffix, spread) in _SPREADS.items():
            online = family == "lira_online"
            how = _lira(online, variance), _lira_pieces(online, variance)
            attacks.append(Attack(family + suffix, f"{words} ({spread})", how[0], min_models=4, in_pieces=how[1]))
    for attacker, references, rmia in _RMIA:
        name = f"rmia_{attacker}"
        words = f"asks how much surer the model is than {references}, beside patients whom no model has seen"
        attacks.append(
            Attack(
                name,
                words,
                _rmia(name, rmia),
                min_models=4,
                needs_population=True,
                signal="log_probability",
                in_pieces=_rmia_pieces(name, attacker),
            )
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
