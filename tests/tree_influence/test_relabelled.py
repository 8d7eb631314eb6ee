"""`Relabelled` by BoostIn and LeafInfluence, against refits with split weights and real labels."""

from dataclasses import replace

import numpy as np
import pytest

from influence import Relabelled
from influence.errors import InputError, UnsupportedChangeError
from tests.laws.trees import TreeProblem
from tests.reference import boosting
from tests.tree_influence import models
from tests.tree_influence.synthetic import CASES, as_run, random_boosting
from tests.tree_influence.test_formulas import ONE_STEP, close
from tree_influence import (
    AXIL,
    TREX,
    BoostIn,
    LeafInfluence,
    LeafRefit,
    SplitInfluence,
    TreeSim,
    trace,
)

ROWS = (1, 7)
REAL = [(library, task) for library in models.LIBRARIES for task in models.TASKS]


def other_label(loss, label, n_classes):
    """A label the row does not have."""
    return (
        label + 1.7 if loss in ("squared", "poisson", "gamma") else (label + 1) % max(2, n_classes)
    )


def others(described, rows=ROWS):
    labels = [other_label(described.loss, described.target[j], described.n_outputs) for j in rows]
    return np.array(labels)


@pytest.mark.parametrize("case", CASES)
def test_leaf_influence_is_the_derivative_of_splitting_the_weight(case):
    described, weight, *queries = random_boosting(case)
    run, asked = as_run(described, weight, *queries)
    estimator = LeafInfluence().fit(run)
    for row, label in zip(ROWS, others(described), strict=True):
        ours = estimator._relabelled(Relabelled([row], [label]), asked)
        oracle = boosting.finite_difference_relabelled(described, weight, row, label, queries)
        close(ours, oracle)


@pytest.mark.parametrize("shrunken", [False, True])
@pytest.mark.parametrize("case", ONE_STEP)
def test_boostin_is_the_triple_loop_at_both_labels(case, shrunken):
    described, weight, *queries = random_boosting(case)
    run, asked = as_run(described, weight, *queries)
    labels = described.target.copy()
    labels[list(ROWS)] = others(described)
    change = Relabelled(ROWS, labels[list(ROWS)])
    ours = BoostIn(shrunken).fit(run)._relabelled(change, asked)
    before, after = (
        boosting.boostin(described, weight, *queries, shrunken, labels=of)
        for of in (described.target, labels)
    )
    close(ours, (before - after).sum(axis=0), 1e-12)


