"""Logs of LLM engines, whole and broken, through the command line as a user meets it."""

import gzip
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from companions import parse_backend_logs
from edgebench.backends.logs import rows as rows_module
from edgebench.backends.logs import sifting, story
from edgebench.backends.logs import tables as read_bench_tables
from edgebench.backends.logs import timings as read_timing_lines
from tests.doors import call

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "companions" / "parse_backend_logs.py"
SHARED = ROOT.parent / "shared" / "data" / "backends"

HEAD = (
    "| model | size | params | backend | ngl | fa | test | t/s |\n"
    "| --- | ---: | ---: | --- | --: | -: | ---: | ---: |\n"
)
PP = "| llama 1B Q6_K | 967.00 MiB | 1.24 B | CUDA | 999 | 1 | pp512 | 1391.94 ± 2.35 |\n"
TG = "| llama 1B Q6_K | 967.00 MiB | 1.24 B | CUDA | 999 | 1 | tg128 | 27.82 ± 0.03 |\n"
CSV_HEAD = (
    "build_commit,build_number,backends,model_type,n_threads,type_k,n_gpu_layers,"
    "n_prompt,n_gen,avg_ts,stddev_ts\n"
)
CSV_ROW = '"abc","12","CUDA","qwen2 7B Q4_K - Medium","4","q8_0","99","512","0","812.5","1.25"\n'
GPT2 = "using NV backend\nusing gpt2\nloaded weights in 5508.75 ms, 0.65 GB loaded at 0.12 GB/s\n"
TOKENS = "".join(
    f"\nran model in {time:6.2f} ms\n" for time in (2656.69, 1814.8, 842.81, 31.0, 26, 25, 26, 25, 26, 25)
)
TRACE = (
    "Traceback (most recent call last):\n"
    '  File "ops_nv.py", line 285, in __init__\n    raise RuntimeError("CUDA Error 716")\n'
    "RuntimeError: CUDA Error 716, misaligned address\n"
)


def run_script(*args: object) -> subprocess.CompletedProcess[str]:
    return call("companions/parse_backend_logs.py", *args)


@pytest.fixture
def parse(tmp_path, capsys):
    """Writes a log and gives the rows the script prints for it, checked against the exit code."""

    def parse_text(content: str | bytes, name: str = "run.log") -> list[dict]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        code = parse_backend_logs.main([str(path), "--json"])
        shown = capsys.readouterr()
        rows = [json.loads(line) for line in shown.out.split("\n") if line]
        assert rows, shown.err
        assert code == (0 if any(row["status"] == "ok" for row in rows) else 1), shown.err
        return rows

    return parse_text


def ok(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["status"] == "ok"]


# --- published figures ---


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared logs")
@pytest.mark.parametrize(
    ("log", "test", "field", "published"),
    [
        ("llama_bench_orin_agx64_default.log", "pp512", "prefill_tok_per_s", 1090.46),
        ("llama_bench_orin_agx64_default.log", "tg128", "decode_tok_per_s", 25.61),
        ("llama_bench_orin_agx64_fa.log", "pp512", "prefill_tok_per_s", 1391.94),
        ("llama_bench_orin_agx64_fa.log", "tg128", "decode_tok_per_s", 27.82),
        ("llama_bench_orin_agx64_progress.log", "tg128", "decode_tok_per_s", 25.63),
        ("tinygrad_gpt2_nv.log", "tokens", "decode_tok_per_s", 38.3),
        ("tinygrad_gpt2_cuda.log", "tokens", "decode_tok_per_s", 38.8),
        ("tinygrad_llama3_1b_q6k_cuda_run2.log", "tokens", "decode_tok_per_s", 3.3),
        ("tinygrad_llama3_1b_q6k_cuda_run2.log", "tokens", "ttft_ms", 2643.78),
        ("tinygrad_gpt2_nv.log", "tokens", "tpot_ms", 26.10),
    ],
)
def test_shared_logs_give_the_published_figures(log, test, field, published):
    rows = [json.loads(line) for line in run_script(SHARED / log, "--json").stdout.splitlines()]
    (row,) = [row for row in rows if row["test"] == test]
    places = len(str(published).partition(".")[2])
    assert round(row[field], places) == published
    assert row["status"] == "ok"


# --- warm-up ---


