"""The model card as Markdown with metadata in the way of Hugging Face, so that a model hub can read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dptrain.release.words import cap_words, epsilon_words, group_performance

NOT_REPORTED = "not reported"
PIPELINES = {1: "tabular-classification", 3: "image-classification"}
"""By number of axes of a record; signals have no name there."""
SECTIONS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Intended use", (("intended_use", "Use"), ("out_of_scope", "Not to be used for"), ("context", "Context"),
                      ("inequalities", "Known inequalities"), ("interpretation", "What the results mean"))),
    ("Training data", (("data_source", "Source"), ("data_dates", "Dates"), ("setting", "Setting"),
                       ("eligibility", "Eligibility"), ("treatments", "Treatments"), ("preparation", "Preparation"),
                       ("outcome", "Outcome"), ("predictors", "Predictors"), ("sample_size", "Sample size"),
                       ("missing_data", "Missing data"), ("class_imbalance", "Class imbalance"))),
    ("How to use it", (("input_quality", "Quality of inputs"), ("user_interaction", "Users"))),
    ("Subgroups", (("fairness", "Fairness"),)),
    ("Limitations", (("limitations", "Further"), ("next_steps", "Next steps"))),
    ("Declarations", (("developers", "Developers"), ("contact", "Contact"), ("license", "Licence"),
                      ("ethics", "Ethics"), ("funding", "Funding"), ("conflicts", "Conflicts of interest"),
                      ("protocol", "Protocol"), ("registration", "Registration"), ("data_sharing", "Data"),
                      ("code_sharing", "Code"), ("involvement", "Patients and public"),
                      ("data_collection", "Collection and storage of the records"),
                      ("access_control", "Access control"))),
)  # fmt: skip
"""Texts of people, by section."""


def card_markdown(card: Mapping[str, Any]) -> str:
    """The text of model_card.md."""
    own = {
        "Model": _model(card),
        "Intended use": [],
        "Training data": _training_data(card),
        "Evaluation": _evaluation(card["evaluation"]),
        "Privacy": _privacy(card),
        "Measured risk": _risk(card["risk"]),
        "Subgroups": _groups(card["groups"]),
        "How to use it": _use(card),
        "Limitations": [f"- {sentence}" for sentence in card["limitations"]],
        "Declarations": [],
    }
    texts = dict(SECTIONS)
    lines = ["---", _metadata(card).rstrip(), "---", "", f"# {card['title']}", "", *_head(card)]
    for title, content in own.items():
        lines += ["", f"## {title}", "", *content]
        if title in texts:
            lines += [*([""] if content else []), *_said(texts[title], card["texts"])]
    lines += ["", "## Checklists", "", _open_items(card["checklists"])]
    lines += ["", "### TRIPOD+AI", "", *_checklist(card["checklists"]["tripod_ai"])]
    lines += ["", "### NIST SP 800-226", "", *_checklist(card["checklists"]["nist_sp_800_226"])]
    versions = ", ".join(f"{name} {value}" for name, value in card["versions"].items())
    return "\n".join([*lines, "", "## Versions", "", f"{versions}."]) + "\n"


def _metadata(card: Mapping[str, Any]) -> str:
    """The YAML block: https://huggingface.co/docs/hub/model-cards#model-card-metadata."""
    texts, model, data = card["texts"], card["model"], card["training_data"]
    pipeline = PIPELINES.get(len(model["input_shape"]))
    tags = ["medical", "differential-privacy", "dp-sgd", "dptrain"]
    if card["risk"] is not None:
        tags.append("membership-inference-audit")
    if data["simulated"]:
        tags.append("simulated-data")
    content: dict[str, Any] = {
        **({"license": texts["license"]} if "license" in texts else {}),
        "library_name": "dptrain",
        **({"pipeline_tag": pipeline} if pipeline else {}),
        "tags": tags,
        "metrics": ["roc_auc"],
    }
    found = (card["evaluation"] or {}).get("all")
    if found is not None:
        task = {"type": pipeline or "other", "name": model["task"]}
        metric = {"type": "roc_auc", "name": card["evaluation"]["metric"], "value": found["value"]}
        dataset = {"type": data["cohort"], "name": data["cohort"], "split": "held-out patients"}
        content["model-index"] = [
            {"name": card["title"], "results": [{"task": task, "dataset": dataset, "metrics": [metric]}]}
        ]
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _head(card: Mapping[str, Any]) -> list[str]:
    privacy = card["privacy"]
    simulated = ["**The training data are SIMULATED.**", ""] if card["training_data"]["simulated"] else []
    promise = f"(epsilon, delta) = ({epsilon_words(privacy['epsilon'])}, {privacy['delta']:g})"
    lines = [*simulated, f"Trained with differential privacy: **{promise}** for {privacy['unit']['words']}."]
    found = (card["evaluation"] or {}).get("all")
    if found is not None:
        lines.append(
            f"{card['evaluation']['metric']} {_interval(found)} (95% interval) on patients that took no part in it."
        )
    return [*lines, "The whole privacy statement is in `statement.md`."]


