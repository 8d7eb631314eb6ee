"""LightGBM's leaf values recomputed from the training rows by a forward pass of our own."""

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from influence.errors import MissingParameterError, NotYetSupportedError, UnsupportedModelError
from tree_influence.adapters import parse

TASKS = ("regression", "binary", "multiclass")
SMALL = {
    "verbose": -1,
    "num_threads": 1,
    "min_data_in_leaf": 5,
    "min_data_per_group": 5,
    "num_leaves": 8,
}


def rows(task, seed=0, n=240, n_categories=6, missing=0.1):
    """Column 1 holds categories, column 0 has missing values, column 2 many zeros."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)).round(2)
    X[:, 1] = rng.integers(0, n_categories, n)
    X[rng.random(n) < 0.2, 2] = 0
    target = X[:, 0] + (X[:, 1] * 7 % 5) / 2 + 0.5 * rng.normal(size=n)
    X[rng.random(X.shape) < missing] = np.nan
    cuts = {"regression": None, "binary": [1.2], "multiclass": [0.5, 1.5]}[task]
    y = target + 4 if cuts is None else np.digitize(target, cuts).astype(float)
    return X, y, rng.uniform(0.2, 3.0, n)


def train(task, X, y, weight=None, rounds=6, init_score=None, **params):
    given = {**SMALL, "objective": task, **({"num_class": 3} if task == "multiclass" else {})}
    table = lgb.Dataset(X, y, weight=weight, init_score=init_score, categorical_feature=[1])
    return lgb.train({**given, **params}, table, rounds)


def derivatives(task, slope, target, raw):
    if task == "regression":
        return raw - target[:, None], np.ones_like(raw)
    if task == "binary":
        p = expit(slope * raw)
        return slope * (p - target[:, None]), slope**2 * p * (1 - p)
    p = softmax(raw, axis=1)
    return p - (target[:, None] == np.arange(raw.shape[1])), p * (1 - p)


def recompute(booster, task, X, y, weight=None, slope=1.0, model=None, params=None):
    """The recipe, and its largest error over the largest leaf.

    Leaves and what they add up to are the library's own; gradients before the first round are
    taken at the recipe's start.
    """
    adapter = parse(booster if model is None else model, params)
    features = adapter.features(X)
    weights = adapter.row_weights(y, weight)
    recipe = adapter.recipe(adapter.leaves(features), y, weights)
    trees = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    leaves = np.asarray(booster.predict(X, pred_leaf=True)).reshape(len(y), -1)
    n_outputs = 3 if task == "multiclass" else 1
    raw, errors, largest = np.tile(recipe.start, (len(y), 1)), [], np.finfo(float).tiny
    offset = 0
    for t, tree in enumerate(trees):
        k = t % n_outputs
        if k == 0:
            gradient, hessian = derivatives(task, slope, y, raw)
            np.testing.assert_allclose(recipe.loss.derivatives(y, raw).gradient, gradient)
            raw = np.zeros_like(raw) if t == 0 else raw.copy()
        stored = leaf_values(tree)
        l2 = recipe.l2[offset : offset + len(stored)]
        g = np.bincount(leaves[:, t], weights * gradient[:, k], len(stored))
        h = np.bincount(leaves[:, t], weights * hessian[:, k], len(stored))
        theta = -g / (getattr(recipe.loss, "hessian_scale", 1.0) * h + l2)
        errors.append(recipe.learning_rate[t] * theta + recipe.folded[t] - stored)
        largest = max(largest, np.abs(stored).max())
        raw[:, k] += stored[leaves[:, t]]
        offset += len(stored)
    assert offset == len(recipe.l2), "l2 needs one value for each leaf of each tree"
    return recipe, np.abs(np.concatenate(errors)).max() / largest


def leaf_values(tree):
    """Values by leaf number of a tree of `dump_model`."""
    found = {}

    def walk(node):
        if "leaf_value" in node:
            found[node.get("leaf_index", 0)] = node["leaf_value"]
        else:
            walk(node["left_child"])
            walk(node["right_child"])

    walk(tree)
    return np.array([found[leaf] for leaf in range(len(found))])


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


@pytest.mark.parametrize("learning_rate", [0.1, 1.0])
def test_init_score_is_named_since_the_model_does_not_hold_it(learning_rate):
    X, y, _ = rows("binary")
    params = {"learning_rate": learning_rate, "lambda_l2": 2.0}
    booster = train("binary", X, y, init_score=np.zeros(len(y)), **params)
    recipe, error = recompute(booster, "binary", X, y)
    assert error < 1e-6
    assert recipe.inexact_because == ("init_score",)
    booster = train("binary", X, y, init_score=np.ones(len(y)), learning_rate=0.1)
    recipe, error = recompute(booster, "binary", X, y)
    assert error > 1e-3
    assert recipe.inexact_because == ("init_score",)


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
    assert recipe.inexact_because == ("a learning rate that changes",)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"bagging_freq": 1, "bagging_fraction": 0.5}, "bagging_fraction"),
        ({"bagging_freq": 1, "neg_bagging_fraction": 0.5}, "bagging_fraction"),
        ({"data_sample_strategy": "goss", "learning_rate": 0.5}, "data_sample_strategy=goss"),
        ({"lambda_l1": 0.5}, "lambda_l1"),
        ({"max_delta_step": 0.3}, "max_delta_step"),
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
    with pytest.raises(UnsupportedModelError, match=objective):
        recompute(train(objective, X, y), "regression", X, y)


@pytest.mark.parametrize("objective", ["huber", "poisson", "tweedie", "multiclassova"])
def test_other_objectives_are_not_there_yet(objective):
    X, y, _ = rows("multiclass")
    classes = {"num_class": 3} if objective == "multiclassova" else {}
    with pytest.raises(NotYetSupportedError, match=objective):
        recompute(train(objective, X, y, **classes), "regression", X, y)
    with pytest.raises(NotYetSupportedError, match="sqrt"):
        recompute(train("regression", X, y, reg_sqrt=True), "regression", X, y)


@pytest.mark.parametrize("boosting", ["dart", "rf"])
def test_trees_that_are_scaled_again_are_refused(boosting):
    X, y, _ = rows("binary")
    booster = train("binary", X, y, boosting=boosting, bagging_freq=1, bagging_fraction=0.5)
    with pytest.raises(UnsupportedModelError, match=boosting):
        recompute(booster, "binary", X, y)


def test_objectives_of_the_user_are_refused():
    X, y, _ = rows("regression")
    objective = lambda raw, rows: (raw - rows.get_label(), np.ones(len(raw)))  # noqa: E731
    with pytest.raises(UnsupportedModelError, match="objective"):
        recompute(train(objective, X, y), "regression", X, y)


def test_rankers_are_not_there_yet():
    X, y, _ = rows("multiclass")
    model = lgb.LGBMRanker(verbose=-1, n_jobs=1).fit(X, y.astype(int), group=[120, 120])
    with pytest.raises(NotYetSupportedError, match="lambdarank"):
        recompute(model.booster_, "regression", X, y)
    with pytest.raises(NotYetSupportedError, match="groups"):
        parse(model).refit(X, y, None)


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
