# The commands of a checkout. Each one sets up what it needs first, which takes no time once done.
# `make` alone explains them.

PYTHON ?=
ARGS ?=
SEEDS ?= 200
FIRST ?= 0
export PYTHON

BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test sim bench setup setup-runtime setup-bench lint types format check reference lock \
	clean distclean

help: ## show this table
	@echo 'Kowalski: make COMMAND'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  make test ARGS="-k ledger"   hands options on (demo, test and bench)'
	@echo '  make setup PYTHON=python3.12 chooses the Python of a new environment'

demo: setup-runtime ## three nodes on this machine do real work while devices are killed
	@$(BIN)/kowalski demo $(ARGS)

test: setup ## run the tests: units, ports, stories, attacks, live
	@$(BIN)/python -m pytest -q $(ARGS)

sim: setup ## run simulated clusters: make sim SEEDS=200 FIRST=0 (ARGS as for the command)
	@$(BIN)/python -m simulations sweep --seeds $(SEEDS) --first $(FIRST) $(ARGS)

bench: setup-bench ## measure, print one JSON line per figure, write docs/benchmarks.md
	@$(BIN)/kowalski bench --write docs/benchmarks.md $(ARGS)

check: lint types ## all checks that run no test

lint: setup ## style, format and import directions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo

types: setup ## strict types
	@$(BIN)/basedpyright --project pyproject.toml

format: setup ## write the house format, mend what can be mended
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

setup: ## install what tests and checks need (make demo needs less and does it itself)
	@scripts/setup.sh dev

setup-runtime:
	@scripts/setup.sh runtime

setup-bench:
	@scripts/setup.sh bench

reference: setup ## write docs/reference anew from the code
	@$(BIN)/python -m scripts.reference

lock: setup ## write requirements/*.lock anew from pyproject.toml (ARGS=--upgrade for newer ones)
	@scripts/lock.sh $(ARGS)

clean: ## remove caches and built files
	@rm -rf build dist htmlcov .coverage .pytest_cache .hypothesis .ruff_cache \
		.import_linter_cache .setup.log
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## the same, and the environment in .venv
	@rm -rf .venv
