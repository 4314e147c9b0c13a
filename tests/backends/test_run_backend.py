"""One engine, one run, one row: what the commands do, what the row says, how failures end."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.backends.engines.catalogue import commands_of, engine_name
from edgebench.backends.engines.engine import Asked
from edgebench.backends.job import JobSettings, make_job
from edgebench.backends.reading import readable
from edgebench.backends.rows import agreement, common_length, measure
from edgebench.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "tests" / "fakes" / "fake_engines.py"
PROMPT = "Tell me of a dog."


def asked(job: Path, engine: str, **more: Any) -> Asked:
    return Asked(engine=engine_name(engine), work=job.parent, **more)


def row(job: Path, engine: str, **more: Any) -> dict[str, Any]:
    return measure(json.loads(job.read_text()), asked(job, engine, **more))


def settings(model: Path, max_tokens: int = 24) -> JobSettings:
    return JobSettings(model, prompt=PROMPT, max_tokens=max_tokens, n_gpu_layers=0)


@pytest.fixture(scope="module")
def job(llama_cpp, tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    work = tmp_path_factory.mktemp("job")
    make_job(settings(tiny_model("qwen3", mode="never", type="Q8_0", n_layer=1)), work)
    return work / "job.json"


@pytest.fixture
def fakes(tmp_path: Path) -> Callable[..., Path]:
    """A folder with llama.cpp's programs, played; steered by what is given."""

    def make(**steer: object) -> Path:
        for name in ("llama-bench", "llama-completion", "llama-server"):
            program = tmp_path / name
            if not program.exists():
                program.write_text(f"#!{sys.executable}\n" + FAKE.read_text())
                program.chmod(0o755)
        (tmp_path / "FAKE").write_text(json.dumps(steer))
        return tmp_path

    return make


def test_the_job_is_the_same_work_for_all(job: Path) -> None:
    made = json.loads(job.read_text())
    assert len(made["reference_ids"]) == len(made["reference_ends"]) == made["max_tokens"] == 24
    assert made["reference_ends"][-1] == len(made["reference_text"])
    assert json.loads(job.with_name("prompt_ids.json").read_text()) == made["prompt_ids"]
    # The chat template's own words are in what text tools read, and the prompt is within them.
    assert PROMPT in job.with_name("prompt.txt").read_text() and len(made["prompt_ids"]) > len(PROMPT) / 4


