"""The client of a JSON-line child, against children that answer, crash, hang, babble and do not read."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import Any

import pytest

from edgebench.shell.worker import LAST_WORDS, Log, Worker, WorkerFailed

LONG_S = 60.0


def worker(body: str, **options: Any) -> Worker:
    """A child that runs `body` for each request; `request` holds it."""
    head = "import json, os, sys, time\nfor line in sys.stdin:\n    request = json.loads(line)\n"
    return Worker([sys.executable, "-c", head + textwrap.indent(textwrap.dedent(body), "    ")], **options)


def failure(child: Worker, timeout_s: float = LONG_S, **request: Any) -> WorkerFailed:
    with pytest.raises(WorkerFailed) as caught:
        child.ask(request, timeout_s)
    child.end()
    return caught.value


def test_requests_and_answers_of_any_text_and_length() -> None:
    child = worker("print(json.dumps({'ok': True, 'back': request['text']}), flush=True)")
    for text in ("a", "line\nbreak\u2028and more", "lone \ud800 surrogate", "long " * 200_000):
        assert child.ask({"text": text}, LONG_S) == {"ok": True, "back": text}
    assert child.ask({"text": "without a limit"})["ok"]
    child.end()
    assert child.child.returncode is not None
    child.end()  # twice is once


def test_what_a_library_prints_between_the_answers_goes_to_the_log() -> None:
    child = worker("print('llama_perf: 12 ms'); print('[1, 2]'); print('{\"ok\": true}', flush=True)")
    assert child.ask({}, LONG_S) == {"ok": True}
    assert list(child.log.lines) == ["llama_perf: 12 ms", "[1, 2]"]
    child.end()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("sys.exit(3)", "ended with exit code 3; its log: empty"),
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL (out of memory? sudo dmesg | tail tells)"),
        ("os.abort()", "was killed by SIGABRT"),
        ("print('last words', file=sys.stderr); os._exit(1)", "exit code 1; its log: last words"),
        ("os.close(1); time.sleep(1000)", "was killed by SIGKILL"),
    ],
)
def test_a_crash_is_told_with_its_cause(body: str, told: str) -> None:
    failed = failure(worker(body))
    assert failed.kind == "engine_crash" and told in str(failed)
    assert failed.as_error() == {"type": "engine_crash", "message": str(failed)}


CAUSES = [
    "/llama.cpp/ggml/src/ggml.c:3085: GGML_ASSERT(a->ne[2] == b->ne[0]) failed",
    "/llama.cpp/ggml/src/ggml-cpu/ops.cpp:1702: fatal error",  # as GGML_ABORT prints, in any words
    "/ggml/ggml-backend.cpp:898: pre-allocated tensor (k_l0) in a buffer (CUDA0) that cannot run",
    "free(): invalid pointer",
    "corrupted size vs. prev_size",
    "ggml_cuda_compute_forward: MUL_MAT failed\nCUDA error: out of memory",
    "CUDA error: an illegal memory access was encountered",
    "NvMapMemAllocInternalTagged: 1075072515 error 12\ncudaMalloc failed: out of memory",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
    "python3: error while loading shared libraries: libcudart.so.12: cannot open shared object file",
    "ValueError: could not find tokens",
]


FRAME = "#8 0x00007f in ggml_backtrace () (fmt=GGML_ASSERT)\n"


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("behind", [0, 5, 60, 5000])
def test_the_line_that_names_the_cause_survives_any_backtrace_behind_it(cause: str, behind: int) -> None:
    log = Log()
    for line in f"{cause}\n{FRAME * behind}".splitlines():
        log.add(line)
    assert cause.splitlines()[-1] in log.last_words()
    assert len(log.last_words()) <= LAST_WORDS + 4  # a message, not a log


@pytest.mark.parametrize(("cause", "behind"), [(CAUSES[0], 0), (CAUSES[5], 5000)])
def test_a_dying_childs_cause_is_in_the_error(cause: str, behind: int) -> None:
    said = f"{cause + chr(10)!r} + {FRAME!r} * {behind}"
    failed = failure(worker(f"sys.stderr.write({said}); sys.stderr.flush(); os.abort()"))
    assert cause.splitlines()[-1] in str(failed)
    assert str(failed).count(" | ") <= LAST_WORDS + 4


def test_the_engine_is_asked_for_no_backtrace_and_keeps_the_environment() -> None:
    child = worker("print(json.dumps(dict(os.environ)), flush=True)")
    told = child.ask({}, LONG_S)
    assert told["GGML_NO_BACKTRACE"] == "1" and told["PATH"] == os.environ["PATH"]
    child.end()


def test_a_child_that_hangs_is_a_timeout_and_gone() -> None:
    child = worker("time.sleep(1000)")
    failed = failure(child, 0.2)
    assert (failed.kind, str(failed)) == (
        "timeout",
        "no answer within 0.2 s; raise --run_timeout to wait longer",
    )
    assert child.child.returncode is not None


def test_a_child_that_never_reads_is_a_timeout_too() -> None:
    child = Worker([sys.executable, "-c", "import time; time.sleep(1000)"], cure="lower --n_ctx")
    failed = failure(child, 0.2, text="x" * 10_000_000)
    assert failed.kind == "timeout" and str(failed).endswith("; lower --n_ctx")


def test_a_child_that_has_ended_before_the_request() -> None:
    child = Worker([sys.executable, "-c", "import sys; print('no GPU', file=sys.stderr)"])
    child.child.wait(LONG_S)
    for _ in range(2):
        with pytest.raises(WorkerFailed, match="ended with exit code 0; its log: no GPU"):
            child.ask({"text": "x" * 1_000_000}, LONG_S)
    child.end()


def test_a_program_that_is_not_there_is_an_oserror() -> None:
    with pytest.raises(FileNotFoundError):
        Worker(["no_such_engine"])
