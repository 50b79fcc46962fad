# Everything a new machine needs, in two targets: `make demo` and `make test` (`make test-fast` without ComfyUI and browser).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0

.PHONY: demo test test-fast lint docs install dev clean

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/pip install --quiet -e ".[dev,batch]"
	touch $@

install: $(VENV)/.installed

dev: $(VENV)/.dev

demo: install
	$(BIN)/lora-graft demo -o out/demo

lint: dev
	$(BIN)/ruff check .
	$(BIN)/lint-imports

docs: dev
	$(BIN)/mkdocs build --strict

test: dev lint docs
	$(BIN)/python -m pytest

test-fast: dev lint
	$(BIN)/python -m pytest -m "not host"

clean:
	rm -rf $(VENV) out
