"""Where measurements stand when no file is named: datasets/server and datasets/tegra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgebench.errors import UserError

SERVER, BOARD = Path("datasets/server"), Path("datasets/tegra")
ENDINGS = (".xlsx", ".xlsm", ".csv", ".json", ".jsonl", ".csv.gz", ".jsonl.gz")


def data_files(given: Sequence[Path]) -> list[Path]:
    """The files that are given, a folder standing for those in it; else those of the default places."""
    if given:
        return [file for path in given for file in (files_in(path) if path.is_dir() else [path])]
    found = [file for folder in (SERVER, BOARD) if folder.is_dir() for file in files_in(folder)]
    if not found:
        raise UserError(
            f"no measurements: put tables of server requests (.xlsx with ttft, total_time_ms, input_tokens,"
            f" output_tokens) into {SERVER}, tables of Jetson requests (.csv with prefill, decode,"
            f" output_tokens) into {BOARD}, one file a model, such as llama_8b.csv; or name files with --data"
        )
    return found


def files_in(folder: Path) -> list[Path]:
    """Tables and run records of a folder, by name. Environment records beside runs are none."""
    files = sorted(path for path in folder.iterdir() if path.name.casefold().endswith(ENDINGS))
    return [path for path in files if ".env.jsonl" not in path.name and not path.name.startswith((".", "~"))]
