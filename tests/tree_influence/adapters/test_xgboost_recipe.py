"""XGBoost's leaf values recomputed from the training rows; lambda and eta found out; refits."""

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from xgboost.callback import EarlyStopping, LearningRateScheduler

from influence import Without
from influence.errors import (
    InputError,
    MissingParameterError,
    NotYetSupportedError,
    TrainingDataError,
    UnsupportedModelError,
)
from tests.tree_influence.adapters.xgboost_oracle import (
    KNOWS_NAMES,
    OBJECTIVES,
    VERSION,
    booster_of,
    fit,
    leaf_error,
    make_model,
    make_table,
    target_of,
)
from tree_influence import BoostIn, retrainer, trace
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
        ({"reg_alpha": 0.5}, "alpha"),
        ({"max_delta_step": 0.1}, "max_delta_step"),
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


def test_a_learning_rate_that_changes_is_named():
    schedule = LearningRateScheduler([0.5, 0.4, 0.3, 0.2])
    model, table, y, _ = fit("reg:squarederror", callbacks=[schedule])
    recipe, _ = leaf_error(model, table, y)
    assert recipe.inexact_because == ("a learning rate that changes",)


def own_squared_error(target, predicted):
    return predicted - target, np.ones_like(target)


@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        ({"objective": own_squared_error}, UnsupportedModelError, "of your own"),
        ({"objective": "reg:absoluteerror"}, UnsupportedModelError, "reg:absoluteerror"),
        ({"objective": "count:poisson"}, NotYetSupportedError, "count:poisson"),
        ({"booster": "dart", "rate_drop": 0.5, "seed": 1}, UnsupportedModelError, "DART"),
        ({"num_parallel_tree": 3, "subsample": 0.7}, NotYetSupportedError, "num_parallel_tree=3"),
    ],
)
def test_leaves_of_no_known_formula_are_refused(params, error, says):
    table, score = make_table(7)
    model = make_model(**{"objective": "reg:squarederror", "n_estimators": 6, **params})
    model.fit(table[["x", "k"]], np.abs(score))
    with pytest.raises(error, match=says):
        leaf_error(model, table[["x", "k"]], np.abs(score))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"subsample": 0.6, "colsample_bytree": 0.6, "random_state": 3, "learning_rate": 0.1},
        {"base_score": 0.4, "reg_lambda": 3, "max_depth": 2, "monotone_constraints": {"x": 1}},
        {"grow_policy": "lossguide", "max_leaves": 5, "min_child_weight": 3, "max_bin": 16},
        {"scale_pos_weight": 2.5, "gamma": 0.2, "max_cat_to_onehot": 1},
        {"tree_method": "exact", "enable_categorical": False, "missing": 0.0},
    ],
)
def test_the_same_rows_train_the_same_model(objective, params):
    columns = ["x", "k"] if "tree_method" in params else None
    if objective != "binary:logistic":
        params = {name: value for name, value in params.items() if name != "scale_pos_weight"}
    model, table, y, weight = fit(objective, 3, 150, True, columns, **params)
    wordy = ("city", "zip") if columns is None and KNOWS_NAMES else ()
    text = {name: table[name].astype(object) for name in wordy}
    for owner in (model, booster_of(model)):
        adapter = parse(owner, {"missing": params.get("missing", np.nan)})
        again = adapter.refit(table.assign(**text), y, weight)
        np.testing.assert_array_equal(again.ensemble.leaf_value, adapter.ensemble.leaf_value)
        features = again.features(table)
        np.testing.assert_array_equal(features, adapter.features(table))
        np.testing.assert_array_equal(again.library_raw(features), adapter.library_raw(features))


def test_a_refit_has_as_many_rounds_and_does_not_stop_early():
    table, score = make_table(3)
    X, y = table[["x", "k"]], target_of(score, "binary:logistic")
    stop = EarlyStopping(rounds=2)
    for params in ({"early_stopping_rounds": 2}, {"callbacks": [stop]}):
        model = make_model("binary:logistic", n_estimators=50, learning_rate=1.0, **params)
        model.fit(X[:100], y[:100], eval_set=[(X[100:], y[100:])], verbose=False)
        adapter = parse(model)
        again = adapter.refit(X[:100], y[:100], None)
        np.testing.assert_array_equal(again.ensemble.leaf_value, adapter.ensemble.leaf_value)


def test_what_cannot_be_trained_again_is_refused():
    model, table, y, _ = fit("multi:softprob")
    with pytest.raises(InputError, match="every class"):
        parse(model).refit(table[y != 1], y[y != 1], None)
    with pytest.raises(MissingParameterError, match="train it again"):
        parse(saved_and_loaded(model)).refit(table, y, None)
    forest = fit("reg:squarederror", num_parallel_tree=2)
    with pytest.raises(NotYetSupportedError, match="Forests"):
        parse(forest[0]).refit(forest[1], forest[2], None)


def test_retraining_a_booster():
    table, score = make_table(9, 200)
    y = target_of(score, "multi:softprob")
    params = {"objective": "multi:softprob", "num_class": 3, "lambda": 2.0, "max_depth": 3}
    booster = xgboost.train(params, xgboost.DMatrix(table, y, enable_categorical=True), 4)
    run = trace(booster, table, y)
    retrain = retrainer(run, table[:6], y[:6])
    by_hand = xgboost.train(params, xgboost.DMatrix(table[20:], y[20:], enable_categorical=True), 4)
    asked = xgboost.DMatrix(table[:6], enable_categorical=True)
    p = [model.predict(asked)[np.arange(6), y[:6]] for model in (by_hand, booster)]
    effect = retrain(Without(np.arange(20)))
    np.testing.assert_allclose(effect, np.log(p[1]) - np.log(p[0]), atol=1e-5)


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_file_answers_like_the_live_model(objective, suffix, tmp_path):
    model, table, y, _ = fit(objective, 1, 300, reg_lambda=7, learning_rate=0.2)
    path = tmp_path / f"model.{suffix}"
    booster_of(model).save_model(path)
    live = BoostIn().fit(model, table, y).explain(table[:5], y[:5]).values
    found = BoostIn().fit(path, table, y).explain(table[:5], y[:5]).values
    np.testing.assert_allclose(found, live, rtol=1e-5, atol=1e-6 * np.abs(live).max())
