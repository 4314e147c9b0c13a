"""The engine in this very process, for what does not need one of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def context_of(llama_cpp: Any) -> Iterator[Callable[..., Any]]:
    """A function that loads a model: context_of(path, n_ctx=1024, …) with ModelLoad's fields."""
    from edgebench.engine.binding import LOG, Context, Model
    from edgebench.engine.protocol import ModelLoad

    open_ones: list[Any] = []

    def load(path: Path, **settings: Any) -> Any:
        wanted: dict[str, Any] = {"n_ctx": 1024, "n_batch": 512, "flash_attn": "off", "n_gpu_layers": 0}
        LOG.clear()
        model = Model(str(path))
        open_ones.append(model)
        context = Context(model, ModelLoad(**{**wanted, **settings}), no_perf=False)
        open_ones.append(context)
        return context

    yield load
    for one in reversed(open_ones):
        one.close()
