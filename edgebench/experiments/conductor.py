"""Measure an experiment's cycles, one process of the collector per cycle, until all are done or enough.

FOLDER is one that starting.py has prepared: effective_config.json and
state.json. Every cycle's records go to its own cycle_N.jsonl, as the collector
writes them. Between cycles the board cools down; after each, summary.py
sums up, and until_ci may end the experiment early. A cycle that fails is kept as
failed and the rest go on. A second start goes on where the first one stopped.

state.json is replaced whole at every change:
  status     running, completed, stopped, interrupted or failed
  process    {pid, start_ticks} of this conductor, `collector` of its child: a
             number alone may by now be another process
  cycles     per cycle: n, status, runs, failed, started_at, ended_at, temp_c
             before it, load_1min, exit_code, why; resumed_at, when the latest
             start began on it, runs_before, those that were there by then
  judged     the judge of the configuration once it has compared everything; its
             exit code in judge_exit_code
A file named `stop` in FOLDER ends the experiment after the run under way; SIGINT,
SIGTERM and SIGHUP at once. Either way every finished run is kept.

Example:
  python edgebench/__main__.py edgebench.experiments.conductor results/experiments/demo-0123456789ab
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.board.thermal import read_hottest_c
from edgebench.errors import UserError, told
from edgebench.experiments import summary
from edgebench.experiments.folder import (
    DOOR,
    command_for,
    identity,
    is_alive,
    read_config,
    read_state,
    runs_in,
    write_json,
)
from edgebench.experiments.preflight import runs_per_cycle
from edgebench.experiments.results import write_workbooks
from edgebench.experiments.watch import end_work
from edgebench.prompts.sources import Wish, load, write_prompts
from edgebench.prompts.table import read_table
from edgebench.records.jsonl import exclusive, records_in
from edgebench.shell import lifeline
from edgebench.shell.progress import CONDUCTED, say
from edgebench.shell.signals import ENDING_SIGNALS

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.2
COLLECTOR_ORDER = {"sequential": "sequential", "interleaved": "balanced", "shuffled": "shuffled"}
Json = Mapping[str, Any]


class Ended(Exception):
    """A signal came, or `stop`; args: the exit code and the status to write."""


# --- State ---


def now() -> str:
    """RFC 3339, UTC; a label."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")[:-6] + "Z"


def count_runs(path: Path) -> tuple[int, int]:
    """(runs, of these failed) in a cycle's file; of two records of one run the last counts."""
    runs = runs_in(path)
    return len(runs), sum(run.get("error") is not None for run in runs)


# --- The machine between cycles ---


def load_1min() -> float:
    return round(os.getloadavg()[0], 2)


# --- Commands ---


def flags_of(pairs: Mapping[str, Any]) -> list[str]:
    """--name value for what is set; lists as several values, true as the bare flag."""
    words: list[str] = []
    for name, value in pairs.items():
        if value is None or value is False or value == []:
            continue
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}"] if value is True else [f"--{name}={value}"]
    return words


def engine_flags(config: Json) -> dict[str, Any]:
    """What the collector and throughput.py call alike."""
    power = config["power"]
    return {
        **{
            name: value
            for name, value in config["generation"].items()
            if name not in ("seed", "thinking", "system")
        },
        **{name: value for name, value in config["engine"].items() if name != "allow_cpu"},
        "source": power["source"],
        "feed": power["feed"],
        "interval": power["interval_ms"],
        "idle_seconds": power["idle_seconds"],
        "repeats": config["repeats"],
        "limit": config["limit"],
        "run_timeout": config["run_timeout"],
        "levels": config["levels"],
    }


def measuring_command(config: Json, folder: Path, n: int, seed: int) -> list[str]:
    """The process that measures cycle n."""
    trace = str(folder / f"power_{n}.csv") if config["power"]["trace"] else None
    shared = {
        "models": config["models"],
        "prompts": config["prompts"],
        "out_jsonl": folder / f"cycle_{n}.jsonl",
        **engine_flags(config),
        "seed": seed,
        "power_trace": trace,
        "retry_errors": True,
    }
    if config["mode"] == "throughput":
        sizes = ",".join(map(str, config["batch_sizes"]))
        return [*door("companions/throughput.py"), *flags_of(shared | {"batch_sizes": sizes})]
    own = {
        "thinking": config["generation"]["thinking"],
        "system": config["generation"]["system"],
        "allow_cpu": config["engine"]["allow_cpu"],
        "idle_every": config["power"]["idle_every"],
        "phase_energy": config["power"]["phase_energy"],
        "ids": config["ids"],
        "turns": config["turns"],
        "order": COLLECTOR_ORDER[config["order"]],
        "cooldown": config["cool_down"]["run"],
    }
    return [*door("run_llamacpp_collect.py"), *flags_of(shared | own)]


