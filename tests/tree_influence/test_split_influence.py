"""SplitInfluence against an oracle written from its formula, on random structures and tables."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from influence.change import Relabelled, random_subsets
from influence.errors import NotYetSupportedError
from influence.evaluate import compare, retrain_all
from tests.reference import splits
from tests.tree_influence import models
from tests.tree_influence.synthetic import CASES, as_run, random_boosting
from tests.tree_influence.test_formulas import close, columns
from tests.tree_influence.test_relabelled import ROWS, others
from tree_influence import LeafInfluence, retrainer, trace
from tree_influence.adapters.base import GivenRows
from tree_influence.candidates import TreeShape
from tree_influence.halves import half_weighted
from tree_influence.split_influence import SplitInfluence

ONE_STEP = [
    case for case, asked in CASES.items()
    if asked.n_steps == 1 and asked.n_parallel == 1 and asked.leaves != "full"
]  # fmt: skip


def random_table(n_train, n_queries, n_leaves, kind, seed=0):
    """Two columns of numbers, one with missing values and one of categories."""
    rng = np.random.default_rng(seed)
    both = np.column_stack(
        [
            rng.integers(0, 6, n_train + n_queries),
            rng.normal(size=n_train + n_queries),
            rng.normal(size=n_train + n_queries),
            rng.integers(0, 5, n_train + n_queries),
        ]
    ).astype(float)
    both[rng.random(len(both)) < 0.3, 2] = np.nan
    both[rng.random(len(both)) < 0.1, 3] = np.nan
    symmetric = kind == "symmetric"
    if symmetric:
        choices = [[np.arange(4)], [np.array([0, 1]), np.array([2, 3])]]
    else:  # a chain: node i cuts off leaf i
        choices = [[np.arange(i, n_leaves)] for i in range(n_leaves - 1)]
    return splits.Table(both[:n_train], both[n_train:], [3], choices, symmetric)


def with_table(run, queries, table):
    """The run and its queries with features."""
    adapter: Any = SimpleNamespace(
        library="synthetic 1.0", n_targets=1,
        ensemble=replace(run.adapter.ensemble, n_features=table.rows.shape[1]),
        symmetric=table.symmetric,
        categorical=tuple(table.categorical), unordered=(), features=lambda X: X,
    )  # fmt: skip
    asked = GivenRows(table.queries, queries.target)
    return replace(run, adapter=adapter, X=table.rows), replace(queries, asked=asked)


def problem(case, kind, seed=0, n_rounds=3):
    described, weight, query_leaves, query_target = random_boosting(case, seed, n_rounds=n_rounds)
    weight[4] = 0.0
    run, queries = as_run(described, weight, query_leaves, query_target)
    table = random_table(len(weight), len(query_target), described.n_leaves, kind, seed)
    oracle = described, weight, query_leaves, query_target, table
    return oracle, *with_table(run, queries, table)


@pytest.mark.parametrize(
    ("case", "kind"),
    [(case, "nodes") for case in ONE_STEP]
    + [(case, "symmetric") for case in ("squared", "logistic", "softmax", "softmax, vector")],
)
def test_values_are_the_formula(case, kind):
    oracle, run, queries = problem(case, kind)
    close(columns(SplitInfluence().fit(run), queries), splits.influence(*oracle, scale=1.0))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_other_tables(seed):
    oracle, run, queries = problem("logistic", "nodes", seed)
    close(columns(SplitInfluence().fit(run), queries), splits.influence(*oracle, scale=1.0))


@pytest.mark.parametrize("case", ONE_STEP)
def test_other_labels_change_the_rows_own_terms(case):
    oracle, run, queries = problem(case, "nodes")
    labels = oracle[0].target.copy()
    labels[list(ROWS)] = others(oracle[0])
    ours = SplitInfluence().fit(run)._relabelled(Relabelled(ROWS, labels[list(ROWS)]), queries)
    before, after = (
        splits.influence(*oracle, scale=1.0, labels=of)[list(ROWS)]
        for of in (oracle[0].target, labels)
    )
    close(ours, (before - after).sum(axis=0))


@pytest.mark.parametrize("case", CASES)
def test_without_splits_it_is_leaf_influence_at_half_weight(case):
    _, run, queries = problem(case, "nodes")
    estimator = SplitInfluence().fit(run)
    estimator.share_ = 0.0
    close(columns(estimator, queries), columns(LeafInfluence().fit(half_weighted(run)), queries))


@pytest.mark.parametrize("case", ["logistic, several steps", "softmax, full"])
def test_splits_of_one_round_do_not_depend_on_how_leaves_are_solved(case):
    oracle, run, queries = problem(case, "nodes", n_rounds=1)
    estimator = SplitInfluence().fit(run)
    whole = columns(estimator, queries)
    estimator.share_ = 0.0
    c = queries_pull(run, queries)
    described = replace(oracle[0], n_steps=1, full=False, vector=oracle[0].full)
    alone = splits.influence(described, *oracle[1:], scale=1.0, leaf_part=False, pull=c)
    close(whole - columns(estimator, queries), alone)


def queries_pull(run, queries):
    """The queries' gradients at the scores of these leaves, (n_outputs, n_queries)."""
    replay = half_weighted(run).replay
    raw = replay.raw_after(queries.leaves, queries.offset)
    return replay.recipe.loss.derivatives(queries.target, raw).gradient.T


