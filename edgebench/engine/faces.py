"""The request lines of the former engine_worker.py, until its last caller (forecasting/budget.py) counts with
engine/client.py."""

from __future__ import annotations

import json
import sys

from edgebench.engine.client import EngineFailure, EngineProcess, Message, Prompt


def single_main() -> int:
    """Answer "open" and "count" lines until stdin ends."""
    with EngineProcess() as engine:
        for line in sys.stdin:
            told = json.loads(line)
            try:
                if told["op"] == "open":
                    engine.open(told["model"])
                    reply: dict[str, object] = {"ok": True}
                else:
                    turns = tuple(Message(**one) for one in told["prompt"]["messages"])
                    count = engine.count(Prompt(turns, told["prompt"]["format"]))
                    reply = {"ok": True, "prompt_tokens": count.prompt_tokens}
            except EngineFailure as failure:
                reply = {"ok": False, "error": failure.failure.record()}
            print(json.dumps(reply), flush=True)
    return 0
