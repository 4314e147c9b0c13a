"""Folders, states, summaries and names that are not as this suite writes them: said, never a traceback."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from companions.run_experiment import main
from edgebench.errors import UserError, told
from edgebench.experiments import starting, summary, watch
from edgebench.experiments.config import Chosen, effective, name_of
from edgebench.experiments.folder import look
from edgebench.experiments.grid import write_grid, write_new
from edgebench.experiments.validate import validate
from edgebench.records.jsonl import write_whole

CYCLE = {
    "n": 1,
    "status": "completed",
    "runs": 1,
    "failed": 0,
    "why": None,
    "started_at": None,
    "ended_at": None,
}
RECORD: dict[str, Any] = {
    "run_key": "a", "id": 1, "model_id": "m", "quantization": "Q8_0", "level": "L0", "repeat": 1,
    "error": None,
    "completion_tokens": 4, "latency_ms": 2.0, "flags": [],
}  # fmt: skip


def a_folder(output: Path, name: str, **state: Any) -> Path:
    folder = output / name
    folder.mkdir(parents=True)
    whole = {
        "id": name, "hash": "0", "status": "completed", "process": None, "collector": None, "cycle": 1,
        "cycles": [CYCLE], "runs_per_cycle": 1, "cwd": str(output),
    }  # fmt: skip
    config = effective(None, None, ["models=[m.gguf]", f"name={name}"]).config
    (folder / "state.json").write_text(json.dumps(whole | state))
    (folder / "effective_config.json").write_text(json.dumps(config))
    (folder / "cycle_1.jsonl").write_text(json.dumps(RECORD) + "\n")
    return folder


@pytest.mark.parametrize("name", ["state.json", "effective_config.json"])
@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"id": "x", "cycles": 3}', "[" * 100_000])
def test_a_folder_that_is_none_is_named_and_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    a_folder(tmp_path, "good")
    odd = a_folder(tmp_path, "odd")
    (odd / name).write_text(text)
    with pytest.raises(UserError, match="is no experiment's folder"):
        look(odd)
    assert main(["results", "list", "--output", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "good" in out and "odd" not in out and f"left out: {odd} is no experiment's folder" in err
    assert main(["status", "--output", str(tmp_path)]) == 0 and "good" in capsys.readouterr().out
    assert main(["status", "odd", "--output", str(tmp_path)]) == 1
    assert main(["aggregate", "odd", "--output", str(tmp_path)]) == 1
    assert "is no experiment's folder" in capsys.readouterr().err
    assert starting.unfinished(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"name": "x", "cells": 3}', '{"name": 1, "cells": [{}]}']
)
def test_a_summary_that_is_none_names_the_command_that_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    folder = a_folder(tmp_path, "one")
    (folder / "summary.json").write_text(text)
    assert main(["results", "show", "one", "--output", str(tmp_path)]) == 1
    assert f"run_experiment.py aggregate {folder} --force" in capsys.readouterr().err


def test_numbers_that_are_none_are_missing_and_never_a_mean() -> None:
    odd = RECORD | {
        "run_key": "b",
        "id": 2,
        "latency_ms": float("nan"),
        "completion_tokens": "4",
        "flags": None,
    }
    (cell,) = summary.cells_of([[RECORD, odd]])
    assert "latency_ms" not in cell["metrics"]  # a mean with a gap is none
    assert cell["metrics"]["completion_tokens"]["mean"] == 4
    names = ("batch_size", "energy_joule", "power_mw_mean", "temp_max_c")
    line = watch.one_line(dict.fromkeys(names) | odd | {"temp_max_c": "hot", "error": "it broke"})
    assert line == "m task 2 L0, failed: it broke, 4 tok"


def test_nothing_to_aggregate_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["aggregate", "--all", "--output", str(tmp_path / "none")]) == 0
    assert "no experiments in" in capsys.readouterr().err


def test_a_resumed_experiment_is_not_begun_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_folder(tmp_path, "one", status="stopped")
    assert main(["run", "--resume", "one", "--fresh", "--output", str(tmp_path)]) == 1
    assert "--fresh" in capsys.readouterr().err


def test_the_model_whose_interval_is_widest_is_named_with_its_quantization() -> None:
    def one(quantization: str, joule: float) -> dict[str, Any]:
        return RECORD | {"quantization": quantization, "energy_joule": joule}

    cycles = [[one("Q4_1", 1 + n / 10), one("Q8_0", 1.0 + n)] for n in range(3)]
    told = summary.decide(summary.cells_of(cycles), "2%")
    assert told is not None and told["widest_at"] == "m Q8_0 L0" and not told["reached"]


def test_one_that_was_killed_before_its_first_cycle_names_the_command_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_folder(tmp_path, "one", status="prepared", cycle=0)
    assert main(["status", "one", "--output", str(tmp_path)]) == 0
    assert (
        f"go on with: python companions/run_experiment.py run --resume {tmp_path / 'one'}"
        in capsys.readouterr().out
    )


# --- Names ---


def test_a_file_of_any_name_is_an_experiment(tmp_path: Path) -> None:
    for name in ("my first try (2).yaml", "größe 'x'.yaml", "_.yaml", "x" * 150 + ".yaml"):
        file = tmp_path / name
        write_new(None, ["m.gguf"], file)
        assert effective(file, None, []).config["name"] == name_of(file)
        (grid,) = write_grid(file, ["limit=1"], tmp_path / "grid", None)
        assert effective(grid, None, []).config["limit"] == 1
        file.write_text("name: 'no name'\nmodels: [m.gguf]\n")
        (line,) = validate(file).lines()
        assert line.startswith(f"error: {file}: name: ") and line.count(str(file)) == 1


# --- Places that cannot be written ---


def a_choice(output: Path) -> Chosen:
    return effective(None, None, ["models=[m.gguf]", "limit=1", f"output={json.dumps(str(output))}"])


def test_a_folder_that_cannot_be_written_is_told_with_its_flag(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(UserError, match="name another folder with --output"):
        starting.prepare(a_choice(tmp_path / "a file"), fresh=False)


def test_a_full_disk_leaves_no_half_prepared_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(path: Path, _content: Any) -> None:
        if path.name == "state.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        path.touch()

    monkeypatch.setattr(starting, "write_json", is_full)
    with pytest.raises(UserError, match=r"No space left on device; .*--output"):
        starting.prepare(a_choice(tmp_path), fresh=False)
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_on_a_full_disk_is_not_left_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(_number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", is_full)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device; choose another --out"):
        write_new(None, [], tmp_path / "exp.yaml")
    assert list(tmp_path.iterdir()) == []


def test_a_system_error_is_told_in_words_with_the_file_that_users_know(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        write_whole(tmp_path / "none" / "a.json", "{}")
    assert told(caught.value) == f"{tmp_path}/none/a.json: No such file or directory"
    assert (
        "Errno" not in told(PermissionError(13, "Permission denied", "x")) and told(OSError("odd")) == "odd"
    )
