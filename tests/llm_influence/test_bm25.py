"""BM25 against the formula, word by word."""

import builtins

import numpy as np
import pytest

from influence.errors import InputError, MissingPackageError
from llm_influence.bm25 import BM25
from llm_influence.run import trace
from tests.llm_influence.models import gpt2, texts
from tests.reference import okapi


@pytest.mark.parametrize(("k1", "b", "ngram"), [(1.5, 0.75, 1), (0.9, 0.4, 3), (2.0, 0.0, 2)])
def test_values_are_those_of_the_formula(k1, b, ngram, capfd):
    train, queries = texts(9), [*texts(3, seed=1), {"input_ids": [7, 7, 2, 7], "labels": [7] * 4}]
    train[0] = {"input_ids": [7, 8, 7, 7], "labels": [7, 8, 7, 7]}
    found = BM25(k1, b, ngram=ngram).fit(trace(gpt2(), train)).explain(queries).values
    held = [okapi.neighbours(text["input_ids"], ngram) for text in train]
    for q, query in enumerate(queries):
        asked = okapi.neighbours(query["input_ids"], ngram)
        np.testing.assert_allclose(found[:, q], okapi.relevance(held, asked, k1, b), rtol=1e-12)
    assert capfd.readouterr() == ("", ""), "bm25s shows its own progress"


def test_padding_is_no_word():
    train = [
        {"input_ids": [5, 6, 1, 1], "attention_mask": [1, 1, 0, 0]},
        {"input_ids": [5, 6, 7, 8], "attention_mask": [1, 1, 1, 1]},
    ]
    estimator = BM25().fit(trace(gpt2(), train))
    values = estimator.explain([{"input_ids": [1, 1]}, {"input_ids": [5, 6]}]).values
    assert (values[:, 0] == 0).all(), "the padding of a training example counts as its words"
    assert values[0, 1] > values[1, 1] > 0, "the padding makes the example longer than it is"


@pytest.mark.parametrize("options", [{"k1": -1}, {"b": 1.5}, {"ngram": 0}], ids=str)
def test_options_are_checked(options):
    with pytest.raises(InputError, match=next(iter(options))):
        BM25(**options)


def test_a_missing_library_is_named(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "bm25s":
            raise ImportError("no bm25s")
        return original(name, *args, **kwargs)

    run = trace(gpt2(), texts(3))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r"influence-toolkit\[llm\]"):
        BM25().fit(run)
