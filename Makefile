# Everything a new machine needs, in two targets: `make demo` and `make test`. `make help` lists the others.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# Whole files of tests side by side: each that needs a host starts its own ComfyUI (1 to 2 GB).
WORKERS ?= 2
PARALLEL = -n $(WORKERS) --dist loadfile

# What the page runs in Automatic1111, on Python 3.10 and the packages that come with it.
OLDEST := $(VENV)/oldest
OLDEST_TESTS := tests/kernels tests/adapters tests/bases tests/jobs tests/webui tests/test_oldest.py

.PHONY: help demo test test-fast test-oldest lint docs install dev clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/pip install --quiet -e ".[dev,batch]"
	touch $@

install: $(VENV)/.installed  ## the package, in .venv

dev: $(VENV)/.dev  ## what the tests and checks need, too

demo: install  ## moves a LoRA from one base to another and draws it, in out/demo
	$(BIN)/lora-graft demo -o out/demo

lint: dev  ## ruff, import-linter and basedpyright
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright -p pyproject.toml

docs: dev  ## the site, in out/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: dev lint docs  ## the checks, the site and all tests
	$(BIN)/python -m pytest -q $(PARALLEL)

test-fast: dev lint  ## the same without what needs a ComfyUI or a browser
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not host"

test-oldest:  ## what the page runs, on the oldest stack that must work: PYTHON=python3.10
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet -r tests/oldest.txt
	$(OLDEST)/bin/pip install --quiet --no-deps -e .
	$(OLDEST)/bin/python -m pytest -q $(PARALLEL) -m "not host" $(OLDEST_TESTS)

clean:  ## removes .venv and out
	rm -rf $(VENV) out
