"""What a person may get wrong with `influence llm` is named, in one line."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

from influence.errors import InputError
from llm_influence import TracIn, trace
from llm_influence.build_record import read_record
from tests.llm_influence import models
from tests.llm_influence.command_line import ROOT, build, contents, query, texts, write

CONTENT = [{"type": "text", "text": "it is 4"}]
TURNS = [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": CONTENT}]
RECORDS = {
    "not UTF-8": (b'{"text": "a"}\n{"text": "caf\xe9"}\n', "bad.jsonl, line 2: expected UTF-8"),
    "half a pair": (rb'{"text": "a \ud800 cat"}', "bad.jsonl, line 1: expected JSON"),
    "deep": (b'{"text": ' + b"[" * 100_000, "bad.jsonl, line 1: expected JSON"),
    "parts": (json.dumps({"messages": TURNS}).encode(), "The chat template refuses record 0"),
    "token": (b'{"input_ids": [3, 4]}\n{"input_ids": [3, 900]}', "(at position 1) has 900"),
    "label": (b'{"input_ids": [3, 4], "labels": [3, 900]}', "Expected labels to be whole numbers"),
    "type": (b'{"input_ids": [3, 4], "token_type_ids": [0, 999]}', "Expected token_type_ids to be"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_that_cannot_be_read_are_named(folder, name, capsys):
    content, told = RECORDS[name]
    (folder / "bad.jsonl").write_bytes(content)
    assert build(data="bad.jsonl") == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


def test_windows_files_are_read_as_others(folder):
    assert build() == 0
    plain = (folder / "train.jsonl").read_bytes()
    (folder / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n") + b"\r\n")
    assert build(store="windows") == 0
    assert contents(folder / "windows") == contents(folder / "store")


@pytest.mark.parametrize("label", [3, -1, 1.5, None])
def test_a_class_the_model_does_not_have_is_named(folder, label, capsys):
    known = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        vocab_size=310, num_labels=3,
    )  # fmt: skip
    BertForSequenceClassification(known).save_pretrained("model")
    write(folder / "train.jsonl", [{"text": "a cat", "label": value} for value in (0, label)])
    assert build() == 2
    shown = "nan" if label is None else str(label)
    assert f"(at position 1) has {shown}" in capsys.readouterr().err


def test_ranges_are_checked_without_the_commands():
    model = models.gpt2()
    with pytest.raises(InputError, match=r"at position 1\) has 900"):
        trace(model, [{"input_ids": [3, 4]}, {"input_ids": [3, 900]}])
    padded = {"input_ids": [3, 4, 900], "attention_mask": [1, 1, 0]}
    run = trace(model, [{"input_ids": [3, 4, 5], "attention_mask": [1, 1, 1]}, padded])
    fitted = TracIn().fit(run)
    with pytest.raises(InputError, match=r"at position 0\) has 901"):
        fitted.explain([{"input_ids": [3, 901]}])


def test_weights_of_another_model_are_named(folder, capsys):
    path = folder / "model" / "model.safetensors"
    weights = load_file(path)
    name = "transformer.ln_f.bias"
    save_file({**weights, name: torch.zeros(3)}, path, {"format": "pt"})
    assert build() == 2
    is_new = int(version("transformers").partition(".")[0]) >= 5
    shape = "the shape (3,)" if is_new else "another shape"
    assert f"{name} has {shape}, expected (24,)" in capsys.readouterr().err


def test_a_device_without_numbers_is_refused(folder, capsys):
    assert build("--device", "meta") == 2
    assert "--device meta cannot be used here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after"),
    [('"whiten": null', '"whiten": 1.0'), ('"tracin"', '"tracim"'), ('"examples"', '"exbmples"')],
)
def test_a_record_that_was_changed_is_refused(folder, before, after, capsys):
    assert build() == 0
    path = folder / "store" / "influence.json"
    assert read_record(path).settings.whiten is None
    path.write_text(path.read_text().replace(before, after))
    assert query() == 2
    assert "influence.json is damaged" in capsys.readouterr().err


def test_new_lines_are_appended_by_the_same_command(folder, capsys):
    assert build() == 0
    write(folder / "train.jsonl", texts(30))
    assert query() == 2
    assert "run the same build again, it appends them" in capsys.readouterr().err
    assert build() == 0 and query() == 0
    assert build(store="at-once") == 0
    assert contents(folder / "at-once") == contents(folder / "store")
    assert read_record(folder / "store" / "influence.json").facts["n_train"] == 30


def test_a_query_tells_what_it_cut_and_fits_a_terminal(folder, capsys):
    write(folder / "train.jsonl", [{"text": "the cat sat on the \x1b[31m mat " * 3}] * 20)
    assert build("--max-length", "20") == 0
    write(folder / "asked.jsonl", [{"text": "the cat " * 30}, {"text": "a dog"}])
    capsys.readouterr()
    assert query("--top", "50", "--tokens") == 0
    told = capsys.readouterr().out
    assert "truncated: 1 of the queries, at 20 tokens" in told
    assert "leaving the example out raises the query's loss" in told
    assert "\x1b" not in told
    assert max(map(len, told.splitlines())) <= 100


def test_more_candidates_than_examples_are_all_of_them(folder, capsys):
    assert build() == 0
    assert query("--rerank", "90", "--top", "80", "--out", "out") == 0
    assert "reranked" in capsys.readouterr().out


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Absent())
from influence.cli.main import main
from llm_influence.commands import llm
sys.exit(main(sys.argv[1:], {"llm": llm}))
"""


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--help"], 0, "which training examples"),
        (["llm", "build", "--help"], 0, "influence llm query --store DIR"),
        (["llm", "quickstart"], 2, "error: This needs torch"),
        (["llm", "build", "--model", ".", "--data", "d", "--store", "s"], 2, "toolkit[llm]"),
    ],
)
def test_without_torch_the_extra_is_named(
    tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    found: Any = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == code, found.stderr
    assert told in " ".join((found.stdout + found.stderr).split())
