"""LightGBM's leaf values recomputed from the training rows by a forward pass of our own."""

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influence.errors import MissingParameterError, UnsupportedModelError
from tests.tree_influence.adapters.lightgbm_oracle import (
    SMALL,
    TASKS,
    recompute,
    rows,
    train,
)
from tree_influence.adapters import parse


def check(task, seed=0, weighted=False, slope=1.0, n_categories=6, **params):
    X, y, weight = rows(task, seed, n_categories=n_categories)
    booster = train(task, X, y, weight if weighted else None, **params)
    recipe, error = recompute(booster, task, X, y, weight if weighted else None, slope)
    assert error < 1e-6, "start, shrinkage, l2 or Hessian factor of these leaves"
    assert recipe.inexact_because == ()
    return recipe


@given(
    task=st.sampled_from(TASKS), seed=st.integers(0, 99), weighted=st.booleans(),
    n_categories=st.integers(2, 9), max_cat_to_onehot=st.sampled_from([1, 4, 7]),
    lambda_l2=st.sampled_from([0.0, 1 / 3]), learning_rate=st.sampled_from([0.1, 0.123456789, 1.0]),
    zero_as_missing=st.booleans(),
)  # fmt: skip
def test_leaves_recompute(task, seed, weighted, n_categories, **params):
    check(task, seed, weighted, n_categories=n_categories, **params)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("weighted", [False, True])
def test_leaves_of_default_models_recompute(task, weighted):
    X, y, weight = rows(task, n=1500)
    weight = weight if weighted else None
    kind = lgb.LGBMRegressor if task == "regression" else lgb.LGBMClassifier
    model = kind(verbose=-1, n_jobs=1).fit(X, y, weight, categorical_feature=[1])
    recipe, error = recompute(model.booster_, task, X, y, weight, model=model)
    assert error < 1e-6
    assert recipe.inexact_because == ()
    assert {*recipe.l2} == {0.0, 10.0}, "cat_l2 joins below many-vs-many splits only"


@pytest.mark.parametrize("max_cat_to_onehot", [5, 6, 7, 8])
def test_cat_l2_joins_where_the_feature_has_more_bins_than_max_cat_to_onehot(max_cat_to_onehot):
    recipe = check("regression", max_cat_to_onehot=max_cat_to_onehot, cat_l2=3.0)
    n_bins = 6 + 1  # one for missing and rare categories
    assert (recipe.l2.max() == 3.0) == (n_bins > max_cat_to_onehot)


def test_rare_categories_have_no_bin_of_their_own():
    X, y, _ = rows("regression", n_categories=3)
    X[:4, 1] = [50, 51, 52, 53]
    for limit in (4, 5, 6, 7, 8):
        booster = train("regression", X, y, max_cat_to_onehot=limit, min_data_in_bin=3)
        assert recompute(booster, "regression", X, y)[1] < 1e-6


