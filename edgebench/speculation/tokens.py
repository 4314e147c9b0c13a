#!/usr/bin/env python3
"""Prompts and a model file -> the exact token ids the model reads, one JSON line per prompt.

The ids are those of the collector's runs: the model's own chat template, or with --prompt_format raw the
bare text. For engines and loops that are to be given ids, so that all of them do the same work.

Each line out: id, category, level, prompt_tokens, prompt_sha256, ids. A .txt file is one prompt per line,
with the line's number as its id and L0 as its level.

Example:
  python companions/tokenize_prompts.py --model models/demo/demo-llama-F32.gguf \\
      --prompts data/writing_prompts_hierarchical.csv --levels L0 --limit 2
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgebench.shell.launch import room_command

ROOM = Path(__file__).resolve().parent


class TokenizeError(Exception):
    """What the user can put right."""


def text_prompts(path: Path) -> list[dict[str, Any]]:
    """The prompts of a text file, one per line that is not blank. Raises TokenizeError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise TokenizeError(f"cannot read {path} ({exc}); check --prompts") from exc
    texts = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    return [{"id": n, "category": None, "level": "L0", "text": text} for n, text in texts]


def table_prompts(paths: Sequence[Path], levels: Sequence[str]) -> list[dict[str, Any]]:
    """The prompts of CSV and JSONL files, task by task and level by level. Raises TokenizeError."""
    command = [*room_command("edgebench.prompts.tasks"), "--prompts", *map(str, paths), "--levels", *levels]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["the prompts could not be read"])[-1]
        raise TokenizeError(last.removeprefix("error: "))
    tasks = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        {"id": task["id"], "category": task["category"], "level": level, "text": task["levels"][level]}
        for task in tasks
        for level in levels
        if level in task["levels"]
    ]


def read_prompts(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All prompts in the files' order, --limit of them. Raises TokenizeError."""
    plain = [path for path in args.prompts if path.suffix == ".txt" and not path.stem.endswith(".jsonl")]
    prompts = [prompt for path in plain for prompt in text_prompts(path)]
    others = [path for path in args.prompts if path not in plain]
    if others:
        prompts += table_prompts(others, args.levels)
    if not prompts:
        raise TokenizeError("the files hold no prompt; check --prompts and --levels")
    return prompts[: args.limit]


def token_ids(args: argparse.Namespace, prompts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The engine's answers, one per prompt. One process for all. Raises TokenizeError."""
    requests: list[dict[str, Any]] = [{"op": "open", "model": str(args.model)}]
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt["text"]}]
        asked = {"messages": messages, "format": args.prompt_format, "thinking": args.thinking == "on"}
        requests.append({"op": "count", "prompt": asked, "ids": True})
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    command = [*room_command("edgebench.engine.single")]
    done = subprocess.run(command, input=lines, capture_output=True, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    refused = [answer["error"]["message"] for answer in answers if not answer["ok"]]
    if refused:
        raise TokenizeError(f"{refused[0]}; check --model and --prompt_format")
    if len(answers) != len(requests):
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise TokenizeError(f"the engine could not tokenize: {last.removeprefix('error: ')}")
    return answers[1:]


def build_parser() -> argparse.ArgumentParser:
    """All flags of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="GGUF")
    add("--prompts", type=Path, nargs="+", required=True, metavar="FILE", help="CSV, JSONL or .txt")
    add("--levels", nargs="+", default=["L0"], metavar="NAME", help="columns to read (default: L0)")
    add("--limit", type=int, metavar="N", help="only the first N prompts")
    add("--prompt_format", choices=["chat", "raw"], default="chat", help="(default: chat)")
    add("--thinking", choices=["off", "on"], default="off", help="for templates that know it (default: off)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the lines; 1 for what the user can put right."""
    args = build_parser().parse_args(argv)
    try:
        prompts = read_prompts(args)
        for prompt, answer in zip(prompts, token_ids(args, prompts), strict=True):
            line = {name: prompt[name] for name in ("id", "category", "level")}
            line |= {name: answer[name] for name in ("prompt_tokens", "prompt_sha256", "ids")}
            print(json.dumps(line))
    except TokenizeError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
