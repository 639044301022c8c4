# Two commands from a fresh clone:  make demo  (the picture)  and  make test.
# Both create $(VENV) and install what they need; only Python 3.11 to 3.13 and make must be there.

PYTHON ?= python3
VENV ?= .venv
# The tested torch. For another build name its package index, or any pip requirement, or both:
#   make demo TORCH_INDEX=<address of PyTorch's CPU or CUDA index> TORCH=torch
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# More flags for every pip install, for example a mirror or a folder of wheels.
PIP_FLAGS ?=
# Arguments of `make demo`; more or other settings: make demo STUDY='privacy.epsilon=3,inf fleet.num_models=32'
STUDY ?= privacy.epsilon=8,3,1,inf
# Processes and more flags of pytest.
JOBS ?= 2
PYTEST_FLAGS ?=

BIN := $(VENV)/bin
# torch and sympy bring 90 MB of Python, of which little is ever imported: pip does not compile it (that took longer than
# the rest of the installation), Python writes the bytecode of what is used when it is first imported.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(PIP_FLAGS)
export PYTHONDONTWRITEBYTECODE :=
# One thread per process: the processes already fill the cores.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(PYTEST_FLAGS)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all lint install install-dev clean

help:
	@echo "make demo       install, run the default study on real patients, draw the chart"
	@echo "make test       install, run the fast tests"
	@echo "make test-slow  the slow tests: packages are built, small studies are trained"
	@echo "make test-all   all tests"
	@echo "make lint       ruff and mypy"
	@echo "make clean      remove caches and builds; studies/ and $(VENV)/ stay"

demo: $(VENV)/.installed
	$(BIN)/dptrain -m $(STUDY)

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m slow

test-all: $(VENV)/.installed-dev
	$(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

# torch comes first and alone: once it is there, pip takes no other build of it (and no CUDA packages) for a dependency.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "dptrain needs Python 3.11, 3.12 or 3.13; $(PYTHON) is: $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one, for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Installing into $(VENV): a few minutes the first time."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$(TORCH)"
	@touch $@

# Exact versions from constraints.txt: nothing for pip to search. Without build isolation (hatchling for dptrain, setuptools
# for antlr4, which has no wheel) pip needs no second environment per package that it builds.
$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt hatchling setuptools
	$(PIP) -c constraints.txt --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt hatchling setuptools
	$(PIP) -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $@ $(VENV)/.installed

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find dptrain tests conf -name __pycache__ -type d -prune -exec rm -rf {} +
