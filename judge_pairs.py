#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "tqdm>=4.66,<5"]
# ///
"""A judge model compares the answers of prompt levels, in pairs, in both orders.

Reads the questions and every run record under --runs_root; the judge sees the
original question, never the level's own prompt. Writes --out, a row per pair
judged in both orders (winner A: the left level, B: the right one, or Tie), and
beside it the journal, one fsynced line per reply: the same command again asks
the rest.
Exit: 0 all judged, 1 something failed or stayed unparseable, 2 usage, 3 quota
or --daily_limit used up.

Example:
    export MY_JUDGE_KEY=...
    python judge_pairs.py --questions data/questionset.jsonl.txt \\
        --runs_root results --model gpt-4o \\
        --api_url https://api.chatanywhere.tech/v1/chat/completions \\
        --api_key_env MY_JUDGE_KEY \\
        --out results/scores_mtbench.csv
    # calls, tokens, money, days
    python judge_pairs.py ... --dry_run --price_in 2.5 --price_out 10
    # no key: a model on this machine
    python judge_pairs.py ... --serve_model models/judge.gguf
    # how much it prefers one, free of its lean to a slot
    python judge_pairs.py ... --soft
"""

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while the rest is read: no traceback

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgebench.errors import UserError
from edgebench.judging.answers import load_answers, load_questions
from edgebench.judging.endpoint import Address, Endpoint
from edgebench.judging.games import Asking, Game, Pairing, make_games, plan_comparisons, request_body
from edgebench.judging.journal import Journal
from edgebench.judging.local_server import Served, serving
from edgebench.judging.pool import UNUSABLE, Outcome, Patience, Pool, Prices, told
from edgebench.judging.scores import lacking_lines, plan_lines, score_rows
from edgebench.judging.summary import summary_lines
from edgebench.judging.verdict import parse_verdict
from edgebench.records.jsonl import reason_of
from edgebench.records.judgment import journal_beside, write_scores
from edgebench.shell.calls import own_call
from edgebench.shell.door import Parser, at_least, open_door
from edgebench.shell.progress import advise
from edgebench.shell.signals import Interrupted, ending_signals

Args = argparse.Namespace


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, formatter_class=layout)
    count, positive, amount = at_least(0), at_least(1), at_least(0, float)
    add = parser.add_argument_group("what to judge").add_argument
    add(
        "--questions",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON lines: question_id, turns, reference",
    )
    add(
        "--runs_root",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder of run records, or one file of them",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="CSV",
        help="scores to write; the journal stands beside them",
    )
    add("--pairs", default="all", help="all (default), baseline, adjacent, or a list: L0_vs_P,L1_vs_P")
    add("--baseline", default="L0", metavar="LEVEL", help="the others are compared with it (default: L0)")
    add("--levels", type=lambda text: text.split(","), help="in order: L0,L1,P (default: all, sorted)")
    add("--repeats", choices=["first", "all"], default="first", help="the first answers, or all distinct")
    add("--single_order", action="store_true", help="one random order only: half the price, a lean stays in")
    add("--seed", type=int, default=0, help="for --single_order (default: 0)")
    add = parser.add_argument_group("who judges").add_argument
    add("--model", required=True, metavar="NAME", help="judge model to ask for; the column judge_model")
    add("--api_url", metavar="URL", help="OpenAI-compatible endpoint: base URL or full URL")
    add("--api_key_env", metavar="NAME", help="environment variable that holds the key")
    add("--api_key_header", metavar="NAME", help="header for the bare key (Azure: api-key)")
    add("--insecure", action="store_true", help="let the key travel over plain http to another machine")
    add("--serve_model", type=Path, metavar="GGUF", help="a model on this machine judges; no --api_url")
    add("--n_ctx", type=positive, metavar="N", help="its context in tokens (default: what the texts need)")
    add("--n_gpu_layers", type=int, default=-1, metavar="N", help="its layers on the GPU (default: -1, all)")
    add = parser.add_argument_group("how it is asked").add_argument
    add(
        "--soft", action="store_true", help="log probabilities of one token: graded, free of the judge's lean"
    )
    margin = "with --soft: a preference this near to 0.5 is a Tie (default: 0.1)"
    add("--tie_margin", type=share, metavar="SHARE", default=0.1, help=margin)
    add("--structured_output", action="store_true", help="ask for JSON by schema, text where that is refused")
    add(
        "--max_tokens",
        type=positive,
        default=256,
        metavar="N",
        help="of a reply; more if it thinks (default: 256)",
    )
    add("--reasks", type=count, default=2, metavar="N", help="after an unparseable reply (default: 2)")
    add("--reparse", action="store_true", help="read the stored replies anew, ask nothing")
    add = parser.add_argument_group("how much, and how long").add_argument
    add("--dry_run", action="store_true", help="print the plan and stop")
    add("--price_in", type=amount, metavar="MONEY", help="price of a million input tokens")
    add("--price_out", type=amount, metavar="MONEY", help="price of a million output tokens")
    add("--daily_limit", type=positive, metavar="N", help="at most N requests per UTC day, then exit code 3")
    add("--concurrency", type=positive, default=4, metavar="N", help="requests in flight (default: 4)")
    add(
        "--timeout_s",
        type=at_least(0.001, float),
        default=120.0,
        metavar="S",
        help="to wait for a reply (default: 120)",
    )
    add(
        "--max_attempts",
        type=positive,
        default=12,
        metavar="N",
        help="until a call is given up (default: 12)",
    )
    add("--backoff_s", type=amount, default=0.5, metavar="S", help="first wait, then doubled (default: 0.5)")
    add(
        "--max_outage_s",
        type=amount,
        default=900.0,
        metavar="S",
        help="stop after so long unanswered (default: 900)",
    )
    add(
        "--ask_args",
        default="",
        metavar="FLAGS",
        help="further flags in one string, as older versions had them",
    )
    return parser


