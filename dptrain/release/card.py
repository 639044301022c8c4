"""The model card of a release: what a reader must know before using the model, as plain values.

Everything in it comes from what may be handed out: the privacy statement, `model.json`, texts that people gave, and the
study's figures after disclosure control. `card_words` makes the Markdown. What nobody said is not made up: it is listed
as open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dptrain.release.checklist import CHECKLISTS, filled_in

SCHEMA = 1
POINT = re.compile(r"point (\d+)")
"""How sentences of the statement refer to its points."""
EXPOSED_AUC = 0.9
"""Patients with at least this patient AUC are called exposed in the card."""


def build_card(
    statement: Mapping[str, Any],
    model: Mapping[str, Any],
    texts: Mapping[str, str],
    figures: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The card.

    Args:
        statement: content of statement.json; not a void one, which has no model beside it.
        model: content of model.json.
        texts: those of `card_texts` that were given.
        figures: `figures_for_card` of the study that was named; None without one.
    """
    setting = statement["setting"]
    card: dict[str, Any] = {
        "schema": SCHEMA,
        "title": texts.get("title") or f"{setting['network'].split(',')[0]} on {setting['cohort']}",
        "texts": dict(texts),
        "model": _model(setting, model),
        "training_data": {
            "cohort": setting["cohort"],
            "simulated": setting["simulated"],
            "divisor": statement["mechanism"]["divisor"],
            "held_out": statement["utility"] is not None,
            "outside": [POINT.sub(r"point \1 of the privacy statement", text) for text in statement["outside"]],
        },
        "evaluation": statement["utility"],
        "privacy": {
            "epsilon": statement["epsilon"],
            "delta": statement["delta"],
            **{name: statement[name] for name in ("unit", "relation", "mechanism", "sampling", "accounting", "tuning")},
            "trusted": setting["trusted"],
            "released": setting["released"],
            "against": setting["against"],
            "earlier_releases": statement["earlier_releases"],
        },
        "risk": None if figures is None else figures["risk"],
        "groups": None if figures is None else figures["groups"],
        "versions": {
            name: value for name, value in statement["versions_and_preflight"].items() if name != "preflight"
        },
        "preflight_passed": bool(statement["versions_and_preflight"]["preflight"].get("passed")),
    }
    card["limitations"] = _limitations(card)
    card["knows"] = _knows(card)
    card["checklists"] = {name: filled_in(items, card) for name, items in CHECKLISTS.items()}
    return card


def _model(setting: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("input_shape", "num_outputs", "task", "label_names", "feature_names")
    return {
        "network": setting["network"],
        **{name: model[name] for name in kept},
        "options": model["model"]["options"],
    }


def figures_for_card(study: Mapping[str, Any], label: str) -> dict[str, Any]:
    """What a card takes from a study: `risk` and `groups`.

    `study` is a report document after disclosure control (`disclosure.for_release`) as plain values, `label` the arm
    that the release belongs to.
    """
    return {"risk": _risk(study, label), "groups": _groups(study, label)}


def _risk(study: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Figures of the release's arm, and of the arm without privacy beside it."""
    arms = {arm["label"]: arm for arm in study["arms"]}
    summary = study["summary"]
    shown: dict[str, Any] = {}
    for name in dict.fromkeys(("none", label)):
        if name in arms:
            arm = arms[name]
            risk, attack = arm["risk"], arm["attack"]
            exposed = next((one for one in risk["at_least"] if one["threshold"] == EXPOSED_AUC), None)
            shown[name] = {
                "name": arm["name"],
                "attack_auc": attack["auc"],
                "tpr_at_fpr": attack["tpr_at_fpr"],
                "patient_auc_median": risk["median"],
                "patient_auc_p99": risk["p99"],
                "patient_auc_p99_null": risk["p99_null"],
                "exposed": None if exposed is None else exposed["count"],
                "exposed_resolvable": exposed is not None and exposed["resolvable"],
                "auroc": arm["performance"]["auroc"],
                "cap": arm["privacy"]["cap"],
            }
    paired = arms[label]["paired"]
    return {
        "arm": label,
        "attack": arms[label]["attack"]["name"],
        "num_models": summary["num_models"],
        "threshold": EXPOSED_AUC,
        "arms": shown,
        "loss_of_auroc": None if paired is None else paired["utility"],
        "not_tested": list(study["not_tested"]),
        "remarks": list(study["remarks"][:1]),
    }


def _groups(study: Mapping[str, Any], label: str) -> list[dict[str, Any]]:
    """Risk and performance of every group under the release's arm; withheld figures keep their place."""
    rows = []
    for group in study["groups"]:
        here = group["arms"].get(label)
        rows.append(
            {
                "attribute": group["attribute"],
                "group": group["group"],
                "num_patients": group["num_patients"],
                "mean_auc": None if here is None else here["mean_auc"],
                "relative_change": None if here is None else here["relative_change"],
                "auroc": None if here is None else here["auroc"],
            }
        )
    return rows


def _limitations(card: Mapping[str, Any]) -> list[str]:
    """What dptrain knows to be limits of this model and of what the card says."""
    found = [
        "A research result, not a medical device: no regulator has assessed it.",
        "No evaluation outside the cohort that it was trained on: other hospitals, devices and times may differ.",
    ]
    if card["training_data"]["simulated"]:
        found.append("The training data are SIMULATED: the model knows nothing about real patients.")
    if card["evaluation"] is None:
        found.append("Performance is not stated: the model was trained on all patients, none was held out.")
    else:
        found.append("Calibration of this very model was not measured; the study's report has that of its fleet.")
    if card["privacy"]["unit"]["name"] == "record":
        found.append("Epsilon protects one record; a patient with several records is protected less.")
    if card["risk"] is None:
        found.append("No membership inference audit was named: the risk of patients was not measured.")
    else:
        found.append(
            "Risk was measured on models of the same recipe, each trained on a random half of the patients, with the "
            "attacks that are listed; other attacks may do better, up to the limit of the guarantee."
        )
    if not card["groups"]:
        found.append("Groups of patients were not compared.")
    return found


def _knows(card: Mapping[str, Any]) -> list[str]:
    """Parts that dptrain filled itself; the checklists refer to them."""
    known = {
        "model": True,
        "training_data": True,
        "outside": bool(card["training_data"]["outside"]),
        "labels": bool(card["model"]["label_names"]),
        "features": bool(card["model"]["feature_names"]),
        "evaluation": card["evaluation"] is not None,
        "guarantee": True,
        "checks": card["preflight_passed"],
        "earlier": True,
        "risk": card["risk"] is not None,
        "groups": bool(card["groups"]),
    }
    return [name for name, has in known.items() if has]
