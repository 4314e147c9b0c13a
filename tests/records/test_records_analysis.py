"""The types of analysis.json say what the file holds: held against the golden one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from edgebench.records import analysis

GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "golden" / "analysis.json").read_text())
FIELDS = get_type_hints(analysis.Analysis)
TYPED = {
    name: inner[0]
    for name, kind in FIELDS.items()
    if (inner := get_args(kind)) and hasattr(inner[0], "__required_keys__") and name in GOLDEN
}
ONLY_WHERE_GRADED = {"graded_leans"}
EMPTY_OF_WHOLE_FILES = {"remarks", "left_out"}


def test_every_key_of_the_file_has_a_type_and_every_type_a_key() -> None:
    assert GOLDEN.keys() - ONLY_WHERE_GRADED == FIELDS.keys() - ONLY_WHERE_GRADED
    assert GOLDEN["settings"].keys() == get_type_hints(analysis.Settings).keys()


@pytest.mark.parametrize("name", TYPED)
def test_the_rows_of_a_list_have_the_fields_of_their_type(name: str) -> None:
    known = get_type_hints(TYPED[name]).keys()
    assert GOLDEN[name] or name in EMPTY_OF_WHOLE_FILES
    for row in GOLDEN[name]:
        assert row.keys() <= known, row.keys() - known
        assert {key for key in known if not key.startswith("graded_")} <= row.keys()