@pytest.mark.parametrize("case", [name for name in CASES if CASES[name].n_steps > 1])
def test_with_one_round_boostin_is_the_derivative(case):
    """It differs only in taking the query's gradient before the round, which here does nothing."""
    described, weight, *queries = random_boosting(case, n_rounds=1)
    described.rate[:] = 1e-6
    run, asked = as_run(described, weight, *queries)
    rows = range(len(weight))
    labels = others(described, rows)
    ours = BoostIn().fit(run)._relabelled(Relabelled(rows, labels), asked)
    oracle = sum(
        boosting.finite_difference_relabelled(described, weight, row, label, queries, 1e-3)
        for row, label in zip(rows, labels, strict=True)
    )
    close(ours, oracle, 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_through_self_is_the_derivative_for_rows_alone_in_their_leaves(case):
    described, weight, *queries = random_boosting(case)
    described.leaves[:] = np.minimum(described.leaves, described.n_leaves - 2)
    described.leaves[:, :, 1] = described.n_leaves - 1
    run, asked = as_run(described, weight, *queries)
    alone, shared = (Relabelled([row], others(described, [row])) for row in (1, 7))
    everywhere, own = (LeafInfluence(through).fit(run) for through in ("all", "self"))
    found, expected = (fit._relabelled(alone, asked) for fit in (own, everywhere))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    gap = own._relabelled(shared, asked) - everywhere._relabelled(shared, asked)
    assert np.abs(gap).max() > 1e-9, "other rows must differ"


@pytest.mark.parametrize("estimator", [BoostIn(), LeafInfluence(), LeafInfluence("self")], ids=repr)
@pytest.mark.parametrize("case", ["softmax", "logistic, several steps", "squared, offset"])
def test_small_chunks_of_rounds_change_nothing(case, estimator, monkeypatch):
    described, weight, *queries = random_boosting(case)
    run, asked = as_run(described, weight, *queries)
    change = Relabelled(ROWS, others(described))
    at_once = estimator.fit(run)._relabelled(change, asked)
    monkeypatch.setattr("tree_influence.replay.CHUNK_BYTES", 1)
    np.testing.assert_allclose(estimator.fit(run)._relabelled(change, asked), at_once, rtol=1e-12)


def test_squared_error_has_the_derivative_by_the_label():
    """Refits at y + 1e-4 and y - 1e-4, with no weight changed."""
    described, weight, *queries = random_boosting("squared")
    run, asked = as_run(described, weight, *queries)
    row, step = 3, 1e-4
    losses = []
    for moved in (step, -step):
        target = described.target.copy()
        target[row] += moved
        losses.append(boosting.query_losses(replace(described, target=target), weight, *queries))
    change = Relabelled([row], [described.target[row] + step])
    ours = LeafInfluence().fit(run)._relabelled(change, asked) / step
    close(ours, (losses[0] - losses[1]) / (2 * step), 1e-7)


@pytest.fixture(scope="module", params=REAL, ids=lambda case: " ".join(case))
def real(request):
    """A run of a real model, the oracle's view of it, and two rows with other labels."""
    library, task = request.param
    fitted = models.fit(library, task)
    described, query_leaves = models.describe(library, task, fitted)
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    labels = others(described)
    labels = labels if task == "squared" else labels.astype(int)
    return fitted, described, query_leaves, run, labels


def test_leaf_influence_is_the_derivative_on_real_models(real):
    fitted, described, query_leaves, run, labels = real
    ours = LeafInfluence().fit(run).predict(Relabelled(ROWS, labels), fitted.X_test, fitted.y_test)
    queries = (query_leaves, fitted.y_test.astype(float))
    oracle = sum(
        boosting.finite_difference_relabelled(described, fitted.weight, row, label, queries)
        for row, label in zip(ROWS, labels, strict=True)
    )
    close(ours, oracle)


def test_boostin_is_the_triple_loop_on_real_models(real):
    fitted, described, query_leaves, run, new = real
    if described.n_steps > 1:
        pytest.skip("the triple loop knows one Newton step a tree")
    ours = BoostIn().fit(run).predict(Relabelled(ROWS, new), fitted.X_test, fitted.y_test)
    labels, y_test = described.target.copy(), fitted.y_test.astype(float)
    labels[list(ROWS)] = new
    before, after = (
        boosting.boostin(described, fitted.weight, query_leaves, y_test, labels=of)
        for of in (described.target, labels)
    )
    close(ours, (before - after).sum(axis=0))


@pytest.mark.parametrize("estimator", [BoostIn, LeafInfluence, lambda: LeafInfluence("self")])
def test_effects_add_over_rows_and_no_change_has_none(real, estimator):
    fitted, _, _, run, labels = real
    fit, queries = estimator().fit(run), (fitted.X_test, fitted.y_test)
    together = fit.predict(Relabelled(ROWS, labels), *queries)
    parts = [fit.predict(Relabelled([j], [y]), *queries) for j, y in zip(ROWS, labels, strict=True)]
    np.testing.assert_allclose(np.sum(parts, axis=0), together, rtol=1e-9, atol=1e-12)
    for nothing in (Relabelled([], []), Relabelled(ROWS, fitted.y[list(ROWS)])):
        np.testing.assert_array_equal(fit.predict(nothing, *queries), 0.0)


@pytest.mark.parametrize("estimator", [BoostIn, LeafInfluence])
@pytest.mark.parametrize("task", models.TASKS)
@pytest.mark.parametrize("library", models.LIBRARIES)
def test_a_wrong_label_on_the_planted_copy_of_a_query_hurts(library, task, estimator):
    problem = TreeProblem(library, task)
    row, query = problem.planted
    wrong = 3.0 if task == "squared" else models.N_CLASSES - 1 if task == "softmax" else 1
    fit = estimator().fit(problem.run())
    effect = fit.predict(Relabelled([row], [wrong]), *problem.queries)
    assert effect[query] > 0, "the copy's right label is taken away, so the loss must rise"
    unseen = fit.predict(Relabelled([problem.zero_weight], [wrong]), *problem.queries)
    np.testing.assert_array_equal(unseen, 0.0, "a row of weight 0 took no part in training")


@pytest.mark.parametrize("weights", [{"class_weight": {0: 1.0, 1: 3.0}}, {"scale_pos_weight": 3.0}])
def test_the_weight_follows_the_label(weights):
    """A class weight is what rows of a class weigh, whoever gets that label."""
    fitted = models.fit("lightgbm", "logistic")
    model = models.make("lightgbm", "logistic", 3).set_params(boost_from_average=False, **weights)
    model.fit(fitted.X, fitted.y, sample_weight=fitted.weight)
    fitted.model = model
    described, query_leaves = models.describe("lightgbm", "logistic", fitted)
    described.start = np.zeros(1)
    weight = fitted.weight * np.where(fitted.y == 1, 3.0, 1.0)
    run = trace(model, fitted.X, fitted.y, fitted.weight)
    row, queries = 4, (query_leaves, fitted.y_test.astype(float))
    label = 1 - fitted.y[row]
    split = boosting.with_a_copy(described, row, label)
    losses = []
    for e in (1e-5, -1e-5):
        shared = np.append(weight, e * fitted.weight[row] * (3.0 if label else 1.0))
        shared[row] *= 1 - e
        losses.append(boosting.query_losses(split, shared, *queries))
    change, oracle = Relabelled([row], [label]), (losses[0] - losses[1]) / 2e-5
    for estimator in (LeafInfluence(), LeafInfluence("self"), BoostIn()):
        effect = estimator.fit(run).predict(change, fitted.X_test, fitted.y_test)
        if estimator.parameters == {"through": "all"}:
            close(effect, oracle)
        assert np.corrcoef(effect, oracle)[0, 1] > 0.9


def test_several_targets():
    """Each target of a row is a regression of its own, when each output has its own trees."""
    import xgboost

    fitted = models.fit("xgboost", "squared")
    y, y_test = (np.column_stack([of, -2 * of]) for of in (fitted.y, fitted.y_test))
    settings = {"n_estimators": 3, "max_depth": 3, "base_score": 0.5, "n_jobs": 1}
    both = trace(xgboost.XGBRegressor(**settings).fit(fitted.X, y), fitted.X, y)
    new = np.array([[2.0, -1.0], [0.3, 4.0]])
    for estimator in (LeafInfluence, BoostIn):
        ours = estimator().fit(both).predict(Relabelled(ROWS, new), fitted.X_test, y_test)
        one_by_one = 0.0
        for k in range(2):
            single = xgboost.XGBRegressor(**settings).fit(fitted.X, y[:, k])
            run = trace(single, fitted.X, y[:, k])
            change = Relabelled(ROWS, new[:, k])
            one_by_one += estimator().fit(run).predict(change, fitted.X_test, y_test[:, k])
        close(ours, one_by_one, 1e-5)


def test_labels_the_model_does_not_know_are_refused():
    fitted = models.fit("sklearn_gb", "logistic")
    fit = LeafInfluence().fit(trace(fitted.model, fitted.X, fitted.y, fitted.weight))
    with pytest.raises(InputError, match="none of the model's classes"):
        fit.predict(Relabelled([0], [2]), fitted.X_test, fitted.y_test)
    influence = fit.explain(fitted.X_test, fitted.y_test)
    with pytest.raises(UnsupportedChangeError, match=r"predict\(Relabelled"):
        influence.predict(Relabelled([0], [1]))


@pytest.mark.parametrize(
    ("objective", "wrong", "right"),
    [
        ("reg:squaredlogerror", -1.0, -0.5),
        ("reg:gamma", 0.0, 0.5),
        ("reg:tweedie", -0.1, 0.0),
        ("count:poisson", -0.1, 0.0),
        ("reg:logistic", 1.1, 1.0),
    ],
)
def test_a_label_the_loss_cannot_take_is_refused(objective, wrong, right):
    import xgboost

    fitted = models.fit("sklearn_gb", "squared")
    y, y_test = (1 / (1 + np.exp(-target)) for target in (fitted.y, fitted.y_test))
    model = xgboost.XGBRegressor(objective=objective, n_estimators=2, max_depth=2, n_jobs=1)
    run = trace(model.fit(fitted.X, y), fitted.X, y)
    estimators = [BoostIn(), LeafInfluence(), LeafRefit()]
    for estimator in estimators if objective == "reg:squaredlogerror" else [*estimators, AXIL()]:
        fit = estimator.fit(run)
        with pytest.raises(InputError, match=f"is defined for, got {wrong} for row 1"):
            fit.predict(Relabelled([0, 1], [right, wrong]), fitted.X_test, y_test)
        effect = fit.predict(Relabelled([0, 1], [right, right]), fitted.X_test, y_test)
        assert np.isfinite(effect).all() and effect.any()
    model.fit(fitted.X, np.append(right, y[1:]))
    with pytest.raises(xgboost.core.XGBoostError):
        model.fit(fitted.X, np.append(wrong, y[1:]))


def test_weights_that_depend_on_a_number_are_refused():
    import catboost

    fitted = models.fit("sklearn_gb", "squared")
    settings = {"iterations": 2, "verbose": False, "allow_writing_files": False}
    model = catboost.CatBoost(
        {"loss_function": "Logloss", "target_border": 0.1, "class_weights": [1, 3], **settings}
    ).fit(fitted.X, fitted.y)
    fit = BoostIn().fit(trace(model, fitted.X, fitted.y))
    with pytest.raises(UnsupportedChangeError, match="depend on a target that is a number"):
        fit.predict(Relabelled([0], [1.0]), fitted.X_test, fitted.y_test)


@pytest.mark.parametrize("make", [BoostIn, LeafInfluence, SplitInfluence, TREX, TreeSim])
def test_many_queries_are_answered_in_blocks(make):
    fitted = models.fit("lightgbm", "logistic")
    estimator = make().fit(fitted.model, fitted.X, fitted.y, fitted.weight)
    change = Relabelled([2, 9], 1 - fitted.y[[2, 9]])
    X, y = np.tile(fitted.X_test, (50, 1)), np.tile(fitted.y_test, 50)  # more than one block
    once = estimator.predict(change, fitted.X_test, fitted.y_test)
    np.testing.assert_allclose(estimator.predict(change, X, y), np.tile(once, 50), rtol=1e-12)
