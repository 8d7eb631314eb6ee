"""TRAK against its equations, and its sign against models really trained again."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from influence.errors import InputError, UnsupportedModelError
from llm_influence import Dense, Kronecker, trace
from llm_influence.losses import against, causal_lm_odds, causal_lm_sum
from llm_influence.trak import TRAK, Margin
from tests.laws.networks import NetworkProblem
from tests.llm_influence import explicit
from tests.llm_influence.models import bert, labelled
from tests.reference import projected


@pytest.fixture(scope="module")
def problem():
    return NetworkProblem()


def gradients_and_p(model, examples):
    model.eval()
    rows = [
        torch.autograd.grad(
            projected.log_odds(model, e),
            list(model.parameters()),
            allow_unused=True,
            materialize_grads=True,
        )
        for e in examples
    ]
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]).numpy()
    p = [projected.probabilities(model, e).mean().item() for e in examples]
    return flat, np.array(p)


@pytest.mark.parametrize("projection", [Kronecker(3), Dense(20), None], ids=repr)
def test_values_are_those_of_the_equation_over_two_models(problem, projection):
    run = problem.run()
    models = [explicit.at(copy.deepcopy(problem.model), c) for c in problem.checkpoints]
    train, p = zip(*[gradients_and_p(m, problem.examples) for m in models], strict=True)
    queries, _ = zip(*[gradients_and_p(m, problem.queries[0]) for m in models], strict=True)
    P = explicit.matrix(run, Kronecker(10**6) if projection is None else projection)
    found = TRAK(projection, damping=0.1).fit(run).explain(*problem.queries)
    assert found.provenance.unit == "loss, up to scale"
    explicit.close(found.values, projected.trak(train, queries, p, P, 0.1))


def test_values_of_a_classifier():
    model, train, queries = bert().double(), labelled(6), labelled(3, seed=1)
    run = trace(model, train)
    P = explicit.matrix(run, Kronecker(2))
    (own, p), (asked, _) = (gradients_and_p(model, given) for given in (train, queries))
    expected = projected.trak([own], [asked], [p], P, 1.0)
    explicit.close(TRAK(Kronecker(2)).fit(run).explain(queries).values, expected)


def test_log_odds_of_certain_classes_are_not_rounded():
    logits = torch.tensor([[300.0, 0.0, -5.0], [-300.0, 0.0, 0.0]], requires_grad=True)
    odds = against(logits, torch.tensor([0, 0]))
    expected = torch.tensor([np.log1p(np.exp(-5.0)) - 300, np.log(2) + 300], dtype=torch.float32)
    torch.testing.assert_close(odds, expected)
    odds.sum().backward()
    assert torch.isfinite(logits.grad).all()
    torch.testing.assert_close(logits.grad[:, 0], torch.tensor([-1.0, -1.0]))


def logits_of(model, batch):
    return model(batch[0])


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(logits_of(model, batch), batch[1], reduction="none")


def odds(model, batch):
    return against(logits_of(model, batch), batch[1])


def doubt(model, batch):
    return odds(model, batch).sigmoid()


def fitted(x, y):
    """Logistic regression to its optimum."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(x.shape[1], 3)).double()
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        weight = model[0].weight.square().sum() + model[0].bias.square().sum()
        loss = cross_entropy(model, (x, y)).sum() + 1e-3 * weight
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def test_sign_and_ranking_are_those_of_training_again_without_each_example():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(48, 3))
    x = torch.from_numpy(numbers)
    y = torch.from_numpy((numbers + rng.normal(size=(48, 3))).argmax(1))
    train, queries = list(zip(x[:40], y[:40], strict=True)), list(zip(x[40:], y[40:], strict=True))
    model = fitted(x[:40], y[:40])
    run = trace(model, train, loss=cross_entropy)
    values = TRAK(None, 1e-6, output=Margin(odds, doubt)).fit(run).explain(queries).values
    real = np.empty_like(values)
    with torch.no_grad():
        before = odds(model, (x[40:], y[40:]))
    for i in range(40):
        kept = np.delete(np.arange(40), i)
        again = fitted(x[kept], y[kept])
        with torch.no_grad():
            real[i] = (odds(again, (x[40:], y[40:])) - before).numpy()
    ranked = [spearmanr(values[:, q], real[:, q]).statistic for q in range(8)]
    assert min(ranked) > 0.8, f"rank correlation with leaving out: {ranked}"


def test_a_loss_of_ones_own_has_the_sign_of_a_loss(problem):
    run = trace(problem.model, problem.examples)
    estimator = TRAK(Kronecker(3)).fit(run)
    (first,) = (run.queries(problem.queries[0][:1]).batch([0]),)
    with estimator.trace(problem.model) as asked:
        causal_lm_odds(problem.model, first).sum().backward()
    expected = estimator.explain(problem.queries[0][:1]).values
    explicit.close(asked.explain().values, expected)


def test_what_is_refused(problem):
    with pytest.raises(InputError, match="damping must be a finite number above 0"):
        TRAK(damping=0)
    with pytest.raises(UnsupportedModelError, match="pass TRAK\\(output=Margin"):
        TRAK().fit(trace(problem.model, problem.examples, loss=causal_lm_sum))
