# Two commands: `make quickstart` and `make test`. Needs python3 (3.10 to 3.13) with venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# `make test-base` takes the oldest Python that we promise, where there is one.
OLDEST = $(shell python3.10 -c 'import sys, venv; print(sys.executable)' 2>/dev/null)
BASE_PYTHON ?= $(firstword $(OLDEST) $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python) $(PYTHON))
BASE := .venv-base

# A test process per core, each with one thread; a worker that is idle takes tests from another.
WORKERS ?= -n auto --maxprocesses 8 --dist worksteal

# Keep compiled modules even where the environment says not to: tests start a hundred processes,
# and each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test types pytest test-base unit install clean

quickstart: $(VENV)/installed
	$(BIN)/python -m compress.run recipes/quickstart.yaml

test: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) -j2 types pytest

# Beside each other: the check of types has one process, which leaves the other cores idle.
types:
	$(BIN)/mypy

pytest:
	$(BIN)/python -m pytest $(WORKERS)

# What a device needs, without any extra: no torch, no runtime, no pytest.
test-base: $(BASE)/installed
	$(BASE)/bin/python -m tests.base_install

unit: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not slow" $(WORKERS)

install: $(VENV)/installed

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/installed

$(BASE)/installed: pyproject.toml constraints.txt
	$(BASE_PYTHON) -m venv --clear $(BASE)
	$(BASE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

clean:
	rm -rf $(VENV) $(BASE) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
