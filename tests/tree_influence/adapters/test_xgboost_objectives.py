"""Every objective: leaves recomputed in the test's own numpy, the loss's value, or a refusal."""

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from influence.errors import TrainingDataError, UnsupportedModelError
from tests.tree_influence.adapters.xgboost_oracle import (
    VERSION,
    booster_of,
    leaf_error,
    make_model,
    make_table,
    stored_trees,
)
from tree_influence import BoostIn, LeafInfluence, losses, losses_positive, trace
from tree_influence.adapters import parse

EXACT = 2e-5  # XGBoost rounds gradients to float32

real, positive = (lambda s: s), (lambda s: np.abs(s) + 0.1)
count = lambda s: np.round(np.exp(s))  # noqa: E731
share = lambda s: 1 / (1 + np.exp(-s))  # noqa: E731
binary = lambda s: (s > 0).astype(float)  # noqa: E731
classes = lambda s: np.digitize(s, [-0.5, 0.7]).astype(float)  # noqa: E731

# Objective, how its target is made, its parameters, and the loss by which predictions are judged.
EXACT_OBJECTIVES = [
    ("reg:squarederror", real, {}, losses.SquaredError()),
    ("reg:linear", real, {}, losses.SquaredError()),
    ("reg:squaredlogerror", positive, {}, losses_positive.SquaredLogError()),
    ("reg:logistic", share, {}, losses.Logistic()),
    ("reg:logistic", binary, {"scale_pos_weight": 3.0}, losses.Logistic()),
    ("reg:pseudohubererror", real, {}, losses.PseudoHuber(1.0)),
    ("reg:pseudohubererror", real, {"huber_slope": 0.5}, losses.PseudoHuber(0.5)),
    ("count:poisson", count, {}, losses_positive.Poisson(0.699999988)),
    ("count:poisson", count, {"max_delta_step": 0.25}, losses_positive.Poisson(0.25)),
    ("count:poisson", count, {"max_delta_step": 0.0}, losses_positive.Poisson(0.0)),
    ("reg:gamma", positive, {}, losses_positive.Gamma()),
    ("reg:tweedie", positive, {}, losses_positive.Tweedie(1.5)),
    ("reg:tweedie", count, {"tweedie_variance_power": 1.25}, losses_positive.Tweedie(1.25)),
    ("reg:tweedie", count, {"tweedie_variance_power": 1.0}, losses_positive.Poisson()),
    ("binary:logistic", binary, {}, losses.Logistic()),
    ("binary:logitraw", binary, {}, losses.Logistic()),
    ("multi:softmax", classes, {"num_class": 3}, losses.Softmax(2.0)),
    ("multi:softprob", classes, {"num_class": 3}, losses.Softmax(2.0)),
]
every_objective = pytest.mark.parametrize(("objective", "target", "told", "loss"), EXACT_OBJECTIVES)


def train(objective, target, params, seed=0, n=150, weighted=False, n_rounds=4, **more):
    table, score = make_table(seed, n)
    table, y = table[["x", "k"]], target(score)
    weight = np.random.default_rng(seed).uniform(0.3, 2, len(y)) if weighted else None
    rows = xgboost.DMatrix(table, y, weight=weight, **more)
    defaults = {"objective": objective, "max_depth": 3, "nthread": 1}
    return xgboost.train({**defaults, **params}, rows, n_rounds), table, y, weight


def reloaded(booster):
    return xgboost.Booster(model_file=booster.save_raw())


