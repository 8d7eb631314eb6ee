"""HistGradientBoosting: trees, categories, held-out rows and leaf values are the library's own."""

import inspect
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn._loss import HalfSquaredError
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from influence.errors import InputError, TrainingDataError, UnsupportedModelError
from tests.tree_influence.adapters.sklearn_oracle import (
    TASKS,
    check_parity,
    decision,
    encoded,
    estimator,
    leaf_error,
    on_thresholds,
    rows,
)
from tree_influence import trace
from tree_influence.adapters import parse

pytestmark = pytest.mark.filterwarnings("error")
SEEDS = st.integers(0, 10_000)


@given(SEEDS, st.sampled_from(TASKS), st.sampled_from([0, 3, 40]), st.sampled_from([0, 0.2, 0.6]))
def test_parity(seed, task, categories, missing):
    X, y = rows(seed, 150, task, categories=categories, missing=missing)
    model = estimator("hist", task, max_iter=4, min_samples_leaf=3).fit(X, y)
    check_parity(model, X)
    rng = np.random.default_rng(seed)
    fresh = rows(seed + 1, 80, task, categories=categories + 2, missing=0.3)[0]
    for name in ("x0", "x1", "x2"):
        fresh[name] = on_thresholds(parse(model), rng, 80, 1)[:, 0]
    fresh.iloc[0, 0], fresh.iloc[1, 0], fresh.iloc[2, 0] = np.inf, -np.inf, np.nan
    check_parity(model, fresh[X.columns])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("categories", [0, 12])
@pytest.mark.parametrize("weighted", [False, True])
def test_default_leaves_recompute(task, categories, weighted):
    X, y = rows(1, 400, task, categories=categories, missing=0.1)
    weight = np.random.default_rng(2).integers(0, 4, 400).astype(float) if weighted else None
    model = estimator("hist", task).fit(X, y, weight)
    assert leaf_error(model, X, y, weight) <= 1e-5, "Hessian factor, one-leaf trees or weights"


@pytest.mark.parametrize("loss", ["poisson", "gamma"])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_on_the_log_scale_recompute(loss, weighted):
    X, y = rows(1, 400, "regression", categories=5, missing=0.1)
    y = np.exp(y)
    weight = np.random.default_rng(2).integers(0, 4, 400).astype(float) if weighted else None
    params = {"l2_regularization": 2.0, "max_iter": 30}
    model = estimator("hist", "regression", loss=loss, **params).fit(X, y, weight)
    adapter = parse(model)
    leaves = adapter.leaves(adapter.features(X))
    np.testing.assert_allclose(np.exp(adapter.ensemble.raw(leaves)[:, 0]), model.predict(X))
    assert leaf_error(model, X, y, weight) <= 1e-5
    assert trace(model, X, y, weight).replay.error.largest <= 1e-4


@pytest.mark.parametrize(
    "params", [{"interaction_cst": "no_interactions"}, {"max_features": 0.5}, {"max_depth": 2}]
)
def test_settings_of_the_structure_leave_leaves_exact(params):
    X, y = rows(1, 300, "multiclass", categories=5, missing=0.1)
    model = HistGradientBoostingClassifier(max_iter=5, random_state=0, **params).fit(X, y)
    check_parity(model, X)
    assert leaf_error(model, X, y) <= 1e-5


def test_custom_losses_are_refused():
    X, y = rows(4, 90, "regression")
    model = HistGradientBoostingRegressor(loss=HalfSquaredError(), max_iter=2).fit(X, y)
    check_parity(model, X)
    with pytest.raises(UnsupportedModelError, match="HalfSquaredError"):
        parse(model).loss()


def test_sparse_rows_are_refused():
    X, y = rows(4, 90, "regression")
    adapter = parse(HistGradientBoostingRegressor(max_iter=2).fit(X, y))
    with pytest.raises(InputError, match=r"sparse.*toarray"):
        adapter.features(csr_array(X.to_numpy()))


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1.0, 1: 5.0}])
def test_l2_and_class_weight(class_weight):
    X, y = rows(2, 400, "binary")
    weight = np.random.default_rng(2).random(400)
    params = {"class_weight": class_weight, "l2_regularization": 3.0, "learning_rate": 0.3}
    model = HistGradientBoostingClassifier(**params).fit(X, (y == "yes") + 0, weight)
    assert leaf_error(model, X, (y == "yes") + 0, weight) <= 1e-5


@pytest.mark.parametrize("task", TASKS)
def test_early_stopping_is_on_beyond_10000_rows(task):
    X, y = rows(3, 10_500, task, categories=5)
    weight = np.random.default_rng(2).random(len(X))
    params = {} if task == "regression" else {"class_weight": "balanced"}
    model = estimator("hist", task, max_iter=8, n_iter_no_change=2, **params).fit(X, y, weight)
    assert model.do_early_stopping_
    assert leaf_error(model, X, y, weight) <= 1e-5, "another split than the library's"
    adapter = parse(model)
    with pytest.raises(TrainingDataError, match="held out"):
        adapter.row_weights(encoded(adapter, y[:9000]), None)


