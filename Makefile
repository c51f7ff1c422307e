# Every command makes what it needs. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev

.DEFAULT_GOAL := help
.PHONY: help install run test test-all lint bench clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Easel needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(READY): requirements.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(READY_DEV): requirements-dev.txt requirements.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(READY)

install: $(READY) ## make .venv with the pinned requirements

run: $(READY) ## start the bot where DISCORD_TOKEN is set, else the demo in the browser
	@exec $(BIN)/python -m bot

lint: $(READY_DEV) ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: lint ## lint, types, import rules, unit, SimCord and loopback tests
	$(BIN)/pytest -m "not slow" -n 2

test-all: lint ## the same with the long matrices
	$(BIN)/pytest -n 2

bench: $(READY_DEV) ## measure start, answers, overhead and memory
	$(BIN)/python -m bench

clean: ## remove .venv and caches; data stays
	rm -rf $(VENV) .pytest_cache .ruff_cache
