# make up        everything on this machine, with a catalog and live traffic; Ctrl-C stops it
# make test      the tests, on servers that they start; long runs by a small case only
# make test-all  the tests and all long runs
# make bench     the project beside other systems; writes docs/benchmarks.md (needs a JDK 17 and Maven)
# make secrets   the secrets of docker-compose.yml, in ./secrets
#
# up takes PORT, DATA_DIR and ARGS (any options of `interaction-summary up`); test and test-all take
# SERVICES (auto, wheels, docker, real), TEST_WORKERS (number of processes), TESTS (paths) and PYTEST_ARGS.

VENV ?= .venv
SERVICES ?= auto
UV ?= uv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help up secrets test test-all test-long lint format types rules lock install chaos bench bench-java

help:
	@sed -n '/^$$/q; s/^#$$//; s/^# //; p' Makefile

up: $(INSTALLED)
	@exec $(BIN)/interaction-summary up --demo $(if $(PORT),--port $(PORT)) $(if $(DATA_DIR),--data-dir $(DATA_DIR)) $(ARGS)

secrets:
	@container/make-secrets

# Each process has its own servers. Tests wait more than they compute: three processes used one of two
# cores (495 s of processor time in 478 s), so there are four; more would only delay the tests that
# depend on time. On other servers than those from wheels the default is one process, since each
# broker needs 0.5 GB.
# `load` in chunks of 1 is one queue, the slow folders first: each process takes its next test when it
# has finished one, and the last ones are short. Grouping by file would leave one process with
# tests/e2e/test_store_faults.py, 280 s, after the others have finished.
TEST_WORKERS ?= $(if $(filter real docker,$(SERVICES)),0,4)
PYTEST = $(BIN)/python -m pytest --services=$(SERVICES) -n $(TEST_WORKERS) --dist load --maxschedchunk 1
TESTS ?= tests/unit tests/integration tests/e2e

test: $(INSTALLED)
	$(PYTEST) -m "not long" $(PYTEST_ARGS) $(TESTS)

test-all: $(INSTALLED)
	$(PYTEST) $(PYTEST_ARGS) $(TESTS)

test-long: $(INSTALLED)
	$(PYTEST) -m long $(PYTEST_ARGS) $(TESTS)

# Random faults and loads, chosen by a seed; see tests/chaos.py. SEEDS=10 runs ten seeds, from SEED on.
SEED ?= 1
SEEDS ?= 1
EVENTS ?= 300000
CHAOS_SERVICES ?= real
chaos: $(INSTALLED)
	$(BIN)/python -m tests.chaos --seed $(SEED) --seeds $(SEEDS) --events $(EVENTS) \
		--services $(CHAOS_SERVICES) $(CHAOS_ARGS)

# The project beside other systems, one at a time: prints a table and writes docs/benchmarks.md. Leave
# the machine alone meanwhile. BENCH_ARGS="--only ours-1,flink-heap --rounds 1" measures less.
bench: $(INSTALLED)
	$(BIN)/python -m bench.peers --page docs/benchmarks.md $(BENCH_ARGS)

# The programs of the other systems in Java: they must compile.
bench-java: $(INSTALLED)
	$(BIN)/python -m bench.peers --compile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)
	$(BIN)/mypy

# The alert rules and their tests, in promtool (on Debian: apt install prometheus). Takes a minute.
rules: $(INSTALLED)
	$(BIN)/python -m tests.support.promtool

# The lock files, for every supported Python and system: the project with its tests, and the image.
# Needs uv (pip install uv).
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header

lock:
	$(COMPILE) --all-extras --output-file requirements.lock pyproject.toml
	$(COMPILE) --constraint requirements.lock --output-file requirements-runtime.lock pyproject.toml

install: $(INSTALLED)

# Runs again only if the lock or the project has changed. An existing environment is kept.
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
