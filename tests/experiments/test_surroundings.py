"""The judge's key is given to the judge, not to what measures beside it."""

import pytest

from edgebench.experiments.conductor import surroundings


def test_the_key_of_the_judge_is_the_judges_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_THE_JUDGE", "sk-secret")
    config = {"judge": {"api_key_env": "KEY_OF_THE_JUDGE"}}
    assert "KEY_OF_THE_JUDGE" not in surroundings(config, judges=False)
    assert surroundings(config, judges=True)["KEY_OF_THE_JUDGE"] == "sk-secret"
    assert "PATH" in surroundings({"judge": None}, judges=False)
