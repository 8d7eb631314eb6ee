"""SOURCE against dense matrix exponentials and against gradient descent really run again."""

import copy

import numpy as np
import pytest
import torch

from influence.errors import InputError, MissingParameterError
from llm_influence.checkpoints import Checkpoint
from llm_influence.curvature import Fisher, kronecker_curvature
from llm_influence.losses import regression
from llm_influence.projection import Identity
from llm_influence.rows import RowMap
from llm_influence.run import trace
from llm_influence.source import SOURCE
from llm_influence.tracin import TracIn
from tests.llm_influence.linear_networks import LinearHead, numbers
from tests.llm_influence.models import gpt2, texts
from tests.reference import curvature

N, RATE, STEPS, EVERY = 200, 0.02, 120, 15
SHARE = 0.01  # of a row's weight that is taken away: values are derivatives


def descended(examples, weights, keep=()):
    """Gradient descent on the mean loss of all examples, with the weights after some steps."""
    model = LinearHead(4, 1)
    features = torch.stack([e["features"] for e in examples])
    labels = torch.stack([e["labels"] for e in examples])
    kept = []
    for step in range(STEPS):
        each = (model(features).logits - labels).square().sum(1) / 2
        loss = (weights * each).sum() / len(examples)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p -= RATE * g
        if step + 1 in keep:
            kept.append(copy.deepcopy(model.state_dict()))
    return model, kept


@pytest.fixture(scope="module")
def descent():
    """A regression midway in its training, and what a little less of some rows really does."""
    examples, queries = numbers(N), numbers(10, seed=1)
    ones = torch.ones(N).double()
    model, states = descended(examples, ones, range(EVERY, STEPS + 1, EVERY))
    # An example is visited at every step, and a batch has all N of them.
    checkpoints = [Checkpoint(state, rate=RATE * EVERY / N) for state in states]
    run = trace(model, examples, loss=regression, checkpoints=checkpoints, batch_size=N)
    effects, asked = [], run.queries(queries)
    for i in range(0, N, 20):
        weights = ones.clone()
        weights[i] -= SHARE
        again, _ = descended(examples, weights)
        effects.append((run.losses_of(again, asked) - run.losses(asked)) / SHARE)
    return run, queries, np.stack(effects)


def compared(values, effects):
    """Correlation, and slope of the effects by the values."""
    chosen = values[::20].ravel()
    slope = np.polyfit(chosen, effects.ravel(), 1)[0]
    return np.corrcoef(chosen, effects.ravel())[0, 1], slope


def rows_by_checkpoint(run, queries):
    rows_of = RowMap(run, Identity())
    n_checkpoints = len(run.checkpoints)
    rows = [rows_of.rows(c, run.examples).numpy() for c in range(n_checkpoints)]
    return rows, rows_of.rows(n_checkpoints - 1, run.queries(queries)).numpy()


def test_its_formula_with_the_exact_curvature_is_the_effect_of_running_again(descent):
    run, queries, effects = descent
    features = torch.stack([run.examples.items[i]["features"] for i in range(N)])
    with_bias = torch.cat([features, torch.ones(N, 1).double()], 1)
    exact = (with_bias.T @ with_bias / N).numpy()
    rows, query = rows_by_checkpoint(run, queries)
    rates = [checkpoint.rate for checkpoint in run.checkpoints]
    values = curvature.segmented(rows, query, [exact] * len(rows), rates)
    correlation, slope = compared(values, effects)
    assert correlation > 0.997
    assert slope == pytest.approx(1, abs=0.01), "tau is not n x rate, or 1 / n is wrong"


def test_values_are_the_effects_of_running_gradient_descent_again(descent):
    run, queries, effects = descent
    correlation, slope = compared(
        SOURCE(len(run.checkpoints)).fit(run).explain(queries).values, effects
    )
    assert correlation > 0.99
    assert slope == pytest.approx(1, abs=0.15)
    tracin = compared(TracIn(None).fit(run).explain(queries).values, effects)[0]
    assert tracin < 0.9, "the curvature makes no difference here: nothing was tested"


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_values_are_those_of_dense_exponentials(damping):
    """Three checkpoints in two segments: one of two, and one of one."""
    model = gpt2(n_embd=8, n_layer=1).double()
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        states.append({k: v.clone() for k, v in model.state_dict().items()})
    rates, queries = [0.5, 2.0, 1.5], texts(3, seed=1)
    run = trace(
        model, texts(9), checkpoints=states, rates=rates, batch_size=4,
        modules=["transformer.h.0.attn.c_proj", "transformer.ln_f"],
    )  # fmt: skip
    segments = RowMap(run, Identity()).bound.segments
    parts, dense = [[0, 1], [2]], []
    for own in parts:
        pooled = kronecker_curvature(Fisher(run, own, "sampled", 0, False), segments, True)
        unit = torch.eye(8 * 9 + 16).double()
        dense.append(pooled.mapped(unit, lambda v: v + damping * v.mean()).numpy())
    rows, query = rows_by_checkpoint(run, queries)
    means = [np.mean([rows[c] for c in own], axis=0) for own in parts]
    totals = [sum(rates[c] for c in own) for own in parts]
    expected = curvature.segmented(means, query, dense, totals)
    found = SOURCE(2, damping).fit(run).explain(queries).values
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_without_curvature_it_is_tracin_at_the_last_gradient():
    """Rates so small that nothing decays."""
    model = gpt2(n_embd=8, n_layer=1).double()
    run = trace(model, texts(6), rates=[1e-7])
    found = SOURCE(1).fit(run).explain(texts(2, seed=1)).values
    expected = TracIn(None).fit(run).explain(texts(2, seed=1)).values
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-10)


def test_what_it_lacks_is_named():
    model = gpt2(n_embd=8, n_layer=1)
    with pytest.raises(MissingParameterError, match="rate"):
        SOURCE(1).fit(trace(model, texts(4)))
    with pytest.raises(InputError, match="3 segments"):
        SOURCE(3).fit(trace(model, texts(4), rates=[0.1]))
