"""LeafRefit against brute force: refits by loops, and by the libraries themselves."""

import tracemalloc
from dataclasses import replace

import joblib
import lightgbm
import numpy as np
import pytest

from influence import Relabelled, Reordered, Reweighted, Without, leave_one_out
from influence.errors import UnsupportedChangeError, UnsupportedModelError
from tests.reference import boosting
from tests.reference.fast_boosting import FixedTrees
from tests.reference.loss_values import RowLoss, logistic
from tests.tree_influence import models
from tests.tree_influence.adapters import catboost_oracle
from tests.tree_influence.synthetic import CASES, as_run, random_boosting
from tree_influence import LeafInfluence, retrainer, trace
from tree_influence.leaf_refit import LeafRefit

MODELS = [(library, task) for library in models.LIBRARIES for task in models.TASKS]
MULTIPLIERS = np.array([0.0, 0.4, 1.7, 3.0])


def changes(target, n_classes):
    """Changes of a training set, with the multipliers and targets they lead to."""
    n_train = len(target)
    rows = np.arange(0, n_train, 4)
    new = target[rows] * 0.5 + 1 if n_classes is None else (target[rows] + 1) % n_classes
    ones, relabelled = np.ones(n_train), target.copy()
    relabelled[rows] = new
    some = np.resize(MULTIPLIERS, n_train)
    return {
        "a row": (Without([3]), ones - (np.arange(n_train) == 3), target),
        "a set": (Without(rows), ones - np.isin(np.arange(n_train), rows), target),
        "weights": (Reweighted(some), some, target),
        "labels": (Relabelled(rows, new), ones, relabelled),
    }  # fmt: skip


def nothing(run):
    """Ways to change nothing."""
    return Without([]), Reweighted(np.ones(run.n_train)), Relabelled([1, 2], run.y[[1, 2]])


def close(ours, oracle, tolerance):
    """Largest difference over largest value."""
    gap = np.abs(ours - oracle).max() / np.abs(oracle).max()
    assert gap <= tolerance, f"off by {gap:.2g} of the largest effect"


def n_classes(case):
    numbers = CASES[case].loss in ("squared", "poisson", "gamma")
    return None if numbers else max(2, CASES[case].n_outputs)


@pytest.mark.parametrize("stored", [False, True], ids=["exact", "stored"])
@pytest.mark.parametrize("case", CASES)
def test_effects_are_those_of_the_refit_by_loops(case, stored):
    described, weight, query_leaves, query_target = random_boosting(case)
    values = boosting.refit(described, weight)
    if stored:  # leaves that follow no formula
        values += 0.05 * np.random.default_rng(0).normal(size=values.shape)
    run, queries = as_run(described, weight, query_leaves, query_target, values)
    assert (run.replay.error.largest > 1e-3) == stored
    effects = LeafRefit().fit(run)._effects(queries)
    base = boosting.losses_at(described, values, query_leaves, query_target)
    for change, multipliers, target in changes(described.target, n_classes(case)).values():
        moved = replace(described, target=target)
        refit = boosting.refit_stored(described, weight, values, moved, multipliers * weight)
        after = boosting.losses_at(described, refit, query_leaves, query_target)
        close(effects(change), after - base, 1e-10)
    for change in nothing(run):
        np.testing.assert_array_equal(effects(change), 0.0)


@pytest.mark.parametrize("l2", [0.0, 0.7])
def test_a_leaf_that_loses_all_its_rows_is_0(l2):
    described, weight, query_leaves, query_target = random_boosting("logistic")
    described.l2[:] = l2
    query_leaves[1:] = described.leaves[1:, :, :5]
    run, queries = as_run(described, weight, query_leaves, query_target)
    rows = np.flatnonzero(described.leaves[0, 0] == query_leaves[0, 0, 0])
    left = np.delete(weight, rows)
    fewer = replace(
        described, leaves=np.delete(described.leaves, rows, axis=2),
        target=np.delete(described.target, rows), offset=np.zeros((len(left), 1)),
    )  # fmt: skip
    assert boosting.refit(fewer, left)[0, 0, query_leaves[0, 0, 0], 0] == 0.0
    expected = boosting.query_losses(fewer, left, query_leaves, query_target)
    expected -= boosting.query_losses(described, weight, query_leaves, query_target)
    close(LeafRefit().fit(run)._effects(queries)(Without(rows)), expected, 1e-10)


@pytest.fixture(scope="module", params=MODELS, ids=lambda case: " ".join(case))
def model(request):
    library, task = request.param
    fitted = models.fit(library, task)
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    return library, task, fitted, run, LeafRefit().fit(run)


