"""What the commands write, held to files in tests/golden: a change of an output is seen, and has its reason.

    help/DOOR.txt            every --help of a door and of its subcommands
    chain/collected_*.jsonl  run and environment records of the real collector on a made model
    chain/judged.*           scores and journal of the judge against a stub
    chain/CASE.*             of a made campaign and of tests/golden/runs.jsonl: the analysis, the verdicts of
                             check_runs, what analyze_levels and the aggregator print, the four workbooks as
                             cell values, the report

A difference fails with a diff. If it is meant, write the files anew, look at what changed, and say why in the
commit:

    EDGEBENCH_RENEW_GOLDENS=1 .venv/bin/python -m pytest -n 0 tests/test_goldens.py && git diff tests/golden

What differs between two machines, two moments or two Python versions is masked by the functions below: each
mask names the fields it covers and the types they may have, and a value of another type stays visible.
"""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clone import made_once
from tests.doors import call
from tests.fakes.judge_stub import JudgeStub, honest
from tests.help_layout import same_in_every_python

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
RENEW = "EDGEBENCH_RENEW_GOLDENS"
BOOKS = ("quality_scores", "energy_per_run", "latency_per_run", "output_tokens_per_run")


def hold(name: str, text: str) -> None:
    """Fail with a diff unless the golden file says the same; write it if asked to."""
    path = GOLDEN / name
    if os.environ.get(RENEW):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
        return
    if not path.is_file():
        pytest.fail(f"tests/golden/{name} does not exist; {RENEW}=1 writes it")
    golden = path.read_bytes().decode("utf-8")
    if golden != text:
        lines = difflib.unified_diff(golden.splitlines(), text.splitlines(), name, "now", lineterm="", n=1)
        pytest.fail("\n".join(lines) or f"{name} differs in its line ends only", pytrace=False)


def run(script: str, *words: object, cwd: Path, status: int = 0) -> str:
    """What the door prints to stdout; its exit status is checked."""
    done = call(script, *words, cwd=cwd, env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert done.returncode == status, done.stderr
    return done.stdout


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def as_lines(records: list[Any]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False, indent=1) + "\n" for record in records)


# --- every --help

SUBCOMMANDS = {
    "run_llamacpp_collect": (),
    "tegrastats_sampler": ("rails", "idle", "record", "run", "integrate", "parse", "feed"),
    "judge_pairs": (),
    "aggregate_to_excels": (),
    "companions/board_check": ("devices", "models"),
    "companions/check_runs": (),
    "companions/analyze_levels": (),
    "companions/report_page": (),
    "companions/run_experiment": (
        *("run", "batch", "results", "results list", "results show", "aggregate", "config", "config show"),
        *("config validate", "config new", "config grid", "config values", "presets", "datasets", "devices"),
        *("plan", "status", "follow", "stop"),
    ),
    "companions/throughput": (),
    "companions/compare_backends": ("run", "table", "parse", "show-commands"),
    "companions/parse_backend_logs": (),
    "companions/sweep_speculative": (),
    "companions/token2metrics": (
        *("train", "evaluate", "predict", "batch-predict", "models", "calibrate", "benchmark", "plan"),
    ),
    "companions/load_prompts": (),
}


@pytest.mark.parametrize("door", SUBCOMMANDS)
def test_help(door: str, tmp_path: Path) -> None:
    texts = []
    for words in ((), *(command.split() for command in SUBCOMMANDS[door])):
        text = run(f"{door}.py", *words, "--help", cwd=tmp_path)
        texts.append(f"$ {' '.join((f'{door}.py', *words))} --help\n{same_in_every_python(text)}")
        assert [line for line in text.splitlines() if len(line) > 80] == []
    hold(f"help/{Path(door).name}.txt", "\n".join(texts))


# --- the collector

