"""Real retraining: what it must reproduce, and how the estimators agree with it."""

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from influence import Relabelled, Reordered, Reweighted, Without, agreement, leave_one_out
from influence.errors import InputError, RetrainingError, UnsupportedChangeError
from tests.tree_influence import models
from tree_influence import LeafInfluence, retrainer, trace


@pytest.fixture(scope="module", params=models.LIBRARIES)
def fitted(request):
    return models.fit(request.param, "logistic", n_trees=5)


def losses(model, X, y):
    p = model.predict_proba(X)[np.arange(len(y)), y]
    return -np.log(p)


def test_changing_nothing_has_no_effect(fitted):
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    retrain = retrainer(run, fitted.X_test, fitted.y_test)
    np.testing.assert_array_equal(retrain(Without([])), 0.0)
    as_trained = run.losses(run.queries(fitted.X_test, fitted.y_test))
    np.testing.assert_allclose(retrain.base, as_trained, rtol=1e-5)


def test_effects_are_those_of_fitting_by_hand(fitted):
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    retrain = retrainer(run, fitted.X_test, fitted.y_test)
    new = 1 - fitted.y[:2]
    flipped = fitted.y.copy()
    flipped[:2] = new
    double = np.ones(len(fitted.y))
    double[4:8] = 2.0
    for change, X, y, weight in (
        (Without([1, 5]), np.delete(fitted.X, [1, 5], 0), *_without(fitted, [1, 5])),
        (Relabelled([0, 1], new), fitted.X, flipped, fitted.weight),
        (Reweighted(double), fitted.X, fitted.y, fitted.weight * double),
    ):
        model = type(fitted.model)(**fitted.model.get_params())
        model.fit(X, y, sample_weight=weight)
        expected = losses(model, fitted.X_test, fitted.y_test) - losses(
            fitted.model, fitted.X_test, fitted.y_test
        )
        np.testing.assert_allclose(retrain(change), expected, rtol=1e-4, atol=1e-5)


def _without(fitted, rows):
    return np.delete(fitted.y, rows), np.delete(fitted.weight, rows)


def test_an_order_cannot_be_changed(fitted):
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    retrain = retrainer(run, fitted.X_test, fitted.y_test)
    with pytest.raises(UnsupportedChangeError, match="Relabelled"):
        retrain(Reordered([0, 1]))


def test_labels_the_model_does_not_know_are_refused(fitted):
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    retrain = retrainer(run, fitted.X_test, fitted.y_test)
    for unknown in (2, "1"):
        with pytest.raises(InputError, match="none of the model's classes"):
            retrain(Relabelled([0], [unknown]))
    np.testing.assert_array_equal(retrain(Relabelled([0], fitted.y[:1])), 0.0)


def test_a_pipeline_is_retrained_as_a_whole():
    X, y, X_test, y_test = models.make_data("logistic")
    pipeline = make_pipeline(StandardScaler(), models.make("sklearn_gb", "logistic", 5)).fit(X, y)
    run = trace(pipeline, X, y)
    again = make_pipeline(StandardScaler(), models.make("sklearn_gb", "logistic", 5))
    again.fit(X[3:], y[3:])
    expected = losses(again, X_test, y_test) - losses(pipeline, X_test, y_test)
    np.testing.assert_allclose(retrainer(run, X_test, y_test)(Without([0, 1, 2])), expected)


def test_string_labels_of_a_native_booster():
    import lightgbm

    X, y, X_test, y_test = models.make_data("logistic")
    params = {"objective": "binary", "verbose": -1, "min_data_in_leaf": 3}
    booster = lightgbm.train(params, lightgbm.Dataset(X, y), 5)
    names = np.array(["no", "yes"])
    run = trace(booster, X, names[y])
    assert list(run.classes) == ["no", "yes"]
    by_name = retrainer(run, X_test, names[y_test])(Without([2]))
    by_number = retrainer(trace(booster, X, y), X_test, y_test)(Without([2]))
    np.testing.assert_array_equal(by_name, by_number)


def test_leaf_influence_agrees_with_leave_one_out_where_splits_stay():
    """On a model whose splits cannot move, single rows have the effect the derivative says."""
    rng = np.random.default_rng(0)
    X = np.repeat(np.eye(2), 60, axis=0)[:, :1]
    y = X[:, 0] + rng.normal(size=len(X)) * 0.3
    model = models.make("sklearn_gb", "squared", 30).fit(X, y)
    run = trace(model, X, y)
    asked = np.array([[0.0], [1.0]]), np.array([0.5, 0.7])
    influence = LeafInfluence().fit(run).explain(*asked)
    found = agreement(
        influence.predict, retrainer(run, *asked), leave_one_out(len(y)), progress=False
    )
    assert (found.pearson > 0.999).all(), found
    np.testing.assert_allclose(found.slope, 1.0, atol=0.1)


def test_no_run_and_no_change_are_named():
    fitted = models.fit("lightgbm", "squared")
    asked = fitted.X_test, fitted.y_test
    with pytest.raises(InputError, match=r"trace\(model, X_train, y_train\), got a LGBMRegressor"):
        retrainer(fitted.model, *asked)
    retrain = retrainer(trace(fitted.model, fitted.X, fitted.y, fitted.weight), *asked)
    for nothing, kind in (([1, 2], "list"), (None, "NoneType")):
        with pytest.raises(UnsupportedChangeError, match=f"such as Without.*, got a {kind}"):
            retrain(nothing)


def test_new_labels_may_be_booleans_where_the_training_labels_were():
    X, y, X_test, y_test = models.make_data("logistic")
    labels = y > 0
    run = trace(models.make("xgboost", "logistic", 3).fit(X, labels), X, labels)
    retrain = retrainer(run, X_test, y_test > 0)
    as_numbers = retrain(Relabelled([0, 3], 1 - y[[0, 3]]))
    np.testing.assert_array_equal(retrain(Relabelled([0, 3], ~labels[[0, 3]])), as_numbers)


def test_what_the_library_refuses_to_train_on_is_named():
    X, y, X_test, y_test = models.make_data("logistic")
    model = models.make("lightgbm", "squared", 3).set_params(objective="poisson").fit(X, y)
    retrain = retrainer(trace(model, X, y), X_test, y_test)
    with pytest.raises(RetrainingError, match=r"refuses: LightGBMError: .*negative"):
        retrain(Relabelled([0], [-1.0]))