@pytest.mark.parametrize(
    ("times", "warm_up"),
    [
        ([4351, 2181, 334, 4.5, 4.4, 4.4, 4.5, 4.4], 3),
        ([1771, 1189, 102, 51, 8.6, 8.5, 8.7, 8.6, 8.6], 4),
        ([2643.78, *[302.6] * 19], 1),
        ([10.0] * 8, 0),
        ([900, 5, 800, 5, 5, 5, 5, 5], 3),  # one quick token among the slow ones is no end
        ([10 + step / 10 for step in range(100)], 0),  # a growing context is no warm-up
        ([500.0], 0),
    ],
)
def test_the_warm_up_ends_where_three_tokens_reach_the_steady_level(times, warm_up):
    assert read_timing_lines.warm_up_tokens(times) == warm_up


@given(
    steady=st.lists(st.floats(9.0, 11.0), min_size=6, max_size=60),
    slow=st.lists(st.floats(25.0, 9000.0), max_size=5),
)
def test_warm_up_tokens_ahead_of_a_steady_run_are_found_and_no_others(steady, slow):
    assert read_timing_lines.warm_up_tokens([*slow, *steady]) == len(slow)


def test_a_timing_run_says_what_it_left_out(parse):
    (row,) = parse(GPT2 + TOKENS)
    assert (row["backend"], row["device"], row["model"]) == ("tinygrad", "NV", "gpt2")
    assert (row["warmup_excluded"], row["n"], row["generated_tokens"]) == (3, 7, 10)
    assert row["ttft_ms"] == 2656.69
    assert row["decode_tok_per_s"] == pytest.approx(7000 / (31 + 26 + 25 + 26 + 25 + 26 + 25))
    assert any("1.5 x the median" in note for note in row["notes"])
    assert row["settings"]["load_ms"] == 5508.75


@pytest.mark.parametrize("joint", ["\n", " ", ", "])
def test_enqueue_and_total_on_one_line_or_two(parse, joint):
    token = "total 302.61 ms, 3.30 tok/s, 29.32 GB/s, param 19.82 GB/s\n"
    first = f"enqueue in   5.82 ms{joint}total 2643.78 ms, 0.38 tok/s, 3.36 GB/s, param 2.27 GB/s\nHello\n"
    (row,) = parse("seed = 42\n" + first + f"enqueue in   5.84 ms{joint}{token}" * 9)
    assert (row["warmup_excluded"], row["n"]) == (1, 9)
    assert row["tpot_ms"] == pytest.approx(302.61)
    assert row["memory_gb_per_s"] == pytest.approx(29.32)


def test_benchmark_lines(parse):
    times = [4351, 2181, 334, 4.46, 4.4, 4.5, 4.4, 4.5]
    lines = [
        f"{t:6.2f} ms, {1e3 / t:6.2f} tok/s, {0.75:7.2f} GB/s, 3/5 MB  --  text 12 ms so far\n" for t in times
    ]
    (row,) = parse('using model "Tiny Qwen" with 1,000 bytes and 500 params\n' + "".join(lines))
    assert (row["model"], row["warmup_excluded"], row["n"]) == ("Tiny Qwen", 3, 5)
    assert row["memory_gb_per_s"] == pytest.approx(0.75)


def test_several_runs_in_one_file_stay_apart(parse):
    second = (GPT2 + TOKENS).replace("NV", "CUDA").replace(" 26.00", " 13.00").replace(" 25.00", " 12.00")
    rows = parse(GPT2 + TOKENS + "real\t0m9.1s\nuser\t0m5.0s\n" + second + PP.join(["", HEAD + PP]))
    assert [row["device"] for row in ok(rows)][:2] == ["NV", "CUDA"]
    assert rows[1]["decode_tok_per_s"] > 1.5 * rows[0]["decode_tok_per_s"]


# --- llama.cpp's lines ---


@pytest.mark.parametrize(
    "prefix",
    [
        "llama_print_timings:",
        "llama_perf_context_print:",
        "common_perf_print:",
        "0.12.345.678 I common_perf_print:",
        "slot print_timing: id  0 | task 12 |",
        "INFO [           print_timings]",
        "\x1b[32mllama_perf_context_print:\x1b[0m",
    ],
)
def test_timing_lines_of_every_prefix(parse, prefix):
    (row,) = parse(
        f"{prefix}        load time =     561.38 ms\n"
        f"{prefix} prompt eval time =     100.00 ms /    50 tokens (    2.00 ms per token,   "
        "500.00 tokens per second)\n"
        f"{prefix}        eval time =    2000.00 ms /    49 runs   (   40.82 ms per token,    "
        "24.50 tokens per second)\n"
        f"{prefix}       total time =    2100.00 ms /    99 tokens\n"
    )
    assert (row["prefill_tok_per_s"], row["decode_tok_per_s"]) == (500.0, 24.5)
    assert (row["prompt_tokens"], row["generated_tokens"], row["ttft_ms"]) == (50, 49, 100.0)
    assert row["tpot_ms"] == pytest.approx(2000 / 49)


