# Each target does its own set-up, once: a virtual environment in $(VENV) with the versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= cache,cpu,dev,parquet,prune,search,ship,ssh,tensorboard,text$(if $(filter x86_64,$(shell uname -m)),$(comma)rtx$(comma)triton$(comma)cuda)
RUN_FOLDER ?= runs/demo

comma := ,
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: help setup demo test check format clean

help:
	@echo "make demo    distil a student for jetson-orin on a small built-in data set ($(RUN_FOLDER)/report.html)"
	@echo "make test    run the tests with coverage"
	@echo "make check   lint, types, import directions"
	@echo "make format  format the code"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "edgekd needs Python 3.10 or newer; set PYTHON=python3.x")'
	@$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv"; exit 5; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: setup
	$(BIN)/edgekd distill --target jetson-orin --budget "p99<1ms" --out $(RUN_FOLDER)

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=90

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
