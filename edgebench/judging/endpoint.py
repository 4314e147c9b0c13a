"""The HTTP side of asking: where the endpoint is, what its answers mean, which words it understands.

Owns one request and its outcome: a Reply, or a Fault with what it says of the requests to come. When to ask
again, and when to stop, is decided in pool.py. The key is read from the environment variable that the user
names, goes into a header, and is replaced where an endpoint quotes it.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import re
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from edgebench.errors import UserError
from edgebench.judging.faults import Fault, Reply, is_too_long, read_response
from edgebench.judging.soft import FEWER_TOP_LOGPROBS
from edgebench.shell.calls import as_called

REFUSED = r"unsupported|not? support|unknown|unrecogni|unexpected|invalid|extra|only the default"
REFUSAL = re.compile(
    REFUSED + r"|not enabled|deprecated|not (?:permitted|allowed)|roles are supported|must alternate", re.I
)
ABOUT_SYSTEM = re.compile(r"\bsystem\b|\broles?\b|developer instruction", re.I)
ABOUT_FORMAT = re.compile(r"response_format|json|schema|grammar|structured|empty", re.I)
CA_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
CONNECT_TIMEOUT_S = 10.0


class EndpointError(UserError):
    """Something the user can put right before anything is sent: an unsafe URL, a key that is not there."""


@dataclass(frozen=True)
class Address:
    """Where to ask, and with what."""

    api_url: str  # base URL or full URL
    key_variable: str | None = None  # environment variable that holds the key
    key: str = ""  # the key itself, for a server of our own
    key_header: str | None = None  # for the bare key; None: as the host wants it
    insecure: bool = False  # let the key travel over plain http to another machine
    timeout_s: float = 120.0  # to wait for a reply
    connections: int = 4  # kept open


@dataclass(frozen=True)
class Dialect:
    """What the endpoint has been found to understand, learnt once for all workers."""

    token_key: str = "max_tokens"
    temperature: bool = True
    stream: bool = True  # the word `stream`, by which a reply in one piece is asked for
    system: bool = True  # a system message; else it is folded into the user's
    format_step: int = 0  # how many forms of response_format it has refused
    top_logprobs: int | None = None  # how many alternatives it lists at most; None: as many as are asked for
    gives_logprobs: bool = True  # else a verdict is asked for in words


# --- Before anything is sent ---


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def chat_url(given: str, has_key: bool, insecure: bool) -> str:
    """The chat-completions URL of a base or full URL. EndpointError where a key would travel unprotected.

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
        raise EndpointError("--api_url must be http(s)://HOST/..., without a user name or password in it")
    if has_key and parts.scheme == "http" and not is_loopback(host) and not insecure:
        raise EndpointError(f"the key would travel unencrypted to {host}: use https (or --insecure)")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = (path or "/v1") + "/chat/completions"
    return parts._replace(path=path, fragment="").geturl()


def read_key(name: str | None) -> str:
    """The key in the environment variable. A name that looks wrong is not echoed: it may be the key."""
    if not name:
        return ""
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise EndpointError("--api_key_env takes the NAME of an environment variable, never the key itself")
    key = os.environ.get(name, "").strip()
    if not key:
        raise EndpointError(
            f"the environment variable {name} is not set; set it with: export {name}=YOUR_KEY"
        )
    if not key.isascii() or not key.isprintable():
        raise EndpointError(f"the key in {name} holds characters that no HTTP header can carry")
    return key


def certificates() -> dict[str, str]:
    """The certificates to trust: what the environment names, else certifi's. EndpointError for a bad file."""
    import certifi

    name = next((name for name in CA_BUNDLES if os.environ.get(name)), None)
    if name is None:
        return {"ca_certs": certifi.where()}
    path = Path(os.environ[name])
    if path.is_dir():
        return {"ca_cert_dir": str(path)}
    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as problem:
        why = "no such file" if isinstance(problem, FileNotFoundError) else "no certificates in it"
        raise EndpointError(f"{name} names {path}: {why}; correct or unset {name}") from None
    return {"ca_certs": str(path)}