@pytest.mark.parametrize(
    "params",
    [
        {"is_unbalance": True},
        {"scale_pos_weight": 3.7},
        {"sigmoid": 2.3456789},
        {"sigmoid": 0.5, "is_unbalance": True, "boost_from_average": False},
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_settings_of_the_binary_loss(params, weighted):
    """Label weights enter the leaves, but not the average it starts from."""
    check("binary", weighted=weighted, slope=params.get("sigmoid", 1.0), **params)


@pytest.mark.parametrize("class_weight", ["balanced", {"no": 3.0, "yes": 0.5}])
def test_class_weights_of_estimators(class_weight):
    X, y, weight = rows("binary")
    model = lgb.LGBMClassifier(verbose=-1, n_jobs=1, class_weight=class_weight, n_estimators=5)
    model.fit(X, np.array(["no", "yes"])[y.astype(int)], weight)
    _, error = recompute(model.booster_, "binary", X, y, weight, model=model)
    assert error < 1e-6, "class weights, unlike label weights, enter the average too"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("learning_rate", [0.1, 1.0])
def test_without_boost_from_average(task, learning_rate):
    recipe = check(task, boost_from_average=False, learning_rate=learning_rate, lambda_l2=2.0)
    assert not recipe.start.any()
    assert not recipe.folded.any()


def test_balanced_classes_start_at_zero():
    X, y, _ = rows("binary")
    y = np.arange(len(y)) % 2.0
    recipe, error = recompute(train("binary", X, y), "binary", X, y)
    assert error < 1e-6
    assert recipe.inexact_because == (), "an average of 0 is no init_score"


INIT_SCORE = "init_score (pass lightgbm.Dataset(X, y, init_score=..., free_raw_data=False))"


@pytest.mark.parametrize("learning_rate", [0.1, 1.0])
def test_init_score_is_named_since_the_model_does_not_hold_it(learning_rate):
    X, y, _ = rows("binary")
    params = {"learning_rate": learning_rate, "lambda_l2": 2.0}
    booster = train("binary", X, y, init_score=np.zeros(len(y)), **params)
    recipe, error = recompute(booster, "binary", X, y)
    assert error < 1e-6
    assert recipe.inexact_because == (INIT_SCORE,)
    booster = train("binary", X, y, init_score=np.ones(len(y)), learning_rate=0.1)
    recipe, error = recompute(booster, "binary", X, y)
    assert error > 1e-3
    assert recipe.inexact_because == (INIT_SCORE,)


@pytest.mark.parametrize("y", [np.full(240, 3.0), np.zeros(240), np.ones(240)])
@pytest.mark.parametrize("task", TASKS)
def test_constant_targets_give_trees_of_one_leaf(task, y):
    X, _, _ = rows(task)
    y = y if task == "regression" else np.minimum(y, 1)
    booster = train(task, X, y)
    recipe, error = recompute(booster, task, X, y)
    assert error < 1e-12
    assert np.isinf(recipe.l2).all()


def test_a_class_that_stops_splitting_or_has_no_rows():
    X, y, _ = rows("multiclass")
    booster = train("multiclass", X, y, min_gain_to_split=10, rounds=30)
    recipe, error = recompute(booster, "multiclass", X, y)
    assert error < 1e-6, "a tree that cannot be split is no Newton step"
    assert 0 < np.isinf(recipe.l2).sum() < len(recipe.l2), "the case this test is for"
    y[y == 1] = 0
    assert recompute(train("multiclass", X, y), "multiclass", X, y)[1] < 1e-6


def test_continued_training():
    X, y, _ = rows("regression")
    first = train("regression", X, y, rounds=3)
    table = lgb.Dataset(X, y, categorical_feature=[1])
    params = {**SMALL, "learning_rate": 0.3}
    booster = lgb.train(params, table, 3, init_model=first)
    recipe, error = recompute(booster, "regression", X, y, params={"learning_rate": 0.1})
    assert error < 1e-6
    assert recipe.learning_rate.tolist() == [0.1] * 3 + [0.3] * 3
    assert recipe.inexact_because == (), "the text tells the rate of every tree"


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"bagging_freq": 1, "bagging_fraction": 0.5}, "bagging_fraction"),
        ({"bagging_freq": 1, "neg_bagging_fraction": 0.5}, "bagging_fraction"),
        ({"data_sample_strategy": "goss", "learning_rate": 0.5}, "data_sample_strategy=goss"),
        ({"path_smooth": 2.0}, "path_smooth"),
        ({"use_quantized_grad": True}, "use_quantized_grad"),
        ({"monotone_constraints": [-1, 0, 0, 0]}, "monotone_constraints"),
    ],
)
def test_settings_that_change_leaf_values_are_named(params, reason):
    X, y, _ = rows("binary")
    recipe, error = recompute(train("binary", X, y, **params), "binary", X, y)
    assert recipe.inexact_because == (reason,)
    assert error > 1e-6


