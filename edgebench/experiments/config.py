"""A written experiment, checked: files, presets and flags -> one effective configuration.

An experiment file is YAML or JSON. What it may say is the class Experiment below, and the words of other
tools that vocabulary.py knows. A key that does not exist is a fault, with the nearest one that does. Later
beats earlier, key by key, and every change is told:

  defaults < preset < file (its _extends first) < flags

A KEY is generation.max_tokens, or max_tokens where only one section has it; VALUE is written as in YAML: 0.7,
1e-3, true, [L0, P]. The id is the name and a hash of all that is measured; where results go and how they are
judged is not in it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgebench.errors import UserError
from edgebench.experiments.folder import DOOR
from edgebench.experiments.vocabulary import BATCH, SAMPLE, WORD_FOR, WORDS, cannot_vary, settle, translate
from edgebench.records.jsonl import reason_of

NOT_MEASURED = ("name", "output", "judge", "aggregate")  # a change of these is no new experiment
CYCLES_MOST = 10
CYCLES_FOR_INTERVAL = 3  # fewer cycles give an interval too wide to decide anything
FORBID: Mapping[str, Any] = {"extra": "forbid"}
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Dataset:
    """Prompts from another file or a named set, by load_prompts.py."""

    source: str  # a file, alpaca, gsm8k, mmlu, sharegpt, or owner/name
    column: str | None = None  # found by itself
    split: str | None = None
    subset: str | None = None
    sample_size: int | None = None  # prompts; all
    shuffle: bool = False
    seed: int = 42  # of the draw
    __pydantic_config__: ClassVar[Mapping[str, Any]] = FORBID


@dataclass(frozen=True)
class Generation:
    """How answers are made; names and meanings as the collector's flags."""

    max_tokens: int = 512
    temperature: float = 0.0  # 0 is greedy
    seed: int | None = None  # of the first cycle, each later one adds 1; drawn from the hash
    prompt_format: Literal["chat", "raw"] = "chat"
    thinking: Literal["off", "on"] = "off"
    system: str | None = None  # system message
    __pydantic_config__: ClassVar[Mapping[str, Any]] = FORBID


@dataclass(frozen=True)
class Engine:
    """How the model is loaded; names and meanings as the collector's flags."""

    n_ctx: int | None = None  # tokens; as the longest prompt needs
    n_gpu_layers: int = -1  # all
    n_batch: int = 2048  # prompt tokens per call
    n_ubatch: int = 512  # of these at once
    flash_attn: Literal["auto", "on", "off"] = "auto"
    kv_type: Literal["f16", "q8_0", "f32"] = "f16"
    n_threads: int | None = None  # cores - 1
    allow_cpu: bool = False  # on a Jetson whose engine cannot use the GPU
    __pydantic_config__: ClassVar[Mapping[str, Any]] = FORBID


@dataclass(frozen=True)
class Power:
    """Where power comes from."""

    source: str = "auto"  # auto, tegrastats, ina3221, nvml, rapl, simulated, replay:FILE, none
    feed: str | None = None  # another command that prints tegrastats lines
    interval_ms: int = 100
    idle_seconds: float = 10.0  # of idle baseline
    idle_every: int = 50  # runs
    phase_energy: Literal["auto", "block"] = "auto"
    trace: bool = False  # keep every sample of every cycle
    __pydantic_config__: ClassVar[Mapping[str, Any]] = FORBID


@dataclass(frozen=True)
class CoolDown:
    """Between cycles; run_seconds between runs."""

    seconds: float = 0.0
    to_within_c: float | None = None  # of the temperature before the first cycle
    most_seconds: float = 600.0  # to wait for that temperature
    run: str = "0"  # before each run: seconds, or temp:C
    __pydantic_config__: ClassVar[Mapping[str, Any]] = FORBID


