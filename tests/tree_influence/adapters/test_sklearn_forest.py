"""Forests: trees, missing values and predictions are the library's own; influence is refused."""

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.ensemble import ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor

from influence import Without
from influence.errors import InputError, UnsupportedModelError
from tests.tree_influence.adapters.sklearn_oracle import (
    TASKS,
    check_parity,
    decision,
    encoded,
    estimator,
    on_thresholds,
    rows,
)
from tree_influence import BoostIn, LeafInfluence, retrainer, trace
from tree_influence.adapters import load, parse

pytestmark = pytest.mark.filterwarnings("error")
SEEDS = st.integers(0, 10_000)
KINDS = ["forest", "extra"]


@given(SEEDS, st.sampled_from(KINDS), st.sampled_from(TASKS), st.sampled_from([0, 0.3]),
       st.integers(1, 7), st.booleans())  # fmt: skip
def test_parity(seed, kind, task, missing, n_trees, bootstrap):
    X, y = rows(seed, 90, task, missing=missing)
    params = {"n_estimators": n_trees, "bootstrap": bootstrap, "random_state": seed}
    model = estimator(kind, task, max_leaf_nodes=2 + seed % 30, **params)
    try:
        check_parity(model.fit(X, y), X)
    except ValueError as refused:  # scikit-learn 1.6: no missing values in ExtraTreesRegressor
        assert (kind, task) == ("extra", "regression") and "NaN" in str(refused)
        return
    rng = np.random.default_rng(seed)
    fresh = on_thresholds(parse(model), rng, 60, X.shape[1])
    check_parity(model, pd.DataFrame(fresh, columns=X.columns))
    if (kind, task) != ("extra", "regression"):
        fresh[rng.random(fresh.shape) < 0.2] = np.nan  # also where training had none missing
        check_parity(model, pd.DataFrame(fresh, columns=X.columns))


@given(SEEDS, st.sampled_from(KINDS), st.sampled_from(TASKS[1:]), st.integers(1, 12))
def test_predictions_of_equally_likely_classes(seed, kind, task, n_trees):
    X, y = rows(seed, 60, task)
    y = np.random.default_rng(seed).permutation(y)
    model = estimator(kind, task, n_estimators=n_trees, random_state=seed).fit(X, y)
    fresh = rows(seed + 1, 60, task)[0]
    np.testing.assert_array_equal(trace(model, X, y).predictions(fresh), model.predict(fresh))


CRITERIA = [
    ("regression", "squared_error"), ("regression", "poisson"),
    ("regression", "absolute_error"), ("binary", "entropy"), ("multiclass", "log_loss"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "criterion"), CRITERIA)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_by_criterion(kind, task, criterion):
    X, y = rows(2, 80, task)
    y = np.exp(y) if criterion == "poisson" else y
    model = estimator(kind, task, criterion=criterion, n_estimators=4, random_state=0).fit(X, y)
    check_parity(model, X)
    run, said = trace(model, X, y), decision(model, X)
    if task != "regression":
        own = said[np.arange(80), encoded(run.adapter, y).astype(int)]
        expected = -np.log(np.maximum(own, np.finfo(float).eps))
    elif criterion == "absolute_error":
        expected = np.abs(said[:, 0] - y)
    else:
        expected = (said[:, 0] - y) ** 2 / 2
    np.testing.assert_allclose(run.losses(run.train_queries()), expected, atol=1e-12)


@pytest.mark.parametrize(
    "params", [{}, {"criterion": "absolute_error"}, {"monotonic_cst": [1, 0, 0]}]
)
def test_missing_values_are_refused_where_the_library_does(params):
    X, y = rows(3, 80, "regression")
    model = RandomForestRegressor(n_estimators=2, **params).fit(X, y)
    adapter, gone = parse(model), X.assign(x1=np.nan)
    try:
        model.predict(gone)
    except ValueError:
        assert params, "a plain forest takes missing values"
        with pytest.raises(InputError, match="row 0 has nan in column x1"):
            adapter.features(gone)
    else:
        check_parity(model, gone)
    with pytest.raises(InputError, match="row 0 has inf in column x1"):
        adapter.features(X.assign(x1=np.inf))
    with pytest.raises(InputError, match="row 0 has nan"):
        adapter.features(csr_array(gone.to_numpy()))


