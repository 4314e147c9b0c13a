"""Made result files of sweeps: cells whose answers are known."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgebench.stats.intervals import quantile

NOISE = (1.0, 1.012, 0.991, 1.004, 0.985, 1.007, 0.998, 1.015, 0.989)


def uneven(value: float, count: int = 9) -> list[float]:
    """Latencies around a value: without a spread there is no interval."""
    return [value * NOISE[place % len(NOISE)] for place in range(count)]


def entry(batch: int, latencies_ms: Sequence[float], prompts: int, tokens: int = 1) -> dict[str, Any]:
    """One batch of requests over so many prompts, which come again in turn, across batches, too."""
    first = batch * len(latencies_ms)
    outputs = [
        {
            "id": (first + place) % prompts,
            "level": "L0",
            "latency_ms": latency_ms,
            "token_ids": [(first + place) % prompts] * tokens,
            "completion_tokens": tokens,
            "first_difference": None,
        }
        for place, latency_ms in enumerate(latencies_ms)
    ]
    return {"batch_index": batch, "latency_s": sum(latencies_ms) / 1000, "outputs": outputs}


def cell(
    role: str,
    latencies_ms: Sequence[Sequence[float]],
    joules: Sequence[float] | None = None,
    plain: Sequence[Sequence[float]] = (),
    prompts: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A result file: latencies by batch and request, `plain` those of the same requests without drafts."""
    requests = len(latencies_ms[0])
    prompts = prompts or requests
    config = {
        "requests": requests,
        "max_tokens": more.pop("max_tokens", 8),
        "temperature": 0.0,
        "levels": "L0",
        "seed": 42,
    }
    config |= {"batches": len(latencies_ms), "role": role, "scenario": more.pop("scenario", "chat")}
    if role != "plain":
        config |= {"draft_tokens": more.pop("draft_tokens", 4), "adaptive": "off"}
        config |= {"drafter": more.pop("drafter", "lookup"), "threshold": more.pop("threshold", 0.0)}
    words = {"nwor_mode": role, "scv_mode": "off"}
    results = [{**words, **entry(index, batch, prompts)} for index, batch in enumerate(latencies_ms)]
    beside = [entry(index, batch, prompts) for index, batch in enumerate(plain)]
    spans = [result["latency_s"] for result in results]
    energy: dict[str, Any] = {"reason": "no power was asked for"}
    if joules:
        energy = {
            "reason": None,
            "energy_joule_per_request": sum(joules) / len(joules),
            "joule_per_output_token": 1.0,
            "simulated": True,
            "power_source": "replay",
            "per_batch": [{"batch_index": i, "energy_joule": j} for i, j in enumerate(joules)],
        }
    mode = {
        **words,
        "latency_avg_s": sum(spans) / len(spans),
        "latency_p50_s": quantile(spans, 0.5),
        "latency_p95_s": quantile(spans, 0.95),
        "spec_num_draft_tokens": 0 if role == "plain" else 100,
        "spec_num_accepted_tokens": 0 if role == "plain" else 60,
        "spec_acceptance_ratio": None if role == "plain" else 0.6,
        "accept_by_position": [] if role == "plain" else [0.8, 0.4],
        "ncu_metrics": {},
        "energy": energy,
        **more.pop("mode", {}),
    }
    sweep = {"grid": "g", "name": role, "role": role, "config": config, "model": "m.gguf"}
    sweep["draft"] = more.pop("draft", None)
    document = {"config": {}, "summary": {"per_mode": [mode]}, "results": results, "plain": beside}
    return {**document, "sweep": sweep, **more}


def write(folder: Path, **cells: dict[str, Any]) -> Path:
    """The cells as files of a folder, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in cells.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder
