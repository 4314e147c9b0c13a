#!/usr/bin/env python3
"""What is left to run, on what, in which order: one plan line per run.

The collector asks this script before it loads anything. Its flags come as one
JSON object on stdin; the plan goes to stdout as JSON lines. First the header:
  models    per file: model_id, path, sha256, facts, prompt_tokens_max by level, load (the engine
            settings, its context sized for the longest prompt and answer), or its error
  env       the environment record: board, engine, models, settings
  notes     lines for the user: what is done already, what is skipped, what the board lacks
  errors    why models cannot run
  total, done
then one line per run that is not in the output yet:
  record    the fields of the run record that are known beforehand; run_key is a hash of all that
            defines the run: model file, text, level, repeat, turn, sampling, engine version and
            settings, power mode
  prompt    messages, format, thinking: what the model is told; content null stands for its own
            answer to the first turn, whose run_key is `first_key`
  anchor    true for a run that is not part of the campaign but repeated every "anchor_every" runs:
            always the first of the model's plan, so that drift shows across starts, too

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
import concurrent.futures
import datetime
import gzip
import hashlib
import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.power.feeds import find_feed
from edgebench.power.trace import SamplerError
from edgebench.shell.launch import room_command

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
    "anchor_every": None,
    "cooldown": "0",
    "command": None,
    "source": "auto",
    "feed": None,
    "interval": 100,
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


def check_settings(settings: Mapping[str, Any]) -> None:
    """PlanError for a number that makes no sense, by the name of its flag."""
    for name in ("limit", "repeats", "max_tokens", "n_ctx", "n_batch", "n_ubatch", "n_threads", "interval",
                 "idle_every", "anchor_every"):  # fmt: skip
        if settings.get(name) is not None and settings[name] < 1:
            raise PlanError(f"--{name} {settings[name]} must be at least 1")
    cooldown = settings["cooldown"]
    try:
        measures = {"cooldown": float(cooldown.removeprefix("temp:"))}
    except ValueError:
        raise PlanError(
            f"--cooldown {cooldown} must be seconds, or temp: and degrees, as in temp:50"
        ) from None
    measures |= {name: settings.get(name, 1.0) for name in ("temperature", "idle_seconds", "run_timeout")}
    for name, value in measures.items():
        if not 0 <= value < float("inf"):
            raise PlanError(f"--{name} {settings.get(name)} must be a number of at least 0")
    if settings["out_jsonl"] and not settings["out_jsonl"].endswith(".jsonl"):
        raise PlanError(f"--out_jsonl {settings['out_jsonl']} must end in .jsonl")


# ---------------------------------------------------------------------------
# The other scripts


def companion(name: str, *arguments: str, text: str = "") -> list[dict[str, Any]]:
    """JSON lines that a companion script prints; PlanError with its own words where it prints none."""
    done = subprocess.run([*room_command(name), *arguments], input=text, capture_output=True, text=True)
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    except ValueError:
        lines = []
    if not lines or done.returncode < 0:  # killed, perhaps half-way
        words = (done.stderr.strip() or f"ended with status {done.returncode}").splitlines()[-1]
        said = words.removeprefix("error: ")
        raise PlanError(said if said != words else f"{name}: {words}")
    return lines


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
    second = task["second"] if turn == 2 else None
    messages = conversation(task["levels"][level], settings["system"], second)
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
    return {"record": record, "prompt": prompt, "first_key": None, "anchor": False}


def model_plan(
    model: dict[str, Any], tasks: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """All runs of one model; [] with the reason in the model's entry where it cannot be used."""
    lines = []
    for task, level, repeat in ordered_cells(tasks, settings):
        turns = [plan_line(task, level, repeat, n + 1, model, settings) for n in range(settings["turns"])]
        for line in turns[1:]:
            line["first_key"] = turns[0]["record"]["run_key"]
        lines += turns
    try:
        count_tokens(model, lines, settings)
    except PlanError as exc:  # the engine crashes on this file, say
        model["error"] = f"{model['path']}: {exc}"
    return lines if model["error"] is None else []