def proxy_for(url: str) -> str | None:
    """The environment's proxy for a URL, as curl takes it; EndpointError for one that speaks no HTTP."""
    import urllib.request

    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    which = parts.scheme if proxies.get(parts.scheme) else "all"
    proxy = proxies.get(which)
    if not proxy or is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    if "://" not in proxy:  # curl takes it, so people write it
        proxy = f"http://{proxy}"
    try:
        given = urlsplit(proxy)
        usable = given.scheme.lower() in ("http", "https") and given.hostname and (given.port or True)
    except ValueError:
        usable = False
    if not usable:
        name = next((n for n in (f"{which}_proxy", f"{which}_proxy".upper()) if os.environ.get(n)), which)
        cure = f"set {name}=http://HOST:PORT, or NO_PROXY={host} to go without"
        what = "is a SOCKS proxy, which is not spoken here" if proxy.startswith("socks") else "names no proxy"
        raise EndpointError(f"the environment's {name} {what}; {cure}")
    return proxy


def connect(url: str, address: Address) -> Any:
    """As many kept connections as workers; certificates and proxy as the environment has them."""
    import urllib3

    how: dict[str, Any] = {"retries": False, "maxsize": address.connections}
    how["timeout"] = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=address.timeout_s)
    if url.startswith("https:"):
        how |= {"cert_reqs": "CERT_REQUIRED", **certificates()}
    proxy = proxy_for(url)
    if proxy is None:
        return urllib3.PoolManager(**how)
    login = urllib3.util.parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=unquote(login)) if login else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **how)


# --- In the endpoint's own words ---


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
    if plain.get("top_logprobs") and dialect.top_logprobs:
        plain["top_logprobs"] = min(plain["top_logprobs"], dialect.top_logprobs)
    if not dialect.system:
        plain["messages"] = folded(body["messages"])
    if dialect.stream:
        plain["stream"] = False  # some relays stream to whoever does not say that
    if body.get("max_tokens") is not None:
        plain[dialect.token_key] = body["max_tokens"]
    if dialect.temperature and body.get("temperature") is not None:
        plain["temperature"] = body["temperature"]
    forms = formats(body.get("response_format"))
    form = forms[min(dialect.format_step, len(forms) - 1)]
    return {**plain, "response_format": form} if form else plain


