# Everything a user or CI runs. Each target sets up what it needs by itself: virtual environment and pinned packages.
#
#   make demo      molecules → conformer store → ladder of pretrained models → scaling law
#   make test      the test suite
#   make checks    lint, format, types, and the documentation site, whose warnings are errors
#   make docs      the documentation site, in site/
#
# TORCH chooses the torch that is installed: the default is the CPU build that CI tests; a GPU user says, for example,
# make demo TORCH='torch==2.11.*'. PYTHON chooses the interpreter.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
# Processes that share the test suite, file by file: one more than there are cores, because some tests wait for others' processes.
TEST_WORKERS ?= 3
BIN := $(VENV)/bin
# Test and demo commands find deepspeed, ninja and unimol-scale without an activated environment.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: setup demo test checks docs lint types format clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt pip setuptools wheel
	$(BIN)/pip install --quiet '$(TORCH)' -c constraints.txt
	$(BIN)/pip install --quiet --no-build-isolation -c constraints.txt deepspeed
	$(BIN)/pip install --quiet --no-build-isolation -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/python conformer_gen/build.py --source sample
	$(BIN)/unimol-scale ladder configs/ladder/sample.yaml
	$(BIN)/unimol-scale fit-scaling-law runs/

test: setup
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --durations 30 --durations-min 5

# Independent of one another: make --jobs 2 checks uses two cores.
checks: docs lint types

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m mkdocs build --strict

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) data runs reports site
