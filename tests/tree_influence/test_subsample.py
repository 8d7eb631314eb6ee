"""SubSample against numpy averages over models fitted by hand on the same subsets."""

import numpy as np
import pytest
from sklearn import ensemble
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from influence import Without
from influence.errors import InputError
from tests.laws.trees import TreeProblem
from tests.tree_influence import models
from tests.tree_influence.test_loo import loss
from tree_influence import trace
from tree_influence.subsample import SubSample, draw_subsets

ZERO = 4  # position of the row of weight 0


def by_hand(task, model, fitted, asked, member):
    """Losses of the asked rows after fitting on each subset, shape (n_models, n_asked)."""
    found = []
    for kept in member:
        again = type(model)(**model.get_params())
        again.fit(fitted.X[kept], fitted.y[kept], sample_weight=fitted.weight[kept])
        found.append(loss(task, again, *asked))
    return np.array(found)


@pytest.fixture(scope="module", params=models.LIBRARIES)
def library(request):
    return request.param


@pytest.fixture(scope="module", params=models.TASKS)
def case(request, library):
    fitted = models.fit(library, request.param, n_train=30)
    fitted.weight[ZERO] = 0.0
    fitted.model.fit(fitted.X, fitted.y, sample_weight=fitted.weight)
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    return request.param, fitted, SubSample(n_models=12, seed=3).fit(run)


PROBLEM = TreeProblem("lightgbm", "squared")


def test_the_sign_is_right_with_enough_models():
    row, query = PROBLEM.planted
    estimator = SubSample(n_models=80).fit(PROBLEM.run())
    X, y = PROBLEM.part(slice(query, query + 1))
    value = estimator.explain(X, y).values[row, 0]
    assert value > 2 * estimator.standard_error(X, y)[row, 0]


def test_values_are_differences_of_means(case):
    task, fitted, estimator = case
    asked, member = (fitted.X_test, fitted.y_test), estimator.member_
    losses = by_hand(task, fitted.model, fitted, asked, member)
    found = estimator.explain(*asked)
    errors = estimator.standard_error(*asked)
    for i in range(30):
        if i == ZERO:
            np.testing.assert_array_equal([found.values[i], errors[i]], 0.0)
            continue
        within, without = losses[member[:, i]], losses[~member[:, i]]
        expected = without.mean(axis=0) - within.mean(axis=0)
        np.testing.assert_allclose(found.values[i], expected, rtol=1e-4, atol=1e-5)
        squared = without.var(axis=0, ddof=1) / len(without)
        squared += within.var(axis=0, ddof=1) / len(within)
        np.testing.assert_allclose(errors[i], np.sqrt(squared), rtol=1e-4, atol=1e-5)


def test_self_influence_and_predictions_follow_from_the_values(case):
    _, fitted, estimator = case
    of_train = estimator.explain(fitted.X, fitted.y).values
    np.testing.assert_allclose(estimator.self_influence(), np.diagonal(of_train), atol=1e-12)
    asked = fitted.X_test, fitted.y_test
    values = estimator.explain(*asked).values
    np.testing.assert_allclose(
        estimator.predict(Without([2, 5]), *asked), values[[2, 5]].sum(axis=0), atol=1e-12
    )
    one_by_one = [estimator.explain(asked[0][[j]], asked[1][[j]]).values for j in range(6)]
    np.testing.assert_array_equal(np.hstack(one_by_one), values)


def test_subsets_are_balanced_and_keep_every_class():
    fitted = models.fit("sklearn_gb", "softmax", n_train=60)
    fitted.y[:] = np.where(np.arange(60) < 2, 2, np.arange(60) % 2)  # two rows of the last class
    fitted.weight[ZERO] = 0.0
    fitted.model.fit(fitted.X, fitted.y, sample_weight=fitted.weight)
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    member = draw_subsets(run, n_models=20, keep=0.7, seed=0)
    assert not member[:, ZERO].any()
    for label, kept, n_rows in ((2, 1, 2), (1, 20, 29), (0, 20, 28)):
        rows = (fitted.y == label) & (fitted.weight > 0)
        assert (rows.sum(), set(member[:, rows].sum(axis=1))) == (n_rows, {kept})
        assert np.ptp(member[:, rows].sum(axis=0)) <= 1, "some rows are left out more often"
    assert len(np.unique(member, axis=0)) == 20
    np.testing.assert_array_equal(member, draw_subsets(run, n_models=20, keep=0.7, seed=0))
    assert (member != draw_subsets(run, n_models=20, keep=0.7, seed=1)).any()


def test_the_standard_error_is_the_spread_over_seeds():
    fitted = models.fit("sklearn_gb", "squared", n_train=30)
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    asked = fitted.X_test, fitted.y_test
    made = [SubSample(n_models=20, keep=0.5, seed=seed).fit(run) for seed in range(8)]
    spread = np.stack([one.explain(*asked).values for one in made]).var(axis=0, ddof=1)
    stated = np.mean([one.standard_error(*asked) ** 2 for one in made], axis=0)
    assert 0.7 < np.sqrt(spread.mean() / stated.mean()) < 1.3


@pytest.mark.parametrize(
    "model",
    [
        ensemble.RandomForestRegressor(n_estimators=3, max_depth=3, random_state=0),
        make_pipeline(StandardScaler(), models.make("lightgbm", "squared", 3)),
    ],
    ids=["forest", "pipeline"],
)
def test_models_without_leaf_formula_and_pipelines(model):
    from sklearn.base import clone

    X, y, X_test, y_test = models.make_data("squared", n_train=30)
    estimator = SubSample(n_models=8, keep=0.5).fit(model.fit(X, y), X, y)
    losses = np.array(
        [
            loss("squared", clone(model).fit(X[kept], y[kept]), X_test, y_test)
            for kept in estimator.member_
        ]
    )
    row = estimator.member_[:, 11]
    np.testing.assert_allclose(
        estimator.explain(X_test, y_test).values[11],
        losses[~row].mean(axis=0) - losses[row].mean(axis=0), rtol=1e-7, atol=1e-12,
    )  # fmt: skip


def test_too_few_models_are_refused():
    fitted = models.fit("sklearn_gb", "squared")
    for wrong in ({"keep": 1.0}, {"n_models": 3}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            SubSample(**wrong)
    with pytest.raises(InputError, match="Raise n_models"):
        SubSample(n_models=5, keep=0.9).fit(fitted.model, fitted.X, fitted.y, fitted.weight)
