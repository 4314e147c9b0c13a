"""What an HTTP answer means: the judge's reply, or a fault, and what a fault says of the requests to come.

Pure: status, headers and body in, Reply or Fault out. The words are those that OpenAI, its imitators and the
relays before them have been seen to use (new-api, one-api, OpenRouter, Azure, vLLM, FastChat, Ollama,
llama.cpp, SiliconFlow, Zhipu, Alibaba, Moonshot, Gemini, Anthropic, Groq, Together, Mistral, Cerebras, xAI).
"""

from __future__ import annotations

import email.utils
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgebench.judging.soft import Alternative, alternatives_in

LONG_WAIT_S = 3600.0  # an endpoint that asks for more has spent its quota
SHOWN_LETTERS = 300

QUOTA = re.compile(
    r"insufficient[ _-]?(?:user[ _-]?)?(?:quota|balance|funds|credit)"
    r"|exceeded[ _](?:your[ _])?current[ _]quota|token_quota|not enough quota"
    r"|quota\b.{0,30}(?:exhausted|used up|exceeded|not enough|insufficient)|quota_(?:exceeded|failed)"
    r"|balance\b.{0,30}(?:insufficient|too low|not enough|negative)|billing_(?:hard|not)|arrearage"
    r"|exhausted\b.{0,30}\bquota|\bQuotaExceeded\b|free tier\b.{0,40}exhausted|overdue (?:balance|bill)"
    r"|out of credits?|credits? .{0,20}(?:too low|exhausted|used up)|used all available credits"
    r"|(?:reach|exceed|hit)\w*\b.{0,40}\bspend(?:ing)? limit|\bkey limit exceeded"
    r"|usage[ _]limit[ _](?:reached|exceeded)"
    r"|free account is limited|(?:\bper[ _-]?|/ ?)day\b|\bUserByModelByDay\b"
    r"|\b(?:hourly|daily|weekly|monthly) (?:\w+ ){0,3}(?:limit|quota|allocation|allowance|budget|credits)\b"
    r"|余额不足|额度|欠费|请充值|每[日天周月].{0,12}(?:上限|限制|次数)",
    re.I | re.S,
)
# Zhipu: account in arrears, calls of the day, of 5 hours, of the week; SiliconFlow: balance insufficient
QUOTA_CODES = {"1113", "1304", "1308", "1310", "30001"}
# "Quota exceeded for requests per minute" is only a rate limit.
# Gemini says which window it was in a quotaId alone: GenerateRequestsPerMinutePerProjectPerModel.
PER_MINUTE = re.compile(r"per[ _-]?(?:min(?:ute)?|second)s?(?!(?-i:[a-z]))|\b[RT]PM\b|每分钟|每秒", re.I)
# Alibaba calls its tokens a minute a quota, in OpenAI's words of an empty account (#token-limit):
# https://www.alibabacloud.com/help/en/model-studio/rate-limit. The free quota is one that is used up.
THROTTLED = re.compile(r"\bThrottling\b|error-code#token-limit|\ballocated quota exceeded", re.I)
LONG_WINDOW = re.compile(r"\b(?:free|hour|day|week|month)(?:ly)? allocated quota|\bFreeTierOnly\b", re.I)
TOO_LONG = re.compile(
    r"context[_ ](?:length|window|size)|maximum context|too many (?:input )?tokens"
    r"|(?:prompt|input|request)(?: is| was)? too (?:long|large)"
    r"|exceeds? the (?:model's )?(?:maximum|available) (?:context|number of tokens)",
    re.I,
)
MODERATED = re.compile(
    r"moderation|flagged|content[_ ]?(?:filter|policy|management|inspection)|data_inspection|responsible ?ai"
    r"|prohibited_content|usage polic|sensitive (?:word|content|information)|high risk"
    r"|safety (?:system|filter|reasons)|敏感|违规|内容安全|不安全",
    re.I,
)
NO_MODEL = re.compile(
    r"model_not_found|model_not_exist|no_available_channel|无可用渠道|模型不存在|no endpoints? found for"
    r"|(?:unknown|invalid|no such|unsupported|not a valid) model(?! parameter| setting)"
    r"|model\b[^.]{0,80}(?:does ?n[o']t exist|does not exist|not found|not exist|not available|unavailable)",
    re.I,
)
BAD_KEY = re.compile(
    r"(?:invalid|incorrect|wrong) api[ _-]?key|api[ _-]?key (?:is )?(?:not valid|invalid)|无效的令牌", re.I
)
SLOWER = re.compile(r"rate[ _-]?limit|too many requests|slow down|请求过于频繁", re.I)
BUSY = re.compile(
    SLOWER.pattern + r"|high traffic|overloaded|server is busy|loading model|model is loading"
    r"|try again later|temporar|繁忙|稍后",
    re.I,
)
UNIT = r"(?:ms|milliseconds?|s|sec(?:ond)?s?|m|min(?:ute)?s?|h|hours?)"
SAID_WAIT = re.compile(
    rf"(?:(?:try again|retry|resets?) (?:in|after)|please wait) ((?:\d+(?:\.\d+)? ?{UNIT}(?![a-z]) ?)+)", re.I
)
SPAN = re.compile(rf"(\d+(?:\.\d+)?) ?({UNIT}|)(?![a-z])", re.I)
SECONDS = {"ms": 0.001, "mi": 60.0, "s": 1.0, "se": 1.0, "m": 60.0, "h": 3600.0, "ho": 3600.0, "": 1.0}
PAGE = re.compile(r"\s*(?:<!doctype html|<html|<head|<\?xml|<!--)", re.I)
# What an error says of itself, its message first. What it quotes of the request (`input`) is not among it.
SAYING = (
    *("message", "msg", "error_msg", "status_msg", "detail", "errors", "error", "base_resp", "raw"),
    *("reasons", "code", "type", "status", "param", "error_code", "loc", "metadata", "innererror"),
    *("details", "violations", "quotaId"),
)