@pytest.mark.parametrize(
    "nothing",
    [
        "0.00 ms /     1 tokens (    0.00 ms per token,      inf tokens per second)",
        "-nan ms /     0 tokens (-nan(ind) ms per token, -nan tokens per second)",
    ],
)
def test_no_number_is_made_of_inf_and_nan(parse, nothing):
    (row,) = parse(
        f"llama_perf_context_print: prompt eval time = {nothing}\n"
        "llama_perf_context_print: eval time = 400.00 ms / 10 runs (25.00 tokens per second)\n"
    )
    assert row["prefill_tok_per_s"] is None and row["ttft_ms"] is None
    assert row["decode_tok_per_s"] == 25.0


def test_all_zero_timings_are_a_failure(parse):
    zero = "0.00 ms / 1 {} (0.00 ms per token, inf tokens per second)\n"
    (row,) = parse(f"x: prompt eval time = {zero.format('tokens')}x: eval time = {zero.format('runs')}")
    assert row["status"] == "FAILED"
    assert "no time above zero" in row["cause"]


def test_interleaved_slots_of_a_server_keep_their_own_prompts(parse):
    def line(slot: int, what: str, time: int) -> str:
        return f"slot print_timing: id {slot:2} | task {slot + 5} | {what} time = {time}.00 ms / 10 tokens\n"

    rows = parse(
        line(0, "prompt eval", 10)
        + line(1, "prompt eval", 20)
        + line(1, "       eval", 200)
        + line(0, "eval", 100)
    )
    assert [(row["prefill_tok_per_s"], row["decode_tok_per_s"]) for row in rows] == [(500, 50), (1000, 100)]


def test_the_short_line_of_the_chat_tool(parse):
    (row,) = parse("\n[ Prompt: 123.4 t/s | Generation: 25.6 t/s ]\n")
    assert (row["prefill_tok_per_s"], row["decode_tok_per_s"]) == (123.4, 25.6)


# --- tables ---


def fields_of(row: dict, *names: str) -> list:
    return [row[name] for name in names]


def json_rows() -> list[dict]:
    keys = [
        "build_commit",
        "build_number",
        "backends",
        "model_type",
        "n_gpu_layers",
        "flash_attn",
        "n_prompt",
        "n_gen",
    ]
    both = []
    for prompt, generated, rate, std in ((512, 0, 1391.94, 2.35), (0, 128, 27.82, 0.03)):
        values = ["abc", 12, "CUDA", "llama 1B Q6_K", 999, 1, prompt, generated]
        both.append(
            {
                **dict(zip(keys, values, strict=True)),
                "avg_ts": rate,
                "stddev_ts": std,
                "samples_ts": [rate] * 5,
            }
        )
    return both


def as_sql(rows: list[dict], with_names: bool) -> str:
    names = [name for name in rows[0] if name != "samples_ts"]
    types = ",\n".join(f"  {name} {'REAL' if 'ts' in name else 'TEXT'}" for name in names)
    into = f"INSERT INTO llama_bench {'(' + ', '.join(names) + ') ' if with_names else ''}VALUES "
    values = ["(" + ", ".join(f"'{row[name]}'" for name in names) + ");\n" for row in rows]
    return f"CREATE TABLE IF NOT EXISTS llama_bench (\n{types}\n);\n\n" + "".join(
        into + value for value in values
    )


def as_csv(rows: list[dict]) -> str:
    names = [name for name in rows[0] if name != "samples_ts"]
    lines = [",".join(f'"{row[name]}"' for name in names) for row in rows]
    return "\n".join([",".join(names), *lines]) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        HEAD + PP + TG + "\nbuild: abc (12)\n",
        as_csv(json_rows()),
        json.dumps(json_rows(), indent=2) + "\n",
        json.dumps(json_rows()) + "\n",
        json.dumps({"host": "orin", "results": json_rows()}, indent=4),
        "".join(json.dumps(row) + "\n" for row in json_rows()),
        as_sql(json_rows(), True),
        as_sql(json_rows(), False),
    ],
    ids=["md", "csv", "json", "json-compact", "json-wrapped", "jsonl", "sql", "sql-dump"],
)
def test_every_output_format_gives_the_same_rows(parse, text):
    names = ("backend", "device", "model", "quantization", "test", "n_gpu_layers", "flash_attn", "build")
    rows = parse(
        "ggml_cuda_init: found 1 CUDA devices:\n  Device 0: Orin, compute capability 8.7, VMM: yes\n" + text
    )
    assert [fields_of(row, *names) for row in rows] == [
        ["llama.cpp", "CUDA", "llama 1B Q6_K", "Q6_K", test, 999, True, "abc (12)"]
        for test in ("pp512", "tg128")
    ]
    assert fields_of(rows[0], "prefill_tok_per_s", "prefill_tok_per_s_std", "decode_tok_per_s") == [
        1391.94,
        2.35,
        None,
    ]
    assert fields_of(rows[1], "decode_tok_per_s", "decode_tok_per_s_std", "prefill_tok_per_s") == [
        27.82,
        0.03,
        None,
    ]
    assert rows[0]["settings"]["gpu"] == "Orin"


