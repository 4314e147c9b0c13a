"""engine/client.py: one process, typed answers, whatever happens to it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the engine, llama-cpp-python, is not installed")
pytest.importorskip("gguf", reason="gguf, which writes the tiny models, is not installed")

from edgebench.engine.client import (
    ENGINE_CRASH,
    MODEL_LOAD,
    NO_TEMPERATURE,
    NOT_A_GENERATION,
    NOT_COLD,
    REFUSED,
    TIMEOUT,
    Drafting,
    EngineFailure,
    EngineProcess,
    ModelLoad,
    Prompt,
    Sampling,
)
from edgebench.shell.worker import LAST_WORDS, Log
from tests.fakes import odd_models
from tests.waiting import is_gone, wait_for

ROOT = Path(__file__).resolve().parents[2]
LOAD = ModelLoad(1024, n_batch=512, flash_attn="off", n_gpu_layers=0)
PROMPT = Prompt.of_text("Who keeps the lighthouse?")
TEN = Sampling(10)


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    with EngineProcess(120) as process:
        yield process


def children(parent: int | None = None) -> list[int]:
    """Engine processes of a process, of this one if none is named."""
    told = Path(f"/proc/{parent or os.getpid()}/task/{parent or os.getpid()}/children").read_text()
    found = []
    for pid in map(int, told.split()):
        try:
            if b"edgebench.engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


# --- One process for planning and running


def test_plan_and_run_share_a_process(engine: EngineProcess, demo_models: dict[str, Path]) -> None:
    """Two models, counted and run: two processes, and never two at a time."""
    seen: set[int] = set()
    counts = {}
    for arch in ("llama", "qwen3"):
        facts = engine.open(str(demo_models[arch]))
        assert facts.has_chat_template and facts.n_vocab > 100 and facts.engine_version
        counts[arch] = engine.count(PROMPT, with_ids=True)
        assert counts[arch].ids is not None and len(counts[arch].ids) == counts[arch].prompt_tokens
        seen |= set(children())
    for arch in ("llama", "qwen3"):
        loaded = engine.load(str(demo_models[arch]), LOAD, warm_up=PROMPT)
        assert loaded.n_ctx == 1024 and loaded.load_ms > 0 and engine.loaded is loaded
        assert len(children()) == 1
        seen |= set(children())
        for _ in range(3):
            answer = engine.run(PROMPT, TEN)
            assert answer.error is None and answer.completion_tokens <= 10
            assert answer.prompt_tokens == answer.prompt_tokens_evaluated == counts[arch].prompt_tokens
            assert answer.prompt_ids_sha256 == counts[arch].prompt_ids_sha256
        assert engine.load(str(demo_models[arch]), LOAD, warm_up=PROMPT) is loaded  # nothing is done twice
    assert len(seen) == 2
    engine.end()
    assert all(map(is_gone, seen))


def test_record_fields_are_plain_values(engine: EngineProcess, demo_models: dict[str, Path]) -> None:
    engine.load(str(demo_models["llama"]), LOAD)
    answer = engine.run(PROMPT, TEN)
    fields = answer.record_fields()
    assert fields["board_start"].keys() == {"temp_c", "cpu_khz", "gpu_hz", "throttle_events"}
    assert "flags" not in fields and "error" not in fields
    assert fields["t0_s"] < fields["first_token_s"] <= fields["t1_s"] <= time.monotonic()
    assert fields["latency_ms"] == pytest.approx((fields["t1_s"] - fields["t0_s"]) * 1000)


def test_prefill_batch_and_draft_speak_the_same_way(
    engine: EngineProcess, demo_models: dict[str, Path]
) -> None:
    model = str(demo_models["llama"])
    engine.load(model, LOAD)
    alone = engine.run(PROMPT, TEN)
    block = engine.prefill(PROMPT, 0.1)
    assert block.count >= 1 and block.prompt_tokens == alone.prompt_tokens
    ids = engine.count(PROMPT, with_ids=True).ids
    engine.load(model, ModelLoad(1024, n_seq_max=2, flash_attn="off", n_gpu_layers=0), warm_up=[PROMPT])
    together = engine.batch([[PROMPT, PROMPT], [PROMPT]], TEN)
    assert [one.output_text.strip() for one in together.sequences] == [alone.output_text.strip()] * 3
    assert {one.prompt_ids_sha256 for one in together.sequences} == {alone.prompt_ids_sha256}
    settings = ModelLoad(1024, n_batch=64, n_ubatch=64, flash_attn="off", n_gpu_layers=0)
    engine.load(model, settings, drafting=Drafting(draft_tokens=4))
    assert ids is not None
    plain, drafted = (engine.draft(ids, 10, plain=one) for one in (True, False))
    assert plain.token_ids == drafted.token_ids and plain.text == drafted.text
    assert plain.prompt_ids_sha256 == alone.prompt_ids_sha256
    assert sum(drafted.lengths.values()) == drafted.steps - 1  # all but the prompt's
    assert engine.cross_check(model, settings, 4, [(ids, 10)]) == [list(plain.token_ids)]


# --- Whatever happens to it


def test_a_killed_process_costs_one_request(engine: EngineProcess, demo_models: dict[str, Path]) -> None:
    engine.load(str(demo_models["llama"]), LOAD, warm_up=PROMPT)
    said = engine.run(PROMPT, TEN).output_text
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineFailure, match=r"killed by SIGKILL \(out of memory") as lost:
        engine.run(PROMPT, TEN)
    assert lost.value.kind == ENGINE_CRASH
    assert lost.value.failure.record() == {"type": ENGINE_CRASH, "message": str(lost.value)}
    assert engine.loaded is None
    again = engine.run(PROMPT, TEN)  # loaded again by itself
    assert again.output_text == said and again.error is None
    assert engine.loaded is not None and children() != [pid]


def test_a_process_killed_between_plan_and_run(engine: EngineProcess, demo_models: dict[str, Path]) -> None:
    engine.open(str(demo_models["llama"]))
    tokens = engine.count(PROMPT).prompt_tokens
    os.kill(children()[0], signal.SIGKILL)
    with pytest.raises(EngineFailure):
        engine.count(PROMPT)
    assert engine.count(PROMPT).prompt_tokens == tokens  # opened again by itself


def test_a_hang_is_ended(demo_models: dict[str, Path]) -> None:
    with EngineProcess(60) as engine:
        engine.load(str(demo_models["llama"]), LOAD)
        (pid,) = children()
        os.kill(pid, signal.SIGSTOP)
        engine.run_timeout_s = 0.2
        with pytest.raises(EngineFailure, match="--run_timeout") as late:
            engine.run(PROMPT, TEN)
        assert late.value.kind == TIMEOUT and is_gone(pid)
        engine.run_timeout_s = 60
        assert engine.run(PROMPT, TEN).error is None


def test_a_file_that_does_not_load(
    engine: EngineProcess, demo_models: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(demo_models["llama"].read_bytes()[:-5000])
    with pytest.raises(EngineFailure, match="file bounds") as refused:
        engine.open(str(broken))
    assert refused.value.kind == REFUSED
    for _ in range(2):
        with pytest.raises(EngineFailure, match="file bounds") as failed:
            engine.load(str(broken), LOAD)
        assert failed.value.kind == MODEL_LOAD and children() == []
    with pytest.raises(EngineFailure) as missing:
        engine.load(str(tmp_path / "missing.gguf"), LOAD)
    assert missing.value.kind == MODEL_LOAD and "no such file" in str(missing.value)
    assert engine.load(str(demo_models["llama"]), LOAD).n_ctx == 1024


def test_a_refused_request_leaves_the_process_alive(
    engine: EngineProcess, demo_models: dict[str, Path]
) -> None:
    engine.load(str(demo_models["llama"]), LOAD, warm_up=Prompt.of_text("river " * 3000))  # does not fit
    before = children()
    with pytest.raises(EngineFailure, match="--n_ctx") as refused:
        engine.run(Prompt.of_text("river " * 3000), TEN)
    assert refused.value.kind == REFUSED and children() == before
    assert engine.run(PROMPT, TEN).error is None


def test_a_name_that_is_no_text(engine: EngineProcess, demo_models: dict[str, Path], tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.gguf")
    Path(path).write_bytes(demo_models["llama"].read_bytes())
    assert engine.open(path).n_vocab > 0
    engine.load(path, LOAD)
    assert engine.run(PROMPT, TEN).error is None


# --- The reason of a death


def with_patch(tmp_path: Path, code: str) -> dict[str, str]:
    """An environment in which every Python process runs `code` once the engine is imported."""
    lines = [
        "import sys, importlib.abc, importlib.util",
        "class Finder(importlib.abc.MetaPathFinder):",
        "    def find_spec(self, name, path=None, target=None):",
        "        if name != 'edgebench.engine.binding': return None",
        "        sys.meta_path.remove(self)",
        "        spec = importlib.util.find_spec(name)",
        "        run = spec.loader.exec_module",
        "        def both(module):",
        "            run(module)",
        f"            exec({code!r}, {{'binding': module}})",
        "        spec.loader.exec_module = both",
        "        return spec",
        "sys.meta_path.insert(0, Finder())",
    ]
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines))
    return {"PYTHONPATH": str(tmp_path)}


FRAMES = [f"#{n} 0x00007f in __libc_start_main ()" for n in range(100)]  # a debugger's


@pytest.mark.parametrize(
    "cause",
    [
        "/ggml/ggml.c:12: GGML_ASSERT(n_tokens <= n_batch) failed",
        "CUDA error: out of memory",
        "NvMapMemAllocInternalTagged: 1075072515 error 12",
        "allocating 512.00 MiB on device 0: cudaMalloc failed: out of memory",
    ],
)
def test_a_line_that_names_a_cause_is_among_the_last_words(cause: str) -> None:
    log = Log()
    for line in ["loading", cause, *FRAMES]:
        log.add(line)
    assert log.last_words()[0] == cause and len(log.last_words()) == 1 + LAST_WORDS


def test_the_reason_of_a_death_is_told_whatever_follows_it(
    engine: EngineProcess, demo_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's own words, and then the hundred lines of a debugger."""
    cause = "/ggml/ggml.c:12: GGML_ASSERT(n_tokens <= n_batch) failed"
    dying = (
        "import os, sys\n"
        "def die(*_):\n"
        f"    sys.stderr.write({chr(10).join([cause, *FRAMES, ''])!r})\n"
        "    sys.stderr.flush()\n"
        "    os.abort()\n"
        "binding.llama_cpp.llama_decode = die\n"
    )
    for name, value in with_patch(tmp_path, dying).items():
        monkeypatch.setenv(name, value)
    engine.load(str(demo_models["llama"]), LOAD)
    with pytest.raises(EngineFailure, match="SIGABRT") as died:
        engine.run(PROMPT, TEN)
    assert cause in str(died.value) and died.value.kind == ENGINE_CRASH


