# make install, make demo, make test, make docs. Each sets up what it needs in .venv. make test-all also runs the slow tests, with Ray and TensorBoard.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: install demo check lint types quick test test-all docs
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --no-compile "$(TORCH)"
	$(PIP) --no-compile -c constraints.txt -e ".[test]"
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # on all cores; pip uses one
	touch $@

demo: install
	$(BIN)/randout demo

check: lint types

lint: install
	$(BIN)/ruff check src tests benchmarks docs/site
	$(BIN)/ruff format --check src tests benchmarks docs/site

types: install
	$(BIN)/mypy

quick: install
	$(PYTEST) -m "not slow"

test: lint
	$(MAKE) --no-print-directory -j 2 types quick

test-all: check .venv/cluster-installed
	$(PYTEST)

.venv/cluster-installed: .venv/installed
	$(PIP) -c constraints.txt -e ".[cluster,tensorboard]"
	touch $@

docs: .venv/docs-installed
	$(BIN)/python docs/site/build.py

.venv/docs-installed: .venv/installed
	$(PIP) -c constraints.txt -e ".[docs]"
	touch $@