@dataclass(frozen=True)
class Judge:
    """The judge's step; names and meanings as the flags of judge_pairs.py."""

    model: str | None = None
    api_url: str | None = None
    api_key_env: str | None = None  # name of the variable that holds the key
    serve_model: str | None = None  # a GGUF on this machine judges
    pairs: str = "baseline"
    questions: str = "data/questionset.jsonl.txt"
    daily_limit: int | None = None  # requests
    __pydantic_config__: ClassVar[Mapping[str, Any]] = FORBID


@dataclass(frozen=True)
class Experiment:
    """All that an experiment file may say. Paths are relative to the folder it is started in."""

    name: str = "experiment"
    mode: Literal["collect", "throughput"] = "collect"  # throughput: several answers decoded together
    models: tuple[str, ...] = ()  # GGUF files
    prompts: tuple[str, ...] = ()  # prompts files; the writing tasks, where there is no dataset either
    dataset: Dataset | None = None  # instead of prompts
    levels: tuple[str, ...] = ()  # all
    ids: tuple[str | int, ...] = ()  # tasks; all
    limit: int | None = None  # tasks of each prompts file
    turns: Literal[1, 2] = 1
    repeats: int = 1  # runs of each prompt within a cycle
    order: Literal["sequential", "interleaved", "shuffled"] = "interleaved"  # of a task's levels
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)  # mode throughput
    generation: Generation = field(default_factory=Generation)
    engine: Engine = field(default_factory=Engine)
    power: Power = field(default_factory=Power)
    warm_up: int = 0  # runs before the first cycle that count for nothing
    cycles: int = 1  # 1 to 10; with until_ci the most
    until_ci: str | None = None  # "2%": stop when the energy per token is known this well
    cool_down: CoolDown = field(default_factory=CoolDown)
    run_timeout: float = 900.0  # seconds
    judge: Judge | None = None
    aggregate: bool = True  # workbooks at the end
    output: str = "results/experiments"
    __pydantic_config__: ClassVar[Mapping[str, Any]] = FORBID


class ConfigError(UserError):
    """An experiment file or its flags are wrong: all faults, of which the message tells the first."""

    def __init__(self, faults: Sequence[str]) -> None:
        more = f" ({len(faults) - 1} more faults: config validate tells them all)" if len(faults) > 1 else ""
        super().__init__(faults[0] + more)
        self.faults = list(faults)


