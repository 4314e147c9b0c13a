"""One page that says what the longer prompt bought: self-contained, light and dark, fit to print.

The answer in three sentences, every caveat, the charts, the tables, one task's answers side by side, the
method and where each number comes from. No network, no script: it opens from a USB stick. The markup stands
in page.html.j2 and the style in page.css; this room says what is in them. All text of models and files is
escaped by the template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgebench.errors import UserError
from edgebench.records.analysis import read_analysis
from edgebench.records.jsonl import UNREADABLE, read_jsonl, reason_of, records_in, sha256_of
from edgebench.records.run import task_of
from edgebench.reporting import charts, tables
from edgebench.reporting.cases import Row
from edgebench.reporting.power_trace import read_trace
from edgebench.reporting.words import verdict_note
from edgebench.shell.calls import as_called
from edgebench.shell.decimals import at_places, places_beside
from edgebench.shell.text import counted

HERE = Path(__file__).parent
ANSWER_LENGTH = 1200  # characters of an answer shown
FACT_LENGTH = 200  # of an environment record's value
SHORT_TABLE, HUGE_TABLE = 20, 100  # rows: up to the first open on the page, beyond the second not printed
MODELS_IN_HEAD = 6  # by name in the line under the title
SECTIONS = (tables.LEVELS, tables.SPLIT, tables.JUDGE, tables.VALUE)
METHOD = (
    "Levels are compared within the same task: a level's difference is the mean over tasks of the task's "
    "own difference, after its repeats were averaged, because tasks, not runs, are the sample. p values are "
    "Wilcoxon's signed-rank test for costs and the exact sign test for verdicts, adjusted by Holm's method "
    "over all models and levels of one table.",
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
INTERVALS = {  # of analysis.json's interval_methods
    "mean": "means and differences",
    "ratio": "ratios and changes in percent",
    "win_rate": "win rates",
    "share": "shares",
    "part": "parts of a cost and costs of a token",
    "graded": "graded win rates",
}


@dataclass(frozen=True)
class Sources:
    """The files beside the analysis that the page shows something of."""

    runs: Sequence[Path] = ()
    env: Sequence[Path] | None = None  # default: those beside the runs
    trace: Path | None = None


@dataclass(frozen=True)
class ShownRow:
    """A row's cells; a name that repeats is left empty, a new one starts a group."""

    cells: tuple[str, ...]
    starts_group: bool


@dataclass(frozen=True)
class ShownTable:
    """A table as the template wants it. size: short (open), long (folded) or huge (folded, not printed)."""

    caption: str
    columns: Sequence[tables.Column]
    rows: Sequence[ShownRow]
    note: str
    size: str


@dataclass(frozen=True)
class ShownChart:
    """A drawn chart and the words beside it."""

    name: str
    title: str
    reading: str
    svg: Markup


@dataclass(frozen=True)
class Card:
    """The answer at one level."""

    level: str
    facts: str
    text: str


@dataclass(frozen=True)
class Example:
    """One task as one model answered it."""

    task: str
    model: str
    cards: Sequence[Card]


@dataclass(frozen=True)
class Report:
    """What the page is made of: the analysis, the charts it allows, and what the files beside it say."""

    analysis: Row
    charts: Sequence[charts.Chart]
    environments: Sequence[Row]
    warnings: Sequence[str]  # runs that are not those of the analysis
    example: Example | None


# --- text ---


def visible(value: Any) -> Any:
    """Text without control characters and lone surrogates, which would be invisible or no UTF-8.

    Markup of ours is left as it is; everything else is escaped after this.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in value)


# --- tables ---


def shown_table(table: tables.Table) -> ShownTable:
    """A table with the first column's repeated names left empty."""
    rows, before = [], None
    names = table.columns[0].cells
    is_grouped = table.columns[0].is_words and len(set(names)) < len(names)
    for cells in table.rows:
        repeats = is_grouped and cells[0] == before
        starts_group = is_grouped and before is not None and not repeats
        rows.append(ShownRow(("", *cells[1:]) if repeats else cells, starts_group))
        before = cells[0]
    size = "short" if len(rows) <= SHORT_TABLE else "long" if len(rows) <= HUGE_TABLE else "huge"
    return ShownTable(table.caption, table.columns, rows, table.note, size)


def tables_by_section(analysis: Row, environments: Iterable[Row]) -> dict[str, list[ShownTable]]:
    """Every table under its section; the environment's facts are the last of the sources."""
    sections: dict[str, list[ShownTable]] = {name: [] for name in (*SECTIONS, tables.DATA, tables.SOURCES)}
    for table in (*tables.tables_of(analysis), *environment_table(environments)):
        sections[table.section].append(shown_table(table))
    return sections


def environment_table(environments: Iterable[Row]) -> list[tables.Table]:
    """What the environment records say of the machine."""
    facts = [(str(env.get("env_id") or "–"), *fact) for env in environments for fact in scalars(env)]
    columns = [
        tables.words(head, (fact[place] for fact in facts))
        for place, head in enumerate(("Record", "What", "Value"))
    ]
    return tables.table(tables.SOURCES, "Environment", columns)


def scalars(env: Row) -> Iterator[tuple[str, Any]]:
    """The plain values of an environment record, nested ones by a dotted name; long ones and lists are left
    out.
    """
    for key, value in env.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in scalars(value))
        elif value is None or isinstance(value, list) or key == "env_id":
            continue
        elif len(str(value)) <= FACT_LENGTH:
            yield key, value


# --- charts ---


