"""The report of a sweep: a plot per grid, and words for a file that is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgebench.speculation import report as report_sweeps
from edgebench.speculation import summary as summarize_sweeps

SCRIPT = Path(__file__).resolve().parents[2] / "edgebench/speculation/report.py"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True)


def row(grid: str, name: str, **more: object) -> dict:
    names = (*summarize_sweeps.CONFIG_COLUMNS, *summarize_sweeps.MODE_COLUMNS, *summarize_sweeps.OUR_COLUMNS)
    filled = {"file": f"{name}.json", "grid": grid, "role": "cost", "accept_by_position": [0.9, 0.5, None]}
    return {**dict.fromkeys(names), **filled, "latency_avg_s": 1.5, **more}


def write(tmp_path: Path, *rows: dict) -> Path:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"rows": rows, "best": [], "notes": []}))
    return path


def test_a_plot_per_grid_and_markdown(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ratios = {"latency_ratio": 0.8, "latency_ratio_low": 0.7, "latency_ratio_high": 0.9}
    path = write(tmp_path, row("one", "a", **ratios), row("two", "b", **ratios, energy_ratio=1.1))
    done = run(path)
    assert done.returncode == 0, done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"one.png", "two.png", "summary.json", "summary.md"}
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert "0.800 [0.700, 0.900]" in done.stdout and (tmp_path / "summary.md").read_text() in done.stdout


@pytest.mark.parametrize("longest", [1, 2, 3, 10, 15])
def test_positions_in_the_draft_are_whole_numbers_on_the_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    ticks: list[str] = []

    def look(self: object, path: Path, **_: object) -> None:
        self.canvas.draw()  # type: ignore[attr-defined]
        axis = self.axes[1]  # type: ignore[attr-defined]
        low, high = axis.get_xlim()
        ticks.extend(t.get_text() for t in axis.get_xticklabels() if low <= t.get_position()[0] <= high)
        path.touch()

    monkeypatch.setattr(figure, "savefig", look)
    rows = [row("one", "a", latency_ratio=0.8, accept_by_position=[0.9] * longest)]
    report_sweeps.plot_grid("one", rows, tmp_path / "one.png")
    assert len(ticks) >= 2 and all(tick.isdigit() and 1 <= int(tick) <= longest + 1 for tick in ticks)


def test_no_plots_when_not_asked_for(tmp_path: Path) -> None:
    assert run(write(tmp_path, row("one", "a", latency_ratio=0.8)), "--no_plots").returncode == 0
    assert not list(tmp_path.glob("*.png"))


def test_a_missing_value_is_a_dash_and_simulated_power_is_called_so(tmp_path: Path) -> None:
    energy = {"energy_joule_per_request": 2.0, "power_source": "replay", "power_simulated": True}
    done = run(write(tmp_path, row("one", "a", **energy)), "--no_plots")
    assert "replay, simulated" in done.stdout and "| –" in done.stdout and "None" not in done.stdout


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 1}', '{"rows": [{}]}'])
def test_a_file_that_is_no_summary(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    done = run(tmp_path / "summary.json", "--no_plots")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
