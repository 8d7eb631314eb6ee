"""Leave-one-out against fitting the libraries by hand without each row."""

import joblib
import numpy as np
import pytest
from sklearn import ensemble

from influence import Relabelled, Reordered, Reweighted, Without
from influence.errors import InputError, UnsupportedChangeError
from tests.tree_influence import models
from tree_influence import retrainer, trace
from tree_influence.loo import LOO

ZERO = 4  # position of the row of weight 0


def loss(task, model, X, y):
    """From the library's own predictions."""
    if task == "squared":
        return 0.5 * (model.predict(X).ravel() - y) ** 2
    return -np.log(model.predict_proba(X)[np.arange(len(y)), y])


def by_hand(task, fitted, asked, rows):
    """Effects of leaving out each of the rows; a row of weight 0 is in no table.

    With it the libraries would place their borders elsewhere.
    """
    weighted = np.flatnonzero(fitted.weight)

    def losses(kept):
        model = type(fitted.model)(**fitted.model.get_params())
        model.fit(fitted.X[kept], fitted.y[kept], sample_weight=fitted.weight[kept])
        return loss(task, model, *asked)

    before = losses(weighted)
    return np.array([losses(weighted[weighted != row]) - before for row in rows])


@pytest.fixture(scope="module", params=models.LIBRARIES)
def library(request):
    return request.param


@pytest.fixture(scope="module", params=models.TASKS)
def case(request, library):
    fitted = models.fit(library, request.param, n_train=24)
    fitted.weight[ZERO] = 0.0
    fitted.model.fit(fitted.X, fitted.y, sample_weight=fitted.weight)
    return request.param, fitted, trace(fitted.model, fitted.X, fitted.y, fitted.weight)


def test_every_row_is_really_left_out(case):
    task, fitted, run = case
    rows = [i for i in range(24) if i != ZERO]
    expected = by_hand(task, fitted, (fitted.X_test, fitted.y_test), rows)
    found = LOO().fit(run).explain(fitted.X_test, fitted.y_test, n_jobs=1, progress=False)
    np.testing.assert_allclose(found.values[rows], expected, rtol=1e-4, atol=2e-6)
    np.testing.assert_array_equal(found.values[ZERO], 0.0)
    assert found.provenance.unit == "loss"


def test_self_influence_is_the_diagonal():
    fitted = models.fit("sklearn_gb", "logistic", n_train=24)
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    expected = by_hand("logistic", fitted, (fitted.X, fitted.y), range(24))
    found = LOO().fit(run).self_influence(n_jobs=1, progress=False)
    np.testing.assert_allclose(found, np.diagonal(expected), rtol=1e-6, atol=1e-9)


def test_any_change_is_really_trained():
    fitted = models.fit("sklearn_gb", "logistic")
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    asked = fitted.X_test, fitted.y_test
    retrain, estimator = retrainer(run, *asked), LOO().fit(run)
    double = np.where(np.arange(40) < 5, 2.0, 1.0)
    for change in (Without([1, 7, 9]), Reweighted(double), Relabelled([3], [1 - fitted.y[3]])):
        np.testing.assert_array_equal(estimator.predict(change, *asked), retrain(change))
    with pytest.raises(UnsupportedChangeError, match="order"):
        estimator.predict(Reordered([0, 1]), *asked)


def test_a_forest_and_two_workers():
    X, y, X_test, y_test = models.make_data("squared", n_train=12)
    kind = {"n_estimators": 4, "max_depth": 3, "random_state": 0}
    model = ensemble.RandomForestRegressor(**kind).fit(X, y)
    with joblib.parallel_config("threading", n_jobs=2):
        found = LOO().fit(model, X, y).explain(X_test, y_test, progress=False)
    for row in range(12):
        again = ensemble.RandomForestRegressor(**kind).fit(np.delete(X, row, 0), np.delete(y, row))
        expected = loss("squared", again, X_test, y_test) - loss("squared", model, X_test, y_test)
        np.testing.assert_allclose(found.values[row], expected, rtol=1e-8, atol=1e-12)


def test_the_only_row_of_a_class_cannot_be_left_out():
    X, y, _, _ = models.make_data("logistic")
    names = np.where(y == 1, "yes", "no").astype(object)
    names[3] = "maybe"
    model = models.make("sklearn_gb", "softmax", 2).fit(X, names)
    with pytest.raises(InputError, match="class 'maybe' has 1"):
        LOO().fit(model, X, names)


def test_a_class_without_rows_stands_in_no_row_s_way():
    import lightgbm

    X, y, X_test, y_test = models.make_data("logistic")
    params = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1}
    run = trace(lightgbm.train(params, lightgbm.Dataset(X, y), 2), X, y)
    effect = LOO().fit(run).predict(Without([3]), X_test, y_test)
    after, before = (
        -np.log(lightgbm.train(params, rows, 2).predict(X_test)[np.arange(len(y_test)), y_test])
        for rows in (lightgbm.Dataset(np.delete(X, 3, 0), np.delete(y, 3)), lightgbm.Dataset(X, y))
    )
    np.testing.assert_allclose(effect, after - before, atol=1e-9)