@dataclass(frozen=True)
class Reply:
    """What the judge said. text is empty where it said nothing; `silence` then says what went on instead."""

    text: str
    model: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    silence: str | None = None
    alternatives: list[Alternative] | None = None  # to the first token, likeliest first; None: not given


@dataclass(frozen=True)
class Fault:
    """Why there is no reply.

    kind: limit (told to wait, no failure), retry (likely to pass), suspect (likely to be so for every
    request, as long as none has been answered), down (nobody there), again (a refused parameter has been
    replaced), refused (this request only), barred (the end as long as none has been answered, else `later`),
    quota and fatal (the end of the run). about_prompt: the text of this one request is at fault.
    """

    kind: str
    reason: str
    wait_s: float | None = None
    about_prompt: bool = False
    later: str = "refused"


def is_too_long(text: str) -> bool:
    """Whether a refusal is about the length of the prompt."""
    return TOO_LONG.search(text) is not None


def read_response(status: int, headers: Mapping[str, str], body: bytes, now: float = 0.0) -> Reply | Fault:
    """The reply in an HTTP response, or the fault it is. now: the time of day in seconds since 1970."""
    data = parsed(body)
    error = error_in(data, status)
    if status == 200 and error is None:
        return read_choice(data, body)
    words = words_of(error) if error is not None else plain_words(body)
    headers = {**headers, **quoted_headers(error)}
    code = code_of(error)
    if re.fullmatch(r"[45]\d\d", code):
        status = int(code)  # relays put the real status into a 200
    return fault_in(status, headers, words, code, now)


# --- Faults ---