@dataclass(frozen=True)
class Chosen:
    """The effective configuration of a file, a preset and flags."""

    id: str  # NAME-HASH
    hash: str  # twelve hex digits of all that is measured
    preset: str | None
    config: dict[str, Any]  # every key of Experiment
    overrides: list[dict[str, Any]]  # {key, from, to, by} of every change of a value
    notes: tuple[str, ...] = ()  # words without a meaning here, and what stands for them

    def as_record(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {**asdict(self), "notes": list(self.notes)}


@dataclass(frozen=True)
class Layer:
    """What one file, preset or command line says."""

    by: str
    content: dict[str, Any]


SECTIONS: Mapping[str, type[Any]] = {
    "dataset": Dataset, "generation": Generation, "engine": Engine, "power": Power, "cool_down": CoolDown,
    "judge": Judge,
}  # fmt: skip
DEFAULT_PROMPTS = ("data/writing_prompts_hierarchical.csv",)
SHORT = {"seed": "generation.seed", "model": "models", "source": "power.source"}  # where two sections have it
# Greedy, all three: a preset that samples would not repeat itself. The context of the last two is their
# longest prompt plus their longest answer.
PRESETS: Mapping[str, dict[str, Any]] = {
    "quick-test": {
        "levels": ["L0"],
        "limit": 2,
        "generation": {"max_tokens": 32, "temperature": 0.0},
        "power": {"idle_seconds": 3.0},
    },
    "benchmark": {
        "cycles": 3,
        "warm_up": 1,
        "generation": {"max_tokens": 512, "temperature": 0.0},
        "engine": {"n_ctx": 2560, "kv_type": "f16"},
        "cool_down": {"to_within_c": 3.0},
    },
    "throughput": {
        "mode": "throughput",
        "levels": ["L0"],
        "repeats": 3,
        "batch_sizes": [1, 2, 4, 8],
        "generation": {"max_tokens": 256, "temperature": 0.0},
        "engine": {"n_ctx": 768, "kv_type": "f16"},
    },
}
AT_LEAST_1 = (
    "repeats", "cycles", "limit", "generation.max_tokens", "engine.n_ctx", "engine.n_batch",
    "engine.n_ubatch", "engine.n_threads", "power.interval_ms", "power.idle_every", "dataset.sample_size",
    "judge.daily_limit",
)  # fmt: skip
AT_LEAST_0 = (
    "power.idle_seconds", "cool_down.seconds", "cool_down.to_within_c", "cool_down.most_seconds",
    "generation.temperature", "warm_up",
)  # fmt: skip
# What only the collector can do: in mode throughput it would be dropped without a word.
COLLECT_ONLY = (
    "ids", "turns", "generation.system", "generation.thinking", "power.phase_energy", "cool_down.run",
    "judge",
)  # fmt: skip
ABOUT = {
    "quick-test": "does it run at all: two tasks at L0, 32 tokens each",
    "benchmark": "numbers to publish: prompts to 2048 tokens, answers to 512, three cycles with cool-down",
    "throughput": "several answers decoded together, 1, 2, 4 and 8: tokens/s and J/token at each",
}


# --- Reading ---


def yaml_loader() -> Any:
    """A safe YAML reader that takes on and off as words and 1e-3 as a number, as YAML 1.2 does."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Any, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for index, key in enumerate(keys) if key in keys[:index]]
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice[0]} stands twice", node.start_mark
            )
        return {
            key: loader.construct_object(value, deep=True)
            for key, (_, value) in zip(keys, node.value, strict=True)
        }

    number, boolean = "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool"
    left_out = (number, boolean, "tag:yaml.org,2002:timestamp")
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag not in left_out]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(boolean, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    decimal = re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$")
    Loader.add_implicit_resolver(number, decimal, list("-+.0123456789"))
    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    return Loader


def parse(text: str, where: str) -> Any:
    """YAML, of which JSON is a part, as plain Python values."""
    import yaml

    try:
        return yaml.load(text, Loader=yaml_loader())
    except (yaml.YAMLError, TypeError) as exc:  # TypeError: a list or mapping as a key
        raise UserError(f"{where}: {' '.join(str(exc).split())}") from None


class Reading:
    """What is read on the way: notes for the user, and faults, which do not stop the reading."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.faults: list[str] = []

    def layer(self, by: str, content: Mapping[str, Any], where: str) -> Layer:
        """A layer in the words of here, without the keys that do not exist."""
        said, notes, faults = translate(content)
        self.notes += notes
        self.faults += [f"{where}: {fault}" for fault in faults]
        known, unknown = split_by_known(said)
        self.faults += [f"{where}: unknown key {key}{nearest(key)}" for key in unknown]
        return Layer(by, known)

    def files(self, path: Path, below: tuple[Path, ...] = ()) -> list[Layer]:
        """The layer of a file and, before it, those of all that it extends. Raises UserError."""
        real = path.resolve()
        if real in below:
            circle = " -> ".join(one.name for one in (*below[below.index(real) :], real))
            raise UserError(f"{path}: _extends goes in a circle: {circle}")
        content = read_content(path, below)
        base = content.pop("_extends", None)
        if base is not None and not isinstance(base, str):
            raise UserError(f"{path}: _extends takes the path of one file")
        layers = self.files(path.parent / base, (*below, real)) if base else []
        return [*layers, self.layer(f"file {path.name}", content, str(path))]


def read_content(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of one file; `below`: the files that extend it. Raises UserError."""
    try:
        content = parse(path.read_text(encoding="utf-8-sig"), str(path))
    except FileNotFoundError:
        whose = f" (_extends of {below[-1].name})" if below else ""
        cure = f"{DOOR} config new --out {path}"
        raise UserError(f"{path} does not exist{whose}; write one with: {cure}") from None
    except OSError as problem:
        raise UserError(f"{path}: {reason_of(problem)}; give an experiment file, YAML or JSON") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8; give an experiment file, YAML or JSON") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: an experiment file has keys, as in name: my_experiment")
    return content


def paths_of_keys() -> list[str]:
    """All keys, those of sections with their section's name."""
    own = [one.name for one in fields(Experiment)]
    return own + [f"{section}.{one.name}" for section, kind in SECTIONS.items() for one in fields(kind)]


def nearest(key: str) -> str:
    """The key that was probably meant: the same name in another place, or one that looks like it."""
    if key in WORD_FOR:
        return f"; the word for it is {WORD_FOR[key]}"
    known = paths_of_keys()
    last = key.rpartition(".")[2]
    same = [SHORT[key]] if key in SHORT else [one for one in known if one.rpartition(".")[2] == last]
    close = same or difflib.get_close_matches(key, known, 1, 0.5)
    close = close or [
        one for one in known if difflib.SequenceMatcher(None, one.rpartition(".")[2], last).ratio() > 0.7
    ]
    return f"; did you mean {close[0]}?" if close else "; config new writes a file with all of them"


def split_by_known(content: Json) -> tuple[dict[str, Any], list[str]]:
    """(what is said under keys that exist, the keys that do not)."""
    exist = {*paths_of_keys(), "preset", BATCH, SAMPLE}
    known: dict[str, Any] = {}
    unknown = []
    for key, value in content.items():
        if key not in exist or "." in str(key):
            unknown.append(str(key))
        elif key in SECTIONS and isinstance(value, dict):
            known[key] = {inner: one for inner, one in value.items() if f"{key}.{inner}" in exist}
            unknown += [f"{key}.{inner}" for inner in value if inner not in known[key]]
        else:
            known[key] = value
    return known, unknown


def full_key(key: str) -> str:
    """generation.max_tokens for max_tokens."""
    known = paths_of_keys()
    if key in WORDS:
        return key
    if key in SHORT or key in known:
        return SHORT.get(key, key)
    inner = [one for one in known if one.rpartition(".")[2] == key]
    if len(inner) == 1:
        return inner[0]
    if inner:
        raise UserError(f"--set {key}: say which: {' or '.join(inner)}")
    raise UserError(f"unknown key {key}{nearest(key)}")


def is_list(key: str) -> bool:
    """Does this key take several values?"""
    default = next((one.default for one in fields(Experiment) if one.name == key), MISSING)
    return isinstance(default, tuple)


def flag_layer(assignments: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE as the content of a file; one value for a key that takes a list is a list of one."""
    content: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment}: write KEY=VALUE")
        put(content, full_key(key.strip()), parse(text, f"--set {assignment}"))
    return content


def put(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a key of a section, or one without."""
    section, _, name = key.rpartition(".")
    place = content.setdefault(section, {}) if section else content
    place[name] = [value] if is_list(key) and not isinstance(value, list) and value is not None else value


def grid_values(vary: Sequence[str]) -> dict[str, list[Any]]:
    """{key: typed values} of KEY=A,B,C, without doubles."""
    values: dict[str, list[Any]] = {}
    for one in vary:
        key, equals, text = one.partition("=")
        found = parse(f"[{text}]", f"--vary {one}") if equals else []
        if not found:
            raise UserError(f"--vary {one}: write KEY=VALUE,VALUE")
        name = full_key(key.strip())
        why_not = cannot_vary(name)
        if why_not:
            raise UserError(f"--vary {why_not}")
        name = {BATCH: "batch_sizes", "max_output_tokens": "generation.max_tokens"}.get(name, name)
        if name in values:
            raise UserError(f"--vary {one}: {name} is varied twice; give all its values at once")
        lists = [value if isinstance(value, list) or not is_list(name) else [value] for value in found]
        values[name] = [value for index, value in enumerate(lists) if value not in lists[:index]]
    return values


# --- Merging ---


def leaves(content: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that is set."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def look_up(content: Json, key: str) -> Any:
    """The value under a dotted key, None without one."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None  # type: ignore[assignment]
    return content


def deep_merge(low: Json, high: Json) -> dict[str, Any]:
    """high over low, section by section; neither is changed."""
    merged = dict(low)
    for key, value in high.items():
        under = merged.get(key)
        merged[key] = (
            deep_merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def exclude_other_prompts(low: Json, high: Json) -> dict[str, Any]:
    """high, plus the removal of what it replaces: prompts and a dataset do not go together."""
    given = dict(high)
    if high.get("dataset") and "prompts" not in high and low.get("prompts"):
        given["prompts"] = []
    if high.get("prompts") and "dataset" not in high and low.get("dataset"):
        given["dataset"] = None
    return given


def merge_layers(layers: Sequence[Layer]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(what the layers set together, every change of a value as {key, from, to, by})."""
    start = json.loads(json.dumps(asdict(Experiment())))
    merged: dict[str, Any] = {}
    overrides = []
    for layer in layers:
        given = exclude_other_prompts(merged, settle(merged, layer.content))
        before = deep_merge(start, merged)
        for key, value in leaves(given):
            old = look_up(before, key)
            if old != value:
                overrides.append({"key": key, "from": old, "to": value, "by": layer.by})
        merged = deep_merge(merged, given)
    return merged, overrides


# --- Checking ---


def build(merged: Json) -> tuple[dict[str, Any], list[str]]:
    """(the effective configuration with every key, all faults); {} where something has a wrong type."""
    import pydantic

    try:
        # Strict, as JSON: a word is no number, and true is no 1.
        checked = pydantic.TypeAdapter(Experiment).validate_json(json.dumps(merged, default=str), strict=True)
    except pydantic.ValidationError as exc:
        faults = []
        for one in exc.errors():
            key = ".".join(str(part) for part in one["loc"] if part not in ("str", "int"))
            faults.append(f"{key}: {one['msg']}, not {one['input']!r}")
        return {}, faults
    config: dict[str, Any] = json.loads(json.dumps(asdict(checked)))
    if config["until_ci"] and "cycles" not in merged:
        config["cycles"] = CYCLES_MOST
    if not config["prompts"] and not config["dataset"]:
        config["prompts"] = list(DEFAULT_PROMPTS)
    return config, list(misfits(config))


def out_of_range(config: Json) -> Iterator[str]:
    """Numbers that cannot be."""
    for key in AT_LEAST_1:
        value = look_up(config, key)
        if value is not None and value < 1:
            yield f"{key}: at least 1, not {value}"
    for key in AT_LEAST_0:
        value = look_up(config, key)
        if value is not None and not 0 <= value < float("inf"):
            yield f"{key}: 0 or more, not {value}"
    if not 0 < config["run_timeout"] < float("inf"):
        yield "run_timeout: seconds above 0"
    if config["cycles"] > CYCLES_MOST:
        yield f"cycles: 1 to {CYCLES_MOST}, not {config['cycles']}"
    if not config["batch_sizes"] or min(config["batch_sizes"]) < 1:
        yield "batch_sizes: numbers of 1 or more"


def misfits(config: Json) -> Iterator[str]:
    """What is of the right type but cannot be, or does not go together."""
    yield from out_of_range(config)
    until, judge = config["until_ci"], config["judge"]
    if until is not None and share(until) is None:
        yield f"until_ci: a percentage, as in 2%, not {until!r}"
    if until is not None and config["power"]["source"] == "none" and not config["power"]["feed"]:
        yield "until_ci needs energy, and power.source is none"
    if until is not None and config["cycles"] < CYCLES_FOR_INTERVAL:
        yield f"until_ci needs cycles: {CYCLES_FOR_INTERVAL} or more"
    if config["prompts"] and config["dataset"]:
        yield "prompts or dataset, not both"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", config["name"]):
        yield f"name: letters, digits, . _ and -, at most 100, not {config['name']!r}"
    if judge and not (judge["serve_model"] or (judge["model"] and judge["api_url"])):
        yield "judge: give serve_model, or model and api_url"
    yield from strangers(config)


def strangers(config: Json) -> Iterator[str]:
    """Keys that say something the chosen mode cannot do."""
    usual = json.loads(json.dumps(asdict(Experiment())))
    keys, other = {"throughput": (COLLECT_ONLY, "collect"), "collect": (("batch_sizes",), "throughput")}[
        config["mode"]
    ]
    for key in keys:
        if look_up(config, key) != look_up(usual, key):
            yield f"{key}: mode {config['mode']} has none; it is of mode {other}"


def share(text: str) -> float | None:
    """0.02 for 2%; None for what is no percentage between 0 and 100."""
    number = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*", text)
    value = float(number[1]) / 100 if number else 0.0
    return value if 0 < value < 1 else None


def config_hash(config: Json) -> str:
    """Twelve hex digits of all that is measured."""
    measured = {key: value for key, value in config.items() if key not in NOT_MEASURED}
    return hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()[:12]


def effective(file: Path | None, preset: str | None, assignments: Sequence[str]) -> Chosen:
    """The effective configuration of a file, a preset and KEY=VALUE. Raises ConfigError with all faults."""
    reading = Reading()
    layers = reading.files(file) if file else []
    named = [one.content["preset"] for one in layers if one.content.get("preset") is not None]
    chosen = preset or (named[-1] if named else None)
    if chosen is not None and chosen not in PRESETS:
        raise UserError(no_preset(str(chosen)))
    for layer in layers:
        layer.content.pop("preset", None)
    if chosen:
        layers.insert(0, Layer(f"preset {chosen}", PRESETS[chosen]))
    where = str(file or chosen or "flags")
    if assignments:
        layers.append(reading.layer("flag", flag_layer(assignments), "flags"))
    merged, overrides = merge_layers(layers)
    if "name" not in merged:
        merged["name"] = name_of(file) if file else chosen or "experiment"
    config, faults = build(merged)
    faults = [*reading.faults, *(f"{where}: {fault}" for fault in faults)]
    if faults:
        raise ConfigError(faults)
    stamp = config_hash(config)
    return Chosen(f"{config['name']}-{stamp}", stamp, chosen, config, overrides, tuple(reading.notes))


def name_of(file: Path) -> str:
    """The name of an experiment whose file does not say it: the file's, without what no name may hold.

    >>> name_of(Path("ab/my first try (2).yaml")), name_of(Path("größe.yaml")), name_of(Path("_.yaml"))
    ('my-first-try-2', 'gr-e', 'experiment')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._")[:100] or "experiment"


def no_preset(name: str) -> str:
    """What is wrong with a preset's name."""
    close = difflib.get_close_matches(name, PRESETS, 1)
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"no preset {name}; there are {', '.join(PRESETS)}{meant}"


# --- Presets ---


def presets_as_text() -> str:
    """What the presets are for, and what they set."""
    lines = []
    for name, content in PRESETS.items():
        lines.append(f"{name}: {ABOUT[name]}")
        lines += [f"  {key} = {json.dumps(value)}" for key, value in leaves(content)]
    return "\n".join(lines)


def presets_as_record() -> dict[str, Any]:
    """The same, as JSON shows it."""
    return {name: {"about": ABOUT[name], "sets": PRESETS[name]} for name in PRESETS}
