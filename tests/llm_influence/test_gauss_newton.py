"""The exact Gauss-Newton matrix against finite differences, its influence against retraining."""

import contextlib
import copy

import numpy as np
import pytest
import torch

from influence.errors import InputError, UnsupportedModelError
from influence.testing import LAWS
from llm_influence.curvature import Fisher, kronecker_curvature
from llm_influence.ekfac import EKFAC
from llm_influence.gauss_newton import (
    GaussNewton,
    GaussNewtonMatrix,
    block_conjugate_gradients,
)
from llm_influence.losses import classification, token_losses
from llm_influence.projection import Identity
from llm_influence.rows import RowMap
from llm_influence.run import trace
from tests.llm_influence.linear_networks import LinearHead, classes
from tests.llm_influence.models import CAUSAL, bert, labelled, texts
from tests.reference.curvature import finite_gauss_newton

WEIGHT_DECAY = 0.02
SHARE = 0.01  # of a row's weight that is taken away: values are derivatives
N_CLASSES = 3


@pytest.mark.parametrize("name", [*CAUSAL, "bert"])
def test_products_are_those_of_finite_differences(name):
    model = (bert() if name == "bert" else CAUSAL[name]()).double()
    examples = labelled(4) if name == "bert" else texts(4)
    run = trace(model, examples, batch_size=3)
    matrix = GaussNewtonMatrix(run, RowMap(run, Identity()).bound.segments)
    torch.manual_seed(1)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    u, v = ({n: torch.randn_like(p) for n, p in named.items()} for _ in range(2))
    vectors = torch.stack(
        [
            torch.cat([block.arranged(w).flatten() for block in run.coverage.blocks.values()])
            for w in (u, v)
        ]
    )
    found = matrix.product(vectors) @ vectors.T
    for i, left in enumerate((u, v)):
        for j, right in enumerate((u, v)):
            expected = finite_gauss_newton(model, examples, left, right)
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-4, abs=1e-4), name
    assert all(p.requires_grad for p in named.values()), "the model is not as it was"


def minimised(model, examples, weights):
    """The optimum of sum_i weights_i loss_i / n + decay |theta|^2 / 2."""
    features = torch.stack([e["features"] for e in examples])
    labels = torch.tensor([e["labels"] for e in examples])
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        each = torch.nn.functional.cross_entropy(model(features).logits, labels, reduction="none")
        penalty = sum(p.square().sum() for p in model.parameters())
        loss = (weights * each).sum() / len(examples) + WEIGHT_DECAY / 2 * penalty
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


@pytest.fixture(scope="module")
def regularised():
    """A logistic regression at its optimum, and what a little less of some rows really does."""
    n, queries = 150, classes(12, seed=1)
    examples, ones = classes(n), torch.ones(150).double()
    model = minimised(LinearHead(4, N_CLASSES), examples, ones)
    run = trace(model, examples, loss=classification, batch_size=64)
    effects, asked = [], run.queries(queries)
    for i in range(0, n, 10):
        weights = ones.clone()
        weights[i] -= SHARE
        again = minimised(copy.deepcopy(model), examples, weights)
        effects.append((run.losses_of(again, asked) - run.losses(asked)) / SHARE)
    return run, queries, np.stack(effects)


def decay_as_damping(run):
    """The damping that is this weight decay: a multiple of the mean eigenvalue."""
    segments = RowMap(run, Identity()).bound.segments
    fisher = Fisher(run, [0], "sampled", 0, False)
    (eigen,) = kronecker_curvature(fisher, segments, True).blocks.values()
    return WEIGHT_DECAY / float(eigen.values.mean())


@pytest.mark.parametrize(
    ("make", "correlation", "off"),
    [(GaussNewton, 0.9999, 0.005), (EKFAC, 0.9, 0.2)],
    ids=["GaussNewton", "EKFAC"],
)
def test_values_are_the_effects_of_retraining(regularised, make, correlation, off):
    run, queries, effects = regularised
    values = make(decay_as_damping(run)).fit(run).explain(queries).values[::10]
    assert np.corrcoef(values.ravel(), effects.ravel())[0, 1] > correlation
    slope = np.polyfit(values.ravel(), effects.ravel(), 1)[0]
    assert slope == pytest.approx(1, abs=off), "sign, or the 1 / n of a mean loss, is wrong"


def test_results_state_the_residual_and_what_does_not_converge_is_refused(regularised):
    run, queries, _ = regularised
    done = GaussNewton(tolerance=1e-6).fit(run).explain(queries).provenance.run
    assert done["residual"] <= 1e-6
    assert done["iterations"] >= 1
    with pytest.raises(InputError, match="after 1 iterations"):
        GaussNewton(tolerance=1e-6, max_iterations=1).fit(run).explain(queries[:1])


def test_block_conjugate_gradients_solve_dependent_columns():
    torch.manual_seed(0)
    root = torch.randn(30, 30, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(30)
    aim = torch.randn(30, 4, dtype=torch.float64)
    aim = torch.cat([aim, aim[:, :1], torch.zeros(30, 1), aim @ torch.ones(4, 1).double()], 1)
    found, iterations = block_conjugate_gradients(lambda v: matrix @ v, aim, 1e-12, 30)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, aim), rtol=1e-7, atol=1e-9)
    assert iterations < 20, "columns do not share one Krylov space"


def test_a_gpt2_converges_by_default():
    run = trace(CAUSAL["gpt2"](n_embd=8, n_layer=1, n_head=1), texts(10), batch_size=16)
    found = GaussNewton().fit(run).explain(texts(4, seed=1))
    assert 0 < found.provenance.run["residual"] <= 0.02


def own_loss(model, batch):
    losses, is_target = token_losses(model, batch)
    return losses.sum(1) / is_target.sum(1)


def test_a_loss_of_your_own_is_refused_by_name():
    run = trace(CAUSAL["gpt2"](), texts(4), loss=own_loss)
    with pytest.raises(UnsupportedModelError, match="own_loss"):
        GaussNewton().fit(run)


class LinearProblem:
    """A classifier on which exact curvature is cheap."""

    duplicates = (2, 6)
    zero_weight = None
    precision = 1e-7
    planted = (4, 1)

    def __init__(self):
        self.examples, asked = classes(12), classes(5, seed=1)
        self.model = LinearHead(4, N_CLASSES)
        self.examples[6] = self.examples[2]
        wrong = self.model(asked[1]["features"]).logits.argmin()
        asked[1] = {**asked[1], "labels": int(wrong)}
        self.examples[4] = asked[1]
        self.train, self.queries = (self.examples,), (asked,)

    def run(self, order=None):
        rows = range(len(self.examples)) if order is None else order
        given = [self.examples[i] for i in rows]
        return trace(self.model, given, loss=classification, batch_size=4)

    def part(self, block):
        return (self.queries[0][block],)

    def threads(self, n):
        return contextlib.nullcontext(n)


@pytest.mark.parametrize("law", LAWS, ids=[law.__name__ for law in LAWS])
def test_laws_hold(law):
    law(lambda: GaussNewton(tolerance=1e-10), LinearProblem())