@every_objective
@given(
    seed=st.integers(0, 999), weighted=st.booleans(), base_score=st.sampled_from([None, 0.4]),
    settings=st.sampled_from([
        {}, {"alpha": 0.7}, {"max_delta_step": 0.2}, {"alpha": 0.3, "max_delta_step": 0.3},
        {"lambda": 0.0, "min_child_weight": 3.0}, {"eta": 0.9, "lambda": 6.0},
    ]),
)  # fmt: skip
def test_leaves_recompute(objective, target, told, loss, seed, weighted, base_score, settings):
    params = {**settings, **told} | ({} if base_score is None else {"base_score": base_score})
    booster, table, y, weight = train(objective, target, params, seed, weighted=weighted)
    recipe, error = leaf_error(booster, table, y, weight, settings=params)
    assert error < EXACT, "derivatives, start, alpha or max_delta_step of these leaves"
    assert recipe.inexact_because == ()


@every_objective
def test_the_loss_and_its_parameters_are_in_the_file(objective, target, told, loss):
    booster, table, y, _ = train(objective, target, {**told, "eta": 0.2, "lambda": 3.0})
    for found in (booster, reloaded(booster)):
        assert repr(parse(found).loss()) == repr(loss)
        recipe, error = leaf_error(found, table, y, settings=told)
        assert error < EXACT
        np.testing.assert_allclose(recipe.learning_rate, 0.2, rtol=1e-4)
        np.testing.assert_allclose(recipe.l2, 3.0, rtol=1e-3)


@every_objective
def test_runs_are_exact(objective, target, told, loss):
    booster, table, y, weight = train(objective, target, told, 3, weighted=True, n_rounds=8)
    run = trace(booster, table, y, weight)
    assert run.replay.error.largest < 1e-4
    for estimator in (BoostIn(), LeafInfluence()):
        assert np.isfinite(estimator.fit(run).explain(table[:3], y[:3]).values).all()


def test_shares_as_labels_of_a_binary_objective():
    table, score = make_table(3)
    table, y = table[["x", "k"]], share(score)
    model = xgboost.XGBRegressor(objective="binary:logistic", n_estimators=4).fit(table, y)
    run = trace(model, table, y)
    assert run.classes is None
    assert run.replay.error.largest < 1e-4
    assert leaf_error(model, table, y)[1] < EXACT


def test_training_that_diverged_is_refused():
    params = {"eta": 1.0, "lambda": 0.0, "min_child_weight": 0.0, "max_depth": 6}
    booster, *_ = train("reg:gamma", np.exp, params, 3, n_rounds=30)
    with pytest.raises(UnsupportedModelError, match="training diverged"):
        parse(booster)


@pytest.mark.parametrize("given_", [{"alpha": 0.8}, {"max_delta_step": 0.6}])
def test_alpha_and_max_delta_step_of_a_file_are_given(given_):
    booster, table, y, _ = train("binary:logistic", binary, {**given_, "lambda": 2.0, "eta": 0.5})
    found = reloaded(booster)
    recipe, error = leaf_error(found, table, y, params=given_)
    assert error < EXACT
    assert (recipe.l1, min(recipe.max_step, 9.0)) == (
        given_.get("alpha", 0.0), given_.get("max_delta_step", 9.0),
    )  # fmt: skip
    np.testing.assert_allclose(recipe.l2, 2.0, rtol=1e-3)
    live, _ = leaf_error(booster, table, y)
    assert (live.l1, live.max_step) == pytest.approx((recipe.l1, recipe.max_step))


def test_steps_of_a_poisson_regression_are_cut():
    """At 0.7 by default, which the file holds with the objective."""
    booster, table, y, _ = train("count:poisson", lambda s: 50 * count(s), {"base_score": 1.0})
    for found in (booster, reloaded(booster)):
        recipe, error = leaf_error(found, table, y)
        assert recipe.max_step == pytest.approx(0.7)
        assert error < EXACT
    leaves = parse(booster).ensemble.leaf_value
    assert np.isclose(leaves, 0.3 * 0.7).sum() > 3, "no leaf was cut, so the test shows nothing"


