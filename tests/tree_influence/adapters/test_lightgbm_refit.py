"""LightGBM models trained again: the same recipe on other rows."""

import lightgbm as lgb
import numpy as np
import pytest
from scipy.special import expit, softmax

from influence import Without
from influence.errors import (
    InputError,
    NotYetSupportedError,
    UnsupportedModelError,
)
from tests.tree_influence.adapters.lightgbm_rows import (
    SMALL,
    TASKS,
    estimator,
    numbers,
    positions,
    table,
)
from tree_influence import LeafInfluence, adapters, retrainer, trace
from tree_influence.adapters import parse


@pytest.mark.parametrize("task", TASKS)
def test_random_forests_are_judged_and_trained_again(task):
    """By the mean of the trees, which is what `predict` shows behind its link."""
    X, y = numbers(task)
    model = estimator(task, boosting_type="rf", subsample=0.5, subsample_freq=1).fit(X, y)
    run = trace(model, X, y)
    raw = run.adapter.ensemble.raw(run.leaves)
    if task == "regression":
        shown, expected = raw[:, 0], model.predict(X)
    elif task == "binary":
        shown, expected = expit(raw[:, 0]), model.predict_proba(X)[:, 1]
    else:
        shown, expected = softmax(raw, axis=1), model.predict_proba(X)
    np.testing.assert_allclose(shown, expected)
    with pytest.raises(UnsupportedModelError, match="boosting='rf'"):
        LeafInfluence().fit(run)
    retrain = retrainer(run, X[:5], y[:5])
    np.testing.assert_array_equal(retrain.base, run.losses(run.queries(X[:5], y[:5])))
    assert retrain(Without([3, 4, 5])).any()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("native", [False, True])
def test_refit_on_the_same_rows_gives_the_same_model(task, native, tmp_path):
    X, y = table(task)
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    params = {"learning_rate": 0.123456789, "subsample": 0.7, "subsample_freq": 1}
    model = estimator(task, random_state=3, extra_trees=True, **params).fit(X, y, weight)
    adapter = parse(model.booster_ if native else model)
    y = positions(task, y) if native else y
    refitted = adapter.refit(X, y, weight)
    np.testing.assert_array_equal(refitted.ensemble.threshold, adapter.ensemble.threshold)
    np.testing.assert_array_equal(refitted.ensemble.leaf_value, adapter.ensemble.leaf_value)
    np.testing.assert_array_equal(refitted.features(X), adapter.features(X))
    np.testing.assert_array_equal(refitted.classes, adapter.classes)
    half = refitted.refit(X.iloc[::2].astype({"town": object}), y[::2], weight[::2])
    assert half.ensemble.n_rounds == adapter.ensemble.n_rounds
    assert not np.array_equal(half.ensemble.leaf_value, adapter.ensemble.leaf_value)


def test_refit_keeps_every_setting_of_a_file(tmp_path):
    X, y = numbers("binary", missing=0)
    X[:, 1] %= 7
    params = {
        "objective": "binary", "monotone_constraints": [1, 0, -1, 0], "max_bin": 20,
        "interaction_constraints": [[0, 1], [1, 2, 3]], "is_unbalance": True, "seed": 5,
        "feature_fraction": 0.7, "zero_as_missing": True, "num_leaves": 7, "deterministic": True,
    }  # fmt: skip
    rows = lgb.Dataset(X, y == "yes", categorical_feature=[1])
    lgb.train({**SMALL, **params}, rows, 4).save_model(tmp_path / "model")
    adapter = parse(adapters.load(tmp_path / "model"))
    refitted = adapter.refit(X, positions("binary", y), None)
    np.testing.assert_array_equal(refitted.ensemble.leaf_value, adapter.ensemble.leaf_value)


def test_refit_without_a_class_is_refused():
    X, y = numbers("multiclass")
    keep = y != "b"
    with pytest.raises(InputError, match=r"none is left of \['b'\]"):
        parse(estimator("multiclass").fit(X, y)).refit(X[keep], y[keep], None)


def test_refit_without_the_schedule_of_the_learning_rate_is_refused():
    X, y = numbers("regression")
    schedule = lgb.reset_parameter(learning_rate=lambda t: 0.3 * 0.9**t)
    booster = lgb.train(SMALL, lgb.Dataset(X, y), 4, callbacks=[schedule])
    with pytest.raises(NotYetSupportedError, match="learning rate"):
        parse(booster).refit(X, y, None)


def test_refit_of_a_booster_without_its_objective_is_refused():
    X, y = numbers("regression")
    objective = lambda raw, rows: (raw - rows.get_label(), np.ones(len(raw)))  # noqa: E731
    booster = lgb.train({**SMALL, "objective": objective}, lgb.Dataset(X, y), 2)
    with pytest.raises(UnsupportedModelError, match="objective"):
        parse(booster).refit(X, y, None)


@pytest.mark.parametrize("params", [
    {"boosting_type": "dart", "drop_rate": 0.8, "skip_drop": 0.0},
    {"objective": "quantile", "alpha": 0.3},
    {"objective": "mape", "reg_sqrt": True},
])  # fmt: skip
@pytest.mark.parametrize("native", [False, True])
def test_models_without_newton_leaves_are_trained_again(params, native):
    X, y = numbers("regression")
    model = estimator("regression", **params).fit(X, y)
    run = trace(model.booster_ if native else model, X, y)
    with pytest.raises(UnsupportedModelError):
        LeafInfluence().fit(run)
    retrain = retrainer(run, X[:5], y[:5])
    np.testing.assert_array_equal(retrain.base, run.losses(run.queries(X[:5], y[:5])))
    assert retrain(Without(range(9))).any()
