#!/usr/bin/env bash
# Sets up .venv, then format, lint, types, imports, tests. Arguments go to pytest: ./run_tests.sh -k sampler
set -euo pipefail
cd "$(dirname "$0")"
export VENV="${VENV:-.venv}"

./run_all.sh --setup requirements-dev.txt

echo "== ruff format" && "$VENV/bin/ruff" format --check .
echo "== ruff check" && "$VENV/bin/ruff" check .
echo "== mypy" && "$VENV/bin/mypy"
echo "== lint-imports" && "$VENV/bin/lint-imports" --no-cache
echo "== pytest" && "$VENV/bin/python" -m pytest -n auto --dist worksteal "$@"
