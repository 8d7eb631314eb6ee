"""GradientBoosting: trees, leaf values and refusals are the library's own."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from influence.errors import InputError, UnsupportedModelError
from tests.tree_influence.adapters.sklearn_oracle import (
    TASKS,
    check_parity,
    encoded,
    estimator,
    leaf_error,
    on_thresholds,
    rows,
)
from tree_influence import LeafInfluence, trace
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


LINKS = {  # raw score of a probability or value, by loss
    "squared_error": lambda p: p,
    "log_loss": lambda p: np.log(p[:, 1] / p[:, 0]) if p.shape[1] == 2 else centred_log(p),
    "exponential": lambda p: np.log(p[:, 1] / p[:, 0]) / 2,
}


def centred_log(p):
    return np.log(p) - np.log(p).mean(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("task", "loss", "init"),
    [
        ("regression", "squared_error", LinearRegression()),
        ("regression", "squared_error", RandomForestRegressor(n_estimators=5, random_state=0)),
        ("regression", "squared_error", make_pipeline(StandardScaler(), LinearRegression())),
        ("binary", "log_loss", LogisticRegression()),
        ("binary", "exponential", GaussianNB()),
        ("multiclass", "log_loss", LogisticRegression()),
        ("binary", "log_loss", DummyClassifier(strategy="uniform")),
    ],
)
@pytest.mark.parametrize("stops", [False, True])
def test_initial_estimators(task, loss, init, stops):
    X, y = rows(4, 160, task)
    early = {"n_iter_no_change": 3, "random_state": 2} if stops else {}
    model = estimator("gb", task, loss=loss, init=init, n_estimators=8, **early).fit(X, y)
    check_parity(model, X)
    start = getattr(model.init_, "predict_proba", model.init_.predict)(X.to_numpy(np.float32))
    start = LINKS[loss](np.asarray(start, dtype=np.float64))
    assert leaf_error(model, X, y, start=start) <= 1e-6, "trees start from the init estimator"
    run = trace(model, X, y)
    assert run.replay.error.largest <= 1e-6
    again = run.adapter.refit(X, y, None)
    np.testing.assert_array_equal(
        run.adapter.offset(run.adapter.features(X)).shape, again.offset(again.features(X)).shape
    )


def test_influence_holds_the_initial_estimator_fixed():
    X, y = rows(4, 60, "regression")
    model = GradientBoostingRegressor(init=LinearRegression(), n_estimators=4).fit(X, y)
    fixed = model.init_.predict(X.to_numpy(np.float32))
    values = LeafInfluence().fit(trace(model, X, y)).explain(X, y).values
    on_residuals = GradientBoostingRegressor(init="zero", n_estimators=4).fit(X, y - fixed)
    run = trace(on_residuals, X, y - fixed)
    expected = LeafInfluence().fit(run).explain(X, y - fixed).values
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-12)


def test_random_initial_estimator_is_refused():
    X, y = rows(4, 60, "binary")
    model = GradientBoostingClassifier(init=DummyClassifier(strategy="stratified")).fit(X, y)
    with pytest.raises(UnsupportedModelError, match="stratified"):
        parse(model)


@pytest.mark.parametrize("weighted", [False, True])
def test_exponential_leaves_recompute(weighted):
    X, y = rows(1, 300, "binary")
    weight = np.random.default_rng(2).integers(0, 4, 300).astype(float) if weighted else None
    model = estimator("gb", "binary", loss="exponential").fit(X, y, weight)
    check_parity(model, X)
    assert leaf_error(model, X, y, weight) <= 1e-6
    assert trace(model, X, y, weight).replay.error.largest <= 1e-6


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("params", [{"ccp_alpha": 0.005}, {"max_features": 1, "max_leaf_nodes": 4}])
def test_pruned_and_random_trees_recompute(task, params):
    X, y = rows(1, 300, task)
    model = estimator("gb", task, random_state=0, **params).fit(X, y)
    check_parity(model, X)
    assert leaf_error(model, X, y) <= 1e-6


def test_huber_is_judged_by_the_last_delta_of_the_model_explained():
    X, y = rows(4, 120, "regression")
    few = {"loss": "huber", "alpha": 0.7, "n_estimators": 6, "random_state": 0}
    model = GradientBoostingRegressor(**few).fit(X, y)
    before = GradientBoostingRegressor(**few | {"n_estimators": 5}).fit(X, y)
    delta = np.sort(np.abs(y - before.predict(X)))[83]  # 70 % of 120 rows, counted from 0
    run = trace(model, X, y)
    x = np.abs(y - model.predict(X))
    expected = np.where(x <= delta, x**2 / 2, delta * (x - delta / 2))
    np.testing.assert_allclose(run.losses(run.queries(X, y)), expected)
    again = run.adapter.refit(X[:60], y[:60], None)
    assert again.loss() == run.adapter.loss()
    with pytest.raises(UnsupportedModelError, match="huber"):
        LeafInfluence().fit(run)


def test_saturated_leaves():
    X, y = rows(6, 200, "binary")
    y = np.random.default_rng(0).permutation(y)
    model = GradientBoostingClassifier(learning_rate=1.5, n_estimators=60, random_state=0)
    assert leaf_error(model.fit(X, y), X, y) <= 1e-6
