# Two commands on a fresh machine (Debian, Python 3.10 or newer, make): `make demo`, `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One worker per core, one thread per worker: threads of several workers get in each other's way.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: demo test test-fast lint clean

demo: $(VENV)/demo.done
	$(BIN)/toolkit demo
	$(BIN)/toolkit report runs/demo --out report.html --overwrite

test: $(VENV)/test.done
	$(PYTEST)

test-fast: $(VENV)/test.done
	$(PYTEST) -m "not slow and not real"

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.done: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing (a few minutes the first time: torch is large)"
	$(PIP) -e ".[onnx,report]"
	@touch $@

$(VENV)/test.done: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing (a few minutes the first time: torch is large)"
	$(PIP) -e ".[test]"
	@touch $@

$(VENV)/dev.done: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) runs converted exported cache report.html
