# make up      everything on this machine, with a catalog and live traffic; Ctrl-C stops it
# make test    all tests, on servers they start themselves
#
# up takes PORT, DATA_DIR and ARGS (any options of `interaction-summary up`);
# test takes SERVICES (auto, wheels, docker, real) and PYTEST_ARGS.

VENV ?= .venv
SERVICES ?= auto
UV ?= uv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help up test lint format types lock install chaos

help:
	@sed -n '/^$$/q; s/^#$$//; s/^# //; p' Makefile

up: $(INSTALLED)
	@exec $(BIN)/interaction-summary up --demo $(if $(PORT),--port $(PORT)) $(if $(DATA_DIR),--data-dir $(DATA_DIR)) $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest --services=$(SERVICES) $(PYTEST_ARGS) tests/unit tests/integration tests/e2e

# A storm of faults, by its seed; see tests/support/chaos.py. SEEDS=10 runs that many, from SEED on.
SEED ?= 1
SEEDS ?= 1
EVENTS ?= 300000
STORM_SERVICES ?= real
chaos: $(INSTALLED)
	$(BIN)/python -m tests.support.chaos --seed $(SEED) --seeds $(SEEDS) --events $(EVENTS) \
		--services $(STORM_SERVICES) $(CHAOS_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)
	$(BIN)/mypy

# The locks: all that this project and its tests need, and what its image needs, for every
# supported Python and system. Needs uv (pip install uv).
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header

lock:
	$(COMPILE) --all-extras --output-file requirements.lock pyproject.toml
	$(COMPILE) --constraint requirements.lock --output-file requirements-runtime.lock pyproject.toml

install: $(INSTALLED)

# Again only when what is to be installed has changed. An environment that is there is kept.
$(INSTALLED): requirements.lock pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { python=$$($(FIND_PYTHON)) && "$$python" -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

FIND_PYTHON = for python in $(PYTHON) python3.13 python3.12 python3.11 python3 python; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo "$$python"; exit 0; }; done; \
	echo 'No Python 3.11 or newer with its venv module was found (on Debian: apt install python3-venv).' \
	'Name one: make PYTHON=/path/to/python3' >&2; exit 1
