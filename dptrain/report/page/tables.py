"""The tables of a report: every number of its pictures and more, each with its interval, n and unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dptrain.report.document import Document
from dptrain.report.leaves import Figure
from dptrain.report.page.figures import POLICY_NAMES
from dptrain.report.page.numbers import count, epsilon, figure, parameter, percent


@dataclass(frozen=True)
class Table:
    """Header and rows of text; the first column names the row."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False
    """Shown on demand."""


def trade_off(document: Document) -> Table:
    """The headline figures."""
    study = document.summary
    word = study.patient_word
    percent = document.headline_percent
    rows = [
        (
            arm.long_name,
            epsilon(arm.privacy.epsilon),
            figure(arm.performance.auroc),
            *map(figure, arm.risk.reached_by(percent)),
            "–" if arm.privacy.cap is None else f"{arm.privacy.cap['auc']:.3f}",
        )
        for arm in document.arms
    ]
    return Table(
        f"Training {word}s: n = {count(study.num_patients)}; test {word}s: n = {count(study.num_test_patients)}; "
        f"{study.num_models} models per row. In brackets 95% intervals.",
        (
            "level of privacy",
            "ε spent",
            "diagnostic performance (AUROC)",
            f"recognition of the most exposed {percent}% (attack AUC)",
            "the same by chance alone (mean and central 95%)",
            "mathematical limit (AUC)",
        ),
        tuple(rows),
    )


def policy(document: Document) -> Table:
    """Every arm under the policy."""
    assert document.choice is not None
    names = {arm.label: arm.name for arm in document.arms}
    rows = [(names[one.label], one.verdict.withheld or one.verdict.text or "") for one in document.choice.arms]
    return Table("", ("level of privacy", f"policy “{document.choice.policy}”"), tuple(rows))


def exposed(document: Document) -> tuple[Table, ...]:
    """Numbers of patients above thresholds, and the winner's curse."""
    word = document.summary.patient_word
    thresholds = [one.threshold for one in document.arms[0].risk.at_least]
    rows = []
    for arm in document.arms:
        cells = []
        for one in arm.risk.at_least:
            chance = figure(one.null_expected, interval=False)
            told = count(one.count, of=False) if one.resolvable or one.count.withheld else "cannot be told"
            cells.append(f"{told}; by chance {chance}")
        rows.append((arm.name, *cells, count(arm.risk.exposed, interval=False)))
    first = Table(
        f"Number of {word}s (n = {count(document.summary.num_patients)}) recognised at least so surely, with 95% "
        "interval, and the number expected by chance alone. “Cannot be told”: with so few models more than one would "
        "be expected by chance. Last column: those who can be singled out with confidence (of these at most 5% by "
        "chance).",
        ("level of privacy", *(f"attack AUC ≥ {one:g}" for one in thresholds), "can be singled out"),
        tuple(rows),
    )
    if not any(arm.risk.picked for arm in document.arms):
        return (first,)
    second = Table(
        f"A check against luck: the most exposed 1% of {word}s as picked on one half of the models, and the same "
        f"{word}s measured again on the other half. If the second figure falls to 0.5, the first was luck.",
        ("level of privacy", "n", "as picked (mean attack AUC)", "measured again (95% interval)", "most exposed "
        "single"),
        tuple(
            (
                arm.name,
                "–" if arm.risk.picked is None or arm.risk.picked.n is None else f"{arm.risk.picked.n}",
                figure(arm.risk.picked),
                figure(arm.risk.remeasured),
                figure(arm.risk.maximum),
            )
            for arm in document.arms
        ),
        folded=True,
    )
    return first, second


def attack(document: Document) -> Table:
    """Average attack."""
    rates = list(document.arms[0].attack.tpr_at_fpr)
    rows = []
    for arm in document.arms:
        cells = []
        for rate in rates:
            cap = None if arm.privacy.cap is None else arm.privacy.cap.get(f"tpr_at_fpr_{rate}")
            limit = "" if cap is None else f"; limit {percent(cap)}"
            cells.append(figure(arm.attack.tpr_at_fpr[rate]) + limit)
        rows.append((arm.name, figure(arm.attack.auc), *cells))
    return Table(
        f"Attack: {document.arms[0].attack.name}, on each of the {document.summary.num_models} models in turn, means "
        f"and 95% intervals; {document.summary.patient_word}s: n = {count(document.summary.num_patients)}.",
        (
            "level of privacy",
            "attack AUC over all",
            *(f"members found when {percent(float(rate))} of outsiders are accused" for rate in rates),
        ),
        tuple(rows),
    )