def test_effects_on_real_models_are_those_of_the_refit_by_loops(model):
    library, task, fitted, _, estimator = model
    described, query_leaves = models.describe(library, task, fitted)
    asked = fitted.X_test, fitted.y_test

    def losses(multipliers, target):
        moved = replace(described, target=target)
        weight = multipliers * fitted.weight
        return boosting.query_losses(moved, weight, query_leaves, fitted.y_test)

    base = losses(np.ones(len(fitted.y)), described.target)
    classes = {"squared": None, "logistic": 2, "softmax": models.N_CLASSES}[task]
    for change, multipliers, target in changes(described.target, classes).values():
        close(estimator.predict(change, *asked), losses(multipliers, target) - base, 1e-6)


def test_every_row_by_itself_is_what_explain_says(model):
    _, _, fitted, run, estimator = model
    asked = fitted.X_test, fitted.y_test
    queries = run.queries(*asked)
    np.testing.assert_allclose(estimator._effects(queries).base, run.losses(queries), rtol=1e-5)
    values = estimator.explain(*asked, progress=False).values
    alone = [estimator.predict(change, *asked) for change in leave_one_out(run.n_train)]
    np.testing.assert_array_equal(values, alone)
    rows = np.arange(0, run.n_train, 2)
    together, summed = estimator.predict(Without(rows), *asked), values[rows].sum(axis=0)
    assert np.abs(together - summed).max() > 0.03 * np.abs(together).max(), "nothing interacts"


def test_small_changes_of_weight_have_the_effect_the_derivative_says(model):
    _, _, fitted, run, estimator = model
    asked = fitted.X_test, fitted.y_test
    derivative = LeafInfluence().fit(run).explain(*asked).values
    for row in (0, 11):
        ends = []
        for step in (1e-4, -1e-4):
            multipliers = np.ones(run.n_train)
            multipliers[row] += step
            ends.append(estimator.predict(Reweighted(multipliers), *asked))
        np.testing.assert_allclose(
            (ends[1] - ends[0]) / 2e-4, derivative[row], rtol=1e-5,
            atol=1e-7 * np.abs(derivative).max(),
        )  # fmt: skip


@pytest.mark.parametrize("task", models.TASKS)
@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_where_splits_cannot_move_retraining_has_the_same_effect(library, task):
    """The libraries' own word: one binary feature, and a start that does not move."""
    rng = np.random.default_rng(0)
    X = np.repeat([[0.0], [1.0]], 30, axis=0)
    shares = {"logistic": [[0.8, 0.2], [0.2, 0.8]], "softmax": [[0.5, 0.4, 0.1], [0.1, 0.1, 0.8]]}
    if task == "squared":
        y = X[:, 0] + rng.normal(size=60)
    else:
        y = np.concatenate([rng.choice(len(p), 30, p=p) for p in shares[task]])
    weight = rng.uniform(0.5, 1.5, 60)
    kept = {"boost_from_average": False} if library == "lightgbm" else {}
    model = models.make(library, task, 4).set_params(**kept).fit(X, y, sample_weight=weight)
    run = trace(model, X, y, weight)
    asked = np.array([[0.0], [1.0], [1.0]]), y[[1, 40, 2]]
    estimator, retrain = LeafRefit().fit(run), retrainer(run, *asked)
    for change, _, _ in changes(y, {"squared": None, "logistic": 2, "softmax": 3}[task]).values():
        close(estimator.predict(change, *asked), retrain(change), 2e-5)


def test_bagged_leaves_move_by_what_the_formula_moves():
    X, y, X_test, y_test = models.make_data("squared", n_train=200)
    model = models.make("lightgbm", "squared", 4)
    model.set_params(subsample=0.9, subsample_freq=1, boost_from_average=False).fit(X, y)
    run = trace(model, X, y)
    estimator = LeafRefit().fit(run)
    for change in nothing(run):
        np.testing.assert_array_equal(estimator.predict(change, X_test, y_test), 0.0)

    leaves = run.leaves.astype(int)
    stored = np.zeros((4, leaves.max() + 1))
    for t in range(4):
        values = model.booster_.dump_model()["tree_info"][t]["tree_structure"]
        stored[t, : run.adapter.ensemble.leaf_counts[t]] = _leaf_values(values)

    def values(weight, settle):
        """Squared error by hand: eta times the shrunken mean residual, tree after tree."""
        score, out = np.zeros(200), []
        for t in range(4):
            total = np.bincount(leaves[t], weight * (y.astype(np.float32) - score), stored.shape[1])
            found = (
                models.ETA * total / (np.bincount(leaves[t], weight, stored.shape[1]) + models.L2)
            )
            out.append(settle(t, found))
            score = score + out[-1][leaves[t]]
        return out

    formula = []
    values(np.ones(200), lambda t, found: formula.append(found) or stored[t])
    weight = np.ones(200)
    weight[:7] = 0.0
    moved = values(weight, lambda t, found: stored[t] + found - formula[t])
    asked = run.queries(X_test, y_test).leaves
    before, after = (
        0.5 * (sum(leaf[t][asked[t]] for t in range(4)) - y_test) ** 2 for leaf in (stored, moved)
    )
    close(estimator.predict(Without(range(7)), X_test, y_test), after - before, 1e-6)


