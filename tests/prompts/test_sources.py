"""Prompts from files of many makes and from named sets: what is read, chosen, refused."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companions.load_prompts import main
from edgebench.prompts.tasks import wanted_tasks

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "companions/load_prompts.py"
# Rows as the sets on the hub have them.
SETS = {
    "tatsu-lab/alpaca": [
        {"instruction": "Add.", "input": "1 and 2", "output": "3", "text": "Below is an instruction"},
        {"instruction": "Greet.", "input": "", "output": "Hello", "text": "Below is an instruction"},
    ],
    "openai/gsm8k": [
        {"question": "Tom has 3 pens. How many?", "answer": "#### 3"},
        {"question": "2 + 2?", "answer": "#### 4"},
    ],
    "cais/mmlu": [
        {"question": "Which is prime?", "subject": "algebra", "choices": ["4", "5", "6", "8"], "answer": 1}
    ],
    "anon8231489123/ShareGPT_Vicuna_unfiltered": [
        {"id": "x1", "conversations": [{"from": "human", "value": "Hi, Ü"}, {"from": "gpt", "value": "Yes"}]},
        {"id": "x2", "conversations": [{"from": "gpt", "value": "no human"}]},
    ],
}
HUB = """
import json, os
def load_dataset(path, name=None, split=None, data_files=None):
    asked = {"path": path, "name": name, "split": split, "data_files": data_files}
    asked["offline"] = os.environ.get("HF_HUB_OFFLINE")
    open(os.environ["ASKED"], "w").write(json.dumps(asked))
    if os.environ.get("FAILS"):
        raise ConnectionError("Couldn't reach the Hub\\nsecond line")
    return iter(json.load(open(os.environ["SETS"]))[path])
"""


def load(*flags: object) -> int:
    return main([str(flag) for flag in flags])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def from_hub(tmp_path: Path, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "datasets.py").write_text(HUB)
    (tmp_path / "sets.json").write_text(json.dumps(SETS))
    here = {
        "PYTHONPATH": str(tmp_path),
        "SETS": str(tmp_path / "sets.json"),
        "ASKED": str(tmp_path / "asked"),
        "HF_DATASETS_CACHE": str(tmp_path),  # a cache to look into, whether a hub answers here or not
    }
    command = [sys.executable, str(SCRIPT), *flags, "--out", str(tmp_path / "out.csv")]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **here, **env})


@pytest.mark.parametrize(
    ("name", "texts", "subset", "split"),
    [
        ("alpaca", ["Add.\n\n1 and 2", "Greet."], None, "train"),
        ("gsm8k", ["Tom has 3 pens. How many?", "2 + 2?"], "main", "train"),
        ("mmlu", ["Which is prime?\n\nA. 4\nB. 5\nC. 6\nD. 8"], "all", "test"),
        ("sharegpt", ["Hi, Ü"], None, "train"),
    ],
)
def test_named_sets_come_in_their_own_shape(
    tmp_path: Path, name: str, texts: list[str], subset: str | None, split: str
) -> None:
    done = from_hub(tmp_path, name)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "out.csv")
    assert [row["L0"] for row in found] == texts
    asked = json.loads((tmp_path / "asked").read_text())
    assert (asked["name"], asked["split"]) == (subset, split)
    if name == "mmlu":
        assert found[0]["category"] == "algebra"
    if name == "sharegpt":
        assert found[0]["question_id"] == "x1" and "1 without text" in done.stderr


def test_split_subset_and_any_other_set_of_the_hub(tmp_path: Path) -> None:
    assert from_hub(tmp_path, "openai/gsm8k", "--split", "test", "--subset", "socratic").returncode == 0
    asked = json.loads((tmp_path / "asked").read_text())
    asked.pop("offline")
    assert asked == {"path": "openai/gsm8k", "name": "socratic", "split": "test", "data_files": None}


def test_a_hub_that_fails_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hub:
        endpoint = f"http://127.0.0.1:{hub.getsockname()[1]}"
        done = from_hub(tmp_path, "alpaca", FAILS="1", HF_ENDPOINT=endpoint, no_proxy="127.0.0.1")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "Couldn't reach the Hub" in done.stderr and "give the file" in done.stderr
    assert json.loads((tmp_path / "asked").read_text())["offline"] is None
    assert not (tmp_path / "out.csv").exists()


def test_a_hub_out_of_reach_is_told_to_the_package_which_asks_its_cache_alone(tmp_path: Path) -> None:
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9", "http_proxy": "", "HTTP_PROXY": ""}
    done = from_hub(tmp_path, "alpaca", HF_DATASETS_CACHE=str(tmp_path / "none"), **nobody)
    assert done.returncode == 1 and "127.0.0.1 does not answer" in done.stderr
    assert not (tmp_path / "asked").exists()
    nobody["HF_DATASETS_CACHE"] = str(tmp_path)
    assert from_hub(tmp_path, "alpaca", **nobody).returncode == 0  # the cache has it
    assert json.loads((tmp_path / "asked").read_text())["offline"] == "1"
    (tmp_path / "out.csv").unlink()
    done = from_hub(tmp_path, "alpaca", FAILS="1", **nobody)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "127.0.0.1 does not answer" in done.stderr and "give the file" in done.stderr
    assert not (tmp_path / "out.csv").exists()


# --- Folders


def write_arrow(path: Path, prompts: list[str]) -> None:
    """As save_to_disk of `datasets` does: a stream of record batches."""
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"question": prompts})
    with pyarrow.ipc.new_stream(str(path), table.schema) as out:
        out.write_table(table)


def saved(folder: Path, *shards: list[str]) -> None:
    """A split as save_to_disk leaves it; its order is that of state.json."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05d}-of-{len(shards):05d}.arrow" for n in range(len(shards))]
    for name, prompts in zip(names, shards, strict=True):
        write_arrow(folder / name, prompts)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


