"""Result tables of llama-bench, in any of its output formats: one row per result.

Reads Markdown, CSV, JSON (pretty or on one line), JSON lines and SQL, also several of them in one file and
with other lines in between: columns are found by their header name, never by their place, and a column that
is not known is kept under "settings". llama-batched-bench and other Markdown tables with a tok/s
column are read too. A row that is cut off or prints nan is a FAILED result with its cause, never a number.

Rates are in tokens per second, missing values left out. The input must be plain text: story.py takes escape
codes, progress bars and gzip off first.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgebench.records.run import as_number

Fields = dict[str, Any]

# llama-bench prints short column heads in Markdown and the long names everywhere else.
LONG_NAMES = {
    "ngl": "n_gpu_layers",
    "threads": "n_threads",
    "th": "n_threads",
    "fa": "flash_attn",
    "sm": "split_mode",
    "mg": "main_gpu",
    "nkvo": "no_kv_offload",
    "mmap": "use_mmap",
    "dio": "use_direct_io",
    "embd": "embeddings",
    "dev": "devices",
    "ts": "tensor_split",
    "ot": "tensor_buft_overrides",
    "nopo": "no_op_offload",
    "noh": "no_host",
    "lm": "load_mode",
    "rpk": "repack",
    "fitt": "fit_target",
    "fitc": "fit_min_ctx",
}
USED = {
    *(
        "model",
        "model_type",
        "backend",
        "backends",
        "test",
        "n_prompt",
        "n_gen",
        "n_depth",
        "avg_ns",
        "avg_ts",
    ),
    *(
        "stddev_ns",
        "stddev_ts",
        "samples_ns",
        "samples_ts",
        "n_threads",
        "n_gpu_layers",
        "build_commit",
        "pp",
        "tg",
    ),
    *("build_number", "rate", "prefill_rate", "decode_rate", "ttft_ms", "b"),
}
RATE_HEAD = re.compile(r"\b(?:t|tok|tokens?)\s*/\s*s(?:ec)?\b|\btokens per second\b|\btps\b", re.IGNORECASE)
PREFILL_HEAD = re.compile(r"prefill|prompt|\bs_pp\b|\bpp\b", re.IGNORECASE)
DECODE_HEAD = re.compile(r"decode|generat|\bs_tg\b|\btg\b|\beval\b", re.IGNORECASE)
NUMBER = r"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|nan(?:\(\w+\))?|inf(?:inity)?)"
# The sign between mean and deviation is two bytes of UTF-8: logs also hold it mangled, or as +- or +/-.
MEAN_STD = re.compile(rf"^({NUMBER})(?:\s*[^\d\s.]{{1,4}}\s*({NUMBER}))?$", re.IGNORECASE)
QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])((?:IQ|TQ|Q)\d(?:_\w+)?|MXFP4|BF16|F16|F32)(?![A-Za-z0-9])"
    r"(?: - (Small|Medium|Large)\b)?",
    re.IGNORECASE,
)
PRETTY_PAIR = re.compile(r'^\s*"(\w+)"\s*:\s*(.*?)\s*,?\s*$')
SQL_INSERT = re.compile(r"INSERT INTO \W?llama_bench\W?\s*(?:\(([^)]*)\))?\s*VALUES\s*\((.*)", re.IGNORECASE)
SQL_VALUE = re.compile(r"'((?:[^']|'')*)'|([^,'();\s]+)")
SQL_COLUMN = re.compile(r"^\s*(\w+)\s+(?:TEXT|INTEGER|REAL)\b", re.IGNORECASE)
FOOTER = re.compile(r"^build:\s*(\S+ \(\d+\))")
REPETITION = re.compile(r"llama-bench: benchmark \d+/\d+:.*\brun \d+/(\d+)")
LEADING = ("model", "size", "params", "backend")
BENCH_TAIL = re.compile(rf"\|\s*(?:pp|tg)\s*\d[^|]*\|\s*{NUMBER}\s*[^\d\s.|]{{1,4}}\s*{NUMBER}\s*\|\s*$")
CUT_OFF = "the log breaks off in the middle of this row"
MOST_ROWS = 100_000  # a table of a campaign has tens of rows: whatever brings more is no table


@dataclass
class Tables:
    """What the lines so far have opened: the heads of the tables, an object of pretty-printed JSON."""

    rows: list[Fields] = field(default_factory=list)
    header: list[str] | None = None  # Markdown
    closed: bool = True  # the Markdown head ends in a bar, so every whole row does
    csv_header: list[str] | None = None
    sql_header: list[str] = field(default_factory=list)
    in_create: bool = False
    pretty: Fields | None = None  # the innermost open object
    array: list[Any] | None = None  # its open list
    repetitions: int | None = None  # from --progress lines
    no_build: int = 0  # rows from here on still wait for the build footer


# --- single values ---


def scalar(text: str, name: str = "") -> Any:
    """A printed value: number, truth value or text; nan and inf, which JSON has no word for, are None.

    >>> scalar("12"), scalar('"q8_0"'), scalar("-nan"), scalar("12e4567", "build_commit")
    (12, 'q8_0', None, '12e4567')
    """
    text = text.strip().strip('"').strip()
    if name == "build_commit":  # some commits look like numbers
        return text
    if re.fullmatch(r"[-+]?\d{1,18}", text):
        return int(text)
    if re.fullmatch(NUMBER, text, re.IGNORECASE):
        return as_number(text)
    return {"true": True, "false": False, "null": None}.get(text, text)


def whole(value: object) -> int | None:
    number = as_number(value)
    return int(number) if number is not None and abs(number) < 1e15 else None


def switch(value: object) -> bool | None:
    """Flash attention as on or off; auto (also printed as -1) does not say which it was."""
    return {
        "1": True,
        "true": True,
        "on": True,
        "enabled": True,
        "0": False,
        "false": False,
        "off": False,
    }.get(str(value).removesuffix(".0").lower())


def quantization(text: str) -> str | None:
    """The weight type named in a model description or file name, in the form file names use.

    >>> quantization("llama 7B Q4_K - Medium"), quantization("all F32"), quantization("gpt2")
    ('Q4_K_M', 'F32', None)
    """
    found = QUANTIZATION.search(text)
    if not found:
        return None
    return found[1].upper() + (f"_{found[2][0].upper()}" if found[2] else "")


def long_name(head: str) -> str:
    """The name of a column, whichever of its spellings the table uses.

    >>> [long_name(head) for head in ("ngl", "t/s", "S_TG t/s", "Prefill tok/s", "TTFT (ms)", "n_ubatch")]
    ['n_gpu_layers', 'rate', 'decode_rate', 'prefill_rate', 'ttft_ms', 'n_ubatch']
    """
    head = head.strip().strip('"*`').strip().lower()
    if RATE_HEAD.search(head):
        if PREFILL_HEAD.search(head):
            return "prefill_rate"
        return "decode_rate" if DECODE_HEAD.search(head) else "rate"
    if head.startswith("ttft"):
        return "ttft_ms"
    return LONG_NAMES.get(head, head)


def mean_and_std(cell: object) -> tuple[float | None, float | None]:
    """A cell such as 25.61 ± 0.01.

    >>> mean_and_std("25.61 +- 0.01"), mean_and_std("nan ± nan"), mean_and_std("~63")
    ((25.61, 0.01), (None, None), (None, None))
    """
    found = MEAN_STD.match(str(cell).strip())
    return (as_number(found[1]), as_number(found[2])) if found else (None, None)


# --- one row ---


def counts_of(fields: Mapping[str, Any]) -> tuple[int, int, int]:
    """Prompt tokens, generated tokens and context depth of a test, from its name or its own columns."""
    name = str(fields.get("test") or "")
    if name:
        counts = [re.search(rf"{sign}\s*(\d{{1,9}})\b", name) for sign in (r"\bpp", r"\btg", r"@\s*d")]
        return tuple(int(found[1]) if found else 0 for found in counts)  # type: ignore[return-value]
    prompt, generated = (
        whole(fields.get("n_prompt", fields.get("pp"))),
        whole(fields.get("n_gen", fields.get("tg"))),
    )
    return prompt or 0, generated or 0, whole(fields.get("n_depth")) or 0


def rates_of(fields: Mapping[str, Any], tokens: int) -> tuple[float | None, float | None]:
    """Mean and deviation of the tokens per second, from the table's own column or from the nanoseconds."""
    if "rate" in fields:
        return mean_and_std(fields["rate"])
    mean = as_number(fields.get("avg_ts"))
    nanoseconds = as_number(fields.get("avg_ns"))
    if mean is None and nanoseconds and tokens:
        return 1e9 * tokens / nanoseconds, None
    return mean, as_number(fields.get("stddev_ts"))


