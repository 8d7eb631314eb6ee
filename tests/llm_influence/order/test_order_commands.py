"""`influence order`, as a person calls it."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from influence.cli.main import main
from llm_influence import OptimizerRun, encode
from llm_influence.order import quickstart
from llm_influence.order.commands import order
from llm_influence.order.comparison import OrderComparison
from llm_influence.order.curriculum import Curriculum, curriculum
from llm_influence.order.memorisation import Memorisation
from llm_influence.order.train_file import Plan, RecordedFile, train_file
from tests.llm_influence.command_line import loaded, texts


def call(*arguments: str) -> int:
    return main(["order", *arguments, "--quiet"], {"order": order})


def record(*more: str) -> int:
    return call(
        "record", "--model", "model", "--data", "train.jsonl", "--run", "run",
        "--batch-size", "5", "--rate", "3e-4", *more,
    )  # fmt: skip


def test_recording_is_the_loop_it_says(folder, capsys):
    assert record(
        "--epochs", "2", "--schedule", "cosine", "--warmup", "2", "--max-grad-norm", "1",
        "--weight-decay", "0.1", "--seed", "3",
    ) == 0  # fmt: skip
    assert "4 batches, 8 steps" in capsys.readouterr().out
    run = OptimizerRun.load("run/run")
    model, tokenizer = loaded()
    examples = encode([one["text"] for one in texts(20)], tokenizer, 32)
    model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, weight_decay=0.1)
    rng = np.random.default_rng(3)
    taken = np.concatenate([rng.permutation(4) for _ in range(2)])
    rates = np.array([1 / 3, 2 / 3, *((1 + np.cos(np.pi * np.arange(6) / 6)) / 2)]) * 3e-4
    for batch, rate in zip(taken, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        rows = examples.batch(range(5 * batch, 5 * batch + 5))
        logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), rows["labels"][:, 1:], reduction="none"
        )
        counts = (rows["labels"][:, 1:] != -100).sum(dim=1)
        optimizer.zero_grad()
        (losses.sum(dim=1) / counts).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    torch.testing.assert_close(run.final, run.flat.read(model), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose([rate for (rate,) in run.recipe.rates], rates)


def test_the_size_is_told_and_refused_before_training(folder, capsys, monkeypatch):
    asked = ["--data", "train.jsonl", "--run", "run", "--batch-size", "5", "--epochs", "2"]
    assert main(["order", "record", "--model", "model", *asked], {"order": order}) == 0
    out = capsys.readouterr().out
    n_bytes, told = OptimizerRun.load("run/run").n_bytes, []
    train_file("model", "train.jsonl", None, Plan(5, epochs=2), False, told.append)
    assert told == [n_bytes]
    assert out.startswith(f"the run will take {n_bytes / 2**20:,.1f} MiB in run\n")
    (folder / "run").rename(folder / "before")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Use", (), {"free": n_bytes - 1}))
    monkeypatch.setattr("llm_influence.order.recorder.Recording.step", None)
    assert record("--epochs", "2") == 2
    assert "free space for the run" in capsys.readouterr().err


def test_asking_is_the_api(folder, capsys):
    assert record() == 0
    shared = ("--run", "run", "--queries", "asked.jsonl")
    assert call("curriculum", *shared, "--n", "3", "--anyway", "--each") == 0
    assert "random orders" in capsys.readouterr().out
    found = Curriculum.load("run/curriculum.npz")
    read = RecordedFile.load(folder / "run")
    asked = read.examples("asked.jsonl")
    queries = [asked.batch([i]) for i in range(3)]
    expected = curriculum(read.run, queries, n_random=3, anyway=True, progress=False)
    np.testing.assert_array_equal(found.order, expected.order)
    np.testing.assert_allclose(found.random.retrained, expected.random.retrained, atol=1e-7)
    frame = pd.read_csv("run/curriculum.csv", index_col="order")
    assert frame.index[:2].tolist() == ["found", "recorded"]
    n_trained = len(list((folder / "run" / "retrained").iterdir()))
    assert n_trained == len({tuple(one) for one in [found.order, *found.random.orders]})
    assert call("compare", *shared, "--n", "3", "--each", "--out", "there") == 0
    assert len(list((folder / "run" / "retrained").iterdir())) == n_trained, "read, not trained"
    told = OrderComparison.load("there/comparison.npz")
    np.testing.assert_array_equal(told.retrained, found.random.retrained)
    assert call("memorisation", *shared) == 0
    known = Memorisation.load("run/memorisation.npz")
    assert known.values.shape == (4, 4)
    assert known.generalisation is not None and known.generalisation.shape == (4, 4)
    pictures = ("run/curriculum.png", "there/comparison.png", "run/memorisation.png")
    assert all((folder / path).read_bytes().startswith(b"\x89PNG") for path in pictures)


@pytest.mark.parametrize(
    ("command", "title"),
    [
        ("curriculum", "Order found"),
        ("compare", "Predicted and real"),
        ("memorisation", "Held-out loss"),
    ],
)
def test_a_page_shows_what_was_found(folder, capsys, command, title):
    assert record() == 0
    more = {"curriculum": ["--n", "3", "--anyway"], "compare": ["--n", "3"]}.get(command, [])
    shared = ("--run", "run", "--queries", "asked.jsonl", "--report")
    assert call(command, *shared, "none/page.html", *more) == 2
    assert "none' cannot" in capsys.readouterr().err
    assert not (folder / "run" / "retrained").exists(), "said before any work"
    assert call(command, *shared, "page.html", *more) == 0
    assert capsys.readouterr().out.endswith("page.html\n")
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert f'"title":"{title}"' in page and '["optimizer","AdamW"]' in page
    assert "give run=" not in page, "the command knows the run"


def test_mistakes_are_told(folder, capsys):
    assert call("compare", "--run", "run", "--queries", "asked.jsonl") == 2
    assert "influence order record --model" in capsys.readouterr().err
    assert call("compare", "--run", "model", "--queries", "asked.jsonl") == 2
    assert "order.json" in capsys.readouterr().err
    shared = ("--run", "nowhere", "--queries", "asked.jsonl")
    for option, least in (("--n", 3), ("--seed", 0)):
        assert call("compare", *shared, option, str(least - 1)) == 2
        told = f"{option} must be a whole number from {least} on, got {least - 1}"
        assert told in capsys.readouterr().err, "said before anything is read"
    assert call("quickstart", "--seed", "-1") == 2
    assert "--seed must be" in capsys.readouterr().err
    assert record("--batch-size", "0") == 2
    assert "batch_size must be a whole number from 1" in capsys.readouterr().err
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "mine").touch()
    assert record() == 2
    assert "run is not empty" in capsys.readouterr().err
    assert call("record", "--model", "model", "--data", "train.jsonl", "--run", "asked.jsonl") == 2
    assert "asked.jsonl is a file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        record("--schedule", "step")


def test_the_rate_rises_and_falls():
    rising = [Plan(warmup=3, schedule="linear").factor(step, 7) for step in range(7)]
    np.testing.assert_allclose(rising, [0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25])
    assert {Plan().factor(step, 5) for step in range(5)} == {1.0}
    sizes = [len(batch) for batch in Plan(batch_size=4, epochs=2).batches(10)]
    assert sorted(sizes) == [2, 2, 4, 4, 4, 4]


def test_the_quickstart_shows_what_really_happened(folder, monkeypatch, capsys):
    for name, value in (("N_VILLAGES", 4), ("ASKED", 1), ("WIDTH", 8), ("N_LAYERS", 1)):
        monkeypatch.setattr(quickstart, name, value)
    assert call("quickstart", "--seed", "1", "--out", "pictures", "--report", "page.html") == 0
    report = capsys.readouterr().out
    assert "read 4 batches in 4 steps" in report and "bit for bit" in report
    assert " random orders" in report and "Steps since the batch" in report
    names = {path.name for path in (folder / "pictures").iterdir()}
    assert names == {"orders.png", "memorisation.png"}
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert '"title":"Order found"' in page and '"title":"Forgetting"' in page


def test_results_that_cannot_be_written_are_named(folder, capsys):
    assert record() == 0
    shared = ("--run", "run", "--queries", "asked.jsonl", "--n", "3")
    for name, command in (("comparison.png", "compare"), ("curriculum.csv", "curriculum")):
        (folder / "out" / name).mkdir(parents=True)
        anyway = ["--anyway"] if command == "curriculum" else []
        assert call(command, *shared, *anyway, "--out", "out") == 2
        assert f"Could not write out/{name}" in capsys.readouterr().err


def test_pictures_are_an_extra(folder, monkeypatch, capsys):
    assert record() == 0
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert call("memorisation", "--run", "run", "--queries", "asked.jsonl") == 0
    assert capsys.readouterr().out.endswith("written: run/memorisation.npz\n")


def test_what_a_folder_lacks_is_said(folder, capsys):
    assert record() == 0
    about = folder / "run" / "order.json"
    about.write_text(json.dumps({"plan": {}}))
    assert call("memorisation", "--run", "run") == 2
    assert "influence order record wrote" in capsys.readouterr().err


def test_what_is_cut_is_told(folder, capsys):
    assert record("--max-length", "3") == 0
    assert "truncated: 20 examples, at 3 tokens" in capsys.readouterr().out
    with open("long.jsonl", "w", encoding="utf-8") as file:
        file.write(json.dumps(texts(1)[0]) + "\n")
    shared = ("--run", "run", "--queries", "long.jsonl")
    for command in (["compare", *shared, "--n", "3"], ["memorisation", *shared]):
        assert call(*command) == 0
        found = capsys.readouterr().out
        assert found.splitlines()[-2] == "truncated: 1 of the queries, at 3 tokens"
