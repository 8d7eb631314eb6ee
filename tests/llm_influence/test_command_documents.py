"""The commands of language models and of their order under --json."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from influence import TopInfluence
from influence.cli.main import main
from llm_influence import OptimizerRun, quickstart
from llm_influence.commands import llm
from llm_influence.order import quickstart as order_quickstart
from llm_influence.order.commands import order
from llm_influence.order.curriculum import Curriculum
from llm_influence.order.memorisation import Memorisation

COMMANDS = {"llm": llm, "order": order}
RECORD = ("record", "--model", "model", "--data", "train.jsonl", "--run", "run", "--rate", "3e-4")
ASK = ("--run", "run", "--queries", "asked.jsonl")


def told(capsys, *arguments):
    capsys.readouterr()
    assert main([*arguments, "--json"], COMMANDS) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["command"] == " ".join(arguments[:2])
    return found


def test_build_and_query(folder, capsys):
    built = told(capsys, "llm", "build", "--model", "model", "--data", "train.jsonl", "--store",
                 "rows", "--id", "name")  # fmt: skip
    assert built["provenance"]["method"] == "TracIn"
    assert built["results"][0]["n_train"] == 20 and built["written"] == ["rows"]
    size = sum(path.stat().st_size for path in Path("rows").rglob("*") if path.is_file())
    assert built["results"][0]["bytes"] == size
    call = ("--store", "rows", "--queries", "asked.jsonl", "--top", "2", "--tokens", "--out", "out")
    found = told(capsys, "llm", "query", *call)
    frame = pd.read_csv("out/influence.csv")
    results = pd.DataFrame(found["results"])
    pd.testing.assert_frame_equal(results[list(frame)], frame)
    texts = {
        one["name"]: one["text"]
        for one in map(json.loads, Path("train.jsonl").read_text().splitlines())
    }
    assert all(texts[row["train"]] == row["text"] for row in found["results"])
    assert found["provenance"]["unit"] == TopInfluence.load("out/influence.npz").provenance.unit
    assert found["queries"][0].keys() == {"query", "loss", "text"}
    tokens = pd.DataFrame(found["tokens"]).groupby(["query", "train"])["influence"].sum()
    wanted = frame.set_index(["query", "train"])["influence"]
    np.testing.assert_allclose(tokens.loc[wanted.index], wanted, rtol=1e-3, atol=1e-4)
    assert {Path(path) for path in found["written"]} == {*Path("out").iterdir()}


def test_the_quickstart(monkeypatch, capsys):
    train = quickstart.train
    monkeypatch.setattr(
        quickstart, "train",
        lambda *texts, seed, progress: train(*texts, seed=seed, width=16, n_steps=8),
    )  # fmt: skip
    found = told(capsys, "llm", "quickstart", "--quiet")
    assert len(found["recall"]) == 3 and len(found["results"]) == 5
    first = found["results"][0]
    assert sum(one["influence"] for one in found["tokens"]) == pytest.approx(
        first["influence"], rel=1e-2
    )


def test_order(folder, capsys):
    recorded = told(capsys, "order", *RECORD, "--batch-size", "5")
    run = OptimizerRun.load("run/run")
    assert recorded["provenance"]["fingerprint"] == run.fingerprint
    assert len(recorded["losses"]) == recorded["results"][0]["n_steps"] == 4
    found = told(capsys, "order", "curriculum", *ASK, "--n", "3", "--anyway")
    saved = Curriculum.load("run/curriculum.npz")
    assert found["order"] == saved.order.tolist() and found["rank"] == saved.rank
    assert [row["order"] for row in found["results"][:2]] == ["found", "recorded"]
    assert found["results"][0]["retrained"] == pytest.approx(saved.retrained.mean())
    assert found["written"] == [f"run/curriculum.{end}" for end in ("npz", "csv", "png")]
    found = told(capsys, "order", "compare", *ASK, "--n", "3", "--each")
    assert len(found["results"]) == 9 and len(found["orders"]) == 3
    assert found["agreement"]["mean"] is not None and found["calibration"]["n_orders"] >= 3
    found = told(capsys, "order", "memorisation", *ASK)
    known = Memorisation.load("run/memorisation.npz")
    for row in found["results"]:
        assert row["value"] == known.values[row["batch"], row["place"]]
    assert found["results"][0]["generalisation"] is not None


def test_the_quickstart_of_order(folder, monkeypatch, capsys):
    for name, value in (("N_VILLAGES", 4), ("ASKED", 1), ("WIDTH", 8), ("N_LAYERS", 1)):
        monkeypatch.setattr(order_quickstart, name, value)
    found = told(capsys, "order", "quickstart", "--out", "pictures")
    assert found["curriculum"]["provenance"]["unit"] == "loss"
    assert len(found["memorisation"]["results"]) == 16
    assert found["written"] == ["pictures/orders.png", "pictures/memorisation.png"]


def test_an_interrupted_recording_leaves_a_folder_that_takes_the_next(folder, monkeypatch, capsys):
    def cut(self, path):
        (path / "half").parent.mkdir()
        (path / "half").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(OptimizerRun, "save", cut)
        assert main(["order", *RECORD, "--quiet"], COMMANDS) == 130
    assert "nothing of the training is kept" in capsys.readouterr().err
    assert [*Path("run").iterdir()] == []
    assert main(["order", *RECORD, "--quiet"], COMMANDS) == 0
