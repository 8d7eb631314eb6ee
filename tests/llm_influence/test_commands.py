"""`influence llm build` and `influence llm query`, as a person calls them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from influence import TopInfluence
from influence.cli.main import main
from llm_influence import LESS, TRAK, DataInf, Kronecker, TracIn, TrackStar, encode, trace
from llm_influence.commands import llm
from llm_influence.methods import METHODS
from llm_influence.records import read_records
from tests.llm_influence import models
from tests.llm_influence.command_line import (
    CALL,
    ROOT,
    build,
    contents,
    loaded,
    query,
    texts,
    write,
)
from tests.llm_influence.small_tokenizers import MARKED, bpe


def test_build_and_query_are_the_api(folder, capsys):
    assert build("--id", "name", "--p", "8") == 0
    told = capsys.readouterr().out
    assert "train.jsonl: 20 examples" in told and "covered: 100.00%" in told
    assert "disk: " in told and "built store: " in told
    assert query("--top", "4", "--out", "out", "--tokens") == 0
    told = capsys.readouterr().out
    model, tokenizer = loaded()
    train = pd.DataFrame(texts(20)).set_index("name")
    run = trace(model, encode(train, tokenizer))
    asked = encode(texts(3, seed=1), tokenizer)
    expected = TracIn(Kronecker(8)).fit(run).explain_top(asked, k=4)
    found = TopInfluence.load("out/influence.npz")
    np.testing.assert_array_equal(found.highest_rows, expected.highest_rows)
    np.testing.assert_allclose(found.highest, expected.highest, rtol=1e-4)
    frame = pd.read_csv("out/influence.csv")
    assert frame["train"].str.startswith("doc").all()
    pd.testing.assert_frame_equal(frame, pd.read_parquet("out/influence.parquet"))
    first = expected.proponents(1).iloc[0]
    assert f"{first['influence']:+.4g}  {first['train']}: {train.text[first['train']]}" in told
    losses = pd.read_csv("out/queries.csv")["loss"]
    np.testing.assert_allclose(losses, run.losses(asked), rtol=1e-5)
    tokens = pd.read_csv("out/tokens.csv", keep_default_na=False)
    sums = tokens.groupby(["query", "train"])["influence"].sum()
    wanted = frame.set_index(["query", "train"])["influence"]
    np.testing.assert_allclose(sums.loc[wanted.index], wanted, rtol=1e-3, atol=1e-4)
    assert f"'{tokens['text'][0]}' {tokens['influence'][0]:+.3g}" in told
    assert json.loads(Path("out/provenance.json").read_text())["run"]["store_dtype"] == "float32"


def test_the_record_holds_all_arguments_and_builds_again(folder, capsys):
    assert build("--p", "4", "--modules", "*.mlp.*", "lm_head", "--seed", "3", "--quiet") == 0
    assert capsys.readouterr().out.count("\n") == 1
    record = json.loads((folder / "store" / "influence.json").read_text())
    assert record["settings"]["model"] == "model" and record["settings"]["seed"] == 3
    assert record["settings"]["max_length"] == 32, "what the model can take"
    assert record["absolute"]["data"] == str(folder / "train.jsonl")
    assert record["facts"]["uncovered"]["transformer.wpe.weight"] == "left out by modules="
    call = ["llm", "build", "--replay", "store/influence.json", "--store", "again"]
    assert main(call, {"llm": llm}) == 0
    assert "not transformer.wpe.weight: left out by modules=" in capsys.readouterr().out
    assert contents(folder / "again") == contents(folder / "store")
    assert main([*call, "--p", "8"], {"llm": llm}) == 2
    assert "leave out --p" in capsys.readouterr().err


def test_a_store_is_gone_on_with_and_keeps_its_settings(folder, capsys):
    assert build() == 0
    before = contents(folder / "store")
    (folder / "store" / "checkpoint-0" / "rows-00000000.safetensors").unlink()
    assert build("--whiten", "1") == 0
    assert build() == 0
    assert "1 of 1 shards are there" in capsys.readouterr().out
    assert contents(folder / "store") == before
    (folder / "store" / "checkpoint-0" / "rows-00000000.safetensors").write_bytes(b"damaged")
    assert query() == 0
    assert "is built to its end first" in capsys.readouterr().out
    assert contents(folder / "store") == before
    record = (folder / "store" / "influence.json").read_bytes()
    assert build("--p", "4") == 2
    assert "projection.p: expected 4, found 16" in capsys.readouterr().err
    assert build("--store-dtype", "bfloat16") == 2
    assert 'dtype: expected "bfloat16", found "float32"' in capsys.readouterr().err
    assert (folder / "store" / "influence.json").read_bytes() == record


def test_what_changed_since_is_named(folder, capsys):
    assert build() == 0
    write(folder / "train.jsonl", texts(20, seed=5))
    assert query() == 2
    assert f"{folder / 'train.jsonl'} holds other training examples" in capsys.readouterr().err
    write(folder / "train.jsonl", texts(20))
    model, _ = loaded()
    with torch.no_grad():
        model.lm_head.weight[3, 0] += 1
    model.save_pretrained("model")
    assert query() == 2
    err = capsys.readouterr().err
    assert "The weights are not those" in err and str(folder / "model") in err
    (folder / "model").rename(folder / "gone")
    assert query() == 2
    assert "(given as model)" in capsys.readouterr().err


def test_half_the_disk(folder, capsys):
    assert build("--store-dtype", "bfloat16", store="half") == 0
    assert build() == 0
    sizes = [
        (folder / name / "checkpoint-0" / "rows-00000000.safetensors").stat().st_size - 512
        for name in ("half", "store")
    ]
    assert 2 * sizes[0] == sizes[1]
    assert query("--out", "whole") == 0
    assert query("--out", "rounded", store="half") == 0
    tops = [TopInfluence.load(f"{name}/influence.npz") for name in ("whole", "rounded")]
    np.testing.assert_allclose(tops[1].highest[:, 0], tops[0].highest[:, 0], rtol=0.02)
    assert tops[1].provenance.run["store_dtype"] == "bfloat16"


def test_checkpoints_and_rates(folder):
    models.gpt2(vocab_size=290, initializer_range=0.1).save_pretrained("earlier")
    assert build("--checkpoints", "earlier", "model", "--rates", "0.1", "0.01") == 0
    assert query("--out", "out") == 0
    found = TopInfluence.load("out/influence.npz")
    assert found.provenance.unit == "loss"
    model, tokenizer = loaded()
    run = trace(
        model, encode(texts(20), tokenizer), checkpoints=["earlier", "model"], rates=[0.1, 0.01]
    )
    expected = TracIn().fit(run).explain_top(encode(texts(3, 1), tokenizer))
    np.testing.assert_allclose(found.lowest, expected.lowest, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_methods_by_name(folder, method, capsys):
    model, tokenizer = loaded()
    train, asked = encode(texts(20), tokenizer), encode(texts(3, 1), tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for i in range(3):
        optimizer.zero_grad()
        model(**train.batch([i])).loss.backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "moment.pt")
    assert build("--method", method, "--checkpoints", "moment.pt", "--p", "4", "--seed", "1") == 0
    assert query("--out", "out") == 0
    found = TopInfluence.load("out/influence.npz")
    made = {
        "tracin": TracIn, "less": LESS, "trak": TRAK, "trackstar": TrackStar,
        "datainf": lambda projection: DataInf(projection=projection),
    }  # fmt: skip
    estimator = made[method]
    run = trace(loaded()[0], train, checkpoints="moment.pt")
    expected = estimator(Kronecker(4, seed=1)).fit(run).explain_top(asked)
    np.testing.assert_allclose(found.highest, expected.highest, rtol=1e-3)
    assert build("--method", method, "--metric", "adam", "--checkpoints", "moment.pt") == 2
    err = capsys.readouterr().err
    assert ("has no --metric" in err) == (method != "tracin")


PAIRS = [{"prompt": f"the {w}", "completion": " is 4"} for w in ("cat", "dog")]
CHAT = [
    {"messages": [{"role": "user", "content": w}, {"role": "assistant", "content": "it is 4"}]}
    for w in ("cat", "dog")
]


@pytest.mark.parametrize("records", [texts(4), PAIRS, CHAT], ids=["text", "pairs", "messages"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
def test_files_of_records(tmp_path, records, suffix):
    path = tmp_path / f"train.{suffix}"
    if suffix == "jsonl":
        write(path, records)
    elif suffix == "json":
        path.write_text(json.dumps(records, indent=1))
    elif suffix == "parquet":
        pd.DataFrame(records).to_parquet(path)
    elif "messages" not in records[0]:
        pd.DataFrame(records).to_csv(path, index=False)
    else:
        pytest.skip("CSV has no lists")
    tokenizer = bpe(template=MARKED)
    found = encode(read_records(str(path)), tokenizer)
    assert found.content(slice(None)) == encode(records, tokenizer).content(slice(None))


def test_texts_of_a_table_stay_texts(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n12,1\nNone,0\n")
    found = read_records(str(tmp_path / "a.csv"))
    assert found["text"].tolist() == ["12", "None"] and found["label"].tolist() == [1, 0]


def test_a_classifier_an_adapter_and_bare_tokens(folder, capsys):
    tokenizer = bpe()
    rows = [{**record, "label": i % 3} for i, record in enumerate(texts(9))]
    write(folder / "labelled.jsonl", rows)
    write(folder / "ids.jsonl", [{"input_ids": r["input_ids"]} for r in models.texts(9)])
    models.bert().save_pretrained("bert")
    bare = ["llm", "build", "--model", "bert", "--data", "labelled.jsonl", "--store", "none"]
    assert main(bare, {"llm": llm}) == 2
    assert "Texts need the model's tokenizer" in capsys.readouterr().err
    from transformers import BertConfig, BertForSequenceClassification

    BertForSequenceClassification(
        BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
            vocab_size=len(tokenizer), num_labels=3,
        )
    ).save_pretrained("bert")  # fmt: skip
    tokenizer.save_pretrained("bert")
    for data, code, told in (
        ("labelled.jsonl", 0, "BertForSequenceClassification"),
        ("train.jsonl", 2, "Expected a label in each record for a classifier"),
    ):
        call = ["llm", "build", "--model", "bert", "--data", data, "--store", f"of-{data}"]
        assert main(call, {"llm": llm}) == code
        assert told in "".join(capsys.readouterr())
    models.gpt2().save_pretrained("base")
    adapted: Any = models.lora()
    adapted.peft_config["default"].base_model_name_or_path = "base"
    adapted.save_pretrained("lora")
    call = ["llm", "build", "--model", "lora", "--data", "ids.jsonl", "--store", "lora-store"]
    assert main(call, {"llm": llm}) == 0
    assert "PeftModel, 2,112 trained parameters" in capsys.readouterr().out
    write(folder / "asked.jsonl", [{"input_ids": [3, 4, 5]}])
    assert query("--top", "1", "--tokens", store="lora-store") == 0
    assert "query 0" in capsys.readouterr().out


def test_the_strongest_can_be_ranked_again(folder, monkeypatch, capsys):
    assert build() == 0
    seen: list[Any] = []

    def reranked(estimator: Any, top: Any, queries: Any, k: int, *, progress: bool) -> Any:
        seen.append((top.highest.shape, queries.n_queries, k))
        return estimator.explain_top(queries, k=k)

    module = ModuleType("llm_influence.rerank")
    module.reranked = reranked  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert query("--rerank", "7", "--top", "3") == 0
    assert seen == [((3, 7), 3, 3)]
    assert query("--rerank", "2", "--top", "3") == 2


MISTAKES = {
    "no model": (["--model", "nowhere"], "", "Expected a model's folder at nowhere"),
    "no model folder": (["--model", "."], "", "holds neither config.json"),
    "no data": (["--data", "nowhere.jsonl"], "", "Expected a file of records at nowhere.jsonl"),
    "another file": (["--data", "model/config.toml"], "", "Expected a file"),
    "malformed": ([], '{"text": "a"}\n{"text"\n', "bad.jsonl, line 2: expected JSON"),
    "empty": ([], "\n", "Expected records in bad.jsonl"),
    "fields": ([], '{"story": "a"}\n', "line 1: expected an object with text"),
    "mixed": ([], '{"text": "a cat"}\n\n{"prompt": "a"}\n', "line 3: expected the keys of"),
    "no object": ([], "3\n", "line 1: expected an object"),
    "number": ([], '{"text": 3}\n', "Expected a text as 'text'"),
    "token": ([], '{"input_ids": [3, 900]}\n', "Expected input_ids to be whole numbers below 290"),
    "too long": ([], json.dumps({"input_ids": [3] * 40}), "at most 32 tokens"),
    "id": (["--id", "key"], '{"text": "a cat"}\n', "line 1: expected a text or number as key"),
    "metric": (["--metric", "adam"], '{"text": "a cat"}\n', "--metric adam needs --checkpoints"),
    "device": (["--device", "nonsense"], '{"text": "a cat"}\n', "--device nonsense cannot be"),
    "damaged": (["--model", "damaged"], '{"text": "a cat"}\n', "cannot be loaded"),
    "label": ([], '{"text": "a cat", "label": 1}\n', "Expected records without a label"),
    "p": (["--p", "0"], '{"text": "a cat"}\n', "p must be a whole number from 1 on"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(folder, name, capsys):
    more, content, told = MISTAKES[name]
    (folder / "bad.jsonl").write_text(content)
    (folder / "model" / "config.toml").write_text("")
    (folder / "damaged").mkdir()
    (folder / "damaged" / "config.json").write_bytes((folder / "model/config.json").read_bytes())
    (folder / "damaged" / "model.safetensors").write_bytes(b"12345678")
    assert build("--data", "bad.jsonl", *more) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1
    assert not (folder / "store").exists()


def test_a_query_needs_what_build_wrote(folder, capsys):
    assert query() == 2
    assert "which `influence llm build` writes" in capsys.readouterr().err
    assert build() == 0
    (folder / "store" / "influence.json").write_text("{}")
    assert query() == 2
    assert "damaged or of another kind" in capsys.readouterr().err


def test_two_processes_build_what_one_builds(folder):
    write(folder / "train.jsonl", texts(1040))  # two shards
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    call = [sys.executable, "-c", CALL, "llm", "build", "--model", "model", "--data", "train.jsonl"]
    started = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}  # as torchrun sets them
        place |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "PYTHONPATH": str(ROOT)}
        started.append(
            subprocess.Popen(
                [*call, "--store", "shared", "--p", "2"], env={**os.environ, **place}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
    assert build("--p", "2") == 0
    told = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert "built shared" in told[0][0] and told[1][0] == ""
    assert contents(folder / "shared") == contents(folder / "store")
