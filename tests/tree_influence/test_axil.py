"""`AXIL`: weights that add up to the predictions, and exact answers to other targets."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.dummy import DummyRegressor

from influence import Relabelled, Reweighted, Without
from influence.errors import UnsupportedChangeError, UnsupportedModelError
from tests.reference import boosting
from tests.tree_influence import models
from tests.tree_influence.synthetic import CASES, as_run, random_boosting
from tests.tree_influence.test_formulas import close
from tree_influence import trace
from tree_influence.axil import AXIL
from tree_influence.labels import NewLabels

LINEAR_NUMBERS = [
    case
    for case, asked in CASES.items()
    if asked.loss in ("squared", "logistic", "poisson", "gamma")
]
FLOAT32 = {"xgboost"}  # whose own predictions are sums of float32


@pytest.fixture(scope="module", params=models.LIBRARIES)
def squared(request):
    """A regression of each library whose start is the mean of the targets, far from 0."""
    library = request.param
    fitted = models.fit(library, "squared")
    fitted.y = fitted.y + 5.0
    model = models.make(library, "squared", n_trees=5)
    if library == "xgboost":
        model.set_params(base_score=None)
    fitted.model = model.fit(fitted.X, fitted.y, sample_weight=fitted.weight)
    described, query_leaves = models.describe(library, "squared", fitted)
    described.start = np.array([np.average(fitted.y, weights=fitted.weight)])
    return library, fitted, described, query_leaves


def fit_to(fitted):
    return AXIL().fit(trace(fitted.model, fitted.X, fitted.y, fitted.weight))


def test_predictions_are_the_weighted_sums_of_the_targets(squared):
    library, fitted, *_ = squared
    axil = fit_to(fitted)
    weights = axil.weights(fitted.X_test)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=1e-12)
    sums, replay = fitted.y @ weights, axil.run_.replay
    queries = axil.run_.queries(fitted.X_test, fitted.y_test)
    replayed = replay.raw_after(queries.leaves, queries.offset)[:, 0]
    np.testing.assert_allclose(sums, replayed, rtol=1e-7, err_msg="not the float64 replay")
    own = fitted.model.predict(fitted.X_test)
    np.testing.assert_allclose(sums, own, rtol=1e-6 if library in FLOAT32 else 1e-7)


def test_answers_are_those_of_a_refit_with_another_start(squared):
    """One target is moved far; leaves and the mean of the targets are computed anew."""
    _, fitted, described, query_leaves = squared
    axil, y_test = fit_to(fitted), fitted.y_test + 5.0
    moved, row = described.target.copy(), 6
    moved[row] -= 11.0
    start = np.array([np.average(moved, weights=fitted.weight)])
    scores = []
    for target, begun in ((described.target, described.start), (moved, start)):
        refitted = replace(described, target=target, start=begun)
        values = boosting.refit(refitted, fitted.weight)
        scores.append(boosting.query_scores(refitted, values, query_leaves)[:, 0])
    close(axil.weights(fitted.X_test)[row] * -11.0, scores[1] - scores[0], 1e-6)
    effect = axil.predict(Relabelled([row], moved[[row]]), fitted.X_test, y_test)
    close(effect, 0.5 * ((scores[1] - y_test) ** 2 - (scores[0] - y_test) ** 2), 1e-6)


@pytest.mark.parametrize("case", [name for name in CASES if CASES[name].loss == "squared"])
def test_far_changes_are_exact_from_a_fixed_start(case):
    described, weight, leaves, target = random_boosting(case)
    described.l1 = min(described.l1, 0.01)  # no sum of gradients comes near
    run, asked = as_run(described, weight, leaves, target)
    axil = AXIL().fit(run)
    changed = described.target.copy()
    changed[[2, 5]] += [3.0, -2.0] if case != "squared, l1" else [0.003, -0.002]
    losses = [
        boosting.query_losses(replace(described, target=of), weight, leaves, target)
        for of in (described.target, changed)
    ]
    ours = axil._relabelled(Relabelled([2, 5], changed[[2, 5]]), asked)
    close(ours, losses[1] - losses[0], 1e-9)


@pytest.mark.parametrize("case", LINEAR_NUMBERS)
def test_weights_are_the_derivative_of_the_score_by_the_target(case):
    described, weight, leaves, target = random_boosting(case)
    run, asked = as_run(described, weight, leaves, target)
    ours = AXIL().fit(run)._weights(asked.leaves)[:, :, 0]
    oracle, step = np.empty_like(ours), 1e-5
    for row in range(len(weight)):
        scores = []
        for by in (step, -step):
            moved = described.target.copy()
            moved[row] += by
            refitted = replace(described, target=moved)
            values = boosting.refit(refitted, weight)
            scores.append(boosting.query_scores(refitted, values, leaves)[:, 0])
        oracle[row] = (scores[0] - scores[1]) / (2 * step)
    close(ours, oracle)


@pytest.mark.parametrize("case", [case for case in CASES if "softmax" in case or "one" in case])
def test_scores_of_classes_move_as_in_a_refit_of_split_weights(case):
    described, weight, leaves, target = random_boosting(case)
    run, asked = as_run(described, weight, leaves, target)
    row, step = 4, 1e-5
    label = (described.target[row] + 1) % described.n_outputs
    split = boosting.with_a_copy(described, row, label)
    scores = []
    for e in (step, -step):
        shared = np.append(weight, e * weight[row])
        shared[row] *= 1 - e
        scores.append(boosting.query_scores(split, boosting.refit(split, shared), leaves))
    new = NewLabels.of(Relabelled([row], [label]), run)
    close(AXIL().fit(run)._moved(new, asked.leaves), (scores[0] - scores[1]) / (2 * step))


@pytest.mark.parametrize("task", ["logistic", "softmax"])
@pytest.mark.parametrize("library", models.LIBRARIES)
def test_with_other_losses_effects_are_the_derivative_of_splitting_the_weight(library, task):
    fitted = models.fit(library, task)
    described, query_leaves = models.describe(library, task, fitted)
    label = (fitted.y[3] + 1) % max(2, described.n_outputs)
    ours = fit_to(fitted).predict(Relabelled([3], [label]), fitted.X_test, fitted.y_test)
    queries = (query_leaves, fitted.y_test.astype(float))
    close(ours, boosting.finite_difference_relabelled(described, fitted.weight, 3, label, queries))


def test_a_start_that_was_given_has_no_share():
    fitted = models.fit("xgboost", "squared")  # base_score=0.5
    axil = fit_to(fitted)
    weights = axil.weights(fitted.X_test)
    assert (weights.sum(axis=0) < 0.99).all(), "a fixed start takes up part of the prediction"
    own = fitted.model.predict(fitted.X_test)
    np.testing.assert_allclose((fitted.y - 0.5) @ weights, own - 0.5, rtol=1e-5, atol=1e-6)


CENTRED = {  # settings that start at the mean, and settings that start at 0
    "lightgbm": ({}, {"boost_from_average": False}),
    "catboost": ({}, {"boost_from_average": False}),
    "xgboost": ({"base_score": None}, {"base_score": 0.0}),
    "sklearn_gb": ({}, {"init": DummyRegressor(strategy="constant", constant=0.0)}),
}


@pytest.mark.parametrize("library", CENTRED)
def test_a_fixed_start_that_is_the_mean_by_chance_has_no_share(library):
    """Centred targets, as many users have them, make every mean 0."""
    fitted = models.fit(library, "squared")
    fitted.y = fitted.y - np.average(fitted.y, weights=fitted.weight)
    for settings, has_share in zip(CENTRED[library], (True, False), strict=True):
        fitted.model = models.make(library, "squared", 3).set_params(**settings)
        fitted.model.fit(fitted.X, fitted.y, sample_weight=fitted.weight)
        weights = fit_to(fitted).weights(fitted.X_test)
        assert np.allclose(weights.sum(axis=0), 1.0) == has_share
        own = fitted.model.predict(fitted.X_test)
        np.testing.assert_allclose(fitted.y @ weights, own, rtol=1e-5, atol=1e-6)


def test_starting_scores_have_no_share():
    import lightgbm

    fitted = models.fit("lightgbm", "squared")
    fitted.X = fitted.X.copy()
    scores = fitted.X[:, 0]
    rows = lightgbm.Dataset(fitted.X, fitted.y, init_score=scores, free_raw_data=False)
    settings = {"min_data_in_leaf": 3, "num_leaves": 5, "verbose": -1}
    booster = lightgbm.train(settings, rows, 4)
    weights = AXIL().fit(trace(booster, rows)).weights(fitted.X_test)
    on_rest = lightgbm.Dataset(fitted.X, fitted.y - scores, params={"boost_from_average": False})
    rest = lightgbm.train({**settings, "boost_from_average": False}, on_rest, 4)
    np.testing.assert_allclose(
        (fitted.y - scores) @ weights, rest.predict(fitted.X_test), rtol=1e-6
    )


def test_roots_of_targets():
    """With reg_sqrt the score is the weighted sum of what training sees, the signed roots."""
    fitted = models.fit("lightgbm", "squared")
    model = models.make("lightgbm", "squared", 4).set_params(reg_sqrt=True)
    fitted.model = model.fit(fitted.X, fitted.y, sample_weight=fitted.weight)
    roots = np.sign(fitted.y) * np.sqrt(np.abs(fitted.y))
    own = model.predict(fitted.X_test, raw_score=True)
    np.testing.assert_allclose(roots @ fit_to(fitted).weights(fitted.X_test), own, rtol=1e-6)


@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
def test_several_targets(strategy):
    import xgboost

    fitted = models.fit("xgboost", "squared")
    y = np.column_stack([fitted.y + 3, -2 * fitted.y])
    model = xgboost.XGBRegressor(
        n_estimators=3, max_depth=3, multi_strategy=strategy, tree_method="hist", n_jobs=1
    ).fit(fitted.X, y)
    weights = AXIL().fit(trace(model, fitted.X, y)).weights(fitted.X_test)
    assert weights.shape == (len(y), len(fitted.X_test), 2)
    told = json.loads(model.get_booster().save_config())["learner"]["learner_model_param"]
    start = np.array(json.loads(told["base_score"]))  # the means; 0.5 before 3.1
    sums = start + np.einsum("jqk,jk->qk", weights, y - start)
    np.testing.assert_allclose(sums, model.predict(fitted.X_test), rtol=1e-5, atol=1e-6)


def test_rows_without_weight_and_labels_without_change():
    fitted = models.fit("sklearn_gb", "squared")
    fitted.weight[7] = 0.0
    fitted.model.fit(fitted.X, fitted.y, sample_weight=fitted.weight)
    axil = fit_to(fitted)
    np.testing.assert_array_equal(axil.weights(fitted.X_test)[7], 0.0)
    for change in (
        Relabelled([7], [9.0]),
        Relabelled([3, 5], fitted.y[[3, 5]]),
        Relabelled([], []),
    ):
        effect = axil.predict(change, fitted.X_test, fitted.y_test)
        np.testing.assert_array_equal(effect, 0.0)


def test_other_changes_name_what_answers_them():
    fitted = models.fit("sklearn_gb", "squared")
    axil = fit_to(fitted)
    for change in (Without([0]), Reweighted(np.ones(len(fitted.y)))):
        with pytest.raises(UnsupportedChangeError, match="LeafInfluence"):
            axil.predict(change, fitted.X_test, fitted.y_test)


def test_classes_have_no_weights():
    fitted = models.fit("sklearn_gb", "softmax")
    with pytest.raises(UnsupportedModelError, match="softmax: a class has no weight"):
        fit_to(fitted).weights(fitted.X_test)


def test_losses_that_are_not_linear_in_the_target_are_refused():
    import lightgbm

    fitted = models.fit("lightgbm", "squared")
    model = lightgbm.LGBMRegressor(objective="huber", n_estimators=2, verbose=-1)
    run = trace(model.fit(fitted.X, fitted.y), fitted.X, fitted.y)
    with pytest.raises(UnsupportedModelError, match=r"linear in the target.*huber"):
        AXIL().fit(run)


def test_leaves_that_do_not_recompute_are_refused():
    fitted = models.fit("sklearn_gb", "squared")
    model = models.make("sklearn_gb", "squared", 5).set_params(subsample=0.5)
    run = trace(model.fit(fitted.X, fitted.y), fitted.X, fitted.y, allow_inexact=True)
    with pytest.raises(UnsupportedModelError, match=r"subsample=0\.5\).*not add up"):
        AXIL().fit(run)
