"""Does drafting pay here? Ratios of wall time to plain decoding, the two decoded by turns in one run.

Made models: the draft is right with probability p. Near 0 the cost rule must lose next to nothing, near 1 it
must win; fixed lengths stand beside it. Run by hand on a quiet machine:

    python tests/bench_speculate.py
    python tests/bench_speculate.py --layers 24 --shares 0.02 0.7 0.98 --requests 8
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edgebench.speculation.cell import run_cell  # noqa: E402
from edgebench.speculation.settings import CellSettings  # noqa: E402

MAKE, REWIRE = ROOT / "models/make_demo_model.py", ROOT / "models/rewire_demo_model.py"


def python(script: Path, *flags: object) -> None:
    subprocess.run([sys.executable, str(script), *map(str, flags)], check=True, stdout=subprocess.DEVNULL)


def chain(folder: Path, layers: int, name: str) -> Path:
    python(MAKE, "--outdir", folder, "--size", "demo", "--arch", "llama", "--n_layer", layers, "--name", name)
    python(REWIRE, folder / f"{name}.gguf", "--chain", "--out", folder / f"{name}_chain.gguf")
    return folder / f"{name}_chain.gguf"


def ratios(args: argparse.Namespace, target: Path, draft: Path, adaptive: str) -> str:
    settings = CellSettings(
        model=str(target),
        prompts=(str(ROOT / "data/writing_prompts_hierarchical.csv"),),
        draft=str(draft),
        drafter="model",
        adaptive=adaptive,
        draft_tokens=8,
        requests=args.requests,
        batches=args.batches,
        max_tokens=args.max_tokens,
        compare="every",
        n_threads=1,
        warmup=2,
    )
    run = run_cell(settings)
    pairs = zip(run["results"], run["plain"], strict=True)
    found = [one["latency_s"] / other["latency_s"] for one, other in pairs]
    mode = run["summary"]["per_mode"][0]
    lengths = mode["draft_length_histogram"]
    commonest = max(lengths, key=lengths.get)
    spread = stdev(found) if len(found) > 1 else float("nan")
    same = f"{mode['identical_to_plain']}/{mode['compared_with_plain']}"
    return f"{mean(found):.3f} ± {spread:.3f}  mostly K = {commonest}, outputs identical {same}"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=24, help="of the model; the draft has 1 (default: 24)")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.02, 0.5, 0.98])
    parser.add_argument("--requests", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--max_tokens", type=int, default=128)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target, small = chain(folder, args.layers, "target"), chain(folder, 1, "draft")
        print(f"wall time ÷ plain decoding, {args.batches} pairs of batches of {args.requests} requests")
        for share in args.shares:
            draft = folder / f"draft_{share}.gguf"
            python(REWIRE, small, "--draft_accept", share, "--out", draft)
            for adaptive in ("off", "published", "cost"):
                print(
                    f"p = {share:<5} {adaptive:10} {ratios(args, target, draft, adaptive)}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
