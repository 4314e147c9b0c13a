"""judge_pairs.py --soft: verdicts by probability, from the request to the scores, on made judges."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

import judge_pairs
from edgebench.judging.graded import graded_pairs
from edgebench.judging.soft import read_line
from edgebench.judging.verdict import parse_verdict
from edgebench.records.judgment import JournalLine, as_line, line_from_dict, read_journal
from edgebench.stats.preference import preferred_share
from tests.fakes.judge_stub import JudgeStub, leaning

TIES = 0.2


class Desk:
    """Questions and answers of two levels; the QUALITY of P is above that of L0 by what `better` says."""

    def __init__(self, folder: Path, better: list[float]) -> None:
        self.out = folder / "scores.csv"
        self.flags = ["--questions", str(folder / "q.jsonl"), "--runs_root", str(folder / "runs.jsonl")]
        self.flags += ["--model", "made", "--out", str(self.out), "--backoff_s", "0.01"]
        questions = [{"question_id": 81 + n, "turns": [f"Question {n}?"]} for n, _ in enumerate(better)]
        runs = [
            {
                "id": 81 + n,
                "model_id": "m",
                "level": level,
                "output_text": f"Answer {level} {n} QUALITY={quality}",
            }
            for n, by in enumerate(better)
            for level, quality in (("L0", 5.0), ("P", 5.0 + by))
        ]
        for name, records in (("q.jsonl", questions), ("runs.jsonl", runs)):
            (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))

    def judge(self, stub: JudgeStub | None, *flags: str) -> int:
        where = ["--api_url", stub.url] if stub else []
        return judge_pairs.main([*self.flags, *where, *flags])

    def winners(self) -> list[str]:
        return [row["winner"] for row in csv.DictReader(self.out.open(newline=""))]

    def journal(self) -> list[JournalLine]:
        return read_journal(self.out.with_suffix(".journal.jsonl")).lines


@pytest.mark.parametrize("form", ["chat", "legacy"])
def test_a_leaning_judges_preference_comes_out_free_of_the_lean(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    better = [1.0, -1.0, 0.1, 2.0]
    desk = Desk(tmp_path, better)
    with JudgeStub(chances=leaning(3.0, TIES), form=form) as stub:
        assert desk.judge(stub, "--soft") == 0
    assert stub.requests == 8
    asked = stub.bodies[0]
    assert (asked["max_tokens"], asked["logprobs"], asked["top_logprobs"]) == (1, True, 20)
    # L0 is the left level. Counted, every pair were a tie: the lean decides each order.
    assert desk.winners() == ["B", "A", "Tie", "B"]
    graded = graded_pairs(desk.journal())
    in_order = sorted(graded.pairs, key=lambda pair: pair.task_id)
    assert [pair.share for pair in in_order] == pytest.approx(
        [preferred_share(-by, TIES) for by in better], abs=1e-4
    )
    assert graded.lean.lean_log_odds_mean == pytest.approx(3.0, abs=1e-3) and graded.counted_only == 0
    said = capsys.readouterr()
    assert "lean to the first slot taken out: +3.00 in log odds" in said.out
    assert "graded (n)" in said.out and "both orders agree on 0 of 4 pairs" in said.out
    assert all(len(line) <= 80 for line in said.out.splitlines())


def test_the_margin_decides_what_is_a_tie(tmp_path: Path) -> None:
    desk = Desk(tmp_path, [0.5, -2.0])
    with JudgeStub(chances=leaning(1.0, TIES)) as stub:
        assert desk.judge(stub, "--soft", "--tie_margin", "0") == 0
        assert desk.winners() == ["B", "A"]
        assert desk.judge(None, "--soft", "--tie_margin", "0.2", "--reparse") == 0
        assert desk.winners() == ["Tie", "A"]
    assert stub.requests == 4  # nothing is asked twice


def test_the_journal_keeps_what_was_heard_and_is_read_back(tmp_path: Path) -> None:
    desk = Desk(tmp_path, [1.0])
    with JudgeStub(chances=leaning(0.0, TIES)) as stub:
        desk.judge(stub, "--soft", "--concurrency", "1")
    one, other = desk.journal()
    assert one.chances and other.chances
    assert (one.chances.a, one.chances.tie) == pytest.approx((other.chances.b, other.chances.tie), abs=1e-5)
    assert one.logprobs and {token for token, _ in one.logprobs} == {"A", "B", "Tie", "The", " I"}
    assert one.verdict == "B" and one.winner_side == "right" and one.raw_reply == "B"
    assert line_from_dict(json.loads(as_line(one))) == one


def test_a_resumed_run_asks_only_what_is_lacking(tmp_path: Path) -> None:
    desk = Desk(tmp_path, [1.0, 1.0, -1.0])
    with JudgeStub(chances=leaning(2.0, TIES)) as stub:
        assert desk.judge(stub, "--soft", "--daily_limit", "4") == 3
        assert desk.judge(stub, "--soft", "--concurrency", "1") == 0
        assert stub.requests == 6 and desk.winners() == ["B", "B", "A"]


def test_stored_probabilities_are_read_anew(tmp_path: Path) -> None:
    desk = Desk(tmp_path, [1.0])
    with JudgeStub(chances=leaning(0.5, TIES)) as stub:
        desk.judge(stub, "--soft")
    stale = [line.to_dict() | {"chance_a": 0.5, "chance_b": 0.5, "verdict": None} for line in desk.journal()]
    desk.out.with_suffix(".journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in stale))
    assert desk.judge(None, "--soft", "--reparse") == 0
    assert desk.winners() == ["B"] and desk.journal()[-1].verdict in ("A", "B")
    assert graded_pairs(desk.journal()).pairs[0].share == pytest.approx(preferred_share(-1.0, TIES), abs=1e-4)


@pytest.mark.parametrize(
    "how", [{}, {"refuses": ["logprobs"]}, {"refuses": ["top_logprobs"]}], ids=["silent", "refused", "no_top"]
)
def test_an_endpoint_without_log_probabilities_is_counted_and_says_so_at_once(
    tmp_path: Path, how: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(tmp_path, [1.0, -1.0, 0.0])
    with JudgeStub("honest", **how) as stub:
        assert desk.judge(stub, "--soft", "--concurrency", "1") == 0
    assert desk.winners() == ["B", "A", "Tie"]
    said = capsys.readouterr()
    assert said.err.count("gives no log probabilities") == 1
    assert "no pair has probabilities in both orders: all verdicts are counted" in said.out
    assert stub.requests <= 6 + 2 and not any(line.chances for line in desk.journal())
    assert stub.bodies[-1]["max_tokens"] == 256 and "logprobs" not in stub.bodies[-1]


def test_a_judge_that_thinks_first_is_asked_in_words(tmp_path: Path) -> None:
    """Its one token is a thought, and nothing is said: no fault of the endpoint's."""
    desk = Desk(tmp_path, [1.0, -1.0])
    with JudgeStub("honest", thinks_below=8) as stub:
        assert desk.judge(stub, "--soft") == 0
    assert desk.winners() == ["B", "A"]