def name_of_test(prompt: int, generated: int, depth: int, fields: Mapping[str, Any]) -> str:
    parts = [f"pp{prompt}" if prompt else "", f"tg{generated}" if generated else ""]
    name = "+".join(part for part in parts if part) or str(fields.get("test") or "table")
    batch = whole(fields.get("b"))
    return name + (f" @ d{depth}" if depth else "") + (f" x{batch}" if batch and batch > 1 else "")


def speeds(fields: Mapping[str, Any], prompt: int, generated: int) -> Fields:
    """The rates under the name of the phase they belong to: a test of both phases has neither's rate."""
    if "prefill_rate" in fields or "decode_rate" in fields:
        prefill, decode = mean_and_std(fields.get("prefill_rate")), mean_and_std(fields.get("decode_rate"))
        return {
            **named("prefill_tok_per_s", prefill),
            **named("decode_tok_per_s", decode),
            "ttft_ms": as_number(fields.get("ttft_ms")),
        }
    rate = rates_of(fields, prompt + generated)
    phase = (
        "tok_per_s"
        if bool(prompt) == bool(generated)
        else "prefill_tok_per_s"
        if prompt
        else "decode_tok_per_s"
    )
    return named(phase, rate)


def named(name: str, rate: tuple[float | None, float | None]) -> Fields:
    usable = rate[0] if rate[0] and rate[0] > 0 else None
    return {name: usable, f"{name}_std": rate[1] if usable else None}


