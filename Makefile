# Every target works as the first command after a clone: it makes the environment it needs.
#   make quickstart    train a small model, explain its mistakes, find planted wrong labels
#   make quickstart-llm  a tiny language model learns facts: which sentences taught it its answers
#   make quickstart-order  other orders of a tiny training: predicted, found, really tried
#   make test          all tests
#   make test-trees    the tests that need no torch, in an environment without it
#   make oldest        all tests with the oldest versions users may have, in .venv-oldest
#   make wheel         the wheel and the source distribution, into dist, tried in a new environment
#   make lint          formatting, lint, types
#   make format        apply the formatting and the safe fixes
#   make docs          the documentation, into docs/_build
#   make zoo           draw thousands of models and hold each against oracles; ARGS="--n 500"
#   make bench         benchmarks; ARGS="..." goes to them
#   make study         methods against real retraining, over data sets and libraries
# PYTHON=... chooses the interpreter, VENV=... the folder of the environment, PINS=... its versions.

# The first Python 3.11 or newer that really runs and can make an environment.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PINS ?= constraints.txt
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c $(PINS)
METADATA := pyproject.toml setup.py $(PINS)

.PHONY: help quickstart quickstart-llm quickstart-order test test-trees oldest wheel lint format \
	docs zoo bench study

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

quickstart: $(VENV)/.quickstart
	@$(BIN)/influence quickstart --report quickstart.html

quickstart-llm: $(VENV)/.quickstart-llm
	@$(BIN)/influence llm quickstart

quickstart-order: $(VENV)/.quickstart-order
	@$(BIN)/influence order quickstart

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 2 $(ARGS)

test-trees: $(VENV)/.dev-trees
	$(BIN)/python -m pytest -q -n 2 tests/influence tests/tree_influence tests/zoo \
		tests/laws/test_laws.py $(ARGS)

oldest:
	@$(MAKE) test VENV=.venv-oldest PINS=constraints-oldest.txt PYTHON=python3.11

wheel: $(VENV)/.wheel
	@rm -rf dist
	$(BIN)/python -m build --outdir dist >/dev/null
	$(BIN)/python -m tests.wheel dist

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -q -W --keep-going -j 2 -b html docs docs/_build
	@echo 'written: docs/_build/index.html'

zoo: $(VENV)/.dev
	$(BIN)/python -m tests.zoo --out benchmarks/results/zoo.json $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(ARGS)

study: $(VENV)/.dev
	$(BIN)/python -m benchmarks.study $(ARGS)

# Stamps: an environment is made once, and installed again when the requirements change.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "error: found no Python 3.11 or newer with venv;" \
		"install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.quickstart: $(METADATA) | $(VENV)/.made
	@echo 'Installing into $(VENV); the first time takes a minute.'
	@$(INSTALL) -e '.[lightgbm,report]'
	@touch $@

$(VENV)/.quickstart-llm: $(METADATA) | $(VENV)/.made
	@echo 'Installing into $(VENV); the first time takes some minutes.'
	@$(INSTALL) -e '.[llm]'
	@touch $@

$(VENV)/.quickstart-order: $(METADATA) | $(VENV)/.made
	@echo 'Installing into $(VENV); the first time takes some minutes.'
	@$(INSTALL) -e '.[llm,report]'
	@touch $@

$(VENV)/.wheel: $(METADATA) | $(VENV)/.made
	@$(INSTALL) build
	@touch $@

$(VENV)/.dev-trees: $(METADATA) | $(VENV)/.made
	@echo 'Installing into $(VENV); the first time takes some minutes.'
	@$(INSTALL) -e '.[dev-trees]'
	@touch $@

$(VENV)/.dev: $(METADATA) | $(VENV)/.made
	@echo 'Installing into $(VENV); the first time takes a few minutes.'
	@$(INSTALL) -e '.[dev]'
	@touch $@