def test_several_targets():
    X, y = rows(4, 90, "regression")
    targets = np.column_stack([y, 3 * y**2])
    model = ExtraTreesRegressor(n_estimators=5, bootstrap=True, random_state=0).fit(X, targets)
    check_parity(model, X)
    run = trace(model, X, targets)
    expected = ((model.predict(X) - targets) ** 2 / 2).sum(axis=1)
    np.testing.assert_allclose(run.losses(run.train_queries()), expected, atol=1e-12)
    np.testing.assert_allclose(run.predictions(X), model.predict(X))
    assert np.abs(retrainer(run, X, targets)(Without([0]))).max() > 0


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("sparse", [False, True])
def test_retraining_is_the_librarys(task, sparse):
    X, y = rows(5, 90, task)
    X = csr_array(X.to_numpy()) if sparse else X
    params = {"n_estimators": 6, "random_state": 1, "oob_score": False}
    model = estimator("forest", task, **params).fit(X, y)
    run = trace(model, X, y)
    found = retrainer(run, X, y)(Without([3, 4]))
    kept = np.delete(np.arange(90), [3, 4])
    other = estimator("forest", task, **params)
    other.fit(X[kept] if sparse else X.iloc[kept], y[kept])
    judge = run.adapter.loss()
    target = encoded(run.adapter, y)
    expected = judge.value(target, decision(other, X)) - judge.value(target, decision(model, X))
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("bootstrap", "class_weight", "expected"),
    [
        (True, None, [1, 1]),
        (True, {"no": 2.0, "yes": 0.5}, [2, 0.5]),
        (True, "balanced", [90 / 60, 90 / 120]),
        (True, "balanced_subsample", [1, 1]),
        (False, "balanced_subsample", [90 / 60, 90 / 120]),
    ],
)
def test_class_weights(bootstrap, class_weight, expected):
    X, _ = rows(6, 90, "binary")
    y = np.repeat(["no", "yes"], [30, 60])
    model = RandomForestClassifier(n_estimators=2, bootstrap=bootstrap, class_weight=class_weight)
    adapter = parse(model.fit(X, y))
    weight = np.random.default_rng(0).random(90)
    found = adapter.row_weights(encoded(adapter, y), weight) / weight
    np.testing.assert_allclose(found, np.repeat(expected, [30, 60]))


@pytest.mark.parametrize("estimate", [LeafInfluence, BoostIn])
def test_influence_is_refused_and_says_what_answers(estimate):
    X, y = rows(7, 60, "multiclass")
    run = trace(RandomForestClassifier(n_estimators=3).fit(X, y), X, y)
    with pytest.raises(
        UnsupportedModelError, match=r"RandomForestClassifier.*TreeSim and retraining"
    ):
        estimate().fit(run)


def test_warm_start_adds_trees():
    X, y = rows(8, 60, "regression")
    model = RandomForestRegressor(n_estimators=2, warm_start=True, random_state=0).fit(X, y)
    model.set_params(n_estimators=5).fit(X, y)
    check_parity(model, X)
    again = parse(model).refit(X, y, None)
    np.testing.assert_array_equal(decision(model, X), again.library_raw(again.features(X)))


def test_classes_that_cannot_be_answered():
    X, y = rows(9, 60, "binary")
    with pytest.raises(UnsupportedModelError, match="one forest for each"):
        parse(RandomForestClassifier(n_estimators=2).fit(X, np.column_stack([y, y[::-1]])))
    with pytest.raises(UnsupportedModelError, match="two classes"):
        parse(RandomForestClassifier(n_estimators=2).fit(X, np.zeros(60)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", TASKS)
def test_saved_forest(kind, task, tmp_path):
    X, y = rows(10, 90, task)
    model = estimator(kind, task, n_estimators=3).fit(X, y)
    skops.io.dump(model, tmp_path / "model.skops")
    loaded = load(tmp_path / "model.skops")
    np.testing.assert_array_equal(decision(loaded, X), decision(model, X))
    check_parity(loaded, X)
