"""Tables of what was measured: every number of the pictures and more, each with its interval, n and unit."""

from __future__ import annotations

from dptrain.report.document import Document
from dptrain.report.leaves import Figure
from dptrain.report.page.numbers import count, epsilon, figure, percent
from dptrain.report.page.rows import POLICY_NAMES
from dptrain.report.page.table import Table


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


def _times(change: Figure) -> Figure:
    """Relative change as a multiple."""
    if change.value is None:
        return change
    ends = [None if end is None else end + 1.0 for end in (change.value, change.low, change.high)]
    return Figure(ends[0], ends[1], ends[2], change.n, unit=change.unit, about=change.about)
