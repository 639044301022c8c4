"""What only people can say about a model that is handed out: texts of the model card, all optional.

dptrain copies them into the card and claims nothing of its own in their place: what is not given is listed as open.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class CardTexts:
    """Settings `release.card.<name>`; null is "not stated"."""

    title: str | None = None
    """Name of the model; null takes the network and the cohort."""
    license: str | None = None
    """Identifier of the licence of the weights, such as apache-2.0."""
    developers: str | None = None
    """Who made it."""
    contact: str | None = None
    """Whom to ask, and whom to tell about a problem."""
    intended_use: str | None = None
    """For whom, at which point of the care pathway, used by whom for which decision."""
    out_of_scope: str | None = None
    """What it must not be used for."""
    context: str | None = None
    """The clinical question, why a model, and which ones exist."""
    inequalities: str | None = None
    """Known health inequalities between groups that bear on it."""
    data_source: str | None = None
    """Where the records come from, why these, whom they represent."""
    data_dates: str | None = None
    """First and last date of the records."""
    setting: str | None = None
    """Primary or secondary care, number and place of centres."""
    eligibility: str | None = None
    """Whose records were taken and whose were not."""
    treatments: str | None = None
    """Treatments received, if they bear on the outcome."""
    preparation: str | None = None
    """How records were cleaned and checked before dptrain read them."""
    outcome: str | None = None
    """What is predicted, when and how it was assessed, by whom."""
    predictors: str | None = None
    """How the inputs were chosen, when and how they are measured."""
    sample_size: str | None = None
    """How the number of patients came about."""
    missing_data: str | None = None
    """How missing values were handled before dptrain read the records."""
    class_imbalance: str | None = None
    """Whether and how imbalance was handled."""
    fairness: str | None = None
    """What was done about performance that differs between groups."""
    ethics: str | None = None
    """Ethical approval and consent."""
    funding: str | None = None
    """Funders and their role."""
    conflicts: str | None = None
    """Conflicts of interest."""
    protocol: str | None = None
    """Where the protocol is, or that there is none."""
    registration: str | None = None
    """Register and number, or that it was not registered."""
    data_sharing: str | None = None
    """Whether and how the data can be had."""
    code_sharing: str | None = None
    """Whether and how the code can be had."""
    involvement: str | None = None
    """Part that patients and the public took."""
    interpretation: str | None = None
    """What the results mean, fairness included."""
    limitations: str | None = None
    """Further limitations."""
    input_quality: str | None = None
    """What to do with inputs of poor quality or that are missing."""
    user_interaction: str | None = None
    """What users must do and know."""
    next_steps: str | None = None
    """What must be studied before wider use."""
    data_collection: str | None = None
    """NIST SP 800-226: what else happens to the records: who holds them, for how long, who else may see them."""
    access_control: str | None = None
    """NIST SP 800-226: how machines, files and the weights are guarded."""

    def given(self) -> dict[str, str]:
        """The texts that were given."""
        texts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: str(text).strip() for name, text in texts.items() if text is not None and str(text).strip()}
