"""Tiny GGUF models for all tests: made once per session by the scripts in models/, byte for byte the same."""

import importlib.util
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
# Rooms that tests still start by their path find the package; the commands find it by themselves.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
# The engine's threads wait for each other asleep: spinning, they take the cores from the tests beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# An example's time limit would hold this machine's speed to account, not the code.
# The same examples in every run, so that a failure is the change's. EDGEBENCH_FUZZ=1 draws new ones, by hand.
settings.register_profile("steady", deadline=None, derandomize="EDGEBENCH_FUZZ" not in os.environ)
settings.load_profile("steady")
# Looking for doctests imports every module: this one would stand for the real pynvml from then on.
collect_ignore = ["fakes/nvml"]
ARCHS = ("llama", "qwen2", "gemma2", "phi3", "qwen3")

# `nohup ./run_tests.sh &` starts us deaf to Ctrl-C and hang-up, children inherit it; the tests send both.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: two workers a core, since tests wait for other processes half of their time."""
    return min(16, 2 * len(os.sched_getaffinity(0)))


def load_maker(script: str) -> Any:
    """A script of models/ as a module of this process."""
    path = ROOT / "models" / script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules.get(path.stem) or importlib.util.module_from_spec(spec)
    if path.stem not in sys.modules:
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    return module


def run_maker(script: str, *flags: object) -> None:
    """Run a script of models/ in this process: a new one takes longer to start than the script to run."""
    assert load_maker(script).main([str(flag) for flag in flags]) == 0


@pytest.fixture(scope="session")
def llama_cpp():  # type: ignore[no-untyped-def]
    """The engine's module; tests that ask for it are skipped where it is not installed."""
    return pytest.importorskip("llama_cpp", reason="the engine, llama-cpp-python, is not installed")


@pytest.fixture(scope="session")
def real_models() -> list[Path]:
    """The demo's real model in two types; fetched once into models/demo/, skipped where it cannot be had."""
    pytest.importorskip("llama_cpp")
    maker = load_maker("get_demo_model.py")
    outdir = ROOT / "models" / "demo"
    status = maker.main(["--outdir", str(outdir)])
    if status:
        pytest.skip(f"SmolLM2-135M-Instruct cannot be had here (get_demo_model.py ended with {status})")
    names = (maker.FIRST_TYPE, maker.OTHER_TYPES[0])
    return [outdir / f"{maker.FAMILY}-{name}.gguf" for name in names]


@pytest.fixture(scope="session")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny model per architecture, text that ends: {"llama": path, "qwen2": path, ...}."""
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("gguf, which writes the tiny models, is not installed")
    outdir = tmp_path_factory.mktemp("demo_models")
    run_maker("make_demo_model.py", "--outdir", outdir, "--size", "tiny", "--arch", ",".join(ARCHS))
    return {arch: outdir / f"tiny-{arch}-F32.gguf" for arch in ARCHS}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that makes one tiny model, once per session for the same arguments.

    tiny_model("llama")                                     text, some tokens long
    tiny_model("phi3", mode="never")                        always runs to max_tokens; "early": 0 tokens, too
    tiny_model("qwen3", script=["The answer is A."], think=True)
    tiny_model("llama", chain=True)                         next token depends on the last one only
    tiny_model("llama", chain=True, draft_accept=0.7, n_layer=1)     its draft companion
    Further keywords are flags of make_demo_model.py: size="medium", type="Q8_0", seed=7.
    """
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("gguf, which writes the tiny models, is not installed")
    outdir = tmp_path_factory.mktemp("tiny_models")
    made: dict[str, Path] = {}

    def rewire(base: Path, *flags: object) -> Path:
        key = repr((base, flags))
        if key not in made:
            made[key] = base.with_name(f"{base.stem}-{len(made)}.gguf")
            run_maker("rewire_demo_model.py", base, "--out", made[key], *flags)
        return made[key]

    def make(
        arch: str,
        *,
        script: Sequence[str] = (),
        think: bool = False,
        chain: bool = False,
        draft_accept: float | None = None,
        **flags: object,
    ) -> Path:
        given = {"size": "tiny", **flags}
        key = repr((arch, sorted(given.items())))
        if key not in made:
            name = f"model{len(made)}-{arch}"
            pairs = [part for flag, value in given.items() for part in (f"--{flag}", value)]
            run_maker("make_demo_model.py", "--outdir", outdir, "--arch", arch, "--name", name, *pairs)
            made[key] = outdir / f"{name}.gguf"
        path = made[key]
        if script:
            texts = [part for text in script for part in ("--script", text)]
            path = rewire(path, *texts, *(["--think"] if think else []))
        if chain:
            path = rewire(path, "--chain")
        return path if draft_accept is None else rewire(path, "--draft_accept", draft_accept)

    return make


@pytest.fixture(autouse=True)
def no_log_of_a_door_stays() -> Iterator[None]:
    """A door called in this process logs to the stream of its test: the next one's may be closed."""
    before, level = logging.root.handlers[:], logging.root.level
    yield
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:
            logging.root.removeHandler(handler)
    logging.root.setLevel(level)


@pytest.fixture(autouse=True)
def no_fake_driver_stays() -> Iterator[None]:
    """A made pynvml that a test imports stays among the modules: the next test wants the real one."""
    before = sys.modules.get("pynvml")
    yield
    if sys.modules.get("pynvml") is not before:
        sys.modules.pop("pynvml", None)