def shard(path: Path, prompts: list[str]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pytest.importorskip("pyarrow").table({"question": prompts}), path)


def test_a_folder_of_save_to_disk(tmp_path: Path) -> None:
    saved(tmp_path / "one", ["a", "b"], ["c"])
    assert load(tmp_path / "one", "--out", tmp_path / "o.csv") == 0
    assert [row["L0"] for row in rows(tmp_path / "o.csv")] == ["a", "b", "c"]
    saved(tmp_path / "dict/train", ["a"])
    saved(tmp_path / "dict/test", ["t"])
    (tmp_path / "dict/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert load(tmp_path / "dict", "--out", tmp_path / "o.csv") == 0
    assert [row["L0"] for row in rows(tmp_path / "o.csv")] == ["a"]
    assert load(tmp_path / "dict", "--split", "test", "--out", tmp_path / "o.csv") == 0
    assert [row["L0"] for row in rows(tmp_path / "o.csv")] == ["t"]


def test_a_folder_of_parquet_shards(tmp_path: Path) -> None:
    shard(tmp_path / "hub/data/train-00000-of-00002.parquet", ["a"])
    shard(tmp_path / "hub/data/train-00001-of-00002.parquet", ["b"])
    shard(tmp_path / "hub/data/test-00000-of-00001.parquet", ["t"])
    assert load(tmp_path / "hub", "--out", tmp_path / "o.csv") == 0
    assert [row["L0"] for row in rows(tmp_path / "o.csv")] == ["a", "b"]
    assert load(tmp_path / "hub", "--split", "test", "--out", tmp_path / "o.csv") == 0
    assert [row["L0"] for row in rows(tmp_path / "o.csv")] == ["t"]
    shard(tmp_path / "converted/validation/0000.parquet", ["v"])
    assert load(tmp_path / "converted", "--out", tmp_path / "o.csv") == 0
    assert [row["L0"] for row in rows(tmp_path / "o.csv")] == ["v"]


def test_a_folder_without_a_set_and_a_split_without_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert load(tmp_path / "empty", "--out", tmp_path / "o.csv") == 1
    assert "holds no data set" in capsys.readouterr().err
    shard(tmp_path / "two/dev-0.parquet", ["d"])
    shard(tmp_path / "two/test-0.parquet", ["t"])
    for flags, said in (((), "has several splits"), (("--split", "train"), "has no split train")):
        assert load(tmp_path / "two", *flags, "--out", tmp_path / "o.csv") == 1
        told = capsys.readouterr().err
        assert said in told and "--split dev or test" in told
    (tmp_path / "two/dev-0.parquet").write_bytes(b"PAR1 torn")
    assert load(tmp_path / "two", "--split", "dev", "--out", tmp_path / "o.csv") == 1
    assert "not readable as Parquet" in capsys.readouterr().err


def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "datasets.py").write_text("raise ImportError('no')")
    command = [sys.executable, str(SCRIPT), "gsm8k", "--out", str(tmp_path / "o.csv")]
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_DATASETS_CACHE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 1 and "pip install datasets" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["json", "jsonl", "jsonl.gz", "csv", "parquet"])
def test_the_same_rows_from_every_format(tmp_path: Path, kind: str) -> None:
    table = [{"question": "One, two?", "answer": "a"}, {"question": 'He said "x"\nand left', "answer": "b"}]
    path = tmp_path / f"rows.{kind}"
    if kind == "json":
        path.write_text(json.dumps(table))
    elif kind == "csv":
        with path.open("w", newline="") as text:
            writer = csv.DictWriter(text, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    elif kind == "parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(arrow.Table.from_pylist(table), path)
    else:
        import gzip

        data = "\n\n".join(map(json.dumps, table)).encode()
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    assert load(path, "--out", tmp_path / "out.csv") == 0
    assert [row["L0"] for row in rows(tmp_path / "out.csv")] == [one["question"] for one in table]


def test_a_hierarchical_file_keeps_its_levels_and_the_collector_reads_it(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.csv"
    source = ROOT / "data/writing_prompts_hierarchical.csv"
    assert load(source, "--out", out, "--sample_size", 3) == 0
    before, after = rows(source)[:3], rows(out)
    for level in ("L0", "L1", "L2", "L3", "P", "category", "topic", "question_id"):
        assert [row[level].strip() for row in before] == [row[level] for row in after]
    assert len(wanted_tasks([out])) == 3


def test_one_level_of_a_hierarchical_file_by_its_column(tmp_path: Path) -> None:
    source = ROOT / "data/writing_prompts_hierarchical.csv"
    assert load(source, "--column", "L3", "--level", "L0", "--out", tmp_path / "o.csv") == 0
    assert [row["L0"] for row in rows(tmp_path / "o.csv")] == [row["L3"].strip() for row in rows(source)]
    assert "L3" not in rows(tmp_path / "o.csv")[0]


def test_our_question_set_and_plain_lines(tmp_path: Path) -> None:
    assert load(ROOT / "data/questionset.jsonl.txt", "--out", tmp_path / "q.csv") == 0
    assert all(row["L0"] for row in rows(tmp_path / "q.csv"))
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfFirst\r\n\r\n  \r\nSecond, with comma\r\n")
    assert load(tmp_path / "p.txt", "--level", "L1", "--out", tmp_path / "p.csv") == 0
    assert rows(tmp_path / "p.csv") == [
        {"question_id": str(number), "category": "", "topic": "", "L1": text}
        for number, text in enumerate(("First", "Second, with comma"), 1)
    ]


@pytest.mark.parametrize(
    ("columns", "taken"),
    [
        (["answer", "content", "input"], "input"),
        (["instruction", "question"], "question"),
        (["Prompt", "content"], "Prompt"),
        (["text", "prompt", "question", "instruction", "content"], "text"),
    ],
)
def test_the_column_is_found_in_a_fixed_order(tmp_path: Path, columns: list[str], taken: str) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({name: f"from {name}" for name in columns}))
    assert load(tmp_path / "t.jsonl", "--out", tmp_path / "o.csv") == 0
    assert rows(tmp_path / "o.csv")[0]["L0"] == f"from {taken}"


@pytest.mark.parametrize(
    ("name", "content", "flags", "words"),
    [
        (
            "a.csv",
            "question,x\nq,1\n",
            ["--column", "qestion"],
            ["no column qestion", "did you mean question"],
        ),
        ("a.csv", "foo,bar\n1,2\n", [], ["--column", "foo, bar"]),
        ("a.csv", 'text\n"open\n', [], ["check its quotes"]),
        ("a.csv", "text\n", [], ["no rows"]),
        ("a.csv", "text,x\n,1\n", [], ["is empty"]),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', [], ["line 2"]),
        ("a.json", '[{"text": "a"}, 3]', [], ["element 2"]),
        ("a.parquet", "not parquet", [], ["Parquet"]),
        ("a.docx", "x", [], [".parquet", "convert"]),
    ],
)
def test_bad_input_is_one_clear_error(
    tmp_path: Path, name: str, content: str, flags: list[str], words: list[str], capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / name).write_text(content)
    assert load(tmp_path / name, *flags, "--out", tmp_path / "o.csv") == 1
    said = capsys.readouterr().err
    assert said.startswith("error:") and all(word in said for word in words)
    assert not (tmp_path / "o.csv").exists()


def test_a_sample_of_nothing_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        load("a.txt", "--sample_size", 0, "--out", tmp_path / "o.csv")
    assert ended.value.code == 2 and "must be at least 1" in capsys.readouterr().err


def test_not_utf8_and_unknown_names(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "l.csv").write_bytes(b"text\nStra\xdfe\n")
    assert load(tmp_path / "l.csv", "--out", tmp_path / "o.csv") == 1
    assert load("gsm8", "--out", tmp_path / "o.csv") == 1
    said = capsys.readouterr().err
    assert "UTF-8" in said and "did you mean gsm8k" in said


def test_an_output_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "t.txt").write_text("a")
    (tmp_path / "file").write_text("")
    assert load(tmp_path / "t.txt", "--out", tmp_path / "file" / "o.csv") == 1
    assert capsys.readouterr().err.startswith("error:")


