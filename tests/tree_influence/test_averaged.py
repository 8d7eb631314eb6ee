"""Averaged: which halves, what is asked of their models, and that it is their mean."""

from dataclasses import replace

import joblib
import numpy as np
import pytest

from influence.change import Relabelled, Without
from influence.errors import InputError, UnsupportedChangeError, UnsupportedModelError
from tests.laws.linear import Newton
from tests.reference import boosting
from tests.tree_influence import models
from tree_influence import Averaged, BoostIn, LeafInfluence, Random, SplitInfluence, trace
from tree_influence.halves import half_run, half_weighted, random_halves
from tree_influence.retrain import Retrained


def traced(library="lightgbm", task="logistic", **more):
    fitted = models.fit(library, task, n_trees=3, n_train=60, **more)
    return trace(fitted.model, fitted.X, fitted.y, fitted.weight), fitted


def kept(run, half):
    return np.setdiff1d(np.arange(run.n_train), half.rows)


def test_halves_come_in_pairs_that_divide_the_rows():
    run, _ = traced()
    halves = random_halves(run, 5, seed=0)
    assert len(halves) == 5
    for first, second in zip(halves[:4:2], halves[1:4:2], strict=True):
        np.testing.assert_array_equal(np.sort(np.r_[first.rows, second.rows]), np.arange(60))
        for half in (first, second):
            counts = np.bincount(run.target[kept(run, half)].astype(int))
            assert np.abs(counts - np.bincount(run.target.astype(int)) / 2).max() <= 0.5
    assert not np.array_equal(halves[0].rows, halves[2].rows)


def test_halves_follow_the_content_of_rows():
    run, fitted = traced()
    order = np.random.default_rng(1).permutation(60)
    again = trace(fitted.model, fitted.X[order], fitted.y[order], fitted.weight[order])
    for half, other in zip(random_halves(run, 3, 0), random_halves(again, 3, 0), strict=True):
        np.testing.assert_array_equal(half.rows, np.sort(order[other.rows]))


def test_a_class_of_one_row_is_in_every_half():
    run, _ = traced()
    rare = replace(run, target=np.where(np.arange(60) == 5, 2.0, run.target))
    assert all(5 in kept(run, half) for half in random_halves(rare, 4, 0))


def test_rows_of_no_weight_are_in_no_half():
    run, _ = traced()
    weight = run.weight.copy()
    weight[9] = 0.0
    assert all(9 in half.rows for half in random_halves(replace(run, weight=weight), 4, 0))


@pytest.mark.parametrize("task", models.TASKS)
@pytest.mark.parametrize("library", models.LIBRARIES)
def test_a_half_run_has_the_trees_of_the_retrained_model_and_all_rows(library, task):
    run, _ = traced(library, task)
    half = Without(np.arange(0, 60, 2)) if task == "squared" else random_halves(run, 1, 0)[0]
    asked = half_run(run, half)
    new = Retrained.after(half, run).adapter
    if library != "catboost":  # its trees differ from training to training in the last bit
        np.testing.assert_array_equal(asked.adapter.ensemble.leaf_value, new.ensemble.leaf_value)
    assert asked.leaves.shape == run.leaves.shape
    np.testing.assert_array_equal(asked.weight, run.weight / 2)
    assert asked.replay.raw.shape == run.replay.raw.shape


def test_values_at_half_weight_are_the_derivative_of_a_refit_at_half_weight():
    run, fitted = traced()
    described, query_leaves = models.describe("lightgbm", "logistic", fitted)
    ours = LeafInfluence().fit(half_weighted(run)).explain(fitted.X_test, fitted.y_test).values
    oracle = boosting.finite_difference_influence(
        described, fitted.weight / 2, query_leaves, np.asarray(fitted.y_test, dtype=float)
    )
    np.testing.assert_allclose(ours, oracle, atol=1e-6 * np.abs(oracle).max())


