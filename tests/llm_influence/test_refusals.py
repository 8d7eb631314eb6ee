"""Input that would give a wrong number, or an error of torch, is refused by name."""

import numpy as np
import pytest
import torch
from torch import nn

from influence.errors import InputError
from llm_influence import Dense, EmbeddingSimilarity, Kronecker, TracIn, trace
from llm_influence.losses import causal_lm
from tests.llm_influence.models import bert, gpt2, labelled, texts

TRAIN, QUERIES = texts(6), texts(2, seed=1)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"input_ids": [3, 99]}, "input_ids to be whole numbers below 41"),
        ({"input_ids": [3, 4], "labels": [3, 99]}, "labels to be whole numbers below 41"),
        ({"input_ids": [3] * 40}, "at most 32 tokens"),
    ],
)
def test_tokens_the_model_does_not_have(query, told):
    fitted = TracIn().fit(trace(gpt2(), TRAIN))
    with pytest.raises(InputError, match=told):
        fitted.explain([query])
    with pytest.raises(InputError, match=told):
        trace(gpt2(), [{"labels": query["input_ids"], **query}])


@pytest.mark.parametrize("label", [3, -100, -1])
def test_classes_the_model_does_not_have(label):
    wrong = [*labelled(3), {"input_ids": [3, 4], "labels": label}]
    with pytest.raises(InputError, match=r"below 3 \(the model.s classes.*position 3"):
        trace(bert(), wrong)


def test_a_query_of_a_classifier_needs_a_label():
    fitted = TracIn().fit(trace(bert(), labelled(4)))
    with pytest.raises(InputError, match="one label for each example"):
        fitted.explain([{"input_ids": [3, 4, 5]}])


def test_patterns_that_match_no_module_are_named():
    for wrong in ("typo*", ["*mlp*", "typo*"]):
        with pytest.raises(InputError, match="typo"):
            trace(gpt2(), TRAIN, modules=wrong)
    with pytest.raises(InputError, match="pattern"):
        trace(gpt2(), TRAIN, modules=3)  # pyright: ignore[reportArgumentType]


def test_a_part_of_tied_weights_is_left_out_and_says_why():
    coverage = trace(gpt2(), TRAIN, modules=["lm_head", "*mlp*"]).coverage
    assert "same weight is left out" in coverage.uncovered["transformer.wte.weight"]


def root(model, batch):
    """Finite at 0, its gradient is not."""
    return model(batch).square().sum(1).sqrt()


def test_a_gradient_that_is_not_finite_names_its_example():
    torch.manual_seed(0)
    examples = [torch.randn(3) for _ in range(5)]
    examples[3] = torch.zeros(3)
    run = trace(nn.Linear(3, 1, bias=False), examples, loss=root)
    for options in ({}, {"whiten": 1.0}, {"normalise": "unit"}):
        with pytest.raises(InputError, match=r"finite gradients, got nan for example 3"):
            TracIn(**options).fit(run)
    with pytest.raises(InputError, match="finite gradient"):
        trace(nn.Linear(3, 1, bias=False), [examples[3], examples[0]], loss=root)


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda model, x: model(x).square().sum(1).detach(), "cut off"),
        (lambda model, x: model(x).square().sum(1).tolist(), "got a list"),
    ],
    ids=["detached", "list"],
)
def test_losses_without_gradients(loss, told):
    with pytest.raises(InputError, match=told):
        trace(nn.Linear(3, 1), [torch.randn(3) for _ in range(3)], loss=loss)


def test_tokens_of_pooled_texts_are_refused():
    """The head sees one vector a text: its gradient belongs to no token."""
    fitted = TracIn(projection=None).fit(trace(bert(), labelled(4)))
    with pytest.raises(InputError, match=r"sees 1 .*pooled"):
        fitted.tokens(labelled(1, seed=2), [0])


def test_tokens_of_a_loss_of_your_own_are_refused():
    examples = [torch.randn(5, 3) for _ in range(4)]
    run = trace(nn.Linear(3, 1), examples, loss=lambda model, x: model(x).square().sum((1, 2)))
    with pytest.raises(InputError, match="sees 5"):
        TracIn(projection=None).fit(run).tokens(examples[:1], [0])


def test_tokens_of_rows_that_are_not_there():
    fitted = TracIn().fit(trace(gpt2(), TRAIN))
    for rows, told in (([-1], "count from 0"), ([6], "names row 6")):
        with pytest.raises(InputError, match=told):
            fitted.tokens(QUERIES[:1], rows)
    with pytest.raises(InputError, match="side"):
        fitted.tokens(QUERIES[:1], [0]).frame("queries")
    assert fitted.tokens(QUERIES[:1], []).frame().empty


@pytest.mark.parametrize("projection", [None, Kronecker(4), Dense(16)], ids=repr)
def test_losses_may_be_of_another_number_type_than_the_model(projection):
    model = gpt2()
    wide = trace(model, TRAIN, loss=lambda model, batch: causal_lm(model, batch).double())
    found = TracIn(projection).fit(wide).explain(QUERIES).values
    expected = TracIn(projection).fit(trace(model, TRAIN)).explain(QUERIES).values
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("n_train", "damping"), [(60, 1e-3), (60, 1e-7), (300, 1e-6)])
def test_whitening_with_little_damping_is_as_exact_as_the_rows(n_train, damping):
    """Rows that repeat: their second moment is singular, and damping is all there is beside it."""
    model = gpt2(n_embd=4, n_layer=1, n_head=1)
    examples = [TRAIN[i % 6] for i in range(n_train)]
    fitted = TracIn(Kronecker(2), whiten=damping).fit(trace(model, examples))
    (step,) = fitted.steps_
    rows = step.train.take(0, slice(0, n_train)).double()
    asked = step.query_of.rows(0, fitted.run_.queries(QUERIES)).double()
    ridge = damping * rows.square().sum(1).mean() / n_train
    moment = rows.T @ rows / n_train + ridge * torch.eye(rows.shape[1], dtype=torch.float64)
    expected = (rows @ torch.linalg.solve(moment, asked.T)).numpy()
    found = fitted.explain(QUERIES).values
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_damping_may_be_of_numpy_and_must_be_finite():
    run = trace(gpt2(), TRAIN)
    assert TracIn(whiten=np.float32(1)).fit(run).explain(QUERIES).values.any()  # pyright: ignore
    for wrong in (np.inf, np.nan):
        with pytest.raises(InputError, match="whiten"):
            TracIn(whiten=wrong)


def embedded(items):
    return np.arange(1.0, 1 + 2 * len(items)).reshape(-1, 2)


class Embedded:
    def __call__(self, items):
        return embedded(items)


@pytest.mark.parametrize(("embed", "name"), [(embedded, "embedded"), (Embedded(), "Embedded")])
def test_provenance_names_functions_and_not_their_addresses(embed, name):
    run = trace(gpt2(), TRAIN)
    found = EmbeddingSimilarity(embed=embed).fit(run).explain(QUERIES)
    assert found.provenance.parameters == {"embed": f"{__name__}.{name}"}
