# Everything runs in .venv, made from constraints.txt; `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.made

.PHONY: help env demo check test test-slow bench clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

env: $(STAMP) ## set-up only: .venv with pinned versions

$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group dev --editable .
	touch $(STAMP)

demo: $(STAMP) ## a poisoning study on phantoms, with its report
	$(BIN)/leadapron study --out runs/demo

check: $(STAMP) ## ruff, mypy, import layers, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest tests/test_docs.py

test: $(STAMP) ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow" --cov --cov-report=term:skip-covered --cov-fail-under=90

test-slow: $(STAMP) ## all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

bench: $(STAMP) ## speeds, side by side
	$(BIN)/python benchmarks/speed.py --out docs/benchmarks.md

clean: ## remove what was made
	rm -rf .venv runs build dist .mypy_cache .ruff_cache .pytest_cache .coverage
