# Five words: setup, check, test, demo, locked. PYTHON chooses the interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup check test demo locked clean

setup: $(READY)

# Made again when the needs change. The pins keep pip from choosing a torch that brings gigabytes of CUDA packages.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "The pinned versions need Python 3.11 or later: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(READY)
	$(BIN)/python -m pytest

demo: $(READY)
	$(BIN)/cycleinr demo --output demo_output

# Fetches every file that locked.txt names and compares its hash; installs nothing.
locked: $(READY)
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --no-deps --require-hashes --only-binary :all: -r locked.txt

clean:
	rm -rf $(VENV) demo_output build .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