@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
@pytest.mark.parametrize(
    ("objective", "target"),
    [
        ("reg:squarederror", real), ("reg:pseudohubererror", real), ("binary:logistic", binary),
        ("reg:gamma", positive),
    ],
)  # fmt: skip
def test_several_targets(objective, target, strategy):
    if objective == "reg:pseudohubererror" and VERSION < (3, 2):
        pytest.skip("before 3.2 it trains the first output on the second target")

    def two(score):
        return np.column_stack([target(score), target(np.roll(score, 1) - 0.3)])

    params = {
        "multi_strategy": strategy,
        "tree_method": "hist",
        "lambda": 2.0,
        "min_child_weight": 0.0,
    }
    booster, table, y, weight = train(objective, two, params, 1, weighted=True)
    adapter = parse(booster)
    assert (adapter.n_targets, adapter.classes) == (2, None)
    assert adapter.ensemble.vector_leaves == (strategy == "multi_output_tree")
    for found in (booster, reloaded(booster)):
        _, error = leaf_error(found, table, y, weight, {"min_child_weight": 0})
        assert error < EXACT
    run = trace(booster, table, y, weight)
    assert run.replay.error.largest < 1e-4
    one = [
        parse(train(objective, target, {})[0]).loss().value(y[:, k], y[:, [k]] / 2) for k in (0, 1)
    ]
    np.testing.assert_allclose(adapter.loss().value(y, y / 2), sum(one))
    assert np.isfinite(LeafInfluence().fit(run).explain(table[:3], y[:3]).values).all()


@pytest.mark.parametrize("seed", range(3))
def test_softmax_with_vector_leaves(seed):
    params = {"multi_strategy": "multi_output_tree", "tree_method": "hist", "num_class": 3}
    params["min_child_weight"] = 0.0
    booster, table, y, weight = train("multi:softprob", classes, params, seed, weighted=True)
    assert parse(booster).ensemble.vector_leaves
    for found, told in ((booster, {}), (reloaded(booster), {"min_child_weight": 0})):
        recipe, error = leaf_error(found, table, y, weight, told)
        assert error < EXACT
        assert recipe.inexact_because == ()
    assert trace(booster, table, y, weight).replay.error.largest < 1e-4


def test_values_of_vector_leaves_that_min_child_weight_holds_at_zero():
    """Before 3.4 it is asked of every output on its own, and a 0 may stand beside Newton values."""
    params = {"multi_strategy": "multi_output_tree", "tree_method": "hist", "num_class": 3}
    params |= {"min_child_weight": 4.0, "max_depth": 6}
    booster, table, y, _ = train("multi:softprob", classes, params)
    values = parse(booster).ensemble.leaf_value == 0
    assert (values.any(axis=1) & ~values.all(axis=1)).any() == (VERSION < (3, 4))
    run = trace(booster, table, y)
    assert run.replay.recipe.inexact_because == ()
    assert run.replay.error.largest < 1e-5


@pytest.mark.parametrize(
    ("objective", "target", "told", "loss"),
    [EXACT_OBJECTIVES[i] for i in (0, 7, 14, 17)],
)
@pytest.mark.parametrize("n_parallel", [2, 3])
def test_boosted_forests(objective, target, told, loss, n_parallel):
    """Trees of a round start from the same scores, and share eta."""
    params = {**told, "num_parallel_tree": n_parallel, "colsample_bynode": 0.5, "lambda": 3.0}
    table, score = make_table(2)
    table, y, weight = table.assign(v=np.sin(9 * score))[["x", "k", "v"]], target(score), None
    weight = np.random.default_rng(0).uniform(0.3, 2, len(y))
    params = {"objective": objective, "max_depth": 3, **params}
    booster = xgboost.train(params, xgboost.DMatrix(table, y, weight=weight), 4)
    assert parse(booster).ensemble.n_parallel == n_parallel
    features = [tree["split_indices"] for tree in stored_trees(booster)[:n_parallel]]
    assert features[0] != features[1], "the same tree twice"
    for found in (booster, reloaded(booster)):
        recipe, error = leaf_error(found, table, y, weight)
        assert error < EXACT
        np.testing.assert_allclose(recipe.learning_rate, 0.3 / n_parallel, rtol=1e-4)
    run = trace(booster, table, y, weight)
    assert run.replay.error.largest < 1e-4
    assert np.isfinite(LeafInfluence().fit(run).explain(table[:3], y[:3]).values).all()


