"""The estimators against oracles that share no code with them, on random structures."""

import numpy as np
import pytest

from tests.reference import boosting
from tests.tree_influence.synthetic import CASES, as_run, random_boosting
from tree_influence import BoostIn, LeafInfluence

# BoostIn's triple loop knows one Newton step a tree, and neither thresholds nor bounds.
ONE_STEP = [
    case for case, asked in CASES.items()
    if asked.n_steps == 1 and asked.l1 == 0 and asked.max_step == np.inf
]  # fmt: skip


def columns(estimator, queries):
    """Values of queries that were never rows of a table."""
    out = np.zeros((queries.n_queries, estimator.run_.n_train)).T
    estimator._add_columns(queries, out)
    return out


def close(ours, oracle, tolerance=1e-6):
    """Largest difference over largest value."""
    gap = np.abs(ours - oracle).max() / np.abs(oracle).max()
    assert gap <= tolerance, f"off by {gap:.2g} of the largest value"


@pytest.mark.parametrize("case", CASES)
def test_replay_reproduces_the_leaves(case):
    described, weight, query_leaves, query_target = random_boosting(case)
    run, _ = as_run(described, weight, query_leaves, query_target)
    assert run.replay.error.largest < 1e-10, "the Newton steps differ from the oracle's refit"


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_leaf_influence_is_the_derivative_of_the_refit(case, seed):
    described, weight, query_leaves, query_target = random_boosting(case, seed)
    run, queries = as_run(described, weight, query_leaves, query_target)
    ours = columns(LeafInfluence().fit(run), queries)
    close(
        ours,
        boosting.finite_difference_influence(described, weight, query_leaves, query_target),
    )


@pytest.mark.parametrize("shrunken", [False, True])
@pytest.mark.parametrize("case", ONE_STEP)
def test_boostin_is_the_triple_loop(case, shrunken):
    described, weight, query_leaves, query_target = random_boosting(case)
    run, queries = as_run(described, weight, query_leaves, query_target)
    ours = columns(BoostIn(shrunken_leaves=shrunken).fit(run), queries)
    close(ours, boosting.boostin(described, weight, query_leaves, query_target, shrunken), 1e-12)


@pytest.mark.parametrize("weighted", [1, 2])
@pytest.mark.parametrize("case", ONE_STEP)
def test_weighted_boostin_is_the_triple_loop(case, weighted):
    described, weight, query_leaves, query_target = random_boosting(case)
    run, queries = as_run(described, weight, query_leaves, query_target)
    estimator = BoostIn(weighted=weighted).fit(run)
    oracle = boosting.boostin(described, weight, query_leaves, query_target, weighted=weighted)
    close(columns(estimator, queries), oracle, 1e-12)
    assert estimator.unit == "loss, up to scale"


@pytest.mark.parametrize("case", CASES)
def test_with_one_round_boostin_is_the_derivative(case):
    """After the last round nothing is left to ignore, so BoostIn differs from the derivative only
    in taking the query's gradient before the round instead of after it."""
    n_rounds = CASES[case].n_parallel
    described, weight, query_leaves, query_target = random_boosting(case, n_rounds=n_rounds)
    described.rate[:] = 1e-6  # the query's score does not move
    run, queries = as_run(described, weight, query_leaves, query_target)
    close(columns(BoostIn().fit(run), queries), columns(LeafInfluence().fit(run), queries), 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_through_self_is_the_derivative_for_rows_alone_in_their_leaves(case):
    """A row that shares no leaf with another is all its leaves carry."""
    described, weight, query_leaves, query_target = random_boosting(case)
    described.leaves[:] = np.minimum(described.leaves, described.n_leaves - 2)
    described.leaves[:, :, 0] = described.n_leaves - 1
    run, queries = as_run(described, weight, query_leaves, query_target)
    everywhere = columns(LeafInfluence().fit(run), queries)
    own = columns(LeafInfluence(through="self").fit(run), queries)
    np.testing.assert_allclose(own[0], everywhere[0], rtol=1e-9, atol=1e-12)
    assert np.abs(own[1:] - everywhere[1:]).max() > 1e-6, "other rows must differ"


@pytest.mark.parametrize("shrunken", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_stored_leaves_are_kept_where_they_do_not_recompute(case, shrunken):
    described, weight, query_leaves, query_target = random_boosting(case)
    stored = boosting.refit(described, weight)
    stored += 0.01 * np.random.default_rng(0).normal(size=stored.shape)
    run, _ = as_run(described, weight, query_leaves, query_target, stored)
    assert run.replay.error.largest > 1e-3
    np.testing.assert_array_equal(run.replay.value.ravel(), stored.ravel())
    np.testing.assert_allclose(
        run.replay.raw, run.adapter.ensemble.raw(run.leaves) + run.offset, rtol=1e-12
    )
    assert np.isfinite(BoostIn(shrunken).fit(run).self_influence()).all()