def test_an_endpoint_that_lists_fewer_is_asked_for_fewer(tmp_path: Path) -> None:
    desk = Desk(tmp_path, [1.0])
    with JudgeStub(chances=leaning(1.0, TIES), most_logprobs=5) as stub:
        assert desk.judge(stub, "--soft", "--concurrency", "1") == 0
    assert [body["top_logprobs"] for body in stub.bodies] == [20, 5, 5]
    assert desk.winners() == ["B"] and all(line.chances for line in desk.journal())


def test_a_word_that_is_not_listed_makes_the_preference_smaller_never_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(tmp_path, [6.0])
    with JudgeStub(chances=lambda *answers: leaning(0.0, TIES)(*answers)[:2]) as stub:
        assert desk.judge(stub, "--soft") == 0
    (pair,) = graded_pairs(desk.journal()).pairs
    assert pair.preference and pair.preference.bounded
    assert preferred_share(-6.0, TIES) <= pair.share < 0.5 and desk.winners() == ["B"]
    assert "1 pair with a word that was not listed" in capsys.readouterr().out


def test_a_judge_that_never_begins_with_one_of_the_words_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(tmp_path, [1.0] * 6)
    with JudgeStub(chances=lambda *_: [("The", 0.6), ("I", 0.3)]) as stub:
        assert desk.judge(stub, "--soft", "--concurrency", "1") == 1
    said = capsys.readouterr().err
    assert "begin with none of A, B and Tie (likeliest: 'The', 'I')" in said and "--soft" in said
    assert stub.requests <= 4 and not desk.out.exists()


def test_soft_and_counted_verdicts_live_in_one_journal(tmp_path: Path) -> None:
    desk = Desk(tmp_path, [1.0, -1.0])
    with JudgeStub("always_a", chances=leaning(2.0, TIES)) as stub:
        assert desk.judge(stub) == 0 and desk.winners() == ["Tie", "Tie"]
        assert desk.judge(stub, "--soft") == 0 and desk.winners() == ["B", "A"]
        assert stub.requests == 8
        # The last command's way of asking counts for whoever reads the journal; nothing is asked again.
        assert len(graded_pairs(desk.journal()).pairs) == 2
        assert desk.judge(stub) == 0 and desk.winners() == ["Tie", "Tie"]
        found = graded_pairs(desk.journal())
        assert (len(found.pairs), found.counted_only) == (0, 2) and stub.requests == 8


def test_rules_are_graded_as_they_are_counted(tmp_path: Path) -> None:
    desk = Desk(tmp_path, [1.0, 1.0])
    runs = (tmp_path / "runs.jsonl").read_text().replace("Answer L0 0 QUALITY=5.0", "")
    (tmp_path / "runs.jsonl").write_text(runs)
    with JudgeStub(chances=leaning(0.0, TIES)) as stub:
        assert desk.judge(stub, "--soft") == 0
    shares = {pair.task_id: pair.share for pair in graded_pairs(desk.journal()).pairs}
    assert (
        stub.requests == 2
        and shares["81"] == 0.0
        and shares["82"] == pytest.approx(preferred_share(-1.0, TIES), abs=1e-4)
    )


def test_both_orders_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        Desk(tmp_path, [1.0]).judge(None, "--soft", "--single_order", "--dry_run")
    assert stopped.value.code == 2 and "both orders" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        Desk(tmp_path, [1.0]).judge(None, "--soft", "--tie_margin", "0.5", "--dry_run")


def test_a_line_without_log_probabilities_is_read_by_its_words() -> None:
    line = JournalLine(left_level="L0", right_level="P", order="right_first", raw_reply="Verdict: A")
    assert read_line(line, parse_verdict).winner_side == "right"
    assert (
        read_line(JournalLine(raw_reply="Verdict: A", finish_reason="length"), parse_verdict).verdict is None
    )
    listed = [["B", math.log(0.7)], ["A", math.log(0.2)]]
    found = read_line(JournalLine(raw_reply="B", logprobs=listed, order="left_first"), parse_verdict)
    assert (
        found.verdict == "B" and found.chances_bounded == ["Tie"] and found.chance_tie == pytest.approx(0.1)
    )