def share(text: str) -> float:
    """A number from 0 to 0.5, as a flag gives it."""
    value = at_least(0, float)(text)
    if value >= 0.5:
        raise argparse.ArgumentTypeError(f"must be smaller than 0.5, not {text}")
    return float(value)


def judge(args: Args, argv: Sequence[str]) -> int:
    """The step: plan, ask what the journal lacks, reconcile the orders, write the scores. The exit code."""
    left_out: Counter[str] = Counter()
    questions = load_questions(args.questions)
    answers = load_answers(args.runs_root, questions, left_out)
    comparisons = plan_comparisons(pairing_of(args), answers, questions, left_out)
    asking = asking_of(args)
    games = [game for it in comparisons for game in make_games(it, asking)]
    journal = Journal(journal_beside(args.out))
    if args.dry_run:
        journal.load()
        print_plan(args, games, journal, left_out)
        return 0
    with journal.held():
        if args.reparse:
            journal.reread(parse_verdict)
        todo = print_plan(args, games, journal, left_out)
        outcome = ask(args, asking, todo, journal) if todo and not args.reparse else Outcome()
        complain(told(outcome))
        if outcome.code == UNUSABLE and not journal.side:  # nothing came of it: nothing is written
            return 1
        journal.settle(games, asking.model)
        return report(args, games, journal, outcome, argv)


def print_plan(args: Args, games: Sequence[Game], journal: Journal, left_out: Counter[str]) -> list[Game]:
    """Print what there is to ask, and return it."""
    todo = journal.lacking(games, args.reasks)
    for line in plan_lines(games, todo, asking_of(args), prices_of(args), args.daily_limit, left_out):
        print(line)
    sys.stdout.flush()  # before the progress bar
    return todo


def ask(args: Args, asking: Asking, todo: Sequence[Game], journal: Journal) -> Outcome:
    """Ask the games; replies go into the journal."""
    budget = None if args.daily_limit is None else max(0, args.daily_limit - journal.sent_today())
    patience = Patience(
        concurrency=args.concurrency,
        max_attempts=args.max_attempts,
        backoff_s=args.backoff_s,
        max_outage_s=args.max_outage_s,
        reasks=args.reasks,
        budget=budget,
    )
    with address_of(args, asking, todo) as address:
        pool = Pool(Endpoint(address), journal, asking, patience, parse_verdict, prices_of(args))
        return pool.ask_all(todo)


@contextmanager
def address_of(args: Args, asking: Asking, todo: Sequence[Game]) -> Iterator[Address]:
    """Where to ask: the user's endpoint, or a server of our own for as long as the block runs."""
    if args.serve_model:
        served = Served(args.serve_model, args.n_ctx, args.n_gpu_layers)
        bodies = [request_body(game, asking, fence="") for game in todo]
        with serving(served, bodies, args.api_key_env, args.timeout_s, args.concurrency) as address:
            yield address
        return
    yield Address(
        api_url=args.api_url,
        key_variable=args.api_key_env,
        key_header=args.api_key_header,
        insecure=args.insecure,
        timeout_s=args.timeout_s,
        connections=args.concurrency,
    )


def report(args: Args, games: Sequence[Game], journal: Journal, outcome: Outcome, argv: Sequence[str]) -> int:
    """Write the scores, print what they say, and how to go on where something is missing. The exit code."""
    chances = journal.chances if args.soft else {}
    rows = score_rows(games, journal.side, args.model, chances, args.tie_margin)
    try:
        write_scores(args.out, rows)
    except OSError as problem:
        raise UserError(f"cannot write {args.out}: {reason_of(problem)} (--out)") from problem
    margin = args.tie_margin if args.soft else None
    for line in summary_lines(rows, journal.lines, args.baseline, prices_of(args), margin):
        print(line)
    sys.stdout.flush()
    missing = lacking_lines(games, journal, outcome, args.reasks, own_call(argv, "python"))
    complain(missing)
    if outcome.code > 1 and outcome.code != UNUSABLE:
        return outcome.code
    return 1 if missing else 0


def complain(lines: Sequence[str]) -> None:
    """Lines for people, beside the results."""
    for line in lines:
        if line.startswith("go on with:"):
            advise(line)
        else:
            print(line, file=sys.stderr)


def pairing_of(args: Args) -> Pairing:
    """Which answers are compared."""
    return Pairing(args.pairs, args.baseline, tuple(args.levels or ()), args.repeats == "all")


def asking_of(args: Args) -> Asking:
    """How the judge is asked."""
    return Asking(
        model=args.model,
        max_tokens=args.max_tokens,
        structured_output=args.structured_output,
        served_model=args.serve_model and args.serve_model.name,
        single_order=args.single_order,
        seed=args.seed,
        soft=args.soft,
    )


def prices_of(args: Args) -> Prices:
    """What tokens cost; a price of zero is none."""
    return Prices(args.price_in or None, args.price_out or None)


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.ask_args:
        args = parser.parse_args([*argv, *shlex.split(args.ask_args)])
    if not (args.api_url or args.serve_model or args.dry_run or args.reparse):
        parser.error("one of --api_url and --serve_model is needed")
    if args.soft and args.single_order:
        parser.error("--soft takes the lean out by asking in both orders: leave --single_order out")
    try:
        with ending_signals():
            return judge(args, argv)
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return problem.exit_code
    except Interrupted as interrupted:
        print("stopped before anything was asked", file=sys.stderr)
        return interrupted.exit_code


if __name__ == "__main__":
    open_door(main)
