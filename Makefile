# make install, make demo, make test, make docs. Each sets up what it needs in .venv. make test-all also runs the slow tests, with Ray and TensorBoard.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: install demo check test test-all docs
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

demo: install
	$(BIN)/randout demo

check: install
	$(BIN)/ruff check src tests benchmarks docs/site
	$(BIN)/ruff format --check src tests benchmarks docs/site
	$(BIN)/mypy

test: check
	$(PYTEST) -m "not slow"

test-all: check .venv/cluster-installed
	$(PYTEST)

.venv/cluster-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cluster,tensorboard]"
	touch $@

docs: .venv/docs-installed
	$(BIN)/python docs/site/build.py

.venv/docs-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@
