"""TREX against a general minimiser on explicit features of the libraries' own leaves."""

import numpy as np
import pytest
from sklearn import ensemble

from influence import Relabelled
from influence.errors import InputError, UnsupportedModelError
from tests.reference import representer
from tests.tree_influence import models
from tree_influence import TREX, trace

TASKS = ("squared", "logistic", "softmax")


def explicit(library, fitted, kernel):
    """Features of training rows and queries, from what the library tells."""
    both = np.concatenate([fitted.X, fitted.X_test])
    leaves, n = models.library_leaves(library, fitted.model, both), len(fitted.y)
    columns = []
    for row in leaves:
        for leaf in np.unique(row):
            here = row == leaf
            size = fitted.weight[here[:n]].sum()
            value = 1.0 if kernel == "leaf_path" else 1 / size if size > 0 else 0.0
            columns.append(np.where(here, value, 0.0))
    phi = np.column_stack(columns)
    return phi[:n], phi[n:]


def case(library, task):
    fitted = models.fit(library, task, n_trees=4, n_train=60)
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    score = models.raw(library, fitted.model, fitted.X)
    return fitted, run, score, np.average(score, axis=0, weights=fitted.weight)


@pytest.mark.parametrize("target", ["actual", "predicted"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("library", models.LIBRARIES)
def test_values_are_those_of_the_representer_model(library, task, target):
    fitted, run, score, start = case(library, task)
    estimator = TREX("leaf_path", target, min_fidelity=-1).fit(run)
    phi, phi_test = explicit(library, fitted, "leaf_path")
    expected = representer.influence(
        task, phi, fitted.y, fitted.weight, start, estimator.solution_.l2, phi_test, fitted.y_test,
        model=score if target == "predicted" else None,
    )  # fmt: skip
    found = estimator.explain(fitted.X_test, fitted.y_test)
    np.testing.assert_allclose(found.values, expected, atol=2e-5 * np.abs(expected).max())
    assert found.provenance.run["surrogate_fidelity"] == estimator.fidelity_


@pytest.mark.parametrize("task", TASKS)
def test_a_lambda_of_ones_own(task):
    fitted, run, _, start = case("lightgbm", task)
    estimator = TREX("weighted_leaf_path", l2=1e-3, min_fidelity=-1).fit(run)
    phi, phi_test = explicit("lightgbm", fitted, "weighted_leaf_path")
    w = representer.fitted(task, phi, fitted.y, fitted.weight, start, 1e-3)
    queries = run.queries(fitted.X_test, fitted.y_test)
    np.testing.assert_allclose(estimator.scores(queries), start + phi_test @ w, atol=1e-5)


@pytest.mark.parametrize("kernel", ["leaf_output", "tree_output", "feature_path"])
@pytest.mark.parametrize("task", TASKS)
def test_scores_are_sums_over_the_rows(task, kernel):
    fitted, run, _, start = case("xgboost", task)
    estimator = TREX(kernel, min_fidelity=-1).fit(run)
    queries = run.queries(fitted.X_test, fitted.y_test)
    k = estimator.problem_.kernel.columns(queries.leaves)
    shares = estimator.solution_.shares(estimator.problem_)
    np.testing.assert_allclose(estimator.scores(queries), start + k.T @ shares, atol=1e-5)


def test_the_chosen_lambda_matches_the_model_best():
    _, run, score, start = case("lightgbm", "logistic")
    chosen = TREX(min_fidelity=-1).fit(run)

    def fidelity(l2):
        scores = TREX(l2=l2, min_fidelity=-99).fit(run).solution_.scores
        spread = np.average((score - start) ** 2, axis=0, weights=run.weight)
        return 1 - np.average((scores - score) ** 2, axis=0, weights=run.weight) / spread

    own = fidelity(chosen.solution_.l2)
    np.testing.assert_allclose(chosen.fidelity_, own, rtol=1e-4)
    assert all(own >= fidelity(chosen.solution_.l2 * factor) for factor in (0.1, 10.0))


def test_a_poor_surrogate_is_refused_by_its_number():
    _, run, _, _ = case("lightgbm", "logistic")
    with pytest.raises(UnsupportedModelError, match=r"at least 50%.*explains [0-9.]+%"):
        TREX(l2=1e4).fit(run)
    assert TREX(l2=1e4, min_fidelity=0).fit(run).fidelity_ < 0.1


def test_a_model_of_one_score_is_refused():
    import lightgbm

    X, y = np.ones((30, 2)), np.random.default_rng(0).normal(size=30)
    model = lightgbm.LGBMRegressor(n_estimators=2, verbose=-1, n_jobs=1).fit(X, y)
    with pytest.raises(UnsupportedModelError, match="scores differ"):
        TREX(min_fidelity=-1).fit(model, X, y)


def test_what_it_was_shown_the_predictions_it_matches():
    _, run, _, _ = case("catboost", "logistic")
    assert TREX(target="predicted").fit(run).fidelity_ > 0.98


def test_other_labels_move_the_shares():
    fitted, run, _, start = case("lightgbm", "squared")
    estimator, rows = TREX("leaf_path").fit(run), [2, 9]
    change = Relabelled(rows, fitted.y[rows] + 0.5)
    found = estimator.predict(change, fitted.X_test, fitted.y_test)
    phi, phi_test = explicit("lightgbm", fitted, "leaf_path")
    l2, share = estimator.solution_.l2, fitted.weight / fitted.weight.sum()
    w = representer.fitted("squared", phi, fitted.y, fitted.weight, start, l2)
    before = (start + phi_test @ w)[:, 0]
    after = before + (share[rows] * 0.5 / (2 * l2)) @ (phi[rows] @ phi_test.T)
    losses = [0.5 * (score - fitted.y_test) ** 2 for score in (before, after)]
    np.testing.assert_allclose(found, losses[1] - losses[0], atol=1e-5)


def test_forests_have_a_surrogate():
    X, score, X_test, _ = models.make_data("squared", n_train=120)
    y = np.digitize(score, [-0.6, 0.6])
    model = ensemble.RandomForestClassifier(20, min_samples_leaf=5, random_state=0).fit(X, y)
    estimator = TREX(target="predicted").fit(model, X, y)
    said = estimator.scores(estimator.run_.queries(X, y)).argmax(axis=1)
    assert (said == model.predict(X)).mean() > 0.9
    regression = ensemble.ExtraTreesRegressor(20, min_samples_leaf=5, random_state=0).fit(X, score)
    estimator = TREX().fit(regression, X, score)
    said = estimator.scores(estimator.run_.queries(X_test, np.zeros(6)))[:, 0]
    assert np.corrcoef(said, regression.predict(X_test))[0, 1] > 0.9


def test_what_cannot_be_answered():
    from lightgbm import LGBMRegressor

    X, y, _, _ = models.make_data("squared")
    model = LGBMRegressor(objective="quantile", n_estimators=3, verbose=-1).fit(X, y)
    with pytest.raises(UnsupportedModelError, match="derivatives"):
        TREX().fit(model, X, y)
    with pytest.raises(InputError, match="actual"):
        TREX(target="guessed")
    for wrong in (0.0, "a"):
        with pytest.raises(InputError, match="positive"):
            TREX(l2=wrong)
    with pytest.raises(InputError, match="min_fidelity"):
        TREX(min_fidelity=None)
