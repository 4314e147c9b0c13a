#!/bin/sh
# The original experiment's three grids, one after the other. TARGET_MODEL and DRAFT_MODEL name the models' files.
here=$(dirname -- "$0"); python=$here/../.venv/bin/python; [ -x "$python" ] || python=python3
exec "${PYTHON:-$python}" "$here/sweep_speculative.py" all "$@"
