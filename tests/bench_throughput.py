#!/usr/bin/env python3
"""Tokens per second at each batch size, and the ratio to batch 1, all from one run on this machine.

Makes a medium random-weight model (or takes --model), answers the same prompts
at each batch size in turn, and prints throughput.py's table. Run by hand, on an
otherwise idle machine.

Example:
  python tests/bench_throughput.py --batch_sizes 1,2,4,8 --repeats 3
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
    parser.add_argument("--model", type=Path, help="a GGUF file (default: a medium random-weight model)")
    parser.add_argument("--size", default="medium", help="of the model that is made (default: medium)")
    parser.add_argument("--type", default="Q8_0", help="of its weights (default: Q8_0)")
    parser.add_argument("--batch_sizes", default="1,2,4,8")
    parser.add_argument("--repeats", default="3")
    parser.add_argument("--max_tokens", default="32")
    parser.add_argument("--n_threads", default="1")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if model is None:
            made = ["--outdir", folder, "--arch", "llama", "--name", "bench", "--mode", "never"]
            made += ["--size", args.size, "--type", args.type]
            command = [sys.executable, str(ROOT / "models/make_demo_model.py"), *made]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            (model,) = Path(folder).glob("*.gguf")
        measured = ["--models", str(model), "--out_jsonl", f"{folder}/t.jsonl", "--source", "none"]
        measured += ["--prompts", str(ROOT / "data/writing_prompts_hierarchical.csv")]
        for name in ("batch_sizes", "repeats", "max_tokens", "n_threads"):
            measured += [f"--{name}", getattr(args, name)]
        command = [sys.executable, str(ROOT / "companions/throughput.py"), *measured]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
