#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["urllib3>=1.26,<3", "certifi"]
# ///
"""Send chat requests to an OpenAI-compatible endpoint and come through what the network and the quota do.

stdin: one JSON object per line, {"body": {"model", "messages", "max_tokens", ...}, "line": {...}}. A blank
line says that the list is complete; with --lifeline the end of stdin means that nobody waits any more: stop.
--out: one fsynced line per reply, the request's "line" with reply_model, params (sent besides model and
messages), raw_reply, finish_reason, prompt_tokens, completion_tokens, attempts (HTTP requests it cost),
duration_s, asked_at and error (why it was given up) added. With --reader, a module that turns a reply into a
verdict, also verdict and winner_side, what the request's "sides" say of it. judge_pairs.py runs this.

Never more than --concurrency requests are in flight. A Retry-After holds all of them back; timeouts, resets,
cut or empty replies and 408, 409, 429, 5xx are tried again with exponential backoff and jitter. A parameter
that the endpoint refuses (max_tokens, temperature, response_format) is replaced or dropped once for all.
The key comes from the environment variable that --api_key_env names, and from nowhere else.
Exit: 0 all answered, 1 some given up, 2 usage, 3 quota or --budget used up, 4 endpoint or --out unusable.

Example:
    export MY_JUDGE_KEY=...
    echo '{"body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}}' |
        python edgebench/__main__.py edgebench.judging.asking --api_url https://api.openai.com/v1 \\
            --api_key_env MY_JUDGE_KEY
"""

import argparse
import email.utils
import heapq
import importlib
import ipaddress
import json
import math
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from edgebench.records.jsonl import utc_now

LONG_WAIT_S = 3600.0  # an endpoint that asks for more has spent its quota
BACKOFF_CAP_S = 60.0
SPENT = (
    r"insufficient_quota|exceeded your current quota|quota\b.{0,30}(?:exhausted|used up|exceeded)|\bper day\b"
)
SPENT += r"|insufficient.{0,10}(?:balance|funds|credit)|out of credit|free account is limited"
QUOTA = re.compile(SPENT + r"|\bdaily (?:limit|quota)|余额不足|额度", re.I | re.S)
# "Quota exceeded for requests per minute" is only a rate limit.
PER_MINUTE = re.compile(r"per[ _-]?(?:minute|second)|\b[RT]PM\b", re.I)
TOO_LONG = re.compile(r"context[_ ](?:length|window|size)|maximum context|(?:prompt|input) is too long", re.I)
REFUSED = r"unsupported|not? support|unknown|unrecogni|unexpected|invalid|extra|only the default"
REFUSAL = re.compile(REFUSED + r"|not (?:permitted|allowed)", re.I)


class AskError(Exception):
    """Something the user can put right: an unsafe URL, a key that is not there."""


@dataclass(frozen=True)
class Fault:
    """Why there is no reply.

    kind: limit (told to wait), retry, down (no HTTP answer at all), again (a refused parameter has been
    replaced), refused (this request only), quota and fatal (the end of the run).
    """

    kind: str
    reason: str
    wait_s: float | None = None


@dataclass(frozen=True)
class Dialect:
    """What the endpoint has been found to understand, learnt once for all workers."""

    token_key: str = "max_tokens"
    temperature: bool = True
    format_step: int = 0  # how many forms of response_format it has refused


