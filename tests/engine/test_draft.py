"""Draft models that nearly fit, refusals without a surplus, and a cell that is stopped."""

from __future__ import annotations

import importlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")

from edgebench.engine import draft as draft_worker

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "edgebench/speculation/cell.py"
PROMPTS = ROOT / "data/writing_prompts_hierarchical.csv"


def rewired(base: Path, out: Path, change: Callable[[Any, Any], None]) -> Path:
    """A copy of a demo model, changed."""
    maker = importlib.import_module("rewire_demo_model")
    model = maker.read_model(base)
    change(maker, model)
    maker.write_model(model, out, out.stem)
    return out


def pad(maker: Any, model: Any) -> None:
    """16 tokens more than the target has, as sizes padded for the hardware give, and likely ones."""
    maker.add_pieces(model, [f"<pad{number}>" for number in range(16)])
    model.output[-16:] = 0
    model.output[-16:, model.facts["demo.channels"][0]] = 60 * model.output_unit


def move_end(_maker: Any, model: Any) -> None:
    model.facts["tokenizer.ggml.eos_token_id"] += 1


def command(model: Path, out: Path, *flags: object) -> list[str]:
    given = ["--model", model, "--prompts", PROMPTS, "--out", out, "--n_threads", 1, *flags]
    return [sys.executable, str(SCRIPT), *map(str, given)]


@pytest.fixture(scope="module")
def pair(tiny_model: Callable[..., Path]) -> tuple[Path, Path]:
    return tiny_model("llama", chain=True), tiny_model("llama", chain=True, n_layer=1)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_draft_never_proposes_a_token_that_the_model_does_not_have(
    pair: tuple[Path, Path], tmp_path: Path, temperature: float
) -> None:
    draft = rewired(pair[1], tmp_path / "padded.gguf", pad)
    out = tmp_path / "r.json"
    flags = ("--draft", draft, "--temperature", temperature, "--requests", 1, "--max_tokens", 16)
    done = subprocess.run(
        command(pair[0], out, *flags, "--batches", 1), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["summary"]["per_mode"][0]["spec_acceptance_ratio"] == 1.0


def test_a_draft_with_another_end_of_text_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    draft = rewired(pair[1], tmp_path / "end.gguf", move_end)
    done = subprocess.run(
        command(pair[0], tmp_path / "r.json", "--draft", draft), capture_output=True, text=True
    )
    assert done.returncode == 1 and "EOS" in done.stderr and "Traceback" not in done.stderr


def test_a_refusal_without_any_surplus_still_says_a_possible_token() -> None:
    """Rounding can refuse a guess where p = q: the draw is then from p, not the last token."""
    np = pytest.importorskip("numpy")

    class Refusing(random.Random):
        def random(self) -> float:
            return 0.999999

    row = np.array([5.0, 5.0, -50.0], np.float32)
    drafted = draft_worker.softmax(row, 1.0) + 1e-5
    assert draft_worker.judge_guess(row, 0, drafted, 1.0, Refusing()) in (0, 1)


def test_ctrl_c_leaves_no_file_and_no_process(pair: tuple[Path, Path], tmp_path: Path) -> None:
    flags = ("--draft", pair[1], "--batches", 100_000, "--requests", 2)
    process = subprocess.Popen(
        command(pair[0], tmp_path / "r.json", *flags), stderr=subprocess.PIPE, stdout=subprocess.PIPE
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


def test_the_engine_ends_with_a_cell_that_is_killed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    flags = ("--draft", pair[1], "--batches", 100_000, "--requests", 2)
    process = subprocess.Popen(command(pair[0], tmp_path / "r.json", *flags), stderr=subprocess.PIPE)
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