def row_of(fields: Fields, line: int, repetitions: int | None) -> Fields:
    """The result a table's row stands for; FAILED where it gives no rate above zero."""
    prompt, generated, depth = counts_of(fields)
    model = str(fields.get("model_type") or fields.get("model") or "")
    engine_table = not ({"prefill_rate", "decode_rate"} & fields.keys() and "pp" not in fields)
    device = fields.get("backends") or fields.get("backend")
    samples = fields.get("samples_ts") or fields.get("samples_ns")
    row = {
        "backend": "llama.cpp" if engine_table else device,
        "device": device if engine_table else None,
        "model": model or None,
        "quantization": quantization(model) or quantization(str(fields.get("model_filename") or "")),
        "test": name_of_test(prompt, generated, depth, fields),
        "prompt_tokens": prompt or None,
        "generated_tokens": generated or None,
        "depth_tokens": depth or None,
        **speeds(fields, prompt, generated),
        "n": len(samples) if isinstance(samples, list) else repetitions,
        "n_threads": whole(fields.get("n_threads")),
        "n_gpu_layers": whole(fields.get("n_gpu_layers")),
        "flash_attn": switch(fields.get("flash_attn")),
        "build": f"{fields['build_commit']} ({fields.get('build_number', '?')})"
        if fields.get("build_commit")
        else None,
        "settings": {
            k: v
            for k, v in fields.items()
            if k not in USED and not isinstance(v, list) and v not in ("", None)
        },
        "source_line": line,
    }
    rates = [row.get(name) for name in ("prefill_tok_per_s", "decode_tok_per_s", "tok_per_s")]
    if not any(rates):
        printed = fields.get("rate", fields.get("avg_ts"))
        row |= {
            "status": "FAILED",
            "cause": f"the table gives no tokens per second here (it prints {printed!r})",
        }
    elif row.get("decode_tok_per_s"):
        row["tpot_ms"] = 1e3 / row["decode_tok_per_s"]
    return {name: value for name, value in row.items() if value is not None}


