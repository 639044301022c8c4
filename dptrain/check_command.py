"""`dptrain check`: the preflight alone, on the model, loss, data and engine that a run with these settings would take.

    dptrain check privacy.epsilon=3
    dptrain check data=table data.path=... model=custom model.name=my_package.my_module:MyNet
"""

from __future__ import annotations

from dptrain.config import Config
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.preflight import CHECKS, PreflightReport
from dptrain.study.runner import nominal_units
from dptrain.training.arms import Arm, arms_of_run, build_mechanism
from dptrain.training.check import check_training
from dptrain.training.engines import choose_engine
from dptrain.training.prepare import prepared_cohort


def check(config: Config) -> tuple[PreflightReport, str]:
    """Run the preflight; the report, and a table with one line per check."""
    arm = arms_of_run(config.privacy)[-1]
    if arm.kind == "none":
        arm = Arm("clip")
    mechanism, _ = build_mechanism(config, arm, nominal_units(config))
    assert mechanism is not None
    cohort = prepared_cohort(config)
    choice = choose_engine(config, tuple(cohort.features.shape[1:]), cohort.num_outputs, cohort.task)
    report = check_training(config, cohort, mechanism, None, choice.probe)
    simulated = " (SIMULATED data)" if cohort.simulated else ""
    return report, as_table(report, mechanism, f"{config.model.name} on {config.data.name}{simulated}")


def as_table(report: PreflightReport, mechanism: Mechanism, what: str) -> str:
    """One line per check."""
    failed = {name for finding in report.findings for name in finding.check.split(", ")}
    lines = [
        f"Preflight of {what}: unit {mechanism.unit}, C={mechanism.clipping_norm:g}, "
        f"sigma={mechanism.noise_multiplier:g}, {report.seconds:.1f} s",
        *(f"  {'FAILED' if name in failed else 'ok':<7}{name:<14}{asks}" for name, asks in CHECKS.items()),
    ]
    if mechanism.noise_multiplier == 0:
        lines.append("  privacy.epsilon=inf: noise was not looked at. Ask for a finite epsilon to check it too.")
    return "\n".join(lines)