def warm_up_command(config: Json, folder: Path) -> list[str]:
    """A few runs of the first task, which nobody counts and no power is drawn up for."""
    config = {
        **config,
        "mode": "collect",
        "limit": 1,
        "ids": [],
        "turns": 1,
        "repeats": config["warm_up"],
        "power": {**config["power"], "source": "none", "feed": None, "trace": False},
        "cool_down": {**config["cool_down"], "run": "0"},
    }
    words = measuring_command(config, folder, 0, 0)
    out = f"--out_jsonl={folder / 'warm_up.jsonl'}"
    return [
        out if word.startswith("--out_jsonl=") else word for word in words if word != "--retry_errors"
    ] + ["--fresh"]


def door(name: str) -> list[str]:
    """The words that start a command of the suite."""
    return [sys.executable, str(ROOT / name)]


def changed_ns(path: Path) -> int:
    """When a file was last written; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


# --- The conductor ---


class Conductor:
    """One start of an experiment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.config = read_config(folder)
            self.state = read_state(folder)
        except UserError as exc:
            raise UserError(f"{told(exc)}; start one with: {DOOR} run FILE") from None
        self.signum: int | None = None
        self.log = (folder / "run.log").open("a", encoding="utf-8")
        # Detached, stderr is the log already.
        self.logged_already = os.fstat(self.log.fileno()).st_ino == os.fstat(2).st_ino

    def say(self, text: str) -> None:
        """A line for the user and for the log. A terminal that has gone away must not end the experiment."""
        say(text)
        if not self.logged_already:
            print(now(), text, file=self.log, flush=True)

    def save(self, **changes: Any) -> None:
        """Change the state, on disk too."""
        self.state |= changes
        write_json(self.folder / "state.json", self.state)

    def interrupt(self, signum: int, _frame: Any) -> None:
        """Signal handler: the loops see it."""
        self.signum = self.signum or signum

    def check(self) -> None:
        """Ended if a signal came or `stop` was asked for."""
        if self.signum is not None:
            raise Ended(128 + self.signum, "interrupted")
        if (self.folder / "stop").exists():
            raise Ended(0, "stopped")

    # --- One process ---

    def run_child(self, command: Sequence[str], out: Path, judges: bool = False) -> int:
        """Run a measuring process to its end; told to stop, it ends after the run under way is written."""
        print(now(), shlex.join(command), file=self.log, flush=True)
        # A session of its own: Ctrl-C in the terminal is ours to answer. If we are killed, it ends its engine
        # and its feed.
        child = lifeline.start(
            command,
            death_signal=signal.SIGTERM,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            start_new_session=True,
            env=surroundings(self.config, judges),
        )
        self.save(collector=identity(child.pid))
        told = False
        while child.poll() is None:
            # By the files' own times: both may come between two looks.
            asked_ns, written_ns = changed_ns(self.folder / "stop"), changed_ns(out)
            if not told and (self.signum is not None or 0 < asked_ns < written_ns):
                child.send_signal(signal.SIGINT)
                told = True
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL_SECONDS)
        self.save(collector=None)
        return int(child.returncode)

    def end_orphan(self) -> None:
        """The collector of a conductor that was killed is about to end; it must not measure beside ours."""
        orphan = self.state.get("collector")
        if orphan is None or not is_alive(orphan):
            return
        self.say(f"waiting for the collector of an earlier start to end (process {orphan['pid']})")
        end_work(orphan, at_once=False)

    # --- Between cycles ---

    def cool_down(self) -> None:
        """Wait the seconds, then for the temperature; both can be interrupted."""
        wanted = self.config["cool_down"]
        start_s = time.monotonic()
        if wanted["seconds"]:
            self.say(f"cool-down: {wanted['seconds']:g} s")
        while time.monotonic() - start_s < wanted["seconds"]:
            self.check()
            time.sleep(min(POLL_SECONDS, wanted["seconds"]))
        began_c, within = self.state.get("temp_begin_c"), wanted["to_within_c"]
        if within is None:
            return
        if began_c is None:
            self.say("cool-down: this machine shows no temperature; give cool_down.seconds")
            return
        told = False
        while (temp_c := read_hottest_c()) is not None and temp_c > began_c + within:
            self.check()
            if not told:
                self.say(f"cool-down: {temp_c:.1f} C, waiting for {began_c + within:.1f} C")
                told = True
            if time.monotonic() - start_s > wanted["most_seconds"]:
                self.say(f"cool-down: given up at {temp_c:.1f} C, not yet {began_c + within:.1f} C")
                return
            time.sleep(POLL_SECONDS)

    def prepare(self) -> None:
        """The temperature to come back to, prompts of a dataset, and warm-up, once."""
        if "temp_begin_c" not in self.state:
            self.save(temp_begin_c=read_hottest_c())
        dataset = self.config["dataset"]
        if dataset:
            made = self.folder / "prompts.csv"
            if not made.exists():
                try:
                    loaded = load(Wish(**dataset))
                    write_prompts(made, loaded)
                    print(loaded.told(made, dataset["sample_size"]), file=sys.stderr)
                except (UserError, OSError) as problem:
                    raise UserError(f"no prompts from {dataset['source']}: {problem}") from None
            self.config |= {"prompts": [str(made)], "dataset": None}
            if not self.config["levels"]:
                self.config["levels"] = levels_of(made)
            self.save(runs_per_cycle=runs_per_cycle(self.config))  # of a set on a hub it was not known before
        if self.config["warm_up"] and not self.state.get("warmed_up"):
            self.say(f"warm-up, {self.config['warm_up']} runs that do not count")
            code = self.run_child(warm_up_command(self.config, self.folder), self.folder / "warm_up.jsonl")
            self.check()
            if code:
                self.say(f"warm-up failed (exit code {code}); going on")
            self.save(warmed_up=True)

    # --- Cycles ---

    def run_cycle(self, n: int) -> None:
        """Measure cycle n, or what is left of it, and write down how it went."""
        out = self.folder / f"cycle_{n}.jsonl"
        cycle = self.state["cycles"][n - 1]
        cycle |= {"status": "running", "started_at": cycle["started_at"] or now(), "ended_at": None}
        cycle |= {"resumed_at": now(), "runs_before": count_runs(out)[0]}  # the time left is told by them
        cycle |= {"temp_c": read_hottest_c(), "load_1min": load_1min()}
        self.save(cycle=n)
        self.say(f"cycle {n} of {self.config['cycles']}")
        code = self.run_child(measuring_command(self.config, self.folder, n, self.state["seed"] + n - 1), out)
        gather_environments(self.folder)
        runs, failed = count_runs(out)
        cycle |= {"runs": runs, "failed": failed, "exit_code": code, "ended_at": now(), "why": None}
        ended_by_us = self.signum is not None or (self.folder / "stop").exists()
        if ended_by_us and code != 0:
            cycle["status"] = "interrupted"
        elif code == 0 and runs:
            cycle["status"] = "completed"
        else:
            cycle |= {
                "status": "failed",
                "why": f"{failed} of {runs} runs failed" if failed else f"exit code {code}",
            }
            self.say(f"cycle {n} failed: {cycle['why']}; it is kept as failed")
        self.save()
        self.check()

    def summarize(self) -> bool:
        """Sum up what there is; is the energy per token known well enough?"""
        try:
            found = summary.sum_up(self.folder)
        except (UserError, OSError) as exc:
            self.say(f"error: the summary could not be made: {told(exc)}")
            return False
        if found["mixed"]:
            self.say(f"the cycles differ in {', '.join(list(found['mixed'])[:3])}: see summary.md")
        return bool(found["until_ci"] and found["until_ci"]["reached"])

    def conduct(self) -> int:
        """All that is left; the exit code."""
        self.prepare()
        for n in range(1, self.config["cycles"] + 1):
            status = self.state["cycles"][n - 1]["status"]
            if status == "completed" or (status == "failed" and not self.state.get("retry_failed")):
                continue
            if self.state.get("reached_at"):
                break
            self.check()
            if n > 1:
                self.cool_down()
            self.run_cycle(n)
            if self.summarize():
                self.save(reached_at=n)
                self.say(
                    f"cycle {n}: the energy per token is known to within {self.config['until_ci']}: enough"
                )
        judge_code = self.finish()
        states = [cycle["status"] for cycle in self.state["cycles"]]
        status = "completed" if "completed" in states else "failed"
        self.save(status=status, ended_at=now())
        self.lay_out()
        return 0 if "failed" not in states and judge_code == 0 else 1

    def judge(self, scores: Path) -> int:
        """Let the judge compare what it has not compared yet; its exit code. It takes hours: it can be ended
        as a cycle can, and asks the rest at the next start.
        """
        wanted = self.config["judge"]
        if not wanted or self.state.get("judged") == wanted:
            return 0
        self.check()
        self.say(f"judge: {wanted['model'] or wanted['serve_model']}")
        done = [cycle["n"] for cycle in self.state["cycles"] if cycle["status"] == "completed"]
        runs = self.folder / f"cycle_{min(done, default=1)}.jsonl"
        command = [*door("judge_pairs.py"), *judge_flags(self.config, runs, scores)]
        code = self.run_child(command, scores.with_suffix(".journal.jsonl"), judges=True)
        self.save(judged=None if code else wanted, judge_exit_code=code)
        self.check()
        if code:
            self.say(
                f"judge: exit code {code}, {self.folder}/run.log says more; the next start asks the rest"
            )
        return code

    def finish(self) -> int:
        """The steps after the last cycle: summary, judge. The judge's exit code."""
        if not (self.folder / "summary.json").exists():
            self.summarize()
        with contextlib.suppress(OSError, UserError):  # the terminal may be gone, the summary not be there
            print(summary.screen_of(self.folder), flush=True)
        return self.judge(self.folder / "scores_mtbench.csv") if self.has_answers() else 0

    def has_answers(self) -> bool:
        """Is there anything to judge, and to lay out in workbooks?"""
        return self.config["mode"] == "collect" and any(cycle["runs"] for cycle in self.state["cycles"])

    def lay_out(self) -> None:
        """The workbooks, where they are wanted. Nothing hangs on them: the state is written before."""
        if not self.has_answers() or not self.config["aggregate"] or self.state.get("no_aggregate"):
            return
        try:
            lines = write_workbooks(self.folder)
        except UserError as problem:
            self.say(f"workbooks: {problem}")
            return
        print("\n".join(lines), file=self.log, flush=True)
        self.say(f"workbooks in {self.folder}")