def _leaf_values(node):
    """Leaf values by LightGBM's own leaf number."""
    found, waiting = {}, [node]
    while waiting:
        node = waiting.pop()
        if "leaf_value" in node:
            found[node["leaf_index"]] = node["leaf_value"]
        else:
            waiting += [node["left_child"], node["right_child"]]
    return [found[leaf] for leaf in range(len(found))]


def test_steps_that_catboost_refused_stay_refused():
    """Its Logloss takes ten Newton steps a tree and goes back on some."""
    X, y = catboost_oracle.rows(0, 300, "binary", missing=0)
    params = {"leaf_estimation_iterations": 10, "learning_rate": 0.1, "depth": 3}
    model = catboost_oracle.trained(X, y, iterations=30, **params)
    run = trace(model, X, y)
    recipe = run.replay.recipe
    assert recipe.taken is not None and (recipe.taken == 0).any(), "every step taken: no test"
    oracle = FixedTrees(
        loss=RowLoss(logistic), leaves=run.leaves.astype(int), rate=recipe.learning_rate,
        l2=recipe.l2.reshape(30, 8, 1), start=np.zeros((300, 1)), target=run.target,
        taken=recipe.taken,
    )  # fmt: skip
    left = np.ones(300)
    left[:9] = 0.0
    before, after = (
        logistic(oracle.target, oracle.raw(weight, oracle.leaves, oracle.start))
        for weight in (np.ones(300), left)
    )
    close(LeafRefit().fit(run).predict(Without(range(9)), X, y), np.real(after - before), 1e-6)


@pytest.mark.parametrize("weights", [{"class_weight": {0: 1.0, 1: 3.0}}, {"scale_pos_weight": 3.0}])
def test_the_weight_follows_the_label(weights):
    """Every value of the only column has a leaf of its own, so that no split can move."""
    X, y, X_test, y_test = models.make_data("logistic")
    X, X_test = np.round(X[:, :1]), np.round(X_test[:, :1])
    settings = {
        "n_estimators": 4, "min_child_samples": 1, "min_child_weight": 0.0, "min_data_in_bin": 1,
        "boost_from_average": False, "verbose": -1, "n_jobs": 1, **weights,
    }  # fmt: skip
    model = lightgbm.LGBMClassifier(**settings).fit(X, y)
    rows = [0, 5, 6]
    run = trace(model, X, y)
    change = Relabelled(rows, 1 - y[rows])
    real = retrainer(run, X_test, y_test)(change)
    assert np.abs(real).max() > 0.01
    close(LeafRefit().fit(run).predict(change, X_test, y_test), real, 1e-6)


def test_self_influence_holds_no_matrix_of_rows_by_rows():
    X, y, _, _ = models.make_data("squared", n_train=600)
    estimator = LeafRefit().fit(models.make("lightgbm", "squared", 2).fit(X, y), X, y)
    expected = np.diagonal(estimator.explain(X, y, progress=False).values)
    tracemalloc.start()
    found = estimator.self_influence(progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, expected)
    assert peak < 8 * 600**2 / 2


def test_threads_change_no_bit():
    fitted = models.fit("xgboost", "logistic")
    estimator = LeafRefit().fit(fitted.model, fitted.X, fitted.y, fitted.weight)
    one = estimator.explain(fitted.X_test, fitted.y_test, n_jobs=1, progress=False).values
    with joblib.parallel_config("threading"):
        two = estimator.explain(fitted.X_test, fitted.y_test, n_jobs=2, progress=False).values
    np.testing.assert_array_equal(one, two)


def test_what_cannot_be_answered_is_refused():
    X, y, X_test, y_test = models.make_data("squared")
    fitted = models.fit("lightgbm", "squared")
    estimator = LeafRefit().fit(fitted.model, fitted.X, fitted.y, fitted.weight)
    with pytest.raises(UnsupportedChangeError, match="Without, Reweighted and Relabelled"):
        estimator.predict(Reordered([0, 1]), X_test, y_test)
    by_quantiles = lightgbm.LGBMRegressor(objective="l1", n_estimators=2, verbose=-1).fit(X, y)
    with pytest.raises(UnsupportedModelError, match="quantiles"):
        LeafRefit().fit(by_quantiles, X, y)