def test_an_answer_that_ends_early_shortens_everyones(llama_cpp, tiny_model, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = tiny_model("llama", script=["The answer is A. It is not B, and it is not C, as one can see."])
    made = make_job(settings(model, 200), tmp_path)
    assert 16 <= made["max_tokens"] < made["asked_tokens"] == 200
    assert made == json.loads((tmp_path / "job.json").read_text()) and made["reference_ended"]
    short = tiny_model("llama", script=["The answer is A."])
    with pytest.raises(UserError, match="too few to time"):
        make_job(settings(short), tmp_path)


@pytest.mark.parametrize("content", [b"", b"GGUFgarbage"])
def test_a_broken_model_is_an_error_with_its_reason(tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "broken.gguf"
    model.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.gguf"):
        make_job(settings(model), tmp_path)


def test_the_collector_runs_and_agrees_with_the_reference(job: Path) -> None:
    found = row(job, "llama-cpp-python")
    assert found["status"] == "ok", found["cause"]
    assert found["generated_tokens"] == 24 and found["first_difference"] is None
    assert found["ttft_ms"] > 0 and found["decode_tok_per_s"] > 0 and found["t1_s"] > found["t0_s"]
    # The stored command is the one that was run: it runs again.
    again = subprocess.run(["bash", "-c", found["commands"][0]], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr


def test_llama_bench_is_asked_for_the_same_lengths(job: Path, fakes: Callable[..., Path]) -> None:
    found, made = row(job, "llama-bench", llama_bin=fakes()), json.loads(job.read_text())
    assert found["status"] == "ok", found["cause"]
    assert found["prompt_tokens"] == made["prompt_tokens"] and found["generated_tokens"] == 24
    assert found["prefill_tok_per_s"] == pytest.approx(4335.6)
    assert found["decode_tok_per_s"] == pytest.approx(2424.9)
    assert found["ttft_ms"] is None and found["agreed_tokens"] is None
    assert f"-d {made['prompt_tokens']}" in found["commands"][1]
    # Prefill and decode are two processes: the answer is the timed run of each, and no start-up.
    took_s = [end_s - begin_s for begin_s, end_s in found["spans_s"]]
    assert took_s == pytest.approx([made["prompt_tokens"] / 4335.6, 24 / 2424.9])
    assert found["spans_s"][0][1] < found["spans_s"][1][0]


def test_llama_completion_must_have_read_the_same_tokens(job: Path, fakes: Callable[..., Path]) -> None:
    found = row(job, "llama-completion", llama_bin=fakes())
    assert found["status"] == "ok", found["cause"]
    assert found["generated_tokens"] == 24 and found["first_difference"] is None
    assert found["agreement_by"] == "text" and found["decode_tok_per_s"] == pytest.approx(2300)
    assert row(job, "llama-cli", llama_bin=fakes())["status"] == "ok"
    (command,) = commands_of(json.loads(job.read_text()), asked(job, "llama-cli", llama_bin=fakes()))
    assert "llama-completion -m" in command.shell()
    other = row(job, "llama-completion", llama_bin=fakes(prompt_ids=[1, 2]))
    assert other["status"] == "FAILED" and "2 prompt tokens" in other["cause"]
    made = json.loads(job.read_text())
    parted = made["reference_text"][: made["reference_ends"][9]] + "%%"
    third = row(job, "llama-completion", llama_bin=fakes(text=parted))
    assert third["first_difference"] == 10
    assert third["margin_logit"] == made["reference_margins"][10] > 0
    ((begin_s, end_s),) = found["spans_s"]
    assert begin_s < end_s


def test_the_server_streams_ids(job: Path, fakes: Callable[..., Path]) -> None:
    ids = json.loads(job.read_text())["reference_ids"]
    found = row(job, "llama-server", llama_bin=fakes(tokens=[*ids[:7], ids[7] + 1, *ids[8:]]), warmup=1)
    assert found["status"] == "ok", found["cause"]
    assert found["first_difference"] == found["agreed_tokens"] == 7 and len(found["token_ids"]) == 24
    assert found["warmup"] and found["t1_s"] > found["t0_s"]
    assert readable(found) == (found, [])  # nothing of a row of ours is taken as missing


@pytest.mark.parametrize(
    ("engine", "steer", "said"),
    [
        ("llama-bench", {"fail": "CUDA error: out of memory"}, "out of memory"),
        ("llama-completion", {"fail": "error: failed to load model"}, "failed to load model"),
        ("llama-server", {"fail": "error: no such device"}, "no such device"),
        ("llama-server", {"http": 503}, "HTTP 503"),
        ("llama-server", {"tokens": []}, "no token ids"),
    ],
)
def test_a_failure_is_a_row_with_its_cause(
    job: Path, fakes: Callable[..., Path], engine: str, steer: dict[str, object], said: str
) -> None:
    found = row(job, engine, llama_bin=fakes(**steer))
    assert found["status"] == "FAILED" and said in found["cause"]
    assert found["decode_tok_per_s"] is None and found["commands"]


def test_a_failed_collector_says_why(job: Path, tmp_path: Path) -> None:
    made = json.loads(job.read_text())
    for name in ("prompt.jsonl", "prompt_ids.json", "prompt.txt"):
        (tmp_path / name).write_text(job.with_name(name).read_text())
    (tmp_path / "job.json").write_text(json.dumps({**made, "max_tokens": 1_000_000}))
    found = row(tmp_path / "job.json", "llama-cpp-python")
    assert found["status"] == "FAILED" and "verdicts:" not in found["cause"]


def test_an_engine_that_hangs_is_ended(job: Path, fakes: Callable[..., Path]) -> None:
    folder = fakes(hang=True)
    found = row(job, "llama-bench", llama_bin=folder, timeout_s=3)
    assert found["status"] == "FAILED" and "no end within 3 s" in found["cause"]
    pid = int((folder / "PID").read_text())
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("engine", ["llama-bench", "llama-completion", "llama-server"])
def test_a_missing_tool_says_how_to_get_it(job: Path, tmp_path: Path, engine: str) -> None:
    found = row(job, engine, llama_bin=tmp_path)
    assert found["status"] == "MISSING" and "cmake" in found["cause"] and "--llama_bin" in found["cause"]


def test_missing_tinygrad_and_checkout_say_how_to_get_them(job: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    found = row(job, "tinygrad:NV", tinygrad_python=str(python))
    assert found["status"] == "MISSING" and "pip install tinygrad" in found["cause"]
    found = row(job, "tinygrad-gpt2:NV", tinygrad_dir=tmp_path)
    assert found["status"] == "MISSING" and "git clone" in found["cause"]


EXAMPLES = {
    "gpt2": ("using NV backend\nusing gpt2\n" + "".join(
        f"ran model in {ms} ms\n" for ms in [2656.69, 1814.8, 842.8, 227.5, *[25.6, 25.5, 25.7] * 10])),
    "llama3": ("using CUDA backend\nseed = 42\n" + "".join(
        f"enqueue in   5.84 ms\ntotal {ms} ms, 3.30 tok/s\n" for ms in [2643.78, *[302.6, 302.7] * 10])),
}  # fmt: skip


@pytest.mark.parametrize(("name", "device", "rate"), [("gpt2", "NV", 39.06), ("llama3", "CUDA", 3.304)])
@pytest.mark.parametrize("switch", ["DEV", "plain"])
def test_examples_of_a_checkout(
    job: Path, tmp_path: Path, name: str, device: str, rate: float, switch: str
) -> None:
    """A checkout whose example prints the real lines, and asserts on the switch its version does not take."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "tinygrad").mkdir()
    told = 'x = "is deprecated, use DEV"' if switch == "DEV" else ""
    (tmp_path / "tinygrad" / "device.py").write_text(told)
    wanted = (
        f"os.environ.get('DEV') == '{device}'" if switch == "DEV" else f"os.environ.get('{device}') == '1'"
    )
    program = f"import os\nassert {wanted}\nprint({EXAMPLES[name]!r})\n"
    (tmp_path / "examples" / f"{name}.py").write_text(program)
    found = row(job, f"tinygrad-{name}:{device}", tinygrad_dir=tmp_path)
    assert found["status"] == "ok", found["cause"]
    assert found["decode_tok_per_s"] == pytest.approx(rate, rel=0.005)
    assert found["same_work"] is False and found["warmup_excluded"] in (1, 4)
    assert found["commands"][0].startswith("cd ")


def test_where_tinygrad_failed_is_told_with_the_line(tmp_path: Path) -> None:
    """tinygrad 0.13's NV knows no Hopper: an H200 ended in a bare StopIteration, whose line says it all."""
    from edgebench.backends.drive_tinygrad import place_of

    (tmp_path / "tinygrad").mkdir()
    file = tmp_path / "tinygrad" / "ops_nv.py"
    file.write_text(
        "def check(status):\n    raise RuntimeError(f'CUDA Error {status}')\n"
        "def choose(has):\n    compute_class = next(c for c in ['ADA', 'AMPERE'] if c in has)\n"
        "def launch():\n    check(1)\n"
        "def cuGraphAddKernelNode():\n    return 1\n"
        "def graph():\n    check(cuGraphAddKernelNode() and 1)\n"
    )
    names: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    with pytest.raises(StopIteration) as bare:
        names["choose"](["HOPPER"])
    said = place_of(bare.value)
    assert said.startswith(
        " (in ops_nv.py, choose: compute_class = next(c for c in ['ADA', 'AMPERE'] if c in"
    )
    assert "knows no GPU of this generation; try CUDA" in said
    with pytest.raises(RuntimeError) as checked:
        names["launch"]()
    assert place_of(checked.value) == " (in ops_nv.py, launch: check(1))"
    with pytest.raises(RuntimeError) as graph:
        names["graph"]()
    assert "; JIT=2 in the environment runs without CUDA graphs" in place_of(graph.value)
    assert place_of(ValueError("elsewhere")) == ""


@pytest.mark.parametrize("engine", ["nonsense", "tinygrad:nv=1", "llama-bench:NV"])
def test_unknown_engines_are_refused(engine: str) -> None:
    with pytest.raises(UserError, match="--engines"):
        engine_name(engine)


@pytest.mark.parametrize(("engine", "when"), [("llama-cpp-python", "before"), ("llama-server", "after")])
def test_an_engine_that_can_sit_still_with_its_model_resident(
    job: Path, fakes: Callable[..., Path], engine: str, when: str
) -> None:
    ids = json.loads(job.read_text())["reference_ids"]
    found = row(job, engine, llama_bin=fakes(tokens=ids), idle_s=0.5)
    assert found["status"] == "ok", found["cause"]
    idle = found["idle"]
    assert idle["t1_s"] - idle["t0_s"] > 0.3 and when in found["idle_method"]
    assert idle["t1_s"] <= found["t0_s"] if when == "before" else found["t1_s"] + 1 <= idle["t0_s"]


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=20), st.lists(st.integers(0, 3), min_size=1, max_size=20)
)
def test_agreement_by_ids_is_the_common_beginning(ours: list[int], theirs: list[int]) -> None:
    found = agreement({"reference_ids": ours}, {"token_ids": theirs})
    agreed = found["agreed_tokens"]
    assert ours[:agreed] == theirs[:agreed]
    if found["first_difference"] is not None:
        assert ours[agreed] != theirs[agreed]
    else:
        assert agreed == min(len(ours), len(theirs))


@given(st.text(), st.text(), st.text())
def test_common_length(both: str, first: str, second: str) -> None:
    length = common_length(both + first, both + second)
    assert length >= len(both) and (both + first)[:length] == (both + second)[:length]
