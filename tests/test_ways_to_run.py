"""Dockerfile, compose, devcontainer, Makefile and hooks: what they name exists. No engine runs here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def instructions() -> list[tuple[str, str]]:
    """(instruction, its words) of the Dockerfile, continuation lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def stages() -> set[str]:
    return {words.split(" AS ")[1] for name, words in instructions() if name == "FROM"}


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return content["services"]


def test_the_dockerfile_copies_what_there_is_and_takes_its_arguments() -> None:
    assert stages() == {"base", "dev", "prod"}
    for name, words in instructions():
        if name == "COPY":
            assert all((ROOT / source).exists() for source in words.split()[:-1]), words
    arguments = {words.split("=")[0] for name, words in instructions() if name == "ARG"}
    given = [service["build"]["args"] for service in compose().values()]
    assert all(set(one) == arguments for one in given)
    defaults = dict(words.split("=", 1) for name, words in instructions() if name == "ARG")
    for one in given:
        for name, value in one.items():
            assert value == f"${{{name}:-{defaults[name].strip(chr(34))}}}"


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_compose_has_the_profiles_prod_and_dev() -> None:
    services = compose()
    assert {service["profiles"][0]: service["build"]["target"] for service in services.values()} == {
        "prod": "prod",
        "dev": "dev",
    }
    assert all(service["build"]["target"] in stages() for service in services.values())
    named = re.findall(r"docker compose run --rm (\S+)", (ROOT / "compose.yaml").read_text())
    assert set(named) <= set(services)


def test_the_devcontainer_opens_the_service_of_compose() -> None:
    content = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert content["service"] in compose()
    assert (ROOT / ".devcontainer" / content["dockerComposeFile"]).resolve() == ROOT / "compose.yaml"
    mounted = [volume.split(":")[1] for volume in compose()[content["service"]]["volumes"]]
    assert content["workspaceFolder"] in mounted


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("dev", "requirements-dev.txt"),
        ("check", "ruff check"),
        ("test", "pytest"),
        ("test-all", 'pytest -n auto --dist loadfile -m "not jetson"'),
    ],
)
def test_make(target: str, runs: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and runs in done.stdout, done.stderr


def test_hooks_hold_models_back_and_use_our_ruff() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    assert {"check-added-large-files", "detect-private-key", "ruff-format", "ruff-check"} <= set(hooks)
    assert all(re.match(config["exclude"], path) for path in ("results/a.jsonl", "tests/golden/a.json"))
