"""conf/ is found, and complete, from a checkout, an editable install and a wheel; what git ignores never ships.

The slow tests build and install for real, without any network: the environments see this one's packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from dptrain import __version__
from dptrain.conf_dir import config_dir
from dptrain.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = (
    "import dptrain; from dptrain.conf_dir import config_dir; from dptrain.cli import compose;"
    "config = compose(['privacy.epsilon=3']); print(dptrain.__file__); print(config_dir());"
    "print(config.data.name, config.privacy.epsilon)"
)
"""Prints where the package and its conf/ lie, and composes the default study."""


def conf_files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*.yaml")}


def run(*command: str | Path, cwd: Path) -> str:
    """The command's output; a failure shows all of it. PYTHONPATH is not handed on."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_checkout_has_its_conf_beside_the_package() -> None:
    assert config_dir() == ROOT / "conf" or config_dir().parent.name == "dptrain"
    assert (config_dir() / "config.yaml").is_file()


def test_conf_inside_the_package_comes_first_and_foreign_folders_are_not_taken(tmp_path: Path) -> None:
    package = tmp_path / "dptrain"
    (package / "conf").mkdir(parents=True)
    (tmp_path / "conf").mkdir()
    with pytest.raises(ConfigError, match="Reinstall dptrain"):
        config_dir(package)
    (tmp_path / "conf" / "config.yaml").touch()
    assert config_dir(package) == tmp_path / "conf"
    (package / "conf" / "config.yaml").touch()
    assert config_dir(package) == package / "conf"


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == __version__
    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_constraints_are_exact_and_name_every_dependency() -> None:
    """pip has nothing to search, so nothing to backtrack over; torch is left to the Makefile on purpose."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert "torch" not in pins
    assert not [name for name, version in pins.items() if not version or "+" in version or "nvidia" in name]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {requirement.split(">")[0].lower() for requirement in wanted} - {"torch"}
    assert not names - {name.lower() for name in pins}


@pytest.fixture(scope="module")
def dirty_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout as a git repository, with a patient list in conf/ that git ignores."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("dptrain", "conf"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, checkout)
    with (checkout / ".gitignore").open("a", encoding="utf-8") as ignore:
        ignore.write("\nconf/secret_patients.csv\nconf/data/local_*.yaml\n")
    (checkout / "conf" / "secret_patients.csv").write_text("patient\nA. Nonymous\n")
    (checkout / "conf" / "data" / "local_ward.yaml").write_text("path: ward.csv\n")
    (checkout / "dptrain" / "scratch.tmp").write_text("A. Nonymous\n")
    run("git", "init", "--quiet", cwd=checkout)
    return checkout


@pytest.fixture(scope="module")
def wheel(dirty_checkout: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", ".", cwd=dirty_checkout)
    (built,) = (dirty_checkout / "dist").glob("*.whl")
    return built


def make_environment(folder: Path) -> Path:
    """A virtual environment that sees the packages of this one, but not this one's dptrain; its python."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    purelib = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    ours = Path(sysconfig.get_path("purelib"))
    # A .pth file would bring in our editable dptrain too: its own .pth lies in `ours` and is not read from there.
    (purelib / "zz_borrowed.pth").write_text(f"{ours}\n")
    return python


def install(python: Path, *arguments: str | Path, cwd: Path) -> None:
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--no-compile", "--ignore-installed", *arguments, cwd=cwd)  # fmt: skip


@pytest.mark.slow
def test_the_wheel_holds_the_whole_conf_and_nothing_that_git_ignores(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        content = b"".join(archive.read(name) for name in names)
    assert {f"dptrain/conf/{name}" for name in conf_files(ROOT / "conf")} <= names
    assert not [name for name in names if "secret" in name or "local_ward" in name or name.endswith((".tmp", ".csv"))]
    assert b"A. Nonymous" not in content
    tops = {name.split("/")[0] for name in names}
    assert tops == {"dptrain", f"dptrain-{__version__}.dist-info"}


@pytest.mark.slow
def test_force_include_would_have_leaked(dirty_checkout: Path, tmp_path: Path) -> None:
    """The way not taken, so that nobody takes it: with `force-include` the ignored patient list is in the wheel."""
    mutant = shutil.copytree(dirty_checkout, tmp_path / "mutant", ignore=shutil.ignore_patterns("dist"))
    project = (mutant / "pyproject.toml").read_text("utf-8")
    wanted = 'only-include = ["dptrain", "conf"]'
    assert wanted in project
    forced = project.replace(wanted, 'only-include = ["dptrain"]').replace(
        "[tool.hatch.build.targets.wheel.sources]", "[tool.hatch.build.targets.wheel.force-include]"
    )
    (mutant / "pyproject.toml").write_text(forced)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", ".", cwd=mutant)
    (built,) = (mutant / "dist").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        assert "dptrain/conf/secret_patients.csv" in archive.namelist()


@pytest.mark.slow
def test_a_wheel_finds_its_conf_inside_the_package(wheel: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env")
    install(python, wheel, cwd=tmp_path)
    package, conf, composed = run(python, "-c", COMPOSE, cwd=tmp_path).splitlines()
    assert Path(package).is_relative_to(tmp_path / "env")
    assert Path(conf) == Path(package).parent / "conf"
    assert composed == "breast_cancer 3.0"
    assert __version__ in run(tmp_path / "env" / "bin" / "dptrain", "version", cwd=tmp_path)


@pytest.mark.slow
def test_an_editable_install_finds_the_conf_of_its_checkout(dirty_checkout: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env")
    install(python, "--editable", dirty_checkout, cwd=tmp_path)
    package, conf, composed = run(python, "-c", COMPOSE, cwd=tmp_path).splitlines()
    assert Path(package).parent == dirty_checkout / "dptrain"
    assert Path(conf) == dirty_checkout / "conf"
    assert composed == "breast_cancer 3.0"


@pytest.mark.slow
def test_a_plain_checkout_finds_its_conf(dirty_checkout: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env")
    package, conf, composed = run(python, "-c", COMPOSE, cwd=dirty_checkout).splitlines()
    assert Path(package).parent == dirty_checkout / "dptrain"
    assert Path(conf) == dirty_checkout / "conf"
    assert composed == "breast_cancer 3.0"
    assert __version__ in run(python, "-m", "dptrain", "version", cwd=dirty_checkout)
