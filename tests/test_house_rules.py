"""The rules that keep functions short and the README true. The shape of the house: test_architecture.py."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted([*ROOT.glob("*.py"), *ROOT.glob("companions/*.py"), *ROOT.glob("models/*.py")])
ROOMS = sorted(ROOT.glob("edgebench/**/*.py"))
LINES_PER_FUNCTION, LINES_PER_MAIN = 60, 30
README = (ROOT / "README.md").read_text(encoding="utf-8")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", [*SCRIPTS, *ROOMS], ids=name)
def test_a_function_fits_a_screen(path: Path) -> None:
    sizes = [(function.name, function.end_lineno - function.lineno + 1) for function in functions(path)]
    # A list of flags is no logic.
    assert not [(f, size) for f, size in sizes if size > LINES_PER_FUNCTION and f != "build_parser"]
    assert not [(f, size) for f, size in sizes if size > LINES_PER_MAIN and f == "main"]


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_readme_names_every_script(script: Path) -> None:
    assert script.name in README


def test_shell_scripts_parse() -> None:
    for script in ("run_all.sh", "run_tests.sh", ".ci/run", *ROOT.glob("companions/*.sh")):
        assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0
