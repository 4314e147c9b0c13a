"""Verdicts on recorded machines, as the user and the collector meet them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fakes import board_trees

from edgebench.board import check as board_check
from edgebench.board import facts as board_facts
from edgebench.gguf.facts import ModelFacts
from tests.doors import call

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "companions/board_check.py"
CUDA = "CUDA : ARCHS = 870 | USE_GRAPHS = 1 | CPU : NEON = 1"
BUILDERS = {"nano": board_trees.orin_nano_super, "agx": board_trees.agx_orin, "pc": board_trees.pc}


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Facts of the three machines, with an engine that fits each."""
    facts = {}
    for name, build in BUILDERS.items():
        root = build(tmp_path_factory.mktemp(name))  # type: ignore[operator]
        parts = (board_facts.identity, board_facts.power_mode, board_facts.clocks, board_facts.memory)
        facts[name] = {key: value for part in (*parts, board_facts.heat, board_facts.load)
                       for key, value in part(root).items()}  # fmt: skip
        facts[name] |= {"engine": engine(gpu_offload=name != "pc"), "gpus": []}
    return facts


def engine(gpu_offload: bool = True, system_info: str = CUDA, error: str | None = None) -> dict[str, Any]:
    return {"version": "0.3.36", "gpu_offload": gpu_offload, "system_info": system_info, "error": error}


def model(gib: float, **more: Any) -> ModelFacts:
    size = int(gib * 2**30)
    known = {"n_ctx": 4096, "file_byte": size, "kv_byte": 0, "compute_byte": 0, "need_byte": size, **more}
    return ModelFacts("m/a.gguf", None, **known)


def verdicts(facts: Mapping[str, Any], *models: ModelFacts) -> dict[str, board_check.Check]:
    return {check.name: check for check in board_check.check(facts, models)}


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return call("companions/board_check.py", *arguments, env=environment)


