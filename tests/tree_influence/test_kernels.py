"""Kernels and blocks where one tile, one block or one thread is not enough."""

import numba
import numpy as np
import pytest

from influence import Without, engine
from influence.result import strongest
from tests.reference import boosting
from tests.tree_influence.synthetic import as_run, random_boosting
from tree_influence import BoostIn, LeafInfluence, kernels
from tree_influence.factors import LeafFactor, QueryLeaves
from tree_influence.run import TreeQueries

N_ROWS = kernels.TILE + 900


def naive_products(leaves, values, query_leaves, coefficient):
    """Sum over trees of value . coefficient where leaves are shared, by comparing all pairs."""
    out = np.zeros((leaves.shape[1], query_leaves.shape[1]))
    for t in range(len(leaves)):
        shared = leaves[t][:, None] == query_leaves[t]
        out += shared * (values[t] @ coefficient[t].T)
    return out


@pytest.mark.parametrize("n_values", [1, 3])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_leaf_factor_is_all_pairs_over_several_tiles(n_values, n_threads):
    rng = np.random.default_rng(0)
    leaves = rng.integers(0, 5, (3, N_ROWS)).astype(np.uint16)
    query_leaves = rng.integers(0, 5, (3, 70)).astype(np.uint16)
    values = rng.normal(size=(3, N_ROWS, n_values))
    coefficient = rng.normal(size=(3, 70, n_values))
    before = numba.get_num_threads()
    numba.set_num_threads(n_threads)
    try:
        factor = LeafFactor.empty(leaves, 5, n_values)
        for t in range(3):
            factor.set_values(t, values[t])
        out = np.zeros((70, N_ROWS)).T
        factor.add_product(QueryLeaves(query_leaves, coefficient), out)
    finally:
        numba.set_num_threads(before)
    expected = naive_products(leaves, values, query_leaves, coefficient)
    np.testing.assert_allclose(out, expected, atol=1e-12, err_msg="a tile is misplaced")


def test_row_products_are_the_diagonal_across_a_tile_border():
    rng = np.random.default_rng(1)
    leaves = rng.integers(0, 5, (2, N_ROWS)).astype(np.uint16)
    values, coefficient = rng.normal(size=(2, 2, N_ROWS, 1))
    factor = LeafFactor.empty(leaves, 5, 1)
    for t in range(2):
        factor.set_values(t, values[t])
    rows = slice(kernels.TILE - 50, kernels.TILE + 60)
    out = np.zeros(110)
    factor.add_row_products(QueryLeaves(leaves[:, rows], coefficient[:, rows]), rows, out)
    expected = (values * coefficient)[:, rows, 0].sum(axis=0)
    np.testing.assert_allclose(out, expected, atol=1e-12)


@pytest.mark.parametrize("make", [BoostIn, LeafInfluence])
def test_blocks_of_queries_fit_together(make, monkeypatch):
    """explain_top, predict and self_influence are the dense answer in blocks of 4 queries."""
    described, weight, query_leaves, target = random_boosting("softmax", n_queries=23)
    run, queries = as_run(described, weight, query_leaves, target)
    monkeypatch.setattr(type(run), "queries", lambda self, *data: queries)
    whole = make().fit(run).explain(progress=False).values
    own = make().fit(run).self_influence()
    monkeypatch.setattr(engine, "BLOCK_COLUMNS", 4)
    estimator = make().fit(run)
    np.testing.assert_array_equal(estimator.explain().values, whole)
    np.testing.assert_array_equal(estimator.explain_top(k=3).highest, strongest(whole, 3, 1.0)[1])
    np.testing.assert_allclose(estimator.predict(Without([0, 5])), whole[[0, 5]].sum(axis=0))
    np.testing.assert_allclose(estimator.self_influence(), own, rtol=1e-12)


def test_a_sweep_over_several_chunks_of_rounds(monkeypatch):
    from tree_influence import replay

    described, weight, query_leaves, target = random_boosting("softmax, full, several steps")
    run, queries = as_run(described, weight, query_leaves, target)
    monkeypatch.setattr(replay, "CHUNK_BYTES", 1)
    out = np.zeros((queries.n_queries, run.n_train)).T
    LeafInfluence().fit(run)._add_columns(queries, out)
    oracle = boosting.finite_difference_influence(described, weight, query_leaves, target)
    assert np.abs(out - oracle).max() <= 1e-6 * np.abs(oracle).max()


def test_a_query_is_its_own_vector():
    """One lane of the sweep or sixteen: the bits are the same."""
    described, weight, query_leaves, target = random_boosting("logistic", n_queries=40)
    run, queries = as_run(described, weight, query_leaves, target)
    estimator = LeafInfluence().fit(run)
    together = np.zeros((40, run.n_train)).T
    estimator._add_columns(queries, together)
    for j in (0, 17, 39):
        one: TreeQueries = queries[j : j + 1]
        alone = np.zeros((1, run.n_train)).T
        estimator._add_columns(one, alone)
        np.testing.assert_array_equal(alone[:, 0], together[:, j])