@pytest.mark.parametrize("make", [BoostIn, LeafInfluence, SplitInfluence])
def test_values_are_the_mean_over_the_models(make):
    run, fitted = traced()
    queries = fitted.X_test, fitted.y_test
    halves = random_halves(run, 3, seed=4)
    each = [make().fit(half_run(run, half)).explain(*queries).values for half in halves]
    averaged = Averaged(make(), n_models=3, seed=4).fit(run)
    np.testing.assert_allclose(
        averaged.explain(*queries).values, np.mean(each, axis=0), rtol=1e-12, atol=1e-15
    )


def test_jobs_change_nothing():
    run, fitted = traced()
    queries = fitted.X_test, fitted.y_test
    alone = Averaged(LeafInfluence(), 2).fit(run).explain(*queries).values
    with joblib.parallel_config(backend="threading", n_jobs=2):
        together = Averaged(LeafInfluence(), 2).fit(run).explain(*queries).values
    np.testing.assert_array_equal(alone, together)


def test_margins_reach_every_model():
    import xgboost

    rng = np.random.default_rng(0)
    X, margin = rng.normal(size=(80, 3)), rng.normal(size=80)
    y = X[:, 0] + margin + 0.1 * rng.normal(size=80)
    train = xgboost.DMatrix(X, y, base_margin=margin)
    model = xgboost.train({"max_depth": 2, "eta": 0.3, "nthread": 1}, train, 5)
    run = trace(model, train)
    values = Averaged(LeafInfluence(), 2).fit(run).explain(train).values
    single = LeafInfluence().fit(run).explain(train).values
    assert np.corrcoef(values.ravel(), single.ravel())[0, 1] > 0.5, "the margins are lost"


def test_provenance_names_the_estimator():
    run, fitted = traced()
    explained = Averaged(BoostIn(shrunken_leaves=True), 2).fit(run).explain(*queries_of(fitted))
    stated = explained.provenance.parameters
    assert stated == {"estimator": repr(BoostIn(shrunken_leaves=True)), "n_models": 2, "seed": 0}


def test_the_leaf_error_of_the_halves_is_stated():
    run, fitted = traced()
    stated = Averaged(BoostIn(), 2).fit(run).explain(*queries_of(fitted)).provenance.run
    errors = [
        Retrained.after(half, run).traced().replay.error.largest
        for half in random_halves(run, 2, seed=0)
    ]
    assert stated["halves_leaf_error_largest"] == max(errors) < 1e-4


def queries_of(fitted):
    return fitted.X_test, fitted.y_test


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(InputError, match="add over rows"):
        Averaged(Averaged(BoostIn()))
    with pytest.raises(InputError, match="add over rows"):
        Averaged(BoostIn)  # type: ignore[arg-type]
    for wrong in ({"n_models": 0}, {"n_models": 2.5}, {"seed": -1}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} must be a whole number"):
            Averaged(BoostIn(), **wrong)
    assert isinstance(Averaged(Newton()).estimator, Newton)


def test_too_few_rows_to_halve_are_refused():
    X = np.arange(3.0)[:, None]
    model = models.make("xgboost", "squared", 2).fit(X, X[:, 0])
    with pytest.raises(InputError, match=r"3 training rows .* too few"):
        Averaged(LeafInfluence(), 2).fit(model, X, X[:, 0])


def test_models_without_newton_leaves_are_refused_as_by_the_estimator():
    import lightgbm

    X, y, *_ = models.make_data("squared", 60)
    model = lightgbm.LGBMRegressor(n_estimators=2, objective="mae", verbose=-1, n_jobs=1).fit(X, y)
    with pytest.raises(UnsupportedModelError):
        Averaged(LeafInfluence(), 2).fit(model, X, y)


@pytest.mark.parametrize("task", models.TASKS)
def test_other_labels_are_averaged(task):
    run, fitted = traced(task=task)
    change, asked = Relabelled([3, 8], fitted.y[[4, 9]]), (fitted.X_test, fitted.y_test)
    expected = [
        LeafInfluence().fit(half_run(run, half)).predict(change, *asked)
        for half in random_halves(run, 3, seed=0)
    ]
    found = Averaged(LeafInfluence(), n_models=3).fit(run).predict(change, *asked)
    np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=1e-12)
    with pytest.raises(UnsupportedChangeError, match="Random"):
        Averaged(Random(), n_models=1).fit(run).predict(change, *asked)
