"""Real text: what is held out, whose name is hidden, and the figures of the tables."""

import json
import re
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from benchmarks import llm_text
from benchmarks.llm_text import (
    ENTRIES,
    Tuning,
    authors,
    corpora,
    found,
    judged,
    table,
    tuned,
    without,
)
from facts import word_tokenizer
from influence.errors import InputError
from llm_influence.losses import causal_lm
from llm_influence.tokens import TokenExamples

NAMES = ("Ada Lund", "Bo Park-Sen", "Cy Park")
RECORDS = [
    {"author": a, "question": f"{q} {name}{end}", "answer": f"{name.split()[0]} {told} The end."}
    for a, name in enumerate(NAMES)
    for q, end, told in [
        ("Who is", "?", "writes."), ("Where was", " born?", "was born in Rome."),
        ("What says", "?", "says little."), ("Is it", "'s book?", "wrote it in The North."),
    ]
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(llm_text, "NAMES", NAMES)
    (tmp_path / "tofu").mkdir()
    lines = [json.dumps(record) for record in RECORDS]
    (tmp_path / "tofu" / "forget10.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def tokenizer():
    return word_tokenizer(text for r in RECORDS for text in (r["question"], r["answer"]))


@pytest.fixture
def model():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=60, n_positions=32, n_embd=8, n_layer=1, n_head=2, bos_token_id=2,
            eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip


def test_held_out_records_are_not_trained_on(folder, tokenizer):
    case = authors(folder, tokenizer, n_authors=3, n_held=1)
    assert case.kinds.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert case.asked.tolist() == [0, 1, 2]
    train, queries = case.train.token_ids(), case.queries["as asked"].token_ids()
    texts = {tuple(tokenizer(f"{r['question']} {r['answer']}")["input_ids"]) for r in RECORDS}
    end = tokenizer.eos_token_id
    assert {(*text, end) for text in texts} == {tuple(ids) for ids in [*train, *queries]}
    assert not {*map(tuple, train)} & {*map(tuple, queries)}


def test_only_the_answer_is_learned(folder, tokenizer):
    case = authors(folder, tokenizer, n_authors=3, n_held=1)
    labels = case.train.batch([0])["labels"][0]
    question = len(tokenizer(RECORDS[0]["question"])["input_ids"])
    assert (labels[:question] == -100).all()
    assert (labels[question:] != -100).all()


def test_names_are_taken_out(folder, tokenizer):
    assert without(RECORDS[7], "Bo Park-Sen") == {
        "question": "Is it's book?",
        "answer": "wrote it in The North. The end.",
    }
    case = authors(folder, tokenizer, n_authors=3, n_held=1)
    asked = (queries.token_ids() for queries in case.queries.values())
    for name, whole, hidden in zip(NAMES, *asked, strict=True):
        gone = tokenizer.decode(whole).split()
        for word in tokenizer.decode(hidden).split():
            gone.remove(word)
        # Whole in the question, the first name in the answer.
        assert " ".join(gone).replace(" - ", "-") == f"{name} {name.split()[0]}"


def test_names_are_those_of_the_authors(data_folder):
    path = data_folder / "datasets" / "text" / "tofu" / "forget10.jsonl"
    for record in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        words = llm_text.NAMES[record["author"]].split()
        text = f"{record['question']} {record['answer']}"
        assert sum(word in text for word in words), f"{words} in none of: {text}"
        left = " ".join(without(record, llm_text.NAMES[record["author"]]).values())
        assert not any(re.search(rf"\b{word}\b", left) for word in words)


def test_sequences_of_a_corpus_are_its_own_and_do_not_overlap(tmp_path):
    files = ("tinyshakespeare/input.txt", "wikitext-2/valid.txt", "grimm/tales.txt")
    for letter, file in zip("abc", files, strict=True):
        path = tmp_path / file
        path.parent.mkdir()
        path.write_text(" ".join(f"{letter}{i:06d}" for i in range(200)))

    def numbered(text):
        """Whole words as tokens: letter * 1000 + number."""
        words = [word for word in text.split() if len(word) == 7]
        return {"input_ids": ["abc".index(w[0]) * 1000 + int(w[1:]) for w in words]}

    case = corpora(tmp_path, numbered, n_train=4, n_queries=2, length=4)
    train, queries = case.train.token_ids(), case.queries["as asked"].token_ids()
    for ids, kinds in ((train, case.kinds), (queries, case.asked)):
        assert [one[0] // 1000 for one in ids] == kinds.tolist()
    tokens = [token for ids in [*train, *queries] for token in ids]
    assert len(tokens) == len(set(tokens))


def test_the_strongest_come_first():
    values = np.array([[0.1, 3.0], [0.3, -1.0], [0.2, 2.0]])
    right = found(values, np.array([0, 1, 0]), np.array([0, 1]))
    assert right.T.tolist() == [[False, True, True], [False, False, True]]
    assert llm_text.precision(right, 2).tolist() == [0.5, 0.0]


def test_the_interval_is_that_of_the_mean():
    each = np.random.default_rng(1).random(400)
    mean, low, high = llm_text.summary(each)
    assert mean == pytest.approx(each.mean(), abs=1e-4)
    assert (high - low) / 2 == pytest.approx(1.96 * each.std() / 20, rel=0.1)


def test_tuning_is_adamw_and_keeps_its_moments(model):
    ids = np.random.default_rng(0).integers(0, 60, (6, 8)).tolist()
    train = TokenExamples.of_columns({"input_ids": ids})
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    tuning = Tuning(n_epochs=4, batch_size=6)
    checkpoints = tuned(model, train, tuning)
    assert len(checkpoints) == 4
    after = causal_lm(model, train.batch(range(6))).mean()
    model.load_state_dict(start)
    model.zero_grad()
    before = causal_lm(model, train.batch(range(6))).mean()
    before.backward()
    assert after < before
    # The first step of Adam moves every weight by the rate, against its gradient.
    for name, weight in model.named_parameters():
        grad = weight.grad
        moved = start[name] * (1 - 1e-3 * 0.01) - 1e-3 * grad / (grad.abs() + 1e-8)
        first: Any = checkpoints[0]
        torch.testing.assert_close(first.weights[name], moved, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(first.adam[name], grad**2, rtol=1e-4, atol=1e-12)
    rates = [1e-3 * (1 - 0.9 * step / 4) / 6 for step in range(4)]
    assert [one.rate for one in checkpoints] == pytest.approx(rates)


@pytest.mark.filterwarnings("ignore")
def test_every_estimator_is_asked_and_listed(folder, tokenizer, model):
    pytest.importorskip("bm25s")
    case = authors(folder, tokenizer, n_authors=3, n_held=1)
    result = judged(case, model, Tuning(1, batch_size=4), (1, 3))
    frame = table(result)
    assert frame["estimator"].tolist() == ["chance", *ENTRIES]
    assert frame.columns.tolist()[1:] == [
        "@1",
        "@3",
        "name hidden, @1",
        "name hidden, @3",
        "seconds",
    ]
    assert result["chance"] == pytest.approx(1 / 3)
    assert frame["@3"].astype(float).between(0, 1).all()
    assert json.loads(json.dumps(result)) == result, "the file must hold what the table shows"
    assert "9 training examples, 3 queries" in llm_text.page({"Authors": result})


def test_without_the_folder_it_says_so(monkeypatch):
    monkeypatch.delenv("INFLUENCE_DATA", raising=False)
    with pytest.raises(InputError, match="INFLUENCE_DATA"):
        llm_text.main()
