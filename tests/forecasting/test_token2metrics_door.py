"""The door as its users come to it: documented lines, files as they are, names, messages, one process."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forecasting.test_token2metrics import ROOT, made_rows, ok, run, write_csv

pytest.importorskip("scipy")

SERVER = [
    "subject", "question_id", "question", "choices", "correct_answer", "predicted_choice", "is_correct",
    "generated_text", "ttft", "decode_time", "total_time_ms", "tokens_per_second", "input_tokens",
    "output_tokens", "generated_text_length",
]  # fmt: skip
JETSON = [
    "subset", "ground_truth_index", "predicted_choice_letter", "full_output", "inference_time",
    "output_tokens", "prefill", "decode", "correct", "tokens_per_second",
]  # fmt: skip


def requests(size: float) -> list[tuple[int, int, float, float]]:
    """Prompt, output, prefill ms and decode ms of a made server, within a percent."""
    import random

    noise, found = random.Random(size), []
    for _ in range(60):
        prompt, output = noise.randint(80, 900), noise.randint(5, 600)
        prefill = (5 + 0.05 * size * prompt) * noise.gauss(1, 0.005)
        found.append((prompt, output, prefill, 2 * size * (output - 1) * noise.gauss(1, 0.005)))
    return found


def write_workbook(path: Path, size: float, in_seconds: bool = False, without: tuple[str, ...] = ()) -> None:
    """A server's workbook as documented, some columns left out."""
    openpyxl = pytest.importorskip("openpyxl")
    path.parent.mkdir(parents=True, exist_ok=True)
    book, factor = openpyxl.Workbook(), 1000 if in_seconds else 1
    kept = [name for name in SERVER if name not in without]
    book.active.append(kept)
    for prompt, output, prefill, decode in requests(size):
        row = dict.fromkeys(SERVER, "x") | {"ttft": prefill / factor, "decode_time": decode / factor}
        row |= {"total_time_ms": prefill + decode, "tokens_per_second": 1000 * (output - 1) / decode}
        row |= {"input_tokens": prompt, "output_tokens": output}
        book.active.append([row[name] for name in kept])
    book.save(path)


