# `make demo` and `make test` need Python 3.11 or newer and make, nothing else.
# Another Python: `make demo PYTHON=python3.13`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Wheels only: nothing of others runs at installation. Our own folder is built by hatchling.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all:
PYTEST := $(BIN)/python -m pytest -q
# The demo and the tests start a hundred processes: what one has compiled serves the others.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test check lint style types unit e2e fuzz soak simulate determinism tiers vectors clean

help:
	@echo "make demo     see a whole mesh at work on this machine"
	@echo "make test     everything: lint, types, tests, then the tests with real processes"
	@echo "make check    lint, types and the quick tests"
	@echo "make soak     nodes under attack and in bad weather, for hours of virtual time"
	@echo "make simulate run every scenario and compare with its accepted result"
	@echo "make determinism  run 8 scenarios with many seeds twice: every seed must be the same run"
	@echo "make tiers    compare the tiers of the simulator, into docs/SIMULATION.md"
	@echo "make fuzz     feed every parser with what strangers might send, FUZZ_S seconds each (60)"
	@echo "make vectors  write the test vectors into docs/ anew"
	@echo "make clean    remove what make made"

# Ended by Ctrl-C it has done what it was to do.
demo: $(VENV)/.ready
	@trap : INT; $(BIN)/p2pstream demo || [ $$? -eq 130 ]

# Types are checked while processes wait for each other; what each says is shown as it ends.
test: style unit
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target types e2e

check: lint unit

lint: style types

style: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready-test
	nice $(BIN)/mypy

# Two at a time: most tests measure time, and machines have few cores.
unit: $(VENV)/.ready-test
	$(PYTEST) -n 2 --dist worksteal --ignore=tests/e2e

# A file at a time for each worker: they share what they started, and mostly wait.
e2e: $(VENV)/.ready-test
	$(PYTEST) -n 3 --dist loadfile tests/e2e

# Ten virtual minutes of each attack, and an hour of a relay: 20 minutes of one core on a slow machine.
# Some of it: `make soak RUNS="s01 s16"`.
soak: $(VENV)/.ready-test
	$(BIN)/python -m tests.quic.soak $(RUNS)

# Every scenario against its accepted result.
simulate: $(VENV)/.ready
	$(BIN)/python -m simulations.baseline

# The same seed in two processes with two hash seeds: the same run, to the bit. Takes long.
determinism: $(VENV)/.ready
	$(BIN)/python -m simulations.determinism
	$(BIN)/python -m simulations.determinism --tier quic

# The tiers side by side, into docs/SIMULATION.md.
tiers: $(VENV)/.ready-test
	$(BIN)/python -m simulations.beside --write

# What is found is kept in .cache/fuzz. A million messages of each target, about an hour of one core:
# `make fuzz FUZZ_S=7200 FUZZ_MESSAGES=1000000`.
FUZZ_S ?= 60
FUZZ_MESSAGES ?= 0
fuzz: $(VENV)/.ready-test
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) -e ".[fuzz]"
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_S) --messages $(FUZZ_MESSAGES)

vectors: $(VENV)/.ready
	$(BIN)/python -m tests.make_vectors

$(VENV)/.ready: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e .
	@touch $@

# EXTRA: further extras, say `make test EXTRA=,e2e`.
$(VENV)/.ready-test: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e ".[test$(EXTRA)]"
	@touch $@ $(VENV)/.ready

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed. Install Python 3.11 or newer, or say PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), and p2pstream needs 3.11 or newer. Say PYTHON=python3.12, for example." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
