"""run_llamacpp_collect.py on the real engine: what it writes, and that nothing is lost or done twice."""

import collections
import csv
import dataclasses
import fcntl
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgebench.collecting import campaign as campaign_room
from edgebench.engine.client import EngineProcess, Generation, Prompt, Sampling
from edgebench.records.run import RunRecord
from tests.doors import call, command
from tests.processes import command_of, descendants
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
DOOR = "run_llamacpp_collect.py"
ENGINE = "edgebench.engine.worker"  # a word of its command line
TEXTS = {
    "L0": "Name the river.",
    "L1": "Name the river. It runs through Paris.",
    "L2": "Name the river. It runs through Paris. Think of bridges first, then of the sea it reaches.",
}


def collect(
    *arguments: object, env: Mapping[str, str | None] | None = None
) -> subprocess.CompletedProcess[str]:
    """The collector in this process; its engine, keeper and feed are processes as always."""
    return call(DOOR, *arguments, env=env)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def cells(records: list[dict]) -> list[tuple]:
    return [
        tuple(record[name] for name in ("model_id", "id", "level", "turn", "repeat")) for record in records
    ]


def write_prompts(path: Path) -> Path:
    lines = [
        {"question_id": n, "category": "c", **{k: f"{n}: {v}" for k, v in TEXTS.items()}} for n in (1, 2, 3)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def flags_for(model: Path, folder: Path) -> list[object]:
    return [
        *("--models", model, "--prompts", write_prompts(folder / "prompts.jsonl")),
        *("--out_jsonl", folder / "out" / "runs.jsonl", "--levels", "L0", "L1", "L2"),
        *("--max_tokens", 12, "--source", "none"),
    ]


@pytest.fixture
def flags(demo_models: dict[str, Path], tmp_path: Path) -> list[object]:
    """A small campaign: 1 model, 3 tasks, 3 levels, no power source."""
    return flags_for(demo_models["llama"], tmp_path)


@pytest.fixture(scope="module")
def campaign(demo_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of such a campaign when it is over; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("campaign")
    done = collect(*flags_for(demo_models["llama"], folder), "--repeats", 2)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.fixture
def finished(campaign: Path, flags: list[object]) -> Path:
    """Its output where these flags would write it."""
    shutil.copytree(campaign, out_of(flags).parent)
    return out_of(flags)


def out_of(flags: list[object]) -> Path:
    return Path(str(flags[flags.index("--out_jsonl") + 1]))


def test_every_run_is_written_with_its_proof_and_its_missing_energy(campaign: Path) -> None:
    records = read(campaign / "runs.jsonl")
    assert len(records) == len(set(cells(records))) == 18
    assert len({record["run_key"] for record in records}) == 18
    names = [field.name for field in dataclasses.fields(RunRecord)]
    for record in records:
        assert list(record) == names
        assert record["error"] is None
        assert record["prompt_tokens_evaluated"] == record["prompt_tokens"] > 0
        assert 0 < record["ttft_ms"] <= record["latency_ms"]
        assert record["completion_tokens"] <= 12
        assert record["finish_reason"] == ("length" if record["completion_tokens"] == 12 else "stop")
        if record["completion_tokens"] > 1:
            decode_ms = record["latency_ms"] - record["ttft_ms"]
            assert record["tpot_ms"] == pytest.approx(decode_ms / (record["completion_tokens"] - 1))
        assert record["energy_joule"] is None and record["power_source"] == "none"
        assert "no_power" in record["flags"] and "switched off" in record["energy_missing"]
    for task in (1, 2, 3):  # greedy: a repeat says the same
        texts = collections.defaultdict(set)
        for record in records:
            texts[record["id"], record["level"]].add(record["output_text"])
        assert all(len(said) == 1 for said in texts.values()), task


def test_the_environment_record_tells_machine_engine_model_and_settings(campaign: Path) -> None:
    (env,) = read(campaign / "runs.env.jsonl")
    records = read(campaign / "runs.jsonl")
    assert {record["env_id"] for record in records} == {env["env_id"]}
    (model,) = env["models"].values()
    import hashlib

    assert model["sha256"] == hashlib.sha256(Path(model["path"]).read_bytes()).hexdigest()
    assert env["engine"]["version"] and env["board"]["kernel"] and env["settings"]["max_tokens"] == 12
    assert env["power"]["missing"]


def test_a_second_start_does_nothing_and_more_repeats_add_only_themselves(
    flags: list[object], finished: Path
) -> None:
    before = finished.read_bytes()
    done = collect(*flags, "--repeats", 2)
    assert done.returncode == 0 and "18 of 18 runs are done" in done.stderr
    assert finished.read_bytes() == before
    collect(*flags, "--repeats", 3)
    assert finished.read_bytes().startswith(before)
    assert len(set(cells(read(finished)))) == len(read(finished)) == 27
    assert len({env["env_id"] for env in read(finished.with_suffix(".env.jsonl"))}) == 1


def test_a_torn_last_line_is_dropped_and_done_again(flags: list[object], finished: Path) -> None:
    finished.write_bytes(finished.read_bytes()[:-40])
    done = collect(*flags, "--repeats", 2)
    assert done.returncode == 0 and "half-written" in done.stderr
    assert len(set(cells(read(finished)))) == len(read(finished)) == 18


def test_changed_conditions_are_refused_until_told(flags: list[object], finished: Path) -> None:
    before = finished.read_bytes()
    done = collect(*flags, "--max_tokens", 5)
    assert done.returncode == 1 and "--fresh" in done.stderr and "--allow_mixed" in done.stderr
    assert finished.read_bytes() == before
    assert collect(*flags, "--max_tokens", 5, "--fresh").returncode == 0
    assert {record["max_tokens"] for record in read(finished)} == {5}
    (old,) = finished.parent.glob("runs.jsonl.*.old")
    assert old.read_bytes() == before


def test_a_changed_model_file_is_refused_and_a_copy_of_a_model_too(
    flags: list[object], finished: Path, tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    model, before = tmp_path / demo_models["llama"].name, finished.read_bytes()
    shutil.copy(demo_models["qwen2"], model)
    flags[1] = model
    done = collect(*flags)
    assert done.returncode == 1 and "another model file" in done.stderr
    done = collect("--models", demo_models["qwen2"], *flags[1:], "--dry_run")
    assert done.returncode == 1 and "is a copy of" in done.stdout
    assert finished.read_bytes() == before


def test_a_second_collector_is_kept_out(flags: list[object], finished: Path) -> None:
    with finished.with_name(finished.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = collect(*flags)
    assert done.returncode == 1 and "another collector is writing" in done.stderr


def engines_of(pid: int) -> list[int]:
    """The engine processes below `pid`."""
    return [one for one in descendants(pid) if ENGINE in command_of(one)]


def before_run(
    monkeypatch: pytest.MonkeyPatch, number: int, happens: Callable[[EngineProcess], None]
) -> None:
    """Have something happen just before the n-th run is asked of the engine; warming up is no run."""
    numbers, run = itertools.count(1), EngineProcess.run

    def beset(engine: EngineProcess, prompt: Prompt, sampling: Sampling) -> Generation:
        if next(numbers) == number:
            happens(engine)
        return run(engine, prompt, sampling)

    monkeypatch.setattr(EngineProcess, "run", beset)


def test_a_killed_engine_costs_one_run_which_retry_does_again(
    flags: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(_: EngineProcess) -> None:
        (pid,) = engines_of(os.getpid())
        os.kill(pid, signal.SIGKILL)

    out = out_of(flags)
    before_run(monkeypatch, 3, kill)
    done = collect(*flags)
    assert done.returncode == 1, done.stderr
    records = read(out)
    assert len(set(cells(records))) == len(records) == 9
    (lost,) = [record for record in records if record["error"]]
    assert lost["error"]["type"] == "engine_crash" and "killed" in lost["error"]["message"]
    before = out.read_bytes()
    again = collect(*flags)
    assert again.returncode == 0 and out.read_bytes() == before  # nothing failed in this start, but it says:
    assert again.stderr.splitlines()[-1].startswith("1 failed run of earlier starts")
    assert again.stderr.count("--retry_errors") == 1
    again = collect(*flags, "--dry_run")
    assert "0 to do" in again.stdout and "1 of them failed, --retry_errors" in again.stdout
    assert out.read_bytes() == before
    assert collect(*flags, "--retry_errors").returncode == 0
    assert [record["run_key"] for record in read(out)[9:]] == [lost["run_key"]]
    assert read(out)[-1]["error"] is None


def quick_replay(folder: Path) -> str:
    """A source of steady power at the pace of --interval: nothing in the log says when its lines were."""
    log = folder / "power.log"
    log.write_text("VDD_IN 5000mW/5000mW\n" * 100)
    return f"replay:{log}"


DIES_AT_ITS_FIRST_LOADING = """
import os, signal, sys
sys.path.remove({folder!r})
del sys.modules["llama_cpp"]
import llama_cpp
load = llama_cpp.llama_model_load_from_file
def dying(path, settings):
    if not settings.vocab_only and not os.path.exists({mark!r}):
        open({mark!r}, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return load(path, settings)
llama_cpp.llama_model_load_from_file = dying
"""


def test_an_engine_killed_while_it_loads_costs_one_run(flags: list[object], tmp_path: Path) -> None:
    """The next run loads again, and measures the idle power that the first could not."""
    package = tmp_path / "in_front" / "llama_cpp"
    package.mkdir(parents=True)
    told = {"folder": str(package.parent), "mark": str(tmp_path / "died")}
    (package / "__init__.py").write_text(DIES_AT_ITS_FIRST_LOADING.format(**told))
    path = os.pathsep.join(filter(None, (str(package.parent), os.environ.get("PYTHONPATH"))))
    power = ["--source", quick_replay(tmp_path), "--interval", 20, "--idle_seconds", 0.6]
    done = collect(*flags, *power, env={"PYTHONPATH": path})
    assert done.returncode == 1 and Path(told["mark"]).exists(), done.stderr
    lost, *rest = read(out_of(flags))
    assert lost["error"]["type"] == "model_load" and "killed" in lost["error"]["message"]
    assert [record["error"] for record in rest] == [None] * 8
    assert all(record["energy_joule"] is not None for record in rest)


def test_a_hang_is_ended_by_the_timeout_and_the_next_run_goes_on(
    flags: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time allowed is cut for the one run whose engine is stopped: the others may take theirs."""
    allowed_s: list[float] = []
    run = EngineProcess.run

    def stop_before_the_second(engine: EngineProcess, prompt: Prompt, sampling: Sampling) -> Generation:
        given_s = engine.run_timeout_s
        allowed_s.append(given_s)
        if len(allowed_s) == 2:
            (pid,) = engines_of(os.getpid())
            os.kill(pid, signal.SIGSTOP)
            engine.run_timeout_s = 0.2
        try:
            return run(engine, prompt, sampling)
        finally:
            engine.run_timeout_s = given_s

    monkeypatch.setattr(EngineProcess, "run", stop_before_the_second)
    assert collect(*flags, "--run_timeout", 345.5).returncode == 1
    assert allowed_s == [345.5] * 9
    kinds = [record["error"] and record["error"]["type"] for record in read(out_of(flags))]
    assert kinds == [None, "timeout", *[None] * 7]


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_end_cleanly_and_name_the_command_to_go_on(
    flags: list[object], tiny_model: Callable[..., Path], signum: int, code: int
) -> None:
    """In the middle of a run, which is given up; no process stays behind, and what is finished does."""
    flags[1] = tiny_model("llama", mode="never")
    out = out_of(flags)
    # Far more runs than are done before the signal arrives, however late that is.
    words = command(DOOR, *flags, "--max_tokens", 400, "--repeats", 100, "--fresh")
    child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: out.exists() and out.read_bytes().count(b"\n") >= 1, patience_s=60)
    below = descendants(child.pid)
    child.send_signal(signum)
    _, stderr = child.communicate(timeout=120)
    assert child.returncode == code
    assert "Go on with" in stderr and "--out_jsonl" in stderr and "Traceback" not in stderr
    assert "--fresh" not in stderr  # it would set aside what is finished
    assert below and not any(command_of(pid) for pid in below)
    assert out.read_bytes().endswith(b"\n") and 1 <= len(read(out)) < 900


def test_a_signal_while_planning_leaves_nothing_behind(flags: list[object]) -> None:
    child = subprocess.Popen(command(DOOR, *flags), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: engines_of(child.pid), patience_s=60)
    below = descendants(child.pid)
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=120)
    assert child.returncode == 130 and "Traceback" not in stderr
    wait_for(lambda: not any("edgebench" in command_of(pid) for pid in below), patience_s=60)
    assert not out_of(flags).exists()


def test_under_nohup_a_hangup_is_no_reason_to_stop(flags: list[object]) -> None:
    child = subprocess.Popen(
        command(DOOR, *flags),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    wait_for(lambda: out_of(flags).exists() or child.poll() is not None, patience_s=60)
    child.send_signal(signal.SIGHUP)
    assert child.wait(120) == 0
    assert len(read(out_of(flags))) == 9


def test_a_full_disk_loses_no_finished_record(flags: list[object]) -> None:
    """A file-size limit refuses the write in the middle of a line, as a full disk does."""
    out = out_of(flags)
    limit = 20_000

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        command(DOOR, *flags, "--repeats", 2), capture_output=True, text=True, preexec_fn=small_files
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and errors == done.stderr.splitlines()[-1:]
    assert errors[0].startswith(f"error: {out}: ") and "Errno" not in errors[0]
    assert "Traceback" not in done.stderr
    assert not [path.name for path in out.parent.iterdir() if path.name.endswith((".part", ".tmp"))]
    kept = out.read_bytes()
    assert 0 < len(kept) <= limit and kept.endswith(b"\n")
    assert collect(*flags, "--repeats", 2).returncode == 0
    assert out.read_bytes().startswith(kept)
    assert len(set(cells(read(out)))) == len(read(out)) == 18


def test_one_bad_model_does_not_stop_the_others(
    flags: list[object], tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    truncated = tmp_path / "cut.gguf"
    truncated.write_bytes(demo_models["qwen2"].read_bytes()[:-1000])
    flags.insert(1, truncated)
    done = collect(*flags)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "cut.gguf" in line and line.count("download") == 1
    assert {record["model_id"] for record in read(out_of(flags))} == {"tiny-llama"}
    assert len(read(out_of(flags))) == 9


BAD_MODELS = {
    "missing": None,
    "empty": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\n" * 9,
    "zip": b"PK\x03\x04" + b"\0" * 200,
}


def test_files_that_are_no_models_are_one_error_line_each(flags: list[object], tmp_path: Path) -> None:
    for name, data in BAD_MODELS.items():
        if data is not None:
            (tmp_path / f"{name}.gguf").write_bytes(data)
    done = collect("--models", *(tmp_path / f"{name}.gguf" for name in BAD_MODELS), *flags[2:])
    assert done.returncode == 1 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(BAD_MODELS)
    assert all(f"{name}.gguf" in line for name, line in zip(BAD_MODELS, errors, strict=True))
    assert not out_of(flags).exists()


def test_bad_prompts_and_an_unwritable_folder(flags: list[object], tmp_path: Path) -> None:
    at = flags.index("--prompts") + 1
    done = collect(*flags[:at], tmp_path / "none.csv", *flags[at + 1 :])
    assert (done.returncode, done.stderr.count("error: ")) == (1, 1) and "none.csv" in done.stderr
    for bad in (("--levels", "L0", "L7"), ("--cooldown", "temp:x")):
        done = collect(*flags, *bad)
        assert done.returncode == 1 and str(bad[-1]) in done.stderr and done.stderr.startswith("error: ")
    for bad in (("--limit", 0), ("--temperature", "nan")):  # a number out of its range is a usage error
        done = collect(*flags, *bad)
        assert done.returncode == 2 and str(bad[-1]) in done.stderr and "error: " in done.stderr
    (tmp_path / "file").write_text("")
    at = flags.index("--out_jsonl") + 1
    done = collect(*flags[:at], tmp_path / "file" / "runs.jsonl", *flags[at + 1 :])
    assert done.returncode == 1 and done.stderr.startswith("error: cannot write")


def test_a_cache_that_the_model_cannot_take_is_refused_when_planning(flags: list[object]) -> None:
    out = Path(str(flags[flags.index("--out_jsonl") + 1]))
    done = collect(*flags, "--kv_type", "q8_0")
    assert done.returncode == 1 and done.stderr.count("cannot take a q8_0 cache") == 1, done.stderr
    assert not out.exists()


def test_a_prompt_beyond_the_context_fails_alone(flags: list[object], tmp_path: Path) -> None:
    with (tmp_path / "prompts.jsonl").open("a") as more:
        more.write(json.dumps({"question_id": 9, "L0": "word " * 400, "L1": "short", "L2": "short"}) + "\n")
    done = collect(*flags, "--n_ctx", 256)
    assert done.returncode == 1
    (failed,) = [record for record in read(out_of(flags)) if record["error"]]
    assert (failed["id"], failed["level"]) == (9, "L0")
    assert "--n_ctx" in failed["error"]["message"]
    assert len(read(out_of(flags))) == 12


def test_dry_run_shows_the_plan_and_writes_nothing(flags: list[object]) -> None:
    done = collect(*flags, "--dry_run", "--repeats", 3)
    assert done.returncode == 0
    assert "27 runs planned, 0 done, 27 to do" in done.stdout
    table, _, command = done.stdout.partition("start it with:")
    assert "context 256" in table and "power: " in table and max(map(len, table.splitlines())) <= 80
    assert "--repeats 3" in command and "--dry_run" not in command
    assert not out_of(flags).parent.exists()


def test_replayed_power_is_labelled_in_every_record(flags: list[object]) -> None:
    flags[flags.index("--source") + 1] = f"replay:{ROOT / 'data/demo/power_replay.log'}"
    done = collect(*flags, "--limit", 1, "--idle_seconds", 0.4, "--max_tokens", 300)
    assert done.returncode == 0, done.stderr
    assert "SIMULATED" in done.stderr
    for record in read(out_of(flags)):
        assert "simulated_power" in record["flags"] and record["power_source"] == "replay"
        assert record["idle_mw"] > 0 and record["energy_gross_joule"] is not None
        net = record["energy_gross_joule"] - record["idle_mw"] / 1000 * record["latency_ms"] / 1000
        assert record["energy_joule"] == pytest.approx(net, abs=1e-6)
        # Without a sample inside the run nothing bounds its error.
        uncertainty_joule = record["energy_uncertainty_joule"]
        assert uncertainty_joule > 0 if record["power_samples"] else uncertainty_joule is None


FAKES = ROOT / "tests" / "fakes"


def with_tegrastats(**play: object) -> dict[str, str | None]:
    """Variables by which PATH holds the fake tegrastats."""
    return {"PATH": f"{FAKES}:{os.environ['PATH']}", "FAKE_TEGRASTATS": json.dumps(play)}


def test_net_energy_of_constant_power_is_nothing_within_its_uncertainty(
    flags: list[object], tiny_model: Callable[..., Path]
) -> None:
    flags[1] = tiny_model("llama", mode="never")  # long enough for samples inside
    flags[flags.index("--source") + 1] = "auto"
    power = ["--idle_seconds", 0.4, "--interval", 20, "--max_tokens", 400, "--limit", 1]
    done = collect(*flags, *power, env=with_tegrastats(power_mw=[6000], work_ms=7))
    assert done.returncode == 0, done.stderr
    for record in read(out_of(flags)):
        assert (record["power_source"], record["power_rail"], record["power_scope"]) == (
            "tegrastats",
            "VDD_IN",
            "module",
        )
        seconds = record["latency_ms"] / 1000
        assert record["energy_gross_joule"] == pytest.approx(6 * seconds, rel=1e-6)
        assert abs(record["energy_joule"]) <= record["energy_uncertainty_joule"]
        assert record["idle_mw"] == pytest.approx(6000)


def test_energy_follows_a_known_load(
    flags: list[object], tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """A feed whose power is a known function of the shared clock: every run's joules must be its integral.

    Power grows by a milliwatt a millisecond, so that each sample tells when the feed printed it.
    """
    flags[1] = tiny_model("llama", mode="never")  # long enough for samples inside
    feed, trace, begin_s = tmp_path / "feed.py", tmp_path / "trace.csv", time.monotonic()
    feed.write_text(
        "import time\n"
        "while True:\n"
        f"    ramp_mw = (time.monotonic() - {begin_s!r}) * 1000\n"
        "    print(f'VDD_IN {5000 + ramp_mw:.0f}mW/8000mW', flush=True)\n"
        "    time.sleep(0.02)\n"
    )
    at = flags.index("--source")
    power = ["--feed", f"{sys.executable} {feed}", "--interval", 20, "--idle_seconds", 0.4]
    few = ["--max_tokens", 600, "--limit", 2, "--power_trace", trace]
    done = collect(*flags[:at], *flags[at + 2 :], *power, *few)
    assert done.returncode == 0, done.stderr
    with trace.open() as file:
        samples = [(float(row["t_s"]), float(row["power_mw"])) for row in csv.DictReader(file)]
    # How old each value was at its stamp. Lines that are read at once are spread evenly since the read before
    # (keeper.stamped), so that on a busy machine a stamp may lie before its value, too.
    late_s = {t_s: t_s - begin_s - (power_mw - 5000) / 1000 for t_s, power_mw in samples}
    assert max(late_s.values()) > -0.001
    records = read(out_of(flags))
    assert len(records) == 6 and all(record["power_source"] == "feed" for record in records)
    for record in records:
        t0_s, t1_s = record["t0_s"], record["t1_s"]
        seconds = t1_s - t0_s
        expected = seconds * (5 + (t0_s + t1_s) / 2 - begin_s)
        # Values that are old come from lower on the ramp, by 1 W a second.
        around = [abs(late) for t_s, late in late_s.items() if t0_s - 0.1 <= t_s <= t1_s + 0.1]
        allowed = record["energy_uncertainty_joule"] + max(around) * seconds + 0.001
        assert record["energy_gross_joule"] == pytest.approx(expected, abs=allowed)
        # And of the samples as they were stamped it is the integral exactly.
        assert record["energy_gross_joule"] == pytest.approx(integral_joule(samples, t0_s, t1_s), rel=1e-6)


def integral_joule(samples: list[tuple[float, float]], t0_s: float, t1_s: float) -> float:
    """Of the straight lines between samples in mW."""

    def at(moment_s: float) -> float:
        (t_a, p_a), (t_b, p_b) = next(pair for pair in itertools.pairwise(samples) if pair[1][0] >= moment_s)
        return p_a + (p_b - p_a) * (moment_s - t_a) / (t_b - t_a)

    inside = [sample for sample in samples if t0_s < sample[0] < t1_s]
    corners = itertools.pairwise([(t0_s, at(t0_s)), *inside, (t1_s, at(t1_s))])
    return sum((t_b - t_a) * (p_a + p_b) / 2 for (t_a, p_a), (t_b, p_b) in corners) / 1000


def test_a_feed_that_dies_for_good_costs_the_energy_which_retry_measures(
    flags: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed dies before the fifth run, its restart after 3 lines; the sampler's next start goes on."""
    starts, feed, end = tmp_path / "starts", tmp_path / "feed.py", tmp_path / "end"
    feed.write_text(
        f"import pathlib, time\nstarts, end = pathlib.Path({str(starts)!r}), pathlib.Path({str(end)!r})\n"
        "n = len(starts.read_text()) if starts.exists() else 0\nstarts.write_text('.' * (n + 1))\n"
        "for k in range(3 if n == 1 else 10**6):\n"
        "    if n == 0 and end.exists():\n        break\n"
        "    print('VDD_IN 5000mW/5000mW', flush=True)\n    time.sleep(0.02)\n"
    )

    def die(_: EngineProcess) -> None:
        end.touch()
        # The keeper's words name the feed, too.
        wait_for(
            lambda: not any(str(feed) in command_of(pid) for pid in descendants(os.getpid())), patience_s=60
        )
        # On a busy machine the last lines are heard late; this long after them the window has a gap for sure.
        time.sleep(0.5)

    before_run(monkeypatch, 5, die)
    at = flags.index("--source")
    power = ["--feed", f"{sys.executable} {feed}", "--idle_seconds", 0.6, "--interval", 20]
    words = [*flags[:at], *flags[at + 2 :], *power]
    done = collect(*words)
    assert done.returncode == 1, done.stderr
    records = read(out_of(flags))
    lost = [record for record in records if record["energy_joule"] is None]
    assert len(records) == 9 and lost == [records[4]]
    assert all(record["output_text"] and record["latency_ms"] for record in records)
    assert lost[0]["error"]["type"] == "power_lost" and len(starts.read_text()) == 3
    assert collect(*words, "--retry_errors").returncode == 0
    good = [record for record in read(out_of(flags)) if record["error"] is None]
    assert len(set(cells(good))) == len(good) == 9
    assert all(record["energy_joule"] is not None for record in good)


def test_block_method_measures_prefill_apart(flags: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a shorter block than a board's five seconds: this feed gives a sample every 20 ms."""
    monkeypatch.setattr(campaign_room, "BLOCK_SECONDS", 0.3)
    flags[flags.index("--source") + 1] = "auto"
    power = ["--idle_seconds", 0.3, "--interval", 20, "--phase_energy", "block"]
    few = ["--limit", 1, "--levels", "L0", "--repeats", 2]
    done = collect(*flags, *power, *few, env=with_tegrastats(power_mw=[6000]))
    assert done.returncode == 0, done.stderr
    for record in read(out_of(flags)):
        assert record["energy_phase_method"] == "block"
        total = record["energy_prefill_joule"] + record["energy_decode_joule"]
        assert total == pytest.approx(record["energy_joule"])


def test_second_turn_goes_on_from_the_first_answer(flags: list[object], tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl.txt"
    questions.write_text(
        "".join(json.dumps({"question_id": n, "turns": ["a", "And why?"]}) + "\n" for n in (1, 2, 3))
    )
    both = [*flags, "--turns", 2, "--questions", questions]
    assert collect(*both).returncode == 0
    records = read(out_of(flags))
    assert len(set(cells(records))) == len(records) == 18
    by_cell = {(record["id"], record["level"], record["turn"]): record for record in records}
    for (task, level, turn), record in by_cell.items():
        if turn == 2:
            first = by_cell[task, level, 1]
            assert record["prompt_tokens"] > first["prompt_tokens"] + first["completion_tokens"]
    out = out_of(flags)
    kept = [line for line in out.read_bytes().splitlines(keepends=True) if json.loads(line)["turn"] == 1]
    out.write_bytes(b"".join(kept))  # as if it had been stopped: the first answers come from the file
    assert collect(*both).returncode == 0
    again = {(record["id"], record["level"], record["turn"]): record for record in read(out)}
    assert {key: record["output_text"] for key, record in again.items()} == {
        key: record["output_text"] for key, record in by_cell.items()
    }


def test_anchors_are_kept_apart(flags: list[object]) -> None:
    assert collect(*flags, "--anchor_every", 3).returncode == 0
    anchors = read(out_of(flags).with_suffix(".anchors.jsonl"))
    assert len(anchors) == 3 and len({anchor["anchor_id"] for anchor in anchors}) == 1
    assert all(anchor["latency_ms"] > 0 and "id" not in anchor for anchor in anchors)
    assert len(read(out_of(flags))) == 9