def surroundings(config: Json, judges: bool) -> dict[str, str]:
    """The environment of a child: the judge's key is given to the judge alone."""
    key_variable = (config.get("judge") or {}).get("api_key_env")
    withheld = set() if judges else {key_variable}
    return {name: value for name, value in os.environ.items() if name not in withheld} | {CONDUCTED: "1"}


def judge_flags(config: Json, runs: Path, out: Path) -> list[str]:
    """The judge sees one cycle's answers, the first good one's: greedy answers of the others are the same."""
    judge = dict(config["judge"])
    judge["model"] = judge["model"] or Path(judge["serve_model"]).stem
    return flags_of({"runs_root": runs, **judge, "out": out})


def levels_of(prompts: Path) -> list[str]:
    """The level columns of a prompts file that prompts/sources.py has written."""
    return list(read_table(prompts).columns)[3:]


def gather_environments(folder: Path) -> None:
    """environment.jsonl: each environment that a cycle was measured in, once."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("cycle_*.env.jsonl")):
        for record in records_in(path):
            found.setdefault(str(record.get("env_id")), record)
    if found:
        draft = folder / f".environment.{os.getpid()}"
        draft.write_text("".join(json.dumps(record) + "\n" for record in found.values()), encoding="utf-8")
        draft.replace(folder / "environment.jsonl")


def start(folder: Path, detached: bool) -> int:
    """One start, from the signal handlers to the last state."""
    conductor = Conductor(folder)
    for signum in ENDING_SIGNALS:
        # Under nohup, and detached, the hang-up is ignored.
        if signum == signal.SIGHUP and (detached or signal.getsignal(signum) == signal.SIG_IGN):
            signal.signal(signum, signal.SIG_IGN)
        else:
            signal.signal(signum, conductor.interrupt)
    busy = f"it is running already; see it with: {command_for('status', folder)}"
    with exclusive(folder / "conductor", busy):
        (folder / "stop").unlink(missing_ok=True)
        conductor.end_orphan()
        conductor.save(status="running", process=identity(os.getpid()), ended_at=None)
        try:
            return conductor.conduct()
        except Ended as exc:
            code, status = exc.args
            if any(cycle["runs"] for cycle in conductor.state["cycles"]):
                conductor.summarize()
            conductor.save(status=status, ended_at=now())
            again = command_for("run --resume", folder)
            conductor.say(f"{status}; every finished run is kept. Go on with:\n  {again}")
            return int(code)
        except (UserError, OSError) as exc:
            conductor.save(status="failed", ended_at=now(), why=told(exc))
            raise


def main() -> int:
    """FOLDER, and --detached to outlive the terminal."""
    folder, *more = sys.argv[1:]
    try:
        return start(Path(folder), "--detached" in more)
    except (UserError, OSError) as exc:
        print(f"error: {told(exc)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
