"""Requirement 003's Quick Reference, line by line: each runs, or is answered with the word to use.

`llm-energy-measure` is companions/run_experiment.py here, and a model is a GGUF file.
"""

from __future__ import annotations

import functools
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from companions.run_experiment import main
from tests.experiments.desk import Desk


@pytest.fixture
def here(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The desk's folder, in which the commands are given; no hub answers."""
    monkeypatch.chdir(desk.root)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", "none")
    (desk.root / "set.txt").write_text("one\ntwo\nthree\nfour\n")
    (desk.root / "configs").mkdir()
    for name in ("test", "other"):
        (desk.root / f"configs/{name}.yaml").write_text(
            "models: [m.gguf]\nfp_precision: float16\nmax_output_tokens: 16\naggregate: false\n"
        )
    return desk.root


def say(line: str) -> int:
    try:
        return main(shlex.split(line))
    except SystemExit as ended:
        return int(str(ended.code))


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("config validate configs/test.yaml", 0, ["valid, id test-"]),
        ("config show configs/test.yaml", 0, ['"max_tokens": 16']),
        ("config new", 0, ["cycles: 1"]),
        ("config new --preset benchmark", 0, ["cycles: 3", "warm_up: 1"]),
        ("config generate-grid configs/test.yaml --vary batch_size=1,2,4,8", 0, ["batch_sizes_8.yaml"]),
        (
            "config generate-grid configs/test.yaml --vary batch_size=1,2,4,8"
            " --vary fp_precision=float16,float32 --output-dir ./grid/",
            1,
            ["vary the files: --vary models=a-F16.gguf,a-Q6_K.gguf"],
        ),
        ("gpus", 0, ["CPU"]),
        ("presets", 0, ["quick-test: ", "benchmark: ", "throughput: "]),
        ("config presets", 0, ["quick-test: ", "benchmark: ", "throughput: "]),
        ("results --output nowhere list", 0, ["no experiments in nowhere"]),
        ("results list --output nowhere", 0, ["no experiments in nowhere"]),
        ("results --json list", 0, ["[]"]),
        ("datasets", 0, ["alpaca", "gsm8k", "mmlu", "sharegpt"]),
        ("aggregate --all", 0, []),
        ("aggregate gone --force", 1, ["which experiment is gone?"]),
        ("results list", 0, ["no experiments in"]),
        ("results list --all", 0, ["no experiments in"]),
        ("results show gone --raw", 1, ["which experiment is gone?"]),
        # alpaca lies on a hub, and none answers here.
        ("experiment configs/test.yaml --dataset alpaca -n 100", 1, ["alpaca comes from a hub"]),
        ("batch configs/*.yaml --dataset alpaca -n 100", 1, ["alpaca comes from a hub"]),
        ("experiment --preset quick-test --model TinyLlama/TinyLlama-1.1B-Chat-v1.0 -d set.txt", 1, ["GGUF"]),
        ("experiment --resume gone", 1, ["which experiment is gone?"]),
    ],
)
def test_a_line_is_answered(
    here: Path, capsys: pytest.CaptureFixture[str], line: str, status: int, words: list[str]
) -> None:
    assert say(line) == status
    out, err = capsys.readouterr()
    assert all(word in out + err for word in words), out + err
    assert "Traceback" not in err


RUNS = [
    "experiment configs/test.yaml --dataset set.txt -n 2",
    "experiment --preset quick-test --model m.gguf -d set.txt",
    "experiment configs/test.yaml -d set.txt --cycles 2",
    "experiment configs/test.yaml -d set.txt -c 2 --no-aggregate",
    "experiment configs/test.yaml -d set.txt --fresh",
    "experiment configs/test.yaml -d set.txt --precision float16 --max-tokens 256",
    "experiment configs/test.yaml -d set.txt --seed 7 --num-processes 2 --gpu-list 0,1 --temperature 0.7",
    "experiment configs/test.yaml -d set.txt --quantization",
    "experiment configs/test.yaml -d set.txt --no-quantization -b 1 --max_tokens 256",
]


@pytest.mark.parametrize("line", RUNS)
def test_an_experiment_that_is_understood_is_the_one_meant(
    here: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    """What each line would run; that it runs is test_the_lines_of_a_session."""
    assert say(f"{line} --dry-run") == 0
    out, err = capsys.readouterr()
    shown = json.loads(out)
    config = shown["config"]
    assert config["models"] == ["m.gguf"] and config["dataset"]["source"] == "set.txt"
    if "256" in line:
        assert config["generation"]["max_tokens"] == 256
    for word in ("precision", "num-processes", "gpu-list", "quantization"):
        if f"--{word}" in line:
            assert f"{word.replace('-', '_')} " in err and "is left out: " in err
    assert err.count("\n") == len(shown["notes"])


def test_a_batch_size_of_the_document_is_mode_throughput(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "experiment configs/test.yaml -d set.txt -b 4 --precision float16 --max-tokens 256 --dry-run"
    assert say(line) == 0
    config: dict[str, Any] = json.loads(capsys.readouterr().out)["config"]
    assert (config["mode"], config["batch_sizes"]) == ("throughput", [4])
    assert say(line.replace("-b 4", "-b 8")) == 1
    assert "a batch of 8 needs 8 prompts, and there are 4" in capsys.readouterr().err


@pytest.mark.slow
def test_the_lines_of_a_session(desk: Desk, here: Path) -> None:
    for line in RUNS:
        done = desk(*shlex.split(line))
        assert done.returncode == 0, (line, done.stderr)
    done = desk("batch", "configs/*.yaml", "--dataset", "set.txt", "-n", "2")
    assert done.returncode == 0 and done.stdout.count(": done") == 2, done.stderr
    done = desk("batch", "configs/*.yaml", "--parallel", "4", "--dataset", "set.txt", "-n", "2")
    assert done.returncode == 1 and "share one meter" in done.stderr
    shown = desk("results", "list").stdout.splitlines()
    assert len(shown) >= len(RUNS) - 2 and all(line.startswith("completed") for line in shown)
    name = shown[0].split()[-1]
    for words in (["aggregate", name], ["aggregate", name, "--force"], ["results", "show", name, "--json"]):
        assert desk(*words).returncode == 0, words


# --- One process answers


STARTS = ("subprocess.Popen", "os.fork", "os.exec", "os.posix_spawn", "os.system")
started: list[str] = []  # an audit hook cannot be taken away again: one for all tests


@functools.cache
def count_starts() -> None:
    sys.addaudithook(lambda event, given: started.append(event) if event in STARTS else None)


@pytest.mark.parametrize(
    "line",
    [
        "presets", "datasets", "devices", "config validate exp.yaml", "config show exp.yaml", "config new",
        "results list", "results show exp", "status", "stop",
    ],
)  # fmt: skip
def test_a_reading_command_is_one_process(finished: Desk, line: str) -> None:
    count_starts()
    before = len(started)
    done = finished(*line.split())
    assert done.returncode == 0, done.stderr
    assert started[before:] == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, tree: Path) -> Desk:
    """A desk with one finished experiment."""
    desk = Desk(tmp_path_factory.mktemp("finished"), tiny_model("llama"), tree)
    count_starts()
    assert desk("run", "exp.yaml", "--cycles", "1").returncode == 0
    assert {"os.exec", "subprocess.Popen"} <= set(started)  # the conductor and its collector are seen
    return desk
