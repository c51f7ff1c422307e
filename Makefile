# Every command makes what it needs. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Three workers on two cores: a third of the time of the tests is waiting. A worker keeps neighbours, which share processes.
WORKERS := -n 3 --dist worksteal
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev

.DEFAULT_GOAL := help
.PHONY: help install run test test-all lint bench pocket clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Easel needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(READY): requirements.txt requirements-no-deps.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-no-deps.txt
	@touch $@

$(READY_DEV): requirements-dev.txt requirements-extra.txt requirements.txt requirements-no-deps.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-no-deps.txt
	@touch $@ $(READY)

install: $(READY) ## make .venv with the pinned requirements

run: $(READY) ## start the bot where DISCORD_TOKEN is set, else the demo in the browser
	@exec $(BIN)/python -m bot

lint: $(READY_DEV) ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: lint ## lint, types, import rules, unit, SimCord and loopback tests
	$(BIN)/pytest -m "not slow" $(WORKERS)

test-all: lint ## the same with the long matrices
	$(BIN)/pytest $(WORKERS)

.PHONY: fuzz
fuzz: $(READY_DEV) ## look longer for input that breaks something
	HYPOTHESIS_PROFILE=long $(BIN)/pytest --timeout=3600 tests/fuzz

.PHONY: bench-engine
# A GPU machine without a network is measured with its own torch: where its Python sees the GPU and has diffusers, no .venv is made.
bench-engine: ## measure the engine against diffusers' own pipelines, one process
	@if $(PYTHON) -c 'import diffusers, transformers, torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; \
	then exec $(PYTHON) -m bench.engine; \
	else $(MAKE) --no-print-directory $(READY_DEV) && exec $(BIN)/python -m bench.engine; fi

bench: $(READY_DEV) ## measure start, answers, overhead, memory, and the line with 10,000 waiting
	$(BIN)/python -m bench

.PHONY: soak
soak: $(READY_DEV) ## 5,000 requests through the real process, to see what grows that should not
	$(BIN)/python -m bench.soak

.PHONY: crash reliability
crash: $(READY_DEV) ## kill the process at every boundary, 200 times; CRASH="--iterations 20 --seed 7" chooses
	$(BIN)/python -m tests.crash $(CRASH)

reliability: $(READY_DEV) ## run the tests of the 51 fault cases and make their table in docs/reliability.md
	-$(BIN)/pytest -m fault -n 2 --reliability=build/faults.json
	$(BIN)/python -m tests.reliability build/faults.json

pocket: $(READY_DEV) ## make the pocket models anew, on a GPU where there is one; stops and goes on
	$(BIN)/python -m tools.pocket all

clean: ## remove .venv and caches; data stays
	rm -rf $(VENV) .pytest_cache .ruff_cache