def count_tokens(
    model: dict[str, Any], lines: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> None:
    """Add each level's longest prompt and the context it needs to the model's entry, from its own tokenizer.

    A second turn is reckoned with a first answer of full length.
    """
    distinct = [line for line in lines if line["record"]["repeat"] == 1]
    requests: list[dict[str, Any]] = [{"op": "open", "model": model["path"]}]
    requests += [{"op": "count", "prompt": line["prompt"]} for line in distinct]
    answers = companion(
        "edgebench.engine.single", text="".join(json.dumps(request) + "\n" for request in requests)
    )
    refused = [answer["error"]["message"] for answer in answers if not answer["ok"]]
    if refused:
        model["error"] = refused[0]
        return
    longest: dict[str, int] = {}
    for line, answer in zip(distinct, answers[1:], strict=True):
        level = line["record"]["level"]
        tokens = answer["prompt_tokens"] + (settings["max_tokens"] if line["record"]["turn"] == 2 else 0)
        longest[level] = max(longest.get(level, 0), tokens)
    trained = (model.get("n_ctx_train") or 0) // CONTEXT_STEP * CONTEXT_STEP
    needed = max(longest.values()) + settings["max_tokens"]
    n_ctx = settings["n_ctx"] or (min(needed, trained) if trained else needed)
    model["prompt_tokens_max"] = longest
    model["load"] = {name: settings[name] for name in LOAD_SETTINGS}
    model["load"]["n_ctx"] = -(-n_ctx // CONTEXT_STEP) * CONTEXT_STEP
    if trained and max(needed, n_ctx) > trained:
        model["note"] = (
            f"it was trained for a context of {trained}, but this takes up to {max(needed, n_ctx)}"
        )


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
    stamp, n = datetime.datetime.now().strftime("%Y%m%d-%H%M%S"), 0
    while any(path.with_name(f"{path.name}.{stamp}.{n}.old").exists() for path in paths):
        n += 1  # a second start within the second
    for path in paths:
        if path.exists():
            path.rename(path.with_name(f"{path.name}.{stamp}.{n}.old"))


def heal(out: Path) -> None:
    """Cut off a last line that a kill or a full disk left half written; its run is done again."""
    data = out.read_bytes() if out.exists() else b""
    rest = data[data.rfind(b"\n") + 1 :]
    if not rest:
        return
    try:
        json.loads(rest)
    except ValueError:
        print(f"{out}: dropping a half-written last line; its run is done again", file=sys.stderr)
        os.truncate(out, len(data) - len(rest))
        return
    with out.open("ab") as whole:  # only its line break is lacking: an editor took it
        whole.write(b"\n")


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


def earlier(out: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Records of earlier starts, after mending their files; none with --fresh."""
    for path in () if settings["dry_run"] else beside(out):
        heal(path)
    return [] if settings["fresh"] else read_own(out)


def beside(out: Path) -> tuple[Path, Path, Path]:
    """The output and what stands beside it: environments, anchors."""
    return out, out.with_suffix(".env.jsonl"), out.with_suffix(".anchors.jsonl")


def left_to_do(
    plan: Sequence[dict[str, Any]], records: Sequence[Mapping[str, Any]], retry_errors: bool
) -> list[dict[str, Any]]:
    """Runs that are not in the output; second turns get the first answer where it is there already."""
    good = {record["run_key"]: record for record in records if record.get("error") is None}
    finished = good if retry_errors else {record["run_key"] for record in records}
    todo = [line for line in plan if line["record"]["run_key"] not in finished]
    for line in todo:
        if line["first_key"] in good:
            line["prompt"]["messages"][-2]["content"] = good[line["first_key"]]["output_text"]
    return todo


def with_anchors(
    plan: Sequence[dict[str, Any]], todo: Sequence[dict[str, Any]], every: int | None
) -> list[dict[str, Any]]:
    """Put the first run of each model's plan, marked as an anchor, before every so many of its runs."""
    first: dict[str, dict[str, Any]] = {}
    for line in plan:
        first.setdefault(line["record"]["model_id"], line)
    count = dict.fromkeys(first, 0)
    lines = []
    for line in todo:
        model_id = line["record"]["model_id"]
        if every and count[model_id] % every == 0:
            lines.append({**first[model_id], "anchor": True})
        count[model_id] += 1
        lines.append(line)
    return lines


# ---------------------------------------------------------------------------
# The environment


def environment(
    settings: Mapping[str, Any], board: dict[str, Any], models: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The environment record; env_id stays the same for the same board, mode, engine, models and settings."""
    engine = {name: board["engine"].get(name) for name in ("version", "gpu_offload", "system_info")}
    stable = [[board.get(name) for name in STABLE_BOARD], engine, [model.get("sha256") for model in models]]
    chosen = {name: value for name, value in settings.items() if name not in ("command", "conditions")}
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
    """What machine this is; without an engine, or on a Jetson without its GPU, nothing runs."""
    board = companion("edgebench.board.check", "--json")[0]
    cure = next((check["cure"] for check in board["checks"] if check["name"] == "engine"), None)
    if board["engine"]["version"] is None:
        raise PlanError(f"the engine does not start ({board['engine']['error']}); install it: {cure}")
    if board["is_jetson"] and not board["engine"]["gpu_offload"] and not settings["allow_cpu"]:
        raise PlanError(f"the engine on this Jetson cannot use its GPU; mend it: {cure} (or --allow_cpu)")
    return board


# ---------------------------------------------------------------------------
# The plan


def make_plan(settings: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(header, runs left); a model that cannot be used has its error in the header."""
    check_settings(settings)
    out = Path(settings["out_jsonl"]) if settings["out_jsonl"] else None
    known = ["--env", str(beside(out)[1])] if out else []
    with concurrent.futures.ThreadPoolExecutor() as pool:  # the board is watched for a while meanwhile
        checked = pool.submit(check_board, settings)
        tasks = read_prompts(settings)
        models = companion("edgebench.gguf.identity", *known, "--models", *map(str, settings["models"]))
    board = checked.result()
    records = earlier(out, settings) if out else []
    settings["conditions"] = {
        **{name: settings.get(name) for name in KEY_SETTINGS},
        **{name: board["engine"][name] for name in ("version", "gpu_offload", "system_info")},
        **{name: board[name] for name in ("board", "power_mode_name")},
    }
    plan = [line for model in models if not model["error"] for line in model_plan(model, tasks, settings)]
    if out and not settings["allow_mixed"]:
        refuse_mixture(plan, records, out)
    todo = left_to_do(plan, records, settings["retry_errors"])
    good = {record["run_key"] for record in records if record.get("error") is None}
    left = {line["record"]["run_key"] for line in todo}
    failed = sum(line["record"]["run_key"] not in good | left for line in plan)
    header = {
        "models": models,
        "env": environment(settings, board, models),
        "errors": [model["error"] for model in models if model["error"]],
        "total": len(plan),
        "done": len(plan) - len(todo),
        "skipped_levels": sum(task["skipped"] for task in tasks),
    }
    header["notes"] = notes(header, board, settings, failed)
    if out and settings["fresh"] and not settings["dry_run"] and plan:
        set_aside(*beside(out))
    return header, with_anchors(plan, todo, settings["anchor_every"])


def notes(
    header: Mapping[str, Any], board: Mapping[str, Any], settings: Mapping[str, Any], failed: int
) -> list[str]:
    """What the user should know before the campaign starts, one line each."""
    lines = [f"board: {c['message']}; cure: {c['cure']}" for c in board["checks"] if c["status"] == "bad"]
    warned = [check["name"] for check in board["checks"] if check["status"] == "warn"]
    if warned:
        lines.append(f"board: {', '.join(warned)}: python companions/board_check.py says what to mend")
    for model in header["models"]:
        if not model["error"] and memory_byte(model) > (board["memory_available_byte"] or float("inf")):
            lines.append(
                f"{model['model_id']}: needs more memory than is free; close programs, or lower --n_ctx"
            )
        if model.get("note"):
            lines.append(f"{model['model_id']}: {model['note']}; lower --max_tokens or --n_ctx")
    if header["skipped_levels"]:
        lines.append(f"{header['skipped_levels']} levels without text are skipped")
    if header["done"]:
        again = f"; {failed} of them failed, --retry_errors does those again" if failed else ""
        lines.append(f"{header['done']} of {header['total']} runs are done already{again}")
    return lines


def memory_byte(model: Mapping[str, Any]) -> int:
    """Weights and cache; the header of some models does not tell the cache."""
    return int(model["file_byte"] + (model.get("kv_byte_per_token") or 0) * model["load"]["n_ctx"])


def read_prompts(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tasks of the prompts files, from companions/read_prompts.py."""
    arguments = ["--prompts", *settings["prompts"]]
    for name in ("levels", "ids"):
        arguments += [f"--{name}", *map(str, settings[name])] if settings[name] else []
    arguments += ["--limit", str(settings["limit"])] if settings["limit"] else []
    arguments += ["--questions", str(settings["questions"])] if settings["turns"] == 2 else []
    return companion("edgebench.prompts.tasks", *arguments)


def dry_run_table(
    header: Mapping[str, Any], todo: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> str:
    """The plan for people, 80 columns."""
    lines = [f"{header['total']} runs planned, {header['done']} done, {len(todo)} to do"]
    lines += header["notes"]
    for model in header["models"]:
        if model["error"]:
            lines.append(f"{model['model_id']}: cannot run: {model['error']}")
            continue
        runs = sum(line["record"]["model_id"] == model["model_id"] for line in todo)
        longest = "  ".join(f"{level} {tokens}" for level, tokens in model["prompt_tokens_max"].items())
        kv = (memory_byte(model) - model["file_byte"]) / 1e9
        cache = f"{kv:.2f} GB cache" if kv else "cache of unknown size"
        lines += [
            f"{model['model_id']}: {runs} runs",
            f"  longest prompt, tokens: {longest}",
            f"  context {model['load']['n_ctx']}, memory {model['file_byte'] / 1e9:.2f} GB weights + {cache}",
        ]
    choice = find_feed(settings["source"], settings["feed"] or None, settings["interval"])
    lines.append(f"power: {shlex.join(choice.command) if choice.command else choice.reason}")
    lines += ["start it with:", f"  {settings['command']}"] if settings["command"] else []
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """The only flag is --help: settings come on stdin."""
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(argv: Sequence[str] | None = None) -> int:
    """Read settings, print the plan."""
    build_parser().parse_args(argv)
    try:
        given = json.load(sys.stdin)
        if not isinstance(given, dict) or not {"models", "prompts"} <= given.keys():
            raise ValueError("models or prompts are missing")
    except ValueError as exc:
        print(f"error: settings on stdin must be a JSON object, see --help ({exc})", file=sys.stderr)
        return 1
    settings = {**DEFAULTS, **given}
    try:
        header, todo = make_plan(settings)
        lines = (
            [dry_run_table(header, todo, settings)]
            if settings["dry_run"]
            else map(json.dumps, (header, *todo))
        )
        print(*lines, sep="\n")
    except (PlanError, SamplerError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 1 if settings["dry_run"] and header["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
