#!/usr/bin/env python3
"""What is left to run, on what, in which order: one plan line per run.

The collector asks this script before it loads anything. Its flags come as one
JSON object on stdin; the plan goes to stdout as JSON lines. First the header:
  models    per file: model_id, path, sha256, facts, prompt_tokens_max by level, load (the engine
            settings, its context sized for the longest prompt and answer), or its error
  env       the environment record: board, engine, models, settings
  total, done, skipped_levels
then one line per run that is not in the output yet:
  record    the fields of the run record that are known beforehand; run_key is a hash of all that
            defines the run: model file, text, level, repeat, turn, sampling, engine version and
            settings, power mode
  prompt    messages, format, thinking: what the model is told; content null stands for its own
            answer to the first turn

Order: models one after the other (loading is slow), then repeats, then tasks. The
levels of a task are ordered by a seeded Latin square in which every level stands
in every place, and follows every other level, equally often, so that a drift of
the board falls on all levels alike.

With "dry_run": true it prints a table for people instead: runs, prompt tokens by
level from each model's own tokenizer, context and memory needed.

Example:
  echo '{"models": ["models/demo/demo-llama-F32.gguf"], "dry_run": true, \\
      "prompts": ["data/writing_prompts_hierarchical.csv"]}' | python companions/plan_runs.py
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# File-name endings that name a quantization: Q6_K, q4_k_m, IQ3_XXS, F16, BF16, MXFP4.
QUANTIZATION = re.compile(r"[-_.]((?:IQ|Q|TQ)\d+(?:_[0-9A-Z]+)*|BF16|F16|F32|MXFP4(?:_MOE)?)$", re.IGNORECASE)
DEFAULTS: dict[str, Any] = {
    "levels": None,
    "ids": None,
    "limit": None,
    "repeats": 1,
    "turns": 1,
    "questions": None,
    "order": "balanced",
    "seed": 0,
    "system": None,
    "out_jsonl": None,
    "fresh": False,
    "retry_errors": False,
    "allow_mixed": False,
    "allow_cpu": False,
    "dry_run": False,
    "prompt_format": "chat",
    "thinking": "off",
    "temperature": 0.0,
    "max_tokens": 512,
    "n_ctx": None,
    "n_gpu_layers": -1,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_threads": 1,
    "flash_attn": "auto",
    "kv_type": "f16",
}
LOAD_SETTINGS = ("n_gpu_layers", "n_batch", "n_ubatch", "n_threads", "flash_attn", "kv_type")
# Settings that could change a run's result or speed, and so belong to its key.
KEY_SETTINGS = (
    "prompt_format", "thinking", "temperature", "max_tokens", "seed", "n_ctx", *LOAD_SETTINGS,
)  # fmt: skip
# What makes two environments the same one: a reading of a clock or a temperature does not.
STABLE_BOARD = (
    "board",
    "l4t",
    "jetpack",
    "power_mode_name",
    "clocks_locked",
    "kernel",
    "cpu_model",
    "memory_total_byte",
)
CONTEXT_STEP = 256  # the engine pads a context to this; asking for another number reports a wrong one


class PlanError(Exception):
    """What the user can fix; the message names the file or flag and the cure."""


# ---------------------------------------------------------------------------
# Models


def split_stem(stem: str) -> tuple[str, str | None]:
    """Model id and quantization of a file's stem.

    >>> split_stem("gemma-2-2b-it-Q6_K")
    ('gemma-2-2b-it', 'Q6_K')
    >>> split_stem("qwen1.5-1.8b-chat-q6_k")
    ('qwen1.5-1.8b-chat', 'Q6_K')
    >>> split_stem("tiny")
    ('tiny', None)
    """
    found = QUANTIZATION.search(stem)
    return (stem[: found.start()], found.group(1).upper()) if found else (stem, None)


def name_models(paths: Sequence[Path]) -> list[tuple[str, str | None, Path]]:
    """(model_id, quantization, path) per file; files that would share an id keep their full stems."""
    ids = [split_stem(path.stem)[0] for path in paths]
    named = [
        (path.stem if ids.count(model_id) > 1 else model_id, split_stem(path.stem)[1], path)
        for path, model_id in zip(paths, ids, strict=True)
    ]
    names = [name for name, _, _ in named]
    for name, _, path in named:
        if names.count(name) > 1:
            raise PlanError(f"two model files are called {path.stem}; rename one or leave it out of --models")
    return named


def companion(name: str, *arguments: str, text: str = "") -> list[dict[str, Any]]:
    """JSON lines that a companion script prints; PlanError with its own words where it prints none."""
    script = Path(__file__).resolve().parent / name
    done = subprocess.run(
        [sys.executable, str(script), *arguments], input=text, capture_output=True, text=True
    )
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    except ValueError:
        lines = []
    if not lines:
        raise PlanError(f"companions/{name}: {done.stderr.strip().removeprefix('error: ') or 'no output'}")
    return lines


def fingerprint(path: Path, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Facts and SHA-256 of a model file; an unchanged file's hash is taken from an earlier record of it."""
    if not path.is_file():
        raise PlanError(f"no such model: {path}; check --models")
    facts = companion("gguf_facts.py", "--json", str(path))[0]
    if facts.get("error"):
        raise PlanError(f"{path}: {facts['error']}; download or copy the file again")
    stat = path.stat()
    before = known.get(str(path.resolve()), {})
    if (before.get("file_byte"), before.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns):
        sha256 = before["sha256"]
    else:
        print(f"hashing {path.name} ({stat.st_size / 1e9:.2f} GB)", file=sys.stderr)
        with path.open("rb") as data:
            digest = hashlib.sha256()
            while block := data.read(1 << 22):
                digest.update(block)
        sha256 = digest.hexdigest()
    return {
        **facts,
        "path": str(path.resolve()),
        "file_byte": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "sha256": sha256,
    }