@pytest.mark.parametrize("order", range(4))
def test_columns_are_found_by_name_in_any_order(parse, order):
    columns = {"model": "qwen2 7B Q4_K - Medium", "backend": "CUDA", "threads": "4", "n_ubatch": "256"}
    columns |= {"type_k": "q8_0", "mmap": "0", "fa": "0", "brand new": "x"}
    columns |= {"test": "pp512 @ d4096", "t/s": "812.50 +- 1.25"}
    names = list(columns)
    random.Random(order).shuffle(names)
    table = "\n".join(
        "| " + " | ".join(cells) + " |" for cells in (names, ["---"] * 10, [columns[n] for n in names])
    )
    (row,) = parse(table + "\n")
    assert fields_of(row, "test", "prompt_tokens", "depth_tokens") == ["pp512 @ d4096", 512, 4096]
    assert fields_of(row, "prefill_tok_per_s", "prefill_tok_per_s_std") == [812.5, 1.25]
    assert fields_of(row, "quantization", "n_threads", "flash_attn") == ["Q4_K_M", 4, False]
    assert row["settings"] | {"brand new": "x", "n_ubatch": "256", "type_k": "q8_0"} == row["settings"]


def test_a_mixed_test_is_neither_prefill_nor_decode(parse):
    (row,) = parse(HEAD + PP.replace("pp512", "pp512+tg128"))
    assert fields_of(row, "tok_per_s", "prefill_tok_per_s", "decode_tok_per_s") == [1391.94, None, None]


@pytest.mark.parametrize("cell", ["nan ± nan", "-nan ± 0.00", "inf ± nan", "0.00 ± 0.00", ""])
def test_a_rate_that_is_none_fails_with_its_cause(parse, cell):
    rows = parse(HEAD + PP + TG.replace("27.82 ± 0.03", cell))
    assert [row["status"] for row in rows] == ["ok", "FAILED"]
    assert "no tokens per second" in rows[1]["cause"]


def test_csv_with_other_lines_in_between(parse):
    (row,) = parse(
        "warning: clocks, fans, and so on, are not locked\n"
        + CSV_HEAD
        + "llama-bench: note, one, two, three\n"
        + CSV_ROW
    )
    assert fields_of(row, "prefill_tok_per_s", "quantization", "n_threads") == [812.5, "Q4_K_M", 4]
    assert row["settings"]["type_k"] == "q8_0"


def test_a_hand_made_table_of_other_engines(parse):
    (row,) = parse(
        "| Backend | Model | Prefill tok/s | Decode tok/s | TTFT (ms) | Notes |\n|---|---|---|---|---|---|\n"
        "| NV=1 | GPT-2 124M | 63 | 38.3 ± 0.2 | 2657 | warm |\n"
    )
    assert fields_of(row, "backend", "prefill_tok_per_s", "decode_tok_per_s", "ttft_ms") == [
        "NV=1",
        63,
        38.3,
        2657,
    ]


def test_progress_lines_give_the_repetitions(parse):
    progress = "llama-bench: benchmark 1/1: starting\nllama-bench: benchmark 1/1: prompt run 3/3\n"
    (row,) = parse(progress + HEAD + PP)
    assert row["n"] == 3


def test_rows_whose_head_is_lost(parse):
    rows = parse(PP + TG)
    assert [fields_of(row, "device", "quantization", "test") for row in rows] == [
        ["CUDA", "Q6_K", "pp512"],
        ["CUDA", "Q6_K", "tg128"],
    ]


# --- broken logs ---


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r\n").encode("utf-16"),
        lambda text: "\x1b[1m" + text.replace("\n", "\x1b[0m\n"),
        lambda text: text.replace("± ", "\xb1 ").encode("latin-1"),
        lambda text: text.replace("|\n", "|\n\x00\x00\x00"),
        lambda text: " 50%|####     | 1/2 [00:01]\r" + text,
        lambda text: b"\xff\xfe\x80\n" + text.encode(),
    ],
    ids=["crlf", "utf-16", "ansi", "latin-1", "nul", "progress", "invalid"],
)
def test_what_spoils_the_text_leaves_the_figures(parse, spoil):
    rows = parse(spoil(HEAD + PP + TG))
    assert [row["prefill_tok_per_s"] or row["decode_tok_per_s"] for row in ok(rows)] == [1391.94, 27.82]
    assert len(rows) == 2


