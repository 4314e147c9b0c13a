"""judging/pool.py over real HTTP: what is asked how often, and when the run stops."""

import stat
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from edgebench.judging.answers import Answer
from edgebench.judging.endpoint import Address, Endpoint, EndpointError
from edgebench.judging.games import Asking, Comparison, Game, make_games
from edgebench.judging.journal import Journal
from edgebench.judging.pool import UNUSABLE, USED_UP, Outcome, Patience, Pool, cut_remarks
from edgebench.judging.verdict import parse_verdict
from tests.fakes.scripted_endpoint import Script, ScriptedEndpoint, ok, said
from tests.waiting import PATIENCE_S, comes_to_an_end

ASKING = Asking("gpt-4o")
QUICK = 0.02  # first backoff in seconds


def games_of(comparisons: int, tasks: int = 1000, text: str = "answer") -> list[Game]:
    found = []
    for number in range(comparisons):
        left, right = Answer(f"{text} {number} L", False), Answer(f"{text} {number} R", False)
        task = f"{81 + number % tasks}"
        it = Comparison(task, "w", "m", 1, "L0", "P", 1 + number, left, right, f"question {task}", "")
        found += make_games(it, ASKING)
    return found


class Desk:
    """A journal, and a pool over it whenever it is asked."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "s.journal.jsonl")

    def ask(self, script: Script, games: list[Game], **patience: Any) -> tuple[Outcome, ScriptedEndpoint]:
        with ScriptedEndpoint(script) as endpoint, self.journal.held():
            bounds = Patience(**{"backoff_s": QUICK, **patience})
            address = Address(endpoint.url, connections=bounds.concurrency)
            pool = Pool(Endpoint(address), self.journal, ASKING, bounds, parse_verdict)
            outcome = pool.ask_all(self.journal.lacking(games, bounds.reasks))
            self.judged = sum(game.key in self.journal.side for game in games)
            self.lines = list(self.journal.lines)
        return outcome, endpoint


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# --- hopeless from the start


HOPELESS: dict[str, tuple[Script, str]] = {
    "no channel for the model": (
        lambda n, body: (503, {}, {"error": {"message": "无可用渠道", "code": "model_not_found"}}),
        "--model",
    ),
    "a web page": (lambda n, body: (200, {}, "<html><title>One API</title></html>"), "--api_url"),
    "code and message": (
        lambda n, body: (200, {}, {"code": 20012, "message": "Model does not exist."}),
        "--model",
    ),
    "thinking alone": (lambda n, body: ok(None, reasoning_content="A"), "--max_tokens"),
    "no room to speak": (lambda n, body: ok("", finish="length"), "--max_tokens"),
    "another API": (lambda n, body: (200, {}, {"content": [{"text": "A"}]}), "--api_url"),
    "nothing": (lambda n, body: (200, {}, ""), "--api_url"),
    "empty replies": (lambda n, body: ok(""), "--api_url"),
    "refused": (lambda n, body: (422, {}, {"detail": "Field required"}), "every request is refused"),
    "no such path": (lambda n, body: (404, {}, "<html>404</html>"), "--api_url"),
    "bad key": (lambda n, body: (401, {}, {"error": "Incorrect API key"}), "--api_key_env"),
    "flagged, all of it": (lambda n, body: (403, {}, {"error": "your input was flagged"}), "refused"),
}


@pytest.mark.parametrize("name", HOPELESS)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_hopeless_configuration_stops_after_a_few_with_the_servers_words(
    desk: Desk, name: str, concurrency: int
) -> None:
    script, words = HOPELESS[name]
    with comes_to_an_end(name):  # a run that hopes on takes as long as --max_outage_s
        outcome, endpoint = desk.ask(script, games_of(12), concurrency=concurrency)
    assert outcome.code == UNUSABLE and words in outcome.reason
    assert endpoint.requests <= 3 * max(concurrency, 2)
    assert desk.judged == 0


def test_a_model_that_thinks_too_long_after_refusals_of_parameters(desk: Desk) -> None:
    def starved(n: int, body: dict[str, Any]) -> Any:
        for name in ("max_tokens", "temperature"):
            if name in body:
                return 400, {}, {"error": {"message": f"'{name}' is not supported with this model"}}
        return ok("", finish="length")

    outcome, endpoint = desk.ask(starved, games_of(12))
    assert outcome.code == UNUSABLE and "--max_tokens" in outcome.reason and endpoint.requests <= 12


def test_nobody_there_is_told_at_once(desk: Desk, tmp_path: Path) -> None:
    with ScriptedEndpoint(lambda n, body: ok()) as gone:
        pass
    with desk.journal.held():
        bounds = Patience(backoff_s=QUICK)
        pool = Pool(Endpoint(Address(gone.url)), desk.journal, ASKING, bounds, parse_verdict)
        outcome = pool.ask_all(games_of(12))
    assert outcome.code == UNUSABLE and "no answer" in outcome.reason and "--api_url" in outcome.reason
    assert not desk.journal.path.exists()


def test_the_same_faults_after_a_reply_are_no_end(desk: Desk) -> None:
    faults: list[Any] = [
        (503, {}, {"error": {"message": "无可用渠道", "code": "model_not_found"}}),
        (200, {}, "<html><title>Login</title></html>"),
        (200, {}, ""),
        (500, {}, "boom"),
        ok(""),
        (429, {"Retry-After": "0"}, ""),
    ]
    first_taken = threading.Event()  # the worker that got the first reply is here again

    def script(n: int, body: dict[str, Any]) -> Any:
        if n == 1:
            first_taken.wait(PATIENCE_S)
        elif n == 2:
            first_taken.set()
        return faults[n - 1] if 1 <= n <= 6 else ok()

    outcome, _ = desk.ask(script, games_of(6), concurrency=2)
    assert outcome.code == 0 and desk.judged == 12


# --- one prompt's fault


@pytest.mark.parametrize(
    "answer",
    [
        (403, {}, {"error": {"message": "your input was flagged", "code": 403}}),
        (400, {}, {"error": {"message": "filtered", "code": "content_filter"}}),
        (200, {}, said(None, finish="content_filter")),
    ],
)
def test_one_moderated_prompt_is_given_up_with_its_reason_and_the_rest_goes_on(
    desk: Desk, answer: Any
) -> None:
    def script(n: int, body: dict[str, Any]) -> Any:
        return answer if "question 82" in body["messages"][-1]["content"] else ok()

    outcome, endpoint = desk.ask(script, games_of(9, tasks=3))
    assert outcome.code == 1 and outcome.given_up.total() == 6 and desk.judged == 12
    assert endpoint.requests == 18
    given_up = [line for line in desk.lines if line.error]
    assert {line.task_id for line in given_up} == {"82"} and {line.attempts for line in given_up} == {1}


# --- quota


def test_a_quota_that_ends_midway_stops_the_run_and_keeps_what_came(desk: Desk) -> None:
    spent = (403, {}, {"error": {"message": "user quota is not enough", "code": "insufficient_user_quota"}})
    outcome, endpoint = desk.ask(lambda n, body: ok() if n < 5 else spent, games_of(12))
    assert outcome.code == USED_UP and "insufficient_user_quota" in outcome.reason
    assert desk.judged == 5 and endpoint.requests <= 9


# --- limits


class Window:
    """At most four requests in a window; more are answered with 429 and these headers."""

    def __init__(self, length_s: float, headers: dict[str, str], words: str = "Too Many Requests") -> None:
        self.length_s, self.headers, self.words = length_s, headers, words
        self.lock, self.taken = threading.Lock(), list[float]()
        self.refused = 0

    def __call__(self, n: int, body: dict[str, Any]) -> Any:
        with self.lock:
            now = time.monotonic()
            self.taken = [at for at in self.taken if now - at < self.length_s]
            if len(self.taken) >= 4:
                self.refused += 1
                return 429, self.headers, {"error": {"message": self.words}}
            self.taken.append(now)
        return ok()


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "0"},
        {"x-ratelimit-reset-requests": "1ms"},
        {"x-ratelimit-reset-requests": "1ms", "x-ratelimit-remaining-requests": "499",
         "x-ratelimit-reset-tokens": "500ms", "x-ratelimit-remaining-tokens": "0"},
        {},
    ],
)  # fmt: skip
def test_a_limit_is_no_failure_and_a_header_no_reason_to_hurry(desk: Desk, headers: dict[str, str]) -> None:
    window = Window(0.5, headers)
    outcome, _ = desk.ask(window, games_of(8), max_attempts=2, backoff_s=0.1)
    assert outcome.code == 0 and desk.judged == 16 and not outcome.given_up
    assert window.refused < 60  # the backoff grows: it was thousands, or twelve a call and then none


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_no_worker_sends_while_a_retry_after_runs(desk: Desk, form: str) -> None:
    """The endpoint is known to answer; then the three that are out are told together to wait."""
    all_out, opens_s = threading.Barrier(3), list[float]()

    def script(n: int, body: dict[str, Any]) -> Any:
        if n not in (1, 2, 3):
            return ok()
        all_out.wait(PATIENCE_S)
        until = 1 + time.time() if form == "seconds" else int(time.time()) + 2
        opens_s.append(time.monotonic() + until - time.time())
        wait = "1" if form == "seconds" else formatdate(until, usegmt=True)
        return 429, {"Retry-After": wait}, {"error": {"message": "slow down"}}

    outcome, endpoint = desk.ask(script, games_of(4), concurrency=3)
    assert outcome.code == 0 and desk.judged == 8 and endpoint.requests == 8 + 3
    assert min(endpoint.times_s[4:]) > min(opens_s) - 0.001  # a millisecond for the two clocks


def test_a_limit_that_never_ends_ends_the_run_as_a_spent_quota(desk: Desk) -> None:
    outcome, _ = desk.ask(lambda n, body: (429, {}, "slow down"), games_of(4), max_outage_s=0.5)
    assert outcome.code == USED_UP and "slow down" in outcome.reason and not outcome.given_up


# --- dialects


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "System role not supported"),
        (400, "Unsupported value: 'messages[0].role' does not support 'system' with this model."),
        (500, "Jinja Exception: System role not supported"),
        (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        (400, "Developer instruction is not enabled for models/gemma-3-27b-it"),
    ],
)
def test_a_system_role_that_is_refused_is_folded_into_the_users_text_once(
    desk: Desk, status: int, message: str
) -> None:
    def script(n: int, body: dict[str, Any]) -> Any:
        refused = body["messages"][0]["role"] == "system"
        return (status, {}, {"error": {"message": message}}) if refused else ok()

    outcome, endpoint = desk.ask(script, games_of(12))
    assert outcome.code == 0 and endpoint.requests <= 24 + 4
    last = endpoint.bodies[-1]["messages"]
    assert [message["role"] for message in last] == ["user"]
    assert "impartial judge" in last[0]["content"] and "ANSWER A" in last[0]["content"]


def test_no_stream_is_asked_for_and_the_word_is_dropped_where_it_is_refused(desk: Desk) -> None:
    def script(n: int, body: dict[str, Any]) -> Any:
        if "stream" in body:
            assert body["stream"] is False
            return 400, {}, {"error": {"message": "Unrecognized request argument supplied: stream"}}
        return ok()

    outcome, endpoint = desk.ask(script, games_of(6))
    assert outcome.code == 0 and endpoint.requests <= 12 + 4
    assert desk.lines[-1].params == {"max_tokens": 256, "temperature": 0}


# --- replies


def test_a_reply_that_ended_in_an_error_is_no_verdict(desk: Desk) -> None:
    broken = said("A", finish="error")
    broken["choices"][0]["error"] = {"code": 502, "message": "Provider disconnected"}
    outcome, _ = desk.ask(lambda n, body: (200, {}, broken) if n % 2 else ok("B"), games_of(4))
    assert outcome.code == 0 and {line.verdict for line in desk.lines} == {"B"}


def test_a_prompt_that_the_server_cut_is_warned_of(desk: Desk) -> None:
    long = (200, {}, said("A"))
    long[2]["usage"] = {"prompt_tokens": 2050, "completion_tokens": 1}  # Ollama's default context
    outcome, _ = desk.ask(lambda n, body: long, games_of(3, text="word " * 4000))
    assert outcome.code == 0 and "2,050 tokens" in outcome.remarks[0] and "num_ctx" in outcome.remarks[0]
    assert len(outcome.remarks) == 1


@pytest.mark.parametrize(
    ("sizes", "cut"),
    [
        ([(4400, 1000)] * 5, 0),  # English
        ([(1500, 1000), (3000, 2100)], 0),  # Chinese
        ([(30_000, 2050)], 1),
        ([(4400, 1000), (8800, 2000), (30_000, 4000)], 1),
        ([(1500, 1000), (1800, 1200), (6000, 2050)], 1),  # Chinese: by the other prompts of the run
        ([(9100, 2048), (12_000, 2048), (12_500, 2048)], 2),  # the count stands still while the prompts grow
        ([(1000, 100)] * 3, 0),  # a server that makes its counts up
        ([], 0),
    ],
)
def test_what_is_far_fewer_tokens_than_were_sent(sizes: list[tuple[int, int]], cut: int) -> None:
    remarks = cut_remarks(sizes)
    assert len(remarks) == bool(cut) and all(f"warning: {cut} of " in remark for remark in remarks)


# --- the journal, the key


def test_the_journal_is_its_owners_alone_also_one_of_before(desk: Desk) -> None:
    desk.ask(lambda n, body: ok(), games_of(1))
    assert stat.S_IMODE(desk.journal.path.stat().st_mode) == 0o600
    desk.journal.path.chmod(0o644)
    desk.ask(lambda n, body: ok(), games_of(2))
    assert stat.S_IMODE(desk.journal.path.stat().st_mode) == 0o600


def test_a_key_that_is_quoted_back_reaches_no_message(monkeypatch: pytest.MonkeyPatch, desk: Desk) -> None:
    monkeypatch.setenv("A_KEY", "sk-secret-1234567890")
    quoting = (401, {}, {"error": {"message": "Incorrect API key: sk-secret-1234567890"}})
    with ScriptedEndpoint(lambda n, body: quoting) as there, desk.journal.held():
        endpoint = Endpoint(Address(there.url, key_variable="A_KEY"))
        outcome = Pool(endpoint, desk.journal, ASKING, Patience(), parse_verdict).ask_all(games_of(2))
    assert there.headers[0]["Authorization"] == "Bearer sk-secret-1234567890"
    assert "sk-secret" not in outcome.reason and "[key]" in outcome.reason


# --- the network's settings


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HTTPS_PROXY", "socks5://user:pw@127.0.0.1:9", "SOCKS"),
        ("ALL_PROXY", "socks5h://127.0.0.1:9", "ALL_PROXY"),
        ("HTTPS_PROXY", "http://:99999", "names no proxy"),
        ("HTTPS_PROXY", "foo://bar", "NO_PROXY"),
        ("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem", "no such file"),
        ("CURL_CA_BUNDLE", "/etc/passwd", "no certificates"),
    ],
)
def test_a_network_that_cannot_work_is_told_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    clear_network(monkeypatch.delenv)
    monkeypatch.setenv(name, value)
    with pytest.raises(EndpointError, match=words) as refused:
        Endpoint(Address("https://api.example/v1"))
    assert name in str(refused.value) and "pw" not in str(refused.value)


def test_a_proxy_without_a_scheme_is_an_http_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_network(monkeypatch.delenv)
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    assert str(Endpoint(Address("https://api.example/v1")).connections.proxy) == "http://proxy.example:3128"


def clear_network(delenv: Callable[..., None]) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        delenv(name, raising=False)
        delenv(name.lower(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        delenv(name, raising=False)