def test_a_ready_orin_nano(tmp_path: Path) -> None:
    root = board_trees.orin_nano_super(tmp_path / "root")
    python = board_trees.engine(tmp_path / "engine", gpu_offload=True, system_info=CUDA)
    done = run("--root", root, PYTHONPATH=str(python))
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = [line.split()[0] for line in done.stdout.splitlines()[:-1] if not line.startswith(" ")]
    assert set(statuses) == {"ok", "unknown"}  # the free disk space is not in the tree
    assert "MAXN_SUPER (id 2)" in done.stdout and "JetPack 6.2" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_cpu_only_engine_on_a_jetson_is_bad_and_the_cure_can_be_pasted(tmp_path: Path) -> None:
    root = board_trees.orin_nano_super(tmp_path / "root")
    python = board_trees.engine(tmp_path / "engine", gpu_offload=False)
    done = run("--root", root, PYTHONPATH=str(python))
    assert done.returncode == 1 and "CPU-only build" in done.stdout
    start = done.stdout.index("$ CUDACXX") + 2
    cure = done.stdout[start : done.stdout.index("\nok", start)]
    # The shell itself joins the wrapped lines; pip is replaced by a program that prints what it is given.
    echo = cure.replace(f"{sys.executable} -m pip", 'printf "%s\\n" "$CUDACXX" $CMAKE_ARGS')
    words = subprocess.run(["bash", "-c", "export " + echo.replace(" printf", "; printf", 1)],
                           capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
    assert words[0] == "/usr/local/cuda/bin/nvcc"
    for option in ("-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=87", "-DGGML_CUDA_NO_VMM=ON"):
        assert option in words
    assert words[-1] == "llama-cpp-python==0.3.36"


def test_json_is_one_line_with_the_facts_and_the_checks(tmp_path: Path) -> None:
    root = board_trees.agx_orin(tmp_path / "root")
    python = board_trees.engine(tmp_path / "engine", gpu_offload=True, system_info=CUDA)
    done = run("--root", root, "--json", "--models", tmp_path / "none.gguf", PYTHONPATH=str(python))
    (line,) = done.stdout.splitlines()
    record = json.loads(line)
    assert done.returncode == 1  # the model is missing
    assert record["board"] == "Jetson AGX Orin Developer Kit" and record["schema_version"] == 1
    assert list(record)[-2:] == ["models", "checks"]
    by_name = {check["name"]: check for check in record["checks"]}
    assert by_name["power mode"]["cure"] == "sudo nvpmodel -m 0"
    assert by_name["model"]["status"] == "bad" and "No such file" in by_name["model"]["message"]


def test_the_state_of_the_machine_is_not_changed(tmp_path: Path) -> None:
    root = board_trees.agx_orin(tmp_path / "root")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    python = board_trees.engine(tmp_path / "engine", gpu_offload=True)
    run("--root", root, PYTHONPATH=str(python))
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_statuses_of_the_recorded_machines(machines: Mapping[str, Any]) -> None:
    def of(name: str) -> dict[str, str]:
        return {check: verdict.status for check, verdict in verdicts(machines[name]).items()}

    assert {k: v for k, v in of("nano").items() if v != "ok"} == {"disk": "unknown"}
    assert {k: v for k, v in of("agx").items() if v != "ok"} == {
        "power mode": "warn", "clocks": "warn", "disk": "unknown", "temperature": "warn",
        "throttling": "warn",
        "other load": "warn", "desktop": "warn"}  # fmt: skip
    assert {k: v for k, v in of("pc").items() if v != "ok"} == {
        "clocks": "warn",
        "swap": "warn",
        "disk": "unknown",
    }
    assert "power mode" not in of("pc") and "release" not in of("pc")


def test_mode_0_of_a_nano_is_said_to_be_15_watt(machines: Mapping[str, Any]) -> None:
    facts = {**machines["nano"], "power_mode_id": 0, "power_mode_name": "15W"}
    check = verdicts(facts)["power mode"]
    assert check.status == "warn" and check.cure == "sudo nvpmodel -m 2"
    assert "-m 0 is 15W, not the maximum" in check.message


@pytest.mark.parametrize(
    ("change", "status"),
    [({"power_mode_id": None, "power_mode_name": None}, "unknown"), ({"power_modes": {}}, "unknown"),
     ({"power_mode_id": 9, "power_mode_name": None}, "unknown"), ({"power_mode_name": "MAXN_SUPER"}, "ok")],
)  # fmt: skip
def test_an_unread_power_mode_is_unknown(
    machines: Mapping[str, Any], change: dict[str, Any], status: str
) -> None:
    assert verdicts({**machines["nano"], **change})["power mode"].status == status


@pytest.mark.parametrize(
    ("modes", "best"),
    [({"0": "MAXN", "1": "MODE_15W"}, "0"), ({"0": "15W", "1": "7W"}, "0"),
     ({"0": "40W", "1": "MAXN_SUPER"}, "1"),
     ({"2": "MODE_15W_6CORE", "8": "MODE_20W_6CORE", "6": "MODE_20W_2CORE"}, "8"),
     ({"0": "MAXN", "1": "5W"}, "0"), ({}, None)],
)  # fmt: skip
def test_strongest_mode(modes: dict[str, str], best: str | None) -> None:
    assert board_check.strongest_mode(modes) == best


@pytest.mark.parametrize(("gib", "status"), [(None, "warn"), (0.5, "warn"), (2.0, "bad")])
def test_a_known_bad_release(machines: Mapping[str, Any], gib: float | None, status: str) -> None:
    facts = {**machines["nano"], "l4t": "36.4.7", "jetpack": "6.2.1"}
    check = verdicts(facts, *([model(gib)] if gib else []))["release"]
    assert check.status == status and "NvMapMemAllocInternalTagged" in check.message
    assert verdicts({**facts, "l4t": "36.5.0"}, model(2.0))["release"].status == "ok"


@pytest.mark.parametrize(("gib", "status"), [(2.0, "ok"), (5.6, "warn"), (6.3, "bad")])
def test_a_model_against_the_free_memory(machines: Mapping[str, Any], gib: float, status: str) -> None:
    check = verdicts(machines["nano"], model(gib))["model"]  # 6.25 GiB are available
    assert check.status == status
    assert (check.cure is None) == (status == "ok")


def test_a_model_of_unknown_need_is_not_judged(machines: Mapping[str, Any]) -> None:
    check = verdicts(
        machines["nano"], model(1, need_byte=None, kv_byte=None, why_unknown="a recurrent state")
    )["model"]
    assert check.status == "unknown" and "recurrent" in check.message


def test_on_a_pc_with_a_card_the_cards_memory_counts(machines: Mapping[str, Any]) -> None:
    card = {"name": "NVIDIA T4", "driver": "535", "memory_total_byte": 16 * 2**30,
            "memory_free_byte": 15 * 2**30,
            "memory_bandwidth_gb_per_s": None, "power_limit_w": 70.0, "temp_c": 40}  # fmt: skip
    facts = {**machines["pc"], "gpus": [card], "engine": engine()}
    assert "GPU memory 15.0 GiB" in verdicts(facts, model(12))["model"].message
    assert verdicts(facts, model(12))["model"].status == "ok"
    cpu = {**facts, "engine": engine(gpu_offload=False, system_info="CPU")}
    assert verdicts(cpu, model(12))["model"].status == "bad"
    assert verdicts(cpu)["engine"].status == "warn"
    assert verdicts(facts)["GPU"].message == "NVIDIA T4, driver 535, 16.0 GiB"


H200 = {
    "name": "NVIDIA H200", "driver": "580.159.04", "memory_total_byte": 150754820096,
    "memory_free_byte": 150109880320, "memory_bandwidth_gb_per_s": 4814.3, "power_limit_w": 700.0,
    "temp_c": 34, "slowdown_c": 89, "throttled_by": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("card", "heat", "throttling"),
    [
        ({}, ("ok", "NVIDIA H200 34 C, it slows down at 89 C"), ("ok", "none now of NVIDIA H200")),
        ({"temp_c": 88}, ("warn", "88 C"), ("ok", "none")),
        ({"temp_c": 90, "throttled_by": ["heat"]}, ("bad", "90 C"), ("warn", "NVIDIA H200 by heat")),
        ({"slowdown_c": None}, ("ok", "NVIDIA H200 34 C"), ("ok", "none")),
        ({"temp_c": None, "throttled_by": None}, ("unknown", "no thermal"), ("unknown", "no throttle")),
    ],
)
def test_where_the_board_shows_no_heat_the_card_tells(
    machines: Mapping[str, Any], card: dict[str, Any], heat: tuple[str, str], throttling: tuple[str, str]
) -> None:
    bare = {**machines["pc"], "temps_c": {}, "throttle_counters": {}, "gpus": [{**H200, **card}]}
    found = verdicts(bare)
    for name, (status, words) in (("temperature", heat), ("throttling", throttling)):
        assert found[name].status == status and words in found[name].message


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (engine(), "ok", "GPU offload built in"),
        (engine(system_info="CUDA : ARCHS = 500,890,1200 | CPU"), "warn", "not for 870"),
        (
            engine(gpu_offload=False, error="ggml_cuda_init: failed to initialize CUDA: no device"),
            "bad",
            "no device",
        ),
        (engine(gpu_offload=False, system_info="CPU : NEON = 1"), "bad", "CPU-only"),
        ({**engine(), "version": None, "error": "No module named 'llama_cpp'"}, "bad", "No module"),
    ],
)
def test_engines_on_a_jetson(
    machines: Mapping[str, Any], answer: dict[str, Any], status: str, words: str
) -> None:
    check = verdicts({**machines["nano"], "engine": answer})["engine"]
    assert (check.status, words in check.message) == (status, True), check


