"""XGBoost's leaf values recomputed from the training rows; lambda and eta found out; refits."""

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from xgboost.callback import LearningRateScheduler

from influence.errors import (
    MissingParameterError,
    TrainingDataError,
)
from tests.tree_influence.adapters.xgboost_oracle import (
    OBJECTIVES,
    VERSION,
    booster_of,
    fit,
    leaf_error,
    make_model,
    make_table,
    target_of,
)
from tree_influence import BoostIn, trace
from tree_influence.adapters import parse

EXACT = 1e-5  # XGBoost rounds gradients to float32


def saved_and_loaded(model):
    return xgboost.Booster(model_file=booster_of(model).save_raw())


def recipe_of(model, table, y, weight=None, params=None):
    recipe, error = leaf_error(model, table, y, weight, params)
    assert error < EXACT, "start, shrinkage, lambda or Hessian factor of these leaves"
    assert recipe.inexact_because == ()
    return recipe


@given(
    objective=st.sampled_from(OBJECTIVES), seed=st.integers(0, 9999), weighted=st.booleans(),
    reg_lambda=st.sampled_from([None, 0, 2.5, 100]), learning_rate=st.sampled_from([None, 0.07, 1]),
    max_cat_to_onehot=st.sampled_from([1, 8]), base_score=st.sampled_from([None, 0.3]),
    colsample_bytree=st.sampled_from([0.5, 1]), gamma=st.sampled_from([0, 0.3]),
)  # fmt: skip
def test_leaves_recompute(objective, seed, weighted, **params):
    model, table, y, weight = fit(objective, seed, weighted=weighted, **params)
    recipe_of(model, table, y, weight)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("weighted", [False, True])
def test_default_models_recompute(objective, weighted):
    model, table, y, weight = fit(objective, n=600, weighted=weighted, n_estimators=100)
    recipe = recipe_of(model, table, y, weight)
    assert set(recipe.l2) == {1.0}
    assert trace(model, table, y, weight).replay.error.largest < 1e-4


@pytest.mark.parametrize("objective", ["binary:logistic", "binary:logitraw", "reg:squarederror"])
def test_scale_pos_weight_is_in_the_file(objective):
    """It weighs rows of label 1, also of squared error."""
    table, score = make_table(2)
    y = (score > 0).astype(int) if objective.startswith("binary") else np.round(score)
    model = make_model(objective, scale_pos_weight=3.0).fit(table, y)
    for found in (model, saved_and_loaded(model)):
        recipe_of(found, table, y)
        target = np.asarray(y, dtype=np.float64)
        weights = parse(found).row_weights(target, None)
        np.testing.assert_array_equal(weights, np.where(y == 1, 3.0, 1.0))


@pytest.mark.parametrize("params", [{}, {"min_child_weight": 5}])
def test_trees_below_min_child_weight_are_held_at_zero(params):
    """Where a class is so rare that its root holds less Hessian, XGBoost stores the leaf 0."""
    table, score = make_table(0)
    y = (score > 0).astype(int)
    y[:2] = 2
    weight = np.full(len(y), 0.2)
    model = make_model("multi:softprob", n_estimators=10, **params).fit(
        table, y, sample_weight=weight
    )
    for found, told in ((model, {}), (saved_and_loaded(model), params)):
        recipe = recipe_of(found, table, y, weight, told)
        ensemble = parse(found).ensemble
        at_zero = ensemble.leaf_value[:, 0] == 0
        assert at_zero.any() or VERSION != (3, 2), "other versions store the Newton value"
        np.testing.assert_array_equal(recipe.l2 == np.inf, at_zero)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_constant_targets_recompute(objective):
    if objective == "binary:logistic" and VERSION < (3, 2):
        pytest.skip("before 3.2 it refuses labels of one class")
    table, _ = make_table(4)
    y = np.ones(len(table))
    classes = {"num_class": 3} if objective.startswith("multi") else {}
    rows = xgboost.DMatrix(table, y, enable_categorical=True)
    booster = xgboost.train({"objective": objective, **classes}, rows, 3)
    _, error = leaf_error(booster, table, y)
    assert error < 0.05, "XGBoost's float32 cannot hold these gradients any better"
    if objective == "reg:squarederror":
        recipe_of(saved_and_loaded(booster), table, y)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("l2", "rate", "depth"),
    [(1, 0.3, 6), (7, 0.2, 6), (0, 1, 6), (0.04, 0.013, 3), (12.345, 0.5, 6), (2, 0.3, 1)],
)
def test_lambda_and_eta_are_solved_for(objective, weighted, l2, rate, depth):
    model, table, y, weight = fit(
        objective, 1, 400, weighted, reg_lambda=l2, learning_rate=rate, max_depth=depth,
        n_estimators=12,
    )  # fmt: skip
    live = recipe_of(model, table, y, weight)
    for params in ({}, {"reg_lambda": l2}, {"eta": rate}, {"lambda": l2, "learning_rate": rate}):
        found = recipe_of(saved_and_loaded(model), table, y, weight, params)
        np.testing.assert_allclose(found.l2, live.l2, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.learning_rate, live.learning_rate, rtol=1e-5)


def test_defaults_are_not_believed_where_others_fit_much_better():
    """In large leaves lambda 1 and 1.02 differ by less than counts as a fit."""
    model, table, y, _ = fit("reg:squarederror", 1, 3000, reg_lambda=1.02, max_depth=2)
    np.testing.assert_allclose(recipe_of(saved_and_loaded(model), table, y).l2, 1.02, rtol=1e-4)


def test_an_estimator_that_was_saved_and_loaded():
    model, table, y, _ = fit("binary:logistic", reg_lambda=7)
    loaded = make_model("binary:logistic")
    loaded.load_model(booster_of(model).save_raw())
    assert set(recipe_of(loaded, table, y).l2) == {7.0}


