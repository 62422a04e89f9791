# One entrance for daily work. Every target does its own set-up: nothing has to be run before it.
#
#   PYTHON=/path/to/python3     the interpreter for .venv (default: the first of 3.11, 3.12, 3.13, python3 that serves)
#   ARGS="..."                  goes to `echostream demo`, `echostream bench` or the interop matrix
#   PREVIOUS=commit             an earlier version that `make interop` crosses too
#   PYTEST_ARGS="..."           goes to pytest instead of "-n 4 --dist worksteal", for instance "-k mux"

PYTHON ?=
ARGS ?=
PREVIOUS ?=
export PREVIOUS
# Some tests wait for the network or another process: four workers keep two cores busy.
PYTEST_ARGS ?= -n 4 --dist worksteal
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help venv peers demo test test-quick unplug startup lint format docs interop bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: ## Make or refresh .venv: the core, every plugin and the tools
	@scripts/venv.sh .venv "$(PYTHON)"

peers: ## Get the independent programs that the tests run ours against: Chromium, Autobahn, nginx, quinn, avahi
	@scripts/peers.sh

demo: venv ## One program over every transport and codec, measured before your eyes
	@$(BIN)/echostream demo $(ARGS)

test: lint peers ## Checks, types and tests, on every Python from 3.11 to 3.13 that the machine has
	$(BIN)/python -m pytest $(PYTEST_ARGS)
	@scripts/test-pythons.sh $(PYTEST_ARGS)

test-quick: venv ## The unit tests only, on one Python
	$(BIN)/python -m pytest tests/unit -m "not slow" $(PYTEST_ARGS)

unplug: venv ## All of the core's tests once without each plugin (minutes)
	ECHOSTREAM_UNPLUG=all $(BIN)/python -m pytest tests/plugins/test_unplugged.py --timeout 900

startup: venv ## Measure the start of the kernel with 300 distributions installed
	$(BIN)/python -m pytest -m speed

lint: venv ## Ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv ## Let ruff put things right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: venv ## Write the reference pages anew from the code: capabilities, hooks, errors
	@$(BIN)/python -m scripts.reference

interop: venv ## Every Python of this machine with every other, over every transport and codec; and with PREVIOUS=commit
	@scripts/interop.sh $(ARGS)

bench: venv ## Ours beside the peers': ratios, JSON and a chart
	@$(BIN)/python -m pip --disable-pip-version-check --no-input --quiet install \
		--constraint constraints.txt --requirement benchmarks/requirements.txt
	@$(BIN)/echostream bench $(ARGS)

clean: ## Remove the virtual environments, caches and builds
	rm -rf .venv .venv-3.* .venv-peers .venv*.lock build dist plugins/*/build plugins/*/dist
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
