"""The grid that --help shows is one that can be run."""

import re
from pathlib import Path

import companions.sweep_speculative as door
from edgebench.speculation.grids import read_grid


def test_the_example_of_the_help_is_a_grid(tmp_path: Path) -> None:
    shown = re.search(r"JSON or YAML:\n +(\{.*\})", door.__doc__ or "")
    assert shown is not None
    alone, listed = tmp_path / "one.yaml", tmp_path / "list.yaml"
    alone.write_text(shown[1])
    listed.write_text(f"[{shown[1]}]")
    name, cells = read_grid(alone)
    assert name == "one" and cells == read_grid(listed)[1] and len(cells) == 6
