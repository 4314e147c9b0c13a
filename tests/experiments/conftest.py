from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.experiments.desk import Desk, copy_suite


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts with a stand-in for the collector; nobody changes anything in it."""
    return copy_suite(tmp_path_factory.mktemp("suite") / "repo")


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Callable[..., Path], tree: Path) -> Desk:
    return Desk(tmp_path, tiny_model("llama"), tree)
