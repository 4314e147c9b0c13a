"""One cell on the real engine: the output of plain decoding, exact counts, an end that leaves nothing."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgebench.engine.client import DraftGeneration
from edgebench.errors import UserError
from edgebench.shell.launch import room_command
from edgebench.speculation import cell as cells
from edgebench.speculation.cell import Beside, Cell, CellFailed, Clock, batch_of, run_cell, settings_from
from edgebench.speculation.settings import CellSettings
from edgebench.speculation.tokens import TokenPrompt

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = str(ROOT / "data/writing_prompts_hierarchical.csv")

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def chain(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("llama", chain=True))


@pytest.fixture(scope="module")
def draft_of(tiny_model: Callable[..., Path]) -> Callable[[float], str]:
    return lambda share: str(tiny_model("llama", chain=True, draft_accept=share, n_layer=1))


def settings(model: str | Path, **more: Any) -> CellSettings:
    return CellSettings(**{"model": str(model), "prompts": (PROMPTS,), "n_threads": 1, **more})


def test_a_document_has_the_published_names_and_exact_counts(
    chain: str, draft_of: Callable[[float], str]
) -> None:
    asked = settings(
        chain, draft=draft_of(0.7), drafter="model", threshold=0.5, requests=3, batches=2, max_tokens=20,
        draft_tokens=4, compare="every",
    )  # fmt: skip
    told: list[str] = []
    run = run_cell(
        asked, beside=Beside(lambda: told.append("loaded"), lambda: told.append("decoded"), told.append)
    )
    run = json.loads(json.dumps(run, allow_nan=False))
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
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(sorted(ends)))
    assert (told[0], told[-1]) == ("loaded", "decoded") and len(told) == 2 + 12
    assert told[1] == "batch 1/2, request 1/3" and "batch 2/2, plainly, request 3/3" in told


def test_plain_decoding_is_a_cell_of_its_own(tmp_path: Path, demo_models: dict[str, Path]) -> None:
    text = tmp_path / "prompts.txt"
    text.write_text("Name three rivers.\n\nWhat is a lock?\n")
    asked = settings(
        demo_models["llama"], prompts=(str(text),), requests=3, batches=1, max_tokens=8, prompt_format="raw"
    )
    run = run_cell(asked)
    (mode,) = run["summary"]["per_mode"]
    assert mode["nwor_mode"] == "vanilla" and run["plain"] == []
    assert mode["spec_acceptance_ratio"] is None and run["config"]["plain"] is True
    assert sorted({row["id"] for row in run["results"][0]["outputs"]}) == [1, 3]


def answer() -> DraftGeneration:
    """An answer of nothing but one id."""
    timed = {"t0_s": 0.0, "first_token_s": 0.1, "t1_s": 0.2, "draft_ms": 0.0, "verify_ms": 0.0}
    counts = dict.fromkeys(("steps", "drafted", "accepted", "stopped", "checks", "windows"), 0)
    return DraftGeneration((1,), "", "length", catch_up_ms=0.0, tries=(), hits=(), **timed, **counts)  # type: ignore[arg-type]


def test_warm_up_is_as_many_requests_as_asked_for_and_may_be_more_than_a_batch() -> None:
    asked: list[Any] = []

    def draft(ids: Sequence[int], *_: object) -> DraftGeneration:
        asked.append(ids[0])
        return answer()

    known = [TokenPrompt(1, None, "L0", (number,)) for number in range(3)]
    plain = settings("m", requests=2, batches=1, warmup=5, max_tokens=4)
    cell = Cell(SimpleNamespace(draft=draft), known, plain, Clock(None))  # type: ignore[arg-type]
    cell.prompts = known
    cell.warm_up()
    list(cell.batches(lambda _: None))
    assert asked == [0, 1, 2, 0, 1, 0, 1]  # five warm-ups, then the batch


def test_every_cell_of_a_seed_asks_the_same_requests_at_the_same_places() -> None:
    known = [TokenPrompt(number, None, "L0", (number,)) for number in range(10)]

    def asked(**more: Any) -> list[list[Any]]:
        one = settings("m", requests=36, batches=2, **more)
        ordered = cells.in_order(known, one.seed)
        return [[request.prompt.id for request in batch_of(ordered, batch, one)] for batch in range(2)]

    assert asked() == asked(drafter="lookup", draft_tokens=5) != asked(seed=7)
    assert len({*asked()[0]}) == 10


def test_the_engines_own_interface_agrees(tmp_path: Path, demo_models: dict[str, Path]) -> None:
    (tmp_path / "prompts.txt").write_text(
        "A red box and a red key and a red box.\n\nGo on.\n\nName a lock.\n"
    )
    same = {
        "prompts": (str(tmp_path / "prompts.txt"),),
        "drafter": "lookup",
        "cross_check": True,
        "batches": 1,
        "max_tokens": 30,
        "warmup": 0,
    }
    run = run_cell(settings(demo_models["llama"], requests=3, n_batch=32, **same))
    assert run["cross_check"] == {"identical": 3, "requests": 3, "reason": None}
    assert run["summary"]["per_mode"][0]["spec_num_draft_tokens"] > 0
    # A draft longer than the batch does not make the engine's own interface abort.
    run = run_cell(settings(demo_models["llama"], requests=1, n_batch=4, **same))
    assert run["cross_check"] == {"identical": 1, "requests": 1, "reason": None}


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"n_ctx": 256, "max_tokens": 400}, "--n_ctx"),
        ({"levels": ("L9",)}, "L9"),
        ({"prompts": ("/nowhere.csv",)}, "/nowhere.csv"),
    ],
)
def test_what_does_not_suit_is_told(demo_models: dict[str, Path], more: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        run_cell(settings(demo_models["llama"], **more))


def test_an_engine_that_refuses_fails_the_cell_with_its_reason(demo_models: dict[str, Path]) -> None:
    asked = settings(demo_models["llama"], draft=str(demo_models["qwen2"]), drafter="model")
    with pytest.raises(CellFailed, match="vocabulary"):
        run_cell(asked)


def test_a_cell_that_takes_too_long_is_ended_with_its_engine(
    chain: str, draft_of: Callable[[float], str]
) -> None:
    asked = settings(chain, draft=draft_of(0.7), drafter="model", batches=100_000, requests=2)
    with pytest.raises(CellFailed, match="took more than 3 s, see --cell_timeout"):
        run_cell(asked, timeout_s=3)
    told = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in told if b"engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_quantized_model_says_where_it_parts(tiny_model: Callable[..., Path]) -> None:
    """Whatever a batch rounds: identity or a first difference, never a wrong count."""
    target = tiny_model("llama", type="Q8_0")
    run = run_cell(settings(target, drafter="lookup", requests=3, batches=1, max_tokens=24))
    rows = run["results"][0]["outputs"]
    assert all((row["first_difference"] is None) == row["identical_to_plain"] for row in rows)
    (mode,) = run["summary"]["per_mode"]
    assert mode["identical_to_plain"] == sum(row["identical_to_plain"] for row in rows)


# --- As a process of its own, for a profiler


def test_the_settings_come_through_the_file_as_they_are() -> None:
    asked = settings("m.gguf", draft="d.gguf", drafter="model", threshold=0.5, levels=("L0", "L1"))
    assert settings_from(json.loads(json.dumps(asdict(asked)))) == asked
    assert settings_from({**asdict(asked), "unknown": 1}) == asked


def run_process(folder: Path, asked: CellSettings) -> subprocess.CompletedProcess[str]:
    (folder / "job.json").write_text(json.dumps(asdict(asked)))
    words = room_command("edgebench.speculation.cell", str(folder / "job.json"), str(folder / "out.json"))
    return subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=folder)


def test_a_cell_as_a_process_writes_its_document(tmp_path: Path, demo_models: dict[str, Path]) -> None:
    asked = settings(demo_models["llama"], drafter="lookup").shortened(1, 8)
    done = run_process(tmp_path, asked)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "out.json").read_text())
    assert run["plain"] == [] and len(run["results"]) == 1 and run["config"]["max_tokens"] == 8


def test_a_cell_as_a_process_says_what_is_wrong_in_one_line(tmp_path: Path, chain: str) -> None:
    done = run_process(tmp_path, settings(chain, prompts=("/nowhere.csv",)))
    assert done.returncode == 1 and not (tmp_path / "out.json").exists()
    assert done.stderr.splitlines()[-1].startswith("error: ") and "/nowhere.csv" in done.stderr
    assert "Traceback" not in done.stderr and sys.executable not in done.stderr