def fault_in(status: int, headers: Mapping[str, str], words: str, code: str, now: float) -> Fault:
    """The fault that an HTTP status and an endpoint's words are."""
    reason = f"HTTP {status}: {words[:SHOWN_LETTERS]}"
    wait_s = retry_wait_s(headers, now, words)
    spent = code in QUOTA_CODES or (QUOTA.search(words) and not is_passing(words))
    if status == 402 or spent or (wait_s or 0.0) > LONG_WAIT_S:
        return Fault("quota", reason)
    if status == 401 or (status != 200 and BAD_KEY.search(words)):
        return Fault("fatal", f"{reason} (--api_key_env)")
    if status == 429 or (status == 403 and SLOWER.search(words)):
        return Fault("limit", reason, wait_s)
    if MODERATED.search(words):
        return Fault("refused", reason, about_prompt=True)
    if status == 413 or is_too_long(words):
        return Fault("refused", reason, about_prompt=True)
    if NO_MODEL.search(words) and not BUSY.search(words):
        # A relay may lose a model's last channel for a while.
        return Fault("barred", f"{reason} (--model)", later="retry" if status >= 500 else "refused")
    if 300 <= status < 400:
        where = f" (it redirects to {headers['location']})" if "location" in headers else ""
        return Fault("fatal", f"{reason}{where} (--api_url, --model)")
    return fault_by_status(status, reason, words, wait_s)


def is_passing(words: str) -> bool:
    """Whether a "quota" is one of the minute: a rate limit, which passes by itself."""
    if PER_MINUTE.search(words):
        return "PerDay" not in words
    return THROTTLED.search(words) is not None and not LONG_WINDOW.search(words)


def fault_by_status(status: int, reason: str, words: str, wait_s: float | None) -> Fault:
    """The fault where the words alone do not tell it."""
    if status == 403:
        return Fault("barred", f"{reason} (--api_key_env)")
    if status in (404, 405):
        return Fault("fatal", f"{reason} (--api_url, --model)")
    if wait_s is not None and status >= 500:
        return Fault("limit", reason, wait_s)
    is_loading = "loading" in words.lower()  # llama-server, at its start
    if BUSY.search(words) and (status < 500 or is_loading):
        return Fault("limit", reason, wait_s)
    if status == 200:  # an error inside a 200 says little about its cause: worth another try
        return Fault("suspect", reason)
    return Fault("retry" if status in (408, 409, 425) or status >= 500 else "refused", reason)


def retry_wait_s(headers: Mapping[str, str], now: float, words: str = "") -> float | None:
    """Seconds the endpoint asks to wait, the longest of what it says; None where nothing says it.

    Read are retry-after-ms, Retry-After (seconds or date), x-ratelimit-reset* of the windows that are used
    up, and "try again in 6s". now is the time of day in seconds since 1970.
    """
    found = {name.lower(): value.strip() for name, value in headers.items()}
    waits = [retry_after_s(found, now)]
    if waits == [None]:
        waits = [window_s(found, kind, now) for kind in ("", "-requests", "-tokens")]
    said = SAID_WAIT.search(words)
    waits.append(span_s(said[1]) if said else None)
    known = [wait_s for wait_s in waits if wait_s is not None and math.isfinite(wait_s)]
    return max(0.0, *known) if known else None


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds by retry-after-ms or Retry-After."""
    after = headers.get("retry-after", "")
    try:
        if "retry-after-ms" in headers:
            return float(headers["retry-after-ms"]) / 1000
        if re.fullmatch(r"\d+(?:\.\d+)?", after):
            return float(after)
        return email.utils.parsedate_to_datetime(after).timestamp() - now if after else None
    except (ValueError, OverflowError, TypeError):
        return None


def window_s(headers: Mapping[str, str], kind: str, now: float) -> float | None:
    """Seconds until a window begins anew, unless the endpoint says that something is left in it."""
    left = headers.get(f"x-ratelimit-remaining{kind}", "0")
    reset = headers.get(f"x-ratelimit-reset{kind}", "")
    if not reset or (re.fullmatch(r"\d+(?:\.\d+)?", left) and float(left) > 0):
        return None
    wait_s = span_s(reset)
    if wait_s is not None and wait_s > 1e9:  # some send the time of day, in seconds or in milliseconds
        wait_s = (wait_s / 1000 if wait_s > 1e11 else wait_s) - now
    return wait_s


def span_s(text: str) -> float | None:
    """Seconds of "6m0s", "12ms", "7".

    >>> span_s("6m0s"), span_s("12ms"), span_s("1h 1.5s"), span_s("soon")
    (360.0, 0.012, 3601.5, None)
    """
    spans = SPAN.findall(text)
    return sum(float(number) * seconds_in(unit) for number, unit in spans) if spans else None


def seconds_in(unit: str) -> float:
    """Seconds of a unit in any spelling.

    >>> seconds_in("ms"), seconds_in("minutes"), seconds_in("Milliseconds"), seconds_in("")
    (0.001, 60.0, 0.001, 1.0)
    """
    word = unit.lower()
    return 0.001 if word.startswith("mill") else SECONDS[word[:2]]


# --- Bodies ---


def parsed(body: bytes) -> Any:
    """The JSON of a body; of server-sent events the completion that they make together. None for neither."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass
    if re.match(rb"\s*(?:data|event|id|retry)?:", body):
        return from_stream(body.decode("utf-8", "replace"))
    return None


