"""What pages of docs/ speak of and the demo does not leave: models, runs, boards, tables, a judge.

Blocks marked `<!-- stand-in: … -->` run among these, under the very names that the pages print.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from tests.conftest import run_maker
from tests.fakes.judge_stub import JudgeStub

ENDPOINT = "https://api.chatanywhere.tech/v1/chat/completions"
MODELS = {  # name: architecture; the collector refuses two copies of one file
    "gemma-2-2b-it-Q6_K": "gemma2",
    "Llama-3.2-1B-Instruct-Q6_K": "llama",
}
SIZES = {"qwen_1_5b": 1.5, "llama_8b": 8.0, "qwen_14b": 14.0}  # billions of parameters


def put_them(here: Path) -> None:
    """Into a clone in which the demo has run."""
    put_models(here)
    put_campaign(here)
    put_boards(here)
    put_tables(here)
    put_sweep(here)
    put_judge(here)


def put_models(here: Path) -> None:
    for name, arch in MODELS.items():
        flags = ("--size", "tiny", "--arch", arch, "--name", name)
        run_maker("make_demo_model.py", "--outdir", here / "models", *flags)


def put_campaign(here: Path) -> None:
    """The demo's runs as if they were those of the first tasks of the study."""
    lines = []
    for line in (here / "results" / "demo" / "runs_llamacpp.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        lines.append(json.dumps({**record, "id": record["id"] - 100}))
    (here / "results" / "runs_llamacpp.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def put_boards(here: Path) -> None:
    """The demo's runs twice, with the names of two boards in their environment records."""
    demo = here / "results" / "demo"
    environment = json.loads((demo / "runs_llamacpp.env.jsonl").read_text(encoding="utf-8").splitlines()[0])
    for board in ("Orin Nano", "AGX Orin"):
        folder = here / "boards" / board.replace(" ", "_")
        folder.mkdir(parents=True)
        (folder / "runs_llamacpp.jsonl.gz").write_bytes(
            gzip.compress((demo / "runs_llamacpp.jsonl").read_bytes())
        )
        environment["board"]["board"] = board
        (folder / "runs_llamacpp.env.jsonl").write_text(json.dumps(environment) + "\n", encoding="utf-8")


def put_tables(here: Path) -> None:
    from tests.forecasting.test_token2metrics_door import write_jetson, write_workbook  # skips without scipy

    for name, size in SIZES.items():
        write_workbook(here / "datasets" / "server" / f"{name}.xlsx", size)
        write_jetson(here / "datasets" / "tegra" / f"{name}.csv", size)


def put_sweep(here: Path) -> None:
    """Two cells under the original's names, and the line of its log."""
    grids = here / "sweeps"
    (grids / "adaptive_grid").mkdir(parents=True)
    (grids / "early_exit_grid").mkdir()
    for rule, latency_s in (("adaptive0", 2.0), ("adaptive1", 1.5)):
        cell = {"summary": {"per_mode": [{"latency_avg_s": latency_s}]}}
        path = grids / "adaptive_grid" / f"run1_r10_t16_temp0.0_d4_{rule}.json"
        path.write_text(json.dumps(cell), encoding="utf-8")
    (grids / "early_exit_grid" / "experiment.log").write_text("Confidence early exit stats: …\n")


def judge() -> JudgeStub:
    """What answers in place of ENDPOINT."""
    return JudgeStub("honest")


def asked_of(stub: JudgeStub, commands: str) -> str:
    """The commands with the stub's address in place of ENDPOINT."""
    return commands.replace(ENDPOINT, f"{stub.url}/chat/completions")


def put_judge(here: Path) -> None:
    """A model that says A whatever it is asked, in place of the demo's."""
    models = here / "models" / "demo"
    run_maker(
        "rewire_demo_model.py",
        models / "SmolLM2-135M-Instruct-Q4_1.gguf",
        "--script",
        "[[A]]",
        "--out",
        models / "judge.gguf",
    )
    (models / "judge.gguf").replace(models / "SmolLM2-135M-Instruct-Q4_1.gguf")
