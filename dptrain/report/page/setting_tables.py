"""Tables of what was set, accounted and meant: the mechanism, the settings of the study, the words of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dptrain.report.document import Document
from dptrain.report.leaves import Figure
from dptrain.report.page.numbers import epsilon, parameter, percent
from dptrain.report.page.table import Table


def mechanism(document: Document) -> tuple[Table, ...]:
    """Parameters, accounting, what ran."""
    rows = []
    for arm in document.arms:
        privacy = arm.privacy
        asked = (
            f"ε = {privacy.target_epsilon:g}"
            if privacy.target_epsilon is not None
            else f"TPR ≤ {percent(privacy.target_tpr)} at FPR {percent(privacy.target_fpr)}"
            if privacy.target_tpr is not None and privacy.target_fpr is not None
            else f"advantage ≤ {percent(privacy.target_advantage)}"
            if privacy.target_advantage is not None
            else "–"
        )
        rows.append(
            (
                arm.name,
                asked,
                epsilon(privacy.epsilon),
                parameter(privacy.delta),
                parameter(privacy.noise_multiplier),
                parameter(privacy.clipping_norm),
                parameter(privacy.sampling_rate),
                parameter(privacy.num_steps),
                parameter(arm.num_parameters),
            )
        )
    parameters = Table(
        "Parameters of each level. They are settings, not measurements.",
        (
            "level of privacy",
            "asked for",
            "ε spent",
            "δ",
            "noise σ (in clipping norms)",
            "clipping norm C",
            "sampling rate q",
            "steps T",
            "trained parameters",
        ),
        tuple(rows),
    )
    found = [parameters]
    private = [arm for arm in document.arms if arm.privacy.accounting]
    if private:
        found.append(
            Table(
                "Epsilon by accountants that share no code; the one that is reported is never the smaller of two that "
                "disagree, unless it is exact.",
                ("level of privacy", "reported by", "PRV", "PLD", "RDP"),
                tuple(
                    (
                        arm.name,
                        str((arm.privacy.accounting or {}).get("accountant", "–")),
                        *(epsilon((arm.privacy.accounting or {}).get(name)) for name in ("prv", "pld", "rdp")),
                    )
                    for arm in private
                ),
            )
        )
    checked = [arm for arm in document.arms if arm.privacy.ledger]
    if checked:
        ran = []
        for arm in checked:
            ledger = arm.privacy.ledger or {}
            noise = ledger["noise_over_sigma"]
            ran.append(
                (
                    arm.name,
                    parameter(ledger["num_models"]),
                    ", ".join(parameter(one) for one in ledger["num_steps"]),
                    ", ".join(parameter(one) for one in ledger["noise_multipliers"]),
                    ", ".join(parameter(one) for one in ledger["clipping_norms"]),
                    "–" if noise is None else f"{noise[0]:.4f} to {noise[1]:.4f}",
                )
            )
        found.append(
            Table(
                "What ran, as the ledger saw it in every step of every model. A difference from what is accounted "
                "stops the training.",
                ("level of privacy", "models", "noisy steps", "σ used", "C used", "noise found / σ (least, most)"),
                tuple(ran),
            )
        )
    found += _canaries(document)
    levels = [arm for arm in document.arms if arm.privacy.patient_level]
    if levels:
        found.append(
            Table(
                "Epsilon of a patient with all records, by number of records per training patient.",
                ("level of privacy", "median", "90th percentile", "99th percentile", "most records"),
                tuple((arm.name, *_levels(arm.privacy.patient_level or {})) for arm in levels),
            )
        )
    return tuple(found)


def _canaries(document: Document) -> list[Table]:
    """The lower bound beside the accounted epsilon."""
    planted = [(arm, arm.privacy.lower_bound) for arm in document.arms if arm.privacy.lower_bound]
    if not planted:
        return []
    rows = tuple(
        (
            arm.name,
            epsilon(arm.privacy.epsilon),
            f"{bound['epsilon_lower_bound']:.2f}",
            f"{bound['largest_possible']:.2f}",
            f"{bound['largest_of_models']:.2f}",
            f"{bound['num_correct']:,} of {bound['num_guesses']:,}",
        )
        for arm, bound in planted
    )
    title = (
        f"What {planted[0][1]['num_canaries']} planted canaries prove: with {percent(planted[0][1]['confidence'])} "
        "confidence epsilon is at least this. Zero proves nothing; more than what is accounted stops the study."
    )
    head = ("level of privacy", "ε spent", "ε at least", "provable, all canaries", "provable, one", "right guesses")
    return [Table(title, head, rows)]


def _levels(level: Mapping[str, Mapping[str, Figure]]) -> Iterator[str]:
    for name in ("p50", "p90", "p99", "max"):
        spent, records = level["epsilon"][name], level["records"][name]
        yield spent.withheld or f"{epsilon(spent.value)} ({parameter(records.value)} records)"


def settings(values: Mapping[str, Any]) -> Table:
    """The frozen configuration, one setting per row."""
    return Table("Settings of the study.", ("setting", "value"), tuple(_flat(values)), folded=True)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "none" if value is None else str(value)


def glossary(document: Document) -> Table:
    """Every word of the page that a reader may not know."""
    word = document.summary.patient_word
    rows = [
        ("member", f"a {word} whose data was used to train a model"),
        ("outsider", f"a {word} whose data was not"),
        (
            "recognised",
            f"the attacker, who has the {word}'s record already, tells correctly that it was used for training. He "
            f"learns membership, not what is in the record",
        ),
        (
            "attack AUC",
            f"of a {word}: the probability that, of one model trained with the {word} and one without, the attacker "
            "tells which is which. 0.5 is guessing, 1 is certainty. Over all: the same for a member and an outsider "
            "of one model",
        ),
        ("most exposed 1%", "the 99th percentile: 1 in 100 is recognised at least this surely"),
        ("AUROC", "probability that the model gives an ill patient a higher score than a healthy one. 0.5 is guessing"),
        ("AUPRC", "how many alarms are right, averaged over all levels of alarm; compare it with guessing"),
        ("Brier score", "mean squared distance of the stated probability from the truth; 0 is perfect"),
        ("ε (epsilon), δ (delta)", "the guarantee of differential privacy; smaller is safer. See the section on "
        "accounting"),
        ("differential privacy", f"training in which no single {word} can change the model by more than noise hides"),
        ("no privacy", "the usual training, without any protection: the “before”"),
        ("control", "a level that protects nobody; it is there to show where a difference comes from"),
        ("private recipe, no protection", "the settings that privacy needs (fewer, larger steps) but without "
        "protection"),
        ("clipping only", "every contribution is limited, but no noise is added: no guarantee"),
        ("95% interval", "where the figure would lie in 95 of 100 repetitions with other patients or models"),
        ("chance alone", "what the same measurement shows if the models leak nothing, because few models measure "
        "roughly"),
    ]
    return Table("", ("word", "meaning"), tuple(rows))
