"""The documents are true: links lead somewhere, commands run, outputs are what is printed, flags are named.

Commands run in a folder laid out as after `./run_all.sh --demo`. The campaign in it is a real one, of that
very demo (tests/golden/demo), so that what is computed from it can be compared; its models are made ones
under the real ones' names, which load in an instant.
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clone import clone_repository, made_once
from tests.conftest import run_maker
from tests.fakes import beyond_the_demo

ROOT = Path(__file__).resolve().parents[1]
DOORS = sorted([*ROOT.glob("*.py"), *ROOT.glob("companions/*.py")])
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), ROOT / "data" / "README.md"]
)
WITH_COMMANDS = [page for page in PAGES if page.name != "CONTRIBUTING.md" and page.parent.name != "data"]
HELPS = sorted((ROOT / "tests" / "golden" / "help").glob("*.txt"))
DEMO_MODELS = ("SmolLM2-135M-Instruct-Q4_1", "SmolLM2-135M-Instruct-Q8_0")
TIMEOUT_S = 300  # of one block; a busy machine is slow, not wrong
TOOLS = ("jq ", "bc)")  # programs of others that a machine may lack; as they stand in a command
SLOW = "slow: "  # begins a stand-in's note where the block runs under -m slow alone
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def load_renew() -> Any:
    """docs/renew.py, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("renew", ROOT / "docs" / "renew.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["renew"] = module
    spec.loader.exec_module(module)
    return module


renew = load_renew()


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors_of(page: Path) -> set[str]:
    """Anchors of a page's headings, as forges and mkdocs make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        found.add(re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", words)))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    broken = []
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert not broken


def test_the_fields_of_the_records_are_those_of_the_types() -> None:
    page = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    assert page == renew.records_page(), "python docs/renew.py records"


@pytest.mark.parametrize("door", DOORS, ids=name)
def test_every_door_has_a_page_which_the_readme_links(door: Path) -> None:
    page = ROOT / "docs" / f"{door.stem}.md"
    assert page.is_file()
    assert f"docs/{page.name}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"({page.name})" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert page.name in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert f'{door.stem.replace("_", "-")} = "' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("door", DOORS, ids=name)
def test_every_flag_of_a_door_is_on_its_page(door: Path) -> None:
    helps = [path for path in HELPS if path.stem == door.stem or path.stem.startswith(f"{door.stem}_")]
    assert helps, f"no golden --help of {door.stem}"
    flags = {flag for path in helps for flag in re.findall(r"(?<![\w-])--[a-zA-Z][\w-]+", path.read_text())}
    page = (ROOT / "docs" / f"{door.stem}.md").read_text(encoding="utf-8")
    assert not sorted(flag for flag in flags - {"--help"} if not re.search(rf"{flag}(?![\w-])", page))


SOURCES = [
    *DOORS,
    *(ROOT / "edgebench").rglob("*.py"),
    *(ROOT / "edgebench").rglob("*.j2"),
    ROOT / "run_all.sh",
]
OTHERS = {  # words of other programs, in the rows of docs/troubleshooting.md that are about them
    *("SIGILL", "Failed to load model from file", "cudaMalloc failed: out of memory"),
    *("NvMapMemAllocInternalTagged", "error 12", "0mW", "VDD_IN", "0/27", "sep=", "#REF!"),
}


def sources() -> str:
    """All code as one text, blanks and the ends of split strings evened out."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    return " ".join(re.sub(r'"\s*\n\s*f?"', "", text).split())


def test_what_troubleshooting_quotes_is_what_is_said() -> None:
    """The first column is what a user sees: our words stand in the code, letter by letter."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")]
    quoted = [
        part.strip() for row in rows for span in re.findall(r"`([^`]+)`", row) for part in span.split("…")
    ]
    said, unknown = sources(), []
    for part in filter(None, quoted):
        if part not in OTHERS and part not in said:
            unknown.append(part)
    assert len(quoted) > 20 and not unknown


def test_troubleshooting_cures_with_flags_and_commands_that_are_there() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    helps = "\n".join(path.read_text(encoding="utf-8") for path in HELPS) + (ROOT / "run_all.sh").read_text()
    spans = re.findall(r"`([^`]+)`", page)
    flags = {flag for span in spans for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", span)}
    assert flags and not sorted(flag for flag in flags if flag not in helps)
    scripts = {word for span in spans for word in span.split() if re.fullmatch(r"\w[\w/]*\.(?:py|sh)", word)}
    assert scripts and not sorted(one for one in scripts if not any(one in str(path) for path in SOURCES))


def test_architecture_names_files_that_are_there() -> None:
    """Rooms by their path below edgebench/, and the names to be found in them."""
    page = re.sub(
        r"```.*?```", "", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), flags=re.S
    )
    spans = re.findall(r"`([^`]+)`", page)
    paths = {span for span in spans if re.fullmatch(r"[\w/]+/(?:[\w.-]+)?", span)} - {
        "docs/NAME.md",
        "companions/NAME.py",
    }
    missing = [one for one in paths if not any((root / one).exists() for root in (ROOT, ROOT / "edgebench"))]
    assert len(paths) > 25 and not missing
    names = {span for span in spans if re.fullmatch(r"[A-Z]{4,}[A-Z_]*|[A-Z][a-z]+[A-Z]\w+", span)} - {"NAME"}
    text = sources() + (ROOT / "tests" / "test_goldens.py").read_text(encoding="utf-8")
    assert names and not [one for one in names if one not in text]


# --- commands ---


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_no_wider_than_a_page_shows(page: Path) -> None:
    """A hundred columns: what a forge and the site show without scrolling. Addresses cannot be folded."""
    examples = renew.examples_of(page.name, page.read_text(encoding="utf-8"))
    lines = [line for example in examples for line in example.commands.splitlines()]
    assert not [line for line in lines if len(line) > 100 and "https://" not in line]


def commands_of(text: str) -> list[list[str]]:
    """The words of each `python SCRIPT …` line of a block, continuation lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [re.split(r" [|<>;&]+ ", line.strip())[0] for line in lines]
    return [
        shlex.split(line, comments=True)
        for line in found
        if re.match(r"(\.venv/bin/)?python3? \S+\.py", line)
    ]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_real(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each script exists; where a block cannot run here, its parser takes the flags. Others run below."""
    for example in renew.examples_of(page.name, page.read_text(encoding="utf-8")):
        for words in commands_of(example.commands):
            script = ROOT / words[1]
            assert script.is_file(), f"{page.name}:{example.line}: {words[1]}"
            if not example.not_run:
                continue
            module = runpy.run_path(str(script))
            if "build_parser" not in module:
                continue
            try:
                module["build_parser"]().parse_args(words[2:])
            except SystemExit as told:
                assert told.code == 0, f"{page.name}:{example.line}: {capsys.readouterr().err}"


def lay_out(folder: Path) -> None:
    """A clone in which `./run_all.sh --demo` has run."""
    clone_repository(folder)
    shutil.copytree(ROOT / "tests" / "golden" / "demo", folder / "results" / "demo")
    for model in DEMO_MODELS:
        flags = ("--size", "tiny", "--arch", "llama", "--name", model)
        run_maker("make_demo_model.py", "--outdir", folder / "models" / "demo", *flags)
    (folder / ".venv").symlink_to(sys.prefix)


@pytest.fixture(scope="session")
def after_the_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("llama_cpp")
    return made_once(tmp_path_factory, "docs", lay_out)


def copy_or_link(source: str, target: str) -> None:
    """What a command may write is copied; the code is the same files in every copy."""
    can_be_written = {"results", "models", "outputs"} & set(Path(source).parts)
    (shutil.copy2 if can_be_written else os.link)(source, target)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_commands_run_and_print_what_the_page_shows(page: Path, after_the_demo: Path, tmp_path: Path) -> None:
    here = tmp_path / "repo"  # of this page alone: pages may run beside each other
    shutil.copytree(after_the_demo, here, symlinks=True, copy_function=copy_or_link)
    examples = renew.examples_of(page.name, page.read_text(encoding="utf-8"))
    for example in examples:
        if not example.not_run and not example.stand_in:
            run_example(page, example, example.commands, here)
    quick = [one for one in examples if one.stand_in and not one.stand_in.startswith(SLOW)]
    run_among_stand_ins(page, quick, here)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_long_commands_run(page: Path, after_the_demo: Path, tmp_path: Path) -> None:
    """Those that take their time even with a stand-in."""
    examples = renew.examples_of(page.name, page.read_text(encoding="utf-8"))
    slow = [one for one in examples if one.stand_in and one.stand_in.startswith(SLOW)]
    if not slow:
        pytest.skip("none on this page")
    here = tmp_path / "repo"
    shutil.copytree(after_the_demo, here, symlinks=True, copy_function=copy_or_link)
    run_among_stand_ins(page, slow, here)


@pytest.mark.slow
def test_pages_run_after_each_other_in_one_clone(after_the_demo: Path, tmp_path: Path) -> None:
    """A user has one folder: no command of a page stands in the way of another's, or of itself."""
    here = tmp_path / "repo"
    shutil.copytree(after_the_demo, here, symlinks=True, copy_function=copy_or_link)
    # docs/demo_models.md would put the real models in place of the made ones: hours of answers.
    pages = [page for page in WITH_COMMANDS if page.name != "demo_models.md"]
    for page in [*pages, *reversed(pages)]:
        for example in renew.examples_of(page.name, page.read_text(encoding="utf-8")):
            if not example.not_run and not example.stand_in:
                done = renew.run(example.commands, here, timeout_s=TIMEOUT_S)
                assert done.returncode == 0, f"{name(page)}:{example.line}: {done.stderr[-2000:]}"


def run_among_stand_ins(page: Path, examples: list[Any], here: Path) -> None:
    """Run blocks that need more than the demo leaves."""
    if not examples:
        return
    beyond_the_demo.put_them(here)
    with beyond_the_demo.judge() as stub:
        for example in examples:
            if any(tool in example.commands and not shutil.which(tool[:2]) for tool in TOOLS):
                continue
            run_example(page, example, beyond_the_demo.asked_of(stub, example.commands), here)


def run_example(page: Path, example: Any, commands: str, here: Path) -> None:
    """Run one block as a user would, and hold its output against the one shown."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = renew.run(commands, here, environment, TIMEOUT_S)
    where = f"{name(page)}:{example.line}"
    assert done.returncode == 0, f"{where}: status {done.returncode}\n{done.stderr[-2000:]}"
    if example.output is not None and not example.not_compared:
        assert example.output.strip() != renew.PLACEHOLDER, f"{where}: python docs/renew.py outputs"
        assert renew.agrees(example.output, done.stdout), f"{where} prints\n{done.stdout}"