def write_jetson(path: Path, size: float) -> None:
    """A Jetson's CSV as documented: seconds, no prompt lengths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(JETSON)]
    for _, output, prefill, decode in requests(size):
        rate = 1000 * (output - 1) / decode
        total = (prefill + decode) / 1000
        lines.append(f'law,1,A,"a, b",{total},{output},{prefill / 1000},{decode / 1000},1,{rate}')
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def datasets(tmp_path: Path) -> Path:
    """A folder with the documented places filled for three models; every workbook is of another kind."""
    for name, size in (("qwen_1_5b", 1.5), ("llama_8b", 8.0), ("qwen_14b", 14.0)):
        seconds, without = name != "qwen_1_5b", ("decode_time", "tokens_per_second")
        write_workbook(
            tmp_path / f"datasets/server/{name}.xlsx", size, seconds, without if size == 14 else ()
        )
        write_jetson(tmp_path / f"datasets/tegra/{name}.csv", size)
    return tmp_path


def test_the_documented_lines_run(datasets: Path) -> None:
    assert "llama_8b server (best)" in ok("train", "--all-models", "--output", "./outputs", cwd=datasets)
    ok("train", "--model", "1.5B", "--regression", "linear", "--output", "./outputs", cwd=datasets)
    asked = ("predict", "--model", "8B", "--input-tokens", 100, "--output-tokens", 50)
    done = run(*asked, cwd=datasets)
    assert done.returncode == 0 and "llama_8b: 100 tokens in, 50 out" in done.stdout
    assert "llama_8b is taken, not llama_8b server" in done.stderr
    ok("train", "--model", "14B", "--regression", "linear", cwd=datasets)
    path = "./outputs/qwen_14b_linear/models/"
    assert "qwen_14b" in ok("evaluate", "--model", "14B", "--model-path", path, cwd=datasets)


def test_tables_of_each_documented_kind_are_learnt_in_their_units(datasets: Path) -> None:
    ok("train", "--all-models", cwd=datasets)

    def predicted(model: str, prompt: int = 500) -> dict:  # type: ignore[type-arg]
        flags = ("--model", model, "--input-tokens", prompt, "--output-tokens", 201, "--json")
        return json.loads(ok("predict", *flags, cwd=datasets))

    for model, size in (("qwen_1_5b server", 1.5), ("llama_8b server", 8), ("qwen_14b server", 14)):
        row = predicted(model)
        assert row["prefill_ms"]["mean"] == pytest.approx(5 + 0.05 * size * 500, rel=0.02), model
        assert row["decode_ms"]["mean"] == pytest.approx(2 * size * 200, rel=0.02), model
    board = predicted("llama_8b")
    assert board["decode_ms"]["mean"] == pytest.approx(2 * 8 * 200, rel=0.02)
    # No prompt lengths: the prefill is what these requests took, and the answer says so.
    assert board["prefill_ms"] == predicted("llama_8b", 900)["prefill_ms"]
    assert any("no prompt lengths" in line for line in board["cautions"])
    assert board["extrapolated"] == []


def test_two_files_are_two_models_and_a_name_of_both_asks_which(datasets: Path) -> None:
    files = ("--data", "datasets/server/llama_8b.xlsx", "datasets/tegra/llama_8b.csv")
    done = run("train", *files, "--model", "8B", cwd=datasets)
    assert done.returncode == 1 and "llama_8b server, llama_8b tegra; name one of them" in done.stderr
    assert "datasets/tegra/llama_8b.csv is llama_8b tegra" in done.stderr
    assert "llama_8b server (best): 60 rows" in ok("train", *files, "--model", "8b server", cwd=datasets)
    done = run("train", "--data", "datasets/server/llama_8b.xlsx", "--model", "14B", cwd=datasets)
    assert done.returncode == 1 and "no model 14B" in done.stderr


def test_without_data_the_message_says_what_to_put_where(tmp_path: Path) -> None:
    done = run("train", "--all-models", cwd=tmp_path)
    assert done.returncode == 1
    for word in ("datasets/server", "datasets/tegra", "--data", "ttft", "prefill"):
        assert word in done.stderr


def test_output_is_the_same_in_every_command_and_nothing_is_abbreviated(tmp_path: Path) -> None:
    write_csv(tmp_path / "made.csv", made_rows())
    ok("train", "--data", "made.csv", "--all-models", "--output", "mine", cwd=tmp_path)
    asked = ("predict", "--model", "made", "--input-tokens", 100, "--output-tokens", 50)
    assert "made-1b" in ok(*asked, "--output", "mine", cwd=tmp_path)
    assert ok(*asked, "--model_path", "mine", cwd=tmp_path) == ok(*asked, "--output", "mine", cwd=tmp_path)
    assert run(*asked[:-2], "--output-tok", 50, cwd=tmp_path).returncode == 2
    assert run("train", "--data", "made.csv", "--all", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("evaluate", "--model", "m", "--folds", 1), "--folds: 1 must be at least 2"),
        (("predict", "--model", "m", "--input-tokens", 0, "--output-tokens", 5), "0 must be at least 1"),
        (("predict", "--model", "m", "--input-tokens", 5, "--output-tokens", -5), "must be at least 1"),
        (("train", "--all-models", "--sample-period-s", "nan"), "--sample-period-s"),
        (("calibrate", "--base", "x", "--model", "m", "--sizes", 0), "0 must be at least 1"),
    ],
)
def test_a_number_out_of_range_is_a_usage_error(flags: tuple[object, ...], said: str) -> None:
    done = run(*flags)
    assert done.returncode == 2 and said in done.stderr


TABLES = {
    "semicolons.csv": "MODEL;Input Tokens;Output Tokens;TTFT_ms;Decode_ms\n"
    + "".join(f"m;{100 * n};50;{12 * n},5;40{n},5\n" for n in range(1, 6)),
    "tabs.tsv": "Model\tINPUT_TOKENS\tOUTPUT_TOKENS\tTTFT_MS\tDECODE_MS\n"
    + "".join(f"m\t{100 * n}\t50\t{12 * n}.5\t40{n}.5\n" for n in range(1, 6)),
}


@pytest.mark.parametrize("name", TABLES)
def test_other_delimiters_and_headers_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(TABLES[name])
    text = ok("train", "--data", name, "--all-models", cwd=tmp_path)
    assert "m (best): 5 rows, 5 cells" in text and "prefill_ms" in text and "decode_ms" in text
    row = json.loads(
        ok(*("predict", "--model", "m", "--input-tokens", 300, "--output-tokens", 50, "--json"), cwd=tmp_path)
    )
    assert row["prefill_ms"]["mean"] == pytest.approx(36.5, rel=0.03)


def test_what_is_dropped_is_counted_and_what_is_too_little_is_said(tmp_path: Path) -> None:
    header = "model,input_tokens,output_tokens,ttft_ms,decode_ms\n"
    (tmp_path / "three.csv").write_text(header + "m,100,50,12,400\nm,200,50,25,-3\nm,300,60,38,500\n")
    done = run("train", "--data", "three.csv", "--all-models", cwd=tmp_path)
    assert done.returncode == 0 and "left out 1 of 3 values of decode_ms: below zero" in done.stderr
    assert "no decode_ms: measured at 2 pairs of lengths, of 3 at least" in done.stdout
    assert "intervals come from 3 cells" in done.stdout
    (tmp_path / "one.csv").write_text(header + "m,100,50,12,400\n" * 9)
    done = run("train", "--data", "one.csv", "--all-models", cwd=tmp_path)
    assert done.returncode == 1 and "only 1 different pairs" in done.stderr
    (tmp_path / "none.csv").write_text(header + "m,100,50,-12,-4\n")
    done = run("train", "--data", "none.csv", "--all-models", cwd=tmp_path)
    assert done.returncode == 1 and "no usable rows (1 rows: no time and no energy above zero)" in done.stderr


def test_a_model_that_is_no_help_says_so_at_training_and_at_each_prediction(tmp_path: Path) -> None:
    import random

    noise = random.Random(0)
    lines = [f"m,{noise.randint(5, 500)},9,{noise.lognormvariate(3, 2)}" for _ in range(40)]
    (tmp_path / "noisy.csv").write_text("\n".join(["model,input_tokens,output_tokens,ttft_ms", *lines]))
    said = re.compile(r"prefill_ms errs by \d+ % on held-out rows: no help")
    assert said.search(ok("train", "--data", "noisy.csv", "--all-models", cwd=tmp_path))
    asked = ("--model", "m", "--input-tokens", 50, "--output-tokens", 9)
    assert said.search(ok("predict", *asked, cwd=tmp_path))
    assert said.search(ok("predict", *asked, "--json", cwd=tmp_path))
    (tmp_path / "r.csv").write_text("input_tokens,output_tokens\n50,9\n")
    assert said.search(ok("batch-predict", "r.csv", "--model", "m", cwd=tmp_path))


def test_only_the_model_that_is_meant_is_read_and_no_library_but_numpy_is_loaded(tmp_path: Path) -> None:
    write_csv(tmp_path / "made.csv", made_rows())
    ok("train", "--data", "made.csv", "--all-models", cwd=tmp_path)
    good = (tmp_path / "outputs/made-1b_best/models/model.json").read_text()
    other = tmp_path / "outputs/other_best/models/model.json"
    other.parent.mkdir(parents=True)
    other.write_text(good.replace('"made-1b"', '"other"')[:-200])  # torn at its end
    code = (
        "import sys; from companions import token2metrics as door;"
        "code = door.main(sys.argv[1:]);"
        "print([name for name in ('scipy', 'sklearn', 'pandas', 'matplotlib', 'xgboost', 'openpyxl')"
        " if name in sys.modules]); sys.exit(code)"
    )
    flags = ["predict", "--model", "made", "--input-tokens", "100", "--output-tokens", "50"]
    flags += ["--model-path", str(tmp_path / "outputs")]
    done = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr
    done = run(*["other" if word == "made" else word for word in flags])
    assert done.returncode == 1 and "other_best" in done.stderr and "Traceback" not in done.stderr


def test_where_the_time_goes_is_drawn_and_its_parts_are_the_whole(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from edgebench.forecasting.model_file import read_model
    from edgebench.forecasting.plots import spent_on

    write_csv(tmp_path / "made.csv", made_rows())
    ok("train", "--data", "made.csv", "--all-models", "--plots", "plots", cwd=tmp_path)
    assert (tmp_path / "plots/made-1b/where_the_time_goes.png").stat().st_size > 10_000
    asked = ("--model", "made", "--input-tokens", 512, "--output-tokens", 256)
    row = json.loads(ok("predict", *asked, "--json", "--plot", "mine/where.png", cwd=tmp_path))
    assert (tmp_path / "mine/where.png").exists()
    parts = spent_on(read_model(tmp_path / "outputs/made-1b_best/models/model.json"), 512, 256)
    for total in ("total_ms", "total_energy_joule"):
        assert sum(parts[total].values()) == pytest.approx(row[total]["mean"])
    assert {"prefill: tokens", "decode: steps", "decode: attention"} <= set(parts["total_ms"])


def test_plan_and_the_collectors_dry_run_count_the_same(
    tmp_path: Path, llama_cpp: object, tiny_model: Callable[..., Path]
) -> None:
    write_csv(tmp_path / "made.csv", made_rows())
    ok("train", "--data", "made.csv", "--all-models", cwd=tmp_path)
    prompts = ROOT / "data" / "writing_prompts_hierarchical.csv"
    common = ["--prompts", str(prompts), "--limit", "3", "--repeats", "2"]
    plan = json.loads(
        ok(
            *("plan", *common, "--gguf", tiny_model("llama"), "--model", "made", "--output-tokens", 9),
            *("--json", "--model-path", tmp_path / "outputs"),
        )
    )
    command = [sys.executable, str(ROOT / "run_llamacpp_collect.py"), *common, "--max_tokens", "9"]
    command += ["--models", str(tiny_model("llama")), "--out_jsonl", str(tmp_path / "r.jsonl"), "--dry_run"]
    done = subprocess.run(command, capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert f"{plan['total']['runs']} runs planned" in text, text
    longest = dict(re.findall(r"(\w+) (\d+)", re.search(r"longest prompt, tokens: (.*)", text)[1]))  # type: ignore[index]
    assert {level: str(row["prompt_tokens_max"]) for level, row in plan["levels"].items()} == longest
