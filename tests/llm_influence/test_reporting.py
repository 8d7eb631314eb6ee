"""The page of a language model holds what the estimator itself says, and says what it cannot."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("transformers")
pytest.importorskip("plotly")

from influence import TopInfluence
from influence.cli.main import main
from influence.errors import InputError, StorageError
from llm_influence import BM25, Kronecker, TracIn, encode, quickstart, report, trace
from llm_influence.commands import llm
from llm_influence.shown_texts import reader_of
from tests.influence.report.pages import content
from tests.llm_influence import models
from tests.llm_influence.command_line import build, query
from tests.llm_influence.small_tokenizers import bpe

MARKUP = "</script><b>the cat</b>"
PAIRS = [
    {"prompt": f"the {noun}", "completion": f" {verb} 漢 on {noun}"}
    for noun in ("cat", "dog", "mat", "answer") for verb in ("sat", "ran", "is")
]  # fmt: skip
ASKED = [{"prompt": "the cat", "completion": " is 漢"}, {"prompt": MARKUP, "completion": " ran"}]


@pytest.fixture(scope="module")
def traced():
    tokenizer = bpe("bos")
    model = models.gpt2(vocab_size=len(tokenizer), n_positions=64, initializer_range=0.2)
    train = pd.DataFrame(PAIRS, index=[f"pair-{i}" for i in range(len(PAIRS))])
    return trace(model, encode(train, tokenizer)), encode(ASKED, tokenizer), tokenizer


def paged(traced, estimator, **options):
    run, asked, tokenizer = traced
    estimator.fit(run, progress=False)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        top = report(path, estimator, asked, tokenizer=tokenizer, progress=False, **options)
        return content(path.read_text(encoding="utf-8")), top, estimator


def test_the_page_holds_what_explain_and_self_influence_say(traced):
    run, asked, _ = traced
    held, top, estimator = paged(traced, TracIn(Kronecker(8)), k=3)
    whole = estimator.explain(asked)
    pd.testing.assert_frame_equal(top.proponents(), whole.proponents(3))
    labels, order = held["train"]["labels"], np.argsort(-run.losses(asked))
    assert held["queries"]["labels"] == order.tolist()
    for at, q in enumerate(order):
        answer = held["answers"][at]
        for side, frame in (("helpful", whole.proponents(3)), ("harmful", whole.opponents(3))):
            wanted = frame[frame["query"] == q]
            assert [labels[row] for row, _ in answer[side]] == wanted["train"].tolist()
            np.testing.assert_allclose([v for _, v in answer[side]], wanted["influence"], 1e-5)
        column = whole.values[:, q]
        assert answer["helpfulSums"][-1] == pytest.approx(column[column > 0].sum(), rel=1e-5)
        assert answer["harmfulSums"][-1] == pytest.approx(column[column < 0].sum(), rel=1e-5)
    facts = pd.DataFrame(held["train"]["facts"]["rows"], labels, held["train"]["facts"]["names"])
    facts = facts.loc[run.train_index]
    np.testing.assert_allclose(facts["self-influence"], estimator.self_influence(), rtol=1e-5)
    np.testing.assert_allclose(facts["total"], whole.total(), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(facts["loss"], run.losses(run.examples), rtol=1e-5)
    listed = [labels[row] for row in held["suspects"]["rows"]]
    assert listed == facts.sort_values("self-influence", ascending=False).index.tolist()


def test_the_pieces_are_the_tokens_added_up(traced):
    run, asked, tokenizer = traced
    held, _, estimator = paged(traced, TracIn(Kronecker(8)), k=3)
    split, merged = reader_of(tokenizer).split, 0
    for at, q in enumerate(held["queries"]["labels"]):
        answer = held["answers"][at]
        assert answer["pieces"].keys() == answer["onQuery"].keys()
        for place, value in answer["helpful"] + answer["harmful"]:
            row = run.train_index.get_loc(held["train"]["labels"][place])
            told = estimator.tokens(asked[q : q + 1], [row])
            for shown, of_tokens, ids, text in (
                (answer["pieces"], told.of_train[0], run.examples.token_ids()[row],
                 held["train"]["texts"][place]),
                (answer["onQuery"], told.of_query[0], asked.token_ids()[q],
                 held["queries"]["texts"][at]),
            ):  # fmt: skip
                pieces, starts = split(ids)
                assert pieces == text["pieces"]
                merged += len(ids) - len(pieces)
                wanted = [part.sum() for part in np.split(of_tokens, starts[1:])]
                np.testing.assert_allclose(shown[str(place)], wanted, 1e-4, 1e-6)
                assert sum(shown[str(place)]) == pytest.approx(value, rel=1e-3)
    assert merged > 0, "some characters here are several tokens"


def test_texts_are_those_of_the_records(traced, tmp_path):
    run, asked, tokenizer = traced
    estimator = TracIn(Kronecker(4)).fit(run)
    report(tmp_path / "page.html", estimator, asked, tokenizer=tokenizer, progress=False)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert MARKUP not in html
    (content,) = re.findall(r'id="content">(.*?)</script>', html, re.DOTALL)
    for text in json.loads(content)["queries"]["texts"]:
        own, special = set(text["answer"]), set(text["special"])
        parts = [
            "".join(p for i, p in enumerate(text["pieces"]) if i not in special and (i in own) == w)
            for w in (False, True)
        ]
        assert parts in [[one["prompt"], one["completion"]] for one in ASKED]


def test_only_some_queries_and_rows(traced):
    held, top, _ = paged(traced, TracIn(Kronecker(4)), k=1, max_queries=1, max_rows=0, tokens=False)
    assert len(held["answers"]) == 1 and len(top.query_index) == 2
    assert len(held["train"]["labels"]) <= 2 and held["suspects"]["rows"] == []
    assert held["answers"][0]["pieces"] == {}
    assert "1 of 2 queries are shown, those of largest loss; totals are over all." in held["notes"]
    assert "No tokens are highlighted: tokens=False." in held["notes"]


def test_what_an_estimator_does_not_tell_is_said(traced):
    pytest.importorskip("bm25s")
    run, asked, _ = traced
    held, _, estimator = paged(traced, BM25())
    assert any("No tokens are highlighted: BM25" in note for note in held["notes"])
    assert any("No self-influence: BM25" in note for note in held["notes"])
    assert "self-influence" not in held["train"]["facts"]["names"]
    total = pd.Series(estimator.explain(asked).total(), run.train_index)
    first = held["train"]["labels"][held["suspects"]["rows"][0]]
    assert total[first] == total.max()
    held, _, _ = paged(traced, TracIn(Kronecker(4), normalise="unit"))
    assert any("the same for every example" in note for note in held["notes"])
    assert "self-influence" not in held["train"]["facts"]["names"]


def test_ranked_again(traced):
    held, top, _ = paged(traced, TracIn(Kronecker(4)), k=2, rerank=6)
    whole = TracIn(None).fit(traced[0]).explain(traced[1])
    for rows, values, column in zip(
        top.highest_rows, top.highest, whole.values.T, strict=True
    ):  # fmt: skip
        np.testing.assert_allclose(values, column[rows], rtol=1e-4)
    assert any("before examples were ranked again" in note for note in held["notes"])
    assert held["answers"][0]["helpful"][0][1] == pytest.approx(
        top.highest[held["queries"]["labels"][0], 0], rel=1e-5
    )


def test_mistakes_are_refused_before_any_work(traced, tmp_path):
    run, asked, tokenizer = traced
    estimator, path = TracIn().fit(run), tmp_path / "page.html"
    with pytest.raises(StorageError, match="can be written"):
        report(tmp_path / "no" / "page.html", None, None, tokenizer=None)
    for wrong, told in (
        ({"tokenizer": 3}, "Expected the model's tokenizer"),
        ({"k": 0}, "k must be"),
        ({"rerank": 2}, "rerank must be"),
    ):
        with pytest.raises(InputError, match=told):
            report(path, estimator, asked, **{"tokenizer": tokenizer, **wrong})
    with pytest.raises(InputError, match="with explain, got str"):
        report(path, "TracIn", asked, tokenizer=tokenizer)
    with pytest.raises(InputError, match="queries to report on, got none"):
        report(path, estimator, asked[:0], tokenizer=tokenizer)


def test_the_command_writes_the_page(folder, capsys):
    assert build("--id", "name", "--p", "8") == 0
    assert query("--top", "3", "--out", "plain") == 0
    assert query("--top", "3", "--out", "out", "--report", "page.html") == 0
    assert ", page.html\n" in capsys.readouterr().out
    plain, found = (TopInfluence.load(f"{name}/influence.npz") for name in ("plain", "out"))
    np.testing.assert_array_equal(found.highest_rows, plain.highest_rows)
    assert found.provenance == plain.provenance
    assert "doc0" in Path("page.html").read_text(encoding="utf-8")
    assert query("--top", "2", "--rerank", "5", "--report", "again.html") == 0
    assert query("--report", "nowhere/page.html") != 0
    assert "can be written" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_costs_no_result(folder, monkeypatch, capsys):
    def full(path, page):
        raise StorageError("the disk is full.")

    monkeypatch.setattr("influence.report.write", full)
    assert build("--p", "8") == 0
    assert query("--report", "page.html", "--out", "out") == 2
    captured = capsys.readouterr()
    assert "query 0 (loss" in captured.out and "disk is full" in captured.err
    assert (folder / "out" / "influence.csv").is_file()


def test_the_quickstart_writes_the_page(monkeypatch, tmp_path, capsys):
    train, made = quickstart.train, quickstart.generator().made_up_facts
    monkeypatch.setattr(
        quickstart, "train",
        lambda *texts, seed, progress: train(*texts, seed=seed, width=16, n_steps=8),
    )  # fmt: skip
    monkeypatch.setattr(quickstart, "ON_PAGE", 2)
    path = tmp_path / "quick.html"
    assert main(["llm", "quickstart", "--quiet", "--report", str(path)], {"llm": llm}) == 0
    assert str(path) in capsys.readouterr().out
    html = path.read_text(encoding="utf-8")
    answers = {
        one["completion"].split()[0] for one in made(seed=0, wrong=quickstart.WRONG).questions
    }
    assert sum(f'"{answer}' in html for answer in answers) > 0
    assert "2 of " in html
