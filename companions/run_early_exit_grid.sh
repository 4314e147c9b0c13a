#!/bin/sh
# The original experiment's early-exit grid: thresholds of the draft's confidence, with memory counters where ncu is installed. TARGET_MODEL and DRAFT_MODEL name the models' files.
here=$(dirname -- "$0"); python=$here/../.venv/bin/python; [ -x "$python" ] || python=python3
exec "${PYTHON:-$python}" "$here/sweep_speculative.py" early-exit "$@"
