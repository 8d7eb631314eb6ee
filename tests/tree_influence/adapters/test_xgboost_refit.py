"""XGBoost models trained again: the same rows give the same model."""

import numpy as np
import pytest
import xgboost
from xgboost.callback import EarlyStopping

from influence import Without
from influence.errors import InputError, MissingParameterError, UnsupportedModelError
from tests.tree_influence.adapters.xgboost_oracle import (
    KNOWS_NAMES,
    OBJECTIVES,
    VERSION,
    booster_of,
    fit,
    make_model,
    make_table,
    target_of,
)
from tree_influence import retrainer, trace
from tree_influence.adapters import parse


def saved_and_loaded(model):
    return xgboost.Booster(model_file=booster_of(model).save_raw())


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
    plain, score = make_table(0)
    rows = xgboost.DMatrix(plain[["x", "k"]], score > 0, group=[75, 75])
    ranker = xgboost.train({"objective": "rank:pairwise"}, rows, 2)
    with pytest.raises(UnsupportedModelError, match="rank:pairwise"):
        parse(ranker).refit(plain[["x", "k"]], score > 0, None)


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


def check_same(model, X, y, weight=None):
    """Owned by an estimator or a Booster, the model comes out the same."""
    for owner in (model, booster_of(model)):
        adapter = parse(owner)
        again = adapter.refit(X, y, weight)
        np.testing.assert_array_equal(again.ensemble.leaf_value, adapter.ensemble.leaf_value)
        np.testing.assert_array_equal(again.ensemble.bias, adapter.ensemble.bias)
        assert repr(again.loss()) == repr(adapter.loss())


@pytest.mark.parametrize(
    ("objective", "params"),
    [
        ("reg:pseudohubererror", {"huber_slope": 0.4}),
        ("count:poisson", {}),
        ("count:poisson", {"max_delta_step": 0.2}),
        ("reg:tweedie", {"tweedie_variance_power": 1.2}),
        ("reg:gamma", {"reg_alpha": 0.5}),
        ("reg:quantileerror", {"quantile_alpha": 0.3}),
        ("reg:absoluteerror", {}),
        ("reg:squaredlogerror", {"max_delta_step": 0.1}),
        ("reg:squarederror", {"booster": "dart", "rate_drop": 0.5, "seed": 3}),
        ("reg:squarederror", {"num_parallel_tree": 3, "subsample": 0.7, "colsample_bynode": 0.6}),
        ("reg:squarederror", {"tree_method": "approx", "interaction_constraints": "[[0], [1]]"}),
        ("reg:squarederror", {"tree_method": "exact", "enable_categorical": False}),
        ("reg:squarederror", {"subsample": 0.5, "sampling_method": "gradient_based"}),
    ],
)
def test_every_objective_is_trained_again(objective, params):
    if "sampling_method" in params and VERSION < (3, 2):
        pytest.skip("the CPU has it since 3.2")
    table, score = make_table(3)
    X, y = table[["x", "k"]], np.abs(score) + 0.1
    check_same(make_model(objective, **params).fit(X, y), X, y)


@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
def test_several_targets_are_trained_again(strategy):
    table, score = make_table(3)
    y = np.column_stack([score, -score])
    model = make_model("reg:squarederror", multi_strategy=strategy, tree_method="hist")
    check_same(model.fit(table[["x", "k"]], y), table[["x", "k"]], y)
    y = target_of(score, "multi:softprob")
    model = make_model("multi:softprob", multi_strategy=strategy, tree_method="hist")
    check_same(model.fit(table[["x", "k"]], y), table[["x", "k"]], y)


def test_forests_are_trained_again():
    table, score = make_table(3)
    X = table[["x", "k"]]
    check_same(xgboost.XGBRFRegressor(n_estimators=5, random_state=1).fit(X, score), X, score)
    y = target_of(score, "binary:logistic")
    check_same(xgboost.XGBRFClassifier(n_estimators=3).fit(X, y), X, y)
