"""Experiment files: what is effective, what is refused, and the grids."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.errors import UserError
from edgebench.experiments import config as experiment_config
from edgebench.experiments import grid
from tests.doors import call

ROOT = Path(__file__).resolve().parents[2]


def conf(*words: object) -> subprocess.CompletedProcess[str]:
    return call("companions/run_experiment.py", "config", *words)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def effective(path: Path | None, preset: str | None = None, *sets: str) -> dict[str, Any]:
    return experiment_config.effective(path, preset, sets).as_record()


def refused(path: Path, preset: str | None = None, *sets: str) -> str:
    with pytest.raises(UserError) as caught:
        effective(path, preset, *sets)
    return str(caught.value)


# --- Precedence ---


def test_preset_file_and_flags_give_the_documented_configuration(tmp_path: Path) -> None:
    file = write(
        tmp_path / "exp.yaml",
        "models: [a.gguf]\ncycles: 5\ngeneration:\n  max_tokens: 256\n  thinking: on\n"
        "engine: {flash_attn: off}\n",
    )
    done = conf("show", file, "--preset", "benchmark", "--set", "max_tokens=64", "--set", "source=none")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    golden = json.loads((ROOT / "tests/golden/experiment_effective.json").read_text())
    assert shown["config"] == golden["config"]
    assert shown["overrides"] == golden["overrides"]
    assert shown["id"] == f"exp-{shown['hash']}" and shown["preset"] == "benchmark"


def test_a_preset_survives_a_file_that_does_not_mention_its_keys(tmp_path: Path) -> None:
    config = effective(write(tmp_path / "e.yaml", "generation: {seed: 3}\n"), "benchmark")["config"]
    assert (config["cycles"], config["engine"]["n_ctx"], config["generation"]["max_tokens"]) == (3, 2560, 512)
    assert config["generation"]["seed"] == 3


@pytest.mark.parametrize("preset", experiment_config.PRESETS)
def test_presets_are_greedy_and_valid(preset: str) -> None:
    assert effective(None, preset)["config"]["generation"]["temperature"] == 0


def test_extends_merges_deep_and_tells_which_file_said_what(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "preset: quick-test\nlimit: 4\nengine: {n_ctx: 512, n_batch: 64}\n")
    child = write(tmp_path / "child.json", '{"_extends": "base.yaml", "engine": {"n_ctx": 1024}}')
    shown = effective(child, None, "engine.n_ctx=2048")
    assert shown["config"]["engine"]["n_batch"] == 64 and shown["preset"] == "quick-test"
    assert [(o["from"], o["to"], o["by"]) for o in shown["overrides"] if o["key"] == "engine.n_ctx"] == [
        (None, 512, "file base.yaml"),
        (512, 1024, "file child.json"),
        (1024, 2048, "flag"),
    ]
    assert {"key": "limit", "from": 2, "to": 4, "by": "file base.yaml"} in shown["overrides"]


def test_a_circle_of_extends_is_found(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "_extends: b.yaml\n")
    write(tmp_path / "b.yaml", "_extends: a.yaml\n")
    assert "circle: a.yaml -> b.yaml -> a.yaml" in refused(tmp_path / "a.yaml")
    write(tmp_path / "c.yaml", "_extends: gone.yaml\n")
    assert "gone.yaml does not exist (_extends of c.yaml)" in refused(tmp_path / "c.yaml")


def test_a_dataset_replaces_the_prompts_of_a_lower_layer(tmp_path: Path) -> None:
    file = write(tmp_path / "e.yaml", "prompts: [p.csv]\n")
    shown = effective(file, None, "dataset.source=gsm8k", "sample_size=7")
    assert shown["config"]["prompts"] == [] and shown["config"]["dataset"]["sample_size"] == 7
    assert {"key": "prompts", "from": ["p.csv"], "to": [], "by": "flag"} in shown["overrides"]


def test_the_hash_is_of_what_is_measured() -> None:
    one = effective(None, "quick-test", "name=a", "output=x", "aggregate=false")
    other = effective(None, "quick-test", "name=b")
    assert one["hash"] == other["hash"] and one["id"] != other["id"]
    assert effective(None, "quick-test", "max_tokens=33")["hash"] != one["hash"]


# --- Refusals ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_tokens: 5\n", "unknown key max_tokens; did you mean generation.max_tokens?"),
        ("engine: {n_gpu_layer: 5}\n", "unknown key engine.n_gpu_layer; did you mean engine.n_gpu_layers?"),
        ("modles: [a]\n", "did you mean models?"),
        ("model: [a]\n", "did you mean models?"),
        ("seed: 1\n", "did you mean generation.seed?"),
        ("until_ci: 2%\npower: {source: none}\n", "until_ci needs energy"),
        ("mode: throughput\nids: [1]\n", "ids: mode throughput has none"),
        ("mode: throughput\ngeneration: {system: hello}\n", "generation.system: mode throughput has none"),
        ("batch_sizes: [8]\n", "batch_sizes: mode collect has none; it is of mode throughput"),
        ("generation: {max_tokens: true}\n", "generation.max_tokens"),
        ("generation: {max_tokens: '5'}\n", "generation.max_tokens"),
        ("generation: 5\n", "generation"),
        ("cycles: 11\n", "cycles: 1 to 10, not 11"),
        ("cycles: 0\n", "cycles: at least 1"),
        ("cycles: 1\ncycles: 2\n", "the key cycles stands twice"),
        ("power: {idle_seconds: .nan}\n", "power.idle_seconds"),
        ("until_ci: 2\n", "until_ci"),
        ("until_ci: 0%\n", "as in 2%"),
        ("until_ci: 2%\ncycles: 2\n", "until_ci needs cycles: 3"),
        ("prompts: [a.csv]\ndataset: {source: b}\n", "not both"),
        ("name: ../x\n", "name: letters"),
        ("judge: {pairs: all}\n", "judge: give serve_model"),
        ("preset: benchmrk\n", "did you mean benchmark?"),
        ("order: random\n", "order"),
        ("models: a.gguf\n", "models"),
        ("[1, 2]\n", "has keys"),
        ("a: [\n", "expected"),
        ("? [1]\n: 2\n", "e.yaml"),
        ("_extends: 5\n", "path of one file"),
    ],
)
def test_what_is_wrong_is_said_with_the_key(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(write(tmp_path / "e.yaml", text))


def test_errors_are_one_line_and_exit_1(tmp_path: Path) -> None:
    done = conf("validate", write(tmp_path / "e.yaml", "modles: [a]\n"))
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    done = conf("show", tmp_path / "none.yaml")
    assert done.returncode == 1 and "config new" in done.stderr


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("0.5", 0.5),
        ("1.", 1.0),
        ("7", 7),
        ("true", True),
        ("on", "on"),
        ("null", None),
        ("[L0, P]", ["L0", "P"]),
    ],
)
def test_values_have_the_type_they_look_like(text: str, value: object) -> None:
    parsed = experiment_config.parse(text, "here")
    assert parsed == value and type(parsed) is type(value)


# --- Files and grids ---


@pytest.mark.parametrize("name", ["new.yaml", "new.json"])
@pytest.mark.parametrize("preset", experiment_config.PRESETS)
def test_a_new_file_is_valid_and_says_what_the_preset_says(tmp_path: Path, preset: str, name: str) -> None:
    grid.write_new(preset, [], tmp_path / name)
    made = effective(tmp_path / name)["config"]
    assert made | {"name": "", "models": []} == effective(None, preset)["config"] | {"name": "", "models": []}
    with pytest.raises(UserError):  # never over another file
        grid.write_new(None, [], tmp_path / name)


def test_a_grid_is_the_golden_one(tmp_path: Path) -> None:
    base = write(tmp_path / "exp.yaml", "name: exp\nmodels: [a.gguf]\ngeneration: {seed: 1}\n")
    vary = ["--vary", "max_tokens=32,64", "--vary", "temperature=0,1e-1", "--vary", "levels=L0,[L0,P]"]
    done = conf("grid", base, *vary, "--outdir", tmp_path / "grid")
    assert done.returncode == 0, done.stderr
    found = {path.name: path.read_text() for path in sorted((tmp_path / "grid").iterdir())}
    assert found == json.loads((ROOT / "tests/golden/experiment_grid.json").read_text())
    for path in (tmp_path / "grid").iterdir():
        assert effective(path)["config"]["generation"]["seed"] == 1


def test_a_grid_with_one_wrong_value_writes_nothing(tmp_path: Path) -> None:
    base = write(tmp_path / "exp.yaml", "{}")
    for vary in ("max_tokens=32,many", "no_such_key=1", "max_tokens", "cycles=1,11"):
        done = conf("grid", base, "--vary", vary, "--outdir", tmp_path / "grid")
        assert done.returncode == 1 and done.stderr.startswith("error: "), vary
    assert list((tmp_path / "grid").iterdir()) == []


VARIED = {
    "max_tokens": st.integers(1, 4096),
    "temperature": st.floats(0, 2),
    "n_ctx": st.one_of(st.none(), st.integers(1, 10**6)),
    "flash_attn": st.sampled_from(["on", "off", "auto"]),
    "kv_type": st.sampled_from(["f16", "q8_0", "f32"]),
    "cycles": st.integers(1, 10),
    "shuffle": st.booleans(),
    "levels": st.lists(st.sampled_from(["L0", "L1", "P"]), max_size=3),
    "system": st.text("abc 'é:#-[]{}\"\\n", max_size=12),
    "batch_sizes": st.lists(st.integers(1, 64), min_size=1, max_size=4),
}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_file_of_a_grid_is_valid_and_holds_its_values(tmp_path: Path, data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(sorted(VARIED)), min_size=1, max_size=2, unique=True))
    mode = "throughput" if "batch_sizes" in keys else "collect"
    keys = [key for key in keys if mode == "collect" or key != "system"]
    base = write(tmp_path / "base.yaml", f"mode: {mode}\ndataset: {{source: a.txt}}\n")
    drawn = {key: data.draw(st.lists(VARIED[key], min_size=1, max_size=3)) for key in keys}
    outdir = tmp_path / f"grid{len(list(tmp_path.iterdir()))}"
    vary = [f"{key}={','.join(map(json.dumps, values))}" for key, values in drawn.items()]
    made = grid.write_grid(base, vary, outdir, None)
    configs = [effective(path)["config"] for path in made]
    names = {key: experiment_config.full_key(key) for key in keys}
    for key, values in drawn.items():
        found = [experiment_config.look_up(config, names[key]) for config in configs]
        assert {json.dumps(one) for one in found} == {json.dumps(one) for one in as_read(key, values)}
    assert len({json.dumps(config | {"name": ""}) for config in configs}) == len(made)


def as_read(key: str, values: list[Any]) -> list[Any]:
    """Whole numbers are floats where the key takes floats."""
    return [float(value) for value in values] if key == "temperature" else values


def test_presets_are_listed() -> None:
    said = call("companions/run_experiment.py", "presets").stdout
    assert all(f"{name}: " in said for name in experiment_config.PRESETS)


def test_the_example_file_is_valid() -> None:
    assert effective(ROOT / "data/demo/experiment.yaml")["config"]["levels"] == ["L0", "P"]
