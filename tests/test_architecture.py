"""The shape of the house: doors in front, rooms behind them, and imports that point one way.

`lint-imports` (pyproject.toml, [tool.importlinter]) holds the order of the wings and that there is no circle.
What a list of layers cannot say stands here.
"""

import ast
import copy
import csv
import functools
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.judge_stub import JudgeStub

ROOT = Path(__file__).resolve().parents[1]
DOORS = sorted([*ROOT.glob("*.py"), *ROOT.glob("companions/*.py")])
MODEL_MAKERS = sorted(ROOT.glob("models/*.py"))
ROOMS = sorted(ROOT.glob("edgebench/**/*.py"))
FORBIDDEN_FOR_THE_JUDGE = ("llama_cpp", "pandas", "numpy", "scipy")
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}

# The rooms of engine/ that other wings may import: the parent's side, which never loads the engine itself.
ENGINE_FOR_OTHERS = {"edgebench.engine.client"}

LONGEST_BODY_THAT_MAY_STAND_TWICE = 6  # lines


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def parsed(path: Path) -> ast.Module:
    """For reading: all tests share it."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported_modules(path: Path) -> set[str]:
    """Every module the file imports, at its top or inside a function; of `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module_name(path).split(".")[: -node.level] if node.level else []
            origin = ".".join([*package, *([node.module] if node.module else [])])
            found |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    return found


def imports(path: Path, package: str) -> bool:
    return any(module.split(".")[0] == package for module in imported_modules(path))


# --- the doors


@pytest.mark.parametrize("door", [*DOORS, *MODEL_MAKERS], ids=name)
def test_help_needs_the_standard_library_alone(door: Path) -> None:
    command = [sys.executable, "-S", str(door), "--help"]  # -S: no site-packages
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd="/", env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Example:" in done.stdout


@pytest.fixture
def laptop(tmp_path: Path) -> dict[str, str]:
    """An environment in which this process's children, and theirs, find none of the forbidden packages."""
    lines = [
        "import sys",
        f"for name in {FORBIDDEN_FOR_THE_JUDGE!r}:",
        "    sys.modules[name] = None  # import raises ModuleNotFoundError, find_spec finds nothing",
    ]
    folder = tmp_path / "laptop"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("package", FORBIDDEN_FOR_THE_JUDGE)
def test_the_laptop_of_these_tests_lacks_the_packages(package: str, laptop: dict[str, str]) -> None:
    """Else the next test would prove nothing. -c asks for the package in a child of a child."""
    child = f"import importlib.util; assert importlib.util.find_spec({package!r}) is None; import {package}"
    parent = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {child!r}]))"
    done = subprocess.run(
        [sys.executable, "-c", parent], env={**os.environ, **laptop}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


def test_the_judge_works_without_the_engine_pandas_numpy_and_scipy(
    tmp_path: Path, laptop: dict[str, str]
) -> None:
    question = {"question_id": 81, "category": "writing", "turns": ["Question?"]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question) + "\n")
    numbers = {"prompt_tokens": 9, "completion_tokens": 9, "latency_ms": 1.0, "energy_joule": 1.0}
    records = [
        {"id": 81, "model_id": "model", "level": level, **numbers, "output_text": f"QUALITY={quality}"}
        for quality, level in enumerate(("L0", "L1", "P"))
    ]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "runs_llamacpp.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    with JudgeStub() as stub:
        files = ["--questions", "questions.jsonl", "--runs_root", "runs", "--out", "scores.csv"]
        command = [sys.executable, str(ROOT / "judge_pairs.py"), *files, "--api_url", stub.url]
        environment = {**os.environ, **laptop}
        done = subprocess.run(
            [*command, "--model", "stub"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "scores.csv").open(newline="") as table:
        winners = {row["pair"]: row["winner"] for row in csv.DictReader(table)}
    # The stub is honest: the answer of the right level is the better one in each pair.
    assert winners == {"L0_vs_L1": "B", "L0_vs_P": "B", "L1_vs_P": "B"}


# --- the rooms


def test_no_room_imports_a_door() -> None:
    doors = {door.stem for door in DOORS} | {"companions"} | {maker.stem for maker in MODEL_MAKERS}
    found = {
        name(room): sorted(at_fault)
        for room in ROOMS
        if (at_fault := {module.split(".")[0] for module in imported_modules(room)} & doors)
    }
    assert not found


def test_other_wings_know_of_the_engine_only_its_client() -> None:
    engine = {module_name(room) for room in ROOMS if room.parent.name == "engine"} - {"edgebench.engine"}
    assert engine >= ENGINE_FOR_OTHERS
    found = {
        name(room): sorted(at_fault)
        for room in ROOMS
        if room.parent.name != "engine" and (at_fault := imported_modules(room) & engine - ENGINE_FOR_OTHERS)
    }
    assert not found


def test_the_engine_is_imported_in_its_wing_alone() -> None:
    outside = {
        name(path)
        for path in [*ROOMS, *DOORS]
        if ROOT / "edgebench" / "engine" not in path.parents and imports(path, "llama_cpp")
    }
    assert not outside


def test_what_other_wings_import_of_the_engine_loads_without_it(laptop: dict[str, str]) -> None:
    statement = "; ".join(f"import {module}" for module in sorted(ENGINE_FOR_OTHERS))
    clean = {**os.environ, **laptop}
    done = subprocess.run(
        [sys.executable, "-c", statement], cwd=ROOT, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_named_after_being_shared() -> None:
    below = [path for path in (ROOT / "edgebench").rglob("*") if "__pycache__" not in path.parts]
    vague = [name(path) for path in [*below, *ROOT.iterdir()] if path.stem in VAGUE_NAMES]
    assert not vague


# --- no body stands twice


class Anonymous(ast.NodeTransformer):
    """Renames what a function names itself, in the order of appearance: a copy with other names is a copy."""

    def __init__(self, own_names: set[str]) -> None:
        self.own_names = own_names
        self.renamed: dict[str, str] = {}

    def new_name(self, old: str) -> str:
        if old not in self.own_names:
            return old
        return self.renamed.setdefault(old, f"name{len(self.renamed)}")

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self.new_name(node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self.new_name(node.arg)
        node.annotation = None
        return node


def own_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    names = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    stored = (node for node in ast.walk(function) if isinstance(node, ast.Name))
    return names | {node.id for node in stored if isinstance(node.ctx, ast.Store)}


@dataclass(frozen=True)
class Body:
    """What a function longer than the limit does, its docstring left out."""

    function: ast.FunctionDef | ast.AsyncFunctionDef
    statements: list[ast.stmt]

    def shape(self) -> tuple[type[ast.AST], ...]:
        """The kinds of its nodes: quick to tell, and equal in two bodies whose texts are equal."""
        kinds: list[type[ast.AST]] = []
        waiting: list[ast.AST] = list(self.statements)
        while waiting:
            node = waiting.pop()
            kinds.append(type(node))
            if not isinstance(node, ast.arg):  # what stands below it is its annotation, which does not count
                waiting.extend(ast.iter_child_nodes(node))
        return tuple(kinds)

    def text(self) -> str:
        """What two bodies share that are equal but for the names they give."""
        rename = Anonymous(own_names(self.function))
        return "\n".join(ast.dump(rename.visit(copy.deepcopy(statement))) for statement in self.statements)


def bodies(tree: ast.AST) -> Iterator[Body]:
    """The bodies longer than the limit.

    >>> long = "def {0}({1}):\\n    'Adds.'\\n" + "    {1} += 1\\n" * 7
    >>> one, two = (next(bodies(ast.parse(long.format(*names)))) for names in (("f", "x"), ("g", "count")))
    >>> one.function.name, two.function.name, one.shape() == two.shape(), one.text() == two.text()
    ('f', 'g', True, True)
    >>> list(bodies(ast.parse("def short():\\n    return 1")))
    []
    """
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = function.body
        if ast.get_docstring(function, clean=False) is not None:
            body = body[1:]
        if body and (body[-1].end_lineno or 0) - body[0].lineno + 1 > LONGEST_BODY_THAT_MAY_STAND_TWICE:
            yield Body(function, body)


def test_no_body_over_six_lines_stands_twice() -> None:
    alike = defaultdict(list)
    for path in [*DOORS, *MODEL_MAKERS, *ROOMS]:
        for body in bodies(parsed(path)):
            alike[body.shape()].append((body, path))
    where = defaultdict(list)
    for candidates in alike.values():
        if len(candidates) > 1:
            for body, path in candidates:
                where[body.text()].append((body.function.name, name(path)))
    twice = [places for places in where.values() if len(places) > 1]
    assert not twice, "\n".join(map(str, twice))


# --- the table of wings


def test_every_wing_has_its_place_in_the_contract() -> None:
    """`lint-imports` would say so too; here it is said where somebody adds a wing and runs only the tests."""
    wings = {path.name for path in (ROOT / "edgebench").iterdir() if (path / "__init__.py").is_file()}
    contract = (ROOT / "pyproject.toml").read_text().split("[tool.importlinter]")[1]
    listed = {word for line in contract.splitlines() if line.startswith('    "') for word in words(line)}
    assert wings | {"errors"} <= listed


def words(line: str) -> list[str]:
    return next(csv.reader([line.strip().rstrip(",")]))[0].replace(":", " ").split()
