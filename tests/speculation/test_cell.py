"""Speculative decoding: the same output as plain decoding, exact counts, draft lengths that pay."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgebench.engine.client import DraftGeneration
from edgebench.speculation import cell as speculate
from edgebench.speculation.tokens import TokenPrompt

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "edgebench/speculation/cell.py"
PROMPTS = ROOT / "data/writing_prompts_hierarchical.csv"

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def chain(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("llama", chain=True))


@pytest.fixture(scope="module")
def draft_of(tiny_model: Callable[..., Path]) -> Callable[[float], str]:
    return lambda share: str(tiny_model("llama", chain=True, draft_accept=share, n_layer=1))


# --- The command ---


def drafted(token_ids: tuple[int, ...]) -> DraftGeneration:
    """An answer of nothing but ids."""
    timed = {"t0_s": 0.0, "first_token_s": 0.1, "t1_s": 0.2, "draft_ms": 0.0, "verify_ms": 0.0}
    counts = dict.fromkeys(("steps", "drafted", "accepted", "stopped", "checks", "windows"), 0)
    return DraftGeneration(
        token_ids,
        "",
        "length",
        catch_up_ms=0.0,
        tries=(),
        hits=(),
        **timed,
        **counts,  # type: ignore[arg-type]
    )


def command(*flags: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(SCRIPT), *map(str, flags)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


def test_a_run_file_has_the_published_names_and_exact_counts(
    tmp_path: Path, chain: str, draft_of: Callable[[float], str]
) -> None:
    out = tmp_path / "sweeps/run.json"
    small = ("--requests", 3, "--batches", 2, "--max_tokens", 20, "--draft_tokens", 4, "--compare", "every")
    models = ("--model", chain, "--draft", draft_of(0.7), "--threshold", 0.5)
    done = command(*models, "--prompts", PROMPTS, "--out", out, *small)
    assert done.returncode == 0, done.stderr
    run = json.loads(out.read_text())
    (mode,) = run["summary"]["per_mode"]
    rows = [row for batch in run["results"] for row in batch["outputs"]]
    assert mode["nwor_mode"] == "adaptive=0,threshold=0.5" and mode["batches"] == 2 and len(rows) == 6
    assert mode["spec_num_draft_tokens"] == sum(row["drafted"] for row in rows) > 0
    assert mode["spec_acceptance_ratio"] == mode["spec_num_accepted_tokens"] / mode["spec_num_draft_tokens"]
    assert mode["tokens_stopped_by_confidence"] == sum(row["stopped"] for row in rows)
    assert mode["identical_to_plain"] == mode["compared_with_plain"] == 6
    assert all(row["first_difference"] is None for row in rows)
    assert sum(place["accepted"] for place in mode["accept_by_position"]) == mode["spec_num_accepted_tokens"]
    latencies = [batch["latency_s"] for batch in run["results"]]
    assert mode["latency_avg_s"] == pytest.approx(sum(latencies) / 2)
    assert [batch["nwor_mode"] for batch in run["plain"]] == ["vanilla", "vanilla"]
    ends = [(batch["t0_s"], batch["t1_s"]) for batch in (*run["results"], *run["plain"])]
    ordered = sorted(ends)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(ordered))
    assert "Confidence early exit stats: " in done.stdout


def test_plain_decoding_is_a_run_of_its_own(tmp_path: Path, demo_models: dict[str, Path]) -> None:
    text = tmp_path / "prompts.txt"
    text.write_text("Name three rivers.\n\nWhat is a lock?\n")
    out = tmp_path / "plain.json"
    small = ("--requests", 3, "--batches", 1, "--max_tokens", 8, "--prompt_format", "raw")
    done = command("--model", demo_models["llama"], "--plain", "--prompts", text, "--out", out, *small)
    assert done.returncode == 0, done.stderr
    run = json.loads(out.read_text())
    assert run["summary"]["per_mode"][0]["nwor_mode"] == "vanilla" and run["plain"] == []
    assert run["summary"]["per_mode"][0]["spec_acceptance_ratio"] is None
    assert sorted({row["id"] for row in run["results"][0]["outputs"]}) == [1, 3]


def test_warm_up_is_as_many_requests_as_asked_for_and_may_be_more_than_a_batch() -> None:
    asked: list[Any] = []

    def draft(ids: Sequence[int], *_: object) -> DraftGeneration:
        asked.append(ids[0])
        return drafted((1,))

    args = SimpleNamespace(requests=2, batches=1, warmup=5, max_tokens=4, seed=1, plain=True, compare="first")
    args.temperature, args.adaptive, args.threshold = 0.0, "off", 0.0
    known = [TokenPrompt(1, None, "L0", (number,)) for number in range(3)]
    list(speculate.run_batches(SimpleNamespace(draft=draft), known, args))  # type: ignore[arg-type]
    assert asked == [0, 1, 2, 0, 1, 0, 1]  # five warm-ups, then the batch


def test_the_engines_own_interface_agrees(tmp_path: Path, demo_models: dict[str, Path]) -> None:
    out = tmp_path / "run.json"
    small = ("--requests", 3, "--batches", 1, "--max_tokens", 30, "--n_batch", 32, "--warmup", 0)
    done = command(
        "--model", demo_models["llama"], "--prompts", PROMPTS, "--out", out, "--cross_check", *small
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["cross_check"] == {"identical": 3, "requests": 3, "reason": None}


def test_a_draft_longer_than_the_batch_does_not_make_the_engines_own_interface_abort(
    tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    out = tmp_path / "run.json"
    small = ("--requests", 1, "--batches", 1, "--max_tokens", 30, "--n_batch", 4, "--warmup", 0)
    done = command(
        "--model", demo_models["llama"], "--prompts", PROMPTS, "--out", out, "--cross_check", *small
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["cross_check"] == {"identical": 1, "requests": 1, "reason": None}


def test_a_place_that_cannot_be_written_to_is_told_before_the_work(
    tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    (tmp_path / "file").touch()
    done = command(
        "--model", demo_models["llama"], "--prompts", PROMPTS, "--out", tmp_path / "file" / "run.json"
    )
    assert done.returncode == 1 and "error: " in done.stderr and "batch 1" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--threshold", "0.5"), "--draft"),
        (("--drafter", "model"), "--draft"),
        (("--requests", "0"), "--requests"),
        (("--n_ctx", "256", "--max_tokens", "400"), "--n_ctx"),
        (("--draft", "missing.gguf"), "missing.gguf"),
        (("--levels", "L9"), "L9"),
        (("--prompts", "/nowhere.csv"), "/nowhere.csv"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, demo_models: dict[str, Path], flags: tuple[str, ...], word: str
) -> None:
    out = tmp_path / "run.json"
    done = command("--model", demo_models["llama"], "--prompts", PROMPTS, "--out", out, *flags)
    assert done.returncode == 1 and not out.exists()
    assert done.stderr.splitlines()[-1].startswith("error: ") and word in done.stderr
    assert "Traceback" not in done.stderr


def test_a_quantized_model_says_where_it_parts(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    prompt = TokenPrompt(1, None, "L0", (7, 8))
    rows = [
        speculate.request_row(prompt, drafted(ours), drafted(theirs))
        for ours, theirs in (((1, 2, 3), (1, 2, 3)), ((1, 2, 3), (1, 9, 3)), ((1, 2), (1, 2, 3)))
    ]
    assert [row["first_difference"] for row in rows] == [None, 1, 2]


# --- A cell that is stopped ---


def words_for(model: str, out: Path, *flags: object) -> list[str]:
    given = ["--model", model, "--prompts", PROMPTS, "--out", out, "--n_threads", 1, *flags]
    return [sys.executable, str(SCRIPT), *map(str, given)]


def test_ctrl_c_leaves_no_file_and_no_process(
    chain: str, draft_of: Callable[[float], str], tmp_path: Path
) -> None:
    flags = ("--draft", draft_of(0.7), "--batches", 100_000, "--requests", 2)
    process = subprocess.Popen(
        words_for(chain, tmp_path / "r.json", *flags), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stderr
    assert b"batch 1" in process.stderr.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.send_signal(signal.SIGINT)
    _, words = process.communicate()
    assert process.returncode == 130 and b"Traceback" not in words
    assert list(tmp_path.iterdir()) == []
    while Path(f"/proc/{children[0]}").exists():
        time.sleep(0.02)


def test_the_engine_ends_with_a_cell_that_is_killed(
    chain: str, draft_of: Callable[[float], str], tmp_path: Path
) -> None:
    flags = ("--draft", draft_of(0.7), "--batches", 100_000, "--requests", 2)
    process = subprocess.Popen(words_for(chain, tmp_path / "r.json", *flags), stderr=subprocess.PIPE)
    assert process.stderr
    assert b"batch 1" in process.stderr.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    process.stderr.close()
    while children and running(children[0]):
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


def running(pid: str) -> bool:
    """Whether the process is there and more than a zombie: nobody may collect an orphan here."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
