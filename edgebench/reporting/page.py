"""One page that says what the longer prompt bought: self-contained, light and dark, fit to print.

The answer in three sentences, every caveat, the charts, the tables, one task's answers side by side, the
method and where each number comes from. No network, no script: it opens from a USB stick. All text of models
and files is escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.records.analysis import read_analysis
from edgebench.records.jsonl import read_jsonl, sha256_of
from edgebench.records.run import task_of
from edgebench.reporting import charts, tables

ANSWER_LENGTH = 1200  # characters of an answer shown
SECTIONS = ("Levels", "Prompt or answer", "The judge", "Quality and cost")
DATA_SECTION = "How good the data are"
Row = Mapping[str, Any]
# Ink on paper and each series colour on its paper: 4.5 to 1 or more, in both schemes.
STYLE = """
:root { color-scheme: light dark;
  --paper: #fdfdfc; --panel: #f3f4f2; --ink: #1f2933; --soft: #4b5763; --faint: #8a939d; --line: #d5d9d6;
  --alert: #8c1d18; --alert-paper: #fdecea; --link: #0b5394;
  --c0: #0b62a4; --c1: #b3470f; --c2: #1b7340; --c3: #7a3fa0; --c4: #a3264f; --c5: #5b6400; --c6: #00707a;
  --c7: #6b5344; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14181c; --panel: #1d2329; --ink: #e8eaec; --soft: #b4bdc6; --faint: #7c8793; --line: #37414b;
  --alert: #ffb4ab; --alert-paper: #3b1512; --link: #8ec5ff;
  --c0: #6cb6ff; --c1: #ffa05c; --c2: #5fd08f; --c3: #cfa4f5; --c4: #ff93b3; --c5: #c9d352; --c6: #4fd0dc;
  --c7: #d3b8a3; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
main, header, footer { max-width: 74rem; margin: 0 auto; padding: 0 1.1rem; }
header { padding-top: 2rem; }
h1 { font-size: clamp(1.5rem, 4.5vw, 2.1rem); line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; padding-top: .7rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--link); }
.facts, figcaption, .note, footer { color: var(--soft); font-size: .92rem; }
.answer { font-size: clamp(1.08rem, 2.6vw, 1.28rem); line-height: 1.5; padding: 0; margin: 1.2rem 0;
list-style: none; } .answer li { margin: 0 0 .8rem; padding-left: .9rem; border-left: 4px solid var(--c0);
max-width: 50rem; } .answer li:nth-child(2) { border-color: var(--c2); }
.answer li:nth-child(3) { border-color: var(--c1); }
.alert { background: var(--alert-paper); color: var(--alert); border: 1px solid currentColor; border-radius:
.4rem;
  padding: .7rem 1rem; margin: 1rem 0; }
