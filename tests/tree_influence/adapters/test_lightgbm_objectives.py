"""Every objective of LightGBM: leaves from its equations, starts from its rules, or a refusal."""

import json

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from influence.errors import TrainingDataError, UnsupportedModelError
from tests.tree_influence.adapters.lightgbm_oracle import SMALL, leaf_values
from tree_influence import LeafInfluence, trace
from tree_influence.adapters import parse
from tree_influence.losses import Softmax


def logit(p):
    return np.log(p / (1 - p))


def in_classes(y, F):
    return (y[:, None] == np.arange(F.shape[1])).astype(float)


def huber(y, F, alpha):
    return np.clip(F - y, -alpha, alpha), np.ones_like(F)


def fair(y, F, c):
    x = F - y
    return c * x / (np.abs(x) + c), c**2 / (np.abs(x) + c) ** 2


def poisson(y, F, step):
    return np.exp(F) - y, np.exp(F + step)


def gamma(y, F):
    return 1 - y * np.exp(-F), y * np.exp(-F)


def tweedie(y, F, rho):
    one, two = y * np.exp((1 - rho) * F), np.exp((2 - rho) * F)
    return two - one, (2 - rho) * two - (1 - rho) * one


def cross_entropy(y, F):
    p = expit(F)
    return p - y, p * (1 - p)


def one_vs_all(y, F, s):
    p = expit(s * F)
    return s * (p - in_classes(y, F)), s**2 * p * (1 - p)


def multiclass(y, F):
    p = softmax(F, axis=1)
    return p - in_classes(y, F), F.shape[1] / (F.shape[1] - 1) * p * (1 - p)


# objective: parameters, target, gradient and Hessian of y and F (columns), start of the mean
EQUATIONS = {
    "regression": ({}, "real", lambda y, F: (F - y, np.ones_like(F)), lambda m: m),
    "huber": ({"alpha": 0.7}, "real", lambda y, F: huber(y, F, 0.7), lambda m: m),
    "fair": ({"fair_c": 0.6}, "real", lambda y, F: fair(y, F, 0.6), lambda m: m),
    "poisson": (
        {"poisson_max_delta_step": 0.4}, "positive", lambda y, F: poisson(y, F, 0.4), np.log,
    ),
    "gamma": ({}, "positive", gamma, np.log),
    "tweedie": (
        {"tweedie_variance_power": 1.3}, "positive", lambda y, F: tweedie(y, F, 1.3), np.log,
    ),
    "cross_entropy": ({}, "share", cross_entropy, logit),
    "cross_entropy_lambda": ({}, "share", cross_entropy, lambda m: np.log(np.expm1(m))),
    "multiclass": ({"num_class": 3}, "class", multiclass, np.log),
    "multiclassova": (
        {"num_class": 3, "sigmoid": 0.7}, "class", lambda y, F: one_vs_all(y, F, 0.7),
        lambda m: logit(m) / 0.7,
    ),
}  # fmt: skip
ALIASES = {
    "xentropy": "cross_entropy", "xentlambda": "cross_entropy_lambda", "softmax": "multiclass",
    "ovr": "multiclassova", "rmse": "regression",
}  # fmt: skip
REAL = ("regression", "fair")


def rows(kind, seed=0, n=240):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)).round(2)
    X[:, 1] = rng.integers(0, 6, n)
    score = X[:, 0] + (X[:, 1] * 7 % 5) / 2 + 0.5 * rng.normal(size=n)
    y = {
        "real": score, "positive": rng.poisson(np.exp(score / 2)) + 0.5, "share": expit(score),
        "class": np.digitize(score, [0.5, 1.5]).astype(float),
    }[kind]  # fmt: skip
    return X, y, rng.uniform(0.2, 3.0, n)


def train(name, X, y, weight=None, init_score=None, rounds=5, **params):
    table = lgb.Dataset(
        X, y, weight=weight, init_score=init_score, categorical_feature=[1], free_raw_data=False
    )
    given = {**SMALL, "objective": name, "max_cat_to_onehot": 20, "learning_rate": 0.3, **params}
    return lgb.train(given, table, rounds)


