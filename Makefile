# The one place that knows how each thing is done. Assumes only make and a Python of 3.11 or later with venv and pip;
# everything else is installed into .venv with the exact versions of constraints.txt. More words for a command go
# into ARGS:  make demo ARGS="--drop 1.0 --seed 7"   make test ARGS="tests/receiver -x"

VENV ?= .venv
PY    = $(VENV)/bin/python
PIP   = $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
HOLDFAST = $(VENV)/bin/holdfast

# The first of these that is new enough; PYTHON=… on the command line overrules.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo $$p; break; fi; done)
endif

.DEFAULT_GOAL := help
.PHONY: help run demo test bench bench-full faults check format clean

help: ## this list
	@echo 'make …'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-13s%s\n", $$1, $$2 }'

run: $(VENV)/.run ## the sidecar on loopback, with its config and database in ./var
	@mkdir -p var
	@test -e var/holdfast.toml || $(HOLDFAST) init --config var/holdfast.toml
	$(HOLDFAST) run --config var/holdfast.toml $(ARGS)

demo: $(VENV)/.run ## the whole thing rehearsed: faults, crashes, and a ledger at the end
	$(HOLDFAST) demo $(ARGS)

test: $(VENV)/.dev ## the whole test suite, two at a time; one at a time with ARGS="…"
	$(PY) -m pytest -q $(if $(ARGS),$(ARGS),-n 2 --dist worksteal)

bench: $(VENV)/.dev ## the short benchmark, under five minutes
	$(PY) -m bench $(ARGS)

bench-full: $(VENV)/.dev ## the long benchmark
	$(PY) -m bench --full $(ARGS)

faults: $(VENV)/.dev ## the long form of tests/faults: kills, power loss, soak
	$(PY) -m faults $(ARGS)

check: $(VENV)/.dev ## lint, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.dev ## bring the format and the order of imports into shape
	$(PY) -m ruff check --fix-only --quiet .
	$(PY) -m ruff format .

clean: ## remove what make made; never ./var, which may hold deliveries
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: an install happens again only when what it installs has changed.

$(PY):
	@test -n '$(PYTHON)' || { \
	  echo 'Holdfast needs Python 3.11 or later, and none was found as python3, python3.14, python3.13, python3.12 or python3.11.'; \
	  echo 'Install one, or name it: make PYTHON=/path/to/python3.12'; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo '$(PYTHON) is missing or older than 3.11, which Holdfast needs; name another: make PYTHON=/path/to/python3.12'; exit 1; } >&2
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo '$(PYTHON) cannot make a virtual environment: its venv module is missing.'; \
	  echo 'On Debian and Ubuntu: apt install python3-venv'; exit 1; } >&2
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(PY)
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(PY)
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.run
