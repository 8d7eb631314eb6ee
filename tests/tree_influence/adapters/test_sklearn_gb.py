"""GradientBoosting: trees, leaf values and refusals are the library's own."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from influence.errors import InputError, NotYetSupportedError
from tests.tree_influence.adapters.sklearn_oracle import (
    TASKS,
    check_parity,
    encoded,
    estimator,
    leaf_error,
    on_thresholds,
    rows,
)
from tree_influence.adapters import parse

pytestmark = pytest.mark.filterwarnings("error")
SEEDS = st.integers(0, 10_000)


@given(SEEDS, st.sampled_from(TASKS), st.integers(1, 5), st.integers(2, 12))
def test_parity(seed, task, max_depth, max_leaves):
    X, y = rows(seed, 90, task)
    model = estimator("gb", task, n_estimators=4, max_depth=max_depth,
                      max_leaf_nodes=max_leaves, random_state=0).fit(X, y)  # fmt: skip
    check_parity(model, X)
    fresh = on_thresholds(parse(model), np.random.default_rng(seed), 60, X.shape[1])
    check_parity(model, pd.DataFrame(fresh, columns=X.columns))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("weighted", [False, True])
def test_default_leaves_recompute(task, weighted):
    X, y = rows(1, 300, task)
    weight = np.random.default_rng(2).integers(0, 4, 300).astype(float) if weighted else None
    model = estimator("gb", task).fit(X, y, weight)
    assert leaf_error(model, X, y, weight) <= 1e-6, "Hessian factor, learning rate or weights"


@pytest.mark.parametrize("task", TASKS)
def test_start_at_zero(task):
    X, y = rows(3, 200, task)
    model = estimator("gb", task, init="zero", n_estimators=5).fit(X, y)
    check_parity(model, X)
    assert leaf_error(model, X, y) <= 1e-6, "the start is 0, not the prior"


@pytest.mark.parametrize("task", TASKS)
def test_early_stopping_rows_are_held_out(task):
    X, y = rows(4, 400, task)
    weight = np.random.default_rng(2).random(400)
    model = estimator("gb", task, n_iter_no_change=3, random_state=5).fit(X, y, weight)
    assert model.n_estimators_ < model.n_estimators
    assert leaf_error(model, X, y, weight) <= 1e-6, "another split than the library's"
    adapter = parse(model)
    assert (adapter.row_weights(encoded(adapter, y), None) == 0).sum() == 40
    assert (
        adapter.recipe(
            adapter.leaves(adapter.features(X)), encoded(adapter, y), weight
        ).inexact_because
        == ()
    )


def test_inexact_settings_are_named():
    X, y = rows(4, 200, "regression")
    model = GradientBoostingRegressor(subsample=0.5, n_iter_no_change=3, n_estimators=5)
    adapter = parse(model.fit(X, y))
    because = adapter.recipe(adapter.leaves(adapter.features(X)), y, np.ones(200)).inexact_because
    assert [reason.split()[0] for reason in because] == ["subsample=0.5", "n_iter_no_change"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_refuses_what_the_library_refuses(bad):
    X, y = rows(4, 60, "regression")
    model = GradientBoostingRegressor(n_estimators=2).fit(X, y)
    X.loc[7, "x1"] = bad
    with pytest.raises((ValueError, RuntimeWarning)):
        model.predict(X)
    with pytest.raises(InputError, match=r"row 7 .* column x1"):
        parse(model).features(X)


def test_initial_estimator_is_not_yet_supported():
    X, y = rows(4, 60, "regression")
    model = GradientBoostingRegressor(init=LinearRegression(), n_estimators=2).fit(X, y)
    with pytest.raises(NotYetSupportedError, match="LinearRegression"):
        parse(model)


def test_saturated_leaves():
    X, y = rows(6, 200, "binary")
    y = np.random.default_rng(0).permutation(y)
    model = GradientBoostingClassifier(learning_rate=1.5, n_estimators=60, random_state=0)
    assert leaf_error(model.fit(X, y), X, y) <= 1e-6
