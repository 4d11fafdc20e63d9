# The python that makes the virtual environment; any 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
# More words for pytest: make test PYTEST_ARGS="-k resume"
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# One thread a worker: two cores run two workers without quarrelling. Whole files go to a worker,
# in order of collection, so that module fixtures are built once and long files start first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-long check format clean

demo: $(VENV)/.installed
	$(BIN)/inlay demo

test: $(VENV)/.installed-dev
	$(PYTEST) $(PYTEST_ARGS)

test-fast: $(VENV)/.installed-dev
	$(PYTEST) -m "not long" $(PYTEST_ARGS)

test-long: $(VENV)/.installed-dev
	$(PYTEST) -m long $(PYTEST_ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

# torch comes first and alone: what depends on it then keeps the build that is there (CPU or CUDA)
# instead of choosing one.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	DS_BUILD_OPS=0 $(PIP) -e '.[dev]'
	touch $(VENV)/.installed $@