.alert p, .alert li { margin: .25rem 0; max-width: none; }
.alert ul { margin: .3rem 0; padding-left: 1.2rem; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; padding: .9rem; background: var(--panel); border-radius: .5rem; break-inside: avoid; }
figure h3 { margin: 0 0 .4rem; }
figure svg { display: block; width: 100%; height: auto; max-width: 31rem; margin: 0 auto; }
figcaption { margin-top: .5rem; }
.scroll { overflow-x: auto; margin: .6rem 0 1rem; }
.scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child, .text { text-align: left; }
th { white-space: normal; }
td.long { white-space: normal; min-width: 15rem; overflow-wrap: anywhere; }
tr.group td { border-top: 2px solid var(--faint); }
.answers { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.answers article { background: var(--panel); border-radius: .5rem; padding: .8rem 1rem; }
.answers h3 { margin: 0 0 .3rem; }
blockquote { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .9rem; max-height: 22rem;
  overflow-y: auto; }
code { font-size: .86em; overflow-wrap: anywhere; }
footer { padding: 2rem 1.1rem 3rem; }
@media (max-width: 40rem) {
  table { font-size: .82rem; }
  th, td { padding: .25rem .4rem; }
  td.long { min-width: 19rem; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --panel: #fff; --ink: #000; --soft: #333; --faint: #777;
  --line: #bbb;
    --alert: #8c1d18; --alert-paper: #fff; --link: #000; --c0: #0b62a4; --c1: #b3470f; --c2: #1b7340;
    --c3: #7a3fa0; --c4: #a3264f; --c5: #5b6400; --c6: #00707a; --c7: #6b5344; }
  body { font-size: 10pt; }
  main, header, footer { max-width: none; padding-left: 0; padding-right: 0; }
  .charts { grid-template-columns: 1fr 1fr; }
  figure { border: 1px solid var(--line); }
  .scroll, blockquote { overflow: visible; max-height: none; }
  table { font-size: 8pt; }
  th, td { padding: .15rem .35rem; }
  tr, article { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""
METHOD = (
    "Levels are compared within the same task: a level's difference is the mean over tasks of the task's "
    "own difference, after its repeats were averaged. Intervals of differences resample tasks with "
    "replacement ({resamples} samples, seed {seed}, percentiles), because tasks, not runs, are the "
    "sample; intervals of means are Student's over task means. p values are Wilcoxon's signed-rank test "
    "for costs and the exact sign test for verdicts, adjusted by Holm's method over all models and levels "
    "of one table.",
    "Cost is split by least squares of energy (or latency) on prompt tokens and answer tokens, per model; "
    "standard errors leave out one task at a time. A level's extra prompt tokens times their cost is the "
    "prompt's part.",
    "A judge compared two answers of one model to the same question, in both orders; a win counts only if "
    "both orders agree, anything else is a tie, and a tie is half a win. Strengths are Bradley-Terry's "
    "(log-odds, ties as half wins). The length-controlled rate is the win rate a logistic model expects "
    "at equal length; since length is partly what the prompt changed, it is a diagnostic, not a "
    "correction.",
    "Energy is the integral of power minus idle power over the run. Runs with an error or a flag that "
    "spoils them are left out of every mean and listed below. Missing values are shown as a dash, never "
    "as zero.",
)


@dataclass(frozen=True)
class Sources:
    """The files beside the analysis that the page shows something of."""

    runs: Sequence[Path] = ()
    env: Sequence[Path] | None = None  # default: those beside the runs
    trace: Path | None = None


# --- numbers and cells ---


def esc(value: Any) -> str:
    """Text for HTML: escaped, lone surrogates and control characters made visible."""
    text = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return html.escape(text)


def table_html(table: Row) -> str:
    """A table that scrolls by itself on a phone. A repeated first cell is left empty, a new one starts a
    group.
    """
    words, body, before = set(table["text_columns"]), [], None
    for row in table["rows"]:
        cells = []
        for place, value in enumerate(row):
            shown = "" if place == 0 and value == before else esc(value)
            look = ' class="text long"' if len(value) > 40 else ' class="text"'
            cells.append(f"<td{look if place in words else ''}>{shown}</td>")
        group = ' class="group"' if before not in (None, row[0]) else ""
        body.append(f"<tr{group}>{''.join(cells)}</tr>")
        before = row[0]
    looks = [' class="text"' if place in words else "" for place in range(len(table["heads"]))]
    heads = "".join(
        f'<th scope="col"{look}>{esc(head)}</th>' for look, head in zip(looks, table["heads"], strict=True)
    )
    caption = esc(table["caption"])
    return (
        f'<h3>{caption}</h3><div class="scroll" role="region" tabindex="0" aria-label="{caption}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def tables_of(tables: Sequence[Row], name: str) -> str:
    """The tables of one section."""
    return "".join(table_html(table) for table in tables if table["section"] == name)


def section(title: str, *parts: str) -> str:
    """A section with a heading; "" if it would be empty."""
    content = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{esc(title)}</h2>\n{content}\n</section>" if content else ""


# --- sections ---


def head(analysis: Row) -> str:
    """Title and what was measured."""
    models = analysis["models"]
    boards = sorted({model["board"] for model in models if model["board"]})
    facts = [", ".join(sorted({model["model_id"] for model in models})), ", ".join(boards)]
    facts.append(f"{len(analysis['levels'])} prompt levels ({', '.join(analysis['levels'])})")
    if models:
        facts.append(f"{max(model['tasks'] for model in models)} tasks")
        facts.append(f"{analysis['counts']['used']} runs")
    line = " · ".join(esc(fact) for fact in facts if fact)
    return f'<header>\n<h1>What does a longer prompt buy?</h1>\n<p class="facts">{line}</p>\n</header>'


def answer_section(analysis: Row, warnings: Sequence[str]) -> str:
    """Three sentences, then what must be known before believing them."""
    sentences = "".join(f"<li>{esc(sentence)}</li>" for sentence in analysis["answer"])
    high = [row["text"] for row in analysis["caveats"] if row["severity"] == "high"] + list(warnings)
    notes = [row["text"] for row in analysis["caveats"] if row["severity"] != "high"]
    alert = ""
    if high:
        items = "".join(f"<li>{esc(text)}</li>" for text in high)
        title = "<p><strong>Before you believe it</strong></p>"
        alert = f'<div class="alert" role="note">{title}<ul>{items}</ul></div>'
    rest = "".join(f"<li>{esc(text)}</li>" for text in notes)
    rest = f'<ul class="note">{rest}</ul>' if rest else ""
    return section("The answer", f'<ol class="answer">{sentences}</ol>', alert, rest)


def chart_section(charts: Sequence[tuple[Row, str]]) -> str:
    """All charts, each with its title, how to read it, and for those who cannot see it what it shows."""
    figures = []
    for chart, svg in charts:
        name, title, told, reading = (esc(chart[key]) for key in ("name", "title", "description", "reading"))
        # Without width and height the view box alone decides: the chart fills its column.
        drawn = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", svg)
        drawn = re.sub(
            r'^<svg([^>]*?) width="[^"]*"', rf'<svg role="img" aria-label="{title}. {told}"\1', drawn
        )
        figures.append(
            f'<figure id="{name}"><h3>{title}</h3>{drawn}<figcaption>{reading}</figcaption></figure>'
        )
    return section("The charts", f'<div class="charts">{"".join(figures)}</div>') if figures else ""


def example_section(analysis: Row, runs: Sequence[Path]) -> str:
    """One task answered at every level by one model: what the numbers are about."""
    if not analysis["models"]:
        return ""
    model, levels = analysis["models"][0]["model_id"], analysis["levels"]
    found: dict[str, dict[str, Row]] = {}
    for path in runs:
        for _, record in read_jsonl(path):
            if (
                not record
                or record.get("model_id") != model
                or record.get("error")
                or record.get("level") not in levels
            ):
                continue
            task = str(task_of(record))
            answers = found.setdefault(task, {})
            answers.setdefault(str(record["level"]), record)
            if len(answers) == len(levels):
                return show_example(model, task, answers, levels)
    return show_example(model, *max(found.items(), key=lambda item: len(item[1])), levels) if found else ""


def show_example(model: str, task: str, answers: Mapping[str, Row], levels: Sequence[str]) -> str:
    """The answers as cards, shortened, escaped."""
    cards = []
    for level in (level for level in levels if level in answers):
        record = answers[level]
        text = str(record.get("output_text") or "(empty)")
        text = text[:ANSWER_LENGTH] + (" …" if len(text) > ANSWER_LENGTH else "")
        counts = [str(record.get(name, "–")) for name in ("prompt_tokens", "completion_tokens")]
        energy = record.get("energy_joule")
        facts = f"{counts[0]} tokens read, {counts[1]} written"
        facts += f", {energy:.3g} J" if isinstance(energy, (int, float)) else ""
        quote = f'<blockquote tabindex="0">{esc(text)}</blockquote>'
        cards.append(f'<article><h3>{esc(level)}</h3><p class="note">{esc(facts)}</p>{quote}</article>')
    return section(f"Task {task} as {model} answered it", f'<div class="answers">{"".join(cards)}</div>')


def method_section(analysis: Row, sources: str, environments: Sequence[Row]) -> str:
    """How it was computed, on what, from which files."""
    settings = analysis["settings"]
    text = "".join(f"<p>{esc(part.format(**settings))}</p>" for part in METHOD)
    facts = [
        [str(env.get("env_id") or "–"), key, str(value)]
        for env in environments
        for key, value in scalars(env)
    ]
    table = {
        "caption": "Environment",
        "heads": ["Record", "What", "Value"],
        "rows": facts,
        "text_columns": [0, 1, 2],
    }
    used = ", ".join(f"{key} {value}" for key, value in sorted(settings.items()))
    note = f'<p class="note">Settings: {esc(used)}.</p>'
    return section("Method and sources", text, sources, table_html(table) if facts else "", note)


def scalars(env: Row) -> list[tuple[str, Any]]:
    """The plain values of an environment record, nested ones by a dotted name; long ones and lists left
    out.
    """
    found: list[tuple[str, Any]] = []
    for key, value in env.items():
        if isinstance(value, Mapping):
            found += [(f"{key}.{name}", inner) for name, inner in scalars(value)]
        elif value is not None and not isinstance(value, list) and len(str(value)) <= 200 and key != "env_id":
            found.append((key, value))
    return found


# --- files ---


def draw(analysis: Row, sources: Sources) -> list[tuple[Row, str]]:
    """The charts with what stands beside them, as SVG."""
    left_out = analysis.get("left_out", [])
    trace = charts.read_trace(sources.trace, sources.runs, left_out) if sources.trace else None
    return [(charts.words_of(chart), charts.svg_text(chart)) for chart in charts.charts(analysis, trace)]


def environment_files(sources: Sources) -> list[Path]:
    """The environment records given, else those beside the runs."""
    if sources.env is not None:
        return list(sources.env)
    beside = [run.with_name(re.sub(r"\.jsonl(\.gz)?$", ".env.jsonl", run.name)) for run in sources.runs]
    return [path for path in dict.fromkeys(beside) if path.exists() and path not in sources.runs]


def stale(analysis: Row, runs: Sequence[Path]) -> list[str]:
    """A warning for each runs file that is not the one the analysis was made from."""
    known = {row["sha256"] for row in analysis["inputs"]}
    changed = [path for path in runs if sha256_of(path) not in known]
    return [
        f"{path} is not the file this analysis was made from: run analyze_levels.py again" for path in changed
    ]


def page(analysis_file: Path, sources: Sources) -> str:
    """The whole document."""
    analysis = read_analysis(analysis_file, charts.NEEDED)
    all_tables = tables.tables_of(analysis)
    environments = [record for path in environment_files(sources) for _, record in read_jsonl(path) if record]
    body = [
        answer_section(analysis, stale(analysis, sources.runs)),
        chart_section(draw(analysis, sources)),
        *(section(name, tables_of(all_tables, name)) for name in SECTIONS),
        example_section(analysis, sources.runs),
        section(DATA_SECTION, tables_of(all_tables, DATA_SECTION)),
        method_section(analysis, tables_of(all_tables, "Method and sources"), environments),
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>What does a longer prompt buy?</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{head(analysis)}\n<main>\n" + "\n".join(part for part in body if part) + "\n</main>\n"
        "<footer><p>Made by report_page.py from analysis.json. A dash is a value that was not measured "
        "or cannot be computed; the reason stands in analysis.json.</p></footer>\n</body>\n</html>\n"
    )
