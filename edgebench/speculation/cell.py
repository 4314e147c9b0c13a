"""Decodes prompts with drafted tokens, and plainly beside it; counts every draft; writes one run file.

One configuration, one process, one JSON file. --draft MODEL drafts with a small model of the same vocabulary;
without it, prompt lookup repeats what followed the same few tokens before. At temperature 0 every output is
compared with plain decoding of the same request in the same process: identical with F32 weights; quantized
ones round differently in a batch, so the first position that differs is kept. Requests are decoded one after
the other, as a board serves one user; a batch is so many requests.

How many tokens are drafted per step (--adaptive):
  off        always --draft_tokens
  published  the rule of the published sweeps, with its quirks, for comparison
  cost       ours: as many as give most tokens per measured millisecond, none if none pay
--threshold C ends a draft at the first token whose probability in the draft model is below C. What a rule has
learned stays from request to request, warm-up included, as in a server.

Output: config, summary.per_mode[], results[] (one per batch of requests), plain[] (the same requests without
drafts). Times in _s are seconds of the monotonic clock, t0_s and t1_s those of a power trace.

Example:
  python edgebench/__main__.py edgebench.speculation.cell --model models/target.gguf --adaptive cost \\
      --draft models/draft.gguf --prompts data/writing_prompts_hierarchical.csv --requests 4 --out run.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgebench.engine.client import DraftGeneration, Drafting, EngineFailure, EngineProcess, ModelLoad
from edgebench.errors import UserError
from edgebench.records.jsonl import write_whole
from edgebench.speculation.tokens import TokenPrompt, read_prompts, token_prompts
from edgebench.stats.intervals import quantile

SETTLE_S = 1.0  # after loading, before the idle baseline: clocks and power step down
CONTEXT_STEP = 256  # the engine rounds n_ctx up to a multiple of this


# --- Requests ---


@dataclass(frozen=True)
class Request:
    """One answer that is to be decoded."""

    prompt: TokenPrompt
    seed: int
    max_tokens: int

    def decode(self, engine: EngineProcess, plain: bool) -> DraftGeneration:
        """The answer, with drafts or plainly."""
        return engine.draft(self.prompt.ids, self.max_tokens, self.seed, plain)


def batch_of(prompts: Sequence[TokenPrompt], batch: int, args: argparse.Namespace) -> list[Request]:
    """The requests of one batch: the next prompts, from the start again when they run out."""
    numbers = range(batch * args.requests, (batch + 1) * args.requests)
    return [Request(prompts[n % len(prompts)], args.seed + n, args.max_tokens) for n in numbers]


def context_length(prompts: Sequence[TokenPrompt], args: argparse.Namespace) -> int:
    """The context for the longest prompt, its answer and a draft, or --n_ctx. Raises UserError."""
    longest = max(prompt.prompt_tokens for prompt in prompts) + args.max_tokens + args.draft_tokens + 1
    needed = -(-longest // CONTEXT_STEP) * CONTEXT_STEP
    if args.n_ctx and args.n_ctx < longest:
        raise UserError(f"prompt, answer and draft need {longest} tokens; give --n_ctx {needed}")
    return int(args.n_ctx or needed)


# --- Decoding ---


Timed = tuple[list[DraftGeneration], float, float]  # answers, start and end in monotonic seconds


def decode_batch(engine: EngineProcess, requests: Sequence[Request], plain: bool) -> Timed:
    """All requests of a batch, one after the other."""
    t0_s = time.monotonic()
    answers = [request.decode(engine, plain) for request in requests]
    return answers, t0_s, time.monotonic()


def request_row(
    prompt: TokenPrompt, answer: DraftGeneration, plain: DraftGeneration | None
) -> dict[str, Any]:
    """One request of results[].outputs."""
    row: dict[str, Any] = {"id": prompt.id, "level": prompt.level, "category": prompt.category}
    row |= {"prompt_tokens": prompt.prompt_tokens, "completion_tokens": len(answer.token_ids)}
    row |= {
        "latency_ms": (answer.t1_s - answer.t0_s) * 1000,
        "ttft_ms": (answer.first_token_s - answer.t0_s) * 1000,
    }
    row |= {name: value for name, value in asdict(answer).items() if not name.endswith("_s")}
    if plain is not None:
        ours, theirs = answer.token_ids, plain.token_ids
        row["identical_to_plain"] = ours == theirs
        pairs = enumerate(zip(ours, theirs, strict=False))
        differing = (at for at, (one, other) in pairs if one != other)
        row["first_difference"] = None if ours == theirs else next(differing, min(len(ours), len(theirs)))
    return row


def run_batches(
    engine: EngineProcess, prompts: Sequence[TokenPrompt], args: argparse.Namespace
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Yield (batch with drafts, the same requests plainly or None), each with its times."""
    for number in range(args.warmup):  # may be more than a batch has
        request = batch_of(prompts, number // args.requests, args)[number % args.requests]
        request.decode(engine, plain=False)
        if not args.plain:
            request.decode(engine, plain=True)
    for index in range(args.batches):
        requests = batch_of(prompts, index, args)
        chosen = [request.prompt for request in requests]
        compare = not args.plain and (args.compare == "every" or (args.compare == "first" and index == 0))
        done: dict[bool, Timed] = {}
        # Every other batch begins with plain decoding, so that a drift favours neither.
        for plain in ([False, True] if index % 2 == 0 else [True, False]) if compare else [False]:
            done[plain] = decode_batch(engine, requests, plain)
            print(f"batch {index + 1}/{args.batches}{', plainly' if plain else ''}", file=sys.stderr)
        # Above temperature 0 two draws need not agree.
        beside = done[True][0] if compare and args.temperature <= 0 else [None] * len(requests)
        rows = [request_row(*pair) for pair in zip(chosen, done[False][0], beside, strict=True)]
        again = (
            [request_row(*pair, None) for pair in zip(chosen, done[True][0], strict=True)] if compare else []
        )
        yield (
            entry(args, index, rows, *done[False][1:]),
            (entry(args, index, again, *done[True][1:], mode="vanilla") if compare else None),
        )


def mode_name(args: argparse.Namespace) -> str:
    """The configuration in the words of the published files: "vanilla", "adaptive=1,threshold=0.0"."""
    adaptive = {"off": "0", "cost": "1", "published": "published"}[args.adaptive]
    return "vanilla" if args.plain else f"adaptive={adaptive},threshold={args.threshold}"


def entry(
    args: argparse.Namespace,
    index: int,
    rows: list[dict[str, Any]],
    t0_s: float,
    t1_s: float,
    mode: str | None = None,
) -> dict[str, Any]:
    """One member of results[] or plain[]."""
    return {
        "nwor_mode": mode or mode_name(args),
        "scv_mode": "off",
        "batch_index": index,
        "latency_s": t1_s - t0_s,
        "t0_s": t0_s,
        "t1_s": t1_s,
        "outputs": rows,
        "sampling_params": {
            "temperature": args.temperature,
            "max_tokens": args.max_tokens,
            "seed": args.seed,
        },
    }


# --- Summary ---


def by_position(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per position in the draft: how often a token there was judged, how often accepted."""
    longest = max((len(row["tries"]) for row in rows), default=0)
    sums = [
        [sum(row[name][j] for row in rows if j < len(row[name])) for name in ("tries", "hits")]
        for j in range(longest)
    ]
    return [
        {
            "position": j + 1,
            "judged": tries,
            "accepted": hits,
            "accept_ratio": hits / tries if tries else None,
        }
        for j, (tries, hits) in enumerate(sums)
    ]


def summarize(args: argparse.Namespace, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The member of summary.per_mode, with the published names; counts over all batches."""
    rows = [row for batch in results for row in batch["outputs"]]
    latencies_s = [batch["latency_s"] for batch in results]
    total = {
        name: sum(row[name] for row in rows)
        for name in ("drafted", "accepted", "windows", "stopped", "checks")
    }
    steps_ms = sum(row["latency_ms"] - row["ttft_ms"] for row in rows)
    decoded = sum(max(0, row["completion_tokens"] - 1) for row in rows)
    lengths: Counter[int] = Counter()
    for row in rows:
        lengths.update({int(length): count for length, count in row["lengths"].items()})
    compared = [row for row in rows if "identical_to_plain" in row]
    return {
        "scv_mode": "off",
        "nwor_mode": mode_name(args),
        "batches": len(results),
        "latency_avg_s": sum(latencies_s) / len(latencies_s),
        "latency_p50_s": quantile(latencies_s, 0.5),
        "latency_p95_s": quantile(latencies_s, 0.95),
        "spec_num_drafts": total["windows"],
        "spec_num_draft_tokens": total["drafted"],
        "spec_num_accepted_tokens": total["accepted"],
        "spec_avg_accepted_per_window": total["accepted"] / total["windows"] if total["windows"] else None,
        "spec_acceptance_ratio": total["accepted"] / total["drafted"] if total["drafted"] else None,
        "tokens_stopped_by_confidence": total["stopped"],
        "total_confidence_checks": total["checks"],
        "ncu_metrics": {},
        "requests": len(rows),
        "output_tokens": sum(row["completion_tokens"] for row in rows),
        "target_steps": sum(row["steps"] for row in rows),
        "request_latency_avg_ms": sum(row["latency_ms"] for row in rows) / len(rows),
        "ttft_avg_ms": sum(row["ttft_ms"] for row in rows) / len(rows),
        "decode_tok_per_s": 1000 * decoded / steps_ms if decoded and steps_ms > 0 else None,
        "accept_by_position": by_position(rows),
        "draft_length_histogram": dict(sorted(lengths.items())),
        "identical_to_plain": sum(row["identical_to_plain"] for row in compared) if compared else None,
        "compared_with_plain": len(compared),
        "energy": {"energy_joule": None, "reason": "no power was recorded around this run"},
    }


def cross_check(
    engine: EngineProcess,
    prompts: Sequence[TokenPrompt],
    args: argparse.Namespace,
    load: ModelLoad,
    results: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """How many of the first batch's outputs the engine's own prompt lookup gives, too, at temperature 0."""
    asked = [(request.prompt.ids, request.max_tokens) for request in batch_of(prompts, 0, args)]
    try:
        answers = engine.cross_check(str(args.model), load, args.draft_tokens, asked)
    except EngineFailure as failure:
        return {"identical": None, "requests": None, "reason": str(failure)}
    pairs = zip(answers, results[0]["outputs"], strict=True)
    same = [tuple(theirs) == tuple(ours["token_ids"]) for theirs, ours in pairs]
    return {"identical": sum(same), "requests": len(same), "reason": None}


# --- The run ---


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything the run file holds. Raises UserError."""
    texts = read_prompts(args.prompts, args.levels)
    with EngineProcess() as engine:
        prompts = token_prompts(engine, args.model, texts, args.prompt_format)
        random.Random(args.seed).shuffle(prompts)
        load = ModelLoad(
            n_ctx=context_length(prompts, args),
            n_batch=args.n_batch,
            n_threads=args.n_threads,
            n_gpu_layers=args.n_gpu_layers,
            flash_attn=args.flash_attn,
        )
        drafting = Drafting(
            drafter=args.drafter,
            draft=args.draft and str(args.draft),
            adaptive=args.adaptive,
            draft_tokens=args.draft_tokens,
            threshold=args.threshold,
            temperature=args.temperature,
        )
        try:
            engine.load(str(args.model), load, drafting=drafting)
            idle = sit_still(args.idle_seconds)
            pairs = list(run_batches(engine, prompts, args))
        except EngineFailure as failure:
            raise UserError(str(failure)) from failure
        results = [batch for batch, _ in pairs]
        checked = cross_check(engine, prompts, args, load, results) if args.cross_check else None
    file: dict[str, Any] = {
        "config": config_of(args, load.n_ctx, len(prompts)),
        "summary": {"per_mode": [summarize(args, results)]},
        "results": results,
        "plain": [batch for _, batch in pairs if batch],
        "idle": idle,
    }
    return file if checked is None else {**file, "cross_check": checked}


def config_of(args: argparse.Namespace, n_ctx: int, prompts_read: int) -> dict[str, Any]:
    """The flags, and what they were taken for, on which machine."""
    config = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    config |= {"prompts": [str(path) for path in args.prompts], "n_ctx": n_ctx, "prompts_read": prompts_read}
    config |= {"host": platform.node(), "machine": platform.machine(), "python": platform.python_version()}
    config["started_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return config


def sit_still(seconds: float) -> dict[str, float] | None:
    """The models are loaded: what the board draws now, for so long, is its idle power. The window's edges."""
    if not seconds:
        return None
    time.sleep(SETTLE_S)
    t0_s = time.monotonic()
    time.sleep(seconds)
    return {"t0_s": t0_s, "t1_s": time.monotonic()}


def check_flags(args: argparse.Namespace) -> None:
    """Fill in what follows from other flags. Raises UserError for what contradicts."""
    args.drafter = "none" if args.plain else args.drafter or ("model" if args.draft else "lookup")
    if args.drafter == "model" and not args.draft:
        raise UserError("--drafter model needs --draft FILE.gguf")
    if args.threshold and args.drafter == "lookup":
        raise UserError("prompt lookup has no probabilities: --threshold needs --draft FILE.gguf")
    least = {"requests": 1, "max_tokens": 2, "draft_tokens": 1, "batches": 1, "warmup": 0, "n_batch": 2}
    least["idle_seconds"] = 0
    for name, bound in least.items():
        if getattr(args, name) < bound:
            raise UserError(f"--{name} must be {bound} or more")
    if not 0 <= args.threshold <= 1 or not 0 <= args.temperature < 100:
        raise UserError("--threshold must lie in 0 to 1, --temperature be 0 or more")
    for path in (args.model, args.draft):
        if path and not path.is_file():
            raise UserError(f"no such model file: {path}")


def build_parser() -> argparse.ArgumentParser:
    """All flags of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="GGUF")
    add("--draft", type=Path, metavar="GGUF", help="a small model of the same vocabulary")
    add("--drafter", choices=["lookup", "model"], help="(default: model with --draft, else lookup)")
    add("--plain", action="store_true", help="plain decoding: the same loop, no draft")
    add("--prompts", type=Path, nargs="+", required=True, metavar="FILE", help="CSV, JSONL or .txt")
    add("--levels", nargs="+", default=["L0"], metavar="NAME", help="columns to read (default: L0)")
    add("--prompt_format", choices=["chat", "raw"], default="chat", help="(default: chat)")
    add("--out", type=Path, required=True, metavar="JSON")
    add("--requests", type=int, default=8, metavar="N", help="requests per batch (default: 8)")
    add("--batches", type=int, default=2, metavar="N", help="(default: 2)")
    add("--warmup", type=int, default=1, metavar="N", help="requests before the clock (default: 1)")
    idle = "wait so long after loading, for a power trace's baseline (default: 0)"
    add("--idle_seconds", type=float, default=0.0, metavar="S", help=idle)
    add("--max_tokens", type=int, default=64, metavar="N", help="(default: 64)")
    add("--temperature", type=float, default=0.0, metavar="T", help="(default: 0)")
    add("--draft_tokens", type=int, default=10, metavar="K", help="longest draft (default: 10)")
    add("--adaptive", choices=["off", "published", "cost"], default="off", help="(default: off)")
    add("--threshold", type=float, default=0.0, metavar="C", help="confidence to go on (default: 0)")
    compared = "which batches are decoded plainly, too; none is for profilers (default: first)"
    add("--compare", choices=["first", "every", "none"], default="first", help=compared)
    check = "also ask the engine's own prompt lookup, which keeps logits of the whole context in memory"
    add("--cross_check", action="store_true", help=check)
    add("--seed", type=int, default=42, metavar="N", help="prompt order and draws (default: 42)")
    add("--n_ctx", type=int, default=0, metavar="N", help="(default: what prompt and answer need)")
    add("--n_batch", type=int, default=512, metavar="N", help="(default: 512)")
    add("--n_gpu_layers", type=int, default=-1, metavar="N", help="(default: -1, all)")
    cores = max(1, (os.cpu_count() or 2) - 1)
    add("--n_threads", type=int, default=cores, metavar="N", help="(default: one less than cores)")
    flash = "with it, batches of other sizes round differently; on a CPU it makes checks dear (default: off)"
    add("--flash_attn", choices=["auto", "off", "on"], default="off", help=flash)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the run file; 1 for what the user can put right, 130 for Ctrl-C."""
    args = build_parser().parse_args(argv)
    try:
        check_flags(args)
        args.out.parent.mkdir(parents=True, exist_ok=True)  # before the work, if it cannot be
        file = run(args)
        write_whole(args.out, json.dumps(file, indent=1, allow_nan=False) + "\n")
    except (UserError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing written", file=sys.stderr)
        return 130
    mode = file["summary"]["per_mode"][0]
    stopped, checks = mode["tokens_stopped_by_confidence"], mode["total_confidence_checks"]
    if checks:
        share = 100 * stopped / (stopped + mode["spec_num_draft_tokens"])  # one check ends a whole draft
        stats = f"Confidence early exit stats: {stopped} tokens stopped out of {checks} checks"
        print(f"{stats} ({share:.1f}% of the tokens to draft)")
    ratio = mode["spec_acceptance_ratio"]
    accepted = "no drafts" if ratio is None else f"acceptance {ratio:.3f}"
    print(f"{args.out}: {mode['nwor_mode']}, {mode['latency_avg_s']:.3f} s per batch, {accepted}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
