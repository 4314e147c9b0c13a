"""The report of a sweep: a plot per grid, and words for a file that is none."""

from pathlib import Path

import pytest

from edgebench.speculation import report as report_sweeps
from edgebench.speculation import summary as summarize_sweeps


def row(grid: str, name: str, **more: object) -> dict:
    names = (*summarize_sweeps.CONFIG_COLUMNS, *summarize_sweeps.MODE_COLUMNS, *summarize_sweeps.OUR_COLUMNS)
    filled = {"file": f"{name}.json", "grid": grid, "role": "cost", "accept_by_position": [0.9, 0.5, None]}
    return {**dict.fromkeys(names), **filled, "latency_avg_s": 1.5, **more}


def report(tmp_path: Path, *rows: dict, plots: bool = False) -> str:
    return report_sweeps.write_report({"rows": rows, "best": [], "notes": []}, tmp_path, plots)


def test_a_plot_per_grid_and_markdown(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ratios = {"latency_ratio": 0.8, "latency_ratio_low": 0.7, "latency_ratio_high": 0.9}
    rows = row("one", "a", **ratios), row("two", "b", **ratios, energy_ratio=1.1)
    text = report(tmp_path, *rows, plots=True)
    assert {file.name for file in tmp_path.iterdir()} == {"one.png", "two.png", "summary.md"}
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert "0.800 [0.700, 0.900]" in text and (tmp_path / "summary.md").read_text() == text


@pytest.mark.parametrize("longest", [1, 2, 3, 10, 15])
def test_positions_in_the_draft_are_whole_numbers_on_the_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    ticks: list[str] = []

    def look(self: object, _: object, **__: object) -> None:
        self.canvas.draw()  # type: ignore[attr-defined]
        axis = self.axes[1]  # type: ignore[attr-defined]
        low, high = axis.get_xlim()
        ticks.extend(t.get_text() for t in axis.get_xticklabels() if low <= t.get_position()[0] <= high)

    monkeypatch.setattr(figure, "savefig", look)
    rows = [row("one", "a", latency_ratio=0.8, accept_by_position=[0.9] * longest)]
    report_sweeps.plot_grid("one", rows, tmp_path / "one.png")
    assert len(ticks) >= 2 and all(tick.isdigit() and 1 <= int(tick) <= longest + 1 for tick in ticks)


def test_no_plots_when_not_asked_for(tmp_path: Path) -> None:
    report(tmp_path, row("one", "a", latency_ratio=0.8))
    assert not list(tmp_path.glob("*.png"))


def test_a_missing_value_is_a_dash_and_simulated_power_is_called_so(tmp_path: Path) -> None:
    energy = {"energy_joule_per_request": 2.0, "power_source": "replay", "power_simulated": True}
    text = report(tmp_path, row("one", "a", **energy))
    assert "replay, simulated" in text and "| –" in text and "None" not in text