def from_stream(text: str) -> dict[str, Any] | None:
    """One completion of the chunks of a stream; None where none can be read."""
    chunks = []
    for line in text.splitlines():
        try:
            chunks.append(json.loads(line.removeprefix("data:").strip()))
        except ValueError:
            continue  # comments, names of events, [DONE]
    chunks = [chunk for chunk in chunks if isinstance(chunk, dict)]
    whole: dict[str, Any] = {}
    message: dict[str, str] = {}
    finish = logprobs = None
    for chunk in chunks:
        whole |= {name: chunk[name] for name in ("model", "usage", "error") if chunk.get(name)}
        choices = chunk.get("choices")
        for choice in choices[:1] if isinstance(choices, list) else []:
            if not isinstance(choice, dict):
                continue
            finish = choice.get("finish_reason") or finish
            logprobs = logprobs or choice.get("logprobs")
            part = choice.get("delta") or choice.get("message")
            part = part if isinstance(part, dict) else {}
            for name in ("content", "reasoning_content", "reasoning", "refusal"):
                if isinstance(part.get(name), str):
                    message[name] = message.get(name, "") + part[name]
    choice = {"message": message, "finish_reason": finish, "logprobs": logprobs}
    return {**whole, "choices": [choice]} if chunks else None


def decoded(body: bytes) -> str:
    """A body as text: UTF-8, else GB 18030, which holds every older Chinese encoding."""
    for encoding in ("utf-8", "gb18030"):
        try:
            return body.decode(encoding)
        except UnicodeDecodeError:
            continue
    return body.decode("utf-8", "replace")


def error_in(data: Any, status: int) -> Any:
    """What a JSON body gives as its error: under error, or, where there is no reply, as code and message."""
    if isinstance(data, list) and len(data) == 1:  # Gemini wraps it
        data = data[0]
    if not isinstance(data, dict):
        return None
    if data.get("error"):
        return data["error"]
    if data.get("choices") and status == 200:
        return None
    named = [data.get(name) for name in ("message", "msg", "detail", "errors", "error_msg")]
    says = any(isinstance(words, (str, list)) and words for words in named)
    return data if says or isinstance(data.get("base_resp"), dict) else None


def code_of(error: Any) -> str:
    """The code inside an error: a word, or a number that may be an HTTP status."""
    if not isinstance(error, dict):
        return ""
    codes = (error.get("code"), error.get("status"), error.get("error_code"), error.get("status_code"))
    return next((str(code) for code in codes if code not in (None, "")), "")


def quoted_headers(error: Any) -> dict[str, str]:
    """The headers that OpenRouter puts into the error of a free model, the end of its window among them."""
    metadata = error.get("metadata") if isinstance(error, dict) else None
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    return {str(name): str(value) for name, value in headers.items()} if isinstance(headers, dict) else {}


def words_of(error: Any) -> str:
    """An error as one line of the endpoint's own words. What it quotes of the request is left out."""
    said: list[str] = []
    collect(error, said)
    return " ".join("; ".join(dict.fromkeys(said)).split())