# Field -> the types that its value may have; a value of another type stays as it is and shows in the diff.
VOLATILE_IN_A_RUN = {
    "run_key": "str",  # a hash also of the engine's build and the board
    "started_at": "str",
    "env_id": "str",
    "t0_s": "float",
    "first_token_s": "float",
    "t1_s": "float",
    "latency_ms": "float",
    "ttft_ms": "float",
    "tpot_ms": "float",
    "prefill_tok_per_s": "float",
    "decode_tok_per_s": "float",
    "load_ms": "float",
    "overhead_ratio": "float",
    "offloaded": "bool or null",  # these four are the machine's
    "temp_start_c": "float or null",
    "temp_max_c": "float or null",
    "throttled": "bool or null",
}
VOLATILE_WITH_POWER = {
    "energy_joule": "float",
    "energy_gross_joule": "float",
    "idle_mw": "float",
    "idle_std_mw": "float",
    "idle_drift_mw": "float or null",  # where the replayed log rose or fell over the block
    "energy_uncertainty_joule": "float or null",  # null where so few samples bound nothing
    "joule_per_output_token": "float",
    "power_mw_mean": "float",
    "power_mw_max": "float or null",  # null where no sample fell into so short a run
    "power_samples": "int",
    "power_period_ms": "float",
    "power_max_gap_ms": "float",
    "power_coverage": "float",
}
# The made answers take milliseconds, on a machine that is held up longer: their energy lies within the noise.
FLAGS_OF_SPEED = {"few_power_samples", "idle_drift", "idle_unstable", "negative_energy", "power_gap"}
# The names are pinned, not what this machine answers.
HOST_FACTS = "board", "board_start", "board_end", "engine"


def masked(value: Any, types: str) -> Any:
    """
    >>> masked(1.5, "float"), masked(None, "float"), masked(None, "float or null")
    ('<float>', None, '<float or null>')
    """
    kind = "null" if value is None else type(value).__name__
    return f"<{types}>" if kind in types.split(" or ") else value


def masked_run(record: dict[str, Any], volatile: dict[str, str]) -> dict[str, Any]:
    shown = {}
    for name, value in record.items():
        if name in volatile:
            value = masked(value, volatile[name])
        elif name in HOST_FACTS:
            value = list(value) if isinstance(value, dict) else value
        elif name == "flags":
            value = [flag for flag in value if flag not in FLAGS_OF_SPEED]
        shown[name] = value
    return shown


def masked_environment(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Host facts by name alone; paths relative to the test's folder."""
    text = json.dumps(record).replace(str(folder), "<folder>").replace(str(ROOT), "<root>")
    shown: dict[str, Any] = json.loads(text)
    for name in HOST_FACTS:
        if name in shown:
            shown[name] = list(shown[name])
    for name in ("env_id", "created_at"):
        shown[name] = masked(shown[name], "str")
    for model in shown["models"].values():
        model["mtime_ns"] = masked(model["mtime_ns"], "int")
    for resolved in shown["resolved"].values():
        resolved["offloaded"] = masked(resolved["offloaded"], "str or null")
    return shown


def hold_collected(name: str, folder: Path, volatile: dict[str, str]) -> None:
    runs = [masked_run(record, volatile) for record in read(folder / "runs.jsonl")]
    hold(f"chain/{name}.jsonl", as_lines(runs))
    environments = [masked_environment(record, folder) for record in read(folder / "runs.env.jsonl")]
    hold(f"chain/{name}.env.jsonl", as_lines(environments))


@pytest.fixture
def desk(tmp_path: Path, llama_cpp: object) -> Path:
    """A folder with a model that always says the same, and prompts of which the last does not fit."""
    flags = ("--arch", "llama", "--size", "tiny", "--name", "base")
    run("models/make_demo_model.py", "--outdir", ".", *flags, cwd=tmp_path)
    flags = ("--script", "The answer is A.", "--out", "made-1b-Q6_K.gguf")
    run("models/rewire_demo_model.py", "base.gguf", *flags, cwd=tmp_path)
    tasks = [
        {"question_id": task, "category": "writing", "L0": text, "L1": f"{text} It runs through Paris."}
        for task, text in ((1, "Name the river."), (2, "Name the bridge."))
    ]
    tasks.append({"question_id": 3, "category": "writing", "L0": "Go on.", "L1": "Go on. " * 200})
    (tmp_path / "prompts.jsonl").write_text(as_prompt_lines(tasks))
    return tmp_path


def as_prompt_lines(tasks: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(task) + "\n" for task in tasks)


COLLECT = (
    *("--models", "made-1b-Q6_K.gguf", "--prompts", "prompts.jsonl", "--levels", "L0", "L1"),
    *("--out_jsonl", "runs.jsonl", "--max_tokens", 12, "--n_threads", 1),
)


def test_records_without_power_and_with_a_prompt_too_long(desk: Path) -> None:
    flags = ("--source", "none", "--n_ctx", 256, "--repeats", 2, "--system", "Be short.")
    run("run_llamacpp_collect.py", *COLLECT, *flags, cwd=desk, status=1)
    hold_collected("collected_without_power", desk, VOLATILE_IN_A_RUN)


def test_records_beside_replayed_power(desk: Path) -> None:
    shutil.copy(ROOT / "data" / "demo" / "power_replay.log", desk / "power.log")
    flags = ("--source", "replay:power.log", "--idle_seconds", 1, "--ids", 1, 2)
    run("run_llamacpp_collect.py", *COLLECT, *flags, cwd=desk)
    hold_collected("collected_beside_replayed_power", desk, VOLATILE_IN_A_RUN | VOLATILE_WITH_POWER)


# --- the judge

ANSWERS = {
    (81, "L0"): "Short. QUALITY=0",
    (81, "L1"): "Better. QUALITY=2",
    (81, "P"): "Short. QUALITY=0",  # the same as L0: no call
    (82, "L0"): "",  # loses without a call
    (82, "L1"): "Plain. QUALITY=1",
    (82, "P"): "Long and fine. QUALITY=3",
    (83, "L0"): "Says UNCLEAR. QUALITY=1",  # its judge mumbles
    (83, "L1"): "Is first. QUALITY=1",
    (83, "P"): "Leans SLOT. QUALITY=1",  # its judge prefers what stands first
}
VOLATILE_IN_A_REPLY = {"duration_s": "float", "asked_at": "str"}


def fixed_verdict(first: str, second: str) -> str:
    both = first + second
    if "UNCLEAR" in both:
        return "Hard to say, really."
    return "A" if "SLOT" in both else honest(first, second)


def test_scores_and_journal(tmp_path: Path) -> None:
    tasks = sorted({task for task, _ in ANSWERS})
    questions = [
        {"question_id": task, "category": "writing", "turns": [f"Question {task}?"]} for task in tasks
    ]
    (tmp_path / "questions.jsonl").write_text(as_prompt_lines(questions))
    numbers = {"prompt_tokens": 9, "completion_tokens": 9, "latency_ms": 1.0, "energy_joule": 1.0}
    records = [
        {"id": task, "model_id": "made-1b", "level": level, **numbers, "output_text": text}
        for (task, level), text in ANSWERS.items()
    ]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "runs_llamacpp.jsonl").write_text(as_prompt_lines(records))
    files = ("--questions", "questions.jsonl", "--runs_root", "runs", "--out", "scores.csv")
    with JudgeStub(fixed_verdict) as stub:
        flags = ("--model", "gpt-4o", "--api_url", stub.url, "--reasks", 1, "--price_in", 2)
        printed = run("judge_pairs.py", *files, *flags, cwd=tmp_path, status=1)  # 1: two pairs lack a verdict
    hold("chain/judged.csv", (tmp_path / "scores.csv").read_bytes().decode("utf-8"))
    lines = read(tmp_path / "scores.journal.jsonl")
    lines.sort(key=lambda line: (line["task_id"], line["pair"], line["order"] or "", line["attempts"]))
    shown = [
        {
            name: masked(value, VOLATILE_IN_A_REPLY[name]) if name in VOLATILE_IN_A_REPLY else value
            for name, value in line.items()
        }
        for line in lines
    ]
    hold("chain/judged.journal.jsonl", as_lines(shown))
    hold("chain/judged.txt", printed)