def test_random_forests():
    table, score = make_table(1)
    table = table[["x", "k"]]
    forest = xgboost.XGBRFRegressor(n_estimators=5, subsample=1.0, colsample_bynode=0.5)
    run = trace(forest.fit(table, score), table, score)
    assert run.replay.error.largest < 1e-4
    assert set(run.replay.recipe.learning_rate) == {1 / 5}
    default = xgboost.XGBRFRegressor(n_estimators=5).fit(table, score)
    recipe, _ = leaf_error(default, table, score)
    assert recipe.inexact_because == ("subsample",)


@pytest.mark.parametrize(
    ("objective", "params", "loss"),
    [
        ("reg:absoluteerror", {}, losses.AbsoluteError()),
        ("reg:quantileerror", {"quantile_alpha": 0.25}, losses.Quantile(0.25)),
        ("reg:quantileerror", {"quantile_alpha": [0.2, 0.8]}, losses.Quantiles((0.2, 0.8))),
    ],
)
def test_leaves_that_are_quantiles_have_a_loss_only(objective, params, loss):
    booster, table, y, _ = train(objective, real, params)
    run = trace(booster, table, y)
    assert run.adapter.loss() == loss
    raw = booster.predict(xgboost.DMatrix(table), output_margin=True)
    np.testing.assert_allclose(
        run.losses(run.train_queries()), loss.value(y, raw.reshape(len(y), -1)), atol=1e-5
    )
    with pytest.raises(UnsupportedModelError, match=objective):
        BoostIn().fit(run)


@pytest.mark.parametrize(
    ("objective", "target", "params", "says"),
    [
        ("binary:hinge", binary, {}, "binary:hinge.*no Newton values"),
        ("survival:cox", positive, {}, "survival:cox.*at risk"),
        ("rank:pairwise", binary, {}, "rank:pairwise.*group"),
        ("rank:ndcg", binary, {}, "rank:ndcg.*group"),
    ],
)
def test_objectives_without_a_loss_of_each_row(objective, target, params, says):
    more = {"qid": np.zeros(150)} if objective.startswith("rank") else {}
    booster, table, y, _ = train(objective, target, params, **more)
    for found in (booster, reloaded(booster)):
        adapter = parse(found)
        with pytest.raises(UnsupportedModelError, match=says):
            adapter.loss()
        run = trace(found, table, y)
        with pytest.raises(UnsupportedModelError, match=says):
            LeafInfluence().fit(run)


def test_survival_of_intervals_is_refused():
    table, score = make_table(0)
    rows = xgboost.DMatrix(table[["x", "k"]])
    rows.set_float_info("label_lower_bound", positive(score))
    rows.set_float_info("label_upper_bound", positive(score) + 1)
    booster = xgboost.train({"objective": "survival:aft"}, rows, 2)
    with pytest.raises(UnsupportedModelError, match=r"survival:aft.*intervals"):
        parse(booster).loss()


def own_log_cosh(predicted, rows):
    x = predicted - rows.get_label()
    return np.tanh(x), 1 - np.tanh(x) ** 2


def test_objectives_of_the_users_own():
    """A Booster tells the default one in their place."""
    table, score = make_table(0)
    table = table[["x", "k"]]
    rows = xgboost.DMatrix(table, score + 2)
    booster = xgboost.train({}, rows, 3, obj=own_log_cosh)
    for found in (booster, reloaded(booster)):
        with pytest.raises(UnsupportedModelError, match="of your own"):
            LeafInfluence().fit(trace(found, table, score + 2))
    told = {"base_score": 0.0}
    booster = xgboost.train(told, rows, 3, obj=own_log_cosh)
    with pytest.raises(TrainingDataError):
        trace(booster, table, score + 2)