def collect(error: Any, said: list[str]) -> None:
    """Add what an error says, its message first."""
    if isinstance(error, dict):
        for name in SAYING:
            collect(error.get(name), said)
    elif isinstance(error, list):
        for item in error[:5]:
            collect(item, said)
    elif error not in (None, "") and not isinstance(error, bool):
        said.append(str(error)[:1000])


def plain_words(body: bytes) -> str:
    """A body that is no JSON as one line; of a web page its title."""
    text = decoded(body[:20_000])
    if not PAGE.match(text):
        return " ".join(text.split()) or "no text"
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.I | re.S)
    named = " ".join(title[1].split()) if title else ""
    return f"a web page ({named})" if named else "a web page"


# --- Replies ---


def read_choice(data: Any, body: bytes) -> Reply | Fault:
    """The reply of a 200 that names no error."""
    choices = data.get("choices") if isinstance(data, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return no_reply(data, body)
    finish = choice.get("finish_reason")
    if choice.get("error") or finish == "error":
        words, code = words_of(choice.get("error")) or "finish_reason error", code_of(choice.get("error"))
        status = int(code) if re.fullmatch(r"[45]\d\d", code) else 200
        fault = fault_in(status, {}, words, code, 0.0)
        return fault if fault.kind != "suspect" else Fault("retry", fault.reason)
    message = choice.get("message") or choice.get("delta") or {"content": choice.get("text")}
    if not isinstance(message, dict):
        return no_reply(data, body)
    text = text_of(message)
    usage = data.get("usage") if isinstance(data.get("usage"), dict) else {}
    reply = Reply(
        text=text,
        model=None if data.get("model") is None else str(data["model"]),
        finish_reason=None if finish is None else str(finish),
        prompt_tokens=count_of(usage.get("prompt_tokens")),
        completion_tokens=count_of(usage.get("completion_tokens")),
        alternatives=alternatives_in(choice),
    )
    return reply if text or reply.alternatives else silent(reply, message)


def silent(reply: Reply, message: Mapping[str, Any]) -> Reply | Fault:
    """A reply without text: paid for and silent, or a fault."""
    if reply.finish_reason == "content_filter":
        return Fault("refused", "HTTP 200: the content filter held the reply back", about_prompt=True)
    thought = any(message.get(name) for name in ("reasoning_content", "reasoning", "reasoning_details"))
    if reply.finish_reason == "length":
        silence = "the token limit was reached before any text (finish_reason length); raise --max_tokens"
        return replace(reply, silence=silence)
    if thought:
        silence = (
            "the reply stands in its reasoning alone, its content is empty;"
            " raise --max_tokens, or take a --model that answers in the content"
        )
        return replace(reply, silence=silence)
    return Fault("suspect", "HTTP 200 with empty content")


def text_of(message: Mapping[str, Any]) -> str:
    """What a message says, thinking left out: its content, its text parts, a refusal, a tool's arguments."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        spoken = [part for part in parts if part.get("type") in (None, "text", "output_text")]
        content = "".join(str(part.get("text") or "") for part in spoken)
    if content:
        return str(content)
    if message.get("refusal"):
        return str(message["refusal"])
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict) and isinstance(call.get("function"), dict):
            return str(call["function"].get("arguments") or "")
    return ""


def no_reply(data: Any, body: bytes) -> Fault:
    """A 200 without a reply in it."""
    words = plain_words(body)[:SHOWN_LETTERS]
    if data is None and words.startswith("a web page"):
        return Fault(
            "suspect", f"HTTP 200 with {words} in place of an answer: is --api_url the API's address?"
        )
    if data is None and body.lstrip().startswith(b"{"):
        return Fault("retry", "HTTP 200 without a reply in it: the body is cut")
    if data is None:
        return Fault("suspect", f"HTTP 200 with no JSON in it: {words} (is --api_url the API's address?)")
    what = "it speaks another API than OpenAI's chat completions"
    return Fault("suspect", f"HTTP 200 without choices: {words} ({what}? --api_url)")


def count_of(value: Any) -> int | None:
    """A number of tokens; None for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