def test_models_of_halves_take_three_quarters_of_the_splits():
    _, run, _ = problem("squared", "nodes")
    assert SplitInfluence().fit(run).share_ == 1.0
    assert SplitInfluence().fit(half_weighted(run)).share_ == 0.75


def under(children, node):
    """Leaves under a node."""
    if node < 0:
        return [~node]
    return [leaf for child in children[node] for leaf in under(children, child)]


@pytest.mark.parametrize("library", models.LIBRARIES)
def test_paths_hold_the_nodes_above_each_leaf(library):
    fitted = models.fit(library, "logistic", n_trees=3)
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    ensemble = run.adapter.ensemble
    for t in range(ensemble.n_trees):
        shape = TreeShape.of(run, t)
        first = ensemble.root[t]
        nodes = ensemble.children[first : first + ensemble.leaf_counts[t] - 1]
        np.testing.assert_array_equal(shape.children, np.where(nodes < 0, nodes, nodes - first))
        for node in range(len(shape.children)):
            above = [
                leaf
                for leaf in range(ensemble.leaf_counts[t])
                if node in shape.path_node[shape.path_first[leaf] : shape.path_first[leaf + 1]]
            ]
            assert above == sorted(under(shape.children, node))


def test_symmetric_trees_have_one_choice_a_level():
    fitted = models.fit("catboost", "squared", n_trees=1)
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    shape = TreeShape.of(run, 0)
    assert shape.choice.tolist() == [0, 1, 1, 2, 2, 2, 2]
    for level in range(3):  # nodes of one level split on the same number
        nodes = run.adapter.ensemble.feature[shape.choice == level]
        assert len(set(nodes.tolist())) == 1


def test_half_subsets_are_ranked_better_than_through_leaves_alone():
    """The only judge of the split part: really retrained models."""
    X, y, X_test, y_test = models.make_data("logistic", n_train=200, n_test=30, seed=1)
    model = models.make("lightgbm", "logistic", n_trees=20).fit(X, y)
    run = trace(model, X, y)
    halves = random_subsets(200, 0.5, 30, seed=0)
    real = retrain_all(retrainer(run, X_test, y_test), halves, progress=False)

    def lds(estimator):
        explained = estimator.fit(run).explain(X_test, y_test, progress=False)
        return compare(np.stack([explained.predict(half) for half in halves]), real).mean

    leaves, splits_too = lds(LeafInfluence()), lds(SplitInfluence())
    assert splits_too > leaves + 0.01, f"{splits_too:.3f} against {leaves:.3f}"


def test_trees_whose_nodes_are_unknown_are_refused():
    import catboost

    fitted = models.fit("catboost", "squared")
    model = catboost.CatBoostRegressor(
        iterations=2, depth=2, grow_policy="Depthwise", verbose=False, allow_writing_files=False
    ).fit(fitted.X, fitted.y)
    with pytest.raises(NotYetSupportedError, match="needs the nodes"):
        SplitInfluence().fit(model, fitted.X, fitted.y)


def test_rows_that_only_the_library_reads_are_refused():
    import catboost

    fitted = models.fit("catboost", "logistic")
    table = pd.DataFrame(fitted.X).assign(town=np.where(fitted.X[:, 0] > 0, "a", "b"))
    pool = catboost.Pool(table, fitted.y, cat_features=["town"])
    model = catboost.CatBoostClassifier(iterations=2, verbose=False, allow_writing_files=False)
    run = trace(model.fit(pool), pool)
    with pytest.raises(NotYetSupportedError, match="gives none back"):
        SplitInfluence().fit(run)
    of_table = trace(model, table, fitted.y)
    assert np.isfinite(SplitInfluence().fit(of_table).explain(table, fitted.y).values).all()
