"""From an analysed study to its report document. Nothing is computed here that could be wrong: figures get their n,
unit and what their interval is about, curves are thinned to what the eye sees, and marks for disclosure are set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dptrain import __version__
from dptrain.audit.subgroups import GroupRisk
from dptrain.report.build_arm import arm_of
from dptrain.report.build_leaves import BOTH, OTHER_PATIENTS, TEST_AND_MODELS, figure_of, number_of, rounded
from dptrain.report.details import ArmDetails
from dptrain.report.document import Document, Group, GroupInArm, Summary
from dptrain.report.leaves import Count, Curve, Figure, Remark
from dptrain.report.not_tested import not_tested
from dptrain.report.repeat import repeat_of
from dptrain.report.results import ArmResult, StudyResult
from dptrain.report.words import patient_word


def document_of(
    result: StudyResult, info: Mapping[str, Any], ledgers: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Document:
    """The document of a study analysed with details.

    `info` is study.json; `ledgers` are the ledgers of every arm's models by label.
    """
    null = result.null
    cohort = info["cohort"]
    return Document(
        summary=Summary(
            name=str(info["name"]),
            cohort=result.cohort,
            simulated=result.simulated,
            task=result.task,
            model=result.model,
            unit=result.unit,
            patient_word=patient_word(result),
            num_models=result.num_models,
            metric=result.arms[0].utility.metric,
            num_patients=Count(result.num_patients),
            num_records=Count(result.num_records, unit="records"),
            num_test_patients=Count(result.num_test_patients),
            label_names=tuple(cohort["label_names"]),
            warnings=tuple(Remark(text) for text in result.warnings),
            outside_dp=tuple(cohort["outside_dp"]),
        ),
        arms=tuple(arm_of(result, arm, ledgers.get(arm.label, ())) for arm in result.arms),
        null=Curve(
            "null",
            rounded(null.auc),
            rounded(null.expected),
            rounded(null.low),
            rounded(null.high),
            n=result.num_patients,
        ),
        groups=groups_of(result),
        not_tested=not_tested(result),
        repeat=repeat_of(result, info, __version__),
    )


def groups_of(result: StudyResult) -> tuple[Group, ...]:
    first: ArmDetails = result.details[result.arms[0].label]
    if first.groups is None:
        return ()
    tests = {(one.attribute, one.group): one.num_patients for one in first.group_auroc}
    found = []
    for place, one in enumerate(first.groups.groups):
        key = (one.attribute, one.group)
        arms = {
            arm.label: _group_in_arm(arm, result.details[arm.label], place) for arm in result.arms if one.reportable
        }
        found.append(
            Group(
                one.attribute,
                one.group,
                Count(
                    one.num_patients, result.num_patients, cell=f"size/{'/'.join(key)}", partition=f"size/{key[0]}"
                ),
                Count(
                    tests.get(key, 0),
                    result.num_test_patients,
                    unit="test patients",
                    cell=f"test size/{'/'.join(key)}",
                    partition=f"test size/{key[0]}",
                ),
                arms,
            )
        )
    return tuple(found)


def _group_in_arm(arm: ArmResult, details: ArmDetails, place: int) -> GroupInArm:
    assert details.groups is not None
    one: GroupRisk = details.groups.groups[place]
    key = (one.attribute, one.group)
    num_top, size = details.groups.num_in_top, one.num_patients
    cell = f"top/{arm.label}/{'/'.join(key)}"
    auroc = next((each for each in details.group_auroc if (each.attribute, each.group) == key), None)
    change = details.differences[place] if details.differences else None
    return GroupInArm(
        num_in_top=Count(
            number_of(one.num_in_top), num_top, cell=cell, partition=f"top/{arm.label}/{one.attribute}"
        ),
        share_in_top=Figure(
            number_of(one.share_in_top), n=num_top, unit="fraction", rests_on=one.num_in_top, cell=cell
        ),
        relative_change=figure_of(
            one.relative_change, size, unit="relative change", about=BOTH, rests_on=one.num_in_top, cell=cell
        ),
        p_holm=Figure(number_of(one.excess.p_holm), n=size, unit="p-value", rests_on=one.num_in_top, cell=cell),
        mean_auc=figure_of(details.group_auc[key], size, about=OTHER_PATIENTS),
        auroc=Figure(None, n=0, unit="AUROC", n_unit="test patients")
        if auroc is None
        else figure_of(
            auroc.utility,
            auroc.num_patients,
            unit="AUROC",
            n_unit="test patients",
            about=TEST_AND_MODELS,
            rests_on=details.group_outcome[key],
        ),
        fall=None if change is None else figure_of(change.fall, size, about=OTHER_PATIENTS),
        fall_against_others=None if change is None else figure_of(change.against_others, size, about=OTHER_PATIENTS),
    )