def test_neutral_settings_are_not_named():
    neutral = {
        "bagging_freq": 0, "bagging_fraction": 0.5, "max_delta_step": -1, "lambda_l1": 0.0,
        "monotone_constraints": [0, 0, 0, 0], "feature_fraction": 0.5, "extra_trees": True,
    }  # fmt: skip
    check("binary", **neutral)


@pytest.mark.parametrize("objective", ["regression_l1", "quantile", "mape"])
def test_renewed_leaves_are_refused(objective):
    X, y, _ = rows("regression")
    with pytest.raises(UnsupportedModelError, match=f"{objective}.*quantiles"):
        recompute(train(objective, X, y), "regression", X, y)


@pytest.mark.parametrize("boosting", ["dart", "rf"])
def test_trees_that_are_scaled_again_are_refused(boosting):
    X, y, _ = rows("binary")
    params = {"bagging_freq": 1, "bagging_fraction": 0.5, "drop_rate": 1.0, "skip_drop": 0.0}
    booster = train("binary", X, y, boosting=boosting, **params)
    with pytest.raises(UnsupportedModelError, match=boosting):
        recompute(booster, "binary", X, y)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("learning_rate", [0.1, 1.0])
def test_dart_that_drops_no_tree_is_exact(task, learning_rate):
    check(task, boosting="dart", drop_rate=0.0, learning_rate=learning_rate)


@pytest.mark.parametrize("xgboost_dart_mode", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_dart_is_exact_or_refused(seed, xgboost_dart_mode):
    """A tree that was dropped once shows in the shrinkages."""
    X, y, _ = rows("regression")
    params = {"drop_rate": 0.1, "drop_seed": seed, "xgboost_dart_mode": xgboost_dart_mode}
    booster = train("regression", X, y, boosting="dart", skip_drop=0.0, rounds=5, **params)
    try:
        _, error = recompute(booster, "regression", X, y)
    except UnsupportedModelError:
        return
    assert error < 1e-6


def test_objectives_of_the_user_are_refused():
    X, y, _ = rows("regression")
    objective = lambda raw, rows: (raw - rows.get_label(), np.ones(len(raw)))  # noqa: E731
    with pytest.raises(UnsupportedModelError, match="custom objective"):
        recompute(train(objective, X, y), "regression", X, y)


@pytest.mark.parametrize("objective", ["lambdarank", "rank_xendcg"])
def test_rankers_are_refused(objective):
    X, y, _ = rows("multiclass")
    model = lgb.LGBMRanker(objective=objective, verbose=-1, n_jobs=1, n_estimators=3)
    model.fit(X, y.astype(int), group=[120, 120])
    with pytest.raises(UnsupportedModelError, match=f"{objective}.*query group"):
        recompute(model.booster_, "regression", X, y)
    with pytest.raises(UnsupportedModelError, match=objective):
        parse(model).loss()
    for held in (model, model.booster_):
        with pytest.raises(UnsupportedModelError, match="groups"):
            parse(held).refit(X, y, None)


def test_a_text_without_parameters_needs_them_from_the_user():
    X, y, _ = rows("regression")
    booster = train("regression", X, y, lambda_l2=1.0)
    text = booster.model_to_string()
    bare = lgb.Booster(
        model_str=text[: text.index("\nparameters:")] + "\npandas_categorical:null\n"
    )
    params = {"eta": 0.1, "reg_lambda": 1.0, "cat_l2": 10}
    with pytest.raises(MissingParameterError, match="learning_rate"):
        recompute(bare, "regression", X, y)
    with pytest.raises(MissingParameterError, match="max_cat_to_onehot"):
        recompute(bare, "regression", X, y, params=params)
    params["max_cat_to_onehot"] = 4
    assert recompute(bare, "regression", X, y, params=params)[1] < 1e-6
    with pytest.raises(MissingParameterError, match="trained again"):
        parse(bare).refit(X, y, None)