def test_the_sets_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert main(["--list", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == [
        "alpaca",
        "gsm8k",
        "mmlu",
        "sharegpt",
    ]
    assert main(["--list"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=20),
    size=st.integers(1, 25),
    seed=st.integers(0, 5),
)
def test_a_sample_is_drawn_without_return_and_by_its_seed(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("draw")
    source, wanted = folder / "s.jsonl", [text.replace("\0", "").strip() for text in texts]
    source.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    outs = [folder / name for name in ("a.csv", "b.csv")]
    for out in outs:
        code = load(source, "--out", out, "--shuffle", "--sample_size", size, "--seed", seed)
        assert code == (0 if any(wanted) else 1)
    if any(wanted):
        drawn = rows(outs[0])
        assert outs[0].read_bytes() == outs[1].read_bytes()
        assert len(drawn) == min(size, len([text for text in wanted if text]))
        ids = [int(row["question_id"]) for row in drawn]
        assert len(set(ids)) == len(ids)
        assert [row["L0"] for row in drawn] == [wanted[id_ - 1] for id_ in ids]


def test_tables_are_read_as_the_collector_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One reader: what a spreadsheet leaves is read here too, and a spoiled cell is named by its place."""
    (tmp_path / "s.csv").write_text("sep=;\nquestion;answer\nWhy, now?;x\nHow?\n")
    assert load(tmp_path / "s.csv", "--out", tmp_path / "o.csv") == 0
    assert [row["L0"] for row in rows(tmp_path / "o.csv")] == ["Why, now?", "How?"]
    (tmp_path / "t.tsv").write_text("question\tanswer\nWhy; now?\t#REF!\n")
    assert load(tmp_path / "t.tsv", "--out", tmp_path / "o.csv") == 0
    assert [row["L0"] for row in rows(tmp_path / "o.csv")] == ["Why; now?"]
    capsys.readouterr()
    (tmp_path / "t.tsv").write_text("question\tanswer\nWhy?\tx\n#REF!\tx\n")
    assert load(tmp_path / "t.tsv", "--out", tmp_path / "p.csv") == 1
    assert "t.tsv line 3, column question: the cell says #REF!" in capsys.readouterr().err
    (tmp_path / "n.jsonl").write_text('{"text": "a"}\n{"text": NaN}\n')
    assert load(tmp_path / "n.jsonl", "--out", tmp_path / "p.csv") == 0
    assert "1 without text" in capsys.readouterr().err