def shown_chart(chart: charts.Chart) -> ShownChart:
    """Without width and height the view box alone decides: the chart fills its column."""
    svg = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", charts.svg_text(chart))
    told = Markup('<svg role="img" aria-label="{}. {}"').format(
        visible(chart.title), visible(chart.description)
    )
    svg = re.sub(r'^<svg([^>]*?) width="[^"]*"', lambda match: f"{told}{match[1]}", svg)
    return ShownChart(chart.name, chart.title, chart.reading, Markup(svg))


# --- one task's answers ---


def example_of(analysis: Row, runs: Sequence[Path]) -> Example | None:
    """One task answered at every level by the first model, else the one with the most levels."""
    if not analysis["models"]:
        return None
    model, levels = analysis["models"][0]["model_id"], analysis["levels"]
    found: dict[str, dict[str, Row]] = {}
    for record in good_records(runs, model, levels):
        task = str(task_of(record))
        answers = found.setdefault(task, {})
        answers.setdefault(str(record["level"]), record)
        if len(answers) == len(levels):
            return Example(task, model, cards(answers, levels))
    if not found:
        return None
    task, answers = max(found.items(), key=lambda item: len(item[1]))
    return Example(task, model, cards(answers, levels))


def good_records(runs: Sequence[Path], model: str, levels: Sequence[str]) -> Iterator[Row]:
    """The runs of one model that ended without an error."""
    for path in runs:
        for _, record in read_jsonl(path):
            if not record or record.get("error") or record.get("model_id") != model:
                continue
            if record.get("level") in levels:
                yield record


def cards(answers: Mapping[str, Row], levels: Sequence[str]) -> list[Card]:
    """The answers by level, shortened."""
    return [card(level, answers[level]) for level in levels if level in answers]


def card(level: str, record: Row) -> Card:
    """One answer, its tokens and its energy with the digits of its uncertainty."""
    text = str(record.get("output_text") or "(empty)")
    read, written = (record.get(name, "–") for name in ("prompt_tokens", "completion_tokens"))
    facts = f"{read} tokens read, {written} written"
    energy, doubt = record.get("energy_joule"), record.get("energy_uncertainty_joule")
    if isinstance(energy, (int, float)):
        edges = [energy - doubt, energy + doubt] if isinstance(doubt, (int, float)) else None
        places = places_beside(energy, edges)
        facts += f", {at_places(energy, places)}"
        facts += f" ± {at_places(doubt, places)} J" if edges else " J"
    return Card(level, facts, text[:ANSWER_LENGTH] + (" …" if len(text) > ANSWER_LENGTH else ""))


# --- the page ---


def facts_of(analysis: Row, models: Sequence[str]) -> list[str]:
    """What was measured, for the line under the title."""
    boards = sorted({model["board"] for model in analysis["models"] if model["board"]})
    levels = analysis["levels"]
    named = ", ".join(models) if len(models) <= MODELS_IN_HEAD else counted(len(models), "model")
    facts = [named, ", ".join(boards), f"{counted(len(levels), 'prompt level')} ({', '.join(levels)})"]
    if models:
        facts.append(counted(max(model["tasks"] for model in analysis["models"]), "task"))
        facts.append(counted(analysis["counts"]["used"], "run"))
    return [fact for fact in facts if fact]


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
    again = f"run {as_called('analyze_levels.py')} again"
    return [f"{path} is not the file this analysis was made from: {again}" for path in changed]


def interval_words(analysis: Row) -> list[str]:
    """How each kind of interval was made, in the analysis's own words."""
    methods = analysis.get("interval_methods", {})
    told = [f"of {INTERVALS.get(name, name)}: {how}" for name, how in methods.items()]
    if not told:
        return []
    return [
        f"Intervals are 95 %, {'; '.join(told)}. Where no interval would cover what it claims there is none, "
        "and the reason stands beside it."
    ]


def template() -> Any:
    """The page's template: everything that is not our own markup is cleaned and escaped."""
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    ).get_template("page.html.j2")


def read_report(analysis_file: Path, sources: Sources) -> Report:
    """Everything the page shows, read once. Raises UserError for a file that cannot be used."""
    analysis = read_analysis(analysis_file, charts.NEEDED)
    try:
        trace = None
        if sources.trace:
            trace = read_trace(sources.trace, sources.runs, analysis.get("left_out", []))
        environments = [record for path in environment_files(sources) for record in records_in(path)]
        warnings = stale(analysis, sources.runs)
        example = example_of(analysis, sources.runs)
    except UNREADABLE as problem:
        name = getattr(problem, "filename", None) or "a file of --runs or --env"
        raise UserError(f"cannot read {name}: {reason_of(problem)}; check --runs and --env") from problem
    return Report(analysis, charts.charts(analysis, trace), environments, warnings, example)


def page_of(report: Report) -> str:
    """The whole document."""
    analysis = report.analysis
    caveats = analysis["caveats"]
    models = sorted({model["model_id"] for model in analysis["models"]})
    grave = [row["text"] for row in caveats if row["severity"] == "high"]
    return str(
        template().render(
            style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
            facts=facts_of(analysis, models),
            models=models,
            models_in_head=MODELS_IN_HEAD,
            answer=analysis["answer"],
            verdicts=[row["text"] for row in analysis.get("verdicts", [])],
            verdict_note=verdict_note(analysis["verdicts"]),
            warnings=[*grave, *report.warnings],
            notes=[row["text"] for row in caveats if row["severity"] != "high"],
            charts=[shown_chart(chart) for chart in report.charts],
            tables=tables_by_section(analysis, report.environments),
            sections=SECTIONS,
            data_section=tables.DATA,
            source_section=tables.SOURCES,
            example=report.example,
            method=[*METHOD, *interval_words(analysis)],
            settings=", ".join(f"{key} {value}" for key, value in sorted(analysis["settings"].items())),
        )
    )
