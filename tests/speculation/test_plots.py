"""The plots of a sweep: what the eye can part, whole numbers on the axis, words where there is nothing."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from edgebench.errors import UserError
from edgebench.speculation.plots import MOST_LINES, acceptance_figure, plot_folders, ratios_figure
from edgebench.speculation.report import write_report
from edgebench.speculation.summary import Summary, summarize
from tests.fakes.sweep_files import cell, write

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def made(tmp_path: Path, **cells: dict[str, Any]) -> Summary:
    return summarize([write(tmp_path / "g", **cells)])


def many(tmp_path: Path) -> Summary:
    """Two workloads, eight thresholds each."""
    cells = {
        f"run{place}_t{tokens}": cell(
            "fixed", [[80.0 + place] * 4], plain=[[100.0] * 4], threshold=threshold, max_tokens=tokens
        )
        for tokens in (8, 16)
        for place, threshold in enumerate(THRESHOLDS)
    }
    return made(tmp_path, **cells)


def test_two_plots_per_folder_and_markdown(tmp_path: Path) -> None:
    for grid in ("one", "two"):
        document = cell("fixed", [[80.0] * 4], plain=[[100.0] * 4])
        document["sweep"]["grid"] = grid
        write(tmp_path / "in" / grid, a=document)
    out = tmp_path / "out"
    out.mkdir()
    text = write_report(summarize([tmp_path / "in"]), out, plots=True)
    assert {file.name for file in out.iterdir()} == {
        "summary.md", "one.png", "one_acceptance.png", "two.png", "two_acceptance.png",
    }  # fmt: skip
    assert (out / "one.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "summary.md").read_text() == text


def test_no_plots_when_not_asked_for(tmp_path: Path) -> None:
    write_report(made(tmp_path, a=cell("fixed", [[80.0] * 4])), tmp_path, plots=False)
    assert not list(tmp_path.glob("*.png"))


def test_without_matplotlib_the_flag_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "edgebench.speculation.plots", None)
    with pytest.raises(UserError, match="--no_plots"):
        write_report(made(tmp_path, a=cell("fixed", [[80.0] * 4])), tmp_path, plots=True)


def test_a_folder_with_nothing_to_show_gets_no_empty_axes(tmp_path: Path) -> None:
    summary = made(tmp_path, plain=cell("plain", [[80.0] * 4]))
    assert plot_folders(summary.compared, tmp_path) == []


def test_where_there_is_no_energy_there_is_no_axis_for_it_and_the_title_says_so(tmp_path: Path) -> None:
    plain = cell("plain", [[100.0] * 4] * 3, joules=[3.0, 3.0, 3.1])
    with_energy = made(tmp_path / "a", a=cell("fixed", [[80.0] * 4] * 3, joules=[1.0, 1.1, 1.2]), plain=plain)
    figure = ratios_figure("g", with_energy.compared)
    assert [panel.get_title() for panel in figure.axes] == ["", "power is simulated"]
    without = made(tmp_path / "b", a=cell("fixed", [[80.0] * 4], plain=[[100.0] * 4]))
    figure = ratios_figure("g", without.compared)
    assert len(figure.axes) == 1 and "no energy was measured" in str(figure.get_suptitle())


def test_a_panel_never_holds_more_lines_than_the_eye_parts(tmp_path: Path) -> None:
    figure = acceptance_figure("g", many(tmp_path).compared)
    assert len(figure.axes) == 4  # two workloads, eight treatments each
    for panel in figure.axes:
        lines = panel.get_lines()
        assert 0 < len(lines) <= MOST_LINES
        assert len({(line.get_color(), str(line._dash_pattern), line.get_marker()) for line in lines}) == len(  # type: ignore[attr-defined]
            lines
        )
        assert panel.get_legend() is None  # it stands below the panels, once
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == len(set(labels)) == len(THRESHOLDS)


def test_a_treatment_looks_the_same_in_every_panel_and_like_no_other(tmp_path: Path) -> None:
    styles: dict[str, set[str]] = {}
    for panel in acceptance_figure("g", many(tmp_path).compared).axes:
        for line in panel.get_lines():
            look = f"{line.get_color()} {line.get_linestyle()} {line.get_marker()}"
            styles.setdefault(str(line.get_label()), set()).add(look)
    assert all(len(found) == 1 for found in styles.values())
    assert len(set().union(*styles.values())) == len(THRESHOLDS)


def test_the_legend_lies_off_the_data(tmp_path: Path) -> None:
    figure = acceptance_figure("g", many(tmp_path).compared)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    box = figure.legends[0].get_window_extent()
    assert not any(box.overlaps(panel.get_tightbbox()) for panel in figure.axes)  # with their labels


@pytest.mark.parametrize("longest", [1, 2, 3, 10, 15])
def test_positions_in_the_draft_are_whole_numbers_on_the_axis(tmp_path: Path, longest: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    mode = {"accept_by_position": [0.9] * longest}
    figure = acceptance_figure("g", made(tmp_path, a=cell("fixed", [[80.0] * 4], mode=mode)).compared)
    FigureCanvasAgg(figure).draw()
    (axis,) = figure.axes
    low, high = axis.get_xlim()
    ticks = [t.get_text() for t in axis.get_xticklabels() if low <= t.get_position()[0] <= high]
    assert len(ticks) >= 2 and all(tick.isdigit() and 1 <= int(tick) <= longest + 1 for tick in ticks)


def test_a_missing_value_is_a_dash_and_simulated_power_is_called_so(tmp_path: Path) -> None:
    text = write_report(made(tmp_path, a=cell("fixed", [[80.0] * 4], joules=[2.0])), tmp_path, plots=False)
    assert "replay, simulated" in text and "| –" in text and "None" not in text