def test_gzip_and_a_gzip_cut_off(parse):
    rng = random.Random(1)
    noise = "".join(f"{rng.random()}\n" for _ in range(20_000))
    packed = gzip.compress((HEAD + PP + TG + noise).encode())
    assert len(ok(parse(packed, "bench.log.gz"))) == 2
    rows = parse(packed[: len(packed) // 2], "bench.log.gz")
    assert len(ok(rows)) == 2
    assert any("gzip" in note for note in rows[0]["notes"])


@pytest.mark.parametrize("cut", range(1, len(TG.encode()), 11))
def test_a_row_cut_off_anywhere_is_never_a_number(tmp_path, cut):
    text = (HEAD + PP).encode() + TG.encode()[:-cut]
    rows = story.parse_log(io.BytesIO(text), 1 << 30)
    assert rows[0].prefill_tok_per_s == 1391.94
    if not text.rstrip().endswith(b"|") or cut > 2:
        assert all(row.status == "FAILED" for row in rows[1:])


@pytest.mark.parametrize(
    "as_text", [as_csv, lambda rows: json.dumps(rows, indent=2), lambda rows: as_sql(rows, True)]
)
def test_other_formats_cut_off_keep_the_first_row(parse, as_text):
    text = as_text(json_rows())
    rows = parse(text[: text.rindex("27.82")])
    assert rows[0]["prefill_tok_per_s"] == 1391.94
    assert [row["status"] for row in rows] == ["ok", "FAILED"]
    assert "breaks off" in rows[1]["cause"]


def test_a_bench_that_dies_between_its_tests(parse):
    begun = "llama-bench: benchmark 2/4: generation run 1/5\n"
    rows = parse("llama-bench: benchmark 1/4: starting\n" + HEAD + PP + begun)
    assert [row["status"] for row in rows] == ["ok", "FAILED"]
    assert "2/4" in rows[1]["cause"]


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (GPT2 + TRACE, "RuntimeError: CUDA Error 716, misaligned address"),
        (GPT2 + "Killed\n", "Killed"),
        (GPT2 + "run.sh: line 3: 4711 Segmentation fault   (core dumped) NV=1\n", "Segmentation fault"),
        ("CUDA error: out of memory\n  current device: 0\nAborted (core dumped)\n", "CUDA error: out of"),
        (
            "load: error loading model: missing tensor 'x'\nmain: error: unable to load model\n",
            "missing tensor",
        ),
        ("AssertionError: CPU=1 is deprecated, use DEV=CPU instead\n", "AssertionError: CPU=1 is deprecated"),
        ("bash: llama-bench: command not found\n", "command not found"),
        ("usage: gpt2.py [-h]\ngpt2.py: error: unrecognized arguments: --x\n", "unrecognized arguments"),
        (
            "common_download_file: trying to download model from https://x.org/m.gguf\n",
            "stalled in a download",
        ),
        ("ram used:  3.94 GB, layers.12.wq.weight   :  74%|###  |", "74 %"),
        (GPT2, "ends before any result"),
        ("", "empty file"),
        ("\n\n \n", "nothing recognised"),
        ("Dear diary,\ntoday was fine.\n", "nothing recognised"),
        ("ValueError: Failed to load model from file: m.gguf\n", "ValueError: Failed to load"),
    ],
)
def test_a_failure_is_a_row_with_its_cause(parse, log, cause):
    (row,) = parse(log)
    assert row["status"] == "FAILED"
    assert cause in row["cause"]
    assert row["decode_tok_per_s"] is None


@pytest.mark.parametrize("times", [(9000, 5000, 2000), (2000, 300)])
def test_a_run_that_dies_in_its_warm_up_has_no_decode_rate(parse, times):
    rows = parse("using NV backend\n" + "".join(f"ran model in {time}.00 ms\n" for time in times))
    assert [row["status"] for row in rows] == ["FAILED"]
    assert rows[0]["decode_tok_per_s"] is None and rows[0]["ttft_ms"] == times[0]


@pytest.mark.parametrize("torn", ["INSERT INTO llama_bench (build_commit, ba", '"abc","12","CUDA","qwen'])
def test_a_row_torn_at_its_beginning_is_a_failed_row(parse, torn):
    rows = parse(CSV_HEAD + CSV_ROW + torn)
    assert [row["status"] for row in rows] == ["ok", "FAILED"]