# --- analysis, workbooks, page


def rounded(text: str) -> str:
    """Numbers with a point in them to nine digits and nine places: numpy's builds differ beyond.

    >>> rounded('{"a": 0.30000000000000004, "b": 1e-17, "c": 12, "d": "3.10", "e": "80113e77f"}')
    '{"a": 0.3, "b": 0.0, "c": 12, "d": "3.1", "e": "80113e77f"}'
    """

    def shorter(match: re.Match[str]) -> str:
        value = float(match[0])
        return "0.0" if abs(value) < 1e-9 else repr(float(f"{value:.9g}"))

    return re.sub(r"(?<![\w.])-?\d+(?:\.\d+(?:e[-+]?\d+)?|e[-+]?\d+)(?!\w)", shorter, text)


def without_fingerprints(text: str) -> str:
    """Without sizes and hashes of files whose last digits may differ, and without the versions of packages.

    >>> without_fingerprints('["analysis", "byte", "76206"] ["aggregation", "pandas", "2.3.3"]')
    '["analysis", "byte", "<byte>"] ["aggregation", "pandas", "<version>"]'
    """
    text = re.sub(r'("(?:pandas|openpyxl)", )"[\d.]+"', r'\1"<version>"', text)
    text = re.sub(r'("byte"[:,] )"?\d+"?', r'\1"<byte>"', text)
    # In full, or as the report shows them: the first 16 digits.
    return re.sub(r"(?<![\w.])(?:[0-9a-f]{64}|[0-9a-f]{16})\b", "<sha256>", text)


