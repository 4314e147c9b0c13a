"""The original experiment's document: its four commands, and its own lines on what they leave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPANIONS = ROOT / "companions"
needs_jq = pytest.mark.skipif(not (shutil.which("jq") and shutil.which("bc")), reason="jq or bc is not here")

# Verbatim from the document.
LATENCY_IMPROVEMENTS = """
# Compare adaptive off vs on
for f in sweeps/adaptive_grid/run*_adaptive0.json; do
    base=$(basename "$f" _adaptive0.json)
    lat0=$(jq -r '.summary.per_mode[0].latency_avg_s' "$f")
    lat1=$(jq -r '.summary.per_mode[0].latency_avg_s' "${f/_adaptive0/_adaptive1}")
    improvement=$(echo "scale=2; ($lat0 - $lat1) / $lat0 * 100" | bc)
    echo "$base: $improvement% improvement"
done
"""
BANDWIDTH_SAVINGS = """
# Compare threshold 0.0 vs 0.5
baseline=$(jq -r '.summary.per_mode[0].ncu_metrics."dram__bytes_write.sum"' \
sweeps/early_exit_grid/run1_r36_t128_temp0.0_thresh0.0.json)
threshold=$(jq -r '.summary.per_mode[0].ncu_metrics."dram__bytes_write.sum"' \
sweeps/early_exit_grid/run3_r36_t128_temp0.0_thresh0.5.json)
echo "Baseline: $baseline bytes"
echo "Threshold 0.5: $threshold bytes"
"""
INSTRUMENTATION_LOGS = """
# See how many tokens were stopped by confidence threshold
grep "Confidence early exit stats" sweeps/early_exit_grid/experiment.log
"""
# Prompts of a few tokens: reading the study's own ones would take most of the time, and no line looks at it.
QUICK = (
    *("--prompts", "prompts.csv", "--batches", "1", "--no_pilot", "--n_threads", "1"),
    *("--power_source", "none", "--idle_seconds", "0"),
)


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory, llama_cpp: object, tiny_model: Callable[..., Path]
) -> Path:
    """A folder with the models that the variables name, and a profiler that counts a little."""
    folder = tmp_path_factory.mktemp("desk")
    # Answers of five tokens: the document's sizes stay in the names.
    target = tiny_model("llama", script=["The answer is A."])
    draft = tiny_model("llama", mode="early", n_layer=1)
    shutil.copy(target, folder / "target.gguf")
    shutil.copy(draft, folder / "draft.gguf")
    (folder / "prompts.csv").write_text("question_id,L0\n1,Name three rivers.\n2,What is a lock?\n3,Go on.\n")
    (folder / "bin").mkdir()
    ncu = folder / "bin" / "ncu"
    ncu.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\nwords = sys.argv[1:]\n"
        "if '--import' in words:\n"
        "    print(pathlib.Path(words[words.index('--import') + 1]).read_text()); sys.exit()\n"
        "cell = json.loads(pathlib.Path(words[-2]).read_text())\n"
        'table = \'"ID","Kernel Name","dram__bytes_write.sum"\\n"","","byte"\\n"0","k","%d"\\n\'\n'
        "report = pathlib.Path(words[words.index('--export') + 1])\n"
        "report.write_text(table % (4000000 - 1000000 * cell['threshold']))\n"
    )
    ncu.chmod(0o755)
    return folder


def run(desk: Path, script: str, *words: str) -> str:
    """What a command of the document says on stderr."""
    env = {
        **os.environ,
        "TARGET_MODEL": "target.gguf",
        "DRAFT_MODEL": "draft.gguf",
        "TENSOR_PARALLEL_SIZE": "4",
    }
    env |= {"PATH": f"{desk / 'bin'}:{os.environ['PATH']}", "PYTHON": sys.executable}
    done = subprocess.run(
        [str(COMPANIONS / script), *QUICK, *words], cwd=desk, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "TENSOR_PARALLEL_SIZE=4 has no meaning on one board" in done.stderr
    return done.stderr


def lines_of(desk: Path, script: str) -> list[str]:
    done = subprocess.run(["bash", "-c", script], cwd=desk, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.splitlines()


@needs_jq
def test_the_adaptive_grid_and_the_documents_line_of_improvements(desk: Path) -> None:
    # Short answers; the names that the line looks for stay.
    run(desk, "run_adaptive_grid.sh", "--requests", "2", "--max_tokens", "8", "--temperature", "0.0")
    found = lines_of(desk, LATENCY_IMPROVEMENTS)
    files = sorted((desk / "sweeps/adaptive_grid").glob("run*_adaptive0.json"))
    assert len(found) == len(files) == 3
    for line, file in zip(found, files, strict=True):
        off, on = (
            json.loads(path.read_text())["summary"]["per_mode"][0]["latency_avg_s"]
            for path in (file, file.with_name(file.name.replace("_adaptive0", "_adaptive1")))
        )
        name, _, told = line.partition(": ")
        assert name == file.name.removesuffix("_adaptive0.json")
        assert float(told.removesuffix("% improvement")) == pytest.approx(100 * (off - on) / off, abs=1.01)


@needs_jq
def test_the_early_exit_grid_profiles_by_itself_and_the_documents_lines_work(desk: Path) -> None:
    words = ("--ncu_tokens", "4", "--temperature", "0.0")  # half of the grid: the lines look at this half
    said = run(desk, "run_early_exit_grid.sh", *words)
    assert "memory counters" in said
    assert lines_of(desk, BANDWIDTH_SAVINGS) == ["Baseline: 4000000 bytes", "Threshold 0.5: 3500000 bytes"]
    stats = lines_of(desk, INSTRUMENTATION_LOGS)
    assert len(stats) == 7  # five cells, and plain decoding of two workloads
    of_half = next(line for line in stats if "run3_r36_t128_temp0.0_thresh0.5" in line)
    assert " 0 tokens stopped" not in of_half
    assert run(desk, "run_early_exit_grid.sh", *words).count("0 to do") == 1  # all of it is done


def test_the_scenarios_and_everything(desk: Path) -> None:
    small = ("--requests", "2", "--max_tokens", "8", "--no_ncu")
    run(desk, "run_oneoff_scenarios.sh", *small)
    folder = desk / "sweeps/oneoff_scenarios"
    names = {path.stem for path in folder.glob("scenario_*.json")}
    assert {"scenario_a_code_completion", "scenario_b_chatbot", "scenario_c_high_throughput"} < names
    assert "scenario_d_creative_writing" in names and (folder / "experiment.log").exists()
    run(desk, "run_all_experiments.sh", *small, "--dry_run")


def test_run_all_is_the_three_grids(desk: Path) -> None:
    env = {**os.environ, "TARGET_MODEL": "target.gguf", "DRAFT_MODEL": "draft.gguf", "PYTHON": sys.executable}
    words = [str(COMPANIONS / "run_all_experiments.sh"), "--dry_run", "--outdir", "nowhere"]
    done = subprocess.run(words, cwd=desk, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folders = [line for line in done.stdout.splitlines() if line.startswith("nowhere/")]
    assert folders == ["nowhere/adaptive_grid", "nowhere/early_exit_grid", "nowhere/oneoff_scenarios"]


def test_without_a_model_the_variable_is_named(desk: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("TARGET_MODEL", "DRAFT_MODEL")}
    done = subprocess.run(
        [str(COMPANIONS / "run_adaptive_grid.sh")], env={**env, "PYTHON": sys.executable}, cwd=desk,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "set TARGET_MODEL" in done.stderr