def test_a_big_board_keeps_virtual_memory_management(machines: Mapping[str, Any]) -> None:
    assert "NO_VMM" in board_check.build_command(machines["nano"])
    assert "NO_VMM" not in board_check.build_command(machines["agx"])
    assert "ARCHITECTURES" not in board_check.build_command(machines["pc"])  # cmake finds the card's own


@pytest.mark.parametrize(
    ("change", "name", "status"),
    [
        ({"clocks_locked": None}, "clocks", "unknown"),
        ({"clocks_locked": False}, "clocks", "warn"),
        ({"temps_c": {}}, "temperature", "unknown"),
        ({"temps_c": {"tj": 96.0}, "trip_points_c": {"tj": 95.0}}, "temperature", "bad"),
        ({"temps_c": {"tj": 85.0}, "trip_points_c": {"tj": 95.0}}, "temperature", "warn"),
        ({"temps_c": {"tj": 96.0}, "trip_points_c": {}}, "temperature", "ok"),
        ({"throttle_counters": {}}, "throttling", "unknown"),
        ({"throttle_counters": {"cooling:gpu-throttle-alert": 1}}, "throttling", "warn"),
        ({"throttle_counters": {"oc3_event_cnt": 900}}, "throttling", "ok"),
        ({"swap_used_byte": None}, "swap", "unknown"),
        ({"swap_used_byte": 2**30}, "swap", "warn"),
        ({"disk_free_byte": 10**6}, "disk", "warn"),
        ({"load_1min": None}, "other load", "unknown"),
        ({"busy_processes": [{"name": "cc1plus", "cpu_percent": 98}]}, "other load", "warn"),
        ({"desktop": ["Xorg"], "desktop_byte": 10**8}, "desktop", "warn"),
        ({"l4t": None, "jetpack": None}, "release", "unknown"),
        ({"board": None}, "board", "unknown"),
    ],
)
def test_single_checks(machines: Mapping[str, Any], change: dict[str, Any], name: str, status: str) -> None:
    check = verdicts({**machines["nano"], **change})[name]
    assert check.status == status, check
    if status in ("warn", "bad"):
        assert check.cure


def test_bad_arguments() -> None:
    done = run("--root", "/no/such/folder")
    assert done.returncode == 1 and done.stderr.startswith("error: /no/such/folder is no folder")
    assert run("--n_ctx", "0").returncode == 2
    done = subprocess.run(
        [sys.executable, "-S", str(SCRIPT), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Example:" in done.stdout


def test_a_flag_before_a_command_is_not_forgotten(tmp_path: Path) -> None:
    root = board_trees.orin_nano_super(tmp_path / "root")
    for words in (["--json", "--root", root, "devices"], ["devices", "--json", "--root", root]):
        listed = json.loads(run(*words).stdout)
        assert [one["kind"] for one in listed["devices"]] == ["jetson", "cpu"]
    done = run("--n_ctx", "512", "models", tmp_path / "none.gguf", "--json")
    assert done.returncode == 1 and "No such file" in json.loads(done.stdout)["error"]
    assert run("models", "a.gguf", "--n_ctx", "0").returncode == 2


def test_all_parts_of_a_split_model_are_judged_once(tmp_path: Path) -> None:
    names = [tmp_path / f"big-{number:05d}-of-00002.gguf" for number in (1, 2)]
    done = run("--root", board_trees.pc(tmp_path / "root"), "--models", *names, "--json")
    models = json.loads(done.stdout)["models"]
    assert [model["model"] for model in models] == [str(names[0])]