def cells(book: Path) -> Iterator[str]:
    """One line a row: the values of its cells, and their number formats where they are not General."""
    import openpyxl

    sheets = openpyxl.load_workbook(book)
    for sheet in sheets:
        yield f"## {book.stem} / {sheet.title}"
        for row in sheet.iter_rows():
            values = [cell.value for cell in row]
            formats = sorted({cell.number_format for cell in row} - {"General"})
            line = json.dumps(values, ensure_ascii=False, default=str)
            yield line + (f"   {formats}" if formats else "")


def page_without_drawing(page: str) -> str:
    """The page without its style, and of each chart what can be read: its label and its words, in order."""

    def words(match: re.Match[str]) -> str:
        label = re.search(r'aria-label="([^"]*)"', match[0])
        texts = re.findall(r"<text[^>]*>(.*?)</text>", match[0], re.S)
        spoken = [re.sub(r"<[^>]+>", "", text).strip() for text in texts]
        return "\n".join([f"[chart: {label[1] if label else ''}]", *(f"  {text}" for text in spoken)])

    page = re.sub(r"<style>.*?</style>", "<style>[page.css]</style>", page, flags=re.S)
    return re.sub(r"<svg.*?</svg>", words, page, flags=re.S)


def made_campaign(folder: Path) -> None:
    """Two models, four tasks, a placebo, simulated power; scores and the judge's journal."""
    flags = ("--models", "one-1b", "two-3b", "--levels", "L0", "L3", "P", "--tasks", 4, "--repeats", 2)
    run("tests/fakes/made_campaign.py", folder, *flags, "--power", "replay", cwd=folder)


def golden_records(folder: Path) -> None:
    """Records with failures, gaps and flags, and a few scores without a journal."""
    shutil.copy(GOLDEN / "runs.jsonl", folder / "runs_llamacpp.jsonl")
    rows = [
        (81, "L0_vs_L1", "B"),
        (82, "L0_vs_L1", "Tie"),
        (83, "L0_vs_L1", "A"),
        (84, "L0_vs_L1", "B"),
        (81, "L1_vs_P", "A"),
        (81, "L0_vs_P", "B"),
    ]
    with (folder / "scores_mtbench.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("task_id", "category", "model_id", "pair", "winner", "judge_model", "turn"))
        table.writerows(
            (task, "writing", "alpha-1b", pair, winner, "judge", 1) for task, pair, winner in rows
        )


CASES: dict[str, Callable[[Path], None]] = {"campaign": made_campaign, "records": golden_records}
RUNS = ("--runs", "runs_llamacpp.jsonl")
SCORES = ("--scores", "scores_mtbench.csv")


@pytest.fixture(scope="module", params=CASES)
def analysed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, str]:
    """(case, its folder with analysis.json, what analyze_levels printed); a test writes files of its own."""

    def make(folder: Path) -> None:
        CASES[request.param](folder)
        flags = ("--out", "analysis.json", "--resamples", 200)
        printed = run("companions/analyze_levels.py", *RUNS, *SCORES, *flags, cwd=folder)
        (folder / "printed.txt").write_text(printed, encoding="utf-8")

    folder = made_once(tmp_path_factory, f"goldens_{request.param}", make)
    return request.param, folder, (folder / "printed.txt").read_text(encoding="utf-8")


def test_analysis(analysed: tuple[str, Path, str]) -> None:
    case, folder, printed = analysed
    text = (folder / "analysis.json").read_text(encoding="utf-8")
    hold(f"chain/{case}.analysis.json", rounded(without_fingerprints(text)))
    hold(f"chain/{case}.analysis.txt", printed)


def test_verdicts(analysed: tuple[str, Path, str]) -> None:
    case, folder, _ = analysed
    status = 1 if case == "records" else 0
    hold(f"chain/{case}.check.txt", run("companions/check_runs.py", *RUNS, cwd=folder, status=status))


def test_workbooks(analysed: tuple[str, Path, str]) -> None:
    case, folder, _ = analysed
    files = (*RUNS, *SCORES, "--analysis", "analysis.json", "--outdir", "books")
    printed = run("aggregate_to_excels.py", *files, cwd=folder)
    hold(f"chain/{case}.books.stdout.txt", printed)
    lines = [line for book in BOOKS for line in cells(folder / "books" / f"{book}.xlsx")]
    hold(f"chain/{case}.books.txt", rounded(without_fingerprints("\n".join(lines) + "\n")))


def test_report(analysed: tuple[str, Path, str]) -> None:
    pytest.importorskip("matplotlib")
    case, folder, _ = analysed
    run("companions/report_page.py", *RUNS, "--analysis", "analysis.json", "--out", "report.html", cwd=folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    hold(f"chain/{case}.report.html", without_fingerprints(page_without_drawing(page)))
