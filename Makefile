# Every command works in a fresh clone: the first one makes .venv and installs the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
ZOO := .venv-zoo
TWO := --numprocesses 2 --dist worksteal
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all bench papers zoo docs package postgres lint format clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## Tune a network on Fashion-MNIST by random search, about two minutes; writes demo/
	$(BIN)/python examples/demo.py

test: lint  ## Style, types and the fast tests, at most eight minutes on two cores
	$(BIN)/python -m pytest -m "not slow" $(TWO)

test-slow: $(INSTALLED)  ## The slow proofs alone
	$(BIN)/python -m pytest -m slow $(TWO)

test-all: lint  ## Style, types and every test, the slow proofs included
	$(BIN)/python -m pytest $(TWO)

bench: $(INSTALLED)  ## Every benchmark, beside the peers it is measured against
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@set -e; for script in $(sort $(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script; done

PAPERS := gflownet genetic joint_enas hypernets autotune  # in this order both cores are busy to the end
HOW ?= --anew
papers: $(INSTALLED)  ## The five papers anew, two at a time, about an hour; HOW= goes on, HOW="--full --device cuda" is a larger size
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[papers,optuna]'
	printf '%s\n' $(PAPERS) | xargs -P 2 -I {} $(BIN)/python -m papers.{}.run $(HOW)

zoo: $(ZOO)/.installed  ## Every network of the zoo beside a plain loop, half an hour; PARTS=speed measures anew; writes docs/networks.md
	PYTHONPATH=.:tests $(ZOO)/bin/python -m zoo.table $(PARTS)

docs: $(INSTALLED)  ## The documentation as a site, in site/; a link that leads nowhere is an error
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/zensical build --config-file mkdocs.yml --strict

package: $(INSTALLED)  ## Wheel and sdist, checked, and the README's first example run from the wheel
	scripts/package

postgres:  ## Start a throw-away PostgreSQL server, installed by apt-get if need be, and print its address
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 \
		|| $(SUDO) apt-get install --yes postgresql >&2
	@scripts/postgres start
	@echo "To test with it: LUTHIER_TEST_POSTGRES=<that address> make test; to end it: scripts/postgres stop" >&2

lint: $(INSTALLED)  ## Style (ruff), types (basedpyright) and no ten lines twice
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/python scripts/repeats

format: $(INSTALLED)  ## Put every file into the one format, imports sorted
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

clean:  ## Remove .venv, caches and what the demo wrote
	rm -rf .venv .venv-zoo demo build dist site .pytest_cache .ruff_cache .hypothesis
	find luthier tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(ZOO)/.installed: pyproject.toml constraints.txt
	test -x $(ZOO)/bin/python || $(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[zoo]'
	touch $@

# torch is never installed without its constraint: another build of it can be several gigabytes.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
