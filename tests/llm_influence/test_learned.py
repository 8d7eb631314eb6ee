"""A projection learned from gradients, against the eigenvectors of explicit ones."""

import dataclasses

import numpy as np
import pytest
import torch

from influence.errors import InputError, StorageError
from llm_influence import PCA, TracIn, trace
from tests.llm_influence.models import gpt2, texts
from tests.reference import autograd

TRAIN, QUERIES = texts(12), texts(3, seed=1)


def test_it_keeps_the_leading_directions_of_the_gradients():
    model = gpt2().double()
    run = trace(model, TRAIN, modules="transformer.h.0.mlp.c_fc")
    found = TracIn(PCA(3)).fit(run).explain(QUERIES).values

    def whole(example):
        gradient = autograd.gradient(model, example)
        weight, bias = (gradient[f"transformer.h.0.mlp.c_fc.{n}"] for n in ("weight", "bias"))
        return torch.cat([weight.T, bias[:, None]], 1)

    train = torch.stack([whole(example) for example in TRAIN])
    queries = torch.stack([whole(example) for example in QUERIES])
    left = torch.linalg.eigh(torch.einsum("nij,nkj->ik", train, train))[1][:, -3:]
    right = torch.linalg.eigh(torch.einsum("nij,nik->jk", train, train))[1][:, -3:]
    small = [(left.T @ g @ right).flatten(1) for g in (train, queries)]
    np.testing.assert_allclose(found, (small[0] @ small[1].T).numpy(), rtol=1e-5, atol=1e-7)


def test_with_room_for_everything_it_loses_nothing():
    model = gpt2()
    exact = TracIn(None).fit(trace(model, TRAIN)).explain(QUERIES).values
    found = TracIn(PCA(100)).fit(trace(model, TRAIN)).explain(QUERIES).values
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


def test_a_store_keeps_what_was_learned(tmp_path, monkeypatch):
    model = gpt2()
    first = TracIn(PCA(4)).fit(trace(model, TRAIN), store=tmp_path / "s").explain(QUERIES).values
    monkeypatch.setattr("llm_influence.learned._learned", None)  # it is not learned again
    again = TracIn(PCA(4)).fit(trace(model, TRAIN), store=tmp_path / "s").explain(QUERIES).values
    assert np.array_equal(first, again)
    with pytest.raises(StorageError, match="learned by PCA"):
        TracIn(PCA(5)).fit(trace(model, TRAIN), store=tmp_path / "s")
    (tmp_path / "s" / "projection.safetensors").write_bytes(b"no tensors")
    with pytest.raises(StorageError, match="cannot be read"):
        TracIn(PCA(4)).fit(trace(model, TRAIN), store=tmp_path / "s")


def test_long_sides_are_projected_at_random(monkeypatch):
    monkeypatch.setattr("llm_influence.learned.MOST_SIDE", 30)
    model = gpt2()
    values = TracIn(PCA(24)).fit(trace(model, TRAIN)).explain(QUERIES).values
    exact = TracIn(None).fit(trace(model, TRAIN)).explain(QUERIES).values
    assert np.corrcoef(values.ravel(), exact.ravel())[0, 1] > 0.8


def test_wrong_sizes_are_refused():
    for wrong in ({"p": 0}, {"n_examples": 0}, {"seed": -1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            dataclasses.replace(PCA(), **wrong)
