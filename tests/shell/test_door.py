"""What every door promises: flags in full, in both spellings, 2 for wrong ones, no traceback at its end."""

from __future__ import annotations

import argparse
import ast
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgebench.shell.door import Parser, above, at_least, between, spellings
from tests.doors import call, command
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
DOORS = sorted([*ROOT.glob("*.py"), *ROOT.glob("companions/*.py")])


def name(path: Path) -> str:
    return path.name


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from parsers(command)


def parser_of(door: Path) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = runpy.run_path(str(door))["build_parser"]()
    return parser


@pytest.mark.parametrize("door", DOORS, ids=name)
def test_every_door_reads_its_flags_alike(door: Path) -> None:
    for parser in parsers(parser_of(door)):
        assert isinstance(parser, Parser) and not parser.allow_abbrev, parser.prog
        assert "%%" not in parser.format_usage(), parser.prog


@pytest.fixture
def unread() -> Iterator[int]:
    """A descriptor to write to, of a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("door", DOORS, ids=name)
def test_help_without_a_reader_ends_quietly(door: Path, unread: int) -> None:
    done = call(str(door.relative_to(ROOT)), "--help", stdout=unread)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("script", ["judge_pairs.py", "companions/check_runs.py"])
def test_nor_does_the_interpreters_end_say_that_nobody_reads(script: str, unread: int) -> None:
    words = command(script, "--help")
    done = subprocess.run(words, stdout=unread, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (141, "")


def made_parser() -> Parser:
    parser = Parser()
    parser.add_argument("--max_tokens", type=at_least(1))
    parser.add_argument("--no-pilot", action="store_true")
    commands = parser.add_subparsers(dest="command")
    predict = commands.add_parser("predict")
    predict.add_argument("--output-tokens", type=at_least(1))
    wrapped = commands.add_parser("run")
    wrapped.add_argument("--idle_mw", type=float)
    wrapped.add_argument("words", nargs=argparse.REMAINDER)
    return parser


def test_both_spellings() -> None:
    args = made_parser().parse_args(["--max-tokens=3", "--no_pilot", "predict", "--output_tokens", "4"])
    assert (args.max_tokens, args.no_pilot, args.output_tokens) == (3, True, 4)
    assert made_parser().parse_args(["--max_tokens", "3"]).max_tokens == 3


def test_the_other_spelling_does_not_stand_in_the_help() -> None:
    parser = made_parser()
    parser.parse_args([])
    assert "--max-tokens" not in parser.format_help()


def test_words_of_another_command_stay_as_they_are() -> None:
    args = made_parser().parse_args(["run", "--idle-mw", "5", "--", "tool", "--idle-mw", "--no_pilot"])
    assert args.idle_mw == 5.0
    assert args.words[-3:] == ["tool", "--idle-mw", "--no_pilot"]


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "--output", "DIR"],  # was read as --output-tokens
        ["--max", "3"],
        ["--max_tokens", "0"],
        ["--max_tokens", "-2"],
        ["--max_tokens", "many"],
    ],
)
def test_a_wrong_flag_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        made_parser().parse_args(words)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["nan", "inf", "-0.1", "one"])
def test_a_number_is_finite_and_not_below_its_least(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        at_least(0, float)(text)


def test_numbers_above_and_between() -> None:
    assert above(0)("0.5") == 0.5 and between(1, 10)("10") == 10
    for kind, text in ((above(0), "0"), (above(0), "inf"), (between(1, 10), "11"), (between(1, 10), "0")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"{text} must be"):
            kind(text)


def test_spellings_of_a_mixed_name() -> None:
    assert spellings("--a-b_c") == ["--a_b_c", "--a-b-c"]


def run_main(body: str, **streams: object) -> subprocess.CompletedProcess[str]:
    """A door whose main is `body`."""
    code = f"import sys\nfrom edgebench.shell.door import open_door\ndef main():\n{body}\nopen_door(main)\n"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, timeout=120, **streams)  # type: ignore[call-overload]


def test_results_that_cannot_be_written_are_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = run_main("    print('result')\n    return 0", stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (
        1,
        "error: cannot write standard output: No space left on device\n",
    )


def test_a_door_goes_on_when_nobody_reads_its_messages(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    body = f"""
    for number in range(3):
        print("step", number, file=sys.stderr, flush=True)
    open({str(tmp_path / "done")!r}, "w").close()
    return 0"""
    done = run_main(body, stderr=writing)
    os.close(writing)
    assert done.returncode == 0
    assert (tmp_path / "done").exists()


def test_without_a_reader_a_door_ends_through_its_finally(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    body = f"""
    try:
        while True:
            print("line")
    except OSError:
        return 3  # what doors say of a file that cannot be written
    finally:
        open({str(tmp_path / "done")!r}, "w").close()"""
    done = run_main(body, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
    assert (tmp_path / "done").exists()


# --- Ctrl-C

FIRST_LINES = """
import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while the rest is read: no traceback
"""
# Imported by the interpreter before the door: Ctrl-C comes as soon as a module of that name is looked for.
CTRL_C_AT = """
import os, signal, sys
sent = []
def look(event, args):
    if event == "import" and args[0] == os.environ["CTRL_C_AT"] and not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(look)
"""


@pytest.mark.parametrize("door", DOORS, ids=name)
def test_every_door_begins_with_the_answer_to_ctrl_c(door: Path) -> None:
    text = door.read_text(encoding="utf-8")
    head = text.index(FIRST_LINES)
    statements = [node for node in ast.parse(text[:head]).body if not isinstance(node, ast.Expr)]
    assert not [node for node in statements if getattr(node, "module", "") != "__future__"]


def ended_at(moment: str, words: list[str | Path], folder: Path, shell_prefix: str = "") -> tuple[int, str]:
    """What a command of a door comes to, as a shell says it, where Ctrl-C comes at the import of `moment`."""
    (folder / "sitecustomize.py").write_text(CTRL_C_AT)
    environment = {**os.environ, "PYTHONPATH": str(folder), "CTRL_C_AT": moment}
    command = ["sh", "-c", f'{shell_prefix} "$@"; exit $?', "sh", sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.parametrize("moment", ["argparse", "edgebench.judging.answers"])
def test_ctrl_c_while_a_door_is_being_read(moment: str, tmp_path: Path) -> None:
    assert ended_at(moment, ["judge_pairs.py", "--help"], tmp_path) == (130, "")


def test_ctrl_c_while_a_door_reads_its_numeric_rooms(tmp_path: Path) -> None:
    files: list[str | Path] = ["--runs", "tests/golden/runs.jsonl", "--out", tmp_path / "analysis.json"]
    words = ["companions/analyze_levels.py", *files]
    assert ended_at("numpy", words, tmp_path) == (130, "")


def test_a_door_in_the_background_is_not_ended_by_the_ctrl_c_of_others(tmp_path: Path) -> None:
    code, said = ended_at("argparse", ["companions/check_runs.py", "--help"], tmp_path, 'trap "" INT;')
    assert (code, said) == (0, "")


def test_ctrl_c_that_main_does_not_answer_is_130_through_every_finally(tmp_path: Path) -> None:
    body = f"""
    import signal
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        open({str(tmp_path / "done")!r}, "w").close()"""
    done = run_main(body, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (130, "")
    assert (tmp_path / "done").exists()


def test_an_ending_signal_outside_of_the_block_that_answers_it() -> None:
    body = """
    import signal
    from edgebench.shell.signals import catch_ending_signals
    catch_ending_signals()
    signal.raise_signal(signal.SIGTERM)"""
    done = run_main(body, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (143, "")