def test_messages_that_differ_in_figures_alone_are_judged_alike(parse):
    noise = "".join(f"[{n}.{n:06}] nvgpu: error: status 0x{n:08x}\n" for n in range(3000))
    (row,) = parse(GPT2 + noise + "[7.1] nvgpu: misaligned address 0xff12\n" + noise)
    assert row["status"] == "FAILED" and row["cause"].endswith("misaligned address 0xff12")


def test_a_failed_run_before_and_after_good_ones(parse):
    rows = parse(GPT2 + TRACE + GPT2.replace("NV", "CUDA") + TOKENS + TRACE)
    assert [(row["status"], row["device"]) for row in rows] == [
        ("FAILED", "NV"),
        ("ok", "CUDA"),
        ("FAILED", "CUDA"),
    ]


def test_a_run_killed_after_some_tokens_is_a_result_and_a_failure(parse):
    rows = parse(GPT2 + TOKENS + "Killed\n\nreal 0m9.120s, user 5 ms, sys 1 ms\n")
    assert [row["status"] for row in rows] == ["ok", "FAILED"]
    assert rows[1]["cause"] == "Killed"


def test_the_error_before_a_cascade_is_named_too(parse):
    (row,) = parse(
        GPT2
        + "ggml: cudaMalloc failed: out of memory\n"
        + TRACE.replace("CUDA Error 716, misaligned address", "bad")
    )
    assert row["cause"].startswith("RuntimeError: bad")
    assert "out of memory" in row["cause"]


def test_a_gigantic_log_of_one_traceback_is_one_failed_row(parse):
    rows = parse(GPT2 + TRACE * 30_000)
    assert len(rows) == 1
    assert "misaligned address" in rows[0]["cause"]


def test_a_log_beyond_the_limit_is_read_at_both_ends(tmp_path):
    path = tmp_path / "long.log"
    path.write_text(HEAD + PP + "waiting\n" * 400_000 + TG)
    done = run_script(path, "--json", "--max_mb", 2)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["test"] for row in rows] == ["pp512", "tg128"]
    assert all("only the first and last 1 MB" in row["notes"][-1] for row in rows)


LINES = [
    *(
        b"total 302.61 ms, 3.30 tok/s\n",
        b"x: prompt eval time = 1e999 ms / 9 tokens",
        b"ran model in nan ms\n",
    ),
    *(b"Traceback (most recent call last)\n", b"ran model in 1e-320 ms\n", b"\x1b[", b"\r", b"\n", b"%"),
    *(
        b"1/2 99999999%\n",
        b"using NV backend\n",
        b"eval time = -5 ms / 0 runs\n",
        b"build: x (1)\n",
        b"\x1f\x8b",
    ),
    b"loaded weights in 1 ms, inf GB loaded at nan GB/s\n",
]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(st.binary(max_size=80), st.sampled_from(LINES)), max_size=12).map(b"".join))
def test_no_bytes_raise(content):
    reader = sifting.sift(io.BytesIO(content), 1 << 20, [])
    for event in read_timing_lines.read_timings(reader.kept):
        json.loads(json.dumps(event, allow_nan=False))
    read_bench_tables.read_tables(reader.tabled)


TABLE_BITS = [
    *("|", "t/s", "test", "pp512", "tg", "---", "±", "nan", "1e400", "9" * 400, "\n", "{", "}", "[", "]"),
    *('"avg_ts":', '"x": [', ",", "'", "(", ")", ";", "INSERT INTO llama_bench ", "VALUES (", '"', " TEXT"),
    *(
        "CREATE TABLE llama_bench (\n",
        "n_gen",
        "avg_ns",
        "build: a (1)\n",
        "\x00",
        "\u2028",
        "99999999999999",
    ),
    "llama-bench: benchmark 1/9: run 1/2",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(TABLE_BITS), st.text(max_size=6)), max_size=60).map("".join))
def test_no_text_breaks_the_tables(text):
    rows = read_bench_tables.read_tables(enumerate(text.split("\n")))
    for row in rows:
        json.loads(json.dumps(row, allow_nan=False))
        assert row.get("status") == "FAILED" or any(
            row.get(f"{p}tok_per_s") for p in ("", "prefill_", "decode_")
        )


# --- the command ---