def test_an_abort_of_the_engine_itself_brings_no_backtrace(
    engine: EngineProcess, demo_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for a row of logits that there is not, the engine's sampler aborts."""
    code = (
        "api = binding.llama_cpp\n"
        "def die(*_):\n"
        "    sampler = api.llama_sampler_init_greedy()\n"
        "    api.llama_sampler_sample(sampler, CONTEXT[0].handle, 5)\n"
        "CONTEXT = []\n"
        "real = binding.Context.start_cold\n"
        "def remember(self):\n"
        "    CONTEXT.append(self)\n"
        "    api.llama_decode = die\n"
        "binding.Context.start_cold = remember\n"
    )
    for name, value in with_patch(tmp_path, code).items():
        monkeypatch.setenv(name, value)
    engine.load(str(demo_models["llama"]), LOAD)
    with pytest.raises(EngineFailure, match="SIGABRT") as died:
        engine.run(PROMPT, TEN)
    assert "GGML_ASSERT" in str(died.value)
    assert "in ??" not in str(died.value) and "__libc_start" not in str(died.value)


# --- Proofs through the pipe


def test_what_is_no_generation_fails_by_its_kind(
    engine: EngineProcess, demo_models: dict[str, Path], tmp_path: Path
) -> None:
    change = odd_models.filled(float("nan"), "blk.0.ffn_down.weight")
    path = odd_models.changed(demo_models["qwen2"], tmp_path / "nan.gguf", change)
    engine.load(str(path), LOAD, warm_up=PROMPT)
    for _ in range(2):
        with pytest.raises(EngineFailure, match=r"token 1: .* NaN") as failed:
            engine.run(PROMPT, TEN)
        assert failed.value.kind == NOT_A_GENERATION
    embedding = odd_models.bert(demo_models["qwen2"], tmp_path / "bert.gguf")
    engine.load(str(embedding), ModelLoad(512, n_gpu_layers=0), warm_up=PROMPT)
    with pytest.raises(EngineFailure, match="embedding model") as failed:
        engine.run(Prompt.of_text("Why?", "raw"), TEN)
    assert failed.value.kind == NOT_A_GENERATION


def test_a_cache_that_is_not_cleared_fails_the_run(
    engine: EngineProcess, demo_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "binding.llama_cpp.llama_memory_clear = lambda *_: None\n"
    for name, value in with_patch(tmp_path, code).items():
        monkeypatch.setenv(name, value)
    engine.load(str(demo_models["llama"]), LOAD)
    assert engine.run(PROMPT, TEN).error is None
    with pytest.raises(EngineFailure, match="still held") as failed:
        engine.run(PROMPT, TEN)
    assert failed.value.kind == NOT_COLD


# --- What the engine chose


def test_what_the_engine_chose_is_told(engine: EngineProcess, demo_models: dict[str, Path]) -> None:
    model = str(demo_models["llama"])
    for asked, told in (("auto", "on"), ("off", "off"), ("on", "on")):
        resolved = engine.load(
            model, ModelLoad(300, n_batch=100, n_ubatch=40, n_threads=1, flash_attn=asked, n_gpu_layers=0)
        ).resolved
        assert resolved.flash_attn == told
        assert resolved.n_ctx == 512 and resolved.n_batch == 100 and resolved.n_ubatch == 40
        assert resolved.n_threads == resolved.n_threads_batch == 1
        assert resolved.kv_type_k == resolved.kv_type_v == "f16"
        assert resolved.warnings == ()
    wide = ModelLoad(512, flash_attn="auto", kv_type="q8_0", n_gpu_layers=0)
    with pytest.raises(EngineFailure, match="q8_0") as refused:  # the heads of a tiny model are too narrow
        engine.load(model, wide)
    assert refused.value.kind == MODEL_LOAD and "--n_ctx" not in str(refused.value)


def test_a_warning_of_the_engine_is_told_and_not_shown(
    demo_models: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = odd_models.changed(demo_models["qwen2"], tmp_path / "nopre.gguf", drop=("tokenizer.ggml.pre",))
    with EngineProcess(120) as engine:
        engine.open(str(path))
        loaded = engine.load(str(path), LOAD, warm_up=PROMPT)
        again = engine.load(str(path), ModelLoad(512, n_gpu_layers=0))
    assert any("missing pre-tokenizer" in line for line in loaded.resolved.warnings)
    assert loaded.resolved.warnings == again.resolved.warnings  # the same condition, loaded twice
    assert capfd.readouterr() == ("", "")


# --- The terminal and the parent


def test_it_is_not_in_the_terminals_group(engine: EngineProcess, demo_models: dict[str, Path]) -> None:
    engine.open(str(demo_models["llama"]))
    (pid,) = children()
    assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pid, signal.SIGINT)
    assert engine.count(PROMPT).prompt_tokens > 0


def test_it_ends_with_a_parent_that_is_killed(demo_models: dict[str, Path]) -> None:
    code = (
        "import sys, time\n"
        "from edgebench.engine.client import EngineProcess, ModelLoad\n"
        "engine = EngineProcess(60)\n"
        "engine.load(sys.argv[1], ModelLoad(512, n_gpu_layers=0))\n"
        "print('loaded', flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(demo_models["llama"])], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None and parent.stdout.readline() == "loaded\n"
    (pid,) = children(parent.pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: is_gone(pid), patience_s=60)


def test_cooling_down(engine: EngineProcess, demo_models: dict[str, Path], monkeypatch: Any) -> None:
    """Until the chip is cool enough, or the time is over; a machine without sensors says so at once."""
    temps_c = iter([80.0, 70.0, 60.0, 50.0])
    monkeypatch.setattr("edgebench.engine.client.read_hottest_c", lambda: next(temps_c))
    waits: list[float] = []
    assert engine.cool_down(60, sleep=waits.append) == 60.0 and len(waits) == 2
    assert engine.cool_down(10, limit_s=0, sleep=waits.append) == 50.0
    monkeypatch.setattr("edgebench.engine.client.read_hottest_c", lambda: None)
    with pytest.raises(EngineFailure, match="--cooldown in seconds") as failed:
        engine.cool_down(60)
    assert failed.value.kind == NO_TEMPERATURE