def folded(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The messages without a system role: what it says stands before the user's text.

    >>> folded([{"role": "system", "content": "Judge."}, {"role": "user", "content": "A or B?"}])
    [{'role': 'user', 'content': 'Judge.\\n\\nA or B?'}]
    """
    said = [message["content"] for message in messages]
    return [{"role": "user", "content": "\n\n".join(said)}]


def adapted(dialect: Dialect, body: Mapping[str, Any], status: int, text: str) -> Dialect | None:
    """The dialect to go on with after a refusal that names a parameter; None where none is named."""
    lower = text.lower()
    if is_too_long(text):
        return None
    refused = REFUSAL.search(text) is not None
    if "logprob" in lower and body.get("logprobs"):
        return fewer_logprobs(dialect, lower)
    if refused and "max_tokens" in lower and dialect.token_key == "max_tokens":
        return replace(dialect, token_key="max_completion_tokens")
    if refused and "temperature" in lower and dialect.temperature:
        return replace(dialect, temperature=False)
    if refused and ABOUT_SYSTEM.search(text) and dialect.system and "system" in roles(body):
        return replace(dialect, system=False)
    if refused and re.search(r"\bstream\b", lower) and dialect.stream:
        return replace(dialect, stream=False)
    about_format = status >= 500 or ABOUT_FORMAT.search(text)
    if about_format and dialect.format_step < len(formats(body.get("response_format"))) - 1:
        return replace(dialect, format_step=dialect.format_step + 1)
    return None


def fewer_logprobs(dialect: Dialect, refusal: str) -> Dialect:
    """The dialect after a refusal of log probabilities: fewer of them where that may help, else none."""
    too_many = re.search(r"top_logprobs|logprobs.{0,40}\d", refusal) and not re.search(
        r"unsupported|not support|unknown|unrecogni|extra|not (?:permitted|allowed|enabled)|logits_all",
        refusal,
    )
    if too_many and dialect.top_logprobs is None:
        return replace(dialect, top_logprobs=FEWER_TOP_LOGPROBS)
    return replace(dialect, gives_logprobs=False)


def roles(body: Mapping[str, Any]) -> set[str]:
    """The roles that speak in a request."""
    return {str(message.get("role")) for message in body.get("messages") or ()}


class Endpoint:
    """One endpoint, for several threads: its connections, and what has been learnt about it."""

    def __init__(self, address: Address) -> None:
        """Nothing is sent yet. EndpointError for what the user must put right first."""
        self.key = address.key or read_key(address.key_variable)
        self.url = chat_url(address.api_url, bool(self.key), address.insecure)
        host = urlsplit(self.url).hostname or ""
        header = address.key_header or ("api-key" if host.endswith(".azure.com") else "Authorization")
        self.headers = {"Content-Type": "application/json", "User-Agent": "judge_pairs"}
        if self.key:
            self.headers[header] = f"Bearer {self.key}" if header.lower() == "authorization" else self.key
        try:
            self.connections = connect(self.url, address)
        except ImportError as problem:
            cure = as_called("install it with: pip install -r requirements-judge.txt")
            raise EndpointError(f"{problem}; {cure}") from problem
        self.dialect = Dialect()
        self.proven = False  # a reply has come: a fault is no longer about the form of the request
        self.lock = threading.Lock()

    def ask(self, body: Mapping[str, Any]) -> tuple[Reply | Fault, dict[str, Any]]:
        """One request: (reply or fault, what was sent). No redirect is followed: it would carry the key."""
        dialect = self.dialect
        sent = dressed(body, dialect)
        result, status = self._send(sent)
        if isinstance(result, Reply):
            self.proven = self.proven or bool(result.text or result.alternatives)
            return replace(result, text=self._without_key(result.text)), sent
        result = replace(result, reason=self._without_key(result.reason))
        unclear = result.kind in ("retry", "suspect", "fatal") and not self.proven and status >= 400
        if result.kind == "refused" or unclear:
            result = self._learn(dialect, body, status, result)
        return result, sent

    def _send(self, sent: Mapping[str, Any]) -> tuple[Reply | Fault, int]:
        """The outcome and the HTTP status; 0 where no HTTP answer came."""
        import urllib3

        how: dict[str, Any] = {"body": json.dumps(sent).encode(), "headers": self.headers, "redirect": False}
        try:
            got = self.connections.urlopen("POST", self.url, **how)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as problem:
            return fault_of(problem), 0
        return read_response(got.status, got.headers, got.data, time.time()), got.status

    def expect_no_logprobs(self) -> bool:
        """Ask in words from now on: replies hold no log probabilities. Whether that is news."""
        with self.lock:
            is_news = self.dialect.gives_logprobs
            self.dialect = replace(self.dialect, gives_logprobs=False)
        return is_news

    def _learn(self, dialect: Dialect, body: Mapping[str, Any], status: int, fault: Fault) -> Fault:
        """The first worker to meet a refused parameter changes the dialect for all, and asks again."""
        better = adapted(dialect, body, status, fault.reason)
        with self.lock:
            if better and self.dialect == dialect:
                self.dialect = better
        return Fault("again", fault.reason) if better else fault

    def _without_key(self, text: str) -> str:
        """Some endpoints quote the key back; it must not reach a file or a screen."""
        return text.replace(self.key, "[key]") if self.key else text


def fault_of(problem: Exception) -> Fault:
    """What it means that no HTTP answer came."""
    import urllib3

    words = f"{type(problem).__name__}: {problem}"
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return Fault("fatal", f"{words} (REQUESTS_CA_BUNDLE=FILE names the certificates of your network)")
    if isinstance(problem, urllib3.exceptions.SSLError):
        return Fault("suspect", f"{words} (is --api_url right about http and https?)")
    if isinstance(problem, urllib3.exceptions.ReadTimeoutError):
        return Fault("suspect", f"no reply in time (--timeout_s): {words}")
    if isinstance(problem, urllib3.exceptions.ProxyError):
        return Fault("down", f"{words} (is the environment's proxy right? HTTPS_PROXY, NO_PROXY=HOST)")
    if isinstance(problem, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)):
        return Fault("down", words)
    if isinstance(problem, ValueError):  # no host can be called so
        return Fault("fatal", f"{words} (--api_url)")
    return Fault("retry", words)
