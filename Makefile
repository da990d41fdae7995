# `make help` lists the targets. Everything runs in a virtual environment of its own, .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DOCS ?=
QUERY ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install fmt check test test-all bench chat demo clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)

# torch comes first and pinned: an open range may select a build with gigabytes of GPU libraries.
$(VENV)/.user: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) --editable '.[local,cli,files]'
	@touch $@

$(VENV)/.web: $(VENV)/.user
	$(PIP) --editable '.[local,cli,files,web]'
	@touch $@

$(VENV)/.dev: $(VENV)/.user
	$(PIP) --editable '.[local,cli,files,dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) --editable '.[local,cli,files,dev,bench]'
	@touch $@

install: $(VENV)/.dev  ## Install the package with everything its tests need

fmt: $(VENV)/.dev  ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: $(VENV)/.dev  ## Lint, types and tests: what CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist loadfile

test: $(VENV)/.dev  ## Run the tests, offline
	$(BIN)/python -m pytest -n auto --dist loadfile

test-all: $(VENV)/.bench  ## Run the slow tests too
	$(BIN)/python -m pytest -n auto --dist loadfile -m "slow or not slow"

bench: $(VENV)/.bench  ## Measure everything and render docs/benchmarks.md
	$(BIN)/python -m benchmarks

chat: $(VENV)/.web  ## Talk to documents in the browser, at http://127.0.0.1:8000; DOCS=folder indexes one first
	$(if $(DOCS),$(BIN)/rag-embed index "$(DOCS)",@true)
	$(BIN)/rag-embed chat --web

demo: $(VENV)/.user  ## Show isolated chunks, chunks in context, and these with words; DOCS=folder QUERY="..." for your own
	$(BIN)/rag-embed demo $(if $(DOCS),--docs "$(DOCS)") $(if $(QUERY),--query "$(QUERY)")

clean:  ## Remove the virtual environment and everything that was built
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage dist
