# make race       one race, from nothing: set-up included
# make test       the tests (under ten minutes on two cores)
# make test-slow  the long ones
# make check      lint, types, the order of the rooms, tests
# make clean      remove the environment and what tools left behind

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := race
.PHONY: race test test-slow lint types rooms check clean

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

race: $(VENV)/.ready
	$(BIN)/python -m harness workload=gpt2 submission=nadamw

test: $(VENV)/.ready-for-tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-slow: $(VENV)/.ready-for-slow-tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "slow and not gpu"

lint: $(VENV)/.ready-for-lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.ready-for-lint
	$(BIN)/pyright

# The contract is in pyproject.toml, [tool.importlinter].
rooms: $(VENV)/.ready-for-tests
	$(BIN)/lint-imports --no-cache

check: lint types rooms test

# The stamps make set-up instant the second time; a changed requirement installs again.
$(VENV)/.ready: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing torch and the rest into $(VENV) (once; some minutes) ..."
	$(INSTALL) -e .
	@touch $@

$(VENV)/.ready-for-tests: $(VENV)/.ready
	@echo "Installing what the tests need ..."
	$(INSTALL) -e '.[test,gguf]'
	@touch $@

# Pyright follows imports, those of the tests' packages too.
$(VENV)/.ready-for-lint: $(VENV)/.ready-for-tests
	@echo "Installing what lint and types need ..."
	$(INSTALL) -e '.[dev]'
	@touch $@

# Launchers and trainers that only slow tests use.
$(VENV)/.ready-for-slow-tests: $(VENV)/.ready-for-tests
	@echo "Installing what the slow tests need ..."
	$(INSTALL) -e '.[slurm,ray,clients]'
	@touch $@

# Use another interpreter with: make PYTHON=/path/to/python3.12 race
$(BIN)/pip:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3; do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	        2>/dev/null; then \
	        echo "Making $(VENV) with $$("$$python" --version) ..."; \
	        exec "$$python" -m venv --clear $(VENV); \
	    fi; \
	done; \
	echo "Python 3.11 or newer with its venv module is needed and was not found." >&2; \
	echo "Install it (Debian, Ubuntu: apt install python3 python3-venv; Fedora: dnf install" >&2; \
	echo "python3; macOS: brew install python), or say where it is: make PYTHON=..." >&2; \
	exit 1

clean:
	rm -rf $(VENV) build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
