"""The rules that keep functions short and the README true. The shape of the house: test_architecture.py."""

import ast
import re
import shlex
import subprocess
import sys
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


def readme_commands() -> list[str]:
    """`python script …` lines of the README's shell blocks, continuation lines joined."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", README, re.S)
    text = "\n".join(blocks).replace("\\\n", " ")
    lines = [re.sub(r"^\$ ", "", line.strip()) for line in text.splitlines()]
    return [line for line in lines if re.match(r"(\.venv/bin/)?python3? \S+\.py", line)]


@pytest.mark.parametrize("command", readme_commands())
def test_readme_commands_are_real(command: str) -> None:
    """Each command's script exists and its parser takes the flags."""
    words = shlex.split(re.split(r" [|<>] ", command)[0], comments=True)
    script = ROOT / words[1]
    assert script.is_file()
    check = (
        "import runpy, sys; sys.argv = sys.argv[1:]; "
        "module = runpy.run_path(sys.argv[0]); module['build_parser']().parse_args(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", check, *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_readme_names_every_script(script: Path) -> None:
    assert script.name in README


def test_shell_scripts_parse() -> None:
    for script in ("run_all.sh", "run_tests.sh", ".ci/run", *ROOT.glob("companions/*.sh")):
        assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0
