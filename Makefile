# make demo, make test: from a bare checkout both set everything up first; a second run installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready-$(shell cat pyproject.toml constraints.txt scripts/setup.sh | cksum | cut -d' ' -f1)

.PHONY: demo test setup clean
demo: setup
	@$(BIN)/dcs-nas demo

test: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m pytest --cov --cov-report=
	@$(BIN)/coverage report --skip-covered --skip-empty --fail-under=85

setup: $(READY)

$(READY):
	@PYTHON=$(PYTHON) sh scripts/setup.sh $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .coverage*