@pytest.mark.parametrize("rate_drop", [0.0, 0.6])
def test_dart_is_exact_where_no_tree_was_dropped(rate_drop):
    params = {"booster": "dart", "rate_drop": rate_drop, "seed": 1}
    booster, table, y, _ = train("reg:squarederror", real, params, n_rounds=6)
    run = trace(booster, table, y)
    if rate_drop == 0:
        assert leaf_error(booster, table, y)[1] < EXACT
        assert run.replay.error.largest < 1e-4
    else:
        assert run.adapter.loss() == losses.SquaredError()
        with pytest.raises(UnsupportedModelError, match="DART"):
            LeafInfluence().fit(run)


@pytest.mark.parametrize(
    "settings",
    [
        {"grow_policy": "lossguide", "max_leaves": 5}, {"tree_method": "exact"},
        {"tree_method": "approx"}, {"gamma": 2.0, "tree_method": "exact"},
        {"min_child_weight": 8.0}, {"interaction_constraints": [["x"], ["k"]]},
        {"colsample_bytree": 0.5, "colsample_bylevel": 0.9}, {"max_bin": 8},
    ],
)  # fmt: skip
def test_settings_of_the_structure_leave_leaves_exact(settings):
    booster, table, y, weight = train("binary:logistic", binary, settings, weighted=True)
    for found in (booster, reloaded(booster)):
        recipe, error = leaf_error(found, table, y, weight)
        assert error < EXACT
        assert recipe.inexact_because == ()


def test_training_that_was_continued():
    booster, table, y, _ = train("binary:logistic", binary, {"eta": 0.4})
    rows = xgboost.DMatrix(table, y)
    for eta in (0.4, 0.1):
        params = {"objective": "binary:logistic", "max_depth": 3, "eta": eta}
        longer = xgboost.train(params, rows, 4, xgb_model=booster)
        for found in (longer, reloaded(longer)):
            recipe, error = leaf_error(found, table, y)
            assert error < EXACT
            np.testing.assert_allclose(recipe.learning_rate, [0.4] * 4 + [eta] * 4, rtol=1e-4)


def test_trees_that_were_refreshed_on_other_rows():
    """Their leaves are then those of the new rows, tree after tree."""
    booster, *_ = train("binary:logistic", binary, {})
    table, score = make_table(8)
    table, y = table[["x", "k"]], binary(score)
    params = {"objective": "binary:logistic", "process_type": "update", "updater": "refresh"}
    params |= {"refresh_leaf": True, "eta": 0.3}
    fresh = xgboost.train(params, xgboost.DMatrix(table, y), 4, xgb_model=booster)
    for found in (fresh, reloaded(fresh)):
        _, error = leaf_error(found, table, y)
        assert error < EXACT


@pytest.mark.parametrize("method", ["uniform", "gradient_based"])
def test_sampled_rows_are_named(method):
    if method == "gradient_based" and VERSION < (3, 2):
        pytest.skip("the CPU has it since 3.2")
    params = {"subsample": 0.7, "sampling_method": method}
    booster, table, y, _ = train("reg:squarederror", real, params)
    recipe, error = leaf_error(booster, table, y)
    assert error > EXACT
    assert recipe.inexact_because == ("subsample",)


def test_best_iteration_of_a_forest():
    table, score = make_table(3)
    X, y = table[["x", "k"]], binary(score)
    model = make_model(
        "binary:logistic", n_estimators=50, early_stopping_rounds=2, learning_rate=1.0,
        num_parallel_tree=2, colsample_bynode=0.5,
    )  # fmt: skip
    model.fit(X[:100], y[:100], eval_set=[(X[100:], y[100:])], verbose=False)
    assert 2 * (model.best_iteration + 1) < len(booster_of(model).get_dump())
    assert trace(model, X[:100], y[:100]).replay.error.largest < 1e-4
