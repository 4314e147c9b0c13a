#!/usr/bin/env python3
"""What the collector's own code costs, measured side by side with the engine without it. Run by hand.

On one model, in interleaved rounds: a bare loop of the engine's calls (decode, wait; what llama-bench
does), the collector's loop, and the engine's own greedy sampler in the bare loop. All three decode the same
tokens in one process. With --llama_bench a run of that binary stands beside each round. Prints
  decode rate, collector ÷ bare loop and ÷ llama-bench      (goal: at least 0.99 at 262,000 tokens)
  our own time a token: the look for the highest logit alone, and collector - bare loop (goal: 0.1 ms at most)
  the engine's greedy sampler a token, for comparison
  in-run overhead (wall - engine) / wall                    (goal: at most 1.5 %)
  own time a token at 2,048 tokens                          (goal: at most 0.3 ms: no quadratic cost)
  decode rate with the power sampler on ÷ off               (goal: within 1 %)
Without --model it makes one of --n_vocab tokens (262,144 is Gemma's).

Example:
    python tests/bench_collect.py --n_vocab 262144 --rounds 7
    python tests/bench_collect.py --model /tmp/m/medium-llama-Q8_0.gguf --llama_bench path/to/llama-bench
    python tests/bench_collect.py --model models/demo/SmolLM2-135M-Instruct-Q4_1.gguf   # of get_demo_model.py
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "models"))

import llama_cpp  # noqa: E402
import make_demo_model  # noqa: E402

from edgebench.engine import single  # noqa: E402
from edgebench.engine.binding import Context, Model, Watch  # noqa: E402
from edgebench.engine.protocol import ModelLoad, Prompt, Sampling  # noqa: E402
from tests.fakes import odd_models  # noqa: E402

DEPTH, TOKENS = 128, 128


def made(folder: str, n_vocab: int) -> Path:
    """A model of medium size with so many tokens, most of them unused."""
    flags = ["--size", "medium", "--arch", "llama", "--type", "Q8_0", "--mode", "never", "--name", "medium"]
    assert make_demo_model.main([*flags, "--outdir", folder]) == 0
    return odd_models.widened(Path(folder) / "medium.gguf", Path(folder) / "wide.gguf", n_vocab)


def prompt_of(model: Model, tokens: int) -> Prompt:
    """A prompt of about so many tokens."""
    words = 1
    while len(model.tokenize(" the" * words, True, False)) < tokens:
        words += 1
    return Prompt.of_text(" the" * words, "raw")


def bare(context: Context, ids: list[int], said: list[int], sampler: object = None) -> float:
    """Milliseconds a token of the engine alone over the same tokens; with its own sampler if one is given."""
    one = (llama_cpp.llama_token * 1)()
    batch = llama_cpp.llama_batch_get_one(ctypes.cast(one, llama_cpp.llama_token_p), 1)
    prompt = (llama_cpp.llama_token * len(ids))(*ids)
    context.start_cold()
    single.prefill(context, prompt, len(ids))
    llama_cpp.llama_synchronize(context.handle)
    began_s = time.monotonic()
    for token in said:
        one[0] = token
        llama_cpp.llama_decode(context.handle, batch)
        if sampler is None:
            llama_cpp.llama_synchronize(context.handle)
        else:
            llama_cpp.llama_sampler_sample(sampler, context.handle, -1)
    return (time.monotonic() - began_s) / len(said) * 1000


def look_ms(context: Context, times: int = 200) -> float:
    """Milliseconds of the look for the highest logit, as in every step after the first."""
    watch = Watch()
    logits = context.logits()
    watch.best(logits)
    began_s = time.monotonic()
    for _ in range(times):
        watch.best(context.logits())
    return (time.monotonic() - began_s) / times * 1000


def llama_bench(binary: str, model: Path, tokens: int, threads: int) -> float:
    """Decode rate [tok/s] of one llama-bench repetition."""
    command = [binary, "-m", str(model), "-p", "0", "-n", str(tokens), "-d", str(DEPTH), "-r", "1"]
    command += ["-o", "json", "-t", str(threads), "-fa", "0", "-ngl", "99"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)[0]["avg_ts"])


def show(name: str, values: list[float], unit: str) -> None:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    print(f"{name:46} {statistics.median(values):10.4f} ± {spread:.4f} {unit} (n={len(values)})", flush=True)


def compare(args: argparse.Namespace, path: Path) -> None:
    """Rounds of the three loops, and of llama-bench."""
    # As the collector does it, a context as long as the run needs: without flash attention the cache of a
    # longer one is read with longer strides.
    model = Model(str(path), n_gpu_layers=-1)
    load = ModelLoad(512, n_threads=args.threads, flash_attn="off")
    context = Context(model, load, no_perf=False)
    prompt = prompt_of(model, DEPTH)
    ids = model.tokenize(prompt.messages[0].content or "", True, False)
    said = single.timed_run(context, ids, Sampling(TOKENS)).ids
    sampler = llama_cpp.llama_sampler_init_greedy()
    ours, to_bare, to_bench, own_ms, sampler_ms, overhead, looks = [], [], [], [], [], [], []
    for index in range(args.rounds):
        alone_ms = bare(context, ids, said[:-1])
        record = single.run(context, prompt, Sampling(TOKENS))
        looks.append(look_ms(context))
        again_ms = bare(context, ids, said[:-1])
        sampled_ms = bare(context, ids, said[:-1], sampler)
        assert record.decode_tok_per_s and record.overhead_ratio is not None
        token_ms, engine_ms = 1000 / record.decode_tok_per_s, (alone_ms + again_ms) / 2
        if args.llama_bench:
            to_bench.append(
                record.decode_tok_per_s / llama_bench(args.llama_bench, path, TOKENS, args.threads)
            )
        if index == 0:
            continue  # warms the caches
        ours.append(record.decode_tok_per_s)
        to_bare.append(engine_ms / token_ms)
        own_ms.append(token_ms - engine_ms)
        sampler_ms.append(sampled_ms - engine_ms)
        overhead.append(record.overhead_ratio * 100)
    print(f"{path.name}: {model.n_vocab} tokens, {args.threads} thread(s)")
    show("decode rate, collector", ours, "tok/s")
    show("collector ÷ bare loop, interleaved", to_bare, "")
    if to_bench:
        show("collector ÷ llama-bench, interleaved", to_bench[1:], "")
    show("look for the highest logit", looks, "ms/token")
    show("collector - bare loop", own_ms, "ms/token")
    show("engine's greedy sampler - bare loop", sampler_ms, "ms/token")
    show("in-run overhead", overhead, "%")
    context.close()
    long = Context(model, ModelLoad(2304, n_threads=args.threads, flash_attn="off"), no_perf=False)
    record = single.run(long, prompt, Sampling(2048))
    assert record.overhead_ratio is not None
    show("own time a token at 2,048 tokens", [record.latency_ms * record.overhead_ratio / 2048], "ms")
    long.close()
    beside_the_sampler(args, Context(model, load, no_perf=False), prompt)


def beside_the_sampler(args: argparse.Namespace, context: Context, prompt: Prompt) -> None:
    """The decode rate with the power sampler running and without."""
    rates = []
    feed = [sys.executable, str(ROOT / "tegrastats_sampler.py"), "record", "--seconds", "600"]
    feed += ["--source", f"replay:{ROOT / 'data/demo/power_replay.log'}", "--out", "/dev/null"]
    for _ in range(args.rounds):
        off = single.run(context, prompt, Sampling(TOKENS)).decode_tok_per_s
        sampler = subprocess.Popen(feed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        on = single.run(context, prompt, Sampling(TOKENS)).decode_tok_per_s
        sampler.terminate()
        sampler.wait()
        assert on and off
        rates.append(on / off)
    show("decode rate, sampler on ÷ off", rates, "")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a GGUF file (default: one is made)")
    parser.add_argument("--n_vocab", type=int, default=262144, help="of the model that is made")
    parser.add_argument("--llama_bench", help="the binary, built from the engine's own source")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(args, args.model or made(folder, args.n_vocab))
    return 0


if __name__ == "__main__":
    sys.exit(main())
