"""The laptop's summary and the analysis print one win rate and one lean of the judge."""

import json
from pathlib import Path

import pytest

from edgebench.judging.summary import counting_lines, measure_lean, scores_of_levels
from edgebench.records.judgment import read_journal, read_scores
from edgebench.stats.win_rate import win_rate_of
from tests.fakes import made_campaign

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
ANALYSIS = json.loads((GOLDEN / "chain" / "campaign.analysis.json").read_text())


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the golden analysis was made from."""
    levels = ["--levels", "L0", "L3", "P", "--tasks", "4", "--repeats", "2", "--power", "replay"]
    words = ["made_campaign.py", str(tmp_path), "--models", "one-1b", "two-3b", *levels]  # as test_goldens
    monkeypatch.setattr("sys.argv", words)
    made_campaign.main()
    return tmp_path


def test_the_win_rates_are_those_of_the_analysis(campaign: Path) -> None:
    rows = read_scores(campaign / "scores_mtbench.csv").rows
    compared = 0
    for (model, level), scores in scores_of_levels(rows).items():
        for against in {other for _, other, _ in scores}:
            found = win_rate_of((task, score) for task, other, score in scores if other == against)
            row = next(
                row
                for row in ANALYSIS["win_rates"]
                if (row["model_id"], row["level"], row["against"]) == (model, level, against)
            )
            assert found is not None and found.rate == pytest.approx(row["win_rate"], abs=1e-8)
            assert (found.tasks, found.won, found.tied, found.lost) == tuple(
                row[name] for name in ("n_tasks", "wins", "ties", "losses")
            )
            compared += 1
    assert compared == len(ANALYSIS["win_rates"]) > 0


def test_the_lean_is_that_of_the_analysis(campaign: Path) -> None:
    rows = read_scores(campaign / "scores_mtbench.csv").rows
    lines = counting_lines(read_journal(campaign / "scores_mtbench.journal.jsonl").lines, rows)
    lean = measure_lean(lines)
    row = next(row for row in ANALYSIS["position_bias"] if row["model_id"] is None)
    assert (lean.pairs, lean.first_both, lean.second_both) == (
        row["pairs"],
        row["first_first"],
        row["second_second"],
    )
    assert lean.first_slot_score == pytest.approx(row["first_slot_score"], abs=1e-8)
    assert lean.p_value == pytest.approx(row["mcnemar_p"], abs=1e-8)