def mean_of(kind, y, weight):
    """Weighted mean of the target, or weighted share of each class."""
    weight = np.ones(len(y)) if weight is None else weight
    seen = (y[:, None] == np.arange(3)) if kind == "class" else y[:, None]
    return weight @ seen / weight.sum()


def largest_error(booster, equations, X, y, weight, start, rate=0.3, l1=0.0, l2=0.0, most=np.inf):
    """Gap of the stored leaves to the equations, over the largest; all from the library's word.

    Args:
        start: Raw score before the first tree, shape (n_outputs,) or (n_rows, n_outputs).
    """
    weight = np.ones(len(y)) if weight is None else weight
    leaves = np.asarray(booster.predict(X, pred_leaf=True)).reshape(len(y), -1)
    trees = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    n_outputs = booster.num_model_per_iteration()
    folded = start if start.ndim == 1 else np.zeros(n_outputs)
    raw = np.tile(start, (len(y), 1)) if start.ndim == 1 else start.copy()
    target = y if n_outputs > 1 else y[:, None]
    gaps, sizes = [], []
    for t, tree in enumerate(trees):
        k = t % n_outputs
        if k == 0:
            gradient, hessian = equations(target, raw)
            raw = raw.copy()
        stored = leaf_values(tree) - (folded[k] if t < n_outputs else 0)
        g = np.bincount(leaves[:, t], weight * gradient[:, k], len(stored))
        h = np.bincount(leaves[:, t], weight * hessian[:, k], len(stored))
        theta = -np.sign(g) * np.maximum(np.abs(g) - l1, 0) / (h + l2)
        gaps.append(np.abs(rate * np.clip(theta, -most, most) - stored).max())
        sizes.append(np.abs(stored).max())
        raw[:, k] += stored[leaves[:, t]]
    return max(gaps) / max(sizes)


