# Everything that a newcomer types. `make demo` and `make test` need Python 3.11 or newer with pip, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-all lint clean

help:
	@echo "make demo      film a photograph, degrade the clip, restore it with the tiny model, compare (CPU, a minute)"
	@echo "make test      the default test suite"
	@echo "make test-all  also the slow tests"
	@echo "make lint      ruff, and mypy, strict on the whole program"
	@echo "make clean     remove the environment and the demo's output"

demo: $(VENV)/.runtime
	$(BIN)/python projects/demo.py --output demo_output

test: $(VENV)/.development
	$(BIN)/python -m pytest

test-all: $(VENV)/.development
	$(BIN)/python -m pytest -m "not gpu"

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.runtime: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.development: $(VENV)/.runtime requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) demo_output
