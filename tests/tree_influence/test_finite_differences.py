"""LeafInfluence on real models of every library against central differences of a refit."""

import numpy as np
import pytest

from tests.reference import boosting
from tests.tree_influence import models
from tree_influence import BoostIn, LeafInfluence, trace

CASES = [(library, task) for library in models.LIBRARIES for task in models.TASKS]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: " ".join(case))
def case(request):
    library, task = request.param
    fitted = models.fit(library, task)
    described, query_leaves = models.describe(library, task, fitted)
    return library, fitted, described, query_leaves


def test_the_oracle_is_the_model(case):
    """The refit from the equations gives the library's own raw predictions."""
    library, fitted, described, query_leaves = case
    values = boosting.refit(described, fitted.weight)
    score = np.tile(described.start, (len(fitted.X_test), 1))
    for r in range(len(values)):
        score = score + boosting.spread(described, values[r], query_leaves[r])
    np.testing.assert_allclose(
        score, models.raw(library, fitted.model, fitted.X_test), rtol=1e-5, atol=1e-5
    )


def test_leaf_influence_is_the_derivative_of_the_refit(case):
    _, fitted, described, query_leaves = case
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    ours = LeafInfluence().fit(run).explain(fitted.X_test, fitted.y_test).values
    oracle = boosting.finite_difference_influence(
        described, fitted.weight, query_leaves, fitted.y_test.astype(float)
    )
    gap = np.abs(ours - oracle).max() / np.abs(oracle).max()
    assert gap <= 1e-6, f"off by {gap:.2g} of the largest value"


def test_boostin_is_the_triple_loop(case):
    _, fitted, described, query_leaves = case
    if described.n_steps > 1:
        pytest.skip("the triple loop knows one Newton step a tree")
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    ours = BoostIn().fit(run).explain(fitted.X_test, fitted.y_test).values
    oracle = boosting.boostin(described, fitted.weight, query_leaves, fitted.y_test.astype(float))
    gap = np.abs(ours - oracle).max() / np.abs(oracle).max()
    assert gap <= 1e-6, f"off by {gap:.2g} of the largest value"


def test_the_leaf_error_says_exact(case):
    _, fitted, _, _ = case
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    assert run.replay.error.largest < 1e-5
    assert "leaf error" in repr(run)
