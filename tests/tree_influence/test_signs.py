"""Sides of queries against naive loops over the libraries' own predictions."""

import numpy as np
import pytest

from influence.errors import UnsupportedModelError
from tests.tree_influence import models
from tree_influence import trace
from tree_influence.signs import sides

X, Y, X_TEST, Y_TEST = models.make_data("squared", n_train=40, n_test=7)
ROWS = slice(3, 31)


def asked(model, y, y_test):
    run = trace(model, X, y)
    return sides(run, run.queries(X_TEST, y_test), ROWS)


def naive(y, y_test, predicted):
    """Loops over rows, queries and columns; `predicted` of shape (n_queries, n_columns)."""
    expected = np.empty((ROWS.stop - ROWS.start, len(y_test)))
    for q in range(len(y_test)):
        for i, j in enumerate(range(ROWS.start, ROWS.stop)):
            total = 0.0
            for f, own, truth in zip(
                predicted[q],
                np.broadcast_to(y[j], predicted[q].shape),
                np.broadcast_to(y_test[q], predicted[q].shape),
                strict=True,
            ):
                total += (own - f) * (truth - f)
            expected[i, q] = 1.0 if total >= 0 else -1.0
    return expected


@pytest.mark.parametrize("library", models.LIBRARIES)
@pytest.mark.parametrize("task", ["logistic", "softmax"])
def test_rows_of_the_same_class_are_on_the_same_side(library, task):
    fitted = models.fit(library, task)
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    found = sides(run, run.queries(fitted.X_test, fitted.y_test), ROWS)
    for j in range(ROWS.start, ROWS.stop):
        for q, label in enumerate(fitted.y_test):
            assert found[j - 3, q] == (1.0 if fitted.y[j] == label else -1.0)


@pytest.mark.parametrize("library", models.LIBRARIES)
def test_numbers_are_compared_with_the_prediction(library):
    model = models.make(library, "squared", 3).fit(X, Y)
    found = asked(model, Y, Y_TEST)
    np.testing.assert_array_equal(found, naive(Y, Y_TEST, model.predict(X_TEST).reshape(-1, 1)))
    assert 0 < (found > 0).mean() < 1


def test_predictions_are_on_the_scale_of_the_target():
    """A Poisson model's raw score is a logarithm: compared with it, all counts would be above."""
    from lightgbm import LGBMRegressor

    counts, counts_test = np.round(np.exp(Y)), np.round(np.exp(Y_TEST))
    model = LGBMRegressor(
        objective="poisson", n_estimators=4, min_child_samples=3, verbose=-1, n_jobs=1
    ).fit(X, counts)
    expected = naive(counts, counts_test, model.predict(X_TEST).reshape(-1, 1))
    np.testing.assert_array_equal(asked(model, counts, counts_test), expected)
    assert (expected < 0).any()


def test_several_targets_are_summed():
    from xgboost import XGBRegressor

    both, both_test = np.column_stack([Y, X[:, 1]]), np.column_stack([Y_TEST, X_TEST[:, 1]])
    model = XGBRegressor(n_estimators=3, max_depth=2, n_jobs=1).fit(X, both)
    expected = naive(both, both_test, model.predict(X_TEST).astype(np.float64))
    np.testing.assert_array_equal(asked(model, both, both_test), expected)


@pytest.mark.parametrize(
    ("loss", "columns"), [("MultiQuantile:alpha=0.2,0.8", 2), ("RMSEWithUncertainty", 1)]
)
def test_several_outputs_of_one_target(loss, columns):
    """Quantiles are all compared; of mean and spread only the mean is."""
    from catboost import CatBoostRegressor

    model = CatBoostRegressor(
        loss_function=loss, iterations=3, depth=2, verbose=False, allow_writing_files=False,
        thread_count=1,
    ).fit(X, Y)  # fmt: skip
    predicted = model.predict(X_TEST, prediction_type="RawFormulaVal")
    expected = naive(Y, Y_TEST, predicted.reshape(len(Y_TEST), -1)[:, :columns])
    np.testing.assert_array_equal(asked(model, Y, Y_TEST), expected)


def test_relevances_are_compared_with_their_mean():
    """A ranker's scores say which row is first, and nothing on the scale of the relevances."""
    from lightgbm import LGBMRanker

    relevance, relevance_test = (np.digitize(y, [-0.5, 0.5, 1.5]) for y in (Y, Y_TEST))
    model = LGBMRanker(n_estimators=3, min_child_samples=3, verbose=-1, n_jobs=1)
    model.fit(X, relevance, group=[20, 20])
    expected = naive(relevance, relevance_test, np.full((7, 1), relevance.mean()))
    np.testing.assert_array_equal(asked(model, relevance, relevance_test), expected)
    assert (expected < 0).any()


def test_intervals_have_no_sides():
    from catboost import CatBoostRegressor

    bounds = np.exp(np.column_stack([Y, Y + 1]))
    model = CatBoostRegressor(
        loss_function="SurvivalAft", iterations=3, depth=2, verbose=False,
        allow_writing_files=False, thread_count=1,
    ).fit(X, bounds)  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="2 columns of target"):
        asked(model, bounds, np.exp(np.column_stack([Y_TEST, Y_TEST + 1])))