def paired(document: Document) -> Table:
    """Differences from usual training."""
    rows = []
    thresholds: list[str] = []
    for arm in document.arms:
        if arm.paired is None:
            continue
        one = arm.paired
        thresholds = list(one.count_at_least)
        rows.append(
            (
                arm.name,
                figure(one.utility, signed=True),
                figure(one.patient_auc_mean, signed=True),
                figure(one.patient_auc_p99, signed=True),
                *(count(one.count_at_least[threshold]) for threshold in thresholds),
            )
        )
    word = document.summary.patient_word
    return Table(
        f"Each level minus usual training, with 95% intervals over {word}s and models; training {word}s: "
        f"n = {count(document.summary.num_patients)}, test {word}s: n = {count(document.summary.num_test_patients)}.",
        (
            "level of privacy",
            "AUROC",
            "mean attack AUC",
            "most exposed 1% (attack AUC)",
            *(f"{word}s with attack AUC ≥ {threshold}" for threshold in thresholds),
        ),
        tuple(rows),
    )


def groups(document: Document) -> tuple[Table, ...]:
    """One table of sizes and one per arm that is shown in the picture."""
    found = []
    word = document.summary.patient_word
    shown = [arm for arm in document.arms if arm.label == "none" or arm.is_private]
    for arm in shown:
        has_fall = any(arm.label in group.arms and group.arms[arm.label].fall for group in document.groups)
        rows = []
        for group in document.groups:
            name = f"{group.attribute}: {group.group}"
            sizes = (count(group.num_patients, of=False), count(group.num_test_patients, of=False))
            one = group.arms.get(arm.label)
            if one is None:
                rows.append((name, *sizes, *(["not reported (n<10)"] * (5 + has_fall))))
                continue
            rows.append(
                (
                    name,
                    *sizes,
                    figure(one.mean_auc),
                    count(one.num_in_top),
                    figure(_times(one.relative_change)),
                    figure(one.p_holm),
                    figure(one.auroc),
                    *((figure(one.fall, signed=True),) if has_fall else ()),
                )
            )
        found.append(
            Table(
                f"{arm.long_name[0].upper()}{arm.long_name[1:]}: risk and performance by group, with 95% intervals.",
                (
                    "group",
                    f"training {word}s",
                    f"test {word}s",
                    "mean attack AUC",
                    "among the most exposed 1%",
                    "times as many there as expected",
                    "p (Holm)",
                    "AUROC",
                    *(("fall of the attack AUC from usual training",) if has_fall else ()),
                ),
                tuple(rows),
                folded=True,
            )
        )
    return tuple(found)


def access(document: Document) -> tuple[Table, ...]:
    """The most exposed 1%, and the average attack."""
    policies = [one.policy for one in document.arms[0].access]
    n = document.arms[0].access[0].attack_auc.n
    patients = "" if n is None else f"; n = {n:,}"
    header = ("level of privacy", *(POLICY_NAMES.get(name, name) for name in policies))
    return (
        Table(
            f"Recognition of the most exposed 1% (attack AUC, 95% interval{patients}) if the model answers with ...",
            header,
            tuple((arm.name, *(figure(one.patient_auc_p99) for one in arm.access)) for arm in document.arms),
        ),
        Table(
            f"Members found when 1% of outsiders are accused (95% interval{patients}) if the model answers with ...",
            header,
            tuple((arm.name, *(figure(one.tpr_at_fpr_001) for one in arm.access)) for arm in document.arms),
            folded=True,
        ),
    )


def performance(document: Document) -> tuple[Table, ...]:
    """Discrimination and calibration; and whether the model is better than a simple one."""
    word = document.summary.patient_word
    tested = f"test {word}s: n = {count(document.summary.num_test_patients)}"
    first = Table(
        f"Means over models with 95% intervals; {tested}. AUPRC of guessing: "
        f"{figure(document.arms[0].performance.prevalence)}. Calibration slope: 1 is right, below 1 the model is too "
        f"sure of itself, above 1 not sure enough.",
        ("level of privacy", "AUROC", "AUPRC", "Brier score (0 is best)", "calibration slope (1 is right)"),
        tuple(
            (
                arm.name,
                figure(arm.performance.auroc),
                figure(arm.performance.auprc),
                figure(arm.performance.brier),
                figure(arm.performance.calibration_slope),
            )
            for arm in document.arms
        ),
    )
    second = Table(
        f"Beside a simple model: logistic regression with the same privacy, AUROC with 95% intervals; {tested}. A "
        f"model that does not beat it is not worth its risk.",
        ("level of privacy", "logistic regression", "the model minus it", "spread between the models (sd)"),
        tuple(
            (
                arm.name,
                figure(arm.performance.baseline),
                figure(arm.performance.baseline_difference, signed=True),
                figure(arm.performance.auroc_sd),
            )
            for arm in document.arms
        ),
        folded=True,
    )
    return (first, second) if any(arm.performance.baseline for arm in document.arms) else (first,)


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


def _times(change: Figure) -> Figure:
    """Relative change as a multiple."""
    if change.value is None:
        return change
    ends = [None if end is None else end + 1.0 for end in (change.value, change.low, change.high)]
    return Figure(ends[0], ends[1], ends[2], change.n, unit=change.unit, about=change.about)
