"""`dptrain card RELEASE`: write the model card of a release again, with other texts or another study.

    dptrain card releases/breast_cancer-mlp/eps=3
    dptrain card releases/breast_cancer-mlp/eps=3 --study studies/breast_cancer-mlp --texts card.yaml
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dptrain.arguments import ArgumentParser
from dptrain.card_texts import CardTexts
from dptrain.errors import ConfigError, StudyError
from dptrain.options import parse_options
from dptrain.release.card import build_card
from dptrain.release.card_words import card_markdown
from dptrain.release.study_figures import audit_of_study, released_figures
from dptrain.report.bundle import refuse_identifiers
from dptrain.study.atomic import write_json, write_text

CARD = "model_card"


def card(arguments: Sequence[str]) -> str:
    """Write the card; where it is. Raises ConfigError, StudyError, DataError."""
    parser = ArgumentParser("dptrain card", "Write the model card of a release again.")
    parser.add_argument("release", metavar="RELEASE", help="folder made by dptrain train")
    parser.add_argument("--study", metavar="DIR", help="study whose figures go into the card (default: as before)")
    parser.add_argument("--texts", metavar="FILE", help="YAML with texts, names as release.card.* (docs/release.md)")
    given = parser.parse_args(list(arguments))
    folder = Path(given.release)
    statement = _read(folder, "statement.json")
    model = _read(folder, "model.json")
    before = _read(folder, f"{CARD}.json") if (folder / f"{CARD}.json").exists() else {}
    texts = dict(before.get("texts", {}))
    if given.texts is not None:
        texts |= texts_of_file(Path(given.texts)).given()
    figures = {name: before[name] for name in ("risk", "groups")} if before.get("risk") else None
    if given.study is not None:
        figures = _figures(folder, Path(given.study))
    write_card(folder, statement, model, texts, figures)
    return str(folder / f"{CARD}.md")


def write_card(
    folder: Path,
    statement: Mapping[str, Any],
    model: Mapping[str, Any],
    texts: Mapping[str, str],
    figures: Mapping[str, Any] | None,
) -> None:
    """Write model_card.md and model_card.json."""
    content = build_card(statement, model, texts, figures)
    write_text(folder / f"{CARD}.md", card_markdown(content))
    write_json(folder / f"{CARD}.json", content)


def texts_of_file(path: Path) -> CardTexts:
    """The texts in a YAML file; raises ConfigError with every name that is not one."""
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path} must hold texts by name, such as intended_use: ..., not {raw!r}.")
    return parse_options(CardTexts, raw, "release.card")


def check_texts(texts: CardTexts, patient_ids: Iterable[str]) -> None:
    """Raises DisclosureError if a text holds the identifier of a patient."""
    given = {f"release.card.{name}": text.encode() for name, text in texts.given().items()}
    refuse_identifiers(given, patient_ids)


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / name).read_text("utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{folder} holds no release with a model: {name} is missing. Name a folder made by dptrain "
                         "train.") from None  # fmt: skip
    except (OSError, ValueError) as error:
        raise StudyError(f"Cannot read {folder / name}: {error}.") from error
    return content


def _figures(folder: Path, study: Path) -> dict[str, Any]:
    """The study's figures, if it is about this release; that needs the release's restricted/ beside it."""
    try:
        frozen = json.loads((folder / "restricted" / "config.json").read_text("utf-8"))["settings"]
        facts = frozen["arm"], frozen["cohort"], frozen["mechanism"], frozen["model"]["name"]
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(
            f"Cannot tell whether {study} is about this release: {folder / 'restricted' / 'config.json'} is not "
            f"readable ({error}). Run the command where the release was made."
        ) from error
    audit_of_study(study, *facts)
    return released_figures(study, facts[0])
