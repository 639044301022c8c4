"""What a study did not test, in sentences: as important to a reader as what it found."""

from __future__ import annotations

from dptrain.report.results import StudyResult


def not_tested(result: StudyResult) -> tuple[str, ...]:
    """One sentence each, without measured numbers; what is always so first, then what this study lacks."""
    found = [
        "Attackers who hold the model itself (its weights) or watch the training: the attacks here see the model's "
        "answers. Only the mathematical limit of an arm with differential privacy covers such attackers too.",
        "Other kinds of attack: reconstructing records, inferring a hidden attribute, planting records to make others "
        "stand out.",
        "The model to be released. Every figure is about models trained on a random half of these patients by the same "
        "recipe; the released model is trained on all of them.",
        "Patients of another hospital, another time or another device. Intervals are about more patients from the same "
        "source.",
        "Whether the model helps patients. Diagnostic performance is not clinical benefit.",
    ]
    if any(arm.is_private and arm.lower_bound is None for arm in result.arms):
        found.append(
            "How much of the privacy budget an attack can prove to be spent (planted worst-case patients): epsilon "
            "here is an upper limit from accounting, not a measurement."
        )
    if result.unit == "record":
        found.append(
            "Protection of patients as a whole: epsilon protects one single record. A patient with several records is "
            "protected less."
        )
    if not result.groups:
        found.append("Subgroups: these data name no groups such as sex or age.")
    if any(one.tpr_at_fpr.get(0.001) is None for one in (arm.attack for arm in result.arms)):
        found.append(
            "Very careful attackers (at most one false accusation in a thousand): too few patients to measure that."
        )
    unresolved = sorted({one.threshold for arm in result.arms for one in arm.risk.at_least if not one.resolvable})
    if unresolved:
        found.append(
            "How many patients are above a recognition of "
            + ", ".join(f"{one:g}" for one in unresolved)
            + ": with so few models chance alone lifts patients there."
        )
    if not any(arm.label == "none" for arm in result.arms):
        found.append("The usual training without privacy, so there is no before to compare with.")
    return tuple(found)
