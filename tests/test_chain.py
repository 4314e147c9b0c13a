"""The whole chain as a stranger runs it: a copy of the repository, one command, and the files it leaves."""

import contextlib
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.clone import clone_repository, made_once
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[1]
SMALL = "--ids 11 --max_tokens 8 --idle_seconds 0.5"  # the demo, but shorter
WORKBOOKS = ("quality_scores", "energy_per_run", "latency_per_run", "output_tokens_per_run")


def run_all(
    clone: Path, *words: str, timeout_s: float = 400, **environment: str
) -> subprocess.CompletedProcess[str]:
    # The environment of these tests stands in for a fresh .venv: building the engine again takes minutes.
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("JUDGE_", "MODELS"))
    }
    return subprocess.run(
        ["./run_all.sh", *words],
        cwd=clone,
        env={**inherited, "VENV": sys.prefix, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


@dataclass(frozen=True)
class Demo:
    """A clone in which `./run_all.sh --demo tiny` has run, and what that said."""

    clone: Path
    status: int
    stdout: str
    stderr: str

    @property
    def out(self) -> Path:
        return self.clone / "results" / "demo_tiny"

    @property
    def end(self) -> str:
        """The last lines: what to open."""
        return self.stdout[self.stdout.index("\nopen first") :]


def run_demo(folder: Path) -> None:
    clone_repository(folder / "repo")
    done = run_all(folder / "repo", "--demo", "tiny", COLLECT_ARGS=SMALL)
    said = {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    (folder / "said.json").write_text(json.dumps(said))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """For reading: it is that of all workers."""
    pytest.importorskip("llama_cpp")
    folder = made_once(tmp_path_factory, "chain", run_demo)
    return Demo(folder / "repo", **json.loads((folder / "said.json").read_text()))


@pytest.fixture
def own_demo(demo: Demo, tmp_path: Path) -> Demo:
    """A copy that a test may change."""
    shutil.copytree(demo.clone, tmp_path / "repo")
    return replace(demo, clone=tmp_path / "repo")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files git would clone."""
    pytest.importorskip("llama_cpp")
    clone_repository(tmp_path / "repo")
    return tmp_path / "repo"


def records_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "runs_llamacpp.jsonl").read_text().splitlines()]


def test_the_demo_writes_every_deliverable(demo: Demo) -> None:
    assert demo.status == 0, demo.stderr
    records = records_of(demo.out)
    models = {record["model_id"] for record in records}
    assert len(models) == 2
    assert {record["level"] for record in records} == {"L0", "L1", "L2", "L3", "P"}
    assert {record["repeat"] for record in records} == {1, 2}
    assert all(record["error"] is None for record in records)
    simulated = {record["power_source"] for record in records} == {"simulated"}
    for record in records:
        assert record["prompt_tokens"] == record["prompt_tokens_evaluated"]
        assert ("simulated_power" in record["flags"]) == simulated
    assert (demo.out / "runs_llamacpp.env.jsonl").is_file()
    for name in WORKBOOKS:
        assert f"{name}.xlsx" in demo.stdout
    if simulated:
        assert "simulated" in demo.stdout.lower()


def test_the_scores_are_reconciled_pairs_of_known_form(demo: Demo) -> None:
    with (demo.out / "scores_mtbench.csv").open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert rows and list(rows[0]) == [
        "task_id",
        "category",
        "model_id",
        "pair",
        "winner",
        "judge_model",
        "turn",
    ]
    assert {row["winner"] for row in rows} <= {"A", "B", "Tie"}
    assert all("_vs_" in row["pair"] for row in rows)
    assert len({tuple(row.values()) for row in rows}) == len(rows)


@pytest.mark.parametrize("name", WORKBOOKS)
def test_each_workbook_opens_and_has_a_sheet_per_model(demo: Demo, name: str) -> None:
    import pandas

    sheets = pandas.read_excel(demo.out / f"{name}.xlsx", sheet_name=None)
    assert {record["model_id"] for record in records_of(demo.out)} <= set(sheets)
    if {record["power_source"] for record in records_of(demo.out)} == {"simulated"}:
        text = " ".join(
            str(value) for frame in sheets.values() for value in [*frame.columns, *frame.to_numpy().ravel()]
        )
        assert "simulated" in text.lower()


def test_the_end_names_what_to_open_first(demo: Demo) -> None:
    named = [word for word in demo.end.split() if word.startswith("results/")]
    assert named[0] == "results/demo_tiny/report.html"
    assert named[1:5] == [f"results/demo_tiny/{name}.xlsx" for name in WORKBOOKS]
    assert all((demo.clone / name).is_file() for name in named)
    assert ".lock" not in demo.stdout
    assert demo.stdout.count("COST BY LEVEL") == 1 and "win vs L0" not in demo.stdout


WITHOUT_THE_PACKAGE = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",  # the discard port: nobody listens
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_NO_CACHE_DIR": "1",
}


# What a second run must not touch.
MEASURED_AND_JUDGED = ("runs_llamacpp.jsonl", "scores_mtbench.csv", "scores_mtbench.journal.jsonl")


def measured_and_judged(demo: Demo) -> dict[str, bytes]:
    return {name: (demo.out / name).read_bytes() for name in MEASURED_AND_JUDGED}


def test_a_second_run_does_nothing_again_and_without_the_index_takes_the_made_models(own_demo: Demo) -> None:
    """The tiny demo is there already: shown is which models are taken, and that nothing is amiss."""
    before = measured_and_judged(own_demo)
    again = run_all(own_demo.clone, "--demo", COLLECT_ARGS=SMALL, **WITHOUT_THE_PACKAGE)
    assert again.returncode == 0, again.stderr
    (error,) = [line for line in again.stderr.splitlines() if line.startswith("error: ")]
    assert "the package index cannot be reached" in error
    assert "the demo runs with two made ones" in " ".join(again.stderr.split())
    assert "results/demo_tiny/report.html" in again.stdout
    assert not (own_demo.clone / "results" / "demo").exists()
    assert measured_and_judged(own_demo) == before
    assert "runs are done already" in again.stderr
    assert "analyze_levels.py" in own_demo.stderr and "analyze_levels.py" not in again.stderr
    # The end says the same; the analysis is not printed again.
    assert again.stdout == own_demo.end


@pytest.mark.parametrize(
    "words", [["--dmeo"], ["--demo", "huge"], ["tiny"], ["--demo", "tiny", "more"], ["--setup", "a"]]
)
def test_an_unknown_word_starts_nothing(tmp_path: Path, words: list[str]) -> None:
    shutil.copy(ROOT / "run_all.sh", tmp_path)
    done = run_all(tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "--demo tiny" in done.stderr
    assert " ".join(words) in done.stderr


def test_nothing_is_left_running(demo: Demo) -> None:
    """What another worker runs in the same clone right now (`--help`) ends soon; what is left does not."""

    def left() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if path.readlink().is_relative_to(demo.clone):
                    found.append((path.parent / "cmdline").read_text())
        return found

    wait_for(lambda: not left(), "the end of all that the demo started")


def test_a_campaign_without_a_key_and_with_a_bad_model(own_demo: Demo) -> None:
    """What there is gets aggregated, unjudged; the bad model is named, and the exit code remembers it."""
    clone = own_demo.clone
    good = next((clone / "models" / "demo").glob("demo-*.gguf"))
    bad = clone / "bad.gguf"
    bad.write_bytes(b"no model")
    arguments = "--ids 3 --levels L0 L1 --max_tokens 8 --source none"
    done = run_all(clone, MODELS=f"{bad} {good}", RESULTS="results/own", REPEATS="1", COLLECT_ARGS=arguments)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1 and "bad.gguf" in done.stderr
    assert "not judged" in " ".join(done.stderr.split())
    out = clone / "results" / "own"
    assert len(records_of(out)) == 2
    assert all((out / f"{name}.xlsx").is_file() for name in WORKBOOKS)
    assert not (out / "scores_mtbench.csv").exists()


NOTES_ITS_ARGUMENTS = """#!/bin/sh
echo "$@" >> "$ARGUMENTS"
case "$1" in run_llamacpp_collect.py) mkdir -p own; echo {} > own/runs_llamacpp.jsonl ;; esac
"""


@pytest.mark.parametrize(
    ("url", "key", "judged"),
    [
        ("http://localhost:11434/v1", "", True),
        ("http://[::1]:8080/v1", "", True),
        ("http://127.0.0.1.example.org/v1", "", False),
        ("https://api.example.org/v1", "", False),
        ("https://api.example.org/v1", "secret", True),
    ],
)
def test_the_judge_runs_with_a_key_or_on_this_machine(
    tmp_path: Path, url: str, key: str, judged: bool
) -> None:
    """A stand-in for Python notes what the chain starts; the real steps are tested above."""
    shutil.copy(ROOT / "run_all.sh", tmp_path)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(NOTES_ITS_ARGUMENTS)
    python.chmod(0o755)
    settings = {"JUDGE_API_URL": url, "JUDGE_KEY_ENV": "SOME_KEY", "SOME_KEY": key, "MODELS": "m.gguf"}
    log = {"ARGUMENTS": str(tmp_path / "log"), "VENV": "venv", "RESULTS": "own"}
    done = run_all(tmp_path, **settings, **log)
    assert done.returncode == 0, done.stderr
    asked = [line for line in (tmp_path / "log").read_text().splitlines() if "judge_pairs.py" in line]
    assert len(asked) == judged
    assert all("--runs_root own/runs_llamacpp.jsonl " in line for line in asked)  # and no demo below
    assert all(("--api_key_env SOME_KEY" in line) == bool(key) for line in asked)


STOPS_AT_ILLEGAL_INSTRUCTIONS = """#!/bin/sh
echo "$CMAKE_ARGS: $@" >> "$ARGUMENTS"
case "$*" in
*llama_cpp.Llama*) grep -q "force-reinstall" "$ARGUMENTS" || kill -ILL $$ ; [ -z "$STILL_BROKEN" ] ;;
esac
"""


@pytest.mark.parametrize("still_broken", ["", "yes"])
@pytest.mark.parametrize("given", ["", "-DGGML_BLAS=ON"])
def test_an_engine_that_stops_at_an_illegal_instruction_is_built_again(
    tmp_path: Path, given: str, still_broken: str
) -> None:
    """As on a virtual machine whose processor shows AMX and does not let it run."""
    shutil.copy(ROOT / "run_all.sh", tmp_path)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(STOPS_AT_ILLEGAL_INSTRUCTIONS)
    python.chmod(0o755)
    log = tmp_path / "log"
    own = {"ARGUMENTS": str(log), "VENV": "venv", "CMAKE_ARGS": given, "STILL_BROKEN": still_broken}
    command = ["./run_all.sh", "--setup"]

    def setup() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **own}, capture_output=True, text=True
        )

    done = setup()
    (again,) = [line for line in log.read_text().splitlines() if "force-reinstall" in line]
    assert "-DGGML_NATIVE=OFF" in again and given in again and "llama-cpp-python" in again
    assert "illegal instruction" in done.stderr
    if still_broken:
        assert done.returncode == 1 and "error: the engine cannot run a model here" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    asked = len(log.read_text().splitlines())
    assert setup().returncode == 0
    assert "llama_cpp.Llama" not in "".join(log.read_text().splitlines(True)[asked:])  # proved once


def ranks(values: list[float]) -> list[float]:
    return [sum(other < value for other in values) + values.count(value) / 2 for value in values]


@pytest.mark.slow
def test_the_real_demo_answers_in_english_and_its_energy_follows_the_tokens(
    clone: Path, real_models: list[Path]
) -> None:
    """Minutes. The correlation is one of a machine that does nothing else: a busy one is only told of."""
    import numpy as np

    there = clone / "models" / "demo"
    there.mkdir(parents=True, exist_ok=True)
    for model in real_models:
        shutil.copy(model, there)
    done = run_all(clone, "--demo", timeout_s=3600)
    assert done.returncode == 0, done.stderr
    out = clone / "results" / "demo"
    records = records_of(out)
    assert {record["model_id"] for record in records} == {model.stem for model in real_models}
    assert len(records) == 2 * 4 * 5 * 2 and all(record["error"] is None for record in records)
    assert all(("simulated_power" in r["flags"]) == (r["power_source"] == "simulated") for r in records)
    words = " ".join(record["output_text"] for record in records).lower().split()
    assert {"dear", "you", "i", "the", "and", "happy"} <= set(words)
    cut = sum("truncated_output" in record["flags"] for record in records)
    assert cut <= len(records) / 4
    named = [word for word in done.stdout.split() if word.startswith("results/")]
    assert named[0] == "results/demo/report.html"
    idle = [line for line in done.stderr.splitlines() if line.startswith("idle ")]
    if not all(line.endswith("(stable)") for line in idle):
        pytest.skip("the chain runs; the machine was busy with other work, so its energies say nothing")
    for model in real_models:
        own = [record for record in records if record["model_id"] == model.stem]
        energy = np.array([record["energy_joule"] for record in own])
        tokens = np.array([[r["prompt_tokens"], r["completion_tokens"], 1.0] for r in own])
        # A token read and a token written cost unlike: their weights are fitted, for each model its own.
        explained = tokens @ np.linalg.lstsq(tokens, energy, rcond=None)[0]
        assert statistics.correlation(ranks(list(explained)), ranks(list(energy))) >= 0.9
        latency = [record["latency_ms"] for record in own]
        assert statistics.correlation(ranks(latency), ranks(list(energy))) >= 0.9


def test_help_and_shell(demo: Demo) -> None:
    said = run_all(demo.clone, "--help")
    assert said.returncode == 0
    for word in (
        "--demo tiny",
        "--setup",
        "--shell",
        "--quiet",
        "MODELS=",
        "JUDGE_LOCAL_MODEL",
        "Exit status",
    ):
        assert word in said.stdout
    shell = run_all(demo.clone, "--shell")
    assert (shell.returncode, shell.stdout) == (0, f"source {sys.prefix}/bin/activate\n")


def test_a_step_is_shown_in_one_line_of_a_terminal(demo: Demo) -> None:
    shown = [line for line in demo.stderr.splitlines() if line.startswith("== ")]
    assert len(shown) > 4 and not [line for line in shown if len(line) > 80]


def test_quiet_says_the_end_and_a_spoilt_workbook_is_written_again(own_demo: Demo) -> None:
    """A workbook that is gone or was changed is written again, with what is written beside it."""
    before = measured_and_judged(own_demo)
    (own_demo.out / "energy_per_run.xlsx").write_bytes(b"spoilt")
    done = run_all(own_demo.clone, "--quiet", "--demo", "tiny", COLLECT_ARGS=SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout == own_demo.end
    assert "== " not in done.stderr.partition("requirements")[2]
    log = (own_demo.out / "run_all.log").read_text()
    assert "runs are done already" in log and measured_and_judged(own_demo) == before
    assert "analyze_levels.py" in log
    assert (own_demo.out / "energy_per_run.xlsx").read_bytes()[:2] == b"PK"


def test_quiet_says_what_failed(own_demo: Demo) -> None:
    bad = own_demo.clone / "bad.gguf"
    bad.write_bytes(b"no model")
    failed = run_all(own_demo.clone, "--quiet", MODELS=str(bad), RESULTS="results/bad")
    assert failed.returncode != 0
    assert "error: " in failed.stderr and "run_all.log" in failed.stderr