def _model(card: Mapping[str, Any]) -> list[str]:
    model = card["model"]
    shape = " x ".join(str(size) for size in model["input_shape"])
    return [
        f"- network: {model['network']}",
        *(f"- {name}: {value}" for name, value in model["options"].items()),
        f"- input: {shape} numbers per record" + _names(model["feature_names"]),
        f"- output: {model['num_outputs']} ({model['task']})" + _names(model["label_names"]),
        "- objective: development of the model, with internal evaluation on held-out patients"
        if card["training_data"]["held_out"]
        else "- objective: development of the model",
    ]


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:30])
    more = f" and {len(names) - 30} more (model.json)" if len(names) > 30 else ""
    return f": {shown}{more}" if names else ""


def _training_data(card: Mapping[str, Any]) -> list[str]:
    data = card["training_data"]
    lines = [
        f"- cohort: {data['cohort']}{' (SIMULATED)' if data['simulated'] else ''}",
        "- split: "
        + ("a share of the patients, drawn at random or given with the data, was held out; the model saw the others"
           if data["held_out"] else "none, all patients were trained on"),
        "- number of patients: private; "
        f"training steps are divided by the public approximate number {data['divisor']:g} per step",
    ]  # fmt: skip
    return [*lines, "", "Looked at outside the private training, not covered by epsilon:", "",
            *(f"- {sentence}" for sentence in data["outside"])]  # fmt: skip


def _evaluation(evaluation: Mapping[str, Any] | None) -> list[str]:
    if evaluation is None:
        return ["None of this very model: all patients were trained on."]
    return [
        f"{evaluation['metric']} on held-out patients of the same cohort, 95% interval over patients.",
        "",
        *group_performance(evaluation),
    ]


def _privacy(card: Mapping[str, Any]) -> list[str]:
    privacy = card["privacy"]
    caps = privacy["accounting"]["caps"]
    mechanism = privacy["mechanism"]
    lines = [
        f"- protects: {privacy['unit']['words']}; {privacy['relation']['words']}",
        f"- epsilon {epsilon_words(privacy['epsilon'])} at delta {privacy['delta']:g}, "
        f"by {privacy['accounting']['accountant']}",
        f"- mechanism: {mechanism['name']}; noise multiplier {mechanism['noise_multiplier']:.6g}, clipping norm "
        f"{mechanism['clipping_norm']:g}, {mechanism['num_steps']} steps, sampling rate "
        f"{privacy['sampling']['sampling_rate']:g}",
        f"- noise: {mechanism['noise']}",
        f"- against: {privacy['against']}",
        f"- trusted: {privacy['trusted']}",
        f"- released: {privacy['released']}",
        f"- no attack whatsoever can have an AUC above {cap_words(caps['auc'])}, or find more than "
        + ", ".join(f"{cap_words(tpr)} of the members at FPR {fpr}" for fpr, tpr in caps["tpr_at_fpr"].items()),
        f"- tuning: {privacy['tuning']['declared']}",
        f"- earlier releases on these patients: {privacy['earlier_releases']['words']}",
    ]
    if privacy["unit"]["patient_epsilon"]:
        several = ", ".join(
            f"{count}: {epsilon_words(value)}" for count, value in privacy["unit"]["patient_epsilon"].items()
        )
        lines.append(f"- epsilon of a patient by number of records: {several}")
    checked = "passed before the first step" if card["preflight_passed"] else "did not pass"
    return [*lines, f"- preflight {checked}; the ledger of the run agrees with what is accounted"]