def test_early_stopping_on_rows_of_its_own():
    if "X_val" not in inspect.signature(HistGradientBoostingRegressor.fit).parameters:
        pytest.skip("scikit-learn before 1.7 takes no validation rows")
    X, y = rows(3, 600, "regression")
    model = estimator("hist", "regression", early_stopping=True, max_iter=5)
    model.fit(X[:500], y[:500], X_val=X[500:], y_val=y[500:])
    assert leaf_error(model, X[:500], y[:500]) <= 1e-5, "rows given to fit were held out"


def test_bounds_are_named_and_neutral_ones_are_not():
    X, y = rows(4, 200, "regression")
    for constraint, expected in [(1, ("monotonic_cst",)), (0, ())]:
        model = HistGradientBoostingRegressor(monotonic_cst={"x0": constraint}).fit(X, y)
        adapter = parse(model)
        recipe = adapter.recipe(adapter.leaves(adapter.features(X)), y, np.ones(len(y)))
        assert recipe.inexact_because == expected


def test_category_that_prediction_loses_is_named():
    # scikit-learn predicts a single category against missing values from an empty bitset.
    rng = np.random.default_rng(0)
    absent = rng.random(200) < 0.5
    X = pd.DataFrame({"only": pd.Categorical([None if gone else "a" for gone in absent])})
    for sign in (1, -1):
        y = sign * absent + 0.1 * rng.normal(size=200)
        model = HistGradientBoostingRegressor(max_iter=3).fit(X, y)
        check_parity(model, X)
        adapter = parse(model)
        recipe = adapter.recipe(adapter.leaves(adapter.features(X)), y, np.ones(200))
        assert bool(recipe.inexact_because) == (leaf_error(model, X, y) > 1e-5)


def test_trees_of_one_leaf_stay_at_zero():
    y = np.repeat([0, 1, 2], [20, 25, 30])
    X = y[:, None].astype(float)
    model = HistGradientBoostingClassifier(learning_rate=1.0, max_iter=30).fit(X, y)
    assert parse(model).ensemble.leaf_counts[-1] == 1  # too little Hessian left to split
    check_parity(model, X)
    assert leaf_error(model, X, y) <= 1e-5, "a tree without a split was given its Newton value"
    model = HistGradientBoostingClassifier(max_iter=3).fit(X[::2], y[::2])  # too few rows
    check_parity(model, X)
    assert leaf_error(model, X[::2], y[::2]) == 0


@pytest.mark.parametrize("params", [{}, {"categorical_features": ["word", "flag", "number"]}])
def test_csv_columns_are_matched_by_value(params):
    X, y = rows(5, 300, "binary", categories=6, missing=0.2)
    X["flag"] = pd.Categorical(np.random.default_rng(0).random(300) < 0.5)
    X["digits"] = X["number"].astype(object).map(lambda v: f"{v:g}", na_action="ignore")
    X["digits"] = X["digits"].astype("category")  # strings that a file reads as numbers
    if params:
        X = X.drop(columns="digits")
    model = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5, **params).fit(X, y)
    adapter = parse(model)
    expected = adapter.features(X)
    read = pd.read_csv(io.StringIO(X.to_csv(index=False)))
    assert str(read["number"].dtype) == "float64" and str(read["word"].dtype) != "category"
    np.testing.assert_array_equal(adapter.features(read), expected)
    np.testing.assert_array_equal(adapter.features(read.astype(object)), expected)
    text = read["number"].map(lambda v: f"{v:g}", na_action="ignore").fillna("none")
    np.testing.assert_array_equal(adapter.features(read.assign(number=text)), expected)
    unknown = adapter.features(read.assign(word="never seen"))
    assert np.isnan(unknown[:, 0]).all(), "an unknown category counts as missing"
    again = adapter.refit(read, y, None)
    np.testing.assert_array_equal(again.library_raw(again.features(read)), decision(model, X))


def test_arrays_with_categorical_columns():
    X, y = rows(6, 200, "regression", categories=4)
    mixed = X[["x0", "word", "x1"]].to_numpy()
    model = estimator("hist", "regression", max_iter=3, categorical_features=[1]).fit(mixed, y)
    check_parity(model, mixed)
    assert leaf_error(model, mixed, y) <= 1e-5


def test_single_class_is_refused():
    model = HistGradientBoostingClassifier(max_iter=2).fit(np.ones((50, 1)), np.zeros(50))
    with pytest.raises(UnsupportedModelError, match="two classes"):
        parse(model)
