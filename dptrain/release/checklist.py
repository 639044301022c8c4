"""Which items of two checklists a model card fills, and which it leaves open for people.

TRIPOD+AI: Collins et al. 2024, BMJ 385:e078378, items 1 to 27c. NIST SP 800-226 (2025): its pyramid of what a guarantee
rests on, and its privacy hazards. Topics are in our words. An item is `filled` where the card has what it asks for,
`partly` where dptrain knows only a part and a text could add the rest, `open` where nothing is known, `not applicable`
where a model from `dptrain train` cannot have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FILLED, PARTLY, OPEN, NOT_APPLICABLE = "filled", "partly", "open", "not applicable"


@dataclass(frozen=True)
class Item:
    """One item of a checklist."""

    number: str
    topic: str
    where: str = ""
    """Section of the card."""
    texts: tuple[str, ...] = ()
    """Texts (`release.card.<name>`) of which the first that is missing leaves the item open."""
    own: str = ""
    """Part of the card that dptrain itself must have filled; "" if the item is about texts alone."""
    complete: bool = False
    """Whether `own` is all that the item asks for."""
    fixed: str = ""
    """State and reason that no card changes."""


TRIPOD_AI = (
    Item("1", "title: development or evaluation, target population, outcome", "Model", ("title",), own="model"),
    Item("2", "abstract", "top of the card", ("intended_use", "outcome"), own="model"),
    Item("3a", "healthcare context, rationale, existing models", "Intended use", ("context",)),
    Item("3b", "target population, purpose in the care pathway, users", "Intended use", ("intended_use",)),
    Item("3c", "known health inequalities", "Intended use", ("inequalities",)),
    Item("4", "objectives: development, evaluation or both", "Model", own="model", complete=True),
    Item("5a", "sources of data, representativeness", "Training data", ("data_source",), own="training_data"),
    Item("5b", "dates of the data", "Training data", ("data_dates",)),
    Item("6a", "setting, number and place of centres", "Training data", ("setting",)),
    Item("6b", "eligibility", "Training data", ("eligibility",)),
    Item("6c", "treatments", "Training data", ("treatments",)),
    Item("7", "data preparation and quality checks", "Training data", ("preparation",), own="training_data"),
    Item("8a-c", "outcome, its assessment, assessors, blinding", "Training data", ("outcome",), own="labels"),
    Item("9a-c", "predictors: choice, definition, measurement", "Training data", ("predictors",), own="features"),
    Item("10", "sample size", "Training data", ("sample_size",), own="training_data"),
    Item("11", "missing data", "Training data", ("missing_data",)),
    Item("12a", "how the data were split and used", "Evaluation", own="training_data", complete=True),
    Item("12b", "how predictors entered: scaling, transformation", "Training data", own="outside", complete=True),
    Item("12c", "type of model, building, tuning, internal validation", "Model", own="model", complete=True),
    Item("12d", "heterogeneity between clusters (hospitals)", "Evaluation"),
    Item("12e", "measures of performance", "Evaluation", own="evaluation", complete=True),
    Item("12f", "model updating", fixed=f"{NOT_APPLICABLE}: the model was not updated after evaluation"),
    Item("12g", "how predictions were calculated", "How to use it", own="model", complete=True),
    Item("13", "class imbalance", "Training data", ("class_imbalance",)),
    Item("14", "fairness", "Subgroups", ("fairness",), own="groups"),
    Item("15", "output of the model", "How to use it", own="model", complete=True),
    Item("16", "differences between training and evaluation data", "Evaluation", own="evaluation", complete=True),
    Item("17", "ethical approval", "Declarations", ("ethics",)),
    Item("18a", "funding", "Declarations", ("funding",)),
    Item("18b", "conflicts of interest", "Declarations", ("conflicts",)),
    Item("18c", "protocol", "Declarations", ("protocol",)),
    Item("18d", "registration", "Declarations", ("registration",)),
    Item("18e", "data sharing", "Declarations", ("data_sharing",)),
    Item("18f", "code sharing", "Declarations", ("code_sharing",), own="model"),
    Item("19", "patient and public involvement", "Declarations", ("involvement",)),
    Item("20a-c", "flow and characteristics of participants", "Training data", own="nothing",
         fixed=f"{OPEN}: counts of private records are not published with the model; a public description may be"),
    Item("21", "numbers of participants and outcomes in each analysis", "Training data",
         fixed=f"{PARTLY}: the public approximate number of patients is given, the exact ones are private"),
    Item("22", "specification of the full model", "Model", own="model", complete=True),
    Item("23a", "performance with intervals, also in subgroups", "Evaluation", own="evaluation", complete=True),
    Item("23b", "heterogeneity of performance between clusters", "Evaluation"),
    Item("24", "results of model updating", fixed=f"{NOT_APPLICABLE}: the model was not updated after evaluation"),
    Item("25", "interpretation, fairness included", "Intended use", ("interpretation",)),
    Item("26", "limitations", "Limitations", ("limitations",), own="model"),
    Item("27a", "handling of poor or missing input", "How to use it", ("input_quality",)),
    Item("27b", "interaction and expertise of users", "How to use it", ("user_interaction",)),
    Item("27c", "next steps", "Limitations", ("next_steps",)),
)  # fmt: skip

NIST_SP_800_226 = (
    Item("epsilon", "privacy parameters and what they mean", "Privacy", own="guarantee", complete=True),
    Item("unit", "unit of privacy", "Privacy", own="guarantee", complete=True),
    Item("definition", "variant of differential privacy and neighbouring relation", "Privacy", own="guarantee",
         complete=True),
    Item("composition", "all releases about the same people", "Privacy", own="earlier", complete=True),
    Item("mechanism", "mechanism, sampling and sensitivity", "Privacy", own="guarantee", complete=True),
    Item("correctness", "evidence that what runs is what is claimed", "Privacy", own="checks", complete=True),
    Item("randomness", "source of the noise", "Privacy", own="guarantee", complete=True),
    Item("floating point", "numerical side channels of the noise", "Privacy",
         fixed=f"{OPEN}: noise is Gaussian in floating point; an attack on its lowest bits is not excluded"),
    Item("timing", "timing and other side channels", "Privacy",
         fixed=f"{NOT_APPLICABLE}: the weights are released once, nobody queries the training"),
    Item("tuning", "hyperparameters chosen on the same data", "Privacy", own="guarantee", complete=True),
    Item("outside", "private data used outside the mechanism", "Privacy", own="outside", complete=True),
    Item("audit", "empirical audit of the guarantee", "Measured risk", own="risk", complete=True),
    Item("utility", "accuracy and its cost", "Evaluation", own="evaluation", complete=True),
    Item("bias", "systemic, human and statistical bias", "Subgroups", ("fairness", "inequalities"), own="groups"),
    Item("trust model", "who sees the records, who is trusted", "Privacy", own="guarantee", complete=True),
    Item("query model", "what is released to whom", "Privacy", own="guarantee", complete=True),
    Item("security", "access control, guarding of data and machines", "Declarations", ("access_control",)),
    Item("data collection", "exposure at collection and storage", "Declarations", ("data_collection",)),
)  # fmt: skip

CHECKLISTS: Mapping[str, tuple[Item, ...]] = {"tripod_ai": TRIPOD_AI, "nist_sp_800_226": NIST_SP_800_226}


def filled_in(items: tuple[Item, ...], card: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per item: number, topic, state, and where it is filled or what would fill it."""
    return [_row(item, card) for item in items]


def _row(item: Item, card: Mapping[str, Any]) -> dict[str, str]:
    if item.fixed:
        state, _, reason = item.fixed.partition(": ")
        return {"item": item.number, "topic": item.topic, "state": state, "where": reason}
    has_own = bool(item.own) and item.own in card["knows"]
    missing = [name for name in item.texts if name not in card["texts"]]
    if (has_own and item.complete) or (item.texts and not missing):
        state = FILLED
    elif has_own:
        state = PARTLY
    else:
        state = OPEN
    where = item.where if state != OPEN else ""
    if missing and state != FILLED:
        hint = ", ".join(f"release.card.{name}" for name in missing)
        where = f"{where}; more with {hint}" if where else f"give {hint}"
    return {"item": item.number, "topic": item.topic, "state": state, "where": where or "not known to dptrain"}