def _risk(risk: Mapping[str, Any] | None) -> list[str]:
    if risk is None:
        return ["Not measured. A study (`dptrain -m ...`) measures it; name it with `release.study`."]
    rows = [
        ("average attack (AUC)", lambda arm: _leaf(arm["attack_auc"])),
        *((f"members found at FPR {fpr}", lambda arm, fpr=fpr: _leaf(arm["tpr_at_fpr"].get(fpr)))
          for fpr in next(iter(risk["arms"].values()))["tpr_at_fpr"]),
        ("patient AUC, median", lambda arm: _leaf(arm["patient_auc_median"])),
        ("patient AUC of the most exposed 1%", lambda arm: _leaf(arm["patient_auc_p99"])),
        ("the same if nothing leaked", lambda arm: _leaf(arm["patient_auc_p99_null"])),
        (f"patients with a patient AUC of at least {risk['threshold']:g}", _exposed),
        ("diagnostic performance (AUROC)", lambda arm: _leaf(arm["auroc"])),
        ("largest AUC that the guarantee allows", lambda arm: "-" if not arm["cap"] else cap_words(arm["cap"]["auc"])),
    ]  # fmt: skip
    arms = list(risk["arms"].values())
    return [
        f"Membership inference on {risk['num_models']} models of the same recipe, each trained on a random half of the "
        f"patients; attack `{risk['attack']}`; 95% intervals. 0.5 is guessing, 1 is certainty.",
        "",
        "| | " + " | ".join(arm["name"] for arm in arms) + " |",
        "|---" * (len(arms) + 1) + "|",
        *("| " + " | ".join([name, *(show(arm) for arm in arms)]) + " |" for name, show in rows),
        "",
        f"Performance against the arm without privacy: {_leaf(risk['loss_of_auroc'])}.",
        "",
        "Not tested:",
        "",
        *(f"- {sentence}" for sentence in risk["not_tested"]),
        "",
        *risk["remarks"],
    ]


def _exposed(arm: Mapping[str, Any]) -> str:
    return _leaf(arm["exposed"]) if arm["exposed_resolvable"] else "cannot be told with so few models"


def _groups(groups: Sequence[Mapping[str, Any]] | None) -> list[str]:
    if not groups:
        return ["Groups were not compared: no study was named, or the cohort names no group attribute."]
    return [
        "Risk and performance by group, measured on the models of the study.",
        "",
        "| group | patients | mean patient AUC | excess among the most exposed 1% | AUROC |",
        "|---|---|---|---|---|",
        *(
            f"| {group['attribute']}: {group['group']} | "
            + " | ".join(_leaf(group[name]) for name in ("num_patients", "mean_auc", "relative_change", "auroc"))
            + " |"
            for group in groups
        ),
        "",
        "Excess: share of the group among the most exposed 1% over its share among all, minus 1; 0 is none.",
    ]


def _use(card: Mapping[str, Any]) -> list[str]:
    meaning = {
        "binary": "one logit: its sigmoid is the predicted probability of the second label",
        "multiclass": "one logit per class: their softmax are predicted probabilities",
        "multilabel": "one logit per label: each sigmoid is a predicted probability",
    }
    return [
        "```python",
        "from dptrain.release.model_file import load_model",
        'model = load_model("FOLDER")  # a torch module in eval mode: records in, logits out',
        "```",
        "",
        f"{meaning[card['model']['task']].capitalize()}. No threshold is part of the model.",
    ]


def _said(names: Sequence[tuple[str, str]], texts: Mapping[str, str]) -> list[str]:
    given = [f"- {title}: {_one_line(texts[name])}" for name, title in names if name in texts]
    missing = [title.lower() for name, title in names if name not in texts]
    return [*given, *([f"- *not stated:* {', '.join(missing)}"] if missing else [])]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _open_items(checklists: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    rows = [row for items in checklists.values() for row in items]
    count = sum(row["state"] == "open" for row in rows)
    return f"{count} of {len(rows)} items are open. What dptrain cannot know is filled with `release.card.*`."


def _checklist(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return [
        "| item | topic | state | where |",
        "|---|---|---|---|",
        *(f"| {row['item']} | {row['topic']} | {row['state']} | {row['where']} |" for row in rows),
    ]


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _leaf(leaf: Mapping[str, Any] | None) -> str:
    """A figure or count of a report document, or why it is not there."""
    if leaf is None:
        return "-"
    if leaf.get("withheld"):
        return str(leaf["withheld"])
    if leaf["value"] is None:
        return NOT_REPORTED
    number = "{:,.0f}".format if leaf["leaf"] == "count" else "{:.3f}".format
    ends = [leaf.get("low"), leaf.get("high")]
    interval = "" if None in ends else f" ({number(ends[0])} to {number(ends[1])})"
    return f"{number(leaf['value'])}{interval}"