def broken(line: int, text: str, cause: str) -> Fields:
    return {
        "backend": "llama.cpp",
        "status": "FAILED",
        "cause": f"{cause}: {text.strip()[:120]}",
        "source_line": line,
    }


# --- the formats: each takes a line, returns True if the line was its own ---


def read_markdown(tables: Tables, line: int, text: str) -> bool:
    if text.count("|") < 2:
        return False
    text = text[text.index("|") :] if text.lstrip().startswith("|") or tables.closed else text
    cells = [cell.strip() for cell in text.strip().strip("|").split("|")]
    if all(re.fullmatch(r":?-+:?", cell) for cell in cells):
        return True
    if any(RATE_HEAD.search(cell) for cell in cells) and not any(re.match(r"\d", cell) for cell in cells):
        tables.header, tables.closed = [long_name(cell) for cell in cells], text.rstrip().endswith("|")
        return True
    if tables.header is None:
        if len(cells) < 6 or not BENCH_TAIL.search(text):
            return False
        # The head of the table is lost: llama-bench's first four columns and last two always stand there.
        names = [*LEADING, *(f"column {place}" for place in range(5, len(cells) - 1)), "test", "rate"]
        tables.rows.append(row_of(dict(zip(names, cells, strict=True)), line, tables.repetitions))
        return True
    whole_row = text.rstrip().endswith("|") or not tables.closed
    if len(cells) == len(tables.header) and whole_row:
        tables.rows.append(row_of(dict(zip(tables.header, cells, strict=True)), line, tables.repetitions))
    elif len(cells) <= len(tables.header):
        tables.rows.append(broken(line, text, CUT_OFF))
    return True


def read_csv(tables: Tables, line: int, text: str) -> bool:
    if text.count(",") < 3:
        return False
    try:
        cells = next(csv.reader([text]), [])
    except csv.Error:
        return False
    names = [cell.strip() for cell in cells]
    if "avg_ts" in names or ("avg_ns" in names and "n_gen" in names):
        tables.csv_header = names
        return True
    if tables.csv_header is None or text.lstrip()[:1] in "{[" or len(cells) > len(tables.csv_header):
        return False
    if len(cells) == len(tables.csv_header) and text.count('"') % 2 == 0:
        fields = {name: scalar(cell, name) for name, cell in zip(tables.csv_header, cells, strict=True)}
        tables.rows.append(row_of(fields, line, tables.repetitions))
    elif len(cells) > 5 or text.startswith('"'):  # fewer commas may stand in any sentence
        tables.rows.append(broken(line, text, CUT_OFF))
    return True


def read_sql(tables: Tables, line: int, text: str) -> bool:
    if "CREATE TABLE" in text.upper():
        tables.in_create, tables.sql_header = "llama_bench" in text, []
        return tables.in_create
    insert = SQL_INSERT.search(text)
    if tables.in_create and not insert:
        column = SQL_COLUMN.match(text)
        tables.in_create = column is not None
        if column:
            tables.sql_header.append(column[1])
        return True
    if not insert:
        torn = re.match(r"\s*INSERT INTO \W?llama_bench\b", text, re.IGNORECASE)
        if torn:
            tables.rows.append(broken(line, text, CUT_OFF))
        return torn is not None
    tables.in_create = False
    names = [name.strip() for name in insert[1].split(",")] if insert[1] else tables.sql_header
    values = [quoted.replace("''", "'") or plain for quoted, plain in SQL_VALUE.findall(insert[2])]
    if names and len(values) == len(names) and text.rstrip().endswith((");", ")")):
        fields = {name: scalar(value, name) for name, value in zip(names, values, strict=True)}
        tables.rows.append(row_of(fields, line, tables.repetitions))
    else:
        tables.rows.append(broken(line, text, CUT_OFF))
    return True


