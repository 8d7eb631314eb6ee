"""DataInf against explicit inverses."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from influence.errors import InputError
from llm_influence import rows
from llm_influence.datainf import DataInf
from llm_influence.losses import causal_lm
from llm_influence.projection import Dense, Kronecker
from llm_influence.run import trace
from tests.llm_influence.models import gpt2, lora, texts
from tests.reference import autograd, datainf


class Deaf(nn.Module):
    """A model with a layer that nothing reaches."""

    def __init__(self, model):
        super().__init__()
        self.model, self.unused = model, nn.Linear(3, 2)


def expected(run, model, train, queries, damping):
    blocks = [list(block.parameters.values()) for block in run.coverage.blocks.values()]
    own = [autograd.gradient(model, one) for one in train]
    asked = [autograd.gradient(model, one) for one in queries]
    return datainf.values(own, asked, blocks, damping).numpy()


@pytest.mark.parametrize("damping", [0.1, 10.0])
@pytest.mark.parametrize("make", [lambda: gpt2(n_embd=8, n_layer=1, n_positions=16), lora])
def test_values_are_those_of_a_mean_of_inverses(make, damping):
    model, train, queries = make().double(), texts(5), texts(3, seed=1)
    run = trace(model, train, batch_size=2)
    found = DataInf(damping).fit(run).explain(queries).values
    wanted = expected(run, model, train, queries, damping)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9 * np.abs(wanted).max())


def test_values_stay_when_rows_are_worked_out_again(monkeypatch):
    run = trace(gpt2(n_embd=8, n_layer=1).double(), texts(7), batch_size=2)
    held = DataInf().fit(run).explain(texts(3, seed=1)).values
    monkeypatch.setattr(rows, "MOST_HELD", 0)
    monkeypatch.setattr(rows, "MOST_AT_ONCE", 0)
    anew = DataInf().fit(run).explain(texts(3, seed=1)).values
    np.testing.assert_allclose(anew, held, rtol=1e-9)


def test_projected_values_estimate_exact_ones():
    run = trace(gpt2().double(), texts(8))
    exact = DataInf(1.0).fit(run).explain(texts(4, seed=1)).values
    drawn = [
        DataInf(1.0, Kronecker(12, seed=seed)).fit(run).explain(texts(4, seed=1)).values
        for seed in range(4)
    ]
    mean = np.mean(drawn, axis=0)
    assert np.corrcoef(mean.ravel(), exact.ravel())[0, 1] > 0.9
    assert np.polyfit(exact.ravel(), mean.ravel(), 1)[0] == pytest.approx(1.0, abs=0.2)


def test_a_layer_without_gradients_counts_nothing():
    model = gpt2(n_embd=8, n_layer=1).double()
    run = trace(model, texts(4))
    with_head = trace(Deaf(model).double(), texts(4), lambda m, batch: causal_lm(m.model, batch))
    expected = DataInf().fit(run).explain(texts(2)).values
    np.testing.assert_allclose(DataInf().fit(with_head).explain(texts(2)).values, expected)


def test_what_does_not_fit_is_refused():
    for damping in (0, -1, True, "1"):
        with pytest.raises(InputError, match="damping"):
            DataInf(damping)
    with pytest.raises(InputError, match="Kronecker"):
        mixed: Any = Dense(8)
        DataInf(projection=mixed)


def test_tokens_add_up():
    run = trace(gpt2(n_embd=8, n_layer=1).double(), texts(4))
    estimator, query = DataInf().fit(run), texts(1, seed=1)
    whole = estimator.explain(query).values[:, 0]
    parts = estimator.tokens(query, [0, 2])
    for side in (parts.of_train, parts.of_query):
        np.testing.assert_allclose([part.sum() for part in side], whole[[0, 2]], rtol=1e-9)


def softmax_regression(inputs, labels, kept):
    """At the minimum of the mean loss over all rows, of which only some are kept, plus a ridge."""
    model = nn.Linear(inputs.shape[1], 3).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    parameters = list(model.parameters())
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def objective():
        optimizer.zero_grad()
        losses = nn.functional.cross_entropy(model(inputs), labels, reduction="none")
        value = losses[kept].sum() / len(losses) + 5e-4 * sum(p.square().sum() for p in parameters)
        value.backward()
        return value

    optimizer.step(objective)
    return model


def test_the_scale_is_that_of_a_converged_model_over_the_damping():
    torch.manual_seed(0)
    inputs = torch.randn(340, 5, dtype=torch.float64)
    labels = torch.distributions.Categorical(logits=2 * inputs[:, :3]).sample()
    items = list(zip(inputs, labels.tolist(), strict=True))
    n = 300
    fitted = [inputs[:n], labels[:n]]

    def losses(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def after(kept):
        return losses(softmax_regression(*fitted, kept), (inputs[n:], labels[n:])).detach().numpy()

    everything = torch.arange(n)
    model = softmax_regression(*fitted, everything)
    left_out = range(0, n, 20)
    effects = np.stack([after(everything[everything != i]) - after(everything) for i in left_out])
    run = trace(model, items[:n], losses)
    for damping in (0.1, 1.0):
        values = DataInf(damping).fit(run).explain(items[n:]).values[left_out]
        assert np.corrcoef(values.ravel(), effects.ravel())[0, 1] > 0.85
        slope = (values * effects).sum() / (effects**2).sum()
        assert 1 < slope * damping < 2, f"values are {slope:.3g} times the effects"
