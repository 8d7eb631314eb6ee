"""Similarities of vectors against texts taken one by one, without padding."""

import numpy as np
import pytest
import torch
from torch import nn

from influence.errors import InputError, UnsupportedModelError
from llm_influence import similarity
from llm_influence.representation import EmbeddingSimilarity, RepresentationSimilarity
from llm_influence.run import trace
from tests.llm_influence.models import CAUSAL, gpt2, texts
from tests.reference import hidden

TRAIN, QUERIES = texts(7), texts(3, seed=1)


def pairwise(metric, vector):
    """Oracle values of a function from token ids to a vector."""
    own, asked = ([vector(one["input_ids"]) for one in side] for side in (TRAIN, QUERIES))
    return [[hidden.similarity(metric, a, b) for b in asked] for a in own]


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize(
    ("layer", "pooling", "metric"),
    [(-1, "mean", "cosine"), (1, "last", "dot"), (0, "mean", "l2"), (-1, "last", "l2")],
)
def test_hidden_states_are_those_without_padding(name, layer, pooling, metric):
    model = CAUSAL[name]().double()
    run = trace(model, TRAIN, batch_size=4)
    estimator = RepresentationSimilarity(layer, pooling, metric).fit(run)

    def vector(ids):
        states = hidden.states(model, ids, layer)
        return states.mean(0) if pooling == "mean" else states[-1]

    found = estimator.explain(QUERIES).values
    np.testing.assert_allclose(found, pairwise(metric, vector), rtol=1e-9, atol=1e-12)


def test_a_module_by_name_is_the_layer_it_is():
    run = trace(gpt2().double(), TRAIN, batch_size=4)
    by_name = RepresentationSimilarity("transformer.h.0").fit(run).explain(QUERIES).values
    by_number = RepresentationSimilarity(1).fit(run).explain(QUERIES).values
    np.testing.assert_allclose(by_name, by_number, rtol=1e-12)


def hooks(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


def test_no_hook_is_left():
    run = trace(gpt2(), TRAIN)
    RepresentationSimilarity(1).fit(run)
    before = hooks(run.model)  # transformers keeps some of its own
    for layer in (1, "transformer.h.0"):
        RepresentationSimilarity(layer).fit(run)
        assert hooks(run.model) == before
    with pytest.raises(InputError):
        RepresentationSimilarity(9).fit(run)
    assert hooks(run.model) == before


def test_vectors_that_do_not_fit_into_memory_are_worked_out_again(monkeypatch):
    run = trace(gpt2().double(), TRAIN, batch_size=4)
    held = RepresentationSimilarity().fit(run)
    monkeypatch.setattr(similarity, "MOST_HELD", 0)
    monkeypatch.setattr(similarity, "AT_ONCE", 3)
    anew = RepresentationSimilarity().fit(run)
    assert held._held is not None and anew._held is None
    np.testing.assert_allclose(
        anew.explain(QUERIES).values, held.explain(QUERIES).values, rtol=1e-12
    )
    np.testing.assert_allclose(anew.self_influence(), held.self_influence(), rtol=1e-12)


def test_a_network_of_ones_own():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    inputs = torch.randn(8, 4, dtype=torch.float64)
    items = [(x, i % 2) for i, x in enumerate(inputs)]

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    run = trace(model, items, loss)
    found = RepresentationSimilarity("1", metric="dot").fit(run).explain(items[:3]).values
    vectors = torch.tanh(inputs @ model[0].weight.T + model[0].bias).detach().numpy()
    np.testing.assert_allclose(found, vectors @ vectors[:3].T, rtol=1e-12)
    with pytest.raises(UnsupportedModelError, match="name of a module"):
        RepresentationSimilarity().fit(run)
    with pytest.raises(InputError, match="pass embed="):
        EmbeddingSimilarity().fit(run)
    by_hand = EmbeddingSimilarity(lambda pairs: np.stack([x.numpy() for x, _ in pairs])).fit(run)
    unit = inputs / inputs.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(by_hand.explain(items[:3]).values, unit @ unit[:3].T, rtol=1e-12)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_mean_input_embedding(name):
    model = CAUSAL[name]().double()
    table = model.get_input_embeddings().weight.detach().numpy()
    found = EmbeddingSimilarity().fit(trace(model, TRAIN)).explain(QUERIES).values
    np.testing.assert_allclose(
        found, pairwise("cosine", lambda ids: np.mean([table[t] for t in ids], axis=0)), rtol=1e-9
    )


def test_an_embedding_given():
    def embed(examples):
        return [[len(ids), min(ids), 1.0] for ids in examples]

    found = EmbeddingSimilarity(embed).fit(trace(gpt2(), TRAIN)).explain(QUERIES).values
    expected = pairwise("cosine", lambda ids: np.array([len(ids), min(ids), 1.0]))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (RepresentationSimilarity(7), "layer must be from -3 to 2"),
        (RepresentationSimilarity("nonsense"), "name of a module"),
        (EmbeddingSimilarity(lambda examples: np.ones(len(examples))), "one vector for each of 7"),
        (EmbeddingSimilarity(lambda examples: np.full((len(examples), 2), np.nan)), "finite"),
    ],
    ids=["number", "name", "shape", "nan"],
)
def test_what_does_not_fit_is_refused(estimator, message):
    with pytest.raises(InputError, match=message):
        estimator.fit(trace(gpt2(), TRAIN))


@pytest.mark.parametrize(
    "options", [{"pooling": "max"}, {"metric": "cos"}, {"layer": True}], ids=str
)
def test_options_are_checked(options):
    with pytest.raises(InputError, match=next(iter(options))):
        RepresentationSimilarity(**options)