def test_out_and_table(tmp_path):
    log, out = tmp_path / "a.log", tmp_path / "rows" / "rows.jsonl"
    log.write_text(HEAD + PP + TG + GPT2 + TRACE)
    assert run_script(log, "--out", out).stdout == ""
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok", "ok", "FAILED"]
    assert {row["source_file"] for row in rows} == {str(log)}
    assert set(rows[0]) == set(rows_module.Row.__dataclass_fields__)
    shown = run_script(log)
    assert "1391.94 ±2.35" in shown.stdout and "FAILED: RuntimeError" in shown.stdout
    table = [line for line in shown.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, table)) <= 80


def test_missing_files_are_rows_and_unwritable_output_is_an_error(tmp_path):
    log = tmp_path / "a.log"
    log.write_text(HEAD + PP)
    done = run_script(log, tmp_path / "no.log", tmp_path, "--json")
    assert done.returncode == 0
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["ok", "FAILED", "FAILED"]
    (tmp_path / "file").write_text("")
    failed = run_script(log, "--out", tmp_path / "file" / "rows.jsonl")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: cannot write") and "--out" in failed.stderr


def test_names_the_log_lacks_come_from_the_flags(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("seed = 42\n" + "total 302.61 ms, 3.30 tok/s\n" * 5 + HEAD + PP)
    rows = [
        json.loads(line)
        for line in run_script(log, "--json", "--device", "NV", "--model", "M").stdout.splitlines()
    ]
    assert [(row["device"], row["model"]) for row in rows] == [("NV", "M"), ("CUDA", "llama 1B Q6_K")]


def test_standard_input(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "-", "--json"], input=(HEAD + PP).encode(), capture_output=True, timeout=300
    )
    assert json.loads(done.stdout)["prefill_tok_per_s"] == 1391.94


@pytest.mark.parametrize("reader", [read_bench_tables.read_tables, read_timing_lines.read_timings])
def test_the_readers_alone(reader):
    assert reader(enumerate((HEAD + PP + GPT2 + TOKENS).split("\n"), 1))[-1]
    for nothing in ([], enumerate(SCRIPT.read_text().split("\n"), 1)):
        assert not [found for found in reader(nothing) if found.get("kind", "row") == "row"]


# --- what belongs to which result ---

CLI = (
    "build: 4567 (abc) with cc\nllama_model_loader: loaded meta data with 30 key-value pairs\n"
    "print_info: file type   = Q6_K\nllama_context: n_threads = 4\n"
    "llama_perf_context_print:        load time =     812.50 ms\n"
    "llama_perf_context_print: prompt eval time =     100.00 ms /    50 tokens (2.00 ms per token,"
    " 500.00 tokens per second)\n"
    "llama_perf_context_print:        eval time =    1000.00 ms /    20 runs   (50.00 ms per token,"
    " 20.00 tokens per second)\n"
)
SERVED = (
    "slot print_timing: id  0 | task 0 | \n"
    "prompt eval time =     200.00 ms /    60 tokens (3.33 ms per token, 300.00 tokens per second)\n"
    "       eval time =    2000.00 ms /    30 tokens (66.67 ms per token, 15.00 tokens per second)\n"
)


@pytest.mark.parametrize(
    "between", ["", "srv  load_model: loading model 'x.gguf'\n", "$ llama-server -m x.gguf\n"]
)
def test_facts_of_one_result_never_reach_the_next(parse, between):
    cli, served = ok(parse(CLI + between + SERVED))
    assert (cli["settings"]["load_ms"], cli["quantization"], cli["n_threads"]) == (812.5, "Q6_K", 4)
    assert (served["test"], served["prefill_tok_per_s"], served["decode_tok_per_s"]) == ("request", 300, 15)
    assert "load_ms" not in served["settings"]
    assert (served["quantization"], served["n_threads"]) == (None, None)


def test_a_load_is_the_first_request_s_alone(parse):
    first, second = ok(parse(CLI + CLI.split("load time =     812.50 ms\n")[1]))
    assert first["settings"]["load_ms"] == 812.5
    assert "load_ms" not in second["settings"]
    assert second["quantization"] == "Q6_K"  # of the run, which has not changed


def test_the_gpu_of_a_table_is_that_of_its_own_run(parse):
    gpus = [
        f"ggml_cuda_init: found 1 CUDA devices:\n  Device 0: {gpu}, compute capability 8.7, VMM: yes\n"
        for gpu in ("Orin", "H200")
    ]
    rows = ok(parse(gpus[0] + HEAD + TG + "\nbuild: x (1)\n" + gpus[1] + HEAD + TG))
    assert [row["settings"]["gpu"] for row in rows] == ["Orin", "H200"]


