"""The direction of imports (docs/architecture.md), read from the source with `ast`: nothing is imported here.

A rule names the files it is about and either the only imports they may have or the ones they may not have. Every rule
is also shown to bite: a file that breaks it is made up and must be caught.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "dptrain"
STDLIB = frozenset(sys.stdlib_module_names)
ROOMS_ABOVE_PRIVACY = ("dptrain.training", "dptrain.attacks", "dptrain.audit", "dptrain.report", "dptrain.study",
                       "dptrain.cli", "dptrain.cohorts", "dptrain.models")  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """Files below `where` may import only `only` (and the standard library), and nothing of `never`."""

    name: str
    where: str
    only: tuple[str, ...] | None = None
    never: tuple[str, ...] = ()
    but_not_in: tuple[str, ...] = ()
    breaks: str = ""
    """A line of code that the rule must catch."""


RULES = (
    Rule("attacks are arrays in, arrays out", "dptrain/attacks/", only=("numpy", "scipy", "dptrain.attacks"),
         breaks="import torch"),
    Rule("audit knows attacks, numpy and scipy", "dptrain/audit/",
         only=("numpy", "scipy", "dptrain.attacks", "dptrain.audit"), breaks="from dptrain.config import Config"),
    Rule("only two files of the command line know hydra", "dptrain/", never=("hydra", "omegaconf", "hydra_plugins"),
         but_not_in=("dptrain/cli/__init__.py", "dptrain/cli/composition.py"),
         breaks="from omegaconf import OmegaConf"),
    Rule("only privacy/ knows opacus and dp_accounting", "dptrain/", never=("opacus", "dp_accounting"),
         but_not_in=("dptrain/privacy/",), breaks="import opacus.accountants"),
    Rule("only report/tensorboard.py writes TensorBoard", "dptrain/", never=("tensorboard", "torch.utils.tensorboard"),
         but_not_in=("dptrain/report/tensorboard.py",), breaks="from torch.utils.tensorboard import SummaryWriter"),
    Rule("only compiled.py and the tile that is written for LLVM know numba", "dptrain/", never=("numba", "llvmlite"),
         but_not_in=("dptrain/compiled.py", "dptrain/tiles.py"), breaks="import numba"),
    Rule("only the report's pages know Jinja", "dptrain/", never=("jinja2", "markupsafe"),
         but_not_in=("dptrain/report/page/",), breaks="import jinja2"),
    Rule("pages are drawn from a document, not from a study", "dptrain/report/page/",
         never=("dptrain.study", "dptrain.training", "dptrain.attacks", "dptrain.audit", "dptrain.report.analysis",
                "dptrain.report.arm_risk", "dptrain.report.arm_performance"),
         breaks="from dptrain.study.folder import StudyFolder"),
    Rule("a privacy reviewer reads one folder", "dptrain/privacy/", never=(*ROOMS_ABOVE_PRIVACY, "tensorboard"),
         breaks="from dptrain.training.loop import train"),
    Rule("cohorts know no training", "dptrain/cohorts/",
         never=("dptrain.training", "dptrain.privacy", "dptrain.attacks", "dptrain.audit", "dptrain.report",
                "dptrain.study", "dptrain.cli", "dptrain.models", "torch"),
         breaks="from dptrain.privacy.mechanism import Mechanism"),
    Rule("models know no training and no data", "dptrain/models/",
         never=("dptrain.training", "dptrain.privacy", "dptrain.attacks", "dptrain.audit", "dptrain.report",
                "dptrain.study", "dptrain.cli", "dptrain.cohorts"),
         breaks="import dptrain.training.loop"),
    Rule("training knows neither attacks nor the study", "dptrain/training/",
         never=("dptrain.attacks", "dptrain.audit", "dptrain.report", "dptrain.study", "dptrain.cli"),
         breaks="from dptrain.study import folder"),
    Rule("a study does not know how it is judged", "dptrain/study/",
         never=("dptrain.attacks", "dptrain.audit", "dptrain.report", "dptrain.cli"),
         breaks="from dptrain.report.write import write_report"),
    Rule("a report only reads: it trains nothing", "dptrain/report/", never=("dptrain.cli", "dptrain.models"),
         breaks="from dptrain.models.registry import build_model"),
    Rule("nobody below knows the report", "dptrain/", never=("dptrain.report",),
         but_not_in=("dptrain/report/", "dptrain/release/", "dptrain/screen/", "dptrain/cli/"),
         breaks="import dptrain.report"),
    Rule("nobody but the command line knows the screen", "dptrain/", never=("dptrain.screen",),
         but_not_in=("dptrain/screen/", "dptrain/cli/"), breaks="import dptrain.screen"),
    Rule("nobody but the command line knows the release", "dptrain/", never=("dptrain.release",),
         but_not_in=("dptrain/release/", "dptrain/cli/"), breaks="import dptrain.release"),
    Rule("a plan needs no report", "dptrain/plan_command.py", never=("dptrain.report", "dptrain.release"),
         breaks="from dptrain.report.write import write_report"),
    Rule("nobody imports the command line", "dptrain/", never=("dptrain.cli",),
         but_not_in=("dptrain/__main__.py", "dptrain/cli/"), breaks="from dptrain import cli"),
    Rule("accounting a mechanism needs no training", "dptrain/account_command.py",
         only=("dptrain.privacy", "dptrain.errors", "dptrain.arguments"),
         breaks="from dptrain.training.arms import Arm"),
    Rule("auditing somebody's arrays needs no training", "dptrain/attack_",
         only=("numpy", "dptrain.__version__", "dptrain.errors", "dptrain.arguments", "dptrain.seeding",
               "dptrain.attacks", "dptrain.audit", "dptrain.attack_arrays", "dptrain.attack_files",
               "dptrain.attack_output", "dptrain.study.atomic"),
         breaks="import torch"),
    Rule("the schema is light", "dptrain/config/",
         only=("numpy", "dptrain.errors", "dptrain.card_texts", "dptrain.config"), breaks="import torch"),
    Rule("texts of people need nothing", "dptrain/card_texts.py", only=(), breaks="import numpy"),
    Rule("the seed tree is light", "dptrain/seeding.py", only=("numpy", "dptrain.errors"), breaks="import torch"),
    Rule("help is quick", "dptrain/help_text.py", only=("dptrain.conf_dir",), breaks="import torch"),
    Rule("finding the configuration needs nothing", "dptrain/conf_dir.py", only=("dptrain.errors",),
         breaks="import numpy"),
)  # fmt: skip


def imported_names(source: str, path: str) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of every import, also the ones inside functions and under TYPE_CHECKING.

    `from a import b` gives `a.b`: b may be a module, and a rule about `a.b` must see it.
    """
    parts = path.removesuffix(".py").split("/")
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def is_below(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def violations(rule: Rule, sources: dict[str, str]) -> list[str]:
    """What breaks the rule, as `path:line: ...`; sources maps paths such as dptrain/options.py to code."""
    found = []
    for path, source in sources.items():
        if not path.startswith(rule.where) or path.startswith(rule.but_not_in):
            continue
        for line, name in imported_names(source, path):
            outside = rule.only is not None and name.split(".")[0] not in STDLIB and not is_below(name, rule.only)
            if outside or is_below(name, rule.never):
                found.append(f"{path}:{line}: imports {name}, but {rule.name}")
    return found


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    root = PACKAGE.parent
    return {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_imports_go_one_way(rule: Rule, sources: dict[str, str]) -> None:
    assert not violations(rule, sources)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda line: line, id="top"),
        pytest.param(lambda line: f"def late():\n    {line}\n", id="in a function"),
        pytest.param(lambda line: f"if TYPE_CHECKING:\n    {line}\n", id="for types"),
    ],
)
def test_a_forbidden_import_is_caught(rule: Rule, wrap: Callable[[str], str]) -> None:
    path = rule.where if rule.where.endswith(".py") else f"{rule.where}mutant.py"
    assert violations(rule, {path: wrap(rule.breaks)})
    assert not violations(rule, {path: wrap("import json")})


def test_relative_imports_are_resolved() -> None:
    rule = next(rule for rule in RULES if rule.where == "dptrain/audit/")
    assert violations(rule, {"dptrain/audit/mutant.py": "from ..config import Config"})
    assert violations(rule, {"dptrain/audit/mutant.py": "from .. import config"})
    assert not violations(rule, {"dptrain/audit/mutant.py": "from .roc import auc\nfrom ..attacks import lira"})


def test_every_rule_is_about_a_file_that_exists(sources: dict[str, str]) -> None:
    for rule in RULES:
        assert any(path.startswith(rule.where) for path in sources), rule.name


def test_no_import_of_the_top_level_packages_that_opacus_installs(sources: dict[str, str]) -> None:
    """The wheel of opacus installs `benchmarks` and `examples`; ours must never be mistaken for them."""
    for path, source in sources.items():
        for line, name in imported_names(source, path):
            assert name.split(".")[0] not in {"benchmarks", "examples"}, f"{path}:{line}"