@pytest.mark.parametrize("name", EQUATIONS)
@given(seed=st.integers(0, 99), weighted=st.booleans())
def test_leaves_follow_the_equations(name, seed, weighted):
    params, kind, equations, start_of = EQUATIONS[name]
    X, y, weight = rows(kind, seed)
    weight = weight if weighted and name != "cross_entropy_lambda" else None
    booster = train(name, X, y, weight, **params)
    start = start_of(mean_of(kind, y, weight))
    assert largest_error(booster, equations, X, y, weight, start) < 1e-5, "the test's equations"
    run = trace(booster, X, y, weight)
    np.testing.assert_allclose(run.replay.recipe.start, start, rtol=1e-6, atol=1e-6)
    assert run.replay.recipe.inexact_because == ()
    assert run.replay.error.largest < 1e-5
    raw = np.random.default_rng(seed).normal(size=(len(y), len(start)))
    at = run.replay.recipe.loss.derivatives(run.target, raw)
    gradient, hessian = equations(y if len(start) > 1 else y[:, None], raw)
    np.testing.assert_allclose(at.gradient, gradient, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(at.hessian, hessian, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases(alias):
    params, kind, equations, start_of = EQUATIONS[ALIASES[alias]]
    X, y, _ = rows(kind)
    booster = train(alias, X, y, **{**params, "sigmoid": 0.7})
    start = start_of(mean_of(kind, y, None))
    assert largest_error(booster, equations, X, y, None, start) < 1e-5
    assert trace(booster, X, y).replay.error.largest < 1e-5


@pytest.mark.parametrize("name", EQUATIONS)
def test_thresholds_bounds_and_l2(name):
    """G moves towards 0, then the step is divided, then it is cut, then shrunken."""
    params, kind, equations, start_of = EQUATIONS[name]
    X, y, _ = rows(kind)
    start = start_of(mean_of(kind, y, None))
    for l1, l2, most in ((1.7, 0.0, np.inf), (0.0, 0.0, 0.21), (1.1, 3.0, 0.13)):
        given = {"lambda_l1": l1, "lambda_l2": l2, "max_delta_step": 0 if np.isinf(most) else most}
        booster = train(name, X, y, **params, **given)
        own = {"l1": l1, "l2": l2, "most": most}
        assert largest_error(booster, equations, X, y, None, start, **own) < 1e-5
        run = trace(booster, X, y)
        assert run.replay.error.largest < 1e-5, own
        assert run.replay.recipe.inexact_because == ()


def test_thresholds_and_bounds_by_their_other_names_have_all_digits():
    X, y, _ = rows("real")
    params = {"reg_alpha": 1.23456789, "max_tree_output": 0.123456789, "objective": "regression"}
    recipe = trace(train("regression", X, y, **params), X, y).replay.recipe
    assert (recipe.l1, recipe.max_step) == (1.23456789, 0.123456789)


@pytest.mark.parametrize("name", ["regression", "fair"])
def test_roots_of_the_targets(name):
    params, _, equations, _ = EQUATIONS[name]
    X, y, weight = rows("real")
    root = np.sign(y) * np.sqrt(np.abs(y))
    booster = train(name, X, y, weight, reg_sqrt=True, **params)
    start = mean_of("real", root, weight)
    assert largest_error(booster, equations, X, root, weight, start) < 1e-5
    run = trace(booster, X, y, weight)
    assert run.replay.error.largest < 1e-5
    plain = trace(train(name, X, root, weight, **params), X, root, weight)
    asked, asked_root = run.queries(X[:9], y[:9]), plain.queries(X[:9], root[:9])
    np.testing.assert_allclose(run.losses(asked), plain.losses(asked_root), rtol=1e-4)


@pytest.mark.parametrize("name", ["regression_l1", "quantile", "mape"])
@pytest.mark.parametrize("reg_sqrt", [False, True])
def test_quantile_losses_judge_but_give_no_leaves(name, reg_sqrt):
    X, y, _ = rows("real")
    run = trace(train(name, X, y, alpha=0.3, reg_sqrt=reg_sqrt), X, y)
    seen = np.sign(y) * np.sqrt(np.abs(y)) if reg_sqrt else y
    gap = seen - np.asarray(run.adapter.library_raw(X))[:, 0]
    expected = {
        "regression_l1": np.abs(gap), "quantile": np.where(gap > 0, 0.3 * gap, -0.7 * gap),
        "mape": np.abs(gap) / np.maximum(1, np.abs(seen)),
    }[name]  # fmt: skip
    np.testing.assert_allclose(run.losses(run.train_queries()), expected, atol=1e-6)
    with pytest.raises(UnsupportedModelError, match=f"{name}.*quantiles"):
        LeafInfluence().fit(run)


@pytest.mark.parametrize("params", [{"is_unbalance": True}, {"scale_pos_weight": 2.0}])
def test_weights_that_differ_by_output_are_refused(params):
    X, y, _ = rows("class")
    run = trace(train("multiclassova", X, y, num_class=3, **params), X, y)
    assert np.isfinite(run.losses(run.train_queries())).all()
    with pytest.raises(UnsupportedModelError, match="multiclassova"):
        LeafInfluence().fit(run)
    run = trace(train("multiclass", X, y, num_class=3, **params), X, y)
    assert run.replay.error.largest < 1e-5, "a softmax does not know these settings"


def test_weights_inside_the_link_are_refused():
    X, y, weight = rows("share")
    run = trace(train("cross_entropy_lambda", X, y, weight), X, y, weight)
    with pytest.raises(UnsupportedModelError, match=r"cross_entropy_lambda.*link"):
        LeafInfluence().fit(run)
    ones = np.ones(len(y))
    assert trace(train("cross_entropy_lambda", X, y, ones), X, y, ones).replay.error.largest < 1e-5


def test_one_class_of_even_odds_is_not_added():
    """A start of exactly 0 leaves the first tree of its class with the plain shrinkage."""
    X, y, _ = rows("class")
    y[:] = np.repeat([0.0, 1.0, 2.0], [120, 60, 60])
    X[:, 0] = y + np.random.default_rng(0).normal(size=len(y))
    run = trace(train("multiclassova", X, y, num_class=3), X, y)
    np.testing.assert_allclose(run.replay.recipe.start, [0, -np.log(3), -np.log(3)], atol=1e-9)
    assert run.replay.error.largest < 1e-5
    assert run.replay.recipe.inexact_because == ()


@pytest.mark.parametrize("name", ["regression", "huber", "fair"])
def test_targets_far_from_zero(name):
    """A Dataset rounds labels to float32, which is coarse there."""
    params, kind, _, _ = EQUATIONS[name]
    X, y, _ = rows(kind)
    run = trace(train(name, X, y + 1e6, **params), X, y + 1e6)
    assert run.replay.error.largest < 1e-4


def test_tweedie_at_the_power_of_poisson():
    X, y, _ = rows("positive")
    run = trace(train("tweedie", X, y, tweedie_variance_power=1.0), X, y)
    assert run.replay.error.largest < 1e-5
    raw = run.adapter.library_raw(X)[:, 0]
    np.testing.assert_allclose(run.losses(run.train_queries()), np.exp(raw) - y * raw, rtol=1e-6)


@pytest.mark.parametrize("name", EQUATIONS)
def test_leaves_renewed_after_rounding_are_exact(name):
    """They leave out cat_l2, whatever the split above them."""
    params, kind, _, _ = EQUATIONS[name]
    X, y, _ = rows(kind)
    more = {"use_quantized_grad": True, "max_cat_to_onehot": 1, "lambda_l1": 0.3}
    run = trace(train(name, X, y, quant_train_renew_leaf=True, **more, **params), X, y)
    assert run.replay.error.largest < 1e-5
    assert run.replay.recipe.inexact_because == ()
    rounded = trace(train(name, X, y, **more, **params), X, y, allow_inexact=True)
    assert rounded.replay.recipe.inexact_because == ("use_quantized_grad",)
    assert rounded.replay.error.largest > 1e-4


@pytest.mark.parametrize("categorical", [False, True])
def test_forced_splits(categorical, tmp_path):
    X, y, _ = rows("real")
    X[::7, 0] = np.nan
    path = tmp_path / "splits.json"
    right = {"feature": 1, "threshold": 2} if categorical else {"feature": 2, "threshold": 0.0}
    path.write_text(json.dumps({"feature": 0, "threshold": 0.5, "right": right}))
    given = {"forcedsplits_filename": str(path), "lambda_l1": 0.2, "max_cat_to_onehot": 1}
    table = lgb.Dataset(X, y, categorical_feature=[1] if categorical else [])
    booster = lgb.train({**SMALL, **given}, table, 4)
    recipe = trace(booster, X, y).replay.recipe
    if categorical:
        assert recipe.inexact_because == ("forcedsplits_filename",)
    else:
        assert recipe.inexact_because == ()
        assert trace(booster, X, y).replay.error.largest < 1e-5


@pytest.mark.parametrize("method", ["basic", "intermediate", "advanced"])
def test_bounds_of_monotone_constraints_are_named(method):
    X, y, _ = rows("real")
    given = {"monotone_constraints": [-1, 0, 1, 0], "monotone_constraints_method": method}
    run = trace(train("regression", X, y, **given), X, y, allow_inexact=True)
    assert run.replay.recipe.inexact_because == ("monotone_constraints",)
    assert run.replay.error.largest > 1e-3
    assert parse(train("regression", X, y, **given)).loss().name == "squared error"


def test_a_softmax_of_lightgbm_2_has_another_hessian():
    """2 p (1 - p), by the leaves of models that 2.3.1 saved; it had no path_smooth yet."""
    X, y, _ = rows("class")
    text = train("multiclass", X, y, num_class=3).model_to_string()
    assert parse(lgb.Booster(model_str=text)).loss() == Softmax(1.5)
    old = lgb.Booster(model_str=text.replace("[path_smooth: 0]\n", ""))
    assert parse(old).loss() == Softmax(2.0)
    with pytest.raises(TrainingDataError):
        trace(old, X, y)