@dataclass
class Job:
    """A request on its way: HTTP requests it has cost, and how many of them failed."""

    request: dict[str, Any]
    attempts: int = 0
    failures: int = 0


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def chat_url(given: str, has_key: bool, insecure: bool) -> str:
    """The chat-completions URL of a base or full URL. Raises AskError where a key would travel unprotected.

    >>> chat_url("http://localhost:11434", True, False)
    'http://localhost:11434/v1/chat/completions'
    >>> chat_url("https://x.openai.azure.com/openai/deployments/d?api-version=1", True, False)
    'https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=1'
    """
    try:
        parts = urlsplit(given if "://" in given else f"https://{given}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or "@" in parts.netloc:
        raise AskError("--api_url must be http(s)://HOST/..., without a user name or password in it")
    if has_key and parts.scheme == "http" and not is_loopback(host) and not insecure:
        raise AskError(f"the key would travel unencrypted to {host}: use https (or --insecure)")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = (path or "/v1") + "/chat/completions"
    return parts._replace(path=path, fragment="").geturl()


def read_key(name: str | None) -> str:
    """The key in the environment variable. A name that looks wrong is not echoed: it may be the key."""
    if not name:
        return ""
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise AskError("--api_key_env takes the NAME of an environment variable, never the key itself")
    key = os.environ.get(name, "").strip()
    if not key:
        raise AskError(f"the environment variable {name} is not set; set it with: export {name}=YOUR_KEY")
    if not key.isascii() or not key.isprintable():
        raise AskError(f"the key in {name} holds characters that no HTTP header can carry")
    return key


def retry_wait_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the endpoint asks to wait: retry-after-ms, Retry-After (seconds or date), x-ratelimit-reset*.

    now is the time of day in seconds since 1970. None where no header says it.
    """
    found = {name.lower(): value.strip() for name, value in headers.items()}
    after = found.get("retry-after", "")
    reset = found.get("x-ratelimit-reset-requests") or found.get("x-ratelimit-reset") or ""
    try:
        if "retry-after-ms" in found:
            wait_s = float(found["retry-after-ms"]) / 1000
        elif after:
            number = re.fullmatch(r"\d+(?:\.\d+)?", after)
            wait_s = float(after) if number else email.utils.parsedate_to_datetime(after).timestamp() - now
        elif spans := re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", reset):
            wait_s = sum(float(n) * {"ms": 0.001, "m": 60.0, "h": 3600.0}.get(unit, 1.0) for n, unit in spans)
            wait_s -= now if wait_s > 1e9 else 0.0  # some send the time of day, in seconds since 1970
        else:
            return None
    except (ValueError, OverflowError, TypeError):
        return None
    return max(0.0, wait_s) if math.isfinite(wait_s) else None


def formats(wanted: dict[str, Any] | None) -> list[dict[str, Any] | None]:
    """The response_format to ask for and what to try where it is refused; None, plain text, comes last.

    llama.cpp's Python server answers OpenAI's json_schema with HTTP 500, but takes a schema in json_object.
    """
    if not wanted:
        return [None]
    schema = (wanted.get("json_schema") or wanted).get("schema")
    rest: list[Any] = [{"type": "json_object", "schema": schema}, {"type": "json_object"}, None]
    return [wanted, *(form for form in rest if form != wanted)]


def dressed(body: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    """The body in the words the endpoint understands."""
    touched = ("max_tokens", "temperature", "response_format")
    plain = {name: body[name] for name in body if name not in touched}
    if body.get("max_tokens") is not None:
        plain[dialect.token_key] = body["max_tokens"]
    if dialect.temperature and body.get("temperature") is not None:
        plain["temperature"] = body["temperature"]
    forms = formats(body.get("response_format"))
    form = forms[min(dialect.format_step, len(forms) - 1)]
    return {**plain, "response_format": form} if form else plain


def adapted(dialect: Dialect, body: Mapping[str, Any], status: int, text: str) -> Dialect | None:
    """The dialect to go on with after a refusal that names a parameter; None where none is named."""
    lower = text.lower()
    if TOO_LONG.search(text):
        return None
    if "max_tokens" in lower and dialect.token_key == "max_tokens" and REFUSAL.search(text):
        return replace(dialect, token_key="max_completion_tokens")
    if "temperature" in lower and dialect.temperature and REFUSAL.search(text):
        return replace(dialect, temperature=False)
    about_format = status >= 500 or re.search("response_format|json|schema|grammar|structured|empty", lower)
    if about_format and dialect.format_step < len(formats(body.get("response_format"))) - 1:
        return replace(dialect, format_step=dialect.format_step + 1)
    return None


def error_in(data: Any, status: int) -> Any:
    """What a JSON body gives as its error: under error, or (not in a 200) under detail or message."""
    if not isinstance(data, dict):
        return None
    return data.get("error") or (status != 200 and (data.get("detail") or data.get("message"))) or None


def read_response(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any] | Fault:
    """The reply in an HTTP response, or the fault it is."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        data = None
    error = error_in(data, status)
    text = json.dumps(error, ensure_ascii=False) if error else body[:500].decode("utf-8", "replace")
    if isinstance(error, dict) and re.fullmatch(r"[45]\d\d", str(error.get("code"))):
        status = int(error["code"])  # relays put the real status into a 200
    if status == 200 and not error:
        return read_choice(data)
    reason = f"HTTP {status}: {' '.join(text.split())[:300]}"
    wait_s = retry_wait_s(headers, time.time())
    spent = status in (200, 403, 429) and QUOTA.search(text) and not PER_MINUTE.search(text)
    if status == 402 or spent or (wait_s or 0.0) > LONG_WAIT_S:
        return Fault("quota", reason)
    if status in (401, 403, 404, 405) or 300 <= status < 400:
        where = f" (it redirects to {headers['location']})" if "location" in headers else ""
        flags = "--api_key_env" if status in (401, 403) else "--api_url, --model"
        return Fault("fatal", f"{reason}{where} ({flags})")
    if status == 429 or (wait_s is not None and status >= 500):
        return Fault("limit", reason, wait_s)
    # An error inside a 200 says nothing about its cause: worth another try.
    return Fault("retry" if status in (200, 408, 409, 425) or status >= 500 else "refused", reason)


def read_choice(data: Any) -> dict[str, Any] | Fault:
    try:
        choice = data["choices"][0]
        content, finish = choice["message"].get("content"), choice.get("finish_reason")
        if isinstance(content, list):
            content = "".join(str(part.get("text") or "") for part in content)
        usage = data.get("usage") or {}
        counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    except (TypeError, KeyError, IndexError, AttributeError):
        return Fault("retry", "HTTP 200 without a reply in it (cut or foreign body, no choices)")
    content = content or choice["message"].get("refusal")
    if not content and finish not in ("length", "content_filter"):
        return Fault("retry", "HTTP 200 with empty content")
    told = {"raw_reply": str(content or ""), "reply_model": data.get("model"), "finish_reason": finish}
    return told | counts


class Endpoint:
    """The HTTP side: a keep-alive connection per worker, and what has been learnt about the endpoint."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.key = read_key(args.api_key_env)
        self.url = chat_url(args.api_url, bool(self.key), args.insecure)
        host = urlsplit(self.url).hostname or ""
        header = args.api_key_header or ("api-key" if host.endswith(".azure.com") else "Authorization")
        self.headers = {"Content-Type": "application/json", "User-Agent": "ask_endpoint"}
        if self.key:
            self.headers[header] = f"Bearer {self.key}" if header.lower() == "authorization" else self.key
        self.connections = self.connect(host, args)
        self.dialect = Dialect()
        self.proven = False  # a reply has come: a 5xx is no longer about the form of the request
        self.lock = threading.Lock()

    def connect(self, host: str, args: argparse.Namespace) -> Any:
        """As many kept connections as workers; certificates and proxy as the environment has them."""
        import urllib.request  # here: the start of 20 calls takes notice of 30 ms

        import certifi
        import urllib3

        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or certifi.where()
        how: dict[str, Any] = {"cert_reqs": "CERT_REQUIRED", "ca_certs": bundle, "maxsize": args.concurrency}
        how |= {"retries": False, "timeout": urllib3.Timeout(connect=10.0, read=args.timeout_s)}
        proxy = urllib.request.getproxies().get(urlsplit(self.url).scheme)
        if not proxy or is_loopback(host) or urllib.request.proxy_bypass(host):
            return urllib3.PoolManager(**how)
        login = urllib3.util.parse_url(proxy).auth
        headers = urllib3.make_headers(proxy_basic_auth=unquote(login)) if login else None
        return urllib3.ProxyManager(proxy, proxy_headers=headers, **how)

    def ask(self, body: dict[str, Any]) -> tuple[dict[str, Any] | Fault, dict[str, Any]]:
        """One request: (reply or fault, what was sent). No redirect is followed: it would carry the key."""
        import urllib3

        dialect = self.dialect
        sent = dressed(body, dialect)
        try:
            whole = {"body": json.dumps(sent).encode(), "headers": self.headers}
            got = self.connections.urlopen("POST", self.url, redirect=False, **whole)
        except urllib3.exceptions.HTTPError as exc:
            kind = "fatal" if "CERTIFICATE_VERIFY_FAILED" in str(exc) else "down"
            return Fault(kind, self.safe(f"{type(exc).__name__}: {exc}")), sent
        result = read_response(got.status, got.headers, got.data)
        if isinstance(result, Fault):
            result = replace(result, reason=self.safe(result.reason))
            if result.kind == "refused" or (result.kind == "retry" and not self.proven):
                result = self.learn(dialect, body, got.status, result)
        else:
            self.proven, result["raw_reply"] = True, self.safe(result["raw_reply"])
        return result, sent

    def learn(self, dialect: Dialect, body: dict[str, Any], status: int, fault: Fault) -> Fault:
        """The first worker to meet a refused parameter changes the dialect for all, and asks again."""
        better = adapted(dialect, body, status, fault.reason)
        with self.lock:
            if better and self.dialect == dialect:
                self.dialect = better
        return Fault("again", fault.reason) if better else fault

    def safe(self, text: str) -> str:
        """Some endpoints quote the key back; it must not reach a file or a screen."""
        return text.replace(self.key, "[key]") if self.key else text


class Reader:
    """Says what a reply means: the parse_verdict of a module, asked once for each text."""

    def __init__(self, module: str) -> None:
        self.parse: Callable[[str], str | None] = importlib.import_module(module).parse_verdict
        self.known: dict[str, str | None] = {}  # most replies are one of three words

    def read(self, reply: str) -> str | None:
        """The verdict by slot; None where the reply states none."""
        if reply not in self.known:
            self.known[reply] = self.parse(reply)
        return self.known[reply]


class Output:
    """One line per reply. Whoever gets the lock writes and syncs all that waits: 64 workers, few syncs."""

    def __init__(self, path: Path | None) -> None:
        self.file: Any = path.open("ab", buffering=0) if path else sys.stdout.buffer
        self.is_file = path is not None
        self.waiting: deque[bytes] = deque()
        self.lock = threading.Lock()

    def append(self, line: Mapping[str, Any]) -> None:
        """Returns once the line is on the disk. Raises OSError on a full one."""
        self.waiting.append(json.dumps(line).encode() + b"\n")
        with self.lock:
            batch = b"".join(self.waiting.popleft() for _ in range(len(self.waiting)))
            if batch and self.file.write(batch) != len(batch):
                raise OSError(28, "no space left on device")
            self.file.flush()
            if batch and self.is_file:
                os.fsync(self.file.fileno())


class Pool:
    """N workers, a heap of retries by the time they are due, one gate that a Retry-After closes for all."""

    def __init__(self, args: argparse.Namespace, endpoint: Endpoint, output: Output) -> None:
        self.args, self.endpoint, self.output = args, endpoint, output
        self.reader = Reader(args.reader) if args.reader else None
        self.fresh: deque[Job] = deque()
        self.retries: list[tuple[float, int, Job]] = []
        self.changed = threading.Condition()
        self.added = self.in_flight = self.requests = self.pushed = self.retried = self.answered = 0
        self.tokens: Counter[str] = Counter()
        self.given_up: Counter[str] = Counter()  # by reason
        self.complete = False  # no further request will be added
        self.stopped: tuple[int, str] | None = None  # exit code, reason
        self.heard = False  # some HTTP answer has come
        self.gate_s = 0.0  # monotonic seconds: no request before it
        self.down_since_s: float | None = None

    def add(self, request: dict[str, Any] | None) -> None:
        """A request more; None: the list is complete."""
        with self.changed:
            self.complete = request is None
            if request:
                self.added += 1
                self.fresh.append(Job(request))
            self.changed.notify_all() if self.complete else self.changed.notify()

    def stop(self, code: int, reason: str) -> None:
        with self.changed:
            self.stopped = self.stopped or (code, reason)
            self.changed.notify_all()

    def next_job(self) -> Job | None:
        """The next job that may go out, waited for; due retries before fresh ones. None: it is over."""
        with self.changed:
            while not self.stopped:
                now = time.monotonic()
                due_s = self.retries[0][0] if self.retries else math.inf
                ready_s = max(self.gate_s, now if self.fresh else due_s)
                if ready_s <= now:
                    if self.args.budget is not None and self.requests >= self.args.budget:
                        self.stop(3, f"none of the {self.args.budget} requests allowed is left (--budget)")
                        break
                    self.requests += 1
                    self.in_flight += 1
                    return heapq.heappop(self.retries)[2] if due_s <= now else self.fresh.popleft()
                if self.complete and not (self.fresh or self.retries or self.in_flight):
                    self.changed.notify_all()
                    break
                self.changed.wait(min(ready_s - now, 60.0))
            return None

    def work(self) -> None:
        while job := self.next_job():
            try:
                began_s = time.monotonic()
                result, sent = self.endpoint.ask(job.request["body"])
                job.attempts += 1
                if not isinstance(result, Fault):
                    told = {name: value for name, value in sent.items() if name not in ("model", "messages")}
                    duration_s = round(time.monotonic() - began_s, 4)
                    self.write(job, result | {"params": told, "duration_s": duration_s, "error": None})
                with self.changed:
                    self.settle(job, result)
            except OSError as exc:
                self.stop(4, f"cannot write the replies: {exc}; make room, then run again (--out)")
            finally:
                with self.changed:
                    self.in_flight -= 1
                    self.changed.notify()

    def write(self, job: Job, outcome: dict[str, Any]) -> None:
        about = {"attempts": job.attempts, "asked_at": utc_now()}
        line = (job.request.get("line") or {}) | outcome | about
        if self.reader and "raw_reply" in line:
            verdict = self.reader.read(line["raw_reply"])
            line |= {"verdict": verdict, "winner_side": job.request.get("sides", {}).get(verdict)}
        self.output.append(line)

    def settle(self, job: Job, result: dict[str, Any] | Fault) -> None:
        """Decide what becomes of a job. Called with the lock held."""
        now = time.monotonic()
        if not isinstance(result, Fault) or result.kind != "down":
            self.down_since_s, self.heard = None, True
        if not isinstance(result, Fault):
            self.answered += 1
            self.tokens.update({name: result[name] or 0 for name in ("prompt_tokens", "completion_tokens")})
        elif result.kind in ("quota", "fatal"):
            self.stop(3 if result.kind == "quota" else 4, result.reason)
        elif result.kind == "again":
            self.push(job, now)
        elif result.kind == "refused" or job.failures + 1 >= self.args.max_attempts:
            self.give_up(job, result)
        else:
            self.retry(job, result, now)

    def retry(self, job: Job, fault: Fault, now: float) -> None:
        job.failures += 1
        self.retried += 1
        delay_s = min(BACKOFF_CAP_S, self.args.backoff_s * 2 ** (job.failures - 1)) * random.uniform(0.5, 1.0)
        if fault.kind == "limit":
            delay_s = delay_s if fault.wait_s is None else fault.wait_s
            self.gate_s = max(self.gate_s, now + delay_s)
        if fault.kind == "down":
            self.down_since_s = now if self.down_since_s is None else self.down_since_s
            # An endpoint that has never answered is a wrong address sooner than an outage.
            limit_s = self.args.max_outage_s if self.heard else min(30.0, self.args.max_outage_s)
            if now - self.down_since_s > limit_s:
                self.stop(4, f"no answer for {limit_s:.0f} s: {fault.reason} (--api_url, --max_outage_s)")
        self.push(job, now + delay_s)

    def push(self, job: Job, due_s: float) -> None:
        self.pushed += 1
        heapq.heappush(self.retries, (due_s, self.pushed, job))

    def give_up(self, job: Job, fault: Fault) -> None:
        self.write(job, {"error": fault.reason})
        too_long = "longer than the model's context"
        self.given_up[too_long if TOO_LONG.search(fault.reason) else fault.reason] += 1
        refused = sum(self.given_up.values()) - self.given_up[too_long]
        if fault.kind == "refused" and not self.answered and refused >= max(3, self.args.concurrency):
            # A refusal of everything is no matter of one request: a wrong model name, say.
            self.stop(4, f"every request is refused: {fault.reason}")

    def cost(self) -> float | None:
        """Money so far, prices per million tokens; None without a price."""
        if self.args.price_in is None and self.args.price_out is None:
            return None
        tokens_in, tokens_out = self.tokens["prompt_tokens"], self.tokens["completion_tokens"]
        return (tokens_in * (self.args.price_in or 0.0) + tokens_out * (self.args.price_out or 0.0)) / 1e6


class Progress:
    """A bar with rate and ETA on a terminal, a line every 30 s in a log file; on stderr."""

    def __init__(self) -> None:
        self.began_s = self.shown_s = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty():
            with suppress(ImportError):
                from tqdm import tqdm

                self.bar = tqdm(unit="call", file=sys.stderr, dynamic_ncols=True)

    def show(self, pool: Pool, last: bool = False) -> None:
        done, cost, now = pool.answered + sum(pool.given_up.values()), pool.cost(), time.monotonic()
        note = f"retries {pool.retried}" + ("" if cost is None else f", cost {cost:.2f}")
        note += f", told to wait {pool.gate_s - now:.0f} s" if pool.gate_s > now else ""
        if self.bar is not None:
            self.bar.total = pool.added
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(done - self.bar.n)
            if last:
                self.bar.close()
        elif last or now - self.shown_s > 30:
            self.shown_s = now
            rate = done / max(1e-9, now - self.began_s)
            eta = f", {(pool.added - done) / rate:.0f} s left" if rate and not last else ""
            print(f"answered {done}/{pool.added}, {rate:.1f} per s{eta}, {note}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("--api_url", required=True, help="OpenAI-compatible endpoint: base URL or full URL")
    add("--api_key_env", metavar="NAME", help="environment variable that holds the key")
    add("--api_key_header", metavar="NAME", help="header for the bare key instead of Authorization: Bearer")
    add("--insecure", action="store_true", help="let the key travel over plain http to another machine")
    add("--concurrency", type=int, default=4, help="requests in flight (default: 4)")
    add("--timeout_s", type=float, default=120.0, help="seconds to wait for a reply (default: 120)")
    add("--max_attempts", type=int, default=12, help="failures until a request is given up (default: 12)")
    add("--backoff_s", type=float, default=0.5, help="first wait, then doubled (default: 0.5)")
    add("--max_outage_s", type=float, default=900.0, help="stop after so long unanswered (default: 900)")
    add("--budget", type=int, metavar="N", help="stop after N HTTP requests")
    add("--price_in", type=float, help="price of a million input tokens")
    add("--price_out", type=float, help="price of a million output tokens")
    add("--reader", metavar="MODULE", help="module that reads each reply: edgebench.judging.verdict")
    add("--out", type=Path, help="file to append the replies to (default: stdout)")
    add("--lifeline", action="store_true", help="the end of stdin means: stop at once")
    return parser


def feed(pool: Pool) -> None:
    """stdin into the pool. With --lifeline its end means that whoever started this is gone."""
    try:
        for line in sys.stdin:
            pool.add(json.loads(line) if line.strip() else None)
    except ValueError as exc:
        pool.stop(4, f"stdin holds a line that is no JSON: {exc}")
    if pool.args.lifeline:
        os._exit(1)  # not one further request
    pool.add(None)


def ask_all(args: argparse.Namespace) -> int:
    pool = Pool(args, Endpoint(args), Output(args.out))
    signal.signal(signal.SIGTERM, lambda *_: pool.stop(143, "stopped"))
    workers = [threading.Thread(target=pool.work, daemon=True) for _ in range(args.concurrency)]
    for thread in (threading.Thread(target=feed, args=(pool,), daemon=True), *workers):
        thread.start()
    progress = Progress()
    try:
        while not pool.stopped and any(worker.is_alive() for worker in workers):
            time.sleep(0.02)
            progress.show(pool)
    except KeyboardInterrupt:
        pool.stop(130, "interrupted")
    # What is on its way has been paid for: wait for it, a moment.
    until_s = time.monotonic() + (0.5 if pool.stopped and pool.stopped[0] == 4 else 5.0)
    while pool.in_flight and time.monotonic() < until_s:
        time.sleep(0.01)
    progress.show(pool, last=True)
    pool.output.lock.acquire()  # nothing is written after this
    for reason, count in pool.given_up.most_common(5):
        print(f"given up: {count} ({reason})", file=sys.stderr)
    if pool.stopped:
        print(f"error: {pool.stopped[1]}", file=sys.stderr)
        return pool.stopped[0]
    return 1 if pool.given_up else 0


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return ask_all(args)
    except ImportError as exc:
        print(f"error: {exc}; install it with: pip install requests, which brings it", file=sys.stderr)
    except (AskError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
    return 4


if __name__ == "__main__":
    sys.exit(main())