def test_of_several_runs_the_last_is_the_warm_one_and_named_so(parse):
    cold = GPT2 + TOKENS
    warm = GPT2 + "".join(f"\nran model in {time:6.2f} ms\n" for time in (31.0, 26, 25, 26, 25, 26, 25))
    first, last = ok(parse(cold + warm))
    assert (first["run"], first["runs"], last["run"], last["runs"]) == (1, 2, 2, 2)
    assert any("run 1 of 2" in note and "the last one is the warm one" in note for note in first["notes"])
    assert any("run 2 of 2 in this log; the warm one" in note for note in last["notes"])
    assert not any("compilation" in note for note in last["notes"])  # its first token is warm
    (alone,) = ok(parse(cold))
    assert (alone["run"], alone["runs"]) == (None, None)


def test_a_slow_first_token_alone_may_be_the_prompt(parse):
    (row,) = ok(parse(GPT2 + "".join(f"\nran model in {time} ms\n" for time in (120, *[25] * 9))))
    assert row["warmup_excluded"] == 1
    assert any("the prompt, and in a fresh process the compilation" in note for note in row["notes"])


NVRTC = (
    "using CUDA backend\nTraceback (most recent call last):\n"
    '  File "compiler_cuda.py", line 40, in compile\n    raise CompileError(x)\n'
    "tinygrad.device.CompileError: Nvrtc Error 6, NVRTC_ERROR_COMPILATION\n"
    '<null>(3): catastrophic error: cannot open source file "cuda_fp16.h"\n  #include <cuda_fp16.h>\n'
    '1 catastrophic error detected in the compilation of "<null>".\nCompilation terminated.\n'
)


@pytest.mark.parametrize(
    ("log", "named"),
    [
        (NVRTC, "cuda_fp16.h"),
        (
            "using NV backend\nlibnvrtc.so.12: cannot open shared object file: No such file or directory\n"
            + TRACE,
            "716, misaligned address",  # an exception that says what is wrong is not pushed aside
        ),
        (
            "gcc: fatal error: cannot find -lcuda\nTraceback (most recent call last):\n  File 'x'\n"
            "subprocess.CalledProcessError: Command 'gcc' returned non-zero exit status 1.\n",
            "cannot find -lcuda",
        ),
    ],
)
def test_the_cause_is_the_line_that_names_it(parse, log, named):
    (row,) = parse(log)
    assert row["status"] == "FAILED"
    assert named in row["cause"].split(" (")[0]


OLLAMA = (
    "$ ollama run llama3.2:1b --verbose\nThe sky is blue because ...\n\n"
    "total duration:       1m4.104182ms\nload duration:        22.5ms\n"
    "prompt eval count:    26 token(s)\nprompt eval duration: 130ms\nprompt eval rate:     200.00 tokens/s\n"
    "eval count:           298 token(s)\neval duration:        3.9s\neval rate:            76.41 tokens/s\n"
)


def test_ollama_s_verbose_timings_are_read(parse):
    (row,) = ok(parse(OLLAMA))
    assert (row["backend"], row["prompt_tokens"], row["generated_tokens"]) == ("Ollama", 26, 298)
    assert (row["prefill_tok_per_s"], row["decode_tok_per_s"]) == (pytest.approx(200), 76.41)
    assert (row["ttft_ms"], row["tpot_ms"]) == (130, pytest.approx(3900 / 298))
    assert row["settings"]["load_ms"] == 22.5
    assert len(ok(parse(OLLAMA * 3))) == 3


@pytest.mark.parametrize("device", ["NV", "CPU:LLVM", "CUDA:1", "CPU:0"])
def test_tinygrad_s_device_strings_are_kept_whole(parse, device):
    (row,) = ok(parse(GPT2.replace("NV", device) + TOKENS))
    assert row["device"] == device


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    numbers=st.lists(st.integers(0, 10**9), min_size=1, max_size=40),
    form=st.sampled_from(
        [
            "[{0}.{0}] Xid 31, pid={0}, name=python3, MMU Fault\n",
            'Traceback (most recent call last):\n  File "x.py", line {0}\nRuntimeError: CUDA Error {0}\n',
            "failed to launch r_{0}: error at 0x{0:x}\n",
            "nothing of note {0}\n",
        ]
    ),
)
def test_lines_of_one_shape_are_judged_as_each_by_itself(numbers, form):
    """The memory of shapes saves time and changes nothing."""
    content = "".join(form.format(number) for number in numbers).encode()
    together = sifting.sift(io.BytesIO(content), 1 << 30, [])
    apart = sifting.LogReader()
    for line, raw in enumerate(content.splitlines(keepends=True), 1):
        apart._shapes.clear()
        apart.take(line, [raw])
    assert (together.kept, together.failures, together.last_text) == (
        apart.kept,
        apart.failures,
        apart.last_text,
    )
