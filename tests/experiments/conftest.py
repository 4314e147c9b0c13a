from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.experiments.desk import Desk


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Callable[..., Path]) -> Desk:
    return Desk(tmp_path, tiny_model("llama"))
