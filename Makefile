# `make hub` starts a hub to try, `make test` passes the whole suite. Both install what they need into .venv.
PYTHON ?= python3
BIN := .venv/bin
PORT ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help hub test test-fast demo lint format bench docs clean

help:           ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

hub:            ## start a real hub on 127.0.0.1:8000 (Ctrl-C ends it; PORT=8888 for another port)
	@$(PYTHON) tools/install.py hub
	@exec $(BIN)/python -m tools.hub $(PORT)

test:           ## the whole suite, with real hub, browser and PostgreSQL
	@$(PYTHON) tools/install.py test
	$(BIN)/python -m pytest

test-fast:      ## what runs in under two minutes
	@$(PYTHON) tools/install.py test
	$(BIN)/python -m pytest -m "not slow"

demo:           ## the main job without a screen: log in, lease, submit, wait, receipt
	@$(PYTHON) tools/install.py hub
	@exec $(BIN)/python -m tools.demo

lint:           ## ruff, mypy, import-linter, TypeScript
	@$(PYTHON) tools/install.py dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fastgpu fastgpu_hub fastgpu_magics tools
	$(BIN)/lint-imports
	cd labextension && npm run --silent lint

format:         ## ruff format and safe fixes
	@$(PYTHON) tools/install.py dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench:          ## the README's figures
	@$(PYTHON) tools/install.py bench
	$(BIN)/python benchmarks/spawn.py
	$(BIN)/python benchmarks/ledger.py
	$(BIN)/python benchmarks/jobs.py --jupyter-scheduler-python install

docs:           ## write the configuration reference from the traits, the API reference from the routes
	@$(PYTHON) tools/install.py hub
	$(BIN)/python -m tools.reference

clean:          ## forget the demo's state (not .venv)
	rm -rf .fastgpu
