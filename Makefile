# make demo, make test, make docs: from a bare checkout all set everything up first; a second run installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HASHES ?= yes
READY := $(VENV)/ready-$(shell cat pyproject.toml constraints.txt *.lock scripts/setup.sh | cksum | cut -d' ' -f1)

.PHONY: demo test coverage docs audit setup clean
demo: setup
	@$(BIN)/dcs-nas demo

test: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

coverage: setup
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --cov --cov-report=
	@$(BIN)/coverage report --skip-covered --skip-empty --fail-under=85

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html; with a search field: $(BIN)/mkdocs serve"

audit:
	@PYTHON=$(PYTHON) sh scripts/audit.sh

setup: $(READY)

$(READY):
	@PYTHON=$(PYTHON) HASHES=$(HASHES) sh scripts/setup.sh $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .coverage*
