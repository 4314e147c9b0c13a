"""The rules that keep the scripts standalone, short and documented."""

import ast
import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted([*ROOT.glob("*.py"), *ROOT.glob("companions/*.py"), *ROOT.glob("models/*.py")])
ALLOWED_SIBLINGS = {"run_llamacpp_collect.py": {"tegrastats_sampler.py"}}
LINES_PER_SCRIPT, LINES_PER_FUNCTION, LINES_PER_MAIN = 600, 60, 30
README = (ROOT / "README.md").read_text(encoding="utf-8")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_a_script_is_one_room_of_short_functions(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= LINES_PER_SCRIPT
    long = {
        f.name: size for f in functions(script) if (size := f.end_lineno - f.lineno + 1) > LINES_PER_FUNCTION
    }
    assert not {
        key: size for key, size in long.items() if key != "build_parser"
    }  # a list of flags is no logic
    sizes = [f.end_lineno - f.lineno + 1 for f in functions(script) if f.name == "main"]
    assert sizes and max(sizes) <= LINES_PER_MAIN


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_help_works_for_a_lone_copy_without_third_party_packages(script: Path, tmp_path: Path) -> None:
    for needed in {script.name} | ALLOWED_SIBLINGS.get(script.name, set()):
        shutil.copy(script.with_name(needed), tmp_path)
    command = [sys.executable, "-S", str(tmp_path / script.name), "--help"]  # -S: no site-packages
    done = subprocess.run(command, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Example:" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_scripts_are_commands_to_each_other_and_not_modules(script: Path) -> None:
    stems = {path.stem for path in SCRIPTS}
    imported = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    allowed = {Path(sibling).stem for sibling in ALLOWED_SIBLINGS.get(script.name, set())}
    assert imported & stems <= allowed
    assert not imported & {"utils", "common"}


def marked_copies() -> list[tuple[str, str, Path]]:
    """(origin script, function, file) of every function under a `# Copied from script.function` comment."""
    found = []
    for path in SCRIPTS:
        found += [
            (*match.groups(), path)
            for match in re.finditer(r"^# Copied from (\w+)\.(\w+)$", path.read_text(), re.M)
        ]
    return found


def source_of(path: Path, function: str) -> str:
    (node,) = [node for node in functions(path) if node.name == function]
    return ast.get_source_segment(path.read_text(), node) or ""


@pytest.mark.parametrize(
    ("origin", "function", "path"), marked_copies(), ids=lambda value: getattr(value, "name", value)
)
def test_copied_functions_have_not_drifted(origin: str, function: str, path: Path) -> None:
    (script,) = [candidate for candidate in SCRIPTS if candidate.stem == origin]
    assert source_of(path, function) == source_of(script, function)
    assert len(source_of(path, function).splitlines()) <= 15


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


def test_readme_lists_the_fields_of_the_run_record() -> None:
    import run_llamacpp_collect

    documented = set(re.findall(r"`([a-z0-9_]+)`", README[README.index("## The run record") :]))
    assert {field.name for field in dataclasses.fields(run_llamacpp_collect.RunRecord)} <= documented


def test_shell_scripts_parse() -> None:
    for script in ("run_all.sh", "run_tests.sh", ".ci/run"):
        assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0