def objects(value: object) -> Iterator[Fields]:
    """Every object with a result, however deep a wrapper has put it."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "avg_ts" in item or "avg_ns" in item:
                yield item
            waiting.extend(reversed(list(item.values())))
        elif isinstance(item, list):
            waiting.extend(reversed(item))


def read_json_line(tables: Tables, line: int, text: str) -> bool:
    """Objects that stand on one line: JSON lines, or a whole array made compact."""
    if text.lstrip()[:1] not in ("{", "[") or ('"avg_' not in text and '"model_' not in text):
        return False
    # llama-bench writes what printf makes of a division by zero, which is not JSON.
    text = re.sub(r"(?<=[:\s,\[])[-+]?(?:nan(?:\(\w+\))?|inf)(?=[\s,}\]])", "null", text)
    try:
        found = list(objects(json.loads(text.strip().rstrip(","))))
    except (ValueError, RecursionError):
        tables.rows.append(broken(line, text, CUT_OFF))
        return True
    tables.rows.extend(row_of(fields, line, tables.repetitions) for fields in found)
    return True


def close_object(tables: Tables, line: int) -> None:
    if tables.pretty is not None and ("avg_ts" in tables.pretty or "avg_ns" in tables.pretty):
        tables.rows.append(row_of(tables.pretty, line, tables.repetitions))
    tables.pretty = tables.array = None


def read_json_pretty(tables: Tables, line: int, text: str) -> bool:
    """An object over many lines, with the lines of another program perhaps in between."""
    bare = text.strip().rstrip(",").strip()
    if bare.endswith("{"):
        tables.pretty, tables.array = {}, None
        return True
    if tables.pretty is None:
        return False
    if bare in ("}", "}]") and tables.array is None:
        close_object(tables, line)
        return True
    if tables.array is not None:
        if bare.startswith("]"):
            tables.array = None
        else:
            tables.array.append(scalar(bare))
        return True
    pair = PRETTY_PAIR.match(text)
    if not pair:
        return False
    name, value = pair[1], pair[2]
    if value.startswith("["):
        items = [scalar(item) for item in value.strip("[] ").split(",") if item.strip()]
        tables.pretty[name] = items
        tables.array = None if "]" in value else items
    else:
        tables.pretty[name] = scalar(value, name)
    return True


READERS: tuple[Callable[[Tables, int, str], bool], ...] = (
    read_json_line,
    read_json_pretty,
    read_sql,
    read_markdown,
    read_csv,
)


def read_tables(lines: Iterable[tuple[int, str]]) -> list[Fields]:
    """The results of all tables in numbered lines of text, in their order."""
    tables, last = Tables(), 0
    for last, text in lines:
        if len(tables.rows) >= MOST_ROWS:
            break
        footer, repetition = FOOTER.match(text), REPETITION.search(text)
        if footer:
            for row in tables.rows[tables.no_build :]:
                row.setdefault("build", footer[1])
            tables.no_build, tables.header = len(tables.rows), None
        elif repetition:
            tables.repetitions = whole(repetition[1])
        else:
            any(reader(tables, last, text) for reader in READERS)
    if tables.pretty and {"model_filename", "build_commit", "avg_ts"} & tables.pretty.keys():
        tables.rows.append(broken(last, f"object with {len(tables.pretty)} fields", CUT_OFF))
    return tables.rows
