# make dev: environment and pre-commit hooks. make check: format, lint, types, imports. make test, make test-all.
export VENV ?= .venv

.PHONY: dev check test test-all
dev:
	./run_all.sh --setup requirements-dev.txt
	$(VENV)/bin/pre-commit install

check:
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

test:
	$(VENV)/bin/python -m pytest -n auto --dist loadfile

test-all:
	$(VENV)/bin/python -m pytest -n auto --dist loadfile -m "not jetson"
