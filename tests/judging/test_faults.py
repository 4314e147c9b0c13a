"""judging/faults.py: what an HTTP answer means, in the words of OpenAI, its imitators and their relays."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.judging.faults import Fault, Reply, read_response, retry_wait_s
from tests.fakes.scripted_endpoint import said


def read(status: int, body: Any, **headers: str) -> Reply | Fault:
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return read_response(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, data, 100.0
    )


def fault(status: int, body: Any, **headers: str) -> Fault:
    found = read(status, body, **headers)
    assert isinstance(found, Fault), found
    return found


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


PAGE = b'<!doctype html><html lang="zh"><head><title>One API</title></head><body></body></html>'

QUOTA = [
    (403, error("user quota is not enough", code="insufficient_user_quota")),
    (
        403,
        error("token quota is not enough, token remain quota: 0.01", code="pre_consume_token_quota_failed"),
    ),
    (200, {"code": 1113, "message": "账户余额不足，请充值", "data": None, "success": False}),
    (429, error("您的账户已欠费", code="1113")),
    (403, error("该令牌额度已用尽")),
    (403, "余额不足".encode("gbk")),
    (200, {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
    (400, error("Your credit balance is too low to access the Anthropic API.", type="invalid_request_error")),
    (400, error("Access denied, please make sure your account is in good standing.", code="Arrearage")),
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}),
    (429, [error("You exceeded your current quota, please check your plan and billing details.")]),
    (429, error("Rate limit reached for gpt-4o on requests per day (RPD): Limit 200")),
    (429, error("You've reached the daily free limit")),
    (429, error("Your account has exceeded the 100 requests/day limit")),
    (402, error("Payment required")),
    (429, error("Free allocated quota exceeded.", code="Throttling.AllocationQuota")),
    (429, error("month allocated quota exceeded", code="Throttling.AllocationQuota")),
    (403, error("The free tier of the model has been exhausted.", code="AllocationQuota.FreeTierOnly")),
    (
        429,
        error(
            "Rate limit reached for model `llama-3.3-70b-versatile` on tokens per day (TPD): Limit 100000,"
            " Used 97050, Requested 3619. Please try again in 9m38.016s."
        ),
    ),
    (429, error("Rate limit exceeded: free-models-per-day-high-balance.", code=429)),
    (403, error("Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys")),
    (
        429,
        "Your team has either used all available credits or reached its monthly spending limit."
        " To continue making API requests, please purchase more credits or raise your spending limit.",
    ),
    (412, error("Account is suspended, possibly due to reaching the monthly spending limit")),
    (429, error("Number of request tokens has exceeded your daily rate limit")),
    (429, error("Tokens per day limit exceeded - too many tokens processed.", code="token_quota_exceeded")),
    (429, error("you have used up your daily free allocation of 10,000 neurons")),
    (429, error("Rate limit of 150 per 86400s exceeded for UserByModelByDay. Please wait 8 seconds.")),
    (429, error("you've reached your weekly usage limit, please upgrade to continue")),
    (
        403,
        error("The request failed because your account has an overdue balance.", code="AccountOverdueError"),
    ),
    (429, error("Your account has exhausted its free trial quota for the model", code="QuotaExceeded")),
    (429, error("已达到每日调用次数限制", code="1304")),
    (200, b'data: {"error": {"message": "insufficient_user_quota", "code": 403}}\n\ndata: [DONE]\n\n'),
]


@pytest.mark.parametrize(("status", "body"), QUOTA)
def test_a_spent_quota_in_anybodys_words(status: int, body: Any) -> None:
    assert fault(status, body).kind == "quota"


@pytest.mark.parametrize(
    "message",
    [
        "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29900. Try again in 6s.",
        "Quota exceeded for metric: generate_requests_per_minute_per_project",
        "You exceeded your current quota of requests per minute",
        "每分钟请求额度已达上限，请稍后再试",
        # Together, Mistral, Cerebras, OpenRouter, Groq
        "Your rate limit is 60 queries per minute. Please navigate to settings/billing to upgrade to a plan.",
        "Service tier capacity exceeded for this model.",
        "Requests per second limit exceeded - too many requests sent. request_quota_exceeded",
        "Rate limit exceeded: free-models-per-min.",
        "Rate limit reached for model `llama3` on tokens per minute (TPM): Limit 6000, Used 3513,"
        " Requested 3166. Please try again in 6.78s. Need more tokens? Upgrade to Dev Tier today.",
    ],
)
def test_a_limit_by_the_minute_is_no_quota(message: str) -> None:
    assert fault(429, error(message)).kind == "limit"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("Allocated quota exceeded, please increase your quota limit.", "Throttling.AllocationQuota"),
        ("Requests rate limit exceeded, please try again later.", "Throttling.RateQuota"),
        ("Request rate increased too quickly.", "Throttling.BurstRate"),
        ("Request rate increased too quickly.", "limit_burst_rate"),
        ("You exceeded your current requests list.", "limit_requests"),
        ("Allocated quota exceeded, please increase your quota limit.", "insufficient_quota"),
        (
            "You exceeded your current quota, please check your plan and billing details. For details, see:"
            " https://help.aliyun.com/zh/model-studio/error-code#token-limit",
            "insufficient_quota",
        ),
    ],
)
def test_alibabas_quota_of_the_minute_passes(message: str, code: str) -> None:
    """In its own protocol, and as OpenAI would say it of an account that is empty."""
    assert fault(429, {"code": code, "message": message, "request_id": "x"}).kind == "limit"
    assert fault(429, error(message, code=code, type=code, param=None)).kind == "limit"


def test_the_headers_that_openrouter_puts_into_the_body_say_how_long_to_wait() -> None:
    quoted = {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1741305600000"}
    body = error("Rate limit exceeded: free-models-per-min.", code=429, metadata={"headers": quoted})
    found = read_response(429, {}, json.dumps(body).encode(), 1741305600.0 - 30.0)
    assert isinstance(found, Fault) and (found.kind, found.wait_s) == ("limit", 30.0)
    odd = fault(429, error("Rate limit", metadata={"headers": [1]}))
    assert odd.kind == "limit"


@pytest.mark.parametrize(("windows", "kind"), [(["Minute"], "limit"), (["Minute", "Day"], "quota")])
def test_gemini_names_the_window_in_its_details(windows: list[str], kind: str) -> None:
    ids = [{"quotaId": f"GenerateRequestsPer{window}PerProjectPerModel-FreeTier"} for window in windows]
    message = "You exceeded your current quota, please check your plan. Please retry in 34.07s."
    found = fault(429, [error(message, details=[{"@type": "QuotaFailure", "violations": ids}])])
    assert found.kind == kind


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, error("Your chosen model requires moderation and your input was flagged", code=403)),
        (
            400,
            error("The response was filtered due to the content management policy.", code="content_filter"),
        ),
        (400, error("Input data may contain inappropriate content.", code="data_inspection_failed")),
        (400, error("The request was rejected because it was considered high risk")),
        (400, error("输入内容包含敏感信息")),
        (200, said(None, finish="content_filter")),
        (400, error("This model's maximum context length is 8192 tokens")),
        (413, error("Request Entity Too Large")),
        (400, error("the request exceeds the available context size. try increasing the context size")),
    ],
)
def test_one_prompts_own_fault_is_no_end(status: int, body: Any) -> None:
    found = fault(status, body)
    assert found.kind == "refused" and found.about_prompt


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, error("当前分组 default 下对于模型 gpt-4o 无可用渠道", code="model_not_found")),
        (200, {"code": 20012, "message": "Model does not exist. Please check it carefully.", "data": None}),
        (404, {"error": "model 'gpt-4o' not found"}),
        (400, error("Invalid model: gpt-4o")),
        (200, {"error": 'model "x" not found, try pulling it first'}),
        (404, error("No models loaded.", code="model_not_found")),
    ],
)
def test_a_model_that_is_not_there_bars_the_way_and_names_the_flag(status: int, body: Any) -> None:
    found = fault(status, body)
    assert found.kind == "barred" and "--model" in found.reason
    assert found.later == ("retry" if status >= 500 else "refused")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, PAGE, "a web page (One API)"),
        (200, b"OK", "no JSON in it: OK"),
        (200, b"", "no text"),
        (200, {"id": "m", "type": "message", "content": [{"type": "text", "text": "A"}]}, "without choices"),
        (200, {"choices": [], "usage": {}}, "without choices"),
        (200, {"choices": [{"message": None}]}, "empty content"),
        (200, said(""), "empty content"),
        (200, [1, 2], "without choices"),
    ],
)
def test_a_200_that_is_no_reply_is_suspect(status: int, body: Any, words: str) -> None:
    found = fault(status, body)
    assert found.kind == "suspect" and words in found.reason


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, error("Incorrect API key"), "fatal"),
        (400, error("API key not valid. Please pass a valid API key."), "fatal"),
        (405, error("Method not allowed"), "fatal"),
        (302, b"", "fatal"),
        (403, PAGE, "barred"),
        (403, error("Rate limit exceeded, please slow down"), "limit"),
        (400, {"object": "error", "message": "NETWORK ERROR DUE TO HIGH TRAFFIC.", "code": 50001}, "limit"),
        (200, error("Provider returned error", code=429), "limit"),
        (503, error("Loading model", code=503), "limit"),
        (500, error("boom"), "retry"),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "retry"),
        (200, b'{"choices": [{"mess', "retry"),
        (200, said("A", finish="error"), "retry"),
        (
            200,
            {"choices": [{"message": {"content": "A"}, "error": {"code": 502, "message": "gone"}}]},
            "retry",
        ),
        (
            200,
            {"choices": [{"message": {"content": "A"}, "error": {"code": 402, "message": "gone"}}]},
            "quota",
        ),
        (422, error("bad")["error"], "refused"),
    ],
)
def test_kinds(status: int, body: Any, kind: str) -> None:
    assert fault(status, body).kind == kind


def test_what_an_error_quotes_of_the_request_is_not_repeated() -> None:
    quoted = {"messages": [{"content": "a secret answer, 200 requests per day"}]}
    body = {
        "detail": [{"type": "missing", "loc": ["body", "prompt"], "msg": "Field required", "input": quoted}]
    }
    found = fault(422, body)
    assert found.kind == "refused" and "Field required" in found.reason and "secret" not in found.reason


# --- replies

CHUNKS = (
    ": comment\n\nevent: x\n"
    'data: {"model": "g", "choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
    'data: {"choices": [{"delta": {"content": "A"}}]}\n\n'
    'data: {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 7}}\n\n'
    "data: [DONE]\n\n"
)


@pytest.mark.parametrize(
    "body",
    [
        said("A"),
        b"\n\n   \n" + json.dumps(said("A")).encode(),
        CHUNKS.encode(),
        CHUNKS.replace("\n", "\r\n").encode(),
        said([{"type": "reasoning", "text": "B is better"}, {"type": "text", "text": "A"}]),
        said(
            [{"type": "thinking", "thinking": [{"type": "text", "text": "B"}]}, {"type": "text", "text": "A"}]
        ),
        said(None, refusal="A"),
        said(None, finish="tool_calls", tool_calls=[{"function": {"name": "verdict", "arguments": "A"}}]),
        {"choices": [{"text": "A", "index": 0, "finish_reason": "stop"}]},
        b'{"choices": [{"message": {"content": "A"}}], "usage": {"prompt_tokens": NaN}}',
        {"choices": [{"message": {"content": "A"}}], "usage": None},
        {"choices": [{"message": {"content": "A"}}], "error": None},
    ],
)
def test_the_text_of_a_reply_in_any_form(body: Any) -> None:
    found = read(200, body)
    assert isinstance(found, Reply) and found.text == "A" and found.silence is None


def test_a_stream_keeps_model_usage_and_end() -> None:
    found = read(200, CHUNKS.encode())
    assert found == Reply("A", model="g", finish_reason="stop", prompt_tokens=7)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (said(None, finish="length", reasoning="Let me compare"), "--max_tokens"),
        (said("", finish="length"), "--max_tokens"),
        ({"choices": [{"finish_reason": "length", "message": {"role": "assistant"}}]}, "--max_tokens"),
        (said(None, reasoning_content="the verdict is: A"), "reasoning"),
        (said("", reasoning="A"), "reasoning"),
    ],
)
def test_a_reply_without_text_is_paid_for_and_says_why_it_is_silent(body: Any, words: str) -> None:
    found = read(200, body)
    assert isinstance(found, Reply) and found.text == "" and words in str(found.silence)


NAMES = [
    "choices",
    "message",
    "delta",
    "content",
    "error",
    "usage",
    "code",
    "logprobs",
    "top_logprobs",
    "text",
]
NAMES += ["tool_calls", "function", "finish_reason", "detail", "base_resp"]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.integers(-1, 999),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "error", "usage", "code", "x"]), inner
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": None, "tool_calls": 5}},
        {"message": {"content": "A"}, "logprobs": {"tokens": 3}},
        {"message": {"content": "A"}, "logprobs": {"tokens": ["A"], "token_logprobs": 4, "top_logprobs": 5}},
    ],
)
def test_no_shape_of_a_choice_brings_the_reader_down(choice: dict[str, Any]) -> None:
    assert isinstance(read(200, {"choices": [choice]}), (Reply, Fault))


@given(st.sampled_from([200, 302, 400, 403, 429, 500]), JSON | st.binary(max_size=60))
def test_no_body_brings_the_reader_down(status: int, body: Any) -> None:
    assert isinstance(read(status, body), (Reply, Fault))
    if not isinstance(body, bytes):
        assert isinstance(read(status, b"data: " + json.dumps(body).encode() + b"\n\n"), (Reply, Fault))


# --- waits


@pytest.mark.parametrize(
    ("headers", "words", "wait_s"),
    [
        ({"x-ratelimit-reset-requests": "12ms", "x-ratelimit-remaining-requests": "499",
          "x-ratelimit-reset-tokens": "6s", "x-ratelimit-remaining-tokens": "0"}, "", 6.0),
        ({"x-ratelimit-reset-requests": "12ms", "x-ratelimit-reset-tokens": "1m6s"}, "", 66.0),
        ({"x-ratelimit-reset-tokens": "6s", "x-ratelimit-remaining-tokens": "100"}, "", None),
        ({}, "Rate limit of 15 per 60s exceeded. Please wait 30 seconds before retrying.", 30.0),
        ({}, "Your quota will reset after 13h 59m", 50340.0),
        ({"x-ratelimit-reset": "107"}, "", 107.0),
        ({"X-RateLimit-Reset": "1900000000000"}, "", 1.9e9 - 100),
        ({"Retry-After": "0"}, "Please try again in 6s.", 6.0),
        ({"Retry-After": "9"}, "Please try again in 20ms.", 9.0),
        ({}, "Please retry in 36.1s.", 36.1),
        ({}, "Please try again in 1m30.5s. Visit", 90.5),
        ({}, "try again in 5 seconds", 5.0),
        ({}, "try again later", None),
    ],
)  # fmt: skip
def test_the_longest_wait_that_is_said(headers: dict[str, str], words: str, wait_s: float | None) -> None:
    assert retry_wait_s(headers, now=100.0, words=words) == pytest.approx(wait_s)