# ---------------------------------------------------------------------------
# Order


def williams_rows(levels: Sequence[str], seed: int) -> list[list[str]]:
    """Rows of a Williams design, shuffled by the seed: a Latin square balanced for carry-over.

    Over n rows (2n for an odd number of levels) every level stands in every place, and follows every other
    level, equally often. Source: E. J. Williams, Aust. J. Sci. Res. A 2 (1949) 149-168.

    >>> sorted(sum(williams_rows("AB", 0), []))
    ['A', 'A', 'B', 'B']
    """
    n = len(levels)
    draw = random.Random(seed)
    names = draw.sample(list(levels), n)
    zigzag = [0 if i == 0 else (i + 1) // 2 if i % 2 else n - i // 2 for i in range(n)]
    rows = [[names[(place + shift) % n] for place in zigzag] for shift in range(n)]
    if n % 2:
        rows += [row[::-1] for row in rows]
    draw.shuffle(rows)
    return rows


def level_orders(levels: Sequence[str], settings: Mapping[str, Any]) -> list[list[str]]:
    """Orders of the levels, to be taken in turn by one task after the other."""
    if settings["order"] == "balanced" and levels:
        return williams_rows(levels, settings["seed"])
    return [list(levels)]


def ordered_cells(
    tasks: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> Iterator[tuple[Mapping[str, Any], str, int]]:
    """Yield (task, level, repeat) in the order they are to be run."""
    levels = list(dict.fromkeys(level for task in tasks for level in task["levels"]))
    orders = level_orders(levels, settings)
    for repeat in range(1, settings["repeats"] + 1):
        cells = []
        for index, task in enumerate(tasks, start=(repeat - 1) * len(tasks)):
            order = orders[index % len(orders)]
            cells += [(task, level, repeat) for level in order if level in task["levels"]]
        if settings["order"] == "shuffled":
            random.Random(f"{settings['seed']} {repeat}").shuffle(cells)
        yield from cells


# ---------------------------------------------------------------------------
# Runs and their keys


def sha256_text(text: str) -> str:
    """Hash of a text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def conversation(text: str, system: str | None, second: str | None) -> list[dict[str, str | None]]:
    """Messages of a run; with a second question the model's own first answer stands between, as null."""
    messages: list[dict[str, str | None]] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    if second is not None:
        messages += [{"role": "assistant", "content": None}, {"role": "user", "content": second}]
    return messages


def plan_line(
    task: Mapping[str, Any],
    level: str,
    repeat: int,
    turn: int,
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """One run of the plan; its key changes when anything that could change its result does."""
    messages = conversation(task["levels"][level], settings["system"], task["second"] if turn == 2 else None)
    asked = "\x1e".join(message["content"] or "" for message in messages if message["role"] == "user")
    identity = [model["sha256"], task["id"], level, repeat, turn, messages, settings["conditions"]]
    record = {
        "run_key": sha256_text(json.dumps(identity, sort_keys=True))[:24],
        "id": task["id"],
        "category": task["category"],
        "level": level,
        "turn": turn,
        "repeat": repeat,
        "seed": settings["seed"] + repeat - 1,
        "prompt_sha256": sha256_text(asked),
        "thinking": settings["thinking"] == "on",
        **{name: model[name] for name in ("model_id", "quantization")},
        **{name: settings[name] for name in ("prompt_format", "temperature", "max_tokens", "n_gpu_layers")},
    }
    prompt = {"messages": messages, "format": record["prompt_format"], "thinking": record["thinking"]}
    return {"record": record, "prompt": prompt}


def describe_model(
    model_id: str, quantization: str | None, path: Path, known: Mapping[str, Any]
) -> dict[str, Any]:
    """Header entry of one model file: identity and facts, or the error that rules it out."""
    entry: dict[str, Any] = {"model_id": model_id, "quantization": quantization, "path": str(path)}
    try:
        return {**fingerprint(path, known), **entry, "error": None}
    except (PlanError, OSError) as exc:
        return {**entry, "error": str(exc)}


def count_tokens(
    model: dict[str, Any], lines: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> None:
    """Add each level's longest prompt and the context it needs to the model's entry, from its own tokenizer.

    A second turn is reckoned with a first answer of full length.
    """
    distinct = [line for line in lines if line["record"]["repeat"] == 1]
    requests: list[dict[str, Any]] = [{"op": "open", "model": model["path"]}]
    requests += [{"op": "count", "prompt": line["prompt"]} for line in distinct]
    answers = companion("engine_worker.py", text="".join(json.dumps(request) + "\n" for request in requests))
    refused = [answer["error"]["message"] for answer in answers if not answer["ok"]]
    if refused:
        model["error"] = refused[0]
        return
    longest: dict[str, int] = {}
    for line, answer in zip(distinct, answers[1:], strict=True):
        level = line["record"]["level"]
        tokens = answer["prompt_tokens"] + (settings["max_tokens"] if line["record"]["turn"] == 2 else 0)
        longest[level] = max(longest.get(level, 0), tokens)
    needed = -(-(max(longest.values()) + settings["max_tokens"]) // CONTEXT_STEP) * CONTEXT_STEP
    trained = (answers[0]["n_ctx_train"] or model.get("n_ctx_train") or needed) // CONTEXT_STEP * CONTEXT_STEP
    model["prompt_tokens_max"] = longest
    model["load"] = {name: settings[name] for name in LOAD_SETTINGS}
    model["load"]["n_ctx"] = settings["n_ctx"] or min(needed, trained or needed)


# ---------------------------------------------------------------------------
# What is there already


# Copied from read_prompts.read_jsonl
def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (line number, record) per non-blank line, None for what is no JSON object; reads .gz too."""
    # Iterate the file: str.splitlines() would cut a record at U+2028.
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except ValueError:
                record = None
            yield number, record if isinstance(record, dict) else None


def set_aside(*paths: Path) -> None:
    """Rename old output: nothing is deleted, and no reader takes it for current."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for path in paths:
        if path.exists():
            path.rename(path.with_name(f"{path.name}.{stamp}.old"))


def heal(out: Path) -> None:
    """Cut off a last line that a kill or a full disk left half written; its run is done again."""
    data = out.read_bytes() if out.exists() else b""
    if data and not data.endswith(b"\n"):
        print(f"{out}: dropping a half-written last line; its run is done again", file=sys.stderr)
        os.truncate(out, data.rfind(b"\n") + 1)


def read_own(out: Path) -> list[dict[str, Any]]:
    """Records of an earlier start."""
    records = []
    for number, record in read_jsonl(out) if out.exists() else ():
        if record is None or "run_key" not in record:
            raise PlanError(
                f"{out} line {number}: not a run record; delete that line, or start over with --fresh"
            )
        records.append(record)
    return records


def cell(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a run is, whatever it was measured with."""
    return line["model_id"], str(line["id"]), line["level"], line["turn"], line["repeat"]


def refuse_mixture(
    plan: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]], out: Path
) -> None:
    """PlanError where the output holds a planned run that was measured under other conditions."""
    keys = {cell(line["record"]): line["record"]["run_key"] for line in plan}
    strange = [record for record in records if keys.get(cell(record), record["run_key"]) != record["run_key"]]
    if strange:
        raise PlanError(
            f"{out} holds {len(strange)} of these runs measured with another model file, prompt, setting,"
            " engine or power mode; choose another --out_jsonl, move the old file aside with --fresh, or mix"
            " them with --allow_mixed"
        )


def earlier(out: Path, settings: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(records, models by path) of earlier starts, after moving them aside (fresh) or mending them."""
    env_path = out.with_suffix(".env.jsonl")
    if settings["fresh"] and not settings["dry_run"]:
        set_aside(out, env_path, out.with_suffix(".anchors.jsonl"))
    if not settings["dry_run"]:
        heal(out)
        heal(env_path)
    return read_own(out), known_models(env_path)


def left_to_do(
    plan: Sequence[dict[str, Any]], records: Sequence[Mapping[str, Any]], retry_errors: bool
) -> list[dict[str, Any]]:
    """Runs that are not in the output; second turns get the first answer where it is there already."""
    finished = {record["run_key"] for record in records if record["error"] is None or not retry_errors}
    finished |= {record["run_key"] for record in records if record["error"] is None}
    first = {cell(record): record["output_text"] for record in records if record["error"] is None}
    todo = [line for line in plan if line["record"]["run_key"] not in finished]
    for line in todo:
        record = line["record"]
        answer = first.get((*cell(record)[:3], 1, record["repeat"]))
        if record["turn"] == 2 and answer is not None:
            line["prompt"]["messages"][-2]["content"] = answer
    return todo


# ---------------------------------------------------------------------------
# The environment


def environment(
    settings: Mapping[str, Any], board: dict[str, Any], models: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The environment record; env_id stays the same for the same board, mode, engine, models and settings."""
    engine = board.get("engine") or {}
    stable = [[board.get(name) for name in STABLE_BOARD], engine, [model.get("sha256") for model in models]]
    chosen = {name: value for name, value in settings.items() if name not in ("known_models", "conditions")}
    return {
        "schema_version": 1,
        "env_id": sha256_text(json.dumps([stable, settings["conditions"]], sort_keys=True))[:12],
        "created_at": board.get("checked_at"),
        "board": board,
        "engine": engine,
        "models": {model["model_id"]: model for model in models},
        "settings": chosen,
    }


def check_board(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What machine this is; a Jetson whose engine cannot use its GPU is refused."""
    board = companion("board_check.py", "--json")[0]
    if board["is_jetson"] and not (board["engine"] or {}).get("gpu_offload") and not settings["allow_cpu"]:
        cure = next(
            (check["cure"] for check in board["checks"] if check["name"] == "engine"), "./run_all.sh --setup"
        )
        raise PlanError(
            f"the engine on this Jetson is built for the CPU only; rebuild it: {cure} (or --allow_cpu)"
        )
    return board


def known_models(env_path: Path) -> dict[str, Any]:
    """Models of earlier environment records by path: an unchanged file of gigabytes is not hashed again."""
    records = [record for _, record in read_jsonl(env_path) if record] if env_path.exists() else []
    return {
        model["path"]: model
        for record in records
        for model in record["models"].values()
        if model.get("sha256")
    }


# ---------------------------------------------------------------------------
# The plan


def make_plan(settings: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(header, runs left); a model that cannot be used has its error in the header."""
    tasks = read_prompts(settings)
    out = Path(settings["out_jsonl"]) if settings["out_jsonl"] else None
    records, known = earlier(out, settings) if out else ([], {})
    board = check_board(settings)
    conditions = {name: settings.get(name) for name in KEY_SETTINGS}
    conditions |= {"engine": (board["engine"] or {}).get("version"), "power_mode": board["power_mode_name"]}
    settings["conditions"] = conditions
    models = [
        describe_model(*named, known) for named in name_models([Path(name) for name in settings["models"]])
    ]
    plan = []
    for model in models:
        if model["error"] is None:
            lines = [
                plan_line(task, level, repeat, turn, model, settings)
                for task, level, repeat in ordered_cells(tasks, settings)
                for turn in range(1, settings["turns"] + 1)
            ]
            count_tokens(model, lines, settings)
            plan += lines if model["error"] is None else []
    if out and not settings["allow_mixed"]:
        refuse_mixture(plan, records, out)
    todo = left_to_do(plan, records, settings["retry_errors"])
    env = environment(settings, board, models)
    header = {
        "models": models,
        "env": env,
        "total": len(plan),
        "done": len(plan) - len(todo),
        "skipped_levels": sum(task["skipped"] for task in tasks),
    }
    return header, todo


def read_prompts(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tasks of the prompts files, from companions/read_prompts.py."""
    arguments = ["--prompts", *settings["prompts"]]
    for name in ("levels", "ids"):
        arguments += [f"--{name}", *map(str, settings[name])] if settings[name] else []
    arguments += ["--limit", str(settings["limit"])] if settings["limit"] else []
    arguments += ["--questions", str(settings["questions"])] if settings["turns"] == 2 else []
    return companion("read_prompts.py", *arguments)


def dry_run_table(header: Mapping[str, Any], todo: Sequence[Mapping[str, Any]]) -> str:
    """The plan for people, 80 columns."""
    lines = [f"{header['total']} runs planned, {header['done']} done, {len(todo)} to do"]
    lines += (
        [f"{header['skipped_levels']} levels without text are skipped"] if header["skipped_levels"] else []
    )
    for model in header["models"]:
        if model["error"]:
            lines.append(f"{model['model_id']}: cannot run: {model['error']}")
            continue
        runs = sum(line["record"]["model_id"] == model["model_id"] for line in todo)
        longest = "  ".join(f"{level} {tokens}" for level, tokens in model["prompt_tokens_max"].items())
        kv_byte = (model.get("kv_byte_per_token") or 0) * model["load"]["n_ctx"]
        kv = f" + {kv_byte / 1e9:.2f} GB cache" if kv_byte else " + cache of unknown size"
        lines += [
            f"{model['model_id']}: {runs} runs",
            f"  longest prompt, tokens: {longest}",
            f"  context {model['load']['n_ctx']}, memory {model['file_byte'] / 1e9:.2f} GB weights{kv}",
        ]
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """The only flag is --help: settings come on stdin."""
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(argv: Sequence[str] | None = None) -> int:
    """Read settings, print the plan."""
    build_parser().parse_args(argv)
    try:
        settings = {**DEFAULTS, **json.load(sys.stdin)}
        header, todo = make_plan(settings)
    except (PlanError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except (ValueError, KeyError) as exc:
        print(
            f"error: settings on stdin must be a JSON object with models and prompts ({exc!r})",
            file=sys.stderr,
        )
        return 1
    if settings["dry_run"]:
        print(dry_run_table(header, todo))
        return 1 if any(model["error"] for model in header["models"]) else 0
    for line in (header, *todo):
        print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