def test_live_models_are_believed():
    """Wrong rows, or a setting that the formula leaves out, do not make its parameters unknown."""
    model, table, y, _ = fit("reg:squarederror", reg_lambda=7, learning_rate=0.2)
    for found in (model, booster_of(model), booster_of(model).copy()):
        recipe, error = leaf_error(found, table, y[::-1])
        assert error > 0.1
        assert set(recipe.l2) == {7.0}


def test_files_whose_leaves_tell_nothing_ask_for_parameters():
    model, table, y, _ = fit("reg:squarederror", 1, 300, subsample=0.9, reg_lambda=3)
    loaded = saved_and_loaded(model)
    with pytest.raises(MissingParameterError, match=r"params=.'reg_lambda'.*--param reg_lambda=1"):
        leaf_error(loaded, table, y)
    with pytest.raises(MissingParameterError):
        leaf_error(loaded, table, y, params={"reg_lambda": 3})
    told = {"reg_lambda": 3, "learning_rate": 0.3, "subsample": 0.9}
    assert trace(loaded, table, y, params=told).replay.recipe.inexact_because == ("subsample",)
    wrong = {"reg_lambda": 30, "learning_rate": 0.3}
    with pytest.raises(TrainingDataError):
        trace(loaded, table, y, params=wrong)


def test_leaves_of_equal_size_do_not_tell_lambda_from_eta():
    X = np.repeat([[0.0], [1.0]], 20, axis=0)
    y = X[:, 0] + np.tile([0.1, -0.1], 20)
    booster = xgboost.train({"lambda": 5, "max_depth": 1}, xgboost.DMatrix(X, y), 9)
    with pytest.raises(MissingParameterError):
        leaf_error(saved_and_loaded(booster), X, y)
    assert set(recipe_of(saved_and_loaded(booster), X, y, params={"eta": 0.3}).l2) == {5.0}


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"subsample": 0.5}, "subsample"),
        ({"monotone_constraints": {"x": -1}}, "monotone_constraints"),
    ],
)
def test_settings_that_change_leaves_are_named(params, name):
    model, table, y, _ = fit("reg:squarederror", 1, **params)
    recipe, error = leaf_error(model, table, y)
    assert error > EXACT
    assert recipe.inexact_because == (name,)
    neutral = {"monotone_constraints": {"x": 0}, "reg_alpha": 0, "subsample": 1}
    recipe_of(*fit("reg:squarederror", 1, **neutral))


@pytest.mark.parametrize("bounds", ["(-1,0,0,0)", (-1, 0, 0, 0), {"x": -1}])
def test_bounds_of_a_file_are_given(bounds):
    model, table, y, _ = fit("reg:squarederror", 1, monotone_constraints={"x": -1})
    told = {"reg_lambda": 1, "eta": 0.3, "monotone_constraints": bounds}
    recipe, _ = leaf_error(saved_and_loaded(model), table, y, params=told)
    assert recipe.inexact_because == ("monotone_constraints",)
    neutral = {**told, "monotone_constraints": {"x1": 0}}
    assert leaf_error(saved_and_loaded(model), table, y, params=neutral)[0].inexact_because == ()


def test_scores_far_from_zero_are_named():
    """At a million float32 steps by 0.06, and XGBoost sums its scores in it."""
    table, score = make_table(1, 1000)
    run = trace(make_model("reg:squarederror").fit(table, score + 1e6), table, score + 1e6)
    assert run.replay.error.largest > 1e-3
    assert "float32" in run.replay.recipe.inexact_because[0]
    recipe_of(make_model("reg:squarederror").fit(table, score + 10), table, score + 10)


def test_hessians_near_zero_are_named():
    """Without lambda a leaf of sure rows divides by next to nothing, which float32 blurs."""
    table, score = make_table(3)
    y = target_of(score, "binary:logistic")
    params = {"reg_lambda": 0, "min_child_weight": 0, "learning_rate": 1.0}
    model = make_model("binary:logistic", n_estimators=60, **params).fit(table[["x", "k"]], y)
    run = trace(model, table[["x", "k"]], y)
    assert run.replay.error.largest > 1e-3
    assert run.replay.recipe.inexact_because == ("Hessians too near 0 for XGBoost's float32",)
    short = make_model("binary:logistic", n_estimators=3, **params).fit(table[["x", "k"]], y)
    assert recipe_of(short, table[["x", "k"]], y).inexact_because == ()


@pytest.mark.parametrize("rates", [[0.5, 0.4, 0.1], [0.3, 0.3, 0.1], [0.1, 0.1, 0.1]])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_learning_rate_that_changes_is_found(rates, objective):
    """The schedule sets the rate of the round after; the first has that of the model."""
    schedule = LearningRateScheduler([*rates, 0.9])
    model, table, y, weight = fit(objective, weighted=True, callbacks=[schedule], reg_lambda=2)
    for found in (model, saved_and_loaded(model)):
        recipe = recipe_of(found, table, y, weight)
        by_round = recipe.learning_rate.reshape(4, -1)
        np.testing.assert_allclose(by_round.T, np.tile([0.3, *rates], (by_round.shape[1], 1)), 1e-4)


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_file_answers_like_the_live_model(objective, suffix, tmp_path):
    model, table, y, _ = fit(objective, 1, 300, reg_lambda=7, learning_rate=0.2)
    path = tmp_path / f"model.{suffix}"
    booster_of(model).save_model(path)
    live = BoostIn().fit(model, table, y).explain(table[:5], y[:5]).values
    found = BoostIn().fit(path, table, y).explain(table[:5], y[:5]).values
    np.testing.assert_allclose(found, live, rtol=1e-5, atol=1e-6 * np.abs(live).max())
