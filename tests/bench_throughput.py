#!/usr/bin/env python3
"""Tokens per second at each batch size, and the ratio to batch 1, all from one run on this machine.

Takes the demo's real model, or where that cannot be had (or with --size) makes a
random-weight one and says so; answers the same prompts at each batch size in turn,
and prints throughput.py's table. Run by hand, on an otherwise idle machine.

Example:
  python tests/bench_throughput.py --batch_sizes 1,2,4,8 --repeats 3
  python tests/bench_throughput.py --size medium --type Q8_0
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a GGUF file (default: SmolLM2-135M-Instruct-Q4_1)")
    parser.add_argument("--size", help="make a random-weight model of this size (default: medium)")
    parser.add_argument("--type", default="Q8_0", help="of its weights (default: Q8_0)")
    parser.add_argument("--batch_sizes", default="1,2,4,8")
    parser.add_argument("--repeats", default="3")
    parser.add_argument("--max_tokens", default="32")
    parser.add_argument("--n_threads", default="1")
    return parser


def real_model() -> Path | None:
    """The demo's model, fetched if need be; None where it cannot be had."""
    outdir = ROOT / "models" / "demo"
    command = [
        sys.executable,
        str(ROOT / "models/get_demo_model.py"),
        "--outdir",
        str(outdir),
        "--second",
        "none",
    ]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        print("a random-weight model takes its place", file=sys.stderr)
        return None
    return outdir / "SmolLM2-135M-Instruct-Q4_1.gguf"


def made_model(folder: Path, size: str, file_type: str) -> Path:
    """A random-weight model that never ends its answer."""
    made = ["--outdir", str(folder), "--arch", "llama", "--name", "bench", "--mode", "never"]
    made += ["--size", size, "--type", file_type]
    command = [sys.executable, str(ROOT / "models/make_demo_model.py"), *made]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "bench.gguf"


def main() -> int:
    args = build_parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or (None if args.size else real_model())
        if model is None:
            model = made_model(Path(folder), args.size or "medium", args.type)
        measured = ["--models", str(model), "--out_jsonl", f"{folder}/t.jsonl", "--source", "none"]
        measured += ["--prompts", str(ROOT / "data/writing_prompts_hierarchical.csv")]
        for name in ("batch_sizes", "repeats", "max_tokens", "n_threads"):
            measured += [f"--{name}", getattr(args, name)]
        command = [sys.executable, str(ROOT / "companions/throughput.py"), *measured]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
